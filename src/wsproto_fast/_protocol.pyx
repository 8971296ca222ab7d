"""The state machine of one WebSocket connection (RFC 6455), without sockets, threads, or a clock.

A driver feeds it what the network brings (``receive_data`` or ``get_buffer`` + ``buffer_updated``,
``receive_eof``, ``connection_lost``), what the application wants (``send``, ``ping``, ``close``, ...) and the
time (``now``, in seconds, of any clock that doesn't go back; ``handle_timeout``). After any of these it looks
at the outputs, in this order: ``take_output()`` until it is empty, ``transport_action``,
``events_received()`` or ``next_message()``, ``acknowledged_pings()``, ``reading_wanted``, ``next_timeout()``.

A peer's fault never raises here: it yields the right Close frame and is kept in ``parser_exc``. A caller's
misuse raises and leaves the state as it was.
"""

import logging
import os
import uuid

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.ref cimport Py_XDECREF, PyObject
from cpython.unicode cimport PyUnicode_Check, PyUnicode_DecodeUTF8
from libc.math cimport INFINITY
from libc.stddef cimport size_t
from libc.stdint cimport UINT32_MAX, UINT64_MAX, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ._frames cimport (
    BAD_MASKING,
    BAD_OPCODE,
    BAD_RSV,
    CONTROL_FRAGMENTED,
    CONTROL_TOO_LONG,
    LENGTH_NOT_MINIMAL,
    MAX_HEADER,
    NEED_MORE,
    OP_BINARY,
    OP_CLOSE,
    OP_CONT,
    OP_PING,
    OP_PONG,
    OP_TEXT,
    Frame,
    next_masking_key,
    read_header,
    write_header,
    ws_mask_copy,
    ws_mask_in_place,
    ws_plain_copy,
    ws_utf8_check,
)
from ._output cimport OutputBuffer, new_bytes, resize_bytes
from ._queue cimport ATTENTION, FLUSH, FRAGMENT, MESSAGE, OUTPUT, MessageQueue

from .exceptions import (
    ConcurrencyError,
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidState,
    PayloadTooBig,
    ProtocolError,
    TooManyFragments,
)
from .frames import OK_CLOSE_CODES, Close, CloseCode, Side, State


cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX
    object PyBytes_FromStringAndSize(const char* data, Py_ssize_t size)
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    unsigned char* PyUnicode_1BYTE_DATA(object text)
    bint PyUnicode_IS_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)


# Bytes accepted while the opening handshake isn't answered yet.
cdef Py_ssize_t MAX_EARLY = 65536
# Above this, output shouldn't wait for the end of the turn.
cdef Py_ssize_t FLUSH_SIZE = 65536
# Receiving buffer of a protocol that wasn't given one to share.
cdef Py_ssize_t OWN_READ_BUFFER = 16384
# A frame that isn't whole yet gets room for at least this much of it.
cdef Py_ssize_t MIN_PARTIAL = 128

cdef list _states = list(State)
cdef object _DEBUG = logging.DEBUG
cdef object _FALSE = False
cdef bytes _EOF = b""
cdef int PyBUF_WRITE = 0x200

cdef dict _header_faults = {
    BAD_RSV: "reserved bits must be 0",
    BAD_OPCODE: "invalid opcode",
    BAD_MASKING: "incorrect masking",
    CONTROL_FRAGMENTED: "fragmented control frame",
    CONTROL_TOO_LONG: "control frame too long",
    LENGTH_NOT_MINIMAL: "payload length isn't minimal",
}


cdef uint64_t _limit(value) except? 0:
    return UINT64_MAX if value is None else value


cdef double _duration(str name, value) except? -1.0:
    """Check a timeout given by a caller; None stands for no limit."""
    if value is None:
        return INFINITY
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ValueError(f"{name} must be a number of seconds, 0 or more, or None; got {value!r}")
    return value


cdef bytes _to_bytes(str name, data):
    """Return a copy of the bytes-like or str argument ``name``."""
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise TypeError(f"{name} must be str or bytes-like; got {type(data).__name__}")


cdef class PreparedMessage:
    """A message that is going to be sent on many connections, framed once for all of them.

    Args:
        message: str or bytes-like object.
        text: Force a text (True) or binary (False) message, whatever the type of ``message``.

    Raises:
        TypeError: If ``message`` is of another type.
    """

    def __cinit__(self, message, text=None):
        cdef unsigned char header[14]
        cdef int header_size
        self._payload = _to_bytes("message", message)
        self._opcode = OP_TEXT if (isinstance(message, str) if text is None else text) else OP_BINARY
        header_size = write_header(header, self._opcode, True, 0, PyBytes_GET_SIZE(self._payload), NULL)
        self._frame = (<char*>header)[:header_size] + self._payload


cdef class Protocol:
    """A WebSocket connection as a state machine.

    Args:
        side: Role, ``Side.CLIENT`` or ``Side.SERVER``.
        state: State to start in. ``State.OPEN`` is for connections whose opening handshake was done elsewhere.
        max_size: Limit on incoming messages in bytes, or a pair of limits on messages and on fragments;
            None for no limit.
        logger: Logger for what happens on this connection; ``wsapi.client`` or ``wsapi.server`` by default.

    Received frames become events (``events_received``) unless ``queue_messages`` is called, which
    makes them messages (``next_message``).
    """

    def __cinit__(self, *args, **kwargs):
        self._output = OutputBuffer.__new__(OutputBuffer)
        self._events = []
        self._ping_interval = self._ping_timeout = self._close_timeout = INFINITY
        self._ping_time = self._pong_deadline = self._open_deadline = self._close_deadline = INFINITY
        self._max_fragments = UINT32_MAX

    def __init__(
        self,
        side: Side,
        *,
        state: State = State.OPEN,
        max_size: int | None | tuple[int | None, int | None] = 2**20,
        logger=None,
    ):
        self.side = Side(side)
        self._is_client = self.side == Side.CLIENT
        self._state = State(state)
        if isinstance(max_size, tuple):
            message_size, fragment_size = max_size
        else:
            message_size, fragment_size = max_size, None
        self._max_message_size = _limit(message_size)
        self._max_fragment_size = _limit(fragment_size)
        self.logger = logging.getLogger(f"wsapi.{self.side.name.lower()}") if logger is None else logger

    def __dealloc__(self):
        Py_XDECREF(self._partial)

    # ------------------------------------------------------------------ settings

    def queue_messages(
        self,
        high: int | None = 16,
        low: int | None = None,
        *,
        max_bytes: int | None = 2**22,
        max_fragments: int | None = 4096,
    ) -> None:
        """Assemble received frames into messages and queue them for ``next_message``.

        Args:
            high: Number of queued frames above which ``reading_wanted`` becomes false; None for no limit.
            low: Number of queued frames at or below which it becomes true again; a quarter of ``high`` by default.
            max_bytes: Number of queued bytes that has the same effect as ``high``.
            max_fragments: Limit on the number of fragments in a message; None for no limit.
        """
        if low is None and high is not None:
            low = high // 4
        if high is not None and not 0 <= low <= high:
            raise ValueError(f"max_queue must be (high, low) with high >= low >= 0; got ({high!r}, {low!r})")
        self._queue = MessageQueue(high, low, max_bytes)
        self._max_fragments = UINT32_MAX if max_fragments is None else max_fragments

    def set_timeouts(
        self,
        *,
        open_timeout: float | None = None,
        ping_interval: float | None = None,
        ping_timeout: float | None = None,
        close_timeout: float | None = None,
        now: float = 0.0,
    ) -> None:
        """Set the durations after which something must have happened, in seconds; None for no limit.

        Args:
            open_timeout: From ``now`` to the end of the opening handshake.
            ping_interval: Between keepalive pings.
            ping_timeout: From a keepalive ping to the next received byte.
            close_timeout: From the beginning of the closing handshake to the end of the connection.
            now: Current time.
        """
        cdef double opening = _duration("open_timeout", open_timeout)
        cdef double interval = _duration("ping_interval", ping_interval)
        if interval == 0:
            raise ValueError("ping_interval must be more than 0, or None")
        cdef double pong = _duration("ping_timeout", ping_timeout)
        cdef double closing = _duration("close_timeout", close_timeout)
        self._now = now
        self._ping_interval = interval
        self._ping_timeout = pong
        self._close_timeout = closing
        if self._state == CONNECTING:
            self._open_deadline = now + opening
        elif self._state == OPEN:
            self._ping_time = now + interval

    def use_read_buffer(self, buffer) -> None:
        """Receive through ``buffer``, which other connections may share.

        Args:
            buffer: Writable memoryview. Its contents matter only between ``get_buffer()`` and
                ``buffer_updated()``.

        Raises:
            ValueError: If ``buffer`` is empty.
        """
        cdef Py_buffer view
        if not isinstance(buffer, memoryview):
            # As long as there is a view of it, its size can't change.
            buffer = memoryview(buffer)
        if not buffer.nbytes:
            raise ValueError("a read buffer can't be empty")
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        self._read_memory = <unsigned char*>view.buf
        self._read_capacity = view.len
        self._read_buffer = buffer
        PyBuffer_Release(&view)

    # ------------------------------------------------------------------ state

    @property
    def id(self) -> uuid.UUID:
        """Identifier of the connection, for logs."""
        if self._id is None:
            self._id = uuid.uuid4()
        return self._id

    @property
    def logger(self):
        """Logger or LoggerAdapter for what happens on this connection."""
        return self._logger

    @logger.setter
    def logger(self, logger):
        self._logger = logger
        while isinstance(logger, logging.LoggerAdapter):
            logger = logger.logger
        # Loggers keep what isEnabledFor() found in a dict that is emptied whenever a level changes.
        cache = getattr(logger, "_cache", None)
        self._logger_cache = cache if type(cache) is dict else None

    cdef bint _debug(self) except -1:
        cdef PyObject* enabled
        if self._logger_cache is not None:
            enabled = PyDict_GetItem(self._logger_cache, _DEBUG)
            if enabled == <PyObject*>_FALSE:
                return False
        return self._logger.isEnabledFor(_DEBUG)

    @property
    def state(self) -> State:
        """State of the connection (RFC 6455 section 4.1, 7.1.3 and 7.1.4)."""
        return _states[self._state]

    @property
    def extensions(self) -> list:
        """Negotiated extensions, in the order in which they transform outgoing frames."""
        if self._extensions is None:
            self._extensions = []
        return self._extensions

    @extensions.setter
    def extensions(self, extensions):
        self._extensions = list(extensions)

    @property
    def max_size(self) -> int | None | tuple[int | None, int | None]:
        """Limit on incoming messages in bytes, or a pair of limits on messages and fragments."""
        message = None if self._max_message_size == UINT64_MAX else self._max_message_size
        if self._max_fragment_size == UINT64_MAX:
            return message
        return message, self._max_fragment_size

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
        ):
            exc_type = ConnectionClosedOK
        else:
            exc_type = ConnectionClosedError
        exc = exc_type(self.close_rcvd, self.close_sent, self.close_rcvd_then_sent)
        exc.__cause__ = self.parser_exc
        return exc

    def close_expected(self) -> bool:
        """Tell whether the TCP connection should be closed soon."""
        return (
            self._state == CLOSING
            or self.handshake_exc is not None
            or (self._state == CONNECTING and self._eof_sent)
        )

    @property
    def reading_wanted(self) -> bool:
        """Whether the driver should go on reading from the network (flow control)."""
        return self._queue is None or self._queue.reading_wanted

    @property
    def output_size(self) -> int:
        """Number of bytes waiting for ``take_output``."""
        return self._output.size

    # ------------------------------------------------------------------ time

    def next_timeout(self) -> float | None:
        """Return the time at which ``handle_timeout`` must be called; None if there is no such time."""
        cdef double deadline = min(
            min(self._ping_time, self._pong_deadline), min(self._open_deadline, self._close_deadline)
        )
        return None if deadline == INFINITY else deadline

    def handle_timeout(self, double now) -> int:
        """Do what is due at ``now``; return the activity bits."""
        cdef double late
        self._now = now
        self._activity = 0
        if self._open_deadline <= now:
            self._open_deadline = INFINITY
            if self._state == CONNECTING:
                self._opening_timed_out()
        if self._close_deadline <= now:
            self._close_deadline = INFINITY
            if self._state != CLOSED:
                if self.parser_exc is None:
                    self.parser_exc = TimeoutError("timed out while closing connection")
                self.transport_action = ABORT
                self._activity |= ATTENTION
        if self._pong_deadline <= now:
            late = now - self._pong_deadline
            if self._last_received > self._keepalive_sent:
                # Any received byte is a sign of life, not just the Pong.
                self._pong_deadline = self._last_received + self._ping_timeout
                self._keepalive_sent = self._last_received
            if self._queue is not None and not self._queue.reading_wanted:
                # The Pong may be among what isn't read because the application is slow.
                self._pong_deadline = now + self._ping_timeout
            elif self._pong_deadline <= now and late > 0.25 * min(self._ping_timeout, 4.0):
                # The caller comes late: it may not have had time to read either.
                self._pong_deadline = now + min(late, self._ping_timeout)
            if self._pong_deadline <= now:
                if self._debug():
                    self._logger.debug("- timed out waiting for keepalive pong")
                self._pong_deadline = INFINITY
                self._fail(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
        if self._ping_time <= now:
            self._send_keepalive()
        return self._activity | (OUTPUT if self._output.size else 0)

    def _send_keepalive(self):
        if self._keepalive_payload is not None:
            # Without a pong deadline the last one may still be unanswered; a later Pong stands for it.
            self._pings.pop(self._keepalive_payload, None)
        self._keepalive_payload = self._unused_ping_payload()
        self._write_control(OP_PING, self._keepalive_payload)
        self._pings[self._keepalive_payload] = (self._now, None)
        self._keepalive_sent = self._now
        if self._ping_timeout == INFINITY:
            self._ping_time = self._now + self._ping_interval
        else:
            # The next one is scheduled when this one is answered.
            self._ping_time = INFINITY
            self._pong_deadline = self._now + self._ping_timeout
        if self._debug():
            self._logger.debug("% sent keepalive ping")

    # ------------------------------------------------------------------ receiving

    def get_buffer(self, Py_ssize_t sizehint = -1):
        """Return a writable buffer to receive into; follow up with ``buffer_updated``.

        Args:
            sizehint: Ignored; for the interface of ``asyncio.BufferedProtocol``.
        """
        if self._in_frame and self._partial != NULL and self._frame_left >= <uint64_t>self._read_capacity:
            # Large frames are received into their place. Room doubles as bytes arrive, so that a header
            # alone, which costs its sender nothing, reserves nothing.
            try:
                self._reserve_partial(max(self._partial_size, self._read_capacity))
            except MemoryError as exc:
                # _partial is gone; what is received from now on is discarded.
                self._parser_failed(exc)
            else:
                self._reading_direct = True
                self._handed_out = PyBytes_GET_SIZE(<object>self._partial) - self._partial_size
                return PyMemoryView_FromMemory(
                    PyBytes_AS_STRING(<object>self._partial) + self._partial_size, self._handed_out, PyBUF_WRITE
                )
        if self._read_buffer is None:
            self.use_read_buffer(memoryview(bytearray(OWN_READ_BUFFER)))
        self._reading_direct = False
        if self._partial != NULL and not self._in_frame:
            self._drop_partial()
        self._handed_out = self._read_capacity
        return self._read_buffer

    def buffer_updated(self, Py_ssize_t size, double now = 0.0) -> int:
        """Process what was received into the buffer of ``get_buffer``; return the activity bits.

        Args:
            size: Number of bytes.
            now: Current time.

        Raises:
            ValueError: If the buffer hasn't got so much room.
        """
        return self._buffer_updated(size, now)

    cdef int _buffer_updated(self, Py_ssize_t size, double now) except -1:
        cdef Py_ssize_t room = self._handed_out
        self._handed_out = 0
        if not 0 <= size <= room:
            raise ValueError(f"get_buffer() gave room for {room} bytes, not {size}")
        self._activity = 0
        self._now = self._last_received = now
        if self._reading_direct:
            self._reading_direct = False
            self._receive_direct(size)
        else:
            self._receive(self._read_memory, size)
        return self._activity | (OUTPUT if self._output.size else 0)

    def receive_data(self, data, double now = 0.0) -> int:
        """Process received bytes; return the activity bits.

        Args:
            data: Bytes-like object.
            now: Current time.

        Raises:
            EOFError: If the end of the stream was received before.
        """
        cdef Py_buffer view
        if self._eof_received:
            raise EOFError("stream ended")
        # A buffer that was handed out is void now.
        self._handed_out = 0
        self._reading_direct = False
        self._activity = 0
        self._now = self._last_received = now
        if PyBytes_CheckExact(data):
            self._receive(<const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        else:
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
            try:
                self._receive(<const unsigned char*>view.buf, view.len)
            finally:
                PyBuffer_Release(&view)
        return self._activity | (OUTPUT if self._output.size else 0)

    def receive_eof(self, double now = 0.0) -> int:
        """Process the end of the stream; return the activity bits. May be called more than once."""
        self._activity = 0
        self._now = now
        if not self._eof_received:
            self._eof_received = True
            if self._debug():
                self._logger.debug("< EOF")
            if self._state == CONNECTING:
                self._receive_handshake_eof()
            elif not self._discarding and self.parser_exc is None:
                self.parser_exc = EOFError("unexpected end of stream")
            self._send_eof()
            self._set_closed()
            self.transport_action = max(self.transport_action, CLOSE)
        return self._activity | (OUTPUT if self._output.size else 0)

    def connection_lost(self, exc=None) -> None:
        """Record that the TCP connection is gone.

        Args:
            exc: What broke it, if it was broken; becomes the cause of ``ConnectionClosed``.
        """
        self._activity = 0
        if exc is not None and self.parser_exc is None:
            self.parser_exc = exc
        self.receive_eof(self._now)
        self._output = OutputBuffer.__new__(OutputBuffer)
        self._eof_sent = True

    cdef int _receive(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef Py_ssize_t used
        try:
            while self._state == CONNECTING and size and not self._discarding:
                used = self._receive_handshake(data, size)
                if used == 0:
                    # The request is complete and isn't answered yet.
                    if self._early is None:
                        self._early = bytearray()
                    if len(self._early) + size > MAX_EARLY:
                        self._set_handshake_failed(ProtocolError("too much data before the handshake is complete"))
                        self._send_eof()
                        self.transport_action = CLOSE
                        return 0
                    self._early += data[:size]
                    return 0
                data += used
                size -= used
            self._receive_frames(data, size)
        except Exception as exc:
            self._parser_failed(exc)

    cdef int _receive_direct(self, Py_ssize_t size) except -1:
        """Process bytes that were received right behind the current frame's payload."""
        if self._discarding or not self._in_frame:
            return self._drop_partial()
        try:
            self._extended_partial(
                <unsigned char*>PyBytes_AS_STRING(<object>self._partial) + self._partial_size, size
            )
            if self._frame_left == 0 and not self._discarding:
                self._finish_partial()
        except Exception as exc:
            self._parser_failed(exc)

    cdef int _parser_failed(self, exc) except -1:
        # Nothing that a peer sends should lead here; an extension's fault does, or a lack of memory.
        self._logger.error("parser failed", exc_info=exc)
        self._fail_receiving(CloseCode.INTERNAL_ERROR, "", exc)

    cdef int _drop_partial(self) except -1:
        """Forget the frame being read; keep its memory while a transport may write there."""
        self._in_frame = False
        self._partial_size = 0
        if not self._reading_direct:
            Py_XDECREF(self._partial)
            self._partial = NULL

    cdef int _receive_frames(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef Py_ssize_t take
        cdef int used
        # What extensions leave of the reserved bits is checked after decoding.
        cdef uint8_t allowed_rsv = 7 if self._extensions else 0
        while not self._discarding:
            if not self._in_frame:
                if size == 0:
                    return 0
                if self._header_size == 0:
                    used = read_header(&self._header, data, size, not self._is_client, allowed_rsv)
                    if used == NEED_MORE:
                        memcpy(self._header_bytes, data, size)
                        self._header_size = <uint8_t>size
                        return 0
                    if used < 0:
                        return self._fail_header(used)
                else:
                    take = min(MAX_HEADER - self._header_size, size)
                    memcpy(self._header_bytes + self._header_size, data, take)
                    used = read_header(
                        &self._header, self._header_bytes, self._header_size + take,
                        not self._is_client, allowed_rsv,
                    )
                    if used == NEED_MORE:
                        self._header_size += <uint8_t>take
                        return 0
                    if used < 0:
                        return self._fail_header(used)
                    used -= self._header_size
                    self._header_size = 0
                data += used
                size -= used
                self._frame_left = self._header.length
                if not self._start_frame():
                    return 0
                self._in_frame = True
            if self._partial == NULL and self._frame_left <= <uint64_t>size:
                take = <Py_ssize_t>self._frame_left
                self._in_frame = False
                self._whole_frame(data, take)
            else:
                if size == 0:
                    return 0
                take = <Py_ssize_t>min(self._frame_left, <uint64_t>size)
                self._store_partial(data, take)
                if self._frame_left == 0 and not self._discarding:
                    self._finish_partial()
            data += take
            size -= take

    cdef int _start_frame(self) except -1:
        """Check what a frame's header can tell; return whether its payload is welcome."""
        cdef uint64_t length = self._header.length
        cdef int opcode = self._header.opcode
        cdef uint64_t limit
        if opcode & 8:
            return True
        # RFC 6455 section 5.4: fragments of different messages don't interleave.
        if opcode == OP_CONT:
            if self._message_opcode == 0:
                self._fail_receiving(
                    CloseCode.PROTOCOL_ERROR,
                    "unexpected continuation frame",
                    ProtocolError("unexpected continuation frame"),
                )
                return False
        else:
            if self._message_opcode != 0:
                self._fail_receiving(
                    CloseCode.PROTOCOL_ERROR,
                    "expected a continuation frame",
                    ProtocolError("expected a continuation frame"),
                )
                return False
            self._message_opcode = opcode
            self._message_size = 0
            self._message_frames = 0
            self._utf8.missing = self._utf8.seen = 0
        self._message_frames += 1
        if self._message_frames > self._max_fragments:
            exc = TooManyFragments(self._max_fragments)
            self._fail_receiving(CloseCode.MESSAGE_TOO_BIG, "too many fragments", exc)
            return False
        limit = min(self._max_message_size - self._message_size, self._max_fragment_size)
        if length > limit:
            if limit == self._max_fragment_size:
                exc = PayloadTooBig(length, self._max_fragment_size)
            else:
                exc = PayloadTooBig(length, limit, self._message_size or None)
            self._fail_receiving(CloseCode.MESSAGE_TOO_BIG, str(exc), exc)
            return False
        return True

    cdef int _whole_frame(self, const unsigned char* data, Py_ssize_t size) except -1:
        """Process a frame whose payload lies at ``data``, still masked."""
        cdef bytes payload
        cdef object text
        cdef unsigned char* out
        cdef bint wide
        if (
            self._header.opcode == OP_TEXT
            and self._header.fin
            and self._queue is not None
            and self._header.rsv == 0
            and not self._extensions
            and size
            and not self._debug()
        ):
            # Unmask into a new str. If that turns out not to be ASCII, its memory serves as
            # scratch space: decoding what it holds is the validation, too.
            text = PyUnicode_New(size, 127)
            out = PyUnicode_1BYTE_DATA(text)
            if self._is_client:
                wide = ws_plain_copy(out, data, size)
            else:
                wide = ws_mask_copy(out, data, size, self._header.key, 0)
            if wide:
                try:
                    text = PyUnicode_DecodeUTF8(<char*>out, size, NULL)
                except UnicodeDecodeError as exc:
                    return self._fail_text(exc)
            self._message_opcode = 0
            self._activity |= self._queue.put(text, OP_TEXT, True)
            return 0
        payload = <bytes>PyBytes_FromStringAndSize(NULL, size)
        out = <unsigned char*>PyBytes_AS_STRING(payload)
        if self._is_client:
            memcpy(out, data, size)
        else:
            ws_mask_copy(out, data, size, self._header.key, 0)
        if self._header.opcode & 8:
            self._control_payload(payload)
        else:
            self._data_payload(payload, False)

    cdef int _reserve_partial(self, Py_ssize_t extra) except -1:
        """Make room for ``extra`` more bytes of the current frame, at most for all of it."""
        cdef Py_ssize_t total, needed, capacity
        if <uint64_t>extra > self._frame_left:
            extra = <Py_ssize_t>self._frame_left
        total = self._partial_size + <Py_ssize_t>min(self._frame_left, <uint64_t>(PY_SSIZE_T_MAX // 2))
        needed = self._partial_size + extra
        if self._partial == NULL:
            self._partial = new_bytes(NULL, min(total, max(needed, MIN_PARTIAL)))
            return 0
        capacity = PyBytes_GET_SIZE(<object>self._partial)
        if needed > capacity:
            resize_bytes(&self._partial, min(total, max(needed, 2 * capacity)))

    cdef int _store_partial(self, const unsigned char* data, Py_ssize_t size) except -1:
        """Append a piece of the current frame's payload, still masked."""
        cdef unsigned char* out
        self._reserve_partial(size)
        out = <unsigned char*>PyBytes_AS_STRING(<object>self._partial) + self._partial_size
        memcpy(out, data, size)
        self._extended_partial(out, size)

    cdef int _extended_partial(self, unsigned char* data, Py_ssize_t size) except -1:
        """Unmask and check ``size`` more bytes at the end of the current frame's payload."""
        if not self._is_client:
            ws_mask_in_place(data, size, self._header.key, self._partial_size & 3)
        self._partial_size += size
        self._frame_left -= size
        if self._message_opcode == OP_TEXT and not self._header.opcode & 8 and not self._extensions:
            self._check_text(
                data, size, self._partial_size - size, self._header.fin and self._frame_left == 0
            )

    cdef int _finish_partial(self) except -1:
        cdef bytes payload
        if PyBytes_GET_SIZE(<object>self._partial) != self._partial_size:
            resize_bytes(&self._partial, self._partial_size)
        payload = <bytes>self._partial
        Py_XDECREF(self._partial)
        self._partial = NULL
        self._partial_size = 0
        self._in_frame = False
        if self._header.opcode & 8:
            self._control_payload(payload)
        else:
            self._data_payload(payload, True)

    cdef bint _check_text(
        self, const unsigned char* data, Py_ssize_t size, Py_ssize_t offset, bint fin
    ) except -1:
        """Check a piece of a text message as soon as it is there (RFC 6455 section 8.1).

        Fails the connection at the first byte that can't be part of it; returns whether the text is good.
        The piece lies ``offset`` bytes behind the beginning of its frame's payload. What the exception
        tells is what decoding the whole payload would tell, however it arrived.
        """
        cdef Py_ssize_t good = <Py_ssize_t>ws_utf8_check(&self._utf8, data, size)
        cdef Py_ssize_t start
        cdef str reason
        if good == size:
            if not fin or self._utf8.missing == 0:
                return True
            reason = "unexpected end of data"
        elif self._utf8.missing:
            reason = "invalid continuation byte"
        else:
            reason = "invalid start byte"
        # A character may have begun in an earlier frame.
        start = max(offset + good - self._utf8.seen, 0)
        payload = (data - offset)[: offset + size]
        self._fail_text(UnicodeDecodeError("utf-8", payload, start, max(offset + good, start + 1), reason))
        return False

    cdef int _data_payload(self, bytes payload, bint checked) except -1:
        """Process the unmasked payload of a data frame; ``checked`` if it was checked as UTF-8."""
        cdef int opcode = self._header.opcode
        cdef int rsv = self._header.rsv
        cdef bint fin = self._header.fin
        cdef Frame frame
        cdef int message_opcode
        if self._debug() or self._extensions:
            frame = Frame.make(opcode, payload, fin, rsv)
            if self._debug():
                self._logger.debug("< %s", frame)
            if self._extensions:
                frame = self._decode(frame)
                if frame is None:
                    return 0
                payload = frame.data if type(frame.data) is bytes else bytes(frame.data)
                checked = False
        message_opcode = self._message_opcode
        self._message_size += PyBytes_GET_SIZE(payload)
        if message_opcode == OP_TEXT and not checked and not (
            # A whole message in one frame is validated by decoding it.
            self._queue is not None and fin and opcode == OP_TEXT
        ):
            if not self._check_text(
                <const unsigned char*>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), 0, fin
            ):
                return 0
        if fin:
            self._message_opcode = 0
        if self._queue is None:
            self._events.append(Frame.make(opcode, payload, fin, 0))
            self._activity |= ATTENTION
        elif message_opcode == OP_TEXT and fin and opcode == OP_TEXT:
            try:
                text = payload.decode()
            except UnicodeDecodeError as exc:
                return self._fail_text(exc)
            self._activity |= self._queue.put(text, OP_TEXT, True)
        else:
            self._activity |= self._queue.put(payload, message_opcode, fin)

    def _decode(self, Frame frame):
        """Pass a received frame through the extensions; return None after failing the connection."""
        limit = min(self._max_message_size - self._message_size, self._max_fragment_size)
        try:
            for extension in reversed(self._extensions):
                frame = extension.decode(frame, max_size=None if limit == UINT64_MAX else limit)
        except ProtocolError as exc:
            self._fail_receiving(CloseCode.PROTOCOL_ERROR, str(exc), exc)
        except PayloadTooBig as exc:
            if self._message_size:
                exc.set_current_size(self._message_size)
            self._fail_receiving(CloseCode.MESSAGE_TOO_BIG, str(exc), exc)
        else:
            if frame.rsv1 or frame.rsv2 or frame.rsv3:
                self._fail_header(BAD_RSV)
            elif len(frame.data) > limit and not frame.opcode & 8:
                exc = PayloadTooBig(len(frame.data), limit, self._message_size or None)
                self._fail_receiving(CloseCode.MESSAGE_TOO_BIG, str(exc), exc)
            else:
                return frame
        return None

    cdef int _control_payload(self, bytes payload) except -1:
        cdef int opcode = self._header.opcode
        cdef Frame frame = None
        if self._queue is None or self._extensions or self._debug():
            frame = Frame.make(opcode, payload, True, self._header.rsv)
            if self._debug():
                self._logger.debug("< %s", frame)
            if self._extensions:
                frame = self._decode(frame)
                if frame is None:
                    return 0
                payload = bytes(frame.data)
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
                    self._logger.debug("% received keepalive pong")
            if earlier == payload:
                self.latency = self._now - sent
                return 0

    cdef int _received_close(self, bytes payload) except -1:
        # RFC 6455 section 5.5.1 and 7.1.
        try:
            close = Close.parse(payload)
        except ProtocolError as exc:
            return self._fail_receiving(CloseCode.PROTOCOL_ERROR, str(exc), exc)
        except UnicodeDecodeError as exc:
            return self._fail_text(exc)
        self.close_rcvd = close
        if self._state == OPEN:
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

    cdef int _fail_text(self, exc) except -1:
        """Fail the connection because text isn't UTF-8 (RFC 6455 section 8.1)."""
        self._fail_receiving(CloseCode.INVALID_DATA, f"{exc.reason} at position {exc.start}", exc)

    cdef int _fail_header(self, int fault) except -1:
        cdef str reason
        if fault in _header_faults:
            reason = _header_faults[fault]
        else:
            reason = "payload length exceeds 2**63 - 1"
        self._fail_receiving(CloseCode.PROTOCOL_ERROR, reason, ProtocolError(reason))

    cdef int _fail_receiving(self, int code, str reason, exc) except -1:
        """Fail the connection because of what was received (RFC 6455 section 7.1.7)."""
        if self.parser_exc is None:
            self.parser_exc = exc
        if self._state == CONNECTING:
            return self._set_handshake_failed(exc)
        self._fail(code, reason)

    # ------------------------------------------------------------------ what was received

    def events_received(self) -> list:
        """Return and forget what was received: a Request or Response first, then frames."""
        events = self._events
        self._events = []
        return events

    def next_message(self, decode: bool | None = None):
        """Return the next message, or None if there isn't a whole one (after ``queue_messages``).

        Args:
            decode: None for str from text and bytes from binary messages; True for str, False for bytes.

        A binary message that ``decode=True`` can't decode fails the connection with 1007.
        """
        return self._next_message(decode)

    cdef object _next_message(self, object decode):
        self._require_queue()
        try:
            return self._queue.next_message(decode)
        except UnicodeDecodeError as exc:
            return self._fail_decoding(exc)

    cdef int _require_queue(self) except -1:
        if self._queue is None:
            raise RuntimeError("messages aren't queued: call queue_messages() first")

    def next_fragment(self, decode: bool | None = None):
        """Return the next fragment and whether it ends its message, or None (after ``queue_messages``).

        Args:
            decode: As in ``next_message``; characters cut by fragmentation come with the later fragment.

        After a first fragment, ``next_message`` skips the rest of that message.
        """
        self._require_queue()
        try:
            return self._queue.next_fragment(decode)
        except UnicodeDecodeError as exc:
            return self._fail_decoding(exc)

    def _fail_decoding(self, exc):
        self._queue._clear()
        self._fail_text(exc)
        return None

    def stop_waiting(self) -> None:
        """Tell that nobody waits any longer for a message that wasn't there yet."""
        self._require_queue()
        self._queue.reader_waiting = False

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

    def send(self, message, text: bool | None = None) -> int:
        """Send a message in one frame.

        Args:
            message: str or bytes-like object.
            text: Force a text (True) or binary (False) message, whatever the type of ``message``.

        Returns:
            Activity bits, with ``MESSAGE`` if a received one waits: the application is likely to send more.

        Raises:
            TypeError: If ``message`` is of another type.
            InvalidState: If the connection isn't open.
            ConcurrencyError: If a fragmented message is being sent.
        """
        return self._send(message, text)

    cdef int _send(self, message, text) except -1:
        cdef int opcode
        if self._state != OPEN:
            self._require_state(False)
        if self._sending_opcode:
            raise ConcurrencyError("a fragmented message is being sent")
        if text is None:
            opcode = OP_TEXT if PyUnicode_Check(message) else OP_BINARY
        else:
            opcode = OP_TEXT if text else OP_BINARY
        self._write_data(opcode, message, True)
        return self._pending()

    def send_prepared(self, PreparedMessage message not None) -> int:
        """Send a message that goes to many connections; return values and exceptions as in ``send``."""
        if self._state != OPEN:
            self._require_state(False)
        if self._sending_opcode:
            raise ConcurrencyError("a fragmented message is being sent")
        if self._is_client or self._extensions or self._debug():
            self._write_data(message._opcode, message._payload, True)
        else:
            self._output.append(message._frame)
        return self._pending()

    cdef int _pending(self) noexcept:
        cdef int activity = OUTPUT
        if self._queue is not None and self._queue.messages:
            activity |= MESSAGE
        if self._output.size >= FLUSH_SIZE:
            activity |= FLUSH
        return activity

    def send_text(self, data, fin: bool = True) -> None:
        """Send a text frame.

        Args:
            data: str, or bytes-like object holding UTF-8.
            fin: Whether this is the whole message.

        Raises:
            ProtocolError: If a fragmented message is being sent.
            InvalidState: If the connection isn't open.
        """
        self._send_first(OP_TEXT, data, fin)

    def send_binary(self, data, fin: bool = True) -> None:
        """Send a binary frame; parameters and exceptions as in ``send_text``."""
        self._send_first(OP_BINARY, data, fin)

    def _send_first(self, opcode, data, fin):
        self._require_state(False)
        if self._sending_opcode:
            raise ProtocolError("expected a continuation frame")
        self._write_data(opcode, data, fin)
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
        self._require_state(False)
        if not self._sending_opcode:
            raise ProtocolError("unexpected continuation frame")
        self._write_data(OP_CONT, data, fin)
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
        self._write_control(OP_PING, _to_bytes("data", data))

    def send_pong(self, data) -> None:
        """Send a Pong frame; parameters and exceptions as in ``send_ping``."""
        self._require_state(True)
        self._write_control(OP_PONG, _to_bytes("data", data))

    def ping(self, data=None, waiter=None, *, double now = 0.0) -> bytes:
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
        self._require_state(False)
        payload = self._unused_ping_payload() if data is None else _to_bytes("data", data)
        if self._pings is None:
            self._pings = {}
        if payload in self._pings:
            raise ConcurrencyError("already waiting for a pong with the same data")
        self._write_control(OP_PING, payload)
        self._pings[payload] = (now, waiter)
        return payload

    def _unused_ping_payload(self):
        cdef bytes payload
        if self._pings is None:
            self._pings = {}
        while True:
            payload = os.urandom(4)
            if payload not in self._pings:
                return payload

    def close(self, code=1000, reason: str = "", *, double now = 0.0) -> None:
        """Start the closing handshake, unless it has started; received data isn't wanted any more.

        Args:
            code: Close code (RFC 6455 section 7.4); None for none.
            reason: Close reason, at most 123 bytes of UTF-8.
            now: Current time; the whole closing lasts ``close_timeout`` from then.

        Raises:
            ProtocolError: If the code or the reason isn't allowed; nothing is sent.
        """
        self._now = now
        if self._state == OPEN:
            if self._sending_opcode:
                self._check_close(code, reason)
                self._fail(CloseCode.INTERNAL_ERROR, "close during fragmented message")
            else:
                self.send_close(code, reason)
        if self._state == CLOSING:
            self._start_closing()

    def send_close(self, code=None, reason: str = "") -> None:
        """Send a Close frame, which starts the closing handshake.

        Args:
            code: Close code (RFC 6455 section 7.4); None for none.
            reason: Close reason, at most 123 bytes of UTF-8.

        Raises:
            ProtocolError: If the code or the reason isn't allowed; nothing is sent.
            InvalidState: If the connection isn't open.
        """
        self._require_state(False)
        payload = self._check_close(code, reason)
        self._write_control(OP_CLOSE, payload)
        self.close_sent = Close(CloseCode.NO_STATUS_RCVD if code is None else code, reason)
        self._set_state(CLOSING)
        self._start_closing()

    def _check_close(self, code, reason):
        if code is None:
            if reason:
                raise ProtocolError("cannot send a reason without a code")
            return b""
        payload = Close(code, reason).serialize()
        if len(payload) > 125:
            raise ProtocolError("control frame too long")
        return payload

    def fail(self, code: int, reason: str = "", *, double now = 0.0) -> None:
        """Fail the connection (RFC 6455 section 7.1.7): tell the peer why, then ignore what it sends.

        Args:
            code: Close code; 1006 sends nothing.
            reason: Close reason; cut to fit into a Close frame.
            now: Current time.
        """
        if now:
            self._now = now
        self._fail(code, str(reason))

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
        self._drop_partial()
        self._start_closing()
        if not self._is_client:
            self._send_eof()

    def _set_state(self, state):
        self._state = state
        self._activity |= ATTENTION
        if self._debug():
            self._logger.debug("= connection is %s", self.state.name)

    cdef int _start_closing(self) except -1:
        """Start the clock of the closing handshake, once; stop the others."""
        self._activity |= ATTENTION
        self._ping_time = self._pong_deadline = self._open_deadline = INFINITY
        if self._queue is not None:
            self._queue.set_closing()
        if not self._closing_started:
            self._closing_started = True
            self._close_deadline = self._now + self._close_timeout

    cdef int _set_closed(self) except -1:
        self._discarding = True
        self._drop_partial()
        self._early = None
        self._ping_time = self._pong_deadline = self._open_deadline = self._close_deadline = INFINITY
        self._activity |= ATTENTION
        if self._state != CLOSED:
            opened = self._state != CONNECTING
            self._set_state(CLOSED)
            if opened and not self._is_client:
                self._logger.info("connection closed")

    cdef int _set_open(self) except -1:
        """Enter OPEN after the opening handshake; read the frames that came early."""
        self._open_deadline = INFINITY
        self._set_state(OPEN)
        self._ping_time = self._now + self._ping_interval
        if self._early is not None:
            early, self._early = self._early, None
            self._receive(<const unsigned char*><char*>early, len(early))

    cdef int _set_handshake_failed(self, exc) except -1:
        """Record why the opening handshake failed; ignore what is received from now on."""
        self.handshake_exc = exc
        self._discarding = True
        self._early = None
        self._start_closing()

    cdef int _opening_timed_out(self) except -1:
        self._set_handshake_failed(TimeoutError("timed out during opening handshake"))
        self.transport_action = ABORT

    cdef Py_ssize_t _receive_handshake(self, const unsigned char* data, Py_ssize_t size) except -1:
        raise NotImplementedError("the opening handshake belongs to ClientProtocol and ServerProtocol")

    cdef int _receive_handshake_eof(self) except -1:
        pass

    # ------------------------------------------------------------------ output

    def data_to_send(self) -> list:
        """Return and forget the bytes to send; an empty one stands for the end of the stream."""
        cdef list data = []
        while self._output.size:
            data.append(self._output.take())
        if self._eof_queued:
            self._eof_queued = False
            data.append(_EOF)
        return data

    def take_output(self) -> bytes:
        """Return and forget the next piece of the bytes to send; empty when there is none.

        The end of the stream isn't among them: see ``transport_action``.
        """
        return self._output.take()

    def pause_writing(self) -> None:
        """Tell that the network doesn't take what is sent: Pings aren't answered one by one any more."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """Tell that the network takes what is sent again."""
        self._writing_paused = False
        if self._delayed_pong is not None:
            payload, self._delayed_pong = self._delayed_pong, None
            if not self._discarding:
                self._write_control(OP_PONG, payload)

    cdef int _append_output(self, bytes data) except -1:
        self._output.append(data)

    cdef int _send_eof(self) except -1:
        if not self._eof_sent:
            self._eof_sent = True
            self._eof_queued = True
            self.transport_action = max(self.transport_action, HALF_CLOSE)
            self._activity |= ATTENTION
            if self._debug():
                self._logger.debug("> EOF")

    cdef int _write_data(self, int opcode, object data, bint fin) except -1:
        """Write a data frame, extensions applied."""
        cdef Py_buffer view
        cdef bytes encoded
        if self._extensions or self._debug():
            self._write_through_extensions(opcode, data, fin)
            return 0
        if PyUnicode_Check(data):
            if PyUnicode_IS_ASCII(data):
                return self._write_frame(opcode, fin, 0, PyUnicode_1BYTE_DATA(data), PyUnicode_GET_LENGTH(data))
            encoded = (<str>data).encode()
            return self._write_frame(opcode, fin, 0, PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded))
        if PyBytes_CheckExact(data):
            return self._write_frame(opcode, fin, 0, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        if isinstance(data, memoryview) and not data.c_contiguous:
            data = data.tobytes()
        elif not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"message must be str or bytes-like; got {type(data).__name__}")
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self._write_frame(opcode, fin, 0, view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    def _write_through_extensions(self, opcode, data, fin):
        frame = Frame.make(opcode, _to_bytes("message", data), fin, 0)
        if self._extensions:
            for extension in self._extensions:
                frame = extension.encode(frame)
        if self._debug():
            self._logger.debug("> %s", frame)
        payload = bytes(frame.data)
        self._write_frame(
            frame.opcode, frame.fin, frame.rsv1 << 2 | frame.rsv2 << 1 | frame.rsv3,
            PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload),
        )

    cdef int _write_control(self, int opcode, bytes payload) except -1:
        if PyBytes_GET_SIZE(payload) > 125:
            raise ProtocolError("control frame too long")
        if self._extensions or self._debug():
            self._write_through_extensions(opcode, payload, True)
        else:
            self._write_frame(opcode, True, 0, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))

    cdef int _write_frame(self, int opcode, bint fin, int rsv, const void* payload, Py_ssize_t size) except -1:
        cdef unsigned char header[14]
        cdef unsigned char key[4]
        cdef unsigned char* out
        cdef int header_size
        if self._is_client:
            next_masking_key(key)
            header_size = write_header(header, opcode, fin, rsv, size, key)
        else:
            header_size = write_header(header, opcode, fin, rsv, size, NULL)
        out = self._output.reserve(header_size + size)
        memcpy(out, header, header_size)
        if self._is_client:
            ws_mask_copy(out + header_size, <const unsigned char*>payload, size, key, 0)
        else:
            memcpy(out + header_size, payload, size)
