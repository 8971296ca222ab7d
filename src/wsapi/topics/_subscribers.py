"""Subscribers and topics of a process: where they are, and what front-ends are told of them.

Nothing here decides: ``Core`` does.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from wsproto_fast import Backpressure, PreparedMessage

from ._history import Entry, Ring
from ._requests import Read, Request
from .bus import Notice
from .positions import Position

__all__ = [
    "Counters",
    "Event",
    "Happening",
    "Sink",
    "State",
    "Status",
    "Step",
    "Subscriber",
    "Topic",
    "Wait",
]


class Sink(Protocol):
    """What takes the messages of a subscriber."""

    def broadcast(
        self, message: PreparedMessage, compress: bool | None, terms: Backpressure
    ) -> bool:
        """Take a message without waiting; return whether there is nothing to tell."""


class Status(enum.Enum):
    """Where a topic is."""

    FOLLOWING = enum.auto()  # its Follow is under way
    LIVE = enum.auto()  # notices are delivered as they come
    FILLING = enum.auto()  # they are held until what is before them was read
    UNFOLLOWING = enum.auto()  # its Unfollow is under way


class State(enum.Enum):
    """Where a subscriber is."""

    FRESH = enum.auto()  # it begins wherever its topic is
    SINCE = enum.auto()  # whether its position can be gone on from isn't known
    CATCHING_UP = enum.auto()  # it is behind its topic, or has to be brought to where that is
    LIVE = enum.auto()  # it gets messages as they come
    FAILED = enum.auto()  # ``error`` says why
    GONE = enum.auto()


class Step(enum.Enum):
    """What a subscriber that isn't live has to do, if it isn't to send messages."""

    WAIT = enum.auto()  # until there is an event READY
    KNOWN = enum.auto()  # ``recovered`` and ``position`` are known, and nothing was sent yet
    LIVE = enum.auto()  # it gets messages from now on
    GAP = enum.auto()  # what follows its position is lost; now it is where its topic is


class Happening(enum.Enum):
    """What a front-end is told of."""

    READY = enum.auto()  # the subscriber can be advanced
    GAP = enum.auto()  # messages were lost; it was live, and isn't until it is advanced
    CLOSE = enum.auto()  # there was trouble, for which all subscribers are to be closed
    REFUSED = enum.auto()  # its sink returned False, or raised ``reason``
    ENVELOPE = enum.auto()  # the envelope of a message raised ``reason``; no subscriber


class Event(NamedTuple):
    """What a front-end is told of.

    Args:
        happening: What it is.
        subscriber: Who is concerned.
        reason: Exception.
    """

    happening: Happening
    subscriber: Subscriber | None = None
    reason: Exception | None = None


class Wait(enum.Enum):
    """What a subscriber waits for."""

    FOLLOW = enum.auto()
    READ = enum.auto()
    AHEAD = enum.auto()


class Subscriber:
    """Whoever gets the messages of a topic.

    Args:
        sink: What takes them.
        compress: As for ``send``.
        terms: What becomes of them while the peer doesn't read.

    Attributes:
        recovered: Whether all messages after the position that it came with are sent; None if it
            came with none, or that isn't known.
        state: How far it is in getting what it has missed.
        error: Why it failed.
    """

    __slots__ = (
        "_latest",
        "_lost",
        "_page",
        "_position",
        "_topic",
        "_waiting",
        "compress",
        "error",
        "recovered",
        "sink",
        "state",
        "terms",
    )

    def __init__(self, sink: Sink, compress: bool | None, terms: Backpressure) -> None:
        self.sink = sink
        self.compress = compress
        self.terms = terms
        self.state = State.GONE
        self.recovered: bool | None = None
        self.error: Exception | None = None
        self._topic: Topic | None = None
        self._position: Position | None = None
        self._page: list[Entry] | None = None  # what was read for it; empty if nothing is missing
        self._lost = False  # what follows its position can't be read
        self._latest: Position | None = None  # where the bus was when it said so
        self._waiting: Wait | None = None

    @property
    def position(self) -> Position | None:
        """Position of its last message, or of the last one before it subscribed."""
        if self.state is State.LIVE:
            assert self._topic is not None
            return self._topic.cursor
        return self._position


class Topic:
    """A topic that somebody is interested in, or was until lately."""

    __slots__ = (
        "again",
        "ahead",
        "attempts",
        "catching_up",
        "cursor",
        "decided",
        "distrusted",
        "failures",
        "floor",
        "held",
        "held_size",
        "live",
        "mark",
        "name",
        "readers",
        "reading",
        "request",
        "reused",
        "ring",
        "status",
    )

    def __init__(self, name: str, status: Status, cursor: Position | None) -> None:
        self.name = name
        self.status = status
        self.cursor = cursor
        self.mark = b""  # of the message at the cursor
        self.floor = 0  # offset up to which nothing was noticed here
        self.ring: Ring | None = None
        self.live: dict[Subscriber, None] = {}
        self.catching_up: dict[Subscriber, None] = {}
        self.request: Request | None = None
        self.again = False  # what its read brings is too old by now
        self.failures = 0  # how many reads have failed, one after the other
        self.attempts = 0  # how many haven't found what was noticed
        self.held: deque[Notice] | None = None
        self.held_size = 0
        self.decided = 0  # how many of those that are held came before the read began
        self.reused = False  # the broker lost messages, and gave their positions to others
        self.distrusted: Position | None = None  # positions before it may have been given twice
        self.reading: Read | None = None
        self.readers: deque[Subscriber] | None = None
        self.ahead = 0  # how many subscribers wait for the cursor to reach their positions

    @property
    def interest(self) -> int:
        return len(self.live) + len(self.catching_up)


@dataclass(slots=True)
class Counters:
    """What has happened so far.

    Args:
        published: Messages published by this process.
        delivered: Messages given to subscribers that were live, once for each.
        filled: Messages that notices didn't bring, and that were read.
        caught_up: Messages sent to subscribers that caught up, once for each.
        gaps: Times that messages of a topic were lost.
        duplicates: Notices of messages that were known.
        resumed: Times that the bus was lost and came back.
        deaf: Times that the bus brought nothing though it seemed to be there.
    """

    published: int = 0
    delivered: int = 0
    filled: int = 0
    caught_up: int = 0
    gaps: int = 0
    duplicates: int = 0
    resumed: int = 0
    deaf: int = 0
