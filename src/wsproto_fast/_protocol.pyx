"""The state machine of one WebSocket connection (RFC 6455), without sockets, threads, or a clock.

A driver feeds it what the network brings (``receive_data`` or ``get_buffer`` + ``buffer_updated``,
``receive_eof``, ``connection_lost``), what the application wants (``send``, ``ping``, ``close``, ...) and the
time (``now``, in seconds, of any clock that doesn't go back; ``handle_timeout``). A call that isn't told the
time takes it to be what was told last; before that it is 0. After any of these it looks at the outputs, in this
order: ``take_output()`` until it is empty, ``transport_action``, ``events_received()`` or ``next_message()``,
``acknowledged_pings()``, ``reading_wanted``, ``next_timeout()``. Compressed messages that the queue has no room
for are kept as they are: ``receive_kept()`` after ``next_message()`` goes on with them, or else
``handle_timeout()``, which is due then.

A peer's fault never raises here: it yields the right Close frame and is kept in ``parser_exc``. A caller's
misuse raises and leaves the state as it was.

Endpoint, Sender, Parser, Receiver, Keepalive, Pacing, and Statistics are the layers below: what leaves, what arrives,
whether the peer is there, what waits while it doesn't read, what was counted.
"""

import logging

cimport cython
from libc.math cimport INFINITY, NAN, isnan
from libc.stdint cimport uint64_t

from ._endpoint cimport ABORT, CLOSE, CLOSED, CLOSING, CONNECTING, OPEN, state_of
from ._frames cimport OP_CLOSE, OP_PING, OP_PONG, Frame
from ._queue cimport ATTENTION, OUTPUT
from ._settings cimport close_payload, duration, ping_interval_of
from ._statistics cimport Statistics

from .environment import default_logger
from .exceptions import ConnectionClosedError, ConnectionClosedOK, ProtocolError
from .frames import OK_CLOSE_CODES, Close, CloseCode, Side, State


cdef object _INFO = logging.INFO
cdef object _CLIENT = Side.CLIENT


cdef class Protocol(Statistics):
    """Protocol(side, *, state=State.OPEN, max_size=1048576, logger=None)\n--\n
    A WebSocket connection as a state machine.

    Args:
        side: Role, ``Side.CLIENT`` or ``Side.SERVER``.
        state: State to start in. ``State.OPEN`` is for connections whose opening handshake was done elsewhere.
        max_size: Limit on incoming messages in bytes, or a pair of limits on messages and on fragments;
            None for no limit.
        logger: Logger for what happens on this connection; ``wsproto_fast.client`` or
            ``wsproto_fast.server`` by default; see ``environment``.

    Attributes:
        side: Role.
        subprotocol: Subprotocol that was agreed on; None if none was.
        handshake_exc: Why the opening handshake failed; None if it didn't.
        parser_exc: What the peer did wrong, or how its stream ended too early; None if it didn't.
        close_rcvd: Close frame that was received, or None.
        close_sent: Close frame that was sent, or None.
        close_rcvd_then_sent: Whether the peer closed first; None unless both frames exist.
        latency: Round-trip time of the last answered Ping in seconds; 0 before the first one.
        transport_action: What to do with the transport when all output is written, a constant of
            ``wsproto_fast.activity``.
        validate_text: Check that text is UTF-8, in what is received and in bytes sent as text. With False
            what is received is only checked where it is decoded.

    Received frames become events (``events_received``) unless ``queue_messages`` is called, which
    makes them messages (``next_message``).
    """

    def __cinit__(self):
        self._open_deadline = INFINITY

    def __init__(
        self,
        side: Side,
        *,
        state: State = State.OPEN,
        max_size: int | None | tuple[int | None, int | None] = 2**20,
        logger=None,
    ):
        self._set_up(side if type(side) is Side else Side(side), state, max_size, logger)

    cdef int _set_up(self, side, state, max_size, logger) except -1:
        """Do what ``__init__`` does, without a look at names."""
        self._is_client = side is _CLIENT
        self._state = state if type(state) is State else State(state)
        self._set_max_size(max_size)
        self._set_logger(default_logger(side.name.lower()) if logger is None else logger)
        if self._debug():
            self.logger.debug("= connection is %s", self.state.name)

    # ------------------------------------------------------------------ settings

    def set_timeouts(
        self,
        *,
        open_timeout: float | None = ...,
        ping_interval: float | None = None,
        ping_timeout: float | None = None,
        close_timeout: float | None = None,
        now: float | None = None,
    ) -> None:
        """Set the durations after which something must have happened, in seconds; None for no limit.

        On an open connection keepalive starts afresh. The end, once it has begun, lasts as long as it would have.

        Args:
            open_timeout: From ``now`` to the end of the opening handshake; by default as set before.
            ping_interval: Between keepalive pings.
            ping_timeout: From a keepalive ping to the next sign of life, which any received byte is, but for
                at most four times as long unless it belongs to a frame that had begun. While
                ``reading_wanted`` is false, signs of life are what ``handle_timeout`` is told of.
            close_timeout: From the beginning of the end, whatever it is, to ``connection_lost``.
            now: Current time.
        """
        cdef double opening = 0 if open_timeout is ... else duration("open_timeout", open_timeout)
        cdef double interval = ping_interval_of(ping_interval)
        cdef double pong = duration("ping_timeout", ping_timeout)
        cdef double closing = duration("close_timeout", close_timeout)
        self._now = self._time(now)
        self._ping_interval = interval
        self._ping_timeout = pong
        self._close_timeout = closing
        if self._state == CONNECTING:
            if isnan(self._begin_time):
                self._begin_time = self._now
            if open_timeout is not ... and not self._closing_started:
                self._open_deadline = self._now + opening
        elif self._state == OPEN:
            if isnan(self._open_time):
                self._open_time = self._now
            self._ping_time = self._now + interval
            if self._keepalive_payload is not None:
                self._keepalive_began()

    # ------------------------------------------------------------------ state

    @property
    def state(self) -> State:
        """State of the connection (RFC 6455 section 4.1, 7.1.3 and 7.1.4).

        Drivers that do parts of the protocol themselves may set it: nothing is sent, and what is received is
        discarded from ``State.CLOSED`` on.
        """
        return state_of(self._state)

    @state.setter
    def state(self, state):
        state = State(state)
        if state == CLOSED:
            self._set_closed()
        elif state == OPEN and self._state == CONNECTING:
            self._set_open()
        elif state != self._state:
            self._set_state(state)

    @property
    def close_code(self) -> int | None:
        """Close code received, 1006 without a Close frame; None until the connection is closed."""
        if self._state != CLOSED:
            return None
        return CloseCode.ABNORMAL_CLOSURE if self.close_rcvd is None else self.close_rcvd.code

    @property
    def close_reason(self) -> str | None:
        """Close reason received; None until the connection is closed."""
        if self._state != CLOSED:
            return None
        return "" if self.close_rcvd is None else self.close_rcvd.reason

    @property
    def close_exc(self):
        """Exception to raise when somebody uses the connection after it was closed.

        Raises:
            AssertionError: If the connection isn't closed yet.
        """
        if self._state != CLOSED:
            raise AssertionError("connection isn't closed yet")
        if (
            self.close_rcvd is not None
            and self.close_sent is not None
            and self.close_rcvd.code in OK_CLOSE_CODES
            and self.close_sent.code in OK_CLOSE_CODES
            and not self._message_cut
        ):
            exc_type = ConnectionClosedOK
        else:
            exc_type = ConnectionClosedError
        exc = exc_type(self.close_rcvd, self.close_sent, self.close_rcvd_then_sent)
        exc.__cause__ = self.parser_exc
        if self._message_cut and self.parser_exc is None:
            exc.__cause__ = ProtocolError("Close frame inside a fragmented message")
        return exc

    def close_expected(self) -> bool:
        """Tell whether the TCP connection should be closed soon."""
        return (
            self._state == CLOSING
            or self.handshake_exc is not None
            or (self._state == CONNECTING and self._eof_sent)
        )

    def _set_state(self, state):
        self._state = state
        self._activity |= ATTENTION
        if self._debug():
            self.logger.debug("= connection is %s", self.state.name)

    cdef int _set_open(self) except -1:
        """Enter OPEN after the opening handshake; read the frames that came early."""
        self._open_deadline = INFINITY
        self._open_time = self._now
        self._set_state(OPEN)
        self._ping_time = self._now + self._ping_interval
        if self._early is not None:
            early = self._early
            self._forget_early()
            self._unmask_in_place = False
            self._receive(<const unsigned char*><char*>early, len(early))

    cdef int _forget_early(self) except -1:
        with cython.critical_section(self):  # statistics are read by any thread
            self._early = None

    cdef int _set_handshake_failed(self, exc) except -1:
        """Record why the opening handshake failed; ignore what is received from now on."""
        self.handshake_exc = exc
        self._discarding = True
        self._forget_early()
        self._start_closing()

    cdef int _start_closing(self) except -1:
        """Start the clock of the end, once; stop the others. It runs until ``connection_lost``."""
        self._activity |= ATTENTION
        self._ping_time = self._pong_deadline = self._open_deadline = INFINITY
        if self._queue is not None:
            self._queue.set_closing(not self._discarding)
        if not self._closing_started:
            self._closing_started = True
            self._close_deadline = self._now + self._close_timeout

    cdef int _set_closed(self) except -1:
        self._discarding = True
        self._drop_backlog()
        if self._kept is None:
            self._drop_partial()
        self._forget_early()
        self._release_time = INFINITY
        self._start_closing()
        if self._state != CLOSED:
            self._end_time = self._now
            opened = self._state != CONNECTING
            self._set_state(CLOSED)
            if opened and not self._is_client and self._enabled(_INFO):
                self.logger.info("connection closed")

    # ------------------------------------------------------------------ time

    def next_timeout(self) -> float | None:
        """Return the time at which ``handle_timeout`` must be called; None if there is no such time."""
        cdef double deadline = self.next_deadline()
        return None if deadline == INFINITY else deadline

    cdef double next_deadline(self) noexcept:
        if self._kept is not None and not self._discarding and self._has_room():
            return self._now
        cdef double deadline = min(
            min(min(self._ping_time, self._pong_deadline), min(self._open_deadline, self._close_deadline)),
            min(self._release_time, self._look_time),
        )
        if self.peer_has_to_wait():
            deadline = min(deadline, self._rates.next_time(self._now))
        return deadline

    def handle_timeout(
        self, now: float | None = None, network_silence: float | None = None, progress=None
    ) -> int:
        """Do what is due at ``now``; return the activity bits.

        Args:
            now: Current time.
            network_silence: Seconds since the peer's host acknowledged anything, while something that was sent
                waits for that; 0 if nothing does; None if it isn't known, in which case a peer isn't taken for
                gone while ``reading_wanted`` is false. Told if ``network_silence_wanted``.
            progress: What is another value whenever the network has taken something of what is sent, such as the
                number of bytes that it has taken; None if it isn't known, in which case nothing was taken. Told if
                ``progress_wanted``.
        """
        cdef double time = self._time(now)
        cdef double silence = NAN if network_silence is None else <double>network_silence
        self._now = time
        self._activity = 0
        self._handle_timeout(time, silence, progress)
        return self._activity | (OUTPUT if self._output.size else 0)

    cdef int _handle_timeout(self, double now, double silence, progress) except -1:
        self._handle_pacing(now, progress)
        if self._open_deadline <= now:
            self._open_deadline = INFINITY
            if self._state == CONNECTING:
                self._opening_timed_out()
        if self._close_deadline <= now:
            # In CLOSED, too: what is still to be written may be what the peer doesn't read.
            self._close_deadline = INFINITY
            if self._state != CLOSED and self.parser_exc is None:
                self.parser_exc = TimeoutError("timed out while closing connection")
            self._drop_backlog()  # nothing follows when writing goes on
            self.transport_action = ABORT
            self._activity |= ATTENTION
            # Nobody is there any more who could read, or be read.
            self._eof_sent = self._discarding = True
        self._handle_keepalive(now, silence)
        if self._kept is not None and not self._discarding and self._has_room():
            self._receive_kept()
        if self._release_time <= now:
            self._release_contexts(self._message_opcode != 0)

    cdef int _opening_timed_out(self) except -1:
        self._set_handshake_failed(TimeoutError("timed out during opening handshake"))
        self.transport_action = ABORT

    # ------------------------------------------------------------------ receiving

    @property
    def can_receive_kept(self) -> bool:
        """Whether ``receive_kept`` has something to do: compressed input was kept that there is room for now."""
        return self.can_process_kept()

    def receive_eof(self, now: float | None = None) -> int:
        """Process the end of the stream; return the activity bits. May be called more than once.

        Args:
            now: Current time.
        """
        self._now = self._time(now)
        self._activity = 0
        if not self._eof_received:
            self._rates = None  # nothing follows any more
            self._deliver_kept(False)
            self._eof_received = True
            if self._debug():
                self.logger.debug("< EOF")
            if self._state == CONNECTING:
                if not self._discarding:
                    self._receive_handshake_eof()
            elif not self._discarding and self.parser_exc is None:
                self.parser_exc = EOFError("unexpected end of stream")
            self._drop_backlog()
            self._send_eof()
            self._set_closed()
            self.transport_action = max(self.transport_action, CLOSE)
        return self._activity | (OUTPUT if self._output.size else 0)

    def connection_lost(self, exc=None, *, now: float | None = None) -> None:
        """Record that the TCP connection is gone; no time limit is left.

        Until then ``handle_timeout`` may ask for ``transport_action`` ABORT.

        Args:
            exc: What broke it, if it was broken; becomes the cause of ``ConnectionClosed``, or, before the end of
                the opening handshake, of the ``EOFError`` that is the cause of ``handshake_exc``.
            now: Current time.
        """
        self._now = self._time(now)
        self._activity = 0
        if exc is not None and self.parser_exc is None:
            self.parser_exc = exc
        self._rates = None
        self._deliver_kept(True)
        self.receive_eof()
        if exc is not None and self.handshake_exc is not None and exc is not self.handshake_exc:
            cause = self.handshake_exc.__cause__
            if isinstance(cause, EOFError) and cause is not exc and cause.__cause__ is None:
                cause.__cause__ = exc  # such as the TLS alert that refuses a certificate
        self._close_deadline = self._look_time = INFINITY
        self._close_deadline_due = False
        self._output.clear()
        self._eof_sent = True
        self._let_go()

    cdef int _deliver_kept(self, bint lost) except -1:
        """Call back with what waits for the network to take the answers, or make events of it, at the end."""
        while (
            self._kept is not None
            and (self._listener is not None or self._queue is None)
            and not self._calling
            and not self._discarding
        ):
            self._receive_kept()
            if lost:
                self._output.clear()

    cdef int _receive_handshake_eof(self) except -1:
        pass

    cdef int _control_payload(self, bytes payload) except -1:
        cdef int opcode = self._header.opcode
        cdef Frame frame = None
        if self._queue is None or self._foreign_extensions or self._debug():
            frame = Frame.make(opcode, payload, True, self._header.rsv)
            if self._foreign_extensions:
                frame = self._decode(frame)
                if frame is None:
                    return 0
                payload = bytes(frame.data)
            if self._debug():
                self.logger.debug("< %s", frame)
        if self._queue is None and opcode != OP_CLOSE:
            self._add_event(frame)
        self._activity |= ATTENTION
        if opcode == OP_PING:
            if self._rates is not None and not self._charge(1):
                return 0
            # RFC 6455 section 5.5.2. While the peer doesn't read, only the last Ping is answered: a flood
            # of them can't make the output grow.
            if self._late:
                pass  # nothing is sent behind the Close frame of a failure
            elif self._writing_paused:
                self._delayed_pong = payload
            else:
                self._write_control(OP_PONG, payload)
        elif opcode == OP_PONG:
            self._received_pong(payload)
            # Answers to our own Pings are free, as is the end.
            if self._rates is not None and self._received.pongs - self._rates.pongs > self._sent.pings:
                self._rates.pongs += 1
                self._charge(1)
        else:
            self._received_close(payload)
            if self._queue is None and self.close_rcvd is not None:
                self._add_event(frame)  # one that is at fault is none

    cdef int _received_close(self, bytes payload) except -1:
        # RFC 6455 section 5.5.1 and 7.1. A code that may not travel, or half a one, is 1002; a reason that isn't
        # UTF-8 is 1007.
        try:
            close = Close.parse(payload)
        except ProtocolError as exc:
            return self._fail_receiving(CloseCode.PROTOCOL_ERROR, str(exc), exc)
        except UnicodeDecodeError as exc:
            return self._fail_text(exc)
        self.close_rcvd = close
        # Whoever closes wants no more messages; many drop what comes.
        self._drop_backlog()
        if self._state == OPEN:
            # What was received of a message is lost, unless we have closed the connection and wanted no more.
            self._message_cut = self._message_opcode != 0
            self._write_control(OP_CLOSE, payload)
            self.close_sent = close
            self.close_rcvd_then_sent = True
            self._set_state(CLOSING)
        else:
            self.close_rcvd_then_sent = False if self.close_sent is not None else None
        self._discarding = True
        self._start_closing()
        if not self._is_client:
            # RFC 6455 section 7.1.1: the server closes the TCP connection first.
            self._send_eof()

    cdef int _fail_receiving(self, int code, str reason, exc) except -1:
        """Fail the connection because of what was received (RFC 6455 section 7.1.7)."""
        if self.parser_exc is None:
            self.parser_exc = exc
        if self._state == CONNECTING:
            return self._set_handshake_failed(exc)
        if self._late:
            # Whatever Close frame came behind it: what was before it is lost.
            self._message_cut = True
        self._discarding = True
        self._fail(code, reason)

    # ------------------------------------------------------------------ closing

    def close(self, code=1000, reason: str = "", *, now: float | None = None) -> None:
        """Start the closing handshake, unless it has started; received data isn't wanted any more.

        Before the opening handshake is answered, give it up.

        Args:
            code: Close code (RFC 6455 section 7.4); None for none.
            reason: Close reason, at most 123 bytes of UTF-8.
            now: Current time; the whole closing lasts ``close_timeout`` from then.

        Raises:
            ProtocolError: If the code or the reason isn't allowed; nothing is sent. They don't matter unless the
                connection is open: who passes on how another one has ended needn't know whether this one has, too.
        """
        self._now = self._time(now)
        if self._state == OPEN:
            if self._sending_opcode:
                close_payload(code, reason)
                # The message can't be completed (RFC 6455 section 5.4): not the end that the caller wanted.
                self._fail(CloseCode.INTERNAL_ERROR, "close during fragmented message")
            else:
                self.send_close(code, reason)
        elif self._state == CONNECTING and not self._discarding:
            self._set_handshake_failed(ConnectionAbortedError("closed during opening handshake"))
            self._send_eof()
            self.transport_action = max(self.transport_action, CLOSE)
        if self._state == CLOSING:
            self._start_closing()
            self._drop_kept()

    def send_close(self, code=None, reason: str = "", *, now: float | None = None) -> None:
        """Send a Close frame, which starts the closing handshake.

        Args:
            code: Close code (RFC 6455 section 7.4); None for none.
            reason: Close reason, at most 123 bytes of UTF-8.
            now: Current time.

        Raises:
            ProtocolError: If the code or the reason isn't allowed; nothing is sent.
            InvalidState: If the connection isn't open.
        """
        cdef double time = self._time(now)
        self._require_state(False)
        payload = close_payload(code, reason)
        self._now = time
        self._write_close(payload)
        self.close_sent = Close(CloseCode.NO_STATUS_RCVD if code is None else code, reason)
        self._set_state(CLOSING)
        self._start_closing()
        self._drop_kept()

    cdef int _drop_kept(self) except -1:
        """Drop the messages that wait for room; what follows them may be the answer to our Close frame."""
        if self._kept is not None and not self._discarding:
            if self._queue is not None:
                self._queue.drop_rest()
            self._receive_kept()

    def fail(self, code: int, reason: str = "", *, now: float | None = None) -> None:
        """Fail the connection (RFC 6455 section 7.1.7): tell the peer why, then ignore what it sends.

        Args:
            code: Close code; 1006 sends nothing.
            reason: Close reason; cut to fit into a Close frame.
            now: Current time.

        Raises:
            ProtocolError: If the code isn't allowed; nothing is sent.
        """
        cdef double time = self._time(now)
        if self._state == OPEN and code != CloseCode.ABNORMAL_CLOSURE:
            Close(code, reason).serialize()  # of what is wrong there, nothing may come
        self._now = time
        self._fail(code, str(reason))

    def give_up(self, exc=None, *, abort: bool = True, now: float | None = None) -> None:
        """Give up the connection: nothing is sent any more, and the transport is to be aborted.

        Args:
            exc: Why; becomes the cause of ``ConnectionClosed``.
            abort: False if it is closed already, and may write what it has got until then.
            now: Current time.
        """
        self._now = self._time(now)
        if self._state == CLOSED:
            pass
        elif self._state == CONNECTING:
            if exc is None:
                # The driver doesn't know why; connection_lost() may tell. Nothing comes any more, as at the end of the
                # stream.
                self._receive_handshake_eof()
            self._set_handshake_failed(self.handshake_exc or exc or ConnectionAbortedError("given up"))
        else:
            if self.parser_exc is None:
                self.parser_exc = exc
            self._fail(CloseCode.ABNORMAL_CLOSURE, "")
        self._output.clear()
        self._eof_sent = True
        self.transport_action = max(self.transport_action, ABORT if abort else CLOSE)
        self._activity |= ATTENTION

    def shed(self, exc, *, Py_ssize_t unsent = 0, now: float | None = None) -> None:
        """Close the connection because too much waits here; what was received and nobody has taken is forgotten.

        A peer that reads is told so, with 1013 (try again later). Nothing is sent any more, and the transport is to
        be aborted, if it doesn't, which is so when most of what waits is for the network; or when it was told before.

        Args:
            exc: Why; becomes the cause of ``ConnectionClosed``.
            unsent: Number of bytes that were taken from the output, and the network hasn't taken yet.
            now: Current time.
        """
        cdef uint64_t waiting = <uint64_t>self._note_waiting(unsent)
        cdef bint reads = not self._writing_paused and 2 * waiting <= self._buffered_bytes(unsent)
        self._now = self._time(now)
        if self._kept is not None or (self._queue is not None and self._queue.frames):
            # Whatever the Close frames say: not all that was received is read.
            self._message_cut = True
            if self.parser_exc is None:
                self.parser_exc = exc
        self._kept, self._kept_size = None, 0
        if self._queue is not None:
            self._queue.forget()
        if self._state == OPEN and reads:
            if self.parser_exc is None:
                self.parser_exc = exc
            # The registry that RFC 6455 section 7.4 founds: 1013 is "try again later".
            self._fail(CloseCode.TRY_AGAIN_LATER, "too much waits for this connection")
            return
        if self._state == CLOSED:
            self._drop_partial()
        self.give_up(exc)

    cdef int _fail(self, int code, str reason) except -1:
        if self._state == CLOSED:
            return 0
        self._drop_backlog()
        if self._state == OPEN:
            if code != CloseCode.ABNORMAL_CLOSURE:
                # Cut at a character's boundary: the reason may quote the peer.
                reason = reason.encode()[:123].decode("utf-8", "ignore")
                close = Close(code, reason)
                self._write_control(OP_CLOSE, close.serialize())
                self.close_sent = close
                if self.close_rcvd is not None:
                    self.close_rcvd_then_sent = True
            self._set_state(CLOSING)
        self._discarding = True
        if self._kept is None:
            self._drop_partial()
        self._start_closing()
        if not self._is_client:
            self._send_eof()
