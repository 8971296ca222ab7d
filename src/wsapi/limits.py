"""Who may come in, what connections may cost, and how often it was too much."""

from __future__ import annotations

import logging
import threading
from time import monotonic

from wsproto_fast import Slow
from wsproto_fast.rates import Rate
from wsproto_fast.typing import LoggerLike

from ._shared.budget import BufferBudget
from ._shared.door import Door, forwarded_for

__all__ = [
    "MAX_BACKLOG",
    "BufferBudget",
    "Door",
    "Rate",
    "Slow",
    "connections_given_up",
    "forwarded_for",
    "messages_dropped",
]

MAX_BACKLOG = 2**25
"""Bytes that may wait on a connection for a peer that doesn't read."""

# Seconds in which what is counted here makes no more than one line in the log.
LOG_INTERVAL = 1.0


class _Count:
    """A number that only grows, and the part of it that the log doesn't tell of yet.

    Args:
        text: Line for the log, with places for the number and for its plural.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.lock = threading.RLock()  # a signal handler may count while its thread does
        self.total = 0
        self.unlogged = 0
        self.next_line = 0.0

    def add(self, number: int, logger: LoggerLike, level: int = logging.WARNING) -> None:
        """Count.

        Args:
            number: How many.
            logger: Logger for a line about them.
            level: Level of that line.
        """
        now = monotonic()
        with self.lock:
            self.total += number
            self.unlogged += number
            if now < self.next_line:
                return
            self.next_line = now + LOG_INTERVAL
            number, self.unlogged = self.unlogged, 0
        logger.log(level, self.text, number, "" if number == 1 else "s")


given_up = _Count("gave up %d connection%s: peer doesn't read what is sent")
"""The connections of this process."""

dropped = _Count("dropped %d message%s: peer doesn't read as fast as they come")
"""The messages of this process."""

over_budget = _Count("closed %d connection%s: too much waits for the application or the network")
"""The connections of this process that exceeded a budget."""


def connections_given_up() -> int:
    """Return how many connections of this process were closed because too much waited for them."""
    return given_up.total


def messages_dropped() -> int:
    """Return how many messages of this process policies for slow peers have dropped so far."""
    return dropped.total
