# cython: language_level=3
"""Limits on what a peer sends in a given time; see _rates.pyx."""

from libc.stdint cimport uint64_t


cdef class Bucket:
    cdef readonly object rate       # the Rate that it enforces
    cdef readonly str unit          # of what it counts
    cdef double _level
    cdef double _time
    cdef double _per_second
    cdef double _burst
    cdef bint closes                # the connection, when it is empty
    cdef double blocked_until       # nothing is welcome before

    cdef bint take(self, double amount, double now) noexcept


cdef class RateLimiter:
    cdef readonly Bucket messages
    cdef readonly Bucket size
    cdef uint64_t pongs             # those that answer nothing, so far

    cdef Bucket charge(self, double messages, double size, double now)
    cdef bint blocked(self, double now) noexcept
    cdef double next_time(self, double now) noexcept
