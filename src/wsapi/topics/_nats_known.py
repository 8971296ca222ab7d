"""What a process knows of a NATS stream, and of the topics that it follows: no I/O."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from ._nats_stream import Stored, Stream, encode, parse_stored
from .bus import Message, Notice, is_transient
from .positions import Position

__all__ = ["Known", "Topic", "message_of"]

logger = logging.getLogger("wsapi.topics")


class Topic:
    """A topic that is followed, and what is known of its messages.

    Those up to ``upto`` (a number of the stream) are all known: none of them is after ``last``.
    ``last`` is None if nothing is known. What lies between ``last`` and ``garbage`` isn't ours.
    ``before`` is what was known before a notice came that doesn't follow ``last``.
    ``unlisten(sid)`` ends what follows it, on the last connection that did; None if none did.

    Args:
        name: Its name.
        live: Subject on which its messages come.
        plain: Whether they have no positions.
    """

    __slots__ = (
        "before",
        "garbage",
        "generation",
        "kept",
        "last",
        "live",
        "name",
        "plain",
        "sid",
        "unlisten",
        "upto",
    )

    def __init__(self, name: str, live: str, *, plain: bool) -> None:
        self.name = name
        self.live = live
        self.plain = plain
        self.kept = b""
        self.sid = 0
        self.unlisten: Callable[[int], Awaitable[None]] | None = None
        self.last: int | None = None
        self.upto = 0
        self.before: tuple[int, int] | None = None  # last and upto
        self.garbage = 0
        self.generation = 0

    def rename(self, kept: str) -> None:
        """Forget what is known: a new epoch has begun."""
        self.kept = kept.encode()
        self.last = self.before = None
        self.upto = self.garbage = 0

    def know(self, last: int, upto: int, generation: int) -> None:
        """Note what the server has said since it was connected."""
        if last != self.last:
            self.garbage = 0
        self.last = last
        self.upto = max(last, upto)
        self.generation = generation


class Known:
    """The epoch of the stream, numbers that were seen, and the topics that are followed.

    Args:
        prefix: What all subjects begin with.
        on_doubt: Called when a message seems to be of another epoch.

    Attributes:
        topics: Those that are followed, by their names.
        generation: Which connection this is.
        epoch: The stream's, empty if none is known.
        replicas: How many servers hold the stream.
        direct: Whether each notice comes in order, or the connection ends.
        seen: Number of a message that has been stored, as high as is known.
        seen_time: Number and time of one of the last.
        noticed: Number of the last notice of this connection.
        ignored: How many messages were none of ours.
    """

    def __init__(self, prefix: str, on_doubt: Callable[[], None]) -> None:
        self.prefix = prefix
        self.topics: dict[str, Topic] = {}
        self.generation = 0
        self.epoch = ""
        self.replicas = 1
        self.direct = False
        self.seen = 0
        self.seen_time: tuple[int, bytes] | None = None
        self.noticed = 0
        self.ignored = 0
        self._kept_prefix = ""
        self._on_doubt = on_doubt

    # ------------------------------------------------------------------------------------- subjects

    def live(self, topic: str) -> str:
        """Return the subject on which the messages of a topic come."""
        if is_transient(topic):
            return f"{self.prefix}.t.{encode(topic[1:])}"
        return f"{self.prefix}.l.{encode(topic)}"

    def kept(self, topic: str) -> str:
        """Return the subject on which they are published, and stored."""
        return self._kept_prefix + encode(topic)

    def beats(self, identity: str) -> tuple[str, str]:
        """Return where what a process sends itself comes, and where it is published."""
        return f"{self.prefix}.l.~{identity}", f"{self._kept_prefix}~{identity}"

    # --------------------------------------------------------------------- connections and epochs

    def topic(self, name: str, *, plain: bool) -> Topic:
        """Return what stands for a topic; it isn't followed yet."""
        topic = Topic(name, self.live(name), plain=plain)
        topic.rename(self.kept(name))
        return topic

    def connected(self) -> None:
        """Note that there is a new connection."""
        self.generation += 1
        self.noticed = 0
        self.direct = False

    def lost(self) -> None:
        """Note that it was lost: what came in order up to then is known."""
        if self.direct:
            for topic in self.topics.values():
                if topic.generation == self.generation and topic.last is not None:
                    topic.upto = max(topic.upto, self.noticed)

    def adopt(self, stream: Stream, server: str) -> None:
        """Take over what was said of the stream.

        Args:
            stream: The stream.
            server: Name of the server that this process is connected to.
        """
        self.replicas = stream.replicas
        self.direct = stream.replicas == 1 and stream.leader == server
        if stream.epoch != self.epoch:
            self.epoch = stream.epoch
            self._kept_prefix = f"{self.prefix}.p.{stream.epoch}."
            self.seen = self.noticed = 0
            self.seen_time = None
            for topic in self.topics.values():
                topic.rename(self.kept(topic.name))
        self.seen = max(self.seen, stream.last)

    def is_in_order(self, topic: Topic) -> bool:
        """Tell whether all notices of a topic have come since something was known of it."""
        return self.direct and topic.generation == self.generation

    def upto(self, topic: Topic) -> int:
        """Return up to which number of the stream all messages of a topic are known."""
        if self.is_in_order(topic):
            return max(topic.upto, self.noticed)
        return topic.upto

    # ------------------------------------------------------------------------------------- messages

    def hear(self, stored: Stored) -> None:
        """Note that a message of the stream has come."""
        if stored.sequence > self.noticed:
            self.noticed = stored.sequence
            if stored.sequence > self.seen:
                self.seen = stored.sequence
            self.seen_time = stored.sequence, stored.time

    def take(self, topic: Topic, data: bytes, headers: bytes | None) -> Notice | None:
        """Take what came on the subject of a topic; return the notice of it, if it is one."""
        if topic.plain:
            message = message_of(data)
            if message is None:
                self.ignore(topic.live)
                return None
            return Notice(topic.name, message)
        stored = parse_stored(headers)
        if stored is None:
            self.ignore(topic.live)
            return None
        subject, sequence, time, _, previous = stored
        if subject != topic.kept:
            if subject.startswith(f"{self.prefix}.p.".encode()):
                self._on_doubt()
            else:
                self.ignore(topic.live)
            return None
        self.hear(stored)
        last = topic.last
        if (
            last is not None
            and topic.generation == self.generation
            and ((previous == 0 and self.direct) or previous == topic.garbage != 0)
        ):
            # What was before it isn't there any more, or isn't ours: it follows what we know.
            previous = last
        message = message_of(data)
        if message is None:
            if previous == last:
                topic.garbage = sequence
            self.ignore(topic.live)
            return None
        if last is not None and previous != last and topic.before is None:
            topic.before = last, topic.upto
        topic.last = topic.upto = sequence
        topic.garbage = 0
        topic.generation = self.generation
        return Notice(topic.name, message, Position(self.epoch, sequence), previous, time)

    def ignore(self, subject: str) -> None:
        """Count a message that is none of ours, and tell of the first one."""
        self.ignored += 1
        if self.ignored == 1:
            logger.warning(
                "a message on %s isn't one of topics: all such messages are ignored, and counted"
                " (does another program, or one with other settings, use the prefix %r?)",
                subject,
                self.prefix,
            )


def message_of(data: bytes) -> Message | None:
    """Return the message that was published; None if it is none of ours."""
    kind = data[:1]
    if kind == b"b":
        return data[1:]
    if kind == b"t":
        try:
            return data[1:].decode()
        except UnicodeDecodeError:
            pass
    return None
