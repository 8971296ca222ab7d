"""Who may come in, what a peer that doesn't read may cost, and how often it was too much."""

from __future__ import annotations

import threading
from time import monotonic

from wsproto_fast.rates import Rate
from wsproto_fast.typing import LoggerLike

from ._shared.door import Door, forwarded_for

__all__ = ["MAX_BACKLOG", "MAX_STALL", "Door", "Rate", "connections_given_up", "forwarded_for"]

MAX_BACKLOG = 2**25
"""Bytes that may wait for being sent on a connection when ``broadcast`` adds to them."""

MAX_STALL = 20.0
"""Seconds for which ``broadcast`` of trio, which waits, waits for a peer that takes nothing."""

# Seconds in which connections that are given up make no more than one line in the log.
LOG_INTERVAL = 1.0


class _Count:
    """Number of connections given up, and of those that the log doesn't tell of yet."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.total = 0
        self.unlogged = 0
        self.next_line = 0.0

    def add(self, number: int, logger: LoggerLike) -> None:
        """Count connections.

        Args:
            number: How many were given up.
            logger: Logger for a line about them.
        """
        now = monotonic()
        with self.lock:
            self.total += number
            self.unlogged += number
            if now < self.next_line:
                return
            self.next_line = now + LOG_INTERVAL
            number, self.unlogged = self.unlogged, 0
        logger.warning(
            "broadcast gave up %d connection%s: peer doesn't read what is sent",
            number,
            "" if number == 1 else "s",
        )


given_up = _Count()
"""The count of this process."""


def connections_given_up() -> int:
    """Return how many connections of this process ``broadcast`` has given up so far."""
    return given_up.total
