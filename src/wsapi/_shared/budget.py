"""What connections may hold in memory together: the limit, and who goes where it is exceeded.

Owns what servers have seen last. ``_shared.sweep`` looks at the connections of one server.
"""

from __future__ import annotations

import heapq
import threading
import weakref
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

__all__ = ["MAX_REPORTED", "BufferBudget", "Verdict", "choose"]

MAX_REPORTED: Final = 1000
"""Connections, those with most bytes, that a server tells the others about."""


def choose(sizes: Sequence[int], others: Iterable[int], excess: int) -> list[int]:
    """Return which connections of a server go so that less is held.

    Those with most bytes go first, whatever server they belong to, until all that go hold the
    excess. Other servers find out for themselves which of theirs are among them.

    Args:
        sizes: Bytes that connections hold.
        others: The same, of connections of other servers.
        excess: Bytes that are too many.

    Returns:
        Their places in ``sizes``, those with most bytes first.
    """
    candidates = [(size, place) for place, size in enumerate(sizes)]
    candidates += [(size, -1) for size in others]
    candidates.sort(key=lambda candidate: -candidate[0])
    chosen = []
    for size, place in candidates:
        if excess <= 0 or not size:
            break
        excess -= size
        if place >= 0:
            chosen.append(place)
    return chosen


class Verdict(NamedTuple):
    """What follows from what a server has seen.

    Args:
        total: Bytes that all connections held.
        chosen: Places of those that go.
    """

    total: int
    chosen: list[int]


class BufferBudget:
    """Limit on what connections hold in memory: of a server, or of several that share this object.

    Received messages that wait for the application count, and so do frames that aren't complete,
    and what waits for the network to take it. What the operating system holds doesn't, nor do
    connections that are gone. Servers look every ``interval`` seconds, a part of their connections
    at a time, so that it can be exceeded in between. Where it is, the connections with most bytes
    are closed until it isn't: with 1013 (try again later), or, if most of what they hold waits for
    the peer to read, by a reset. What they have received and nobody has taken is lost.

    Args:
        max_bytes: Number of bytes, at least 1.
        interval: Seconds from one look to the next, more than 0. A look takes less than a
            microsecond for each connection.

    Raises:
        TypeError, ValueError: If an argument isn't acceptable.
    """

    def __init__(self, max_bytes: int, *, interval: float = 1.0) -> None:
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, int):
            raise TypeError(f"max_bytes must be an int, not {type(max_bytes).__name__}")
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        if isinstance(interval, bool) or not isinstance(interval, (int, float)):
            raise TypeError(f"interval must be a float, not {type(interval).__name__}")
        if not 0 < interval < threading.TIMEOUT_MAX:
            raise ValueError(f"interval must be finite and more than 0, not {interval}")
        self.max_bytes = max_bytes
        self.interval = interval
        self._lock = threading.RLock()  # a signal handler may read while this thread looks
        # Who looks -> bytes in all, and those of its connections that hold most.
        self._seen: weakref.WeakKeyDictionary[object, tuple[int, list[int]]] = (
            weakref.WeakKeyDictionary()
        )

    @property
    def buffered_bytes(self) -> int:
        """Bytes that all connections held when servers looked last."""
        with self._lock:
            return sum(total for total, _ in self._seen.values())

    def judge(self, member: object, sizes: Sequence[int]) -> Verdict:
        """Note what a server has seen, and say who goes.

        Args:
            member: Who looks at the connections of that server.
            sizes: Bytes that its connections hold.
        """
        own = sum(sizes)
        with self._lock:
            known = [seen for other, seen in self._seen.items() if other is not member]
            total = own + sum(held for held, _ in known)
            chosen: list[int] = []
            if total > self.max_bytes:
                others = [size for _, heaviest in known for size in heaviest]
                chosen = choose(sizes, others, total - self.max_bytes)
            gone = set(chosen)
            left = [size for place, size in enumerate(sizes) if place not in gone]
            self._seen[member] = sum(left), heapq.nlargest(MAX_REPORTED, left)
        return Verdict(total, chosen)

    def leave(self, member: object) -> None:
        """Forget what a server has seen, because it is closed.

        Args:
            member: Who looked at its connections.
        """
        with self._lock:
            self._seen.pop(member, None)
