# cython: language_level=3
"""How threads share a connection; see _sharing.pyx."""

cimport cython

from wsproto_fast cimport Protocol

from ._inbox cimport Inbox


cdef class Shared:
    cdef cython.pymutex _mutex
    cdef unsigned long _owner           # thread that holds the mutex; 0 if none does

    cdef Protocol _protocol
    cdef Inbox _inbox
    cdef readonly object socket

    cdef bint _reading                  # a thread is blocked in reading, or about to be
    cdef int _users                     # threads in system calls on the socket; it can't be closed before
    cdef int _senders                   # threads that wait until they can write
    cdef list _waiters                  # locks of the threads that wait for a change
    cdef bint _lost                     # the TCP connection is gone as far as the engine is concerned
    cdef readonly bint closed           # the socket is closed

    # When the housekeeper comes; infinite if it doesn't.
    cdef double _timer_time             # for the engine's deadlines
    cdef double _hold_time              # for what is held back
    cdef double _list_time              # to see whether somebody reads
    cdef int _watched                   # what it watches the socket for
    cdef bint _registered               # which it may still do, and the socket can't be closed before

    # What is left to do once the mutex is released.
    cdef bint _chores
    cdef list _events
    cdef dict _farewells                # what has a method set, which is called when the connection is lost; or None
    cdef bint _close_due
    cdef unsigned long _closer          # thread that closes the socket, the mutex released; 0 if none does
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

    cdef int _update(self) except -1
    cdef int _stop_reading(self) except -1
    cdef int _watch_now(self) except -1
