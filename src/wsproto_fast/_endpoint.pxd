# cython: language_level=3
"""What all layers of a connection share; see _endpoint.pyx."""


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


cdef bytes to_bytes(str name, data)
cdef object state_of(int state)


cdef class Endpoint:
    # --- role, state, log ---
    cdef object _id
    cdef readonly object side
    cdef bint _is_client
    cdef int _state
    cdef object _logger
    cdef object _connection         # weak reference
    cdef bint _adapter_due          # the logger is yet to tell about the connection
    cdef dict _logger_cache
    cdef int _activity
    cdef double _now                # as last told
    cdef readonly int transport_action
    cdef bint _eof_queued
    cdef bint _eof_sent

    cdef object _subject(self)
    cdef double _time(self, now) except? -1.0
    cdef bint _debug(self) except -1
    cdef bint _enabled(self, object level) except -1
    cdef int _send_eof(self) except -1
    cdef int _require_state(self, bint closing_too) except -1
