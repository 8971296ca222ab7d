# cython: binding=False
"""When connections are to be looked at: the deadlines that one housekeeper has for all of them."""

from heapq import heapify, heappop, heappush

cimport cython
from libc.math cimport INFINITY
from libc.stdint cimport uint64_t


__all__ = ["Schedule"]

# Number of outdated entries from which on they are removed, if they are most of them.
MAX_OUTDATED = 64


@cython.final
cdef class Schedule:
    """Things and the times at which they are due, the earliest first.

    Args:
        outdated: Tells whether an entry, a time and what is due then, is of no use any more.
    """

    cdef object _outdated
    cdef list _entries      # heap of a time, a number that settles ties, and what is due
    cdef uint64_t _added

    def __init__(self, outdated):
        self._outdated = outdated
        self._entries = []

    def __len__(self):
        return len(self._entries)

    def add(self, double time, item) -> None:
        """Have something due at a time."""
        heappush(self._entries, (time, self._added, item))
        self._added += 1

    def next_time(self) -> float:
        """Return the time at which something is due next; infinite if nothing is."""
        return self._entries[0][0] if self._entries else INFINITY

    def take(self) -> tuple:
        """Remove the entry that is due next, and return its time and what is due."""
        time, _, item = heappop(self._entries)
        return time, item

    def clean(self, Py_ssize_t outdated) -> bool:
        """Remove the entries that are outdated, unless they are too few to matter.

        Args:
            outdated: Number of those that became so since they were removed last, or more.

        Returns:
            Whether they were removed.
        """
        cdef Py_ssize_t least = MAX_OUTDATED
        if outdated <= max(least, len(self._entries) // 2):
            return False
        self._entries = [entry for entry in self._entries if not self._outdated(entry[0], entry[2])]
        heapify(self._entries)
        return True
