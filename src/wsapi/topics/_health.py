"""Whether a process gets what is published elsewhere, and who is told when that changes.

Owns no clock: times are arguments.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from math import inf
from typing import Final

from wsproto_fast.typing import LoggerLike

__all__ = ["Health", "Lines"]

LOG_INTERVAL: Final = 1.0
"""Seconds in which what is said of one thing makes no more than one line in the log."""

REMINDER_INTERVAL: Final = 30.0
"""Seconds after which the log says again that the bus is still away."""


class Lines:
    """Writes lines to a log, those of one kind at a bounded rate.

    Args:
        logger: The logger.
        time: Function that returns the time in seconds.
    """

    def __init__(self, logger: LoggerLike, time: Callable[[], float]) -> None:
        self._logger = logger
        self._time = time
        # When the next line of a kind may come, and how many were left out since the last one.
        self._kinds: dict[str, tuple[float, int]] = {}

    def write(self, level: int, kind: str, text: str, exc: BaseException | None = None) -> bool:
        """Write a line unless another one of this kind was written just now.

        Args:
            level: Its level.
            kind: Which lines count as one.
            text: The line.
            exc: Exception whose traceback follows.

        Returns:
            Whether it was written.
        """
        now = self._time()
        next_time, left_out = self._kinds.get(kind, (now, 0))
        if now < next_time:
            self._kinds[kind] = (next_time, left_out + 1)
            return False
        self._kinds[kind] = (now + LOG_INTERVAL, 0)
        if left_out:
            text += f" (and {left_out} time{'' if left_out == 1 else 's'} before)"
        self._logger.log(level, "%s", text, exc_info=exc)
        return True


class Health:
    """The health of a process's topics: good or bad, and why.

    Args:
        on_change: Called with whether it is good now, and with a reason if it isn't.
        lines: The log.
        time: Function that returns the time in seconds.

    Attributes:
        good: Whether it is good.
        reason: Why it isn't; empty if it is.
        changes: How often it became bad.
    """

    def __init__(
        self,
        on_change: Callable[[bool, str], object] | None,
        lines: Lines,
        time: Callable[[], float],
    ) -> None:
        self.good = False
        self.reason = "topics aren't open"
        self.changes = 0
        self._on_change = on_change
        self._lines = lines
        self._time = time
        self._since = 0.0
        # Whether the log tells that it is bad, and when it tells so again.
        self._logged = False
        self._next_reminder = inf
        self._waiters: set[asyncio.Future[None]] = set()

    def begin(self) -> None:
        """Begin anew: it is bad until ``become_good``, which is no trouble yet."""
        self.good = False
        self.reason = "topics aren't open"
        self._next_reminder = inf

    def become_bad(self, reason: str) -> None:
        """Note trouble; of several kinds at once the first one is told."""
        if not self.good:
            return
        self.good = False
        self.reason = reason
        self.changes += 1
        self._since = self._time()
        self._logged = self._lines.write(logging.WARNING, "away", f"topics: {reason}")
        self._next_reminder = self._since + (REMINDER_INTERVAL if self._logged else LOG_INTERVAL)
        self._tell()

    def become_good(self) -> float | None:
        """Note that trouble is over.

        Returns:
            Seconds that it took, if the log has told of it; None if not, or if it was good already.
        """
        if self.good:
            return None
        self.good = True
        self.reason = ""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()
        logged, self._logged = self._logged, False
        self._tell()
        return self._time() - self._since if logged else None

    def remind(self) -> None:
        """Say again that it is still bad, or for the first time if there was no line for it."""
        now = self._time()
        if self.good or now < self._next_reminder:
            return
        text = f"topics: {self.reason}, for {now - self._since:.1f} seconds now"
        written = self._lines.write(logging.WARNING, "away", text)
        self._logged |= written
        self._next_reminder = now + (REMINDER_INTERVAL if written else LOG_INTERVAL)

    async def wait(self, timeout: float | None) -> None:
        """Wait until it is good.

        Args:
            timeout: Most seconds to wait; None for no limit.

        Raises:
            TimeoutError: If it isn't good by then.
        """
        if self.good:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter
        except TimeoutError:
            raise TimeoutError(f"topics aren't healthy: {self.reason}") from None
        finally:
            self._waiters.discard(waiter)

    def end(self, error: Exception) -> None:
        """Wake all who wait with an exception; it stays bad."""
        self.good = False
        self.reason = str(error)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(error)
        self._waiters.clear()

    def _tell(self) -> None:
        if self._on_change is None:
            return
        try:
            self._on_change(self.good, self.reason)
        except Exception as exc:
            self._lines.write(logging.ERROR, "on_health", "topics: on_health failed", exc)
