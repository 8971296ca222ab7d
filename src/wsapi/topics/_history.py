"""The latest messages of a topic, kept in memory within limits."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite
from operator import attrgetter
from typing import Final, NamedTuple

from .bus import Message

__all__ = ["ENTRY_OVERHEAD", "Entry", "History", "Ring"]

ENTRY_OVERHEAD: Final = 160
"""Bytes that a kept message counts besides its payload: objects, and places in containers."""


@dataclass(frozen=True, slots=True)
class History:
    """What is kept of each topic; the tightest limit counts.

    Args:
        messages: Number of messages; 0 for no history.
        bytes: Bytes of messages, with 160 for each besides its payload.
        seconds: For how long a message is kept; None for no limit.

    Raises:
        TypeError, ValueError: If one isn't acceptable.
    """

    messages: int = 0
    bytes: int = 2**20
    seconds: float | None = 300.0

    def __post_init__(self) -> None:
        for name in ("messages", "bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} of a history must be int; got {type(value).__name__}")
            if value < 0:
                raise ValueError(f"{name} of a history must be 0 or more; got {value}")
        seconds = self.seconds
        if seconds is not None:
            if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
                kind = type(seconds).__name__
                raise TypeError(f"seconds of a history must be a number or None; got {kind}")
            if not (isfinite(seconds) and seconds > 0):
                raise ValueError(f"seconds of a history must be more than 0; got {seconds}")


class Entry(NamedTuple):
    """A message that is kept.

    Args:
        offset: Its offset.
        message: The message, as subscribers get it.
        mark: What tells it from another one that got the same position.
        time: When it came.
        size: Bytes that it counts.
    """

    offset: int
    message: Message
    mark: bytes
    time: float
    size: int


_offset = attrgetter("offset")


class Ring:
    """The latest messages of one epoch of a topic, without a hole between them.

    Args:
        history: Limits.
        base: Offset of the last message before the first one that will be kept.
    """

    __slots__ = ("_entries", "_head", "base", "history", "size")

    def __init__(self, history: History, base: int) -> None:
        self.history = history
        self.base = base
        self.size = 0
        self._entries: list[Entry] = []
        self._head = 0  # what is before it was dropped, and goes when there is enough of it

    def __len__(self) -> int:
        return len(self._entries) - self._head

    @property
    def latest(self) -> float:
        """When the last message came; minus infinity if none is kept."""
        return self._entries[-1].time if len(self) else -inf

    def clear(self, base: int) -> None:
        """Forget all, and begin after another offset."""
        self._entries.clear()
        self._head = self.size = 0
        self.base = base

    def add(self, offset: int, message: Message, size: int, mark: bytes, now: float) -> None:
        """Keep a message that follows the last one, at the expense of the oldest ones.

        Args:
            offset: Its offset.
            message: The message, as subscribers get it.
            size: Bytes of its payload.
            mark: What tells it from another one that got the same position.
            now: Current time.
        """
        size += ENTRY_OVERHEAD
        entries, history = self._entries, self.history
        entries.append(Entry(offset, message, mark, now, size))
        self.size += size
        # This is done for each message: what isn't necessary isn't called.
        if len(entries) - self._head > history.messages or self.size > history.bytes:
            self._trim()
        if history.seconds is not None:
            head = self._head
            if head < len(entries) and entries[head].time < now - history.seconds:
                self.expire(now)

    def extend_back(self, entries: Sequence[Entry], base: int) -> None:
        """Keep messages that precede those that are kept, the latest of them, if there is room.

        Args:
            entries: Messages between ``base`` and the ring's own base, all there are.
            base: Offset of the last message before them.
        """
        room = self.history.messages - len(self)
        size = self.size
        start = len(entries)
        while start and room and size + entries[start - 1].size <= self.history.bytes:
            start -= 1
            room -= 1
            size += entries[start].size
        if start < len(entries) or not entries:
            self._entries[: self._head] = entries[start:]
            self._head = 0
            self.size = size
            self.base = entries[start - 1].offset if start else base

    def expire(self, now: float) -> None:
        """Forget what is too old."""
        if self.history.seconds is None:
            return
        entries, head, size = self._entries, self._head, self.size
        oldest = now - self.history.seconds
        while head < len(entries) and entries[head].time < oldest:
            size -= entries[head].size
            head += 1
        if head > self._head:
            self._drop(head, size)

    def reaches(self, offset: int) -> bool:
        """Tell whether all messages after an offset are here, but those that are yet to come."""
        return offset >= self.base

    def after(self, offset: int, limit: int) -> list[Entry]:
        """Return the first messages after an offset, at most ``limit``."""
        start = bisect_right(self._entries, offset, self._head, key=_offset)
        return self._entries[start : start + limit]

    def mark(self, offset: int) -> bytes | None:
        """Return the mark of the message with an offset; None if it isn't kept."""
        place = bisect_right(self._entries, offset, self._head, key=_offset) - 1
        if place >= self._head and self._entries[place].offset == offset:
            return self._entries[place].mark
        return None

    def _trim(self) -> None:
        """Forget what is beyond the limits on messages and bytes."""
        entries, head, size = self._entries, self._head, self.size
        most = self.history.bytes
        first = len(entries) - self.history.messages  # what may stay
        while head < first or size > most:
            size -= entries[head].size
            head += 1
        self._drop(head, size)

    def _drop(self, head: int, size: int) -> None:
        """Forget what is before ``head``; ``size`` is that of the rest."""
        entries = self._entries
        self.base = entries[head - 1].offset
        self.size = size
        if head * 2 > len(entries):
            del entries[:head]
            head = 0
        self._head = head
