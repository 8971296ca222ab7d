"""Limits on what a peer sends in a given time: token buckets, in the engine's time.

Whether there is room for a frame is asked when its header is known, before its payload has cost anything.
"""

cimport cython
from libc.math cimport INFINITY


@cython.final
cdef class Bucket:
    """Tokens for messages or bytes.

    Args:
        rate: How fast it fills, and how full it gets.
        unit: What it counts.
        now: Current time.
    """

    def __cinit__(self, rate, str unit, double now):
        self.rate = rate
        self.unit = unit
        self._per_second = rate.per_second
        self._burst = self._level = rate.burst
        self._time = now
        self.closes = rate.exceeded == "close"
        self.blocked_until = -INFINITY

    cdef bint take(self, double amount, double now) noexcept:
        """Take tokens; return False if there is none, and the connection is to be closed."""
        self._level = min(self._burst, self._level + (now - self._time) * self._per_second)
        self._time = now
        if self.closes:
            if self._level < 1:
                return False
            self._level -= amount
            return True
        self._level -= amount
        if self._level < 1:
            self.blocked_until = now + (1 - self._level) / self._per_second
        return True


@cython.final
cdef class RateLimiter:
    """The limits of a connection.

    Args:
        messages: Limit on messages, a ``Rate`` or None.
        size: Limit on bytes.
        now: Current time.
    """

    def __cinit__(self, messages, size, double now):
        if messages is not None:
            self.messages = Bucket(messages, "messages", now)
        if size is not None:
            self.size = Bucket(size, "bytes", now)

    cdef Bucket charge(self, double messages, double size, double now):
        """Take the tokens for a frame; return the bucket that has none, if the connection is to be closed.

        What isn't the first frame of its message takes none of those for messages, and needs none.
        """
        if messages and self.messages is not None and not self.messages.take(messages, now):
            return self.messages
        if self.size is not None and not self.size.take(size, now):
            return self.size
        return None

    cdef bint blocked(self, double now) noexcept:
        """Tell whether the peer has to wait."""
        return (self.messages is not None and self.messages.blocked_until > now) or (
            self.size is not None and self.size.blocked_until > now
        )

    cdef double next_time(self, double now) noexcept:
        """Return the time until which it has to wait, infinite if it hasn't."""
        cdef double time = -INFINITY
        if self.messages is not None:
            time = self.messages.blocked_until
        if self.size is not None:
            time = max(time, self.size.blocked_until)
        return time if time > now else INFINITY
