"""When connections are to be looked at: the deadlines that one housekeeper has for all of them."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from math import inf
from typing import Generic, TypeVar

__all__ = ["Schedule"]

# Number of outdated entries from which on they are removed, if they are most of them.
MAX_OUTDATED = 64

T = TypeVar("T")


class Schedule(Generic[T]):
    """Things and the times at which they are due, the earliest first.

    Args:
        outdated: Tells whether an entry, a time and what is due then, is of no use any more.
    """

    def __init__(self, outdated: Callable[[float, T], bool]) -> None:
        self._outdated = outdated
        # The number settles ties.
        self._entries: list[tuple[float, int, T]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, time: float, item: T) -> None:
        """Have something due at a time."""
        heapq.heappush(self._entries, (time, next(self._numbers), item))

    def next_time(self) -> float:
        """Return the time at which something is due next; infinite if nothing is."""
        return self._entries[0][0] if self._entries else inf

    def take(self) -> tuple[float, T]:
        """Remove the entry that is due next, and return its time and what is due."""
        time, _, item = heapq.heappop(self._entries)
        return time, item

    def clean(self, outdated: int) -> bool:
        """Remove the entries that are outdated, unless they are too few to matter.

        Args:
            outdated: Number of those that became so since they were removed last, or more.

        Returns:
            Whether they were removed.
        """
        if outdated <= max(MAX_OUTDATED, len(self._entries) // 2):
            return False
        self._entries = [entry for entry in self._entries if not self._outdated(entry[0], entry[2])]
        heapq.heapify(self._entries)
        return True
