# cython: binding=False
"""Drives connections for threads: what they do with one, and what the housekeeper does.

Whoever receives reads the socket; one thread of the process, the housekeeper, looks after what no thread does.

No protocol rule is here, nor how bytes are moved: see _wire. Here is who receives, what is held
back to leave together, and when the housekeeper comes.
"""

from time import monotonic

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.pythread cimport PyThread_get_thread_ident
from libc.math cimport INFINITY

from wsproto_fast cimport ATTENTION, FLUSH, MESSAGE, Backpressure, PreparedMessage, Protocol

from ._inbox cimport NOTHING, READ, WRITE
from ._wire cimport Wire

from wsproto_fast import check_close
from wsproto_fast.exceptions import ConcurrencyError

from .liveness import bytes_acknowledged, network_silence


# When the housekeeper comes again to a connection whose engine a callback of the program keeps busy, in seconds.
cdef double PAUSE = 0.005


# Who receives.
cdef enum:
    NOBODY = 0
    RECV = 1
    STREAMING = 2

cdef tuple _receivers = ("nothing", "recv", "recv_streaming")


@cython.final
cdef class SocketDriver(Wire):
    """A connection, as threads use it.

    All of its methods may be called by any thread; one thread at a time receives.

    Args:
        protocol: Engine of the connection; it queues messages. Nobody else uses it but between ``enter`` and
            ``leave``, or in functions that ``call`` calls.
        sock: Connected TCP or Unix socket, which this closes; its own timeout doesn't matter.
        tls: What encrypts, or None. Its handshake is complete.

    Attributes:
        before_use: Called once, before the connection is used; or None.
        reporter: Weak reference to what is called after ``send`` has had messages dropped; or None.
        socket: The socket.
        closed: Whether it is closed.
    """

    cdef public object before_use       # called once, before the connection is used; or None
    cdef bint _entered                  # a callback of the program may be running inside the engine
    cdef int _receiver                  # who takes messages or fragments
    cdef bint _taking                   # a fragment is being waited for

    # ------------------------------------------------------------------ receiving messages

    def recv(self, timeout, decode, /):
        """Return the next message.

        Args:
            timeout: Seconds, or None for no limit.
            decode: As for ``Protocol.next_message``.

        Raises:
            TimeoutError: If there is none after ``timeout`` seconds.
            ConnectionClosed: If there won't be one.
            ConcurrencyError: If another thread receives.
        """
        cdef Protocol protocol = self._protocol
        cdef double deadline = INFINITY
        cdef int activity
        # Failing to decode fails the connection.
        cdef bint may_fail = decode is not None or not protocol.validate_text
        if self.before_use is not None:
            self._warn()
        self._lock()
        try:
            if self._receiver == STREAMING or (self._receiver == RECV and not self._lost):
                raise self._concurrent_receiver("recv")
            if timeout is not None:
                deadline = self._deadline(timeout)
            while True:
                message = protocol.take_message(
                    decode,
                    <double>monotonic() if may_fail or protocol.has_kept() else protocol.last_time(),
                    &activity,
                )
                if activity & ATTENTION:
                    self._update()
                if message is not None:
                    self._reader = self._owner
                    return message
                if may_fail:
                    self._update()
                if self._lost:
                    raise protocol.close_exc
                self._receiver = RECV
                try:
                    if self._read(deadline):
                        raise TimeoutError(f"timed out in {timeout:.1f}s")
                except BaseException:
                    protocol.stop_waiting()
                    raise
                finally:
                    self._receiver = NOBODY
        finally:
            self._stop_reading()
            self._unlock()

    def next_fragment(self, timeout, decode, bint started):
        """Return the next fragment and whether it is the last one of its message.

        Args:
            timeout: Seconds, or None for no limit.
            decode: As for ``Protocol.next_message``.
            started: Whether the caller has the first fragment; others can't receive since.

        Raises:
            TimeoutError, ConnectionClosed, ConcurrencyError: As in ``recv``.
        """
        cdef Protocol protocol = self._protocol
        cdef double deadline = INFINITY
        cdef int activity
        if self.before_use is not None:
            self._warn()
        self._lock()
        try:
            if self._taking or (not started and self._receiver != NOBODY):
                raise self._concurrent_receiver("recv_streaming")
            if timeout is not None:
                deadline = self._deadline(timeout)
            if not started:
                protocol.skip_fragments()  # of a message that others left
            while True:
                fragment = protocol.take_fragment(decode, monotonic(), &activity)
                if activity & ATTENTION:
                    self._update()
                if fragment is not None:
                    self._receiver = NOBODY if fragment[1] else STREAMING
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
                    protocol.stop_waiting()
                    raise
                finally:
                    self._taking = False
                    if not started:
                        self._receiver = NOBODY
        finally:
            self._stop_reading()
            self._unlock()

    def stop_streaming(self) -> None:
        """Let others receive; the rest of the message is skipped. Finalizers may call this.

        Raises:
            ConcurrencyError: If another thread waits for a fragment of it.
        """
        if self._taking:
            raise self._concurrent_receiver("close")
        self._receiver = NOBODY

    cdef double _deadline(self, timeout) except? -1.0:
        cdef double seconds = timeout
        if seconds != seconds:
            raise ValueError("timeout must be a number of seconds or None; got nan")
        return self._inbox.now() + seconds if seconds > 0 else -INFINITY

    cdef int _warn(self) except -1:
        with cython.critical_section(self):
            warn, self.before_use = self.before_use, None
        if warn is not None:
            warn()

    def _concurrent_receiver(self, name):
        return ConcurrencyError(
            f"cannot call {name} while another thread is already running {_receivers[self._receiver]}"
        )

    # ------------------------------------------------------------------ sending

    def send(self, message, text, compress, /) -> bool:
        """Send a message; it may leave together with what the same thread sends next.

        Args:
            message: str or bytes-like object.
            text: As for ``Protocol.send``.
            compress: As for ``Protocol.send``.

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
            if not self._protocol.is_open():
                return False
            self._check_fragments()
            activity = self._protocol.send_message(message, text, compress)
            if activity & ATTENTION:
                self._update()
                self._note_dropped()
            if (
                activity & (MESSAGE | FLUSH) == MESSAGE
                and self._piece is None
                and self._reader == self._owner
            ):
                # This thread has more messages to handle before it needs to read.
                if not self._held:
                    self._hold()
                return True
            self._flush(True)
            if self._piece is not None:
                if self._protocol.sender_waits():
                    self._wait_sent()
                else:
                    self._keep_writing()
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
        """Call what uses the engine; return what that returns.

        Args:
            function: What to call.
            args: Its arguments.
        """
        self.enter()
        try:
            return function(*args)
        finally:
            self.leave()

    def begin_fragments(self, function, *args):
        """Call what sends the first fragment of a message.

        Args:
            function: What to call.
            args: Its arguments.

        Raises:
            ConcurrencyError: If a fragmented message is being sent.
        """
        self.enter()
        try:
            self._check_fragments()
            function(*args)
        finally:
            self.leave()

    cdef int _check_fragments(self) except -1:
        if self._protocol.is_sending_fragments():
            raise ConcurrencyError("cannot call send while another thread is already running send")

    def drain(self) -> None:
        """Wait until everything was written.

        Raises:
            ConnectionClosed: If the connection breaks before.
        """
        self._lock()
        try:
            if self._piece is not None:
                self._wait_sent()
            elif self._failure is not None or (self._lost and self._sent < self._taken):
                self._raise_if_lost()
        finally:
            self._unlock()

    def broadcast(self, PreparedMessage message not None, compress, Backpressure terms not None) -> bool:
        """Send a message that goes to many connections; skip a connection that isn't open.

        Args:
            message: Message.
            compress: As for ``Protocol.send``.
            terms: What becomes of it while the network takes no more.

        Returns:
            False if the connection was given up by ``terms``, or ``dropped_messages`` has something to tell.

        Raises:
            ConcurrencyError: If a fragmented message is being sent, and it can't wait for its end.
            OSError: If writing fails.
        """
        cdef bint refused = False
        self._lock()
        try:
            if self._protocol.is_open() and not self._lost:
                if self._protocol.is_obstructed():
                    refused = self._offer(message, compress, terms)
                else:
                    self._protocol.send_prepared_message(message, compress)
                self._update()
                if self._failure is not None:
                    raise self._failure
        finally:
            self._unlock()
        return not refused

    cdef bint _offer(self, PreparedMessage message, compress, Backpressure terms) except -1:
        """Send a message that goes to many connections, in whose way something is; return whether it was refused."""
        cdef Py_ssize_t unsent = 0
        cdef int activity
        if self._piece is not None:
            unsent = PyBytes_GET_SIZE(self._piece) - self._piece_sent
        activity = self._protocol.offer_message(message, compress, terms, unsent, monotonic())
        return activity & ATTENTION and (not self._protocol.is_open() or self._protocol.has_dropped())

    def dropped_messages(self):
        """Return and forget the number of messages dropped since the last call, by policy."""
        self._lock()
        try:
            return self._protocol.dropped_messages()
        finally:
            self._unlock()

    cdef object _progress(self):
        """Return what is another value whenever the network has taken something."""
        return self._sent, self._piece_sent, bytes_acknowledged(self.socket)

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

    def deadline(self, timeout) -> float:
        """Return when a time that begins now is over, for ``progress``.

        Args:
            timeout: That time in seconds, None for no limit.
        """
        return INFINITY if timeout is None else self._deadline(timeout)

    def progress(self, double deadline) -> bool:
        """Read once; return whether the deadline came first.

        Args:
            deadline: As ``deadline`` returns it.
        """
        self._lock()
        try:
            return not self._lost and self._read(deadline)
        finally:
            self._stop_reading()
            self._unlock()

    @property
    def lost(self) -> bool:
        """Whether the TCP connection is gone."""
        return self._lost

    @property
    def unsent(self) -> int:
        """Number of bytes that were taken from the engine, and the network hasn't taken; read without a lock."""
        cdef bytes piece
        with cython.critical_section(self):
            piece = self._piece
        return 0 if piece is None else max(0, PyBytes_GET_SIZE(piece) - self._piece_sent)

    def close(self, code, reason) -> bool:
        """Start the closing handshake; ``finish`` waits for its end.

        Args:
            code: Close code.
            reason: Close reason.

        Returns:
            False if that can't be waited for, since the calling thread is in the middle of using the
            connection: a signal handler has interrupted it, or the engine has called a logging handler.
            The closing handshake starts when the connection isn't being used then.

        Raises:
            ProtocolError: If the code or the reason isn't allowed.
        """
        if self._owner == PyThread_get_thread_ident():
            check_close(code, reason)
            if self._close_request is None:
                self._close_request = (code, reason)
                self._chores = True
            return False
        if self.before_use is not None:
            self._warn()
        self._lock()
        try:
            self._protocol.close(code, reason, now=monotonic())
            self._update()
            self._watch_now()
        finally:
            self._unlock()
        return True

    def finish(self) -> None:
        """Wait until the connection is closed, reading until then."""
        self._lock()
        try:
            while not self.closed:
                self._read(INFINITY)
        finally:
            self._stop_reading()
            self._unlock()

    def wait_closed(self, timeout) -> bool:
        """Wait until the connection is closed; return whether it is.

        Args:
            timeout: Seconds, or None for no limit.
        """
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

    def call_at_end(self, event) -> bool:
        """Have an event set, which never waits, when the TCP connection is gone; in any thread, which uses nothing.

        Args:
            event: Something with a method ``set``.

        Returns:
            False if the connection is gone already.
        """
        self._lock()
        try:
            if self._lost:
                return False
            if self._farewells is None:
                self._farewells = {}
            self._farewells[event] = None
            return True
        finally:
            self._unlock()

    def call_no_more(self, event) -> None:
        """Have an event not set any more. It takes no lock: the calling thread may be using the connection."""
        cdef dict farewells = self._farewells
        if farewells is not None:
            farewells.pop(event, None)

    def abort(self) -> None:
        """Close the connection at once; what wasn't sent is lost."""
        self._lock()
        try:
            self._lose(None)
        finally:
            self._unlock()

    # ------------------------------------------------------------------ the housekeeper

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
            self._inbox.post(self, now + PAUSE)
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
                    if protocol.next_deadline() <= now:
                        silence = network_silence(self.socket) if protocol.wants_network_silence() else None
                        progress = self._progress() if protocol.wants_progress() else None
                        protocol.handle_timeout(now, silence, progress)
                    self._update()
                    self._notify()
            if writable or (self._piece is not None and self._senders == 0):
                self._flush(True)
            if (
                (readable or self._early is not None)
                and not self._lost
                and not self._reading
                and self._reading_wanted()
            ):
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
            if wanted and not self._reading_wanted():
                wanted = NOTHING
            if self._blocked() and self._senders == 0:
                wanted |= WRITE
            if wanted & READ:
                self._nobody_reads = False
                self._list_time = INFINITY
            self._watched = wanted
            if wanted:
                self._registered = True
            return wanted
        finally:
            self._unlock()

    def cannot_watch(self, exc) -> None:
        """Give the connection up, since the socket can't be watched; it isn't any more.

        Args:
            exc: Why.
        """
        self._lock()
        try:
            self._registered = False
            self._watched = NOTHING
            if self._lost:
                self._close_when_unused()
            else:
                self._lose(exc)
                self._notify()
        finally:
            self._unlock()

    def unwatched(self) -> None:
        """Tell that the socket isn't watched any more."""
        self._lock()
        try:
            self._registered = False
            if self._lost:
                self._close_when_unused()
        finally:
            self._unlock()
