"""What settings of a connection, and its close code, may be.

The engine checks here what it is given; so do callers who want to know before there is an engine.
"""

from libc.math cimport INFINITY
from libc.stdint cimport UINT32_MAX, UINT64_MAX, uint64_t

from .exceptions import ProtocolError
from .frames import Close


cdef double duration(str name, value) except? -1.0:
    """Return a timeout in seconds; None stands for no limit."""
    if value is None:
        return INFINITY
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds or None, not {type(value).__name__}")
    if not value >= 0:
        raise ValueError(f"{name} must be a number of seconds, 0 or more, or None; got {value!r}")
    return value


cdef double ping_interval_of(value) except? -1.0:
    """Return the seconds between keepalive pings."""
    cdef double interval = duration("ping_interval", value)
    if interval == 0:
        raise ValueError("ping_interval must be more than 0, or None")
    return interval


cdef double write_deadline_of(value) except? -1.0:
    """Return the seconds for which the network may take nothing."""
    cdef double deadline = duration("write_deadline", value)
    if deadline == 0:
        raise ValueError("write_deadline must be more than 0, or None")
    return deadline


cdef uint64_t _size(value) except? 0:
    if value is None:
        return UINT64_MAX
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"max_size must be int or None; got {type(value).__name__}")
    if value < 0:
        raise ValueError(f"max_size must be 0 or more, or None; got {value}")
    return min(value, UINT64_MAX)


cdef tuple _pair(str name, value):
    if not isinstance(value, tuple):
        return value, None
    if len(value) != 2:
        raise ValueError(f"{name} must be one number or a pair of two; got {value!r}")
    return value


cdef (uint64_t, uint64_t) size_limits(max_size) except *:
    """Return the limits on messages and on fragments, in bytes."""
    if not isinstance(max_size, tuple):
        return _size(max_size), UINT64_MAX
    message_size, fragment_size = _pair("max_size", max_size)
    return _size(message_size), _size(fragment_size)


cpdef tuple queue_marks(max_queue):
    """Return the high and the low mark of a queue of received frames; None stands for no limit.

    Args:
        max_queue: The high mark, or a pair of both. Without the low one, it is a quarter of the high one; without
            the high one, that is four times the low one.

    Raises:
        TypeError, ValueError: If it isn't acceptable.
    """
    high, low = _pair("max_queue", max_queue)
    for mark in (high, low):
        if mark is not None and (isinstance(mark, bool) or not isinstance(mark, int)):
            raise TypeError(f"max_queue must be int, a pair of int, or None; got {type(mark).__name__}")
    if high is None:
        if low is None:
            return None, None
        high = low * 4
    elif low is None:
        low = high // 4
    if not 0 <= low <= high < UINT32_MAX:
        raise ValueError(f"max_queue must be (high, low) with high >= low >= 0; got ({high}, {low})")
    return high, low


cpdef bytes close_payload(code, reason):
    """Return the payload of a Close frame (RFC 6455 section 5.5.1) that the application wants to be sent.

    Raises:
        ProtocolError: If the code may not travel in a frame (section 7.4), or the payload is too long (section 5.5).
    """
    if code is None:
        if reason:
            raise ProtocolError("cannot send a reason without a code")
        return b""
    payload = Close(code, reason).serialize()
    if len(payload) > 125:
        raise ProtocolError("control frame too long")
    return payload


def check_close(code, reason: str = "") -> None:
    """Check a close code and a reason before anything is closed with them.

    Args:
        code: Close code (RFC 6455 section 7.4); None for none.
        reason: Close reason, at most 123 bytes of UTF-8.

    Raises:
        ProtocolError: If one isn't allowed.
    """
    close_payload(code, reason)


def check_settings(
    *,
    max_size=2**20,
    max_queue=16,
    open_timeout: float | None = None,
    ping_interval: float | None = None,
    ping_timeout: float | None = None,
    close_timeout: float | None = None,
    write_deadline: float | None = None,
) -> None:
    """Check settings before there is an engine that is given them.

    Args:
        max_size: As for ``Protocol``.
        max_queue: Marks as for ``Protocol.queue_messages``: the high one, or a pair of both.
        open_timeout: As for ``Protocol.set_timeouts``.
        ping_interval: As for ``Protocol.set_timeouts``.
        ping_timeout: As for ``Protocol.set_timeouts``.
        close_timeout: As for ``Protocol.set_timeouts``.
        write_deadline: As for ``Protocol.set_backpressure``.

    Raises:
        TypeError, ValueError: If one isn't acceptable; the engine would raise the same.
    """
    size_limits(max_size)
    queue_marks(max_queue)
    duration("open_timeout", open_timeout)
    ping_interval_of(ping_interval)
    duration("ping_timeout", ping_timeout)
    duration("close_timeout", close_timeout)
    write_deadline_of(write_deadline)
