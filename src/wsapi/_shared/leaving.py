"""How a server leaves: when it closes which connection, what it answers, and for whom it waits.

Knows nothing of loops, threads, or clocks: times are arguments. Front-ends close and abort.
"""

from __future__ import annotations

import math
import random as random_module
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final, Generic, TypeVar

from wsproto_fast import check_close

from .door import Refusal

__all__ = ["ANSWERING", "Departure", "Handlers", "check_seconds", "departure_time", "spread_within"]

ANSWERING: Final = 0.2
"""Part of the time for leaving, at its end, that the last ones have to answer Close frames."""

T = TypeVar("T")


def departure_time(start: float, spread: float, random: Callable[[], float]) -> float:
    """Return when a connection is to be closed, so that not all clients come back at once.

    Args:
        start: When leaving begins.
        spread: Seconds in which all connections are to be closed.
        random: Function that returns a number between 0 and 1.
    """
    return start + spread * random()


def spread_within(spread: float, timeout: float) -> float:
    """Return the seconds in which connections are closed, so that the last ones can answer.

    Args:
        spread: As many are wanted.
        timeout: Seconds after which connections are aborted, or infinite.
    """
    return min(spread, timeout * (1 - ANSWERING))


class Departure(Generic[T]):
    """The end of a server that closes its connections one by one.

    Args:
        timeout: Seconds after which nothing is waited for; None for no limit.
        spread: Seconds in which the connections are closed; at most 80 % of ``timeout``.
        code: Close code.
        reason: Close reason.
        retry_after: Seconds after which clients that are refused meanwhile may try again.
        random: Function that returns a number between 0 and 1.

    Attributes:
        refusal: What those clients are told.
        closing_time: When the last connections are closed.
        deadline: When connections are aborted.
        grace: Seconds after that in which handlers can end.
        lingering: Seconds at most for which clients whose requests have an answer other than 101
            may leave their TCP connection open.
        lingering_time: When connections are aborted that had such an answer before.

    Raises:
        TypeError, ValueError: If a number isn't acceptable.
        ProtocolError: If the code or the reason isn't allowed.
    """

    closing_time = math.inf
    deadline = math.inf
    grace = 1.0
    lingering = 1.0
    lingering_time = math.inf

    def __init__(
        self,
        timeout: float | None,
        spread: float,
        code: int,
        reason: str,
        retry_after: int,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        check_close(code, reason)
        if timeout is not None:
            check_seconds("timeout", timeout)
        check_seconds("spread", spread)
        if isinstance(retry_after, bool) or not isinstance(retry_after, int):
            raise TypeError(f"retry_after must be an int, not {type(retry_after).__name__}")
        if retry_after < 0:
            raise ValueError(f"retry_after must be 0 or more; got {retry_after}")
        self.timeout = math.inf if timeout is None else timeout
        self.spread = spread_within(spread, self.timeout)
        self.lingering = min(self.lingering, self.timeout * ANSWERING)
        self.code = code
        self.reason = reason
        self.refusal = Refusal(
            "draining",
            HTTPStatus.SERVICE_UNAVAILABLE,
            "Server is shutting down.\n",
            retry_after,
        )
        self._random = random
        self._scheduled: list[tuple[float, T]] = []  # the next one is the last one

    def begin(self, connections: Iterable[T], now: float) -> None:
        """Begin to leave.

        Args:
            connections: Connections that are open.
            now: Time; whatever clock it is of.
        """
        self.deadline = now + self.timeout
        self.closing_time = now + self.spread
        self.lingering_time = now + self.lingering
        self._scheduled = [
            (departure_time(now, self.spread, self._random), connection)
            for connection in connections
        ]
        self._scheduled.sort(key=lambda entry: entry[0], reverse=True)

    def due(self, now: float, connections: Callable[[], Iterable[T]]) -> list[T]:
        """Return the connections to close, each once.

        Args:
            now: Time.
            connections: Function that returns those that are open, called for the last time at
                which connections are closed.
        """
        if now >= self.closing_time:
            self.closing_time = math.inf
            self._scheduled.clear()
            return list(connections())
        due = []
        while self._scheduled and self._scheduled[-1][0] <= now:
            due.append(self._scheduled.pop()[1])
        return due

    def overdue(self, now: float, answered: Callable[[], Iterable[T]]) -> list[T]:
        """Return the connections to abort, although there is time left.

        Args:
            now: Time.
            answered: Function that returns those whose requests have an answer other than 101,
                called once. Answers that are given later come with ``lingering`` as time-out.
        """
        if now < self.lingering_time:
            return []
        self.lingering_time = math.inf
        return list(answered())

    def next_time(self) -> float:
        """Return when there is something to do next, if nothing happens before."""
        scheduled = self._scheduled[-1][0] if self._scheduled else self.closing_time
        return min(scheduled, self.lingering_time, self.deadline)

    def time_left(self, now: float, time: float) -> float | None:
        """Return the seconds until a time, at least zero; None if it never comes."""
        return None if time == math.inf else max(0.0, time - now)


class Handlers(set[T]):
    """Who runs the handlers of a server: tasks, or threads, and whom of them its end waits for.

    It isn't locked.

    Attributes:
        arriving: Those that have no request yet, which draining doesn't wait for.
        leaving: Those that it does wait for.
        excused: Who waits for the end, which doesn't wait for them: handlers, and others.
    """

    def __init__(self) -> None:
        super().__init__()
        self.arriving: set[T] = set()
        self.leaving: set[T] = set()
        self.excused: set[T] = set()

    def end(self, one: T) -> None:
        """Take note that one has ended."""
        self.discard(one)
        if self.arriving:
            self.arriving.discard(one)
        if self.leaving:
            self.leaving.discard(one)

    def leave(self) -> None:
        """Begin to drain: those that are there now are waited for."""
        self.leaving = self - self.arriving

    def are_leaving(self) -> bool:
        """Tell whether draining has to wait."""
        return not self.leaving <= self.excused

    def are_left(self) -> bool:
        """Tell whether closing has to wait."""
        return not self <= self.excused

    def waiting(self) -> set[T]:
        """Return those that it has to wait for."""
        return self - self.excused


def check_seconds(name: str, value: object) -> None:
    """Check a duration.

    Args:
        name: Its name, for errors.
        value: Its value, in seconds.

    Raises:
        TypeError, ValueError: If it isn't acceptable.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be 0 or more, and finite; got {value}")
