"""Connections to Redis, for ``RedisBus``: commands out, replies in, several at a time.

RESP is parsed and written by hiredis. There is no task and no timeout object per message: what
arrives is taken from the callback of the transport, and one timer watches what is under way.
"""

from __future__ import annotations

import asyncio
import binascii
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha1
from typing import Any, Final, TypeAlias, cast

import hiredis

from .exceptions import BusUnavailable, PublishUncertain
from .positions import Position

__all__ = [
    "CHUNK",
    "SLOTS",
    "Argument",
    "Call",
    "Ear",
    "Link",
    "Reply",
    "Script",
    "Topic",
    "Wire",
    "refusal",
]

SLOTS: Final = 16384
"""Hash slots of a cluster."""

CHUNK: Final = 500
"""Channels that one SUBSCRIBE names, and topics that are asked for by one round trip, at most."""

# What a round trip carries at most: messages of a topic (one call of the script), and bytes in all.
_GROUP: Final = 256
_GROUP_BYTES: Final = 2**18
_BATCH_BYTES: Final = 2**22

_MORE: Final = object()
# What nodes of a cluster answer that aren't responsible (any more, or not yet): nothing was done.
_MOVED: Final = ("MOVED", "ASK", "CLUSTERDOWN", "TRYAGAIN")

Argument: TypeAlias = str | bytes
Reply: TypeAlias = Any
"""bytes, int, None, lists of them, or `hiredis.ReplyError`."""

logger = logging.getLogger("wsapi.topics")


class Script:
    """A script, and its name in the broker."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text.encode()
        self.sha = sha1(self.text, usedforsecurity=False).hexdigest().encode()

    def command(self, whole: bool, *rest: Argument) -> bytes:
        """Return a call of the script.

        Args:
            whole: Whether to send its text, since the broker doesn't know its name.
            rest: Keys, which are two, and arguments.
        """
        if whole:
            return packed((b"EVAL", self.text, b"2", *rest))
        return packed((b"EVALSHA", self.sha, b"2", *rest))


def packed(command: tuple[Argument, ...]) -> bytes:
    return cast(bytes, hiredis.pack_command(command))  # type: ignore[arg-type]  # any number


def refusal(error: object) -> BusUnavailable:
    # A command that the broker doesn't know is repeated by it: HELLO and AUTH have passwords.
    text, _, _ = str(error).partition(", with args ")
    return BusUnavailable(f"the broker refuses: {text}")


class Topic:
    """What a process knows of a topic.

    ``epoch`` and ``offset`` are of the last message of which it is sure that it was in the broker.
    """

    __slots__ = (
        "channel",
        "epoch",
        "epoch_name",
        "flying",
        "followed",
        "group",
        "meta",
        "name",
        "offset",
        "slot",
    )

    def __init__(self, name: str, prefix: str) -> None:
        self.name = name
        # A hash tag ends with the first brace.
        tag = name.replace("%", "%25").replace("}", "%7D")
        self.channel = f"{prefix}:{{{tag}}}".encode()  # and the stream
        self.slot = binascii.crc_hqx(tag.encode(), 0) % SLOTS
        self.meta = self.channel + b":meta"
        self.epoch = b""
        self.epoch_name = ""
        self.offset = 0
        self.group: Group | None = None  # that takes messages
        self.flying: Link | None = None  # that has a group under way
        self.followed = False

    def saw(self, epoch: bytes, offset: int) -> None:
        """Note an offset that the broker told."""
        if epoch != self.epoch:
            self.epoch = epoch
            self.epoch_name = epoch.decode("ascii", "replace")
            self.offset = offset
        elif offset > self.offset:
            self.offset = offset


class Ask:
    """What waits for the broker's answer."""

    __slots__ = ("size", "topic")

    size: int
    topic: Topic | None

    def pack(self) -> bytes:
        """Return what is to be sent; nothing if nobody waits any more."""
        raise NotImplementedError

    def answer(self, reply: Reply) -> bool:
        """Take the reply; return whether to ask again."""
        raise NotImplementedError

    def fail(self, reason: str, sent: bool) -> None:
        """Say that there will be no answer."""
        raise NotImplementedError


class Call(Ask):
    """A command, or a call of a script that may be repeated."""

    __slots__ = ("arguments", "future", "script", "uncertain", "whole")

    def __init__(
        self,
        future: asyncio.Future[Any],
        arguments: tuple[Argument, ...],
        *,
        script: Script | None = None,
        uncertain: bool = False,
    ) -> None:
        self.future = future
        self.arguments = arguments
        self.script = script
        self.uncertain = uncertain
        self.whole = False
        self.topic = None
        self.size = 64 + sum(map(len, arguments))

    def pack(self) -> bytes:
        if self.future.done():
            return b""
        if self.script is None:
            return packed(self.arguments)
        return self.script.command(self.whole, *self.arguments)

    def answer(self, reply: Reply) -> bool:
        if self.future.done():
            return False
        if not isinstance(reply, hiredis.ReplyError):
            self.future.set_result(reply)
        elif not self.whole and str(reply).startswith("NOSCRIPT"):
            self.whole = True
            return True
        else:
            self.future.set_exception(refusal(reply))
        return False

    def fail(self, reason: str, sent: bool) -> None:
        if not self.future.done():
            error = PublishUncertain if sent and self.uncertain else BusUnavailable
            self.future.set_exception(error(reason))


class Group(Ask):
    """Messages of one topic that are published by one call of the script: all, or none."""

    __slots__ = ("entries", "link", "whole")

    topic: Topic

    def __init__(self, link: Link, topic: Topic) -> None:
        self.link = link
        self.topic = topic
        # Who waits for the position, kind, message.
        self.entries: list[tuple[asyncio.Future[Position], bytes, bytes]] = []
        self.size = 0
        self.whole = False

    def pack(self) -> bytes:
        # What was cancelled before it was sent isn't published.
        entries = self.entries = [entry for entry in self.entries if not entry[0].done()]
        if not entries:
            return b""
        link, topic = self.link, self.topic
        return link.publishing.command(
            self.whole,
            topic.meta,
            topic.channel,
            link.run,
            link.token,
            b"%d" % next(link.marks),
            b"".join([entry[1] for entry in entries]),
            *[entry[2] for entry in entries],
        )

    def answer(self, reply: Reply) -> bool:
        if isinstance(reply, hiredis.ReplyError):
            if not self.whole and str(reply).startswith("NOSCRIPT"):
                self.whole = True
                return True
            for future, _, _ in self.entries:
                if not future.done():
                    future.set_exception(refusal(reply))
            return False
        epoch, last = reply
        topic = self.topic
        topic.saw(epoch, last)
        name = topic.epoch_name
        offset = last - len(self.entries)
        for future, _, _ in self.entries:
            offset += 1
            if not future.done():
                future.set_result(Position(name, offset))
        return False

    def fail(self, reason: str, sent: bool) -> None:
        error = PublishUncertain if sent else BusUnavailable
        for future, _, _ in self.entries:
            if not future.done():
                future.set_exception(error(reason))


class Wire(asyncio.Protocol):
    """A connection to the broker: commands go out, replies are given to ``take``.

    Made by ``_connect()``. It has no task: replies are taken as they arrive, all that came with one
    read of the socket at once.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.lost: asyncio.Future[str] = loop.create_future()  # why
        self.ended = asyncio.Event()  # all who waited are told
        self.transport: asyncio.Transport
        self._reader = hiredis.Reader(notEnoughData=_MORE)
        self._asked: deque[asyncio.Future[Reply]] = deque()
        self._reason = "the broker closed the connection"
        self.take: Callable[[Reply], None] = self._answer
        self.moved: Callable[[], None] | None = None  # called when another node is responsible

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        reader, take = self._reader, self.take
        try:
            reader.feed(data)
            gets = reader.gets
            while (reply := gets()) is not _MORE:
                take(reply)
        except Exception as error:
            # Whatever is wrong, with the broker or with us: a new connection, and what was missed
            # is read again. A reader that ended in silence would be worse.
            logger.exception("giving up a connection to the broker")
            self.abort(f"{type(error).__name__}: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._reason = f"connection to the broker lost: {exc}"
        if not self.lost.done():
            self.lost.set_result(self._reason)
        for future in self._asked:
            if not future.done():
                future.set_exception(BusUnavailable(self._reason))
        self._asked.clear()
        self.ended.set()

    def abort(self, reason: str) -> None:
        """End the connection without waiting."""
        if not self.lost.done():
            self._reason = reason
            self.lost.set_result(reason)
            self.transport.abort()

    async def ask(self, commands: Iterable[tuple[Argument, ...]]) -> list[Reply]:
        """Return the replies to some commands; for the beginning of the connection."""
        futures: list[asyncio.Future[Reply]] = []
        sent = []
        for command in commands:
            futures.append(self.loop.create_future())
            sent.append(packed(command))
        if self.lost.done():
            raise BusUnavailable(self.lost.result())
        self._asked.extend(futures)
        self.transport.write(b"".join(sent))
        replies = await asyncio.gather(*futures, return_exceptions=True)
        for reply in replies:
            if isinstance(reply, BusUnavailable):
                raise reply
        return replies

    def look_at(self, error: hiredis.ReplyError) -> None:
        """Tell if an error says that another node is responsible."""
        text = str(error)
        if text.startswith("READONLY"):
            # It became a replica: the name in the URL may lead to the new master by now.
            self.abort(f"the broker refuses: {text}")
        elif self.moved is not None and text.startswith(_MOVED):
            self.moved()

    def _answer(self, reply: Reply) -> None:
        if isinstance(reply, hiredis.PushNotification):
            return  # it may come between answers, and is none
        if self._asked:
            future = self._asked.popleft()
            if not future.done():
                future.set_result(reply)
        else:
            raise ValueError(f"a reply that nobody asked for: {reply!r:.100}")


class Link(Wire):
    """The connection for commands. What is asked while an answer is awaited goes together, next.

    Args:
        loop: The event loop.
        publishing: Script for messages.
        token: What new epochs begin with.
        marks: Numbers that tell messages from others with their positions.
        timeout: Seconds in which an answer must come.
        max_bytes: Bytes that may wait for it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        publishing: Script,
        token: bytes,
        marks: Iterator[int],
        timeout: float,
        max_bytes: int,
    ) -> None:
        super().__init__(loop)
        self.run = b""  # of the broker
        self.id = 0  # of the connection, at the broker
        self.publishing = publishing
        self.token = token
        self.marks = marks
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._bytes = 0  # of the two below
        self._queue: list[Ask] = []
        self._flying: deque[Ask] = deque()
        self._again: list[Ask] = []
        self._queued_at = 0.0  # the oldest of _queue
        self._deadline = 0.0  # of _flying
        self._timer: asyncio.TimerHandle | None = None
        self._flush_set = False

    def start(self) -> None:
        """Take asks from now on."""
        self.take = self._take

    def room(self, size: int) -> None:
        """Raise ``BusUnavailable`` if there is none for so many bytes of messages."""
        if size and self._bytes and self._bytes + size > self._max_bytes:
            raise BusUnavailable(f"{self._bytes} bytes wait for the broker already")
        if self.lost.done():
            raise BusUnavailable(self.lost.result())

    def publish(self, topic: Topic, kind: bytes, message: bytes) -> asyncio.Future[Position]:
        """Publish a message with the next round trip; return what is done with its position.

        Raises:
            BusUnavailable: If there is no room for it.
        """
        size = len(message) + 64
        self.room(size)
        self._bytes += size
        group = topic.group
        if (
            group is None
            or group.link is not self  # the topic has moved since
            or len(group.entries) >= _GROUP
            or group.size + size > _GROUP_BYTES
        ):
            group = topic.group = Group(self, topic)
            self._enqueue(group)
        group.size += size
        future: asyncio.Future[Position] = self.loop.create_future()
        group.entries.append((future, kind, message))
        return future

    def call(self, call: Call) -> None:
        """Send a command with the next round trip.

        Raises:
            BusUnavailable: If the connection is lost, or there is no room for a message.
        """
        self.room(call.size if call.uncertain else 0)
        self._bytes += call.size
        self._enqueue(call)

    def _enqueue(self, ask: Ask) -> None:
        if not self._queue:
            self._queued_at = self.loop.time()
            if not self._flying and not self._flush_set:
                # What is asked in this turn of the loop goes with it.
                self._flush_set = True
                self.loop.call_soon(self._flush)
        self._queue.append(ask)

    def _flush(self) -> None:
        self._flush_set = False
        if self.lost.done():
            return
        queue, kept = self._queue, []
        packed: list[bytes] = []
        size = 0
        flying = self._flying
        for ask in queue:
            topic = ask.topic
            # One group of a topic at a time: if the broker has forgotten the script, it is sent
            # again, and nothing of the topic may have overtaken it. What is under way to a node
            # that the topic has left doesn't count: its answer would have this one wait on.
            if size >= _BATCH_BYTES or (topic is not None and topic.flying is self):
                kept.append(ask)
                continue
            if topic is not None and topic.group is ask:
                topic.group = None
            command = ask.pack()
            if not command:
                self._bytes -= ask.size
                continue
            if topic is not None:
                topic.flying = self
            size += len(command)
            packed.append(command)
            flying.append(ask)
        self._queue = kept
        if packed:
            self._deadline = self._queued_at + self._timeout
            if not kept:
                self._queued_at = self.loop.time()
            if self._timer is None:
                self._timer = self.loop.call_at(self._deadline, self._watch)
            self.transport.write(packed[0] if len(packed) == 1 else b"".join(packed))

    def _watch(self) -> None:
        # One timer for all: it looks when the first could be late, then when the next one could.
        self._timer = None
        if self._flying:
            if self.loop.time() >= self._deadline:
                self.abort(f"the broker didn't answer within {self._timeout} seconds")
            else:
                self._timer = self.loop.call_at(self._deadline, self._watch)

    def _take(self, reply: Reply) -> None:
        if isinstance(reply, hiredis.PushNotification):
            return  # it may come between answers, and is none
        flying = self._flying
        if not flying:
            raise ValueError(f"a reply that nobody asked for: {reply!r:.100}")
        if isinstance(reply, hiredis.ReplyError):
            self.look_at(reply)
        ask = flying[0]
        if ask.answer(reply):
            self._again.append(ask)
        else:
            self._bytes -= ask.size
        flying.popleft()
        if ask.topic is not None and ask.topic.flying is self:
            ask.topic.flying = None
        if not flying:
            if self._again:
                self._queue[:0] = self._again
                self._again.clear()
            if self._queue:
                self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        reason = self.lost.result()
        for sent, asks in ((True, self._flying), (False, self._again), (False, self._queue)):
            for ask in asks:
                topic = ask.topic
                if topic is not None:
                    if topic.flying is self:
                        topic.flying = None
                    if topic.group is ask:
                        topic.group = None
                ask.fail(reason, sent)
        self._queue.clear()
        self._again.clear()
        self._bytes = 0


class Ear(Wire):
    """The connection that brings what is published.

    Args:
        loop: The event loop.
        hear: Called with channel and message.
        sharded: Whether to use sharded Pub/Sub.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        hear: Callable[[bytes, bytes], None],
        *,
        sharded: bool,
    ) -> None:
        super().__init__(loop)
        self._hear = hear
        self.chunk = CHUNK  # channels that one command names
        s = b"s" if sharded else b""
        self._verbs = {True: s + b"SUBSCRIBE", False: s + b"UNSUBSCRIBE"}
        self._message = s + b"message"
        self._confirmations = (s + b"subscribe", s + b"unsubscribe")
        # Commands that aren't confirmed yet: who waits, and for how many channels.
        self._commands: deque[tuple[list[asyncio.Future[None]], int]] = deque()
        self._left = 0  # of the first one
        self._wanted: list[tuple[bool, bytes, asyncio.Future[None] | None]] = []

    def start(self) -> None:
        """Take what is published from now on."""
        self.take = self._take

    def want(self, subscribe: bool, channel: bytes) -> asyncio.Future[None] | None:
        """Subscribe to a channel, or leave it, at the end of this turn of the loop.

        Returns:
            What is done when the broker has confirmed a subscription.
        """
        if self.lost.done():
            raise BusUnavailable(self.lost.result())
        if not self._wanted:
            self.loop.call_soon(self._flush)
        future = self.loop.create_future() if subscribe else None
        self._wanted.append((subscribe, channel, future))
        return future

    def _flush(self) -> None:
        wanted, self._wanted = self._wanted, []
        for subscribe, group in itertools.groupby(wanted, key=lambda item: item[0]):
            of_one_verb = list(group)
            for start in range(0, len(of_one_verb), self.chunk):
                chunk = of_one_verb[start : start + self.chunk]
                futures = [item[2] for item in chunk if item[2] is not None]
                self.send(subscribe, [item[1] for item in chunk], futures)

    def send(
        self, subscribe: bool, channels: list[bytes], futures: list[asyncio.Future[None]]
    ) -> None:
        """Send a command for some channels; the futures are done when all are confirmed."""
        if self.lost.done():
            self._fail(futures)
            return
        if not self._commands:
            self._left = len(channels)
        self._commands.append((futures, len(channels)))
        self.transport.write(packed((self._verbs[subscribe], *channels)))

    def _take(self, reply: Reply) -> None:
        if isinstance(reply, list):
            word = reply[0]
            if word == self._message:
                self._hear(reply[1], reply[2])
            elif word in self._confirmations:
                self._confirmed(None)
        elif isinstance(reply, hiredis.ReplyError):
            self.look_at(reply)
            self._confirmed(reply)

    def _confirmed(self, error: hiredis.ReplyError | None) -> None:
        if not self._commands:
            # Nobody asked: the broker says why it closes, or a channel moved to another node.
            if self.moved is not None:
                self.moved()
            self.abort(f"the broker ended a subscription: {error or 'it moved'}")
            return
        self._left -= 1
        if error is None and self._left:
            return
        futures, _ = self._commands.popleft()
        if self._commands:
            self._left = self._commands[0][1]
        for future in futures:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(refusal(error))

    def _fail(self, futures: list[asyncio.Future[None]]) -> None:
        for future in futures:
            if not future.done():
                future.set_exception(BusUnavailable(self.lost.result()))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for futures, _ in self._commands:
            self._fail(futures)
        self._commands.clear()
