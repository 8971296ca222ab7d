"""Which subjects and which stream of a NATS server belong to topics: text in, text out, no I/O.

With the prefix ``wsapi`` and the epoch E, a topic has these subjects::

    wsapi.p.E.TOPIC      where its messages are published; what the stream stores
    wsapi.l.TOPIC        where the stream repeats them for who is there; without history, where they
                         are published
    wsapi.t.TOPIC        messages of transient topics
    wsapi.r.PROCESS.N    answers to a process
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

__all__ = [
    "Stored",
    "Stream",
    "StreamSettings",
    "encode",
    "new_epoch",
    "parse_stored",
    "parse_stream",
]

_SECOND: Final = 10**9
"""JetStream counts nanoseconds."""

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_TOKENS = [chr(byte) if _PLAIN.fullmatch(chr(byte)) else f"={byte:02X}" for byte in range(256)]
# The headers that the server adds to what it repeats; what a publisher has set stands before them.
_STORED = re.compile(
    rb"Nats-Subject: ([^\r\n]*)\r\nNats-Sequence: (\d{1,20})\r\nNats-Time-Stamp: ([^\r\n]*)\r\n"
    rb"(?:Nats-Num-Pending: (\d+)\r\n)?(?:Nats-Last-Sequence: (\d{1,20})\r\n)?\r\n\Z"
)


@lru_cache(4096)
def encode(name: str) -> str:
    """Return a token of a subject that stands for a name, and for no other one.

    Letters, digits, ``-`` and ``_`` of ASCII stay; any other byte of the name's UTF-8 becomes ``=``
    and two hexadecimal digits: at most 765 characters for the longest name.
    """
    if _PLAIN.fullmatch(name):
        return name
    return "".join([_TOKENS[byte] for byte in name.encode()])


class Stored(NamedTuple):
    """What the server says of a message of the stream.

    Args:
        subject: What it was published to.
        sequence: Its number in the stream.
        time: When it was stored, to the nanosecond: what tells it from another message that gets
            the same number after the server has lost some.
        pending: In answers to a request for several messages: how many come after it.
        previous: In what the stream repeats: number of the subject's message before it, 0 if that
            isn't there any more, or never was.
    """

    subject: bytes
    sequence: int
    time: bytes
    pending: int | None
    previous: int


def parse_stored(headers: bytes | None) -> Stored | None:
    """Return what headers say of a message of a stream; None if they say nothing of that kind."""
    found = _STORED.search(headers) if headers else None
    if found is None:
        return None
    subject, sequence, time, pending, previous = found.groups()
    return Stored(
        subject, int(sequence), time, None if pending is None else int(pending), int(previous or 0)
    )


def new_epoch(per_subject: int) -> str:
    """Return the name of a new history, which tells how many messages of a topic it keeps.

    The number at the beginning is what counts: if more are kept later, messages may have been
    dropped before that.
    """
    return f"{secrets.token_hex(8)}n{per_subject}"


class Stream(NamedTuple):
    """What the server says of the stream.

    Args:
        config: Its settings, as the server tells them.
        epoch: The history it holds; empty if its subjects aren't those of topics.
        first: Number of the first message that is still there.
        last: Number of the last message that was stored.
        there: How many messages there are on the subject that was asked for.
        per_subject: Fewest messages of a subject that were kept since the epoch began.
        replicas: How many servers hold it.
        leader: Name of the server that stores messages first; empty if there is none now.
    """

    config: dict[str, Any]
    epoch: str
    first: int
    last: int
    there: int
    per_subject: int
    replicas: int
    leader: str


def parse_stream(answer: Mapping[str, Any], prefix: str) -> Stream:
    """Return what an answer to ``STREAM.INFO``, ``CREATE`` or ``UPDATE`` says.

    Raises:
        KeyError, TypeError, ValueError: If it says something else.
    """
    config, state = answer["config"], answer["state"]
    subjects = config.get("subjects") or []
    ours = re.fullmatch(
        rf"{re.escape(prefix)}\.p\.([0-9a-f]{{16}}n(\d{{1,9}}))\.\*",
        subjects[0] if len(subjects) == 1 else "",
    )
    kept = config.get("max_msgs_per_subject", -1)
    per_subject = min(kept if kept > 0 else 10**9, int(ours[2]) if ours else 0)
    return Stream(
        config,
        ours[1] if ours else "",
        state["first_seq"],
        state["last_seq"],
        sum((state.get("subjects") or {}).values()),
        per_subject,
        config.get("num_replicas", 1),
        (answer.get("cluster") or {}).get("leader", ""),
    )


class StreamSettings(NamedTuple):
    """How a stream shall be.

    Args:
        name: Its name.
        prefix: What its subjects begin with.
        history: Messages that it keeps of a topic.
        seconds: How long it keeps them.
        bytes: How many bytes it keeps of all topics together.
        replicas: How many servers hold it.
        storage: ``"file"`` or ``"memory"``.
    """

    name: str
    prefix: str
    history: int
    seconds: float
    bytes: int
    replicas: int
    storage: str

    @property
    def per_subject(self) -> int:
        """How many messages of a subject the server keeps.

        One more than can be missed: the one that was had tells that nothing is missing after it.
        """
        return self.history + 1

    def begin(self, epoch: str) -> dict[str, Any]:
        """Return the settings that begin an epoch: subjects, and what is repeated where."""
        source = f"{self.prefix}.p.{epoch}.*"
        return {
            "subjects": [source],
            "republish": {"src": source, "dest": f"{self.prefix}.l.{{{{wildcard(1)}}}}"},
        }

    def config(self, epoch: str) -> dict[str, Any]:
        """Return the settings of a new stream.

        Nobody may delete single messages, or those of one topic: nothing would show that they are
        missing. To delete the stream is possible: it comes back with a new epoch.
        """
        return {
            "name": self.name,
            **self.begin(epoch),
            "retention": "limits",
            "discard": "old",
            "storage": self.storage,
            "num_replicas": self.replicas,
            "max_consumers": -1,
            "max_msgs": -1,
            "max_msgs_per_subject": self.per_subject,
            "max_bytes": self.bytes,
            "max_age": int(self.seconds * _SECOND),
            "allow_direct": True,
            "deny_delete": True,
            "deny_purge": True,
        }

    def changes(self, stream: Stream) -> dict[str, Any]:
        """Return what is to be changed of a stream that is there already.

        Limits only grow, since processes with other settings use it, too, and what is dropped is
        gone for all of them.

        Raises:
            ValueError: If it can't become what it shall be; the text says what to do.
        """
        config = stream.config
        wrong = [
            f"{key} is {json.dumps(config.get(key))}"
            for key, good in _FIXED.items()
            if (config.get(key) or None) not in good
        ]
        if config.get("storage") != self.storage:
            wrong.append(f"storage is {config.get('storage')!r}, not {self.storage!r}")
        if not stream.epoch:
            wrong.append(f"its subjects are {json.dumps(config.get('subjects'))}")
        if wrong:
            raise ValueError(
                f"stream {self.name!r} of the NATS server is there already, and can't be used:"
                f" {'; '.join(wrong)}; take another name (stream=), the same settings in all"
                f" processes, or delete it: nats stream rm {self.name}"
            )
        changes: dict[str, Any] = {
            key: value
            for key, value in self.config(stream.epoch).items()
            if key in ("discard", "allow_direct", "deny_delete", "deny_purge")
            and config.get(key) != value
        }
        good = self.begin(stream.epoch)["republish"]
        if config.get("republish") not in (good, {**good, "headers_only": False}):
            changes["republish"] = good
        for key, value in (
            ("max_msgs_per_subject", self.per_subject),
            ("max_age", int(self.seconds * _SECOND)),
            ("max_bytes", self.bytes),
        ):
            # 0 and -1 have no limit.
            if config.get(key, -1) > 0 and not 0 < value <= config[key]:
                changes[key] = value
        if config.get("num_replicas", 1) < self.replicas:
            changes["num_replicas"] = self.replicas
        return changes


# What can't be changed, or would let messages disappear without a trace -> what is good.
_FIXED: Final[dict[str, tuple[Any, ...]]] = {
    "retention": ("limits",),
    "no_ack": (None,),
    "sealed": (None,),
    "mirror": (None,),
    "sources": (None,),
    "subject_transform": (None,),
    "allow_rollup_hdrs": (None,),
    "allow_msg_ttl": (None,),
    "allow_msg_counter": (None,),
}
