"""Frames as events, piece by piece as they arrive; events as frames. Compiled.

The third sink on the engine's parser, beside its list of frames and its queue of messages. It takes one
piece at a time, when it is asked for it: what is received waits as bytes until then. Nothing is answered
on its own, neither Pings nor Close frames nor faults: each is an event that the program answers, or not.

Which events may be sent in which state is the business of ``Connection``; all other rules are the
engine's.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from libc.string cimport memcpy, memset

from .._deflate cimport NO_LIMIT, PerMessageDeflate
from .._frames cimport (
    MAX_HEADER,
    NEED_MORE,
    OP_BINARY,
    OP_CLOSE,
    OP_CONT,
    OP_PING,
    OP_PONG,
    OP_TEXT,
    Frame,
    Header,
    read_header,
    ws_mask_copy,
    ws_plain_copy,
    ws_utf8_check,
    ws_utf8_state,
)
from .._protocol cimport Protocol
from .._endpoint cimport CLOSED, CLOSING, OPEN
from ._events cimport BytesMessage, CloseConnection, Message, Ping, Pong, TextMessage

from ..exceptions import PayloadTooBig
from ..exceptions import ProtocolError as InvalidFrame
from ..frames import Close, Side
from ._types import LOCAL_ONLY_CLOSE_REASONS as _LOCAL_ONLY_CLOSE_REASONS
from ._types import CloseReason, Opcode, RsvBits
from .utilities import LocalProtocolError


cdef extern from "Python.h":
    object PyBytes_FromStringAndSize(const char* data, Py_ssize_t size)
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    unsigned char* PyUnicode_1BYTE_DATA(object text)
    object PyUnicode_DecodeUTF8(const char* data, Py_ssize_t size, const char* errors)
    object PyUnicode_DecodeUTF8Stateful(
        const char* data, Py_ssize_t size, const char* errors, Py_ssize_t* consumed
    )


# ---------------------------------------------------------------------- frames

cdef dict _close_reasons = {code.value: code for code in CloseReason}
cdef dict _opcodes = {opcode.value: opcode for opcode in Opcode}
cdef int MAX_CONTROL_PAYLOAD = 125


cdef bytes _bytes(str name, data):
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"{name} must be bytes-like; got {type(data).__name__}")
    return bytes(data)


cdef str _cut_reason(str reason):
    """Cut a close reason at a character's boundary, so that it fits into a Close frame."""
    return reason.encode("utf-8", "replace")[: MAX_CONTROL_PAYLOAD - 2].decode("utf-8", "ignore")


def refusal(extensions, proto, opcode, rsv, payload_length):
    """Return the close code for a frame whose header the extensions don't want, None if they do.

    Each extension claims reserved bits; one that is set and not claimed is a fault (RFC 6455 section 5.2).

    Args:
        extensions: Extensions.
        proto: What they are told about the connection.
        opcode: Opcode of the frame.
        rsv: Its reserved bits.
        payload_length: Length of its payload.
    """
    claimed = [False, False, False]
    for extension in extensions:
        bits = extension.frame_inbound_header(proto, opcode, rsv, payload_length)
        if isinstance(bits, CloseReason):
            return bits
        claimed = [before or now for before, now in zip(claimed, bits, strict=True)]
    if any([found and not claim for found, claim in zip(rsv, claimed, strict=True)]):
        return CloseReason.PROTOCOL_ERROR
    return None


cdef class FrameEvents(Protocol):
    """FrameEvents(client, extensions, *, max_size=None, raw=False)

    The engine's protocol with a sink of events.

    Args:
        client: Whether this is the client's end.
        extensions: Extensions, of which those that are enabled take part.
        max_size: Limit on the size of messages in bytes, inflated; None for no limit.
        raw: Leave payloads as they are: neither text is decoded, nor are Close frames looked into.
    """

    def __init__(self, client: bool, extensions=(), *, max_size: int | None = None, raw: bool = False):
        cdef list enabled = [extension for extension in extensions if extension.enabled()]
        Protocol.__init__(self, Side.CLIENT if client else Side.SERVER, max_size=max_size)
        self.client = client
        self._raw = raw
        if len(enabled) == 1 and (negotiated := vars(type(enabled[0])).get("_negotiated")) is not None:
            # The engine's own implementation, unless a subclass may have changed what it does.
            self.extensions = [negotiated(enabled[0], client)]
        elif enabled:
            self.extensions = enabled
            self._hooks = enabled

    # ------------------------------------------------------------------ receiving

    cpdef int feed(self, data) except -1:
        """Take received bytes; they are parsed when events are asked for.

        Args:
            data: Bytes-like object.

        Raises:
            TypeError: If it isn't bytes-like.
        """
        if self._parsing:
            raise LocalProtocolError("an extension can't receive data while it processes some")
        if PyBytes_CheckExact(data):
            if not data:
                return 0
        else:
            data = _bytes("data", data)
        if self._discarding:
            return 0
        if self._input is None:
            self._input = data
            self._position = 0
            return 0
        if PyBytes_CheckExact(self._input):
            self._input = bytearray(self._input[self._position :])
        else:
            del self._input[: self._position]
        self._position = 0
        (<bytearray>self._input).extend(data)

    cpdef object next_event(self):
        """Parse and return the next event, None if it isn't there yet.

        Raises:
            LocalProtocolError: If an extension or a logger asks for it while another one is parsed.
        """
        cdef object data = self._input
        cdef object event
        cdef const unsigned char* memory
        cdef Py_ssize_t size, left
        if self._parsing:
            # Where the other one stands isn't in _position yet.
            raise LocalProtocolError("an extension can't take events while it processes some data")
        if data is None:
            return None
        if PyBytes_CheckExact(data):
            memory = <const unsigned char*>PyBytes_AS_STRING(data)
            size = PyBytes_GET_SIZE(data)
        else:
            memory = <const unsigned char*>PyByteArray_AS_STRING(data)
            size = PyByteArray_GET_SIZE(data)
        self._paused = False
        self._parsing = True
        try:
            left = self._receive_frames(memory + self._position, size - self._position)
        except BaseException:
            # An extension's fault, or a lack of memory: where parsing stands isn't known any more.
            self._discarding = True
            self._input = None
            raise
        finally:
            self._parsing = False
        if left == 0:
            self._input = None
        else:
            self._position = size - left
        event = self._event
        self._event = None
        return event

    def peek_header(self) -> tuple[int, bool, int] | None:
        """Return opcode, FIN bit, and length of the frame that is read next, None if they aren't there yet.

        Raises:
            ProtocolError: If the header isn't valid.
        """
        cdef Header header
        cdef bytes data
        cdef int found
        if self._in_frame:
            return self._header.opcode, bool(self._header.fin), self._header.length
        data = (<char*>self._header_bytes)[: self._header_size]
        if self._input is not None:
            data = data + bytes(self._input[self._position : self._position + MAX_HEADER])
        found = read_header(
            &header, <const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), not self._is_client, 7
        )
        if found == NEED_MORE:
            return None
        if found < 0:
            raise InvalidFrame("invalid header")
        return header.opcode, bool(header.fin), header.length

    cdef int _put(self, event, Py_ssize_t offset) except -1:
        """Deliver an event, whose payload lies ``offset`` bytes behind the beginning of its frame's."""
        self._event = event
        self.frame_opcode = self._header.opcode if offset == 0 else OP_CONT
        self._paused = True

    cdef int _start_frame(self) except -1:
        if not Protocol._start_frame(self):
            return False
        return self._hooks is None or self._start_frame_in_hooks()

    cdef int _whole_frame(self, const unsigned char* data, Py_ssize_t size) except -1:
        if self._header.opcode & 8:
            return Protocol._whole_frame(self, data, size)
        # Or the last piece of one.
        return self._piece(data, size, True)

    cdef int _store_partial(self, const unsigned char* data, Py_ssize_t size) except -1:
        if self._header.opcode & 8:
            return Protocol._store_partial(self, data, size)
        self._piece(data, size, False)
        self._frame_left -= size

    cdef int _piece(self, const unsigned char* data, Py_ssize_t size, bint frame_finished) except -1:
        """Process a piece of a data frame's payload, still masked."""
        cdef Message event
        cdef object payload
        cdef Py_ssize_t offset = <Py_ssize_t>(self._header.length - self._frame_left)
        cdef bint finished = frame_finished and self._header.fin
        cdef bint text = self._message_opcode == OP_TEXT and not self._raw
        if self._hooks is None and not self._message_compressed:
            self._message_size += size
            if text:
                payload = self._unmasked_text(data, size, offset, finished)
            else:
                payload = self._unmasked(data, size, offset)
        else:
            payload = self._unmasked(data, size, offset)
            if self._hooks is None:
                payload = self._decompress(payload, finished)
            else:
                payload = self._payload_through_hooks(payload, frame_finished)
            if payload is None:
                return 0
            self._message_size += PyBytes_GET_SIZE(payload)
            if text:
                payload = self._decoded(
                    <const unsigned char*>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), finished
                )
        if payload is None:
            return 0
        if self._debug():
            self._log_piece(payload, finished)
        if finished:
            self._message_opcode = 0
        event = TextMessage.__new__(TextMessage) if text else BytesMessage.__new__(BytesMessage)
        event.data = payload
        event.frame_finished = frame_finished
        event.message_finished = self._header.fin if self._raw else finished
        self._put(event, offset)

    cdef bytes _unmasked(self, const unsigned char* data, Py_ssize_t size, Py_ssize_t offset):
        cdef bytes payload = <bytes>PyBytes_FromStringAndSize(NULL, size)
        if self._is_client:
            memcpy(<void*>PyBytes_AS_STRING(payload), data, size)
        else:
            ws_mask_copy(
                <unsigned char*>PyBytes_AS_STRING(payload), data, size, self._header.key, offset & 3
            )
        return payload

    cdef object _unmasked_text(
        self, const unsigned char* data, Py_ssize_t size, Py_ssize_t offset, bint finished
    ):
        """Unmask and decode; return None after failing the connection."""
        cdef object text
        cdef unsigned char* out
        cdef bint wide
        if size == 0:
            return self._decoded(data, 0, finished)
        # Unmask into a new str. If that turns out not to be ASCII, its memory serves as scratch space.
        text = PyUnicode_New(size, 127)
        out = PyUnicode_1BYTE_DATA(text)
        if self._is_client:
            wide = ws_plain_copy(out, data, size)
        else:
            wide = ws_mask_copy(out, data, size, self._header.key, offset & 3)
        if not wide and self._cut is None:
            return text
        return self._decoded(out, size, finished)

    cdef object _decoded(self, const unsigned char* data, Py_ssize_t size, bint finished):
        """Decode the whole characters; keep what follows them. Return None after failing the connection."""
        cdef Py_ssize_t consumed
        cdef ws_utf8_state state
        cdef bytes joined = None
        cdef object text
        if self._cut is not None:
            joined = self._cut + (<const char*>data)[:size]
            self._cut = None
            data = <const unsigned char*>PyBytes_AS_STRING(joined)
            size = PyBytes_GET_SIZE(joined)
        try:
            if finished:
                return PyUnicode_DecodeUTF8(<const char*>data, size, NULL)
            text = PyUnicode_DecodeUTF8Stateful(<const char*>data, size, NULL, &consumed)
        except UnicodeDecodeError as exc:
            self._fail_text(exc)
            return None
        if consumed < size:
            self._cut = (<const char*>data)[consumed:size]
            # The decoder waits for the end of surrogates, too: they are bad at their second byte.
            memset(&state, 0, sizeof(state))
            if ws_utf8_check(&state, data + consumed, size - consumed) != <size_t>(size - consumed):
                self._fail_text(UnicodeDecodeError("utf-8", self._cut, 0, 1, "invalid continuation byte"))
                return None
        return text

    def _log_piece(self, payload, finished):
        data = payload.encode() if isinstance(payload, str) else payload
        self._logger.debug("< %s", Frame.make(self._header.opcode, data, finished, 0))

    cdef int _control_payload(self, bytes payload) except -1:
        cdef int opcode = self._header.opcode
        cdef Ping ping
        cdef Pong pong
        cdef CloseConnection close
        if self._hooks is not None:
            payload = self._payload_through_hooks(payload, True)
            if payload is None:
                return 0
        if self._debug():
            self._logger.debug("< %s", Frame.make(opcode, payload, True, 0))
        if self._raw:
            return self._put(BytesMessage(payload), 0)
        if opcode == OP_PING:
            ping = Ping.__new__(Ping)
            ping.payload = payload
            return self._put(ping, 0)
        if opcode == OP_PONG:
            pong = Pong.__new__(Pong)
            pong.payload = payload
            return self._put(pong, 0)
        try:
            received = Close.parse(payload)
        except InvalidFrame as exc:
            return self._fail_receiving(CloseReason.PROTOCOL_ERROR, str(exc), exc)
        except UnicodeDecodeError as exc:
            return self._fail_text(exc)
        self.close_rcvd = received
        self._discarding = True
        if self._state == OPEN:
            self._set_state(CLOSING)
        elif self._state == CLOSING:
            self._set_state(CLOSED)
        close = CloseConnection.__new__(CloseConnection)
        close.code = _close_reasons.get(received.code, received.code)
        close.reason = received.reason
        self._put(close, 0)

    cdef int _fail_receiving(self, int code, str reason, exc) except -1:
        """Turn the peer's fault into an event, for the program to answer (RFC 6455 section 7.1.7)."""
        self.parser_exc = exc
        self.failed = True
        self._discarding = True
        self._drop_partial()
        self._put(CloseConnection(_close_reasons.get(code, code), _cut_reason(reason)), 0)

    # ------------------------------------------------------------------ extensions written in Python

    def _start_frame_in_hooks(self):
        """Let the extensions claim the reserved bits of a frame; return whether it is welcome."""
        opcode = _opcodes[self._header.opcode]
        rsv = RsvBits(bool(self._header.rsv & 4), bool(self._header.rsv & 2), bool(self._header.rsv & 1))
        code = refusal(self._hooks, self, opcode, rsv, self._header.length)
        if code is None:
            return True
        self._fail_in_hook(code)
        return False

    def _payload_through_hooks(self, payload, frame_finished):
        """Pass a piece of a payload through the extensions; return None after failing the connection."""
        for extension in self._hooks:
            payload = extension.frame_inbound_payload_data(self, payload)
            if isinstance(payload, CloseReason):
                self._fail_in_hook(payload)
                return None
        if frame_finished:
            for extension in self._hooks:
                rest = extension.frame_inbound_complete(self, bool(self._header.fin))
                if isinstance(rest, CloseReason):
                    self._fail_in_hook(rest)
                    return None
                if rest:
                    payload = payload + rest
        limit = self._remaining_limit()
        if limit is not None and len(payload) > limit and not self._header.opcode & 8:
            exc = PayloadTooBig(len(payload), limit, self._message_size or None)
            self._fail_receiving(CloseReason.MESSAGE_TOO_BIG, str(exc), exc)
            return None
        return bytes(payload)

    def _fail_in_hook(self, code):
        self._fail_receiving(code, "error in extension", InvalidFrame("error in extension"))

    @property
    def remaining_size(self) -> int | None:
        """Number of bytes that the message being received may still have; None for no limit."""
        limit = self._remaining_limit()
        return None if limit == NO_LIMIT else limit

    cdef int _write_through_extensions(self, int opcode, bytes payload, bint fin) except -1:
        data = payload
        rsv = RsvBits(False, False, False)
        for extension in reversed(self._hooks):
            rsv, data = extension.frame_outbound(self, _opcodes[opcode], rsv, data, bool(fin))
        payload = bytes(data)
        if opcode & 8:
            _check_control_payload(payload)
        self._write_frame(
            opcode, fin, bool(rsv[0]) << 2 | bool(rsv[1]) << 1 | bool(rsv[2]),
            PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload),
        )

    # ------------------------------------------------------------------ sending

    cpdef bytes send_data(self, data, bint fin):
        """Return a data frame.

        Args:
            data: str or bytes-like object: the opcode depends on that.
            fin: Whether this ends the message.

        Raises:
            TypeError: If it is of another type, or not of the type of the message's first frame.
        """
        cdef int opcode
        if isinstance(data, str):
            opcode = OP_TEXT
        elif isinstance(data, (bytes, bytearray, memoryview)):
            opcode = OP_BINARY
        else:
            raise TypeError("Must provide bytes or text")
        if self._sending_opcode == 0:
            self._write_data(opcode, data, fin, None)
        elif self._sending_opcode != opcode:
            raise TypeError("Data type mismatch inside message")
        else:
            self._write_data(OP_CONT, data, fin, None)
        self._sending_opcode = 0 if fin else opcode
        return self._output.take()

    cpdef bytes send_control(self, int opcode, payload):
        """Return a Ping or Pong frame.

        Args:
            opcode: Opcode.
            payload: Bytes-like object of at most 125 bytes.

        Raises:
            TypeError: If it isn't bytes-like.
            ValueError: If it is longer.
        """
        cdef bytes data = _bytes("payload", payload)
        _check_control_payload(data)
        self._write_control(opcode, data)
        return self._output.take()

    def close_frame(self, code, reason) -> bytes:
        """Return a Close frame, and note that it was sent.

        Args:
            code: Close code; None for none. Those that never travel become 1000, but for the member
                ``NO_STATUS_RCVD`` of ``CloseReason``, which becomes none.
            reason: Close reason, cut to 123 bytes; None for none.

        Raises:
            TypeError: If there is a reason without a code, or one of them is of another type.
            ValueError: If the code doesn't fit into a frame.
        """
        cdef bytes payload = b""
        if code is CloseReason.NO_STATUS_RCVD:
            code = None
        if code is None and reason:
            raise TypeError("cannot specify a reason without a code")
        if reason is not None and not isinstance(reason, str):
            raise TypeError(f"reason must be str or None; got {type(reason).__name__}")
        if code is not None:
            if not isinstance(code, int):
                raise TypeError(f"code must be int or None; got {type(code).__name__}")
            if code in _LOCAL_ONLY_CLOSE_REASONS:
                code = CloseReason.NORMAL_CLOSURE
            if not 0 <= code <= 0xFFFF:
                raise ValueError(f"code must be between 0 and 65535; got {code}")
            payload = code.to_bytes(2, "big")
            if reason is not None:
                payload += _cut_reason(reason).encode()
        self._write_control(OP_CLOSE, payload)
        self.close_sent = Close(CloseReason.NO_STATUS_RCVD if code is None else code, reason or "")
        self._set_state(CLOSED if self._state == CLOSING else CLOSING)
        return self._output.take()

    cdef int _set_ended(self) except -1:
        """Note the end of the stream."""
        if self._state != CLOSED:
            self._set_state(CLOSED)


cdef int _check_control_payload(bytes payload) except -1:
    if PyBytes_GET_SIZE(payload) > MAX_CONTROL_PAYLOAD:
        raise ValueError("payload too long for control frame")


# ---------------------------------------------------------------------- permessage-deflate


def inflate(PerMessageDeflate deflate not None, bytes data not None, bint fin, limit) -> bytes:
    """Decompress a piece of a message.

    Args:
        deflate: Its extension.
        data: Piece; empty for the rest behind the last one.
        fin: Whether it ends the message.
        limit: Most bytes that may come out; None for no limit.

    Raises:
        ProtocolError: If it isn't valid.
        PayloadTooBig: If more would come out.
    """
    return deflate.decompress(data, fin, NO_LIMIT if limit is None else limit)


def deflate(PerMessageDeflate deflate not None, bytes data not None, bint fin) -> bytes:
    """Compress a piece of a message; parameters as in ``inflate``."""
    return deflate.compress(data, fin)
