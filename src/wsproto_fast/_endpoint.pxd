# cython: language_level=3
"""What all layers of a connection share; see _endpoint.pyx."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ._flag cimport flag
from ._frames cimport OP_PING, OP_PONG


# The values of frames.State.
cdef enum:
    CONNECTING = 0
    OPEN = 1
    CLOSING = 2
    CLOSED = 3


# What the driver owes its transport; the values of activity.py.
cdef enum:
    KEEP = 0
    HALF_CLOSE = 1
    CLOSE = 2
    ABORT = 3


# What passed in one direction. Messages and their bytes aren't neighbours: compilers would add both at once, with
# vectors, which takes longer.
cdef struct Traffic:
    uint64_t messages   # frames that ended one
    uint64_t wire       # bytes, whatever they were
    uint64_t frames
    uint64_t payload    # bytes in frames of messages, as extensions made them
    int64_t change      # bytes that these have more before extensions transform them
    uint32_t pings
    uint32_t pongs


cdef inline void count_frame(Traffic* traffic, int opcode, bint fin, Py_ssize_t size) noexcept nogil:
    """Count a frame. `fin` must be 0 or 1."""
    traffic.frames += 1
    if opcode & 8:
        traffic.pings += opcode == OP_PING
        traffic.pongs += opcode == OP_PONG
    else:
        traffic.messages += <uint64_t>fin
        traffic.payload += <uint64_t>size


cdef bytes to_bytes(str name, data)
cdef object state_of(int state)


# Attributes stand by their size, in each layer: an idle connection is small that way. Each layer begins at a multiple
# of eight bytes, which is why some single bytes of a layer are in one below, where there is room for them.
cdef class Endpoint:
    # --- role, state, log ---
    cdef object _id
    cdef object _logger
    cdef dict _logger_cache
    cdef object _connection         # weak reference, or the connection itself until it is lost
    cdef double _now                # as last told
    cdef uint8_t _state
    cdef readonly uint8_t transport_action
    cdef uint8_t _activity
    cdef flag _is_client
    cdef flag _adapter_due          # the logger is yet to tell about the connection
    cdef flag _quiet                # nothing is logged at DEBUG in this turn
    cdef flag _eof_queued
    cdef flag _eof_sent

    cdef int _set_logger(self, logger) except -1
    cdef object _subject(self)
    cdef object _attached(self)
    cdef int _let_go(self) except -1
    cdef double _time(self, now) except? -1.0

    # --- for compiled drivers; see __init__.pxd ---
    cdef double actual_time(self, double now) except? -1.0

    cdef int begin_turn(self) except -1
    cdef int end_turn(self) noexcept
    cdef bint _debug(self) except -1
    cdef bint _enabled(self, object level) except -1
    cdef int _send_eof(self) except -1
    cdef int _require_state(self, bint closing_too) except -1
