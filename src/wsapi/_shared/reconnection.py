"""When a client tries again, and how long it waits before it does.

Owns the default policies of reconnecting iterators. Knows nothing of loops, threads or sockets.
"""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC
from typing import Final

from wsproto_fast.datastructures import Headers
from wsproto_fast.environment import getenv_float
from wsproto_fast.exceptions import (
    InvalidMessage,
    InvalidProxyStatus,
    InvalidStatus,
    ProxyError,
)
from wsproto_fast.frames import CloseCode

__all__ = [
    "MAX_RETRY_AFTER",
    "Reconnection",
    "backoff",
    "one_line",
    "process_exception",
    "retry_after",
]


BACKOFF_INITIAL_DELAY = getenv_float("BACKOFF_INITIAL_DELAY", 5.0)
BACKOFF_MIN_DELAY = getenv_float("BACKOFF_MIN_DELAY", 3.1)
BACKOFF_MAX_DELAY = getenv_float("BACKOFF_MAX_DELAY", 90.0)
BACKOFF_FACTOR = getenv_float("BACKOFF_FACTOR", 1.618)

MAX_RETRY_AFTER: Final = 300.0
"""Seconds for which a server can keep a client away by ``Retry-After``."""

# Answers of servers, and of what stands before them, that may be different in a moment.
_TRANSIENT_STATUS_CODES = frozenset({500, 502, 503, 504})
_TOO_MANY_REQUESTS = 429
# RFC 1928 section 6: replies of SOCKS proxies that can't reach the server (X'02', X'07' and X'08'
# say that they never will).
_TRANSIENT_REPLIES = frozenset({1, 3, 4, 5, 6})


def backoff(
    initial_delay: float = BACKOFF_INITIAL_DELAY,
    min_delay: float = BACKOFF_MIN_DELAY,
    max_delay: float = BACKOFF_MAX_DELAY,
    factor: float = BACKOFF_FACTOR,
    *,
    jitter: bool = True,
) -> Iterator[float]:
    """Generate delays between attempts to connect: random ones, with bounds that grow.

    Chance spreads the clients that lost the same server: each delay is anything between zero and
    its bound ("full jitter").

    Args:
        initial_delay: Bound of the first delay, in seconds.
        min_delay: Bound of the second delay, in seconds.
        max_delay: Bound of all delays from the second on, in seconds.
        factor: What a bound is multiplied by to give the next one.
        jitter: False to make the delays from the second on as long as their bounds.

    Yields:
        Delays in seconds, without end.
    """
    yield random.random() * initial_delay
    bound = min_delay
    while True:
        bound = min(bound, max_delay)
        yield random.random() * bound if jitter else bound
        bound *= factor


def process_exception(exc: Exception) -> Exception | None:
    """Decide whether a failed attempt to connect is worth another one.

    It is after network errors and timeouts, when the server or a proxy closes the connection
    without an answer, after the answers 500, 502, 503 and 504 of either, after 429 with a
    ``Retry-After`` header, and when a SOCKS proxy can't reach the server.

    Args:
        exc: What the attempt raised.

    Returns:
        None to try again, else what to raise.
    """
    if isinstance(exc, OSError):  # TimeoutError is one
        return None
    if isinstance(exc, (InvalidMessage, ProxyError)) and isinstance(exc.__cause__, EOFError):
        return None
    if isinstance(exc, (InvalidStatus, InvalidProxyStatus)):
        status, headers = exc.response.status_code, exc.response.headers
        if status in _TRANSIENT_STATUS_CODES:
            return None
        # RFC 6585 section 4
        if status == _TOO_MANY_REQUESTS and "Retry-After" in headers:
            return None
    if (
        isinstance(exc, ProxyError)
        and getattr(exc.__cause__, "error_code", None) in _TRANSIENT_REPLIES
    ):
        return None
    return exc


def retry_after(headers: Headers, now: float) -> float:
    """Return for how many seconds a server doesn't want to be asked again.

    Args:
        headers: Headers of its response: RFC 9110 section 10.2.3.
        now: Time of the client, in seconds since the epoch. A date is compared with the time of
            the server, if that tells it.

    Returns:
        At most ``MAX_RETRY_AFTER``; zero if the response doesn't say, or says nonsense.
    """
    values = headers.get_all("Retry-After")
    if len(values) != 1:
        return 0.0
    value = values[0].strip()
    if value.isdecimal():
        # int() refuses thousands of digits.
        return min(float(value), MAX_RETRY_AFTER)
    date = _http_date(value)
    if date is None:
        return 0.0
    dates = headers.get_all("Date")
    server_now = _http_date(dates[0]) if dates else None
    return max(0.0, min(date - (now if server_now is None else server_now), MAX_RETRY_AFTER))


def _http_date(value: str) -> float | None:
    """Return the seconds since the epoch of a date (RFC 9110 section 5.6.7); None if it isn't."""
    from email.utils import parsedate_to_datetime  # which imports much

    try:
        date = parsedate_to_datetime(value)
        # The form of asctime() doesn't name the time zone.
        return (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


class Reconnection:
    """The failures of a reconnecting iterator since its last success.

    Args:
        process_exception: Policy, see the function of this name.
        reconnect_delays: Callable that returns an iterator over delays in seconds, called anew
            after each success, unless that ends with 1013 (Try Again Later).
        wall_clock: Function that returns the seconds since the epoch.
    """

    def __init__(
        self,
        process_exception: Callable[[Exception], Exception | None],
        reconnect_delays: Callable[[], Iterator[float]],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._process_exception = process_exception
        self._reconnect_delays = reconnect_delays
        self._wall_clock = wall_clock
        self._delays: Iterator[float] | None = None
        self._before: Iterator[float] | None = None  # those before the last success

    def succeeded(self) -> None:
        """Forget the failures."""
        self._before, self._delays = self._delays, None

    def ended(self, code: int | None) -> float:
        """Return the delay before the next attempt when a connection has ended, in seconds.

        There is one if the server wants it: it leaves (1012), and all its clients look for another
        one at the same time; or it has too much to do (1013), and delays grow.

        Args:
            code: Code of the Close frame that was received; None if there was none.
        """
        if code == CloseCode.TRY_AGAIN_LATER:
            self._delays = self._before
        elif code != CloseCode.SERVICE_RESTART:
            return 0.0
        delay = self._next_delay()
        return 0.0 if delay is None else delay

    def failed(self, exc: Exception) -> float:
        """Return the delay before the next attempt, in seconds.

        What the server wants by a ``Retry-After`` header (RFC 9110 section 10.2.3) is added to what
        chance wants, so that those who were told the same don't come at the same time.

        Args:
            exc: What the attempt raised.

        Raises:
            Exception: What the policy wants raised; ``exc`` when there is no delay left.
        """
        new_exc: Exception | None = None
        try:
            try:
                new_exc = self._process_exception(exc)
            except Exception as raised:
                new_exc = raised
            if new_exc is exc:
                raise exc
            if new_exc is not None:
                raise new_exc from exc
            delay = self._next_delay()
            if delay is None:
                raise exc
            if isinstance(exc, (InvalidStatus, InvalidProxyStatus)):
                delay += retry_after(exc.response.headers, self._wall_clock())
            return delay
        finally:
            # A frame that holds the exception whose traceback holds it is freed too late.
            del exc, new_exc

    def _next_delay(self) -> float | None:
        if self._delays is None:
            self._delays = iter(self._reconnect_delays())
        return next(self._delays, None)


def one_line(exc: Exception) -> str:
    """Return type and text of an exception on one line, for the log."""
    return traceback.format_exception_only(exc)[0].strip()
