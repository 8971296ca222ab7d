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

Sender, Parser and Receiver are the layers below: what leaves, and what arrives.
"""

import logging
import os
import uuid

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_Check
from libc.math cimport INFINITY, NAN

from ._deflate cimport PerMessageDeflate
from ._frames cimport OP_BINARY, OP_CLOSE, OP_CONT, OP_PING, OP_PONG, OP_TEXT, Frame
from ._output cimport OutputBuffer
from ._queue cimport ATTENTION, FLUSH, MESSAGE, OUTPUT
from ._receiver cimport Receiver
from ._sender cimport ABORT, CLOSE, CLOSED, CLOSING, CONNECTING, OPEN, PreparedMessage, to_bytes
from ._settings cimport close_payload, duration, ping_interval_of

from ._environment import default_logger
from .exceptions import (
    ConcurrencyError,
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidState,
    ProtocolError,
)
from .frames import OK_CLOSE_CODES, Close, CloseCode, Side, State


# Above this, output shouldn't wait for the end of the turn.
cdef Py_ssize_t FLUSH_SIZE = 65536

# A peer that sends bytes but no Pong is alive for so long after the Ping, in multiples of ping_timeout.
cdef double MAX_UNANSWERED = 4.0

cdef list _states = list(State)
cdef object _INFO = logging.INFO


cdef class Protocol(Receiver):
    """Protocol(side, *, state=State.OPEN, max_size=1048576, logger=None)\n--\n
    A WebSocket connection as a state machine.

    Args:
        side: Role, ``Side.CLIENT`` or ``Side.SERVER``.
        state: State to start in. ``State.OPEN`` is for connections whose opening handshake was done elsewhere.
        max_size: Limit on incoming messages in bytes, or a pair of limits on messages and on fragments;
            None for no limit.
        logger: Logger for what happens on this connection; ``wsapi.client`` or ``wsapi.server`` by default.

    Attributes:
        validate_text: Check that text is UTF-8, in what is received and in bytes sent as text. With False
            what is received is only checked where it is decoded.

    Received frames become events (``events_received``) unless ``queue_messages`` is called, which
    makes them messages (``next_message``).
    """

    def __cinit__(self, *args, **kwargs):
        self._ping_interval = self._ping_timeout = self._close_timeout = INFINITY
        self._ping_time = self._pong_deadline = self._open_deadline = self._close_deadline = INFINITY

    def __init__(
        self,
        side: Side,
        *,
        state: State = State.OPEN,
        max_size: int | None | tuple[int | None, int | None] = 2**20,
        logger=None,
    ):
        self.side = side if type(side) is Side else Side(side)
        self._is_client = self.side == Side.CLIENT
        self._state = state if type(state) is State else State(state)
        self._set_max_size(max_size)
        self.logger = default_logger(self.side.name.lower()) if logger is None else logger
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
            if open_timeout is not ... and not self._closing_started:
                self._open_deadline = self._now + opening
        elif self._state == OPEN:
            self._ping_time = self._now + interval
            if self._keepalive_payload is not None:
                self._keepalive_began()

    # ------------------------------------------------------------------ state

    @property
    def id(self) -> uuid.UUID:
        """Identifier of the connection, for logs."""
        if self._id is None:
            self._id = uuid.uuid4()
        return self._id

    @id.setter
    def id(self, id):
        self._id = id

    @property
    def state(self) -> State:
        """State of the connection (RFC 6455 section 4.1, 7.1.3 and 7.1.4).

        Drivers that do parts of the protocol themselves may set it: nothing is sent, and what is received is
        discarded from ``State.CLOSED`` on.
        """
        return _states[self._state]

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
        self._set_state(OPEN)
        self._ping_time = self._now + self._ping_interval
        if self._early is not None:
            early, self._early = self._early, None
            self._unmask_in_place = False
            self._receive(<const unsigned char*><char*>early, len(early))

    cdef int _set_handshake_failed(self, exc) except -1:
        """Record why the opening handshake failed; ignore what is received from now on."""
        self.handshake_exc = exc
        self._discarding = True
        self._early = None
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
        if self._kept is None:
            self._drop_partial()
        self._early = None
        self._release_time = INFINITY
        self._start_closing()
        if self._state != CLOSED:
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
        return min(
            min(min(self._ping_time, self._pong_deadline), min(self._open_deadline, self._close_deadline)),
            self._release_time,
        )

    @property
    def network_silence_wanted(self) -> bool:
        """Whether ``network_silence`` would matter to ``handle_timeout``.

        A Ping waits for an answer that won't be read, since ``reading_wanted`` is false.
        """
        return self.wants_network_silence()

    cdef bint wants_network_silence(self) noexcept:
        return self._pong_deadline != INFINITY and not self.wants_reading()

    def handle_timeout(self, now: float | None = None, network_silence: float | None = None) -> int:
        """Do what is due at ``now``; return the activity bits.

        Args:
            now: Current time.
            network_silence: Seconds since the peer's host acknowledged anything, while something that was sent
                waits for that; 0 if nothing does; None if it isn't known, in which case a peer isn't taken for
                gone while ``reading_wanted`` is false. Told if ``network_silence_wanted``.
        """
        cdef double time = self._time(now)
        cdef double silence = NAN if network_silence is None else <double>network_silence
        self._now = time
        self._activity = 0
        self._handle_timeout(time, silence)
        return self._activity | (OUTPUT if self._output.size else 0)

    cdef int _handle_timeout(self, double now, double silence) except -1:
        cdef double late
        if self._open_deadline <= now:
            self._open_deadline = INFINITY
            if self._state == CONNECTING:
                self._opening_timed_out()
        if self._close_deadline <= now:
            # In CLOSED, too: what is still to be written may be what the peer doesn't read.
            self._close_deadline = INFINITY
            if self._state != CLOSED and self.parser_exc is None:
                self.parser_exc = TimeoutError("timed out while closing connection")
            self.transport_action = ABORT
            self._activity |= ATTENTION
        if self._pong_deadline <= now:
            late = now - self._pong_deadline
            if not self.wants_reading():
                # The Pong may be among what isn't read because the application is slow.
                if not silence >= now - self._keepalive_sent:
                    self._repeat_keepalive()
            else:
                self._look_for_life()
                if self._pong_deadline <= now and late > 0.25 * min(self._ping_timeout, 4.0):
                    # The caller comes late: it may not have had time to read either.
                    self._pong_deadline = now + min(late, self._ping_timeout)
            if self._pong_deadline <= now:
                if self._debug():
                    self.logger.debug("- timed out waiting for keepalive pong")
                self._pong_deadline = INFINITY
                # A peer that is gone won't read it; one that is there knows of no fault of its own: 1011.
                self._fail(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
        if self._ping_time <= now:
            if self._pong_deadline == INFINITY:
                self._send_keepalive()
            else:
                if not self.wants_reading() and silence < now - self._keepalive_sent:
                    # The peer's host has it; whether it is still there, another one tells.
                    self._repeat_keepalive()
                self._ping_time = now + self._ping_interval
        if self._kept is not None and not self._discarding and self._has_room():
            self._receive_kept()
        if self._release_time <= now:
            self._release_contexts(self._message_opcode != 0)

    def _send_keepalive(self):
        if self._keepalive_payload is not None:
            # Without a pong deadline the last one may still be unanswered; a later Pong stands for it.
            self._pings.pop(self._keepalive_payload, None)
        self._keepalive_payload = self._unused_ping_payload()
        self._write_control(OP_PING, self._keepalive_payload)
        self._pings[self._keepalive_payload] = (self._now, None)
        self._ping_time = self._now + self._ping_interval
        self._keepalive_began()
        if self._debug():
            self.logger.debug("% sent keepalive ping")

    def _repeat_keepalive(self):
        """Send the Ping that waits for its answer once more, while that can't be read."""
        if not self._writing_paused:
            self._write_control(OP_PING, self._keepalive_payload)
        # Otherwise, something waits for being acknowledged anyway.
        self._keepalive_began()

    cdef int _keepalive_began(self) except -1:
        self._keepalive_sent = self._now
        self._pong_deadline = self._now + self._ping_timeout
        self._answer_deadline = self._now + MAX_UNANSWERED * self._ping_timeout
        self._answer_spared = False

    cdef int _look_for_life(self) noexcept:
        """Let the pong deadline follow the bytes that were received since the Ping."""
        if self._last_received <= self._keepalive_sent:
            return 0
        if self._answer_deadline <= self._now:
            # In the middle of a frame a peer can't answer (RFC 6455 section 5.5).
            if not self._in_frame or (self._answer_spared and not self._frame_spared):
                return 0
            self._answer_spared = self._frame_spared = True
            self._answer_deadline = self._now + self._ping_timeout
        self._pong_deadline = min(self._last_received + self._ping_timeout, self._answer_deadline)

    cdef int _opening_timed_out(self) except -1:
        self._set_handshake_failed(TimeoutError("timed out during opening handshake"))
        self.transport_action = ABORT

    # ------------------------------------------------------------------ receiving

    def receive_eof(self, now: float | None = None) -> int:
        """Process the end of the stream; return the activity bits. May be called more than once."""
        self._now = self._time(now)
        self._activity = 0
        if not self._eof_received:
            self._deliver_kept(False)
            self._eof_received = True
            if self._debug():
                self.logger.debug("< EOF")
            if self._state == CONNECTING:
                if not self._discarding:
                    self._receive_handshake_eof()
            elif not self._discarding and self.parser_exc is None:
                self.parser_exc = EOFError("unexpected end of stream")
            self._send_eof()
            self._set_closed()
            self.transport_action = max(self.transport_action, CLOSE)
        return self._activity | (OUTPUT if self._output.size else 0)

    def connection_lost(self, exc=None) -> None:
        """Record that the TCP connection is gone; no time limit is left.

        Until then ``handle_timeout`` may ask for ``transport_action`` ABORT.

        Args:
            exc: What broke it, if it was broken; becomes the cause of ``ConnectionClosed``.
        """
        self._activity = 0
        if exc is not None and self.parser_exc is None:
            self.parser_exc = exc
        self._deliver_kept(True)
        self.receive_eof()
        self._close_deadline = INFINITY
        self._output = OutputBuffer.__new__(OutputBuffer)
        self._eof_sent = True

    cdef int _deliver_kept(self, bint lost) except -1:
        """Call back with what waits for the network to take the answers, at the end of the stream."""
        while self._kept is not None and self._listener is not None and not self._calling and not self._discarding:
            self._receive_kept()
            if lost:
                self._output = OutputBuffer.__new__(OutputBuffer)

    cdef int _set_early_data_refused(self) except -1:
        self._set_handshake_failed(ProtocolError("too much data before the handshake is complete"))
        self._send_eof()
        self.transport_action = CLOSE

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
        if self._queue is None:
            self._events.append(frame)
        self._activity |= ATTENTION
        if opcode == OP_PING:
            # RFC 6455 section 5.5.2. While the peer doesn't read, only the last Ping is answered: a flood
            # of them can't make the output grow.
            if self._writing_paused:
                self._delayed_pong = payload
            else:
                self._write_control(OP_PONG, payload)
        elif opcode == OP_PONG:
            self._received_pong(payload)
        else:
            self._received_close(payload)

    cdef int _received_pong(self, bytes payload) except -1:
        if self._pings is None or payload not in self._pings:
            return 0
        # RFC 6455 section 5.5.3: a Pong answers the latest Ping, and with it the earlier ones.
        for earlier in list(self._pings):
            sent, waiter = self._pings.pop(earlier)
            if waiter is not None:
                if self._acknowledged is None:
                    self._acknowledged = []
                self._acknowledged.append((waiter, self._now - sent))
            if earlier == self._keepalive_payload:
                self._keepalive_payload = None
                self._pong_deadline = INFINITY
                if self._state == OPEN:
                    self._ping_time = max(self._now, sent + self._ping_interval)
                if self._debug():
                    self.logger.debug("% received keepalive pong")
            if earlier == payload:
                self.latency = self._now - sent
                return 0

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

    def acknowledged_pings(self) -> list:
        """Return and forget pairs of a ping's waiter and its latency in seconds."""
        acknowledged = self._acknowledged
        self._acknowledged = None
        return [] if acknowledged is None else acknowledged

    def abandoned_pings(self) -> list:
        """Return and forget the waiters of pings that weren't answered."""
        pings, self._pings = self._pings, None
        return [] if pings is None else [waiter for _, waiter in pings.values() if waiter is not None]

    # ------------------------------------------------------------------ sending

    cdef int _require_state(self, bint closing_too) except -1:
        if self._state != OPEN and not (closing_too and self._state == CLOSING and not self._eof_sent):
            raise InvalidState(f"connection is {self.state.name.lower()}")

    def send(self, message, text: bool | None = None, *, compress: bool | None = None) -> int:
        """Send a message in one frame.

        Args:
            message: str or bytes-like object.
            text: Force a text (True) or binary (False) message, whatever the type of ``message``.
            compress: Whether to compress it, if permessage-deflate was negotiated; None if it pays.

        Returns:
            Activity bits, with ``MESSAGE`` if a received one waits (the application is likely to send more)
            and ``ATTENTION`` if ``next_timeout()`` is earlier than before.

        Raises:
            TypeError: If ``message`` is of another type.
            UnicodeError: If a text message isn't UTF-8.
            InvalidState: If the connection isn't open.
            ConcurrencyError: If a fragmented message is being sent.
        """
        return self.send_message(message, text, compress)

    cdef int send_message(self, message, text, compress) except -1:
        cdef int opcode
        if self._state != OPEN:
            self._require_state(False)
        if self._sending_opcode:
            raise ConcurrencyError("a fragmented message is being sent")
        if text is None:
            opcode = OP_TEXT if PyUnicode_Check(message) else OP_BINARY
        else:
            opcode = OP_TEXT if text else OP_BINARY
            if text and self.validate_text and not PyUnicode_Check(message):
                self._sending_utf8.missing = self._sending_utf8.seen = 0
                self._check_sent_text(message, True)
        self._write_data(opcode, message, True, compress)
        return self._pending()

    def send_prepared(self, PreparedMessage message not None, *, compress: bool | None = None) -> int:
        """Send a message that goes to many connections.

        It is compressed once for all of them.

        Args:
            message: Message.
            compress: As in ``send``; so are return values and exceptions.
        """
        return self.send_prepared_message(message, compress)

    cdef int send_prepared_message(self, PreparedMessage message, compress) except -1:
        cdef PerMessageDeflate deflate
        if self._state != OPEN:
            self._require_state(False)
        if self._sending_opcode:
            raise ConcurrencyError("a fragmented message is being sent")
        if self._extensions is not None:
            self._refresh_extensions()
        if self._foreign_extensions or self._debug():
            self._write_data(message._opcode, message._payload, True, compress)
            return self._pending()
        deflate = self._deflate
        if deflate is not None and compress is not False and (
            compress or PyBytes_GET_SIZE(message._payload) >= deflate.min_size
        ):
            if message._compressed is None:
                message._compress(deflate)
            elif message._window_bits > deflate.local_max_window_bits and (
                # It refers to nothing outside itself, so its own size bounds the window that it needs.
                PyBytes_GET_SIZE(message._payload) > 1 << deflate.local_max_window_bits
            ):
                # All can read what is compressed for the smallest window.
                message._compress(deflate)
            if message._compressed:
                deflate.start_afresh()
                if self._is_client:
                    self._write_frame(
                        message._opcode, True, 4,
                        PyBytes_AS_STRING(message._compressed), PyBytes_GET_SIZE(message._compressed),
                    )
                else:
                    self._output.append(message._compressed_frame)
                return self._pending()
            if compress:
                self._write_deflated(message._opcode, message._payload, True, compress)
                return self._pending()
        if self._is_client:
            self._write_frame(
                message._opcode, True, 0, PyBytes_AS_STRING(message._payload), PyBytes_GET_SIZE(message._payload)
            )
        else:
            self._output.append(message._frame)
        return self._pending()

    cdef int send_memory(self, int opcode, const void* data, Py_ssize_t size) except -1:
        """Send a message that lies in memory, from compiled code; return the activity bits.

        Args:
            opcode: OP_TEXT or OP_BINARY. Text is UTF-8: the caller answers for it.
            data: Payload, copied.
            size: Number of bytes.

        Raises:
            InvalidState, ConcurrencyError: As in ``send``.
        """
        if self._extensions is None and self._state == OPEN and not self._sending_opcode and not self._debug():
            self._write_frame(opcode, True, 0, data, size)
            return self._pending()
        return self.send_message((<const char*>data)[:size], opcode == OP_TEXT, None)

    cdef int _pending(self) noexcept:
        cdef int activity = OUTPUT
        if self._queue is not None and self._queue.messages:
            activity |= MESSAGE
        if self._output.size >= FLUSH_SIZE:
            activity |= FLUSH
        if self._release_armed:
            self._release_armed = False
            activity |= ATTENTION
        return activity

    def send_text(self, data, fin: bool = True, *, compress: bool | None = None) -> None:
        """Send a text frame.

        Args:
            data: str, or bytes-like object holding UTF-8.
            fin: Whether this is the whole message.
            compress: Whether to compress it, if permessage-deflate was negotiated; None if it pays.

        Raises:
            ProtocolError: If a fragmented message is being sent.
            InvalidState: If the connection isn't open.
        """
        self._send_first(OP_TEXT, data, fin, compress)

    def send_binary(self, data, fin: bool = True, *, compress: bool | None = None) -> None:
        """Send a binary frame; parameters and exceptions as in ``send_text``."""
        self._send_first(OP_BINARY, data, fin, compress)

    def _send_first(self, opcode, data, fin, compress):
        self._require_state(False)
        if self._sending_opcode:
            raise ProtocolError("expected a continuation frame")
        self._sending_utf8.missing = self._sending_utf8.seen = 0
        if opcode == OP_TEXT and self.validate_text:
            self._check_sent_text(data, fin)
        self._write_data(opcode, data, fin, compress)
        if not fin:
            self._sending_opcode = opcode

    def send_continuation(self, data, fin: bool) -> None:
        """Send a continuation frame.

        Args:
            data: str or bytes-like object.
            fin: Whether this ends the message.

        Raises:
            ProtocolError: If no fragmented message is being sent.
            InvalidState: If the connection isn't open.
        """
        if not self._sending_opcode:
            raise ProtocolError("unexpected continuation frame")
        self._require_state(False)
        if self._sending_opcode == OP_TEXT and self.validate_text:
            self._check_sent_text(data, fin)
        self._write_data(OP_CONT, data, fin, None)
        if fin:
            self._sending_opcode = 0

    def send_ping(self, data) -> None:
        """Send a Ping frame; ``ping`` does it and measures the latency.

        Args:
            data: Payload of at most 125 bytes.

        Raises:
            ProtocolError: If the payload is too long.
            InvalidState: If the connection is neither open nor closing.
        """
        self._require_state(True)
        self._write_control(OP_PING, to_bytes("data", data))

    def send_pong(self, data) -> None:
        """Send a Pong frame; parameters and exceptions as in ``send_ping``."""
        self._require_state(True)
        self._write_control(OP_PONG, to_bytes("data", data))

    def ping(self, data=None, waiter=None, *, now: float | None = None) -> bytes:
        """Send a Ping frame and remember it until a Pong answers it.

        Args:
            data: Payload of at most 125 bytes; None for four random bytes.
            waiter: What ``acknowledged_pings`` gives back with the latency.
            now: Current time.

        Returns:
            Payload of the ping.

        Raises:
            ConcurrencyError: If a ping with the same payload waits for its answer.
            ProtocolError: If the payload is too long.
            InvalidState: If the connection isn't open.
        """
        cdef bytes payload
        cdef double time = self._time(now)
        self._require_state(False)
        payload = self._unused_ping_payload() if data is None else to_bytes("data", data)
        if self._pings is None:
            self._pings = {}
        if payload in self._pings:
            raise ConcurrencyError("already waiting for a pong with the same data")
        self._write_control(OP_PING, payload)
        self._now = time
        self._pings[payload] = (time, waiter)
        return payload

    def _unused_ping_payload(self):
        cdef bytes payload
        if self._pings is None:
            self._pings = {}
        while True:
            payload = os.urandom(4)
            if payload not in self._pings:
                return payload

    # ------------------------------------------------------------------ closing

    def close(self, code=1000, reason: str = "", *, now: float | None = None) -> None:
        """Start the closing handshake, unless it has started; received data isn't wanted any more.

        Before the opening handshake is answered, give it up.

        Args:
            code: Close code (RFC 6455 section 7.4); None for none.
            reason: Close reason, at most 123 bytes of UTF-8.
            now: Current time; the whole closing lasts ``close_timeout`` from then.

        Raises:
            ProtocolError: If the code or the reason isn't allowed; nothing is sent.
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
        self._write_control(OP_CLOSE, payload)
        self.close_sent = Close(CloseCode.NO_STATUS_RCVD if code is None else code, reason)
        self._set_state(CLOSING)
        self._start_closing()
        self._drop_kept()

    cdef int _drop_kept(self) except -1:
        """Drop the messages that wait for room; what follows them may be the answer to our Close frame."""
        if self._kept is not None and not self._discarding:
            self._queue.drop_rest()
            self._receive_kept()

    def fail(self, code: int, reason: str = "", *, now: float | None = None) -> None:
        """Fail the connection (RFC 6455 section 7.1.7): tell the peer why, then ignore what it sends.

        Args:
            code: Close code; 1006 sends nothing.
            reason: Close reason; cut to fit into a Close frame.
            now: Current time.
        """
        self._now = self._time(now)
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
            self._set_handshake_failed(self.handshake_exc or exc or ConnectionAbortedError("given up"))
        else:
            if self.parser_exc is None:
                self.parser_exc = exc
            self._fail(CloseCode.ABNORMAL_CLOSURE, "")
        self._output = OutputBuffer.__new__(OutputBuffer)
        self._eof_sent = True
        self.transport_action = max(self.transport_action, ABORT if abort else CLOSE)
        self._activity |= ATTENTION

    def limit_backlog(self, unsent: int, limit: int | None) -> bool:
        """Give up the connection if the peer is too far behind with reading what is sent.

        Args:
            unsent: Number of bytes that were taken from the output, and the network hasn't taken yet.
            limit: Number of bytes that may wait, those in the output included; None for no limit.

        Returns:
            Whether it was given up.
        """
        if limit is None or unsent + self._output.size <= limit:
            return False
        self.give_up(
            ConnectionAbortedError(
                f"peer doesn't read: more than {limit} bytes wait to be sent"
            )
        )
        return True

    cdef int _fail(self, int code, str reason) except -1:
        if self._state == CLOSED:
            return 0
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
