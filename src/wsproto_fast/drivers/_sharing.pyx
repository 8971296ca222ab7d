# cython: binding=False
"""How threads share a connection, one after the other.

Owns the mutex of a connection, without which its engine is never entered; who waits for a change;
and what can't be done with the mutex held.
"""

from _thread import allocate_lock
from time import monotonic

from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport PyThread_get_thread_ident
from libc.math cimport INFINITY

from ._inbox cimport NOTHING, current_inbox
from ._socket_calls cimport milliseconds

from wsproto_fast.exceptions import ConcurrencyError


cdef class Shared:
    """A connection that several threads use."""

    cdef int _lock(self) except -1:
        cdef unsigned long thread = PyThread_get_thread_ident()
        if self._owner == thread:
            # A logging handler, an extension or a finalizer of the program runs inside the engine.
            raise ConcurrencyError("the connection is being used by the calling thread already")
        if self._inbox is not current_inbox():
            self._change_inbox()
        self._mutex.acquire()
        self._owner = thread

    cdef int _unlock(self) except -1:
        if not self._chores:
            self._owner = 0
            self._mutex.release()
            return 0
        try:
            if self._close_request is not None:
                self._close_as_requested()
        finally:
            self._do_chores()

    cdef int _do_chores(self) except -1:
        """Do what can't be done with the mutex held: it runs Python code, hence signal handlers."""
        cdef list events
        cdef unsigned long thread = PyThread_get_thread_ident()
        # By one thread: without the global lock, two could close its descriptor twice, which may be another's then.
        cdef bint closing = self._close_due and (self._closer == 0 or self._closer == thread)
        cdef bint reporting = self._report_due
        self._report_due = False
        events, self._events = self._events, []
        if closing:
            self._closer = thread
        self._chores = False
        self._owner = 0
        self._mutex.release()
        try:
            if closing:
                self._close_socket()
        finally:
            try:
                while events:
                    events[0].set()
                    del events[0]
            except BaseException:
                # An exception of a signal handler. Those that wait for the others don't wait in vain.
                self._mutex.acquire()
                self._events += events
                self._chores = True
                self._mutex.release()
                self._inbox.post(self, -INFINITY)
                raise
        if reporting:
            report = self.reporter()
            if report is not None:
                report()

    cdef int _close_as_requested(self) except -1:
        code, reason = self._close_request
        self._close_request = None
        self._protocol.close(code, reason, now=monotonic())
        self._update()
        self._watch_now()

    cdef int _change_inbox(self) except -1:
        """Turn to the housekeeper of this process, after a fork."""
        if self._inbox.clock is not None:
            return 0  # it has a housekeeper of its own
        if self._owner:
            # What it was doing will never be completed here.
            raise ConcurrencyError("another thread was using the connection when the process forked")
        self._inbox = current_inbox()
        self._timer_time = self._hold_time = self._list_time = INFINITY
        self._watched = NOTHING
        self._registered = False
        # Threads that don't exist here.
        self._reading = False
        self._users = self._senders = 0
        self._waiters = []
        if self._closer:
            self._closer = 0
            self._chores = True
        self._inbox.attach()
        if not self._lost:
            self._inbox.post(self, -INFINITY)

    cdef int _close_socket(self) except -1:
        cdef bint first
        try:
            self.socket.close()
        finally:
            self._mutex.acquire()
            first = not self.closed
            self.closed = True
            self._close_due = False
            self._closer = 0
            self._chores = len(self._events) > 0
            self._notify()
            self._mutex.release()
            if first:
                self._inbox.detach()

    cdef int _notify(self) except -1:
        """Let the threads that wait for a change look again."""
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                waiter.release()

    cdef bint _wait(self, double deadline) except -1:
        """Wait for a change, the mutex released; return whether the deadline came first."""
        cdef bint notified = False
        cdef int timeout
        if self._closer == self._owner:
            self._chores = True  # a signal handler has interrupted who closes the socket: it is closed here
        if self._chores:
            self._unlock()
            self._lock()
            return False
        # A signal handler that interrupts this may use the connection: no role is held.
        clock = self._inbox.clock
        if clock is None:
            waiter = allocate_lock()
            waiter.acquire()
        else:
            waiter = clock.waiter()
        self._waiters.append(waiter)
        self._owner = 0
        self._mutex.release()
        try:
            if clock is not None:
                notified = waiter.wait(deadline)
            else:
                timeout = milliseconds(deadline)
                notified = waiter.acquire(True, timeout if timeout < 0 else timeout / 1000.0)
                if not notified:
                    PyErr_CheckSignals()
        finally:
            self._mutex.acquire()
            self._owner = PyThread_get_thread_ident()
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        return not notified and self._inbox.now() >= deadline

    cdef int _handle_signals(self) except -1:
        """Run signal handlers, which may use the connection: the mutex is released, no role is held."""
        self._stop_reading()  # they may take their time
        self._owner = 0
        self._mutex.release()
        try:
            PyErr_CheckSignals()
        finally:
            self._mutex.acquire()
            self._owner = PyThread_get_thread_ident()

    # ------------------------------------------------------------------ what Wire overrides

    cdef int _update(self) except -1:
        """Do what follows from a change in the engine."""
        raise NotImplementedError

    cdef int _stop_reading(self) except -1:
        """Have the housekeeper come, unless it is here: the calling thread may not read again."""
        raise NotImplementedError

    cdef int _watch_now(self) except -1:
        """Have the housekeeper watch the socket unless somebody reads."""
        raise NotImplementedError
