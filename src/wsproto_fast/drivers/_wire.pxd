# cython: language_level=3
"""What moves bytes between a socket and the engine; see _wire.pyx."""

cimport cython
from libc.stdint cimport uint64_t

from wsproto_fast cimport Protocol

from ._inbox cimport Inbox
from .tls cimport TLS


cdef class Wire:
    cdef cython.pymutex _mutex
    cdef unsigned long _owner           # thread that holds the mutex; 0 if none does

    cdef Protocol _protocol
    cdef TLS _tls
    cdef Inbox _inbox
    cdef readonly object socket
    cdef object _memory                 # what is received into, unless it is a message's own memory
    cdef bytes _early                   # received before there was this object

    cdef bint _reading                  # a thread is blocked in reading, or about to be
    cdef unsigned long _reader          # the last one that was
    cdef uint64_t _reads                # how often that happened
    cdef bint _limited                  # blocked in reading from the socket, a thread is now and then woken
    cdef int _users                     # threads in system calls on the socket; it can't be closed before
    cdef list _waiters                  # locks of the threads that wait for a change

    cdef bytes _piece                   # what is being written, or None; empty if TLS has to read first
    cdef Py_ssize_t _piece_sent
    cdef uint64_t _taken                # bytes taken from the engine
    cdef uint64_t _sent                 # of these, written; counted in pieces
    cdef int _senders                   # threads that wait until they can write
    cdef bint _held                     # output waits for what the same thread sends next
    cdef object _failure                # why writing failed
    cdef bint _half_closed
    cdef bint _lost                     # the TCP connection is gone as far as the engine is concerned
    cdef readonly bint closed           # the socket is closed

    # When the housekeeper comes; infinite if it doesn't.
    cdef double _timer_time             # for the engine's deadlines
    cdef double _hold_time              # for what is held back
    cdef double _list_time              # to see whether somebody reads
    cdef uint64_t _list_reads
    cdef bint _nobody_reads             # to watch at once
    cdef int _watched                   # what it watches the socket for
    cdef bint _registered               # which it may still do, and the socket can't be closed before

    # What is left to do once the mutex is released.
    cdef bint _chores
    cdef list _events
    cdef dict _farewells                # what has a method set, which is called when the connection is lost; or None
    cdef bint _close_due
    cdef bint _report_due
    cdef public object reporter         # weak reference to what is called when messages were dropped, or None
    cdef tuple _close_request           # of somebody whom the thread below kept from closing

    cdef int _lock(self) except -1
    cdef int _unlock(self) except -1
    cdef int _do_chores(self) except -1
    cdef int _close_as_requested(self) except -1
    cdef int _change_inbox(self) except -1
    cdef int _close_socket(self) except -1
    cdef int _notify(self) except -1
    cdef bint _wait(self, double deadline) except -1
    cdef int _handle_signals(self) except -1
    cdef bint _read(self, double deadline) except -1
    cdef bint _read_ready(self) except -1
    cdef bint _reading_wanted(self) noexcept
    cdef int _end_reading(self) except -1
    cdef int _received(self, Py_ssize_t size, failure) except -1
    cdef int _received_encrypted(self, Py_ssize_t size, double now) except -1
    cdef int _take_early(self) except -1
    cdef int _decrypted(self, bytes data, double now) except -1
    cdef int _update(self) except -1
    cdef int _note_dropped(self) except -1
    cdef int _act(self) except -1
    cdef int _lose(self, exc) except -1
    cdef int _end(self) except -1
    cdef int _send_close_notify(self) except -1
    cdef int _close_when_unused(self) except -1
    cdef int _flush(self, bint waiting) except -1
    cdef int _keep_piece(self, bytes data) except -1
    cdef int _keep_writing(self) except -1
    cdef int _hold(self) except -1
    cdef bint _blocked(self) noexcept
    cdef bytes _next_piece(self)
    cdef int _writing_failed(self, exc) except -1
    cdef int _drop_output(self) except -1
    cdef int _wait_sent(self) except -1
    cdef bint _wait_writable(self) except -1
    cdef int _raise_if_lost(self) except -1
    cdef int _stop_reading(self) except -1
    cdef int _list(self, double now) except -1
    cdef int _watch_now(self) except -1
