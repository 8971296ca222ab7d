# cython: binding=False
"""The path of a message between a socket, the engine, and the threads that use a connection, compiled.

No protocol rule is here. What is: one mutex per connection, without which its engine is never entered; the
role of the reader, which at most one thread has, and which it has while it is blocked in a system call, with
the mutex released; the order of what is written; and who does the work when no thread of the program does.

Being compiled keeps it small per message, and sound: no signal handler, hence no KeyboardInterrupt, comes
between the steps of what is done with the mutex held.
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
from wsproto_fast._queue cimport ATTENTION, FLUSH, MESSAGE
from wsproto_fast._sender cimport ABORT, CLOSE, CONNECTING, HALF_CLOSE, KEEP, OPEN, PreparedMessage

from wsproto_fast.exceptions import ConcurrencyError


# Where calls can't be told one by one not to block, sockets don't, and what would is waited for first.
cdef int DONTWAIT = getattr(socket, "MSG_DONTWAIT", 0)
cdef bint BLOCKING = DONTWAIT != 0
cdef object SHUT_WR = socket.SHUT_WR
cdef object SHUT_RDWR = socket.SHUT_RDWR
cdef object poll = getattr(select, "poll", None)

# What is received at most with one call, in bytes.
cdef Py_ssize_t READ_SIZE = 65536
# A connection that nobody read from for so long is watched by the housekeeper, in seconds.
cdef double TICK = 0.1
# What its thread holds back leaves after so long even if that thread does something else, in seconds.
cdef double HOLD = 0.005


# What the housekeeper watches for; attributes of this module, too.
cpdef enum:
    NOTHING = 0
    READ = 1
    WRITE = 2


# Who receives.
cdef enum:
    NOBODY = 0
    RECV = 1
    STREAMING = 2

cdef tuple _receivers = ("nothing", "recv", "recv_streaming")


@cython.final
cdef class Memory:
    """Memory to receive into. Of a large one, only the pages that were received into are in use."""

    cdef char* _data
    cdef Py_ssize_t _size

    def __cinit__(self, Py_ssize_t size):
        self._data = <char*>malloc(size)
        if self._data == NULL:
            raise MemoryError
        self._size = size

    def __dealloc__(self):
        free(self._data)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self._data, self._size, 0, flags)


# ---------------------------------------------------------------------- the housekeeper's inbox


@cython.final
cdef class Inbox:
    """What threads leave for the housekeeper: which connections to tend, and when.

    Args:
        start: Called to start the housekeeper's thread.

    Attributes:
        wake: Called to end the housekeeper's sleep; set by its thread.
    """

    cdef cython.pymutex _mutex
    cdef public object wake
    cdef object _start
    cdef list _posts
    cdef bint _running
    cdef double _until            # when the housekeeper's sleep ends anyway; in the past while it is awake
    cdef readonly Py_ssize_t live       # connections
    cdef readonly Py_ssize_t gone       # connections closed since forget()

    def __init__(self, start):
        self._start = start
        self._posts = []
        self._until = -INFINITY

    cdef int attach(self) except -1:
        """Count a connection; start the thread for the first one."""
        cdef bint start
        self._mutex.acquire()
        self.live += 1
        start = not self._running
        self._running = True
        self._mutex.release()
        if start:
            self._start()

    cdef int detach(self) except -1:
        cdef bint last
        self._mutex.acquire()
        self.live -= 1
        self.gone += 1
        last = self.live == 0
        self._mutex.release()
        if last:
            self._ring()

    cdef int post(self, Pump pump, double when) except -1:
        """Have a connection tended at a time."""
        # Nothing is allocated with the mutex held: finalizers might run, and come here.
        cdef tuple entry = (when, pump)
        cdef bint wake
        self._mutex.acquire()
        self._posts.append(entry)
        wake = when < self._until
        if wake:
            self._until = -INFINITY
        self._mutex.release()
        if wake:
            self._ring()

    cdef int _ring(self) except -1:
        if self.wake is not None:
            try:
                self.wake(b"\0")
            except OSError:
                pass  # it was rung often enough, or the thread has ended

    def take(self) -> list:
        """Return and forget pairs of a time and a connection."""
        cdef list empty = []
        self._mutex.acquire()
        posts, self._posts = self._posts, empty
        self._mutex.release()
        return posts

    def sleep(self, double until) -> bool:
        """Tell that the housekeeper sleeps; return False if there is something for it."""
        cdef bint idle
        self._mutex.acquire()
        idle = not self._posts
        if idle:
            self._until = until
        self._mutex.release()
        return idle

    def awake(self) -> None:
        """Tell that the housekeeper is awake."""
        self._until = -INFINITY

    def forget(self) -> None:
        """Count closed connections anew."""
        self.gone = 0

    def finish(self) -> bool:
        """Tell that the thread ends; return False if it mustn't."""
        cdef bint end
        self._mutex.acquire()
        end = self.live == 0 and not self._posts
        if end:
            self._running = False
            self._until = -INFINITY
        self._mutex.release()
        return end


cdef Inbox _inbox = None


def set_inbox(Inbox inbox not None) -> None:
    """Have connections use an inbox; after a fork, also those that had another one."""
    global _inbox
    _inbox = inbox


# ---------------------------------------------------------------------- waiting for a socket


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


# ---------------------------------------------------------------------- the connection


@cython.final
cdef class Pump:
    """Moves messages for one connection.

    Args:
        protocol: Engine of the connection.
        sock: Connected TCP or Unix socket.
        tls: What encrypts, or None.
    """

    cdef cython.pymutex _mutex
    cdef unsigned long _owner           # thread that holds the mutex; 0 if none does

    cdef Protocol _protocol
    cdef object _tls
    cdef Inbox _inbox
    cdef readonly object socket
    cdef object _recv_into
    cdef object _send
    cdef Memory _memory                 # where encrypted bytes are received
    cdef bytes _early                   # received before there was this object

    cdef public object before_use       # called once, before the connection is used; or None
    cdef bint _entered                  # a callback of the program may be running inside the engine
    cdef int _receiver                  # who takes messages or fragments
    cdef bint _taking                   # a fragment is being waited for
    cdef bint _reading                  # a thread is blocked in reading, or about to be
    cdef unsigned long _reader          # the last one that was
    cdef uint64_t _reads                # how often that happened
    cdef int _users                     # threads in system calls on the socket; it can't be closed before
    cdef list _waiters                  # locks of the threads that wait for a change

    cdef bytes _piece                   # what is being written, or None
    cdef Py_ssize_t _piece_sent
    cdef uint64_t _taken                # bytes taken from the engine
    cdef uint64_t _sent                 # of these, written; counted in pieces
    cdef int _senders                   # threads that wait until they can write
    cdef bint _held                     # output waits for what the same thread sends next
    cdef object _failure                # why writing failed
    cdef bint _half_closed
    cdef bint _lost                     # the TCP connection is gone as far as the engine is concerned
    cdef bint _closing
    cdef readonly bint closed           # the socket is closed

    # When the housekeeper comes; infinite if it doesn't.
    cdef double _timer_time             # for the engine's deadlines
    cdef double _hold_time              # for what is held back
    cdef double _list_time              # to see whether somebody reads
    cdef uint64_t _list_reads
    cdef bint _nobody_reads             # to watch at once
    cdef int _watched                   # what it is watched for

    # What is left to do once the mutex is released.
    cdef bint _chores
    cdef list _events
    cdef bint _close_due

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
        self._inbox = _inbox
        self._inbox.attach()

    # ------------------------------------------------------------------ the mutex

    cdef int _lock(self) except -1:
        cdef unsigned long thread = PyThread_get_thread_ident()
        if self._owner == thread:
            # A logging handler, an extension or a finalizer of the program runs inside the engine.
            raise ConcurrencyError("the connection is being used by the calling thread already")
        if self._inbox is not _inbox:
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
        self._inbox = _inbox
        self._timer_time = self._hold_time = self._list_time = INFINITY
        self._watched = NOTHING
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
        if self._reading or self._lost or self._chores:
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
        if self._watched:
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
        if self._users == 0 and not self._watched and not self._closing:
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

    # ------------------------------------------------------------------ receiving messages

    def recv(self, timeout, decode):
        """Return the next message.

        Raises:
            TimeoutError: If there is none after ``timeout`` seconds.
            ConnectionClosed: If there won't be one.
            ConcurrencyError: If another thread receives.
        """
        cdef Protocol protocol = self._protocol
        cdef double deadline = INFINITY
        if self.before_use is not None:
            self._warn()
        self._lock()
        try:
            if self._receiver != NOBODY:
                raise self._concurrent_receiver("recv")
            if timeout is not None:
                deadline = self._deadline(timeout)
            while True:
                if decode is not None:
                    # Failing to decode fails the connection.
                    protocol._now = monotonic()
                message = protocol._next_message(decode)
                if message is not None:
                    self._reader = self._owner
                    if self._list_time == INFINITY and not self._watched:
                        self._list(protocol._now)
                    return message
                if decode is not None:
                    self._update()
                if self._lost:
                    raise protocol.close_exc
                self._receiver = RECV
                try:
                    if self._read(deadline):
                        raise TimeoutError(f"timed out in {timeout:.1f}s")
                except BaseException:
                    protocol._queue.reader_waiting = False
                    raise
                finally:
                    self._receiver = NOBODY
        finally:
            self._unlock()

    def next_fragment(self, timeout, decode, bint started):
        """Return the next fragment and whether it is the last one of its message.

        Args:
            timeout: Seconds, or None.
            decode: As in ``recv``.
            started: Whether the caller has the first fragment; others can't receive since.

        Raises:
            TimeoutError, ConnectionClosed, ConcurrencyError: As in ``recv``.
        """
        cdef Protocol protocol = self._protocol
        cdef double deadline = INFINITY
        if self.before_use is not None:
            self._warn()
        self._lock()
        try:
            if self._taking or (not started and self._receiver != NOBODY):
                raise self._concurrent_receiver("recv_streaming")
            if timeout is not None:
                deadline = self._deadline(timeout)
            while True:
                protocol._now = monotonic()
                fragment = protocol.next_fragment(decode)
                if fragment is not None:
                    self._receiver = NOBODY if fragment[1] else STREAMING
                    if self._list_time == INFINITY and not self._watched:
                        self._list(protocol._now)
                    return fragment
                self._update()
                if self._lost:
                    raise protocol.close_exc
                self._receiver = STREAMING
                self._taking = True
                try:
                    if self._read(deadline):
                        raise TimeoutError(f"timed out in {timeout:.1f}s")
                except BaseException:
                    protocol._queue.reader_waiting = False
                    raise
                finally:
                    self._taking = False
                    if not started:
                        self._receiver = NOBODY
        finally:
            self._unlock()

    def stop_streaming(self) -> None:
        """Let others receive; the rest of the message is skipped. Finalizers may call this."""
        self._receiver = NOBODY

    cdef double _deadline(self, timeout) except? -1.0:
        cdef double seconds = timeout
        if seconds != seconds:
            raise ValueError("timeout must be a number of seconds or None; got nan")
        return <double>monotonic() + seconds if seconds > 0 else -INFINITY

    cdef int _warn(self) except -1:
        warn, self.before_use = self.before_use, None
        warn()

    def _concurrent_receiver(self, name):
        return ConcurrencyError(
            f"cannot call {name} while another thread is already running {_receivers[self._receiver]}"
        )

    # ------------------------------------------------------------------ sending

    def send(self, message, text, compress) -> bool:
        """Send a message; it may leave together with what the same thread sends next.

        Returns:
            False if it wasn't sent because it isn't str or bytes-like, or the connection isn't open.

        Raises:
            ConnectionClosed: If the connection breaks.
            ConcurrencyError: If a fragmented message is being sent.
        """
        cdef int activity
        if self.before_use is not None:
            self._warn()
        if not isinstance(message, (bytes, str, bytearray, memoryview)):
            return False
        self._lock()
        try:
            if self._protocol._state != OPEN:
                return False
            activity = self._protocol._send(message, text, compress)
            if (
                activity & (MESSAGE | FLUSH) == MESSAGE
                and self._piece is None
                and self._reader == self._owner
            ):
                # This thread has more messages to handle before it needs to read.
                if not self._held:
                    self._held = True
                    if self._hold_time == INFINITY:
                        self._hold_time = <double>monotonic() + HOLD
                        self._inbox.post(self, self._hold_time)
                return True
            self._flush(True)
            if self._piece is not None:
                self._wait_sent()
            elif self._lost or self._failure is not None:
                self._raise_if_lost()
            return True
        finally:
            self._unlock()

    def enter(self) -> None:
        """Begin to use the engine; the housekeeper doesn't wait for the end of it."""
        if self.before_use is not None:
            self._warn()
        self._lock()
        self._entered = True

    def leave(self) -> None:
        """Do what follows from the use of the engine.

        What is to be sent may still be waiting when this returns; see ``drain``.
        """
        self._entered = False
        try:
            self._update()
        finally:
            self._unlock()

    def call(self, function, *args):
        """Call what uses the engine."""
        self.enter()
        try:
            return function(*args)
        finally:
            self.leave()

    def begin_fragments(self, function, *args):
        """Call what sends the first fragment of a message.

        Raises:
            ConcurrencyError: If a fragmented message is being sent.
        """
        self.enter()
        try:
            if self._protocol._sending_opcode:
                raise ConcurrencyError("a fragmented message is being sent")
            function(*args)
        finally:
            self.leave()

    def drain(self) -> None:
        """Wait until everything was written.

        Raises:
            ConnectionClosed: If the connection breaks.
        """
        self._lock()
        try:
            if self._piece is not None:
                self._wait_sent()
            elif self._lost or self._failure is not None:
                self._raise_if_lost()
        finally:
            self._unlock()

    def broadcast(self, PreparedMessage message not None, compress) -> None:
        """Send a message that goes to many connections; skip a connection that isn't open.

        Raises:
            ConcurrencyError: If a fragmented message is being sent.
            OSError: If writing fails.
        """
        self._lock()
        try:
            if self._protocol._state == OPEN and not self._lost:
                self._protocol._send_prepared(message, compress)
                self._flush(False)
                if self._failure is not None:
                    raise self._failure
        finally:
            self._unlock()

    def ping(self, data, event, acknowledge) -> None:
        """Send a Ping.

        Args:
            data: Payload, or None.
            event: Set when it is answered.
            acknowledge: Whether to set it also when the connection is closed.
        """
        if self.before_use is not None:
            self._warn()
        self._lock()
        try:
            self._protocol.ping(data, (event, acknowledge), now=monotonic())
            self._update()
            self._watch_now()
        finally:
            self._unlock()

    # ------------------------------------------------------------------ opening and closing

    def progress(self, double deadline) -> bool:
        """Read once; return whether the deadline came first."""
        self._lock()
        try:
            return not self._lost and self._read(deadline)
        finally:
            self._unlock()

    @property
    def lost(self) -> bool:
        """Whether the TCP connection is gone."""
        return self._lost

    def close(self, code, reason) -> None:
        """Start the closing handshake; ``finish`` waits for its end.

        Raises:
            ProtocolError: If the code or the reason isn't allowed.
        """
        if self.before_use is not None:
            self._warn()
        self._lock()
        try:
            self._protocol.close(code, reason, now=monotonic())
            self._update()
            self._watch_now()
        finally:
            self._unlock()

    def finish(self) -> None:
        """Wait until the connection is closed, reading until then."""
        self._lock()
        try:
            if self._protocol._state == CONNECTING and not self._protocol.close_expected():
                self._lose(None)
            while not self.closed:
                self._read(INFINITY)
        finally:
            self._unlock()

    def wait_closed(self, timeout) -> bool:
        """Wait until the connection is closed; return whether it is after ``timeout`` seconds."""
        cdef double deadline = INFINITY if timeout is None else self._deadline(timeout)
        self._lock()
        try:
            if not self.closed:
                self._watch_now()
            while not self.closed:
                if self._wait(deadline):
                    return False
            return True
        finally:
            self._unlock()

    def abort(self) -> None:
        """Close the connection at once; what wasn't sent is lost."""
        self._lock()
        try:
            self._lose(None)
        finally:
            self._unlock()

    # ------------------------------------------------------------------ the housekeeper

    cdef int _list(self, double now) except -1:
        """Have the housekeeper find out whether somebody reads."""
        self._list_time = now + TICK
        self._list_reads = self._reads
        self._inbox.post(self, self._list_time)

    cdef int _watch_now(self) except -1:
        """Have the housekeeper watch the socket unless somebody reads."""
        if not self._watched and not self._reading:
            self._nobody_reads = True
            self._inbox.post(self, -INFINITY)

    def watch(self) -> None:
        """Begin to have the housekeeper watch the socket whenever nobody reads."""
        self._lock()
        try:
            if not self._lost:
                self._update()
                self._watch_now()
        finally:
            self._unlock()

    def tend(self, double now, bint readable, bint writable) -> int:
        """Do what is due, in the housekeeper's thread; never block.

        Args:
            now: Current time.
            readable: Whether the socket can be read from.
            writable: Whether it can be written to.

        Returns:
            What to watch the socket for: READ, WRITE, both, or NOTHING. It stays open until the
            housekeeper, having stopped to watch it, calls ``unwatched``.
        """
        cdef Protocol protocol = self._protocol
        cdef int wanted = NOTHING
        if self._entered:
            self._inbox.post(self, now + HOLD)
            return self._watched
        self._lock()
        try:
            if self._hold_time <= now:
                self._hold_time = INFINITY
                if self._held:
                    self._flush(False)
            if self._timer_time <= now:
                self._timer_time = INFINITY
                if not self._lost:
                    if protocol._next_deadline() <= now:
                        protocol.handle_timeout(now)
                    self._update()
                    self._notify()
            if writable or (self._piece is not None and self._senders == 0):
                self._flush(True)
            if readable and not self._lost and not self._reading and protocol._queue.reading_wanted:
                self._read_ready()
                self._notify()
            if self._lost:
                return NOTHING
            if self._reading:
                self._nobody_reads = False
                self._list_time = INFINITY
            elif self._nobody_reads or self._watched:
                wanted = READ
            elif self._list_time <= now:
                self._list_time = INFINITY
                if self._reads == self._list_reads:
                    wanted = READ
                else:
                    self._list(now)
            if wanted and not protocol._queue.reading_wanted:
                wanted = NOTHING
            if self._piece is not None and self._senders == 0:
                wanted |= WRITE
            if wanted & READ:
                self._nobody_reads = False
                self._list_time = INFINITY
            if wanted:
                self._watched = wanted
            return wanted
        finally:
            self._unlock()

    def unwatched(self) -> None:
        """Tell that the socket isn't watched any more."""
        self._lock()
        try:
            self._watched = NOTHING
            if self._lost:
                self._close_when_unused()
        finally:
            self._unlock()
