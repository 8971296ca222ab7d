# cython: language_level=3
"""What carries messages between transports, engines, and coroutines; see asyncio.pyx."""

from libc.stdint cimport uint8_t, uint64_t

from wsproto_fast cimport Backpressure, PreparedMessage, Protocol, flag

from ._timers cimport Timed, Timers


# What send() leaves to its caller; names of this module in Python, too.
cpdef enum:
    NOTHING = 0
    DRAIN = 1
    SLOW_PATH = 2
    YIELD = 3


cdef class TransportDriver(Timed):
    cdef Timers _timers
    cdef Protocol _protocol
    cdef object _connection
    cdef object _transport
    cdef object _write                  # once exposed, to see whether it is another one now
    cdef uint64_t _handed_over          # bytes that the transport was given, which is all that it takes while it has
    cdef readonly double timer_time     # when the engine is going to be called; infinite if no timer is set
    cdef readonly object failure        # the exception of writing, if that failed

    cdef object _future                 # what a coroutine that receives waits on; None before one has
    cdef object _context                # the context of the task that waits
    cdef public str receiver            # what it is doing, for error messages; None if nobody receives

    cdef void* _vectorcall              # what calling this object does: buffer_updated()

    cdef readonly int descriptor        # of the socket, to write past the transport; -1 where only that can
    cdef uint8_t _action
    cdef uint8_t _lines                 # what its writelines() is good for; see _transports.pxd
    cdef flag _handing_over             # frames are being written in parts: nothing else may come between them
    cdef flag _buffering                # when last asked, the transport had something to write
    cdef flag _lost

    cdef flag _waiting                  # a coroutine waits, and hasn't been told to go on
    cdef flag _waking                   # it is about to be told, unless it waits for the end of a message
    cdef flag _suspended
    cdef public flag streaming          # it takes single fragments
    cdef flag _listening                # callbacks take what is received
    cdef flag _in_turn                  # a flush follows at the end of buffer_updated()
    cdef flag _wrote                    # the first message of this turn was written at once
    cdef flag _flush_scheduled
    cdef public flag reading_paused
    cdef public flag writing_paused
    cdef public flag sending_fragments
    cdef public flag opening            # the opening handshake isn't complete
    cdef readonly flag exposed          # the application has the transport, and may close it
    cdef readonly flag given_up         # the transport is of no use any more

    cdef int _update(self) except -1
    cdef int _update_timer(self) except -1
    cdef int _set_timer(self, double deadline) except -1
    cdef int _received(self, Py_ssize_t nbytes) except -1
    cdef int _buffer_updated(self, Py_ssize_t nbytes) except -1
    cdef int _go_on_listening(self) except -1
    cpdef object take(self, decode=*)
    cdef object begin_waiting(self, str name)
    cdef int _wake_for(self, int activity) except -1
    cdef int _wake(self) except -1
    cdef int _wake_later(self) except -1
    cpdef int send(self, message, text, compress) except -1
    cdef int _sent(self, int activity) except -1
    cdef bint _offer(self, PreparedMessage message, compress, Backpressure terms) except -1
    cdef int _flush(self) except -1
    cdef bint _write_past(self, bytes piece) except -1
    cdef int _flush_parts(self) except -1
    cdef int _write_parts(self) except -1
    cdef bint _may_write_past(self) except -1
    cdef int _hand_over_parts(self, list parts, Py_ssize_t sent) except -1
    cdef int _hand_over_lines(self, list parts) except -1
    cdef int _hand_over(self, data, Py_ssize_t size) except -1
    cpdef bint is_gone(self) except -1
    cdef int _give_up(self, exc, bint abort) except -1
    cpdef int stop_waiting(self) except -1
    cdef int was_abandoned(self) except -1
