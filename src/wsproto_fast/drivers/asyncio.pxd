# cython: language_level=3
"""What carries messages between transports, engines, and coroutines; see asyncio.pyx."""

from libc.stdint cimport uint64_t

from wsproto_fast cimport Backpressure, PreparedMessage, Protocol

from ._timers cimport Timed, Timers


# What send() leaves to its caller; names of this module in Python, too.
cpdef enum:
    NOTHING = 0
    DRAIN = 1
    SLOW_PATH = 2
    YIELD = 3


cdef class TransportDriver(Timed):
    cdef Protocol _protocol
    cdef object _connection
    cdef Timers _timers
    cdef object _transport
    cdef object _write                  # once exposed, to see whether it is another one now
    cdef readonly int descriptor        # of the socket, to write past the transport; -1 where only that can
    cdef bint _buffering                # when last asked, that had something to write
    cdef uint64_t _handed_over          # bytes that it was given, which is all that it takes while it has

    cdef object _future                 # what a coroutine that receives waits on; None before one has
    cdef object _context                # the context of the task that waits
    cdef bint _waiting                  # a coroutine waits, and hasn't been told to go on
    cdef bint _suspended
    cdef public str receiver            # what it is doing, for error messages; None if nobody receives
    cdef public bint streaming          # it takes single fragments

    cdef bint _listening                # callbacks take what is received
    cdef bint _in_turn                  # a flush follows at the end of buffer_updated()
    cdef bint _wrote                    # the first message of this turn was written at once
    cdef bint _flush_scheduled
    cdef public bint reading_paused
    cdef public bint writing_paused
    cdef public bint sending_fragments
    cdef public bint opening            # the opening handshake isn't complete
    cdef readonly bint exposed            # the application has the transport, and may close it
    cdef readonly object failure        # the exception of writing, if that failed
    cdef readonly bint given_up         # the transport is of no use any more
    cdef readonly double timer_time     # when the engine is going to be called; infinite if no timer is set
    cdef int _action
    cdef bint _lost

    cdef int _update(self) except -1
    cdef int _set_timer(self, double deadline) except -1
    cdef int _buffer_updated(self, Py_ssize_t nbytes) except -1
    cdef int _go_on_listening(self) except -1
    cpdef object take(self, decode=*)
    cdef object begin_waiting(self, str name)
    cdef int _wake(self) except -1
    cdef int _wake_later(self) except -1
    cpdef int send(self, message, text, compress) except -1
    cdef int _sent(self, int activity) except -1
    cdef bint _offer(self, PreparedMessage message, compress, Backpressure terms) except -1
    cdef int _flush(self) except -1
    cdef bint _write_past(self, bytes piece) except -1
    cdef int _hand_over(self, data) except -1
    cpdef bint is_gone(self) except -1
    cdef int _give_up(self, exc, bint abort) except -1
    cpdef int stop_waiting(self) except -1
