# cython: language_level=3
"""What a connection has counted; see _statistics.pyx."""

from libc.stdint cimport uint64_t

from ._endpoint cimport Traffic
from ._flag cimport flag
from ._pacing cimport Pacing


# Length of statistics.HANDSHAKE_BOUNDS.
cdef enum:
    BOUNDS = 14


cdef class Statistics(Pacing):
    # --- what programs read ---
    cdef public object close_rcvd
    cdef public object close_sent

    # --- time, in seconds; NaN before ---
    cdef double _begin_time         # of the opening handshake
    cdef double _open_time
    cdef double _end_time
    cdef flag _closing_started      # the clock of the closing handshake runs
    cdef flag _message_cut          # a message ended before its last frame, or wasn't valid after the end

    cdef bint _has_opened(self) noexcept
    cdef uint64_t _queued_bytes(self) noexcept
    cdef uint64_t _buffered_bytes(self, Py_ssize_t unsent) except? 0


cdef class Totals:
    cdef Traffic _sent
    cdef Traffic _received
    cdef uint64_t _dropped
    cdef uint64_t _max_queued_frames
    cdef uint64_t _max_queued_bytes
    cdef uint64_t _max_write_buffer
    cdef uint64_t[BOUNDS] _handshakes
    cdef readonly double handshake_seconds
    # now
    cdef uint64_t _queued_frames
    cdef uint64_t _queued_bytes
    cdef uint64_t _write_buffer
    cdef readonly uint64_t opening
    cdef readonly uint64_t open
    cdef readonly uint64_t closing

    cdef int _add_past(self, Statistics protocol) except -1
