"""When a client tries again, and how long it waits before it does.

Owns the default policies of reconnecting iterators. Knows nothing of loops, threads or sockets.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterator

from wsproto_fast.environment import getenv
from wsproto_fast.exceptions import (
    InvalidMessage,
    InvalidProxyStatus,
    InvalidStatus,
    ProxyError,
)

__all__ = ["Reconnection", "backoff", "one_line", "process_exception"]


def _getenv_float(name: str, default: float) -> float:
    value = getenv(name)
    return float(value) if value else default


BACKOFF_INITIAL_DELAY = _getenv_float("BACKOFF_INITIAL_DELAY", 5.0)
BACKOFF_MIN_DELAY = _getenv_float("BACKOFF_MIN_DELAY", 3.1)
BACKOFF_MAX_DELAY = _getenv_float("BACKOFF_MAX_DELAY", 90.0)
BACKOFF_FACTOR = _getenv_float("BACKOFF_FACTOR", 1.618)

# Answers of servers, and of what stands before them, that may be different in a moment.
_TRANSIENT_STATUS_CODES = frozenset({500, 502, 503, 504})
# RFC 1928 section 6: replies of SOCKS proxies that can't reach the server (X'02', X'07' and X'08'
# say that they never will).
_TRANSIENT_REPLIES = frozenset({1, 3, 4, 5, 6})


def backoff(
    initial_delay: float = BACKOFF_INITIAL_DELAY,
    min_delay: float = BACKOFF_MIN_DELAY,
    max_delay: float = BACKOFF_MAX_DELAY,
    factor: float = BACKOFF_FACTOR,
) -> Iterator[float]:
    """Generate delays between attempts to connect: a random one first, then growing ones.

    Args:
        initial_delay: Upper bound of the first delay, in seconds; chance spreads the clients that
            lost the same server.
        min_delay: Second delay, in seconds.
        max_delay: Upper bound of all delays from the second on, in seconds.
        factor: What a delay is multiplied by to give the next one.

    Yields:
        Delays in seconds, without end.
    """
    yield random.random() * initial_delay
    delay = min_delay
    while delay < max_delay:
        yield delay
        delay *= factor
    while True:
        yield max_delay


def process_exception(exc: Exception) -> Exception | None:
    """Decide whether a failed attempt to connect is worth another one.

    It is after network errors and timeouts, when the server or a proxy closes the connection
    without an answer, after the answers 500, 502, 503 and 504 of either, and when a SOCKS proxy
    can't reach the server.

    Args:
        exc: What the attempt raised.

    Returns:
        None to try again, else what to raise.
    """
    if isinstance(exc, OSError):  # TimeoutError is one
        return None
    if isinstance(exc, (InvalidMessage, ProxyError)) and isinstance(exc.__cause__, EOFError):
        return None
    if (
        isinstance(exc, (InvalidStatus, InvalidProxyStatus))
        and exc.response.status_code in _TRANSIENT_STATUS_CODES
    ):
        return None
    if (
        isinstance(exc, ProxyError)
        and getattr(exc.__cause__, "error_code", None) in _TRANSIENT_REPLIES
    ):
        return None
    return exc


class Reconnection:
    """The failures of a reconnecting iterator since its last success.

    Args:
        process_exception: Policy, see the function of this name.
        reconnect_delays: Callable that returns an iterator over delays in seconds, called anew
            after each success.
    """

    def __init__(
        self,
        process_exception: Callable[[Exception], Exception | None],
        reconnect_delays: Callable[[], Iterator[float]],
    ) -> None:
        self._process_exception = process_exception
        self._reconnect_delays = reconnect_delays
        self._delays: Iterator[float] | None = None

    def succeeded(self) -> None:
        """Forget the failures."""
        self._delays = None

    def failed(self, exc: Exception) -> float:
        """Return the delay before the next attempt, in seconds.

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
            if self._delays is None:
                self._delays = iter(self._reconnect_delays())
            delay = next(self._delays, None)
            if delay is None:
                raise exc
            return delay
        finally:
            # A frame that holds the exception whose traceback holds it is freed too late.
            del exc, new_exc


def one_line(exc: Exception) -> str:
    """Return type and text of an exception on one line, for the log."""
    return traceback.format_exception_only(exc)[0].strip()
