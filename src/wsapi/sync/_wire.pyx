# cython: binding=False
"""What moves bytes between a socket and the engine, for any number of threads, compiled.

Owns one mutex per connection, without which its engine is never entered; the role of the reader,
which at most one thread has, and which it has while it is blocked in a system call, with the mutex
released; the order of what is written; and when the socket may be closed.

Being compiled makes it sound: no signal handler, hence no KeyboardInterrupt, comes between the
steps of what is done with the mutex held.
"""

import select
import socket
from _thread import allocate_lock
from time import monotonic

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.pythread cimport PyThread_get_thread_ident
from libc.math cimport INFINITY, ceil
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc

from wsproto_fast._protocol cimport Protocol
from wsproto_fast._queue cimport ATTENTION
from wsproto_fast._sender cimport ABORT, CLOSE, HALF_CLOSE, KEEP

from ._inbox cimport current_inbox

from wsproto_fast.exceptions import ConcurrencyError


# Where calls can't be told one by one not to block, sockets don't, and what would is waited for first.
cdef int DONTWAIT = getattr(socket, "MSG_DONTWAIT", 0)
cdef bint BLOCKING = DONTWAIT != 0
cdef object SHUT_WR = socket.SHUT_WR
cdef object SHUT_RDWR = socket.SHUT_RDWR
cdef object poll = getattr(select, "poll", None)

# What is received at most with one call, in bytes.
cdef Py_ssize_t READ_SIZE = 65536


@cython.final
cdef class Memory:
    """Memory to receive into. Of a large one, only the pages that were received into are in use."""

    def __cinit__(self, Py_ssize_t size):
        self._data = <char*>malloc(size)
        if self._data == NULL:
            raise MemoryError
        self._size = size

    def __dealloc__(self):
        free(self._data)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self._data, self._size, 0, flags)


cdef bint _wait_ready(sock, bint writing, double deadline) except -1:
    """Wait until a socket can be read from or written to; return False at the deadline."""
    cdef double timeout = -1.0
    if deadline != INFINITY:
        timeout = max(deadline - <double>monotonic(), 0.0)
    if poll is not None:
        poller = poll()
        poller.register(sock.fileno(), select.POLLOUT if writing else select.POLLIN)
        return bool(poller.poll(None if timeout < 0 else min(ceil(timeout * 1000), 2147483000.0)))
    return any(
        select.select(
            [] if writing else [sock],
            [sock] if writing else [],
            [sock] if writing else [],
            None if timeout < 0 else timeout,
        )
    )


cdef class Wire:
    """One connection between a socket and the engine.

    Args:
        protocol: Engine of the connection.
        sock: Connected TCP or Unix socket.
        tls: What encrypts, or None.
    """

    def __init__(self, Protocol protocol not None, sock, tls):
        self._protocol = protocol
        self._tls = tls
        self.socket = sock
        self._recv_into = sock.recv_into
        self._send = sock.send
        self._waiters = []
        self._events = []
        self._timer_time = self._hold_time = self._list_time = INFINITY
        self._memory = Memory(READ_SIZE)
        if tls is None:
            protocol.use_read_buffer(self._memory)
        else:
            self._early = tls.decrypt(b"") or None
        sock.setblocking(BLOCKING)
        self._inbox = current_inbox()
        self._inbox.attach()

    def __del__(self):
        # Whoever was to use it failed, or forgot to close it.
        if not self.closed:
            self._inbox.detach()

    # ------------------------------------------------------------------ the mutex

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
        cdef list events
        cdef bint closing
        if not self._chores:
            self._owner = 0
            self._mutex.release()
            return 0
        self._chores = False
        events, self._events = self._events, []
        closing, self._close_due = self._close_due, False
        self._owner = 0
        self._mutex.release()
        # These run Python code, which may be interrupted.
        try:
            for event in events:
                event.set()
        finally:
            if closing:
                self._close_socket()

    cdef int _change_inbox(self) except -1:
        """Turn to the housekeeper of this process, after a fork."""
        self._inbox = current_inbox()
        self._timer_time = self._hold_time = self._list_time = INFINITY
        self._watched = NOTHING
        self._registered = False
        self._inbox.attach()
        if not self._lost:
            self._inbox.post(self, -INFINITY)

    cdef int _close_socket(self) except -1:
        try:
            self.socket.close()
        finally:
            self._mutex.acquire()
            self.closed = True
            self._notify()
            self._mutex.release()
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
        if self._chores:
            self._unlock()
            self._lock()
            return False
        waiter = allocate_lock()
        waiter.acquire()
        self._waiters.append(waiter)
        self._owner = 0
        self._mutex.release()
        try:
            if deadline == INFINITY:
                notified = waiter.acquire()
            else:
                notified = waiter.acquire(True, min(max(deadline - <double>monotonic(), 0.0), 1e6))
        finally:
            self._mutex.acquire()
            self._owner = PyThread_get_thread_ident()
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        return not notified and <double>monotonic() >= deadline

    # ------------------------------------------------------------------ reading

    cdef bint _read(self, double deadline) except -1:
        """Read from the socket once, or wait while another thread does; the mutex is released meanwhile.

        Returns:
            Whether the deadline came first.
        """
        cdef Py_ssize_t size = -1
        cdef bint ready = True
        cdef object failure = None
        cdef object buffer
        if self._reading or self._lost or self._chores or self._protocol._eof_received:
            return self._wait(deadline)
        if self._early is not None:
            # It came together with the end of the TLS handshake.
            data, self._early = self._early, None
            if self._protocol.receive_data(data, monotonic()) & ATTENTION:
                self._update()
            return False
        if self._protocol._output.size:
            self._flush(False)
            if self._lost:
                return False
        buffer = self._protocol.get_buffer() if self._tls is None else self._memory
        self._reading = True
        self._users += 1
        self._reads += 1
        self._reader = self._owner
        self._owner = 0
        self._mutex.release()
        try:
            if deadline == INFINITY and BLOCKING:
                size = self._recv_into(buffer)
            else:
                ready = _wait_ready(self.socket, False, deadline)
                if ready:
                    size = self._recv_into(buffer, 0, DONTWAIT)
        except BlockingIOError:
            pass  # somebody else, or nothing but a promise of data
        except OSError as exc:
            failure = exc
        finally:
            self._mutex.acquire()
            self._owner = PyThread_get_thread_ident()
            self._reading = False
            self._users -= 1
            if self._lost:
                self._close_when_unused()
        if not self._lost and ready:
            self._received(size, failure)
        self._notify()
        return not ready

    cdef bint _read_ready(self) except -1:
        """Read from the socket what is there; return whether that was something."""
        cdef Py_ssize_t size = -1
        cdef object failure = None
        try:
            size = self._recv_into(
                self._protocol.get_buffer() if self._tls is None else self._memory, 0, DONTWAIT
            )
        except BlockingIOError:
            pass
        except OSError as exc:
            failure = exc
        self._received(size, failure)
        return size > 0

    cdef bint _reading_wanted(self) noexcept:
        return self._protocol._queue.reading_wanted and not self._protocol._eof_received

    cdef int _received(self, Py_ssize_t size, failure) except -1:
        """Process what was read: ``size`` bytes, the end of the stream, nothing (-1), or a failure."""
        cdef double now
        cdef int activity
        if size < 0:
            if failure is not None:
                self._lose(failure if self._failure is None else self._failure)
            return 0
        now = monotonic()
        if self._tls is not None:
            activity = self._received_encrypted(size, now)
        elif size:
            activity = self._protocol._buffer_updated(size, now)
        elif self._failure is not None:
            self._lose(self._failure)
            return 0
        else:
            activity = self._protocol.receive_eof(now)
        if activity & ATTENTION:
            self._update()

    cdef int _received_encrypted(self, Py_ssize_t size, double now) except -1:
        cdef int activity = 0
        cdef bytes data
        try:
            if size == 0:
                self._tls.receive_eof()
            elif self._half_closed:
                return 0  # whatever it is, it comes too late
            data = self._tls.decrypt(memoryview(self._memory)[:size])
        except OSError as exc:
            self._lose(exc)
            return 0
        if PyBytes_GET_SIZE(data):
            activity = self._protocol.receive_data(data, now)
        if self._tls.eof:
            activity |= self._protocol.receive_eof(now)
        # TLS may have something to say, too.
        return activity | ATTENTION

    # ------------------------------------------------------------------ what follows from changes

    cdef int _update(self) except -1:
        """Do what follows from a change in the engine."""
        cdef Protocol protocol = self._protocol
        cdef double deadline
        if protocol._acknowledged is not None:
            for waiter, _ in protocol.acknowledged_pings():
                self._events.append(waiter[0])
                self._chores = True
        if self._lost:
            return 0
        self._flush(False)
        if self._lost:
            return 0
        # A call that is due earlier stays: it costs less to find that nothing is due.
        deadline = protocol._next_deadline()
        if deadline < self._timer_time:
            self._timer_time = deadline
            self._inbox.post(self, deadline)

    cdef int _act(self) except -1:
        """Do to the socket what the engine wants, after everything was written."""
        cdef int action = self._protocol.transport_action
        if action >= CLOSE:
            self._lose(None)
        elif action == HALF_CLOSE and not self._half_closed:
            if self._tls is not None and not self._tls.closed:
                self._tls.close()
                self._flush(False)  # which comes back here
                return 0
            self._half_closed = True
            try:
                self.socket.shutdown(SHUT_WR)
            except OSError:
                pass  # the peer is gone; reading tells

    cdef int _lose(self, exc) except -1:
        """Take the TCP connection for gone; its socket is closed as soon as no thread uses it."""
        if self._lost:
            return 0
        self._lost = True
        self._protocol.connection_lost(exc)
        for event, acknowledge in self._protocol.abandoned_pings():
            if acknowledge:
                self._events.append(event)
                self._chores = True
        if self._tls is not None and self._piece is None:
            self._send_close_notify()
        self._piece = None
        self._held = False
        if self._users:
            try:
                self.socket.shutdown(SHUT_RDWR)
            except OSError:
                pass  # whoever is blocked is woken by the cause of that
        if self._registered:
            self._inbox.post(self, -INFINITY)
        self._close_when_unused()
        self._notify()

    cdef int _send_close_notify(self) except -1:
        try:
            self._tls.close()
            data = self._tls.take_output()
            if data:
                self._send(data, DONTWAIT)
        except OSError:
            pass  # a courtesy

    cdef int _close_when_unused(self) except -1:
        if self._users == 0 and not self._registered and not self._closing:
            self._closing = True
            self._close_due = True
            self._chores = True

    # ------------------------------------------------------------------ writing

    cdef int _flush(self, bint waiting) except -1:
        """Write what there is to send as far as the network takes it.

        Args:
            waiting: Whether the caller is going to wait for the rest.
        """
        cdef Protocol protocol = self._protocol
        cdef bytes data
        cdef Py_ssize_t sent, size = 0
        if self._lost:
            return 0
        if protocol.transport_action == ABORT:
            return self._lose(None)
        if self._failure is not None:
            return self._drop_output()
        self._held = False
        while True:
            try:
                data = self._piece
                if data is None:
                    data = self._next_piece()
                    if data is None:
                        break
                size = PyBytes_GET_SIZE(data)
                if self._piece_sent:
                    sent = self._send(memoryview(data)[self._piece_sent :], DONTWAIT)
                else:
                    sent = self._send(data, DONTWAIT)
            except BlockingIOError:
                sent = 0
            except OSError as exc:
                return self._writing_failed(exc)
            self._piece_sent += sent
            if self._piece_sent < size:
                if self._piece is None:
                    self._piece = data
                    protocol.pause_writing()
                if not waiting and self._senders == 0 and not self._watched & WRITE:
                    # The housekeeper writes the rest.
                    self._inbox.post(self, -INFINITY)
                return 0
            if self._piece is not None:
                self._piece = None
                protocol.resume_writing()
            self._sent = self._taken
        if protocol.transport_action != KEEP:
            self._act()

    cdef bytes _next_piece(self):
        """Return what is to be written next, or None."""
        cdef bytes data = self._protocol._output.take()
        self._taken += PyBytes_GET_SIZE(data)
        if self._tls is not None:
            if PyBytes_GET_SIZE(data):
                self._tls.encrypt(data)
            data = self._tls.take_output()
        self._piece_sent = 0
        return data if PyBytes_GET_SIZE(data) else None

    cdef int _writing_failed(self, exc) except -1:
        """Stop writing. What the peer sent before it left tells more than the failure does."""
        self._failure = exc
        self._drop_output()
        if self._reading:
            try:
                self.socket.shutdown(SHUT_RDWR)
            except OSError:
                pass
            return 0
        while not self._lost and self._protocol._queue.reading_wanted and self._read_ready():
            pass
        self._lose(exc)

    cdef int _drop_output(self) except -1:
        self._piece = None
        self._held = False
        while PyBytes_GET_SIZE(self._protocol._output.take()):
            pass

    cdef int _wait_sent(self) except -1:
        """Wait until what there is to send now was written; the mutex is released meanwhile."""
        cdef uint64_t mark = self._taken + self._protocol._output.size
        while self._sent < mark and not self._lost:
            if self._failure is not None:
                self._wait(INFINITY)
                continue
            self._senders += 1
            self._users += 1
            self._owner = 0
            self._mutex.release()
            try:
                _wait_ready(self.socket, True, INFINITY)
            finally:
                self._mutex.acquire()
                self._owner = PyThread_get_thread_ident()
                self._senders -= 1
                self._users -= 1
                if self._lost:
                    self._close_when_unused()
                elif self._senders == 0:
                    # It may be an exception that ends this.
                    self._inbox.post(self, -INFINITY)
            self._flush(True)
        self._raise_if_lost()

    cdef int _raise_if_lost(self) except -1:
        while self._failure is not None and not self._lost:
            self._wait(INFINITY)  # for the thread that reads what is left
        if self._lost:
            raise self._protocol.close_exc
