# cython: binding=False
"""What moves bytes between a socket and the engine, for any number of threads.

Owns the role of the reader, which at most one thread has, and which it has while it is blocked in a
system call, with the mutex released; the order of what is written; and when the socket may be
closed. The mutex, without which the engine is never entered, is that of its base class.

Being compiled makes it sound: no signal handler, hence no KeyboardInterrupt, comes between the
steps of what is done with the mutex held, unless that calls code of the program: a logging handler,
an extension. (What decrypts is an exception, see tls.) Nor does one run while its thread is the
reader, or waits to write: a handler may use the connection that it interrupts the use of, and what
it waits for must not be up to its own thread.
"""

import socket
from time import monotonic

cimport cython
from cpython.bytes cimport PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.pythread cimport PyThread_get_thread_ident
from libc.math cimport INFINITY
from libc.stdint cimport uint64_t

from wsproto_fast cimport ABORT, ATTENTION, CLOSE, HALF_CLOSE, KEEP, Protocol

from ._inbox cimport READ, WRITE, Endpoint, Inbox, current_inbox
from ._sharing cimport Shared
from ._socket_calls cimport (
    INTERRUPTED,
    NOTHING_THERE,
    SYSTEM_CALLS,
    TIMED_OUT,
    Memory,
    receive,
    send,
    send_parts,
    sends_parts,
    wait_writable,
)
from .tls cimport TLS

from . import _housekeeper  # no-cython-lint # it sets the inbox that connections need


cdef object SHUT_WR = socket.SHUT_WR
cdef object SHUT_RDWR = socket.SHUT_RDWR

# What is received at most with one call, in bytes.
cdef Py_ssize_t READ_SIZE = 65536
# A connection that nobody read from for so long is watched by the housekeeper, in seconds.
cdef double TICK = 0.1
# What its thread holds back leaves after so long even if that thread does something else, in seconds.
cdef double HOLD = 0.005


cdef class Wire(Shared):
    """One connection between a socket and the engine.

    Args:
        protocol: Engine of the connection.
        sock: Connected TCP or Unix socket.
        tls: What encrypts, or None.
    """

    # Without these, there is no driver.
    def __cinit__(self, Protocol protocol not None, sock, TLS tls):
        cdef Inbox inbox = (<Endpoint>sock).inbox if isinstance(sock, Endpoint) else current_inbox()
        if inbox is None:
            raise TypeError(f"{type(sock).__name__} has no inbox: Endpoint.__init__() wasn't called")
        self._protocol = protocol
        self._tls = tls
        self.socket = sock
        self._waiters = []
        self._events = []
        self._timer_time = self._hold_time = self._list_time = INFINITY
        self._memory = memoryview(Memory(READ_SIZE))
        if tls is None:
            protocol.use_read_buffer(self._memory)
        else:
            self._early = tls.decrypt(b"")
            if not self._early and not tls.eof:
                self._early = None
        sock.setblocking(SYSTEM_CALLS)
        inbox.attach()
        self._inbox = inbox

    def __del__(self):
        # Whoever was to use it failed, or forgot to close it.
        if self._inbox is not None and not self.closed:
            self._inbox.detach()

    # ------------------------------------------------------------------ reading

    cdef bint _read(self, double deadline) except -1:
        """Read from the socket once, or wait while another thread does; the mutex is released meanwhile.

        Returns:
            Whether the deadline came first.
        """
        cdef Py_ssize_t size = NOTHING_THERE
        cdef object failure = None
        cdef object buffer
        if (
            self._reading
            or self._lost
            or self._chores
            or self._protocol.has_ended()
            or self._protocol.peer_has_to_wait()
        ):
            return self._wait(deadline)
        if self._early is not None:
            self._take_early()
            return False
        if self._protocol.output_left():
            self._flush(False)
            if self._lost or self._chores:
                return False
        buffer = self._protocol.get_buffer() if self._tls is None else self._memory
        self._reading = True
        self._users += 1
        self._reads += 1
        self._reader = self._owner
        self._owner = 0
        self._mutex.release()
        try:
            size = receive(self.socket, buffer, deadline, &self._limited)
        except OSError as exc:
            failure = exc
        finally:
            self._mutex.acquire()
            self._owner = PyThread_get_thread_ident()
            self._reading = False
            self._users -= 1
            if self._lost:
                self._close_when_unused()
        try:
            if size >= 0 or failure is not None:
                if not self._lost:
                    self._received(size, failure)
        finally:
            # Others mustn't wait for what this thread failed to do, whatever that was.
            if self._failure is not None and not self._lost:
                self._end_reading()
            if self._waiters:
                self._notify()
        if size == INTERRUPTED or (size > 0 and not self._protocol.has_fragment()):
            # Unless there are messages, the caller comes back without having run any Python code.
            self._handle_signals()
        return size == TIMED_OUT

    cdef bint _read_ready(self) except -1:
        """Read from the socket what is there; return whether that was something."""
        cdef Py_ssize_t size = NOTHING_THERE
        cdef object failure = None
        if self._early is not None:
            self._take_early()
            return True
        try:
            buffer = self._protocol.get_buffer() if self._tls is None else self._memory
            size = receive(self.socket, buffer, -INFINITY, &self._limited)
        except OSError as exc:
            failure = exc
        if size >= 0 or failure is not None:
            self._received(size, failure)
        return size > 0

    cdef bint _reading_wanted(self) noexcept:
        return self._protocol.wants_reading() and not self._protocol.has_ended()

    cdef int _end_reading(self) except -1:
        """Read what is left after writing failed, and lose the connection."""
        try:
            while not self._lost and self._reading_wanted() and self._read_ready():
                pass
        finally:
            self._lose(self._failure)

    cdef int _received(self, Py_ssize_t size, failure) except -1:
        """Process what was read: ``size`` bytes, the end of the stream, or a failure."""
        cdef double now
        cdef int activity
        if failure is not None:
            return self._lose(failure if self._failure is None else self._failure)
        if size == 0 and self._failure is not None:
            return self._lose(self._failure)
        now = monotonic()
        if self._tls is not None:
            return self._received_encrypted(size, now)
        if size:
            activity = self._protocol.process_buffer(size, now)
        else:
            activity = self._protocol.receive_eof(now)
        if activity & ATTENTION:
            self._update()

    cdef int _received_encrypted(self, Py_ssize_t size, double now) except -1:
        cdef bytes data
        try:
            if size == 0:
                self._tls.receive_eof()
            elif self._half_closed:
                return 0  # whatever it is, it comes too late
            data = self._tls.decrypt(self._memory[:size])
        except OSError as exc:
            return self._lose(exc)
        except BaseException:
            # An exception of a signal handler, which left a gap in what was decrypted.
            self._lose(InterruptedError("interrupted while decrypting"))
            raise
        self._decrypted(data, now)

    cdef int _take_early(self) except -1:
        """Process what came together with the end of the TLS handshake."""
        data, self._early = self._early, None
        self._decrypted(data, monotonic())

    cdef int _decrypted(self, bytes data, double now) except -1:
        if PyBytes_GET_SIZE(data):
            self._protocol.receive_data(data, now)
        if self._tls.eof:
            self._protocol.receive_eof(now)
        # TLS may have something to say, too.
        self._update()
        if self._tls.error is not None:
            self._lose(self._tls.error)
        elif self._tls.eof and self._failure is not None:
            self._lose(self._failure)

    # ------------------------------------------------------------------ what follows from changes

    cdef int _update(self) except -1:
        """Do what follows from a change in the engine."""
        cdef Protocol protocol = self._protocol
        cdef double deadline
        if protocol.has_acknowledged_pings():
            for waiter, _ in protocol.acknowledged_pings():
                self._events.append(waiter[0])
                self._chores = True
        if self._lost:
            return 0
        self._flush(False)
        if self._lost:
            return 0
        # A call that is due earlier stays: it costs less to find that nothing is due.
        deadline = protocol.next_deadline()
        if deadline < self._timer_time:
            self._timer_time = deadline
            self._inbox.post(self, deadline)

    cdef int _note_dropped(self) except -1:
        """Have the messages that were dropped reported."""
        if self.reporter is not None and self._protocol.has_dropped():
            self._report_due = True
            self._chores = True

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
        try:
            self._protocol.connection_lost(exc, now=monotonic())
        finally:
            # Whatever the program's logging handlers raise.
            for event, acknowledge in self._protocol.abandoned_pings():
                if acknowledge:
                    self._events.append(event)
                    self._chores = True
            if self._farewells is not None:
                self._events += self._farewells
                self._farewells.clear()  # it stays: call_no_more() takes no lock
                self._chores = True
            try:
                if self._tls is not None and self._piece is None:
                    self._send_close_notify()
            finally:
                self._end()

    cdef int _end(self) except -1:
        """End the TCP connection."""
        self._set_piece(None)
        self._held = False
        try:
            # Wakes those who use it. And the peer learns of it even if a forked process has it, too.
            self.socket.shutdown(SHUT_RDWR)
        except OSError:
            pass  # whoever is blocked is woken by the cause of that
        if self._registered:
            self._inbox.post(self, -INFINITY)
        self._close_when_unused()
        self._notify()

    cdef int _send_close_notify(self) except -1:
        cdef bytes data
        try:
            self._tls.close()
            data = self._tls.take_output()
            if PyBytes_GET_SIZE(data):
                send(self.socket, data, 0)
        except OSError:
            pass  # a courtesy

    cdef int _close_when_unused(self) except -1:
        if self._users == 0 and not self._registered and not self.closed:
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
        cdef Py_ssize_t size
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
                if data is None or PyBytes_GET_SIZE(data) == 0:
                    data = self._next_piece()
                    if data is None:
                        break
                size = PyBytes_GET_SIZE(data)
                self._piece_sent += send(self.socket, data, self._piece_sent)
            except OSError as exc:
                return self._writing_failed(exc)
            except BaseException:
                self._hold()  # an exception of a signal handler; the rest leaves nevertheless
                raise
            if self._piece_sent < size:
                self._keep_piece(data)
                if not waiting:
                    self._keep_writing()
                return 0
            if self._piece is not None:
                self._set_piece(None)
                protocol.resume_writing()
            if self._tls is None or not self._tls.blocked:
                self._sent = self._taken
        if self._tls is not None and self._tls.blocked:
            # Nothing more can be written until something was read.
            self._keep_piece(b"")
            if self._list_time == INFINITY:
                self._watch_now()
            return 0
        if self._piece is not None:
            self._set_piece(None)
            protocol.resume_writing()
            self._sent = self._taken
        if protocol.transport_action != KEEP:
            self._act()

    cdef int _set_piece(self, bytes piece) except -1:
        with cython.critical_section(self):  # any thread may ask how much of it is unsent
            self._piece = piece

    cdef int _keep_piece(self, bytes data) except -1:
        if self._piece is None:
            self._protocol.pause_writing(PyBytes_GET_SIZE(data) - self._piece_sent)
            if self._protocol.next_deadline() < self._timer_time:
                # For how long may the peer take nothing?
                self._timer_time = self._protocol.next_deadline()
                self._inbox.post(self, self._timer_time)
        self._set_piece(data)

    cdef int _keep_writing(self) except -1:
        """Have the housekeeper write the rest: nobody waits for that."""
        if self._senders == 0 and not self._watched & WRITE:
            self._inbox.post(self, -INFINITY)

    cdef int _hold(self) except -1:
        """Have the housekeeper write what there is, a bit later."""
        self._held = True
        if self._hold_time == INFINITY:
            self._hold_time = self._inbox.now() + HOLD
            self._inbox.post(self, self._hold_time)

    cdef bint _blocked(self) noexcept:
        """Tell whether the network doesn't take what there is to write."""
        return self._piece is not None and PyBytes_GET_SIZE(self._piece) > 0

    cdef bytes _next_piece(self):
        """Return what is to be written next, or None."""
        cdef bytes data
        self._piece_sent = 0
        if self._tls is None:
            while self._protocol.has_parts() and sends_parts(self.socket):
                data = self._send_parts()
                if data is not None:
                    return data
                self._sent = self._taken
            data = self._protocol.pop_output()
            self._taken += PyBytes_GET_SIZE(data)
        else:
            if self._tls.blocked:
                self._tls.encrypt(b"")
            if not self._tls.blocked:
                data = self._protocol.pop_output()
                self._taken += PyBytes_GET_SIZE(data)
                if PyBytes_GET_SIZE(data):
                    self._tls.encrypt(data)
            data = self._tls.take_output()
        return data if PyBytes_GET_SIZE(data) else None

    cdef bytes _send_parts(self):
        """Write all there is, with the large payloads in it from where they are; return what is left of it, or None."""
        cdef int fd = self.socket.fileno()  # which may be code of the program: before anything is taken
        cdef Py_ssize_t size = self._protocol.output_left()
        cdef list parts = self._protocol.pop_parts()
        cdef Py_ssize_t sent
        self._taken += size
        sent = send_parts(fd, parts)
        if sent == size:
            return None
        try:
            return self._left_of(parts, sent)
        except MemoryError as exc:
            # A frame that has begun can't go on.
            raise ConnectionAbortedError("no memory for what is left of a message") from exc

    cdef bytes _left_of(self, list parts, Py_ssize_t sent):
        """Return what is left of parts of which ``sent`` bytes were written; of a piece, ``_piece_sent`` bytes were."""
        cdef list left = []
        cdef Py_ssize_t size
        for part in parts:
            size = len(part)
            if not left and sent >= size:
                sent -= size
                continue
            left.append(part if PyBytes_CheckExact(part) else (<str>part).encode())
        self._piece_sent = sent
        return left[0] if len(left) == 1 else b"".join(left)

    cdef int _writing_failed(self, exc) except -1:
        """Stop writing. What the peer sent before it left tells more than the failure does."""
        self._failure = exc
        self._drop_output()
        if self._reading:
            # Its thread does what is to be done then.
            try:
                self.socket.shutdown(SHUT_RDWR)
            except OSError:
                pass
        else:
            self._end_reading()

    cdef int _drop_output(self) except -1:
        self._set_piece(None)
        self._held = False
        while PyBytes_GET_SIZE(self._protocol.pop_output()):
            pass

    cdef int _wait_sent(self) except -1:
        """Wait until what there is to send now was written; the mutex is released meanwhile."""
        cdef uint64_t mark = self._taken + self._protocol.output_left()
        cdef uint64_t number = self._protocol.last_in_backlog()
        cdef bint behind = self._protocol.backlog_holds(number)
        while (behind or self._sent < mark) and not self._lost:
            if self._failure is not None or not self._blocked():
                self._wait(INFINITY)  # for the thread that reads
                continue
            if not self._wait_writable():
                self._handle_signals()
            self._flush(True)
            if behind and not self._protocol.backlog_holds(number):
                behind = False
                mark = self._taken + self._protocol.output_left()
        self._raise_if_lost()

    cdef bint _wait_writable(self) except -1:
        """Wait until the network takes something; return False if signals are to be looked for first."""
        cdef bint writable = False
        self._senders += 1
        self._users += 1
        self._owner = 0
        self._mutex.release()
        try:
            writable = wait_writable(self.socket)
        finally:
            self._mutex.acquire()
            self._owner = PyThread_get_thread_ident()
            self._senders -= 1
            self._users -= 1
            if self._lost:
                self._close_when_unused()
            elif not writable and self._senders == 0:
                # Signal handlers may take their time, and may raise exceptions.
                self._inbox.post(self, -INFINITY)
        return writable

    cdef int _raise_if_lost(self) except -1:
        while self._failure is not None and not self._lost:
            self._wait(INFINITY)  # for the thread that reads what is left
        if self._lost:
            raise self._protocol.close_exc

    # ------------------------------------------------------------------ the housekeeper

    cdef int _stop_reading(self) except -1:
        """Have the housekeeper come, unless it is here: the calling thread may not read again."""
        if self._list_time == INFINITY and not self._watched & READ and not self._lost:
            self._list(self._protocol.last_time())

    cdef int _list(self, double now) except -1:
        """Have the housekeeper find out whether somebody reads."""
        self._list_time = now + TICK
        self._list_reads = self._reads
        self._inbox.post(self, self._list_time)

    cdef int _watch_now(self) except -1:
        """Have the housekeeper watch the socket unless somebody reads."""
        if not self._watched & READ and not self._reading and not self._lost:
            self._nobody_reads = True
            self._inbox.post(self, -INFINITY)
