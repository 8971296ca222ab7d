"""What leaves a connection: messages into frames, through the extensions, into the output.

Knows the state only to read it; when something must be sent is decided in the layers above.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_Check, PyUnicode_CheckExact
from libc.math cimport INFINITY
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from ._deflate cimport PerMessageDeflate
from ._endpoint cimport OPEN, Endpoint, count_frame, to_bytes
from ._flag cimport unlikely
from ._frames cimport (
    OP_BINARY,
    OP_CONT,
    OP_PING,
    OP_PONG,
    OP_TEXT,
    Frame,
    next_masking_key,
    write_header,
    ws_mask_copy,
    ws_utf8_check,
    ws_utf8_state,
)
from ._output cimport LARGE_PAYLOAD, OutputBuffer
from ._queue cimport ATTENTION, OUTPUT

from .exceptions import ConcurrencyError, ProtocolError


cdef extern from *:
    """
    /* Give the memory of a str. What Cython has put in the view's place for an owner is released first. */
    static int wsproto_fast_show_text(Py_buffer *view, PyObject *owner, PyObject *text, int flags) {
        Py_CLEAR(view->obj);
        return PyBuffer_FillInfo(view, owner, PyUnicode_1BYTE_DATA(text), PyUnicode_GET_LENGTH(text), 1, flags);
    }
    """
    int show_text "wsproto_fast_show_text"(Py_buffer* view, object owner, object text, int flags) except -1
    unsigned char* PyUnicode_1BYTE_DATA(object text)
    bint PyUnicode_IS_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)


# Compression contexts are freed when they aren't used between two times so far apart, in seconds.
cdef double IDLE_TIME = 3.0

cdef bytes _EOF = b""


@cython.final
@cython.no_gc  # what it holds refers to nothing
cdef class _Text:
    """The memory of a str that is ASCII."""

    cdef str text

    def __getbuffer__(self, Py_buffer* view, int flags):
        if self.text is None:
            raise BufferError("no text")  # a program has made it, of the type
        show_text(view, self, self.text, flags)


@cython.final
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
        self._payload = to_bytes("message", message)
        self._opcode = OP_TEXT if (isinstance(message, str) if text is None else text) else OP_BINARY
        header_size = write_header(header, self._opcode, True, 0, PyBytes_GET_SIZE(self._payload), NULL)
        self._frame = (<char*>header)[:header_size] + self._payload

    cdef int _compress(self, PerMessageDeflate deflate) except -1:
        """Compress it, once for all connections."""
        cdef unsigned char header[14]
        cdef int header_size
        cdef bytes data = deflate.compress_alone(self._payload)
        self._window_bits = deflate.local_max_window_bits
        if PyBytes_GET_SIZE(data) >= PyBytes_GET_SIZE(self._payload):
            self._compressed = b""
            return 0
        self._compressed = data
        header_size = write_header(header, self._opcode, True, 4, PyBytes_GET_SIZE(data), NULL)
        self._compressed_frame = (<char*>header)[:header_size] + data


cdef inline int write_prepared(Sender sender, PreparedMessage message, object compress) except -1:
    """Write a message that goes to many connections, compressed once for all of them."""
    cdef PerMessageDeflate deflate
    cdef bytes data, frame
    cdef Py_ssize_t size = PyBytes_GET_SIZE(message._payload)
    if sender._extensions is not None:
        sender._refresh_extensions()
    if sender._foreign_extensions or sender._debug():
        return sender._write_data(message._opcode, message._payload, True, compress)
    deflate = sender._deflate
    if deflate is not None and compress is not False and (
        compress or size >= deflate.min_size
    ):
        # It may wait on connections of several threads.
        with cython.critical_section(message):
            if message._compressed is None:
                message._compress(deflate)
            elif message._window_bits > deflate.local_max_window_bits and (
                # It refers to nothing outside itself, so its own size bounds the window that it needs.
                size > 1 << deflate.local_max_window_bits
            ):
                # All can read what is compressed for the smallest window.
                message._compress(deflate)
            data, frame = message._compressed, message._compressed_frame
        if PyBytes_GET_SIZE(data):
            deflate.start_afresh()
            sender._sent.change += size - PyBytes_GET_SIZE(data)
            if sender._is_client:
                return sender._write_frame(
                    message._opcode, True, 4, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)
                )
            count_frame(&sender._sent, message._opcode, True, PyBytes_GET_SIZE(data))
            return sender._output.append(frame)
        if compress:
            return sender._write_deflated(message._opcode, message._payload, True, compress)
    if sender._is_client:
        return sender._write_frame(
            message._opcode, True, 0, PyBytes_AS_STRING(message._payload), size
        )
    count_frame(&sender._sent, message._opcode, True, size)
    return sender._output.append(message._frame)


cdef class Sender(Endpoint):
    """The outgoing side of a connection: messages into frames, through the extensions, into the output."""

    def __cinit__(self):
        self._output = OutputBuffer.__new__(OutputBuffer)
        self._release_time = INFINITY
        self.validate_text = True

    @property
    def extensions(self) -> list:
        """Negotiated extensions, in the order in which they transform outgoing frames."""
        if self._extensions is None:
            self._extensions = []
        return self._extensions

    @extensions.setter
    def extensions(self, extensions):
        self._extensions = list(extensions)
        self._look_at_extensions()

    cdef int _refresh_extensions(self) except -1:
        """Look at the list of extensions if it has changed: programs may also extend it in place."""
        # Where there is a _deflate, it was the only one.
        if len(self._extensions) != self._extensions_seen or (
            self._deflate is not None and self._extensions[0] is not self._deflate
        ):
            self._look_at_extensions()

    cdef int _look_at_extensions(self) except -1:
        cdef Py_ssize_t count = len(self._extensions)
        self._extensions_seen = <uint16_t>count
        self._deflate = None
        if count == 1 and type(self._extensions[0]) is PerMessageDeflate:
            self._deflate = self._extensions[0]
        self._foreign_extensions = count > 0 and self._deflate is None

    # ------------------------------------------------------------------ output

    @property
    def output_size(self) -> int:
        """Number of bytes waiting for ``take_output``."""
        return self._output.size

    def data_to_send(self) -> list:
        """Return and forget the bytes to send; an empty one stands for the end of the stream."""
        cdef list data = []
        while self._output.size:
            data.append(self.pop_output())
        if self._eof_queued:
            self._eof_queued = False
            data.append(_EOF)
        return data

    def take_output(self) -> bytes:
        """Return and forget the next piece of the bytes to send; empty when there is none.

        The end of the stream isn't among them: see ``transport_action``.
        """
        return self.pop_output()

    def take_output_parts(self) -> list:
        """Return and forget the bytes to send, for who can write several pieces at once, as ``os.writev`` does.

        Large payloads aren't copied: a frame may be in two parts, header and payload. The latter are the memory of
        messages that were sent.

        Returns:
            bytes and memoryviews, to be written in this order.

        Raises:
            MemoryError: If there is no memory for them; what there is to send is still there.
        """
        cdef list parts
        cdef Py_ssize_t i, size
        cdef uint64_t taken
        cdef _Text text
        while True:
            parts = self._output.parts()
            size = self._output.size
            taken = self._output.taken
            for i in range(len(parts)):
                if not PyBytes_CheckExact(parts[i]):
                    text = _Text.__new__(_Text)
                    text.text = parts[i]
                    parts[i] = memoryview(text)
            # In Python 3.11 that may have run finalizers of the program, which send.
            if self._output.size == size and self._output.taken == taken:
                break
        self._forget_parts()
        return parts

    cdef int _append_output(self, bytes data) except -1:
        self._output.append(data)

    # ------------------------------------------------------------------ what waits

    cdef int _send_later(self, message, text, compress) except -1:
        """Have a message wait if it must; return activity bits then, or 0."""
        if self._obstacles & FRAGMENTS:
            raise ConcurrencyError("a fragmented message is being sent")
        return 0

    cdef int _send_prepared_later(self, PreparedMessage message, compress) except -1:
        """Have a message to many connections wait if it must; return activity bits then, or 0."""
        return self._send_later(None, None, None)

    cdef int _refill(self, bint all) except -1:
        """Write what waits: all of it, or as much as should leave together."""

    # ------------------------------------------------------------------ messages

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
        cdef int opcode, activity
        if unlikely(self._state != OPEN):
            self._require_state(False)
        if unlikely(self._obstacles != 0):
            activity = self._send_later(message, text, compress)
            if activity:
                return activity
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
        cdef int activity
        if self._state != OPEN:
            self._require_state(False)
        if self._obstacles:
            activity = self._send_prepared_later(message, compress)
            if activity:
                return activity
        write_prepared(self, message, compress)
        return self._pending()

    cdef int _write_prepared(self, PreparedMessage message, object compress) except -1:
        return write_prepared(self, message, compress)

    cdef int send_memory(self, int opcode, const void* data, Py_ssize_t size) except -1:
        """Send a message that lies in memory, from compiled code; return the activity bits.

        Args:
            opcode: OP_TEXT or OP_BINARY. Text is UTF-8: the caller answers for it.
            data: Payload, copied.
            size: Number of bytes.

        Raises:
            InvalidState, ConcurrencyError: As in ``send``.
        """
        if self._extensions is None and self._state == OPEN and not self._obstacles and not self._debug():
            self._write_frame(opcode, True, 0, data, size)
            return self._pending()
        return self.send_message((<const char*>data)[:size], opcode == OP_TEXT, None)

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

    cdef int _send_first(self, int opcode, object data, bint fin, object compress) except -1:
        self._require_state(False)
        if self._sending_opcode:
            raise ProtocolError("expected a continuation frame")
        self._sending_utf8.missing = self._sending_utf8.seen = 0
        if opcode == OP_TEXT and self.validate_text:
            self._check_sent_text(data, fin)
        if self._obstacles & BACKLOG:
            data = to_bytes("message", data)  # nothing leaves because of what can't
            # Of a message in fragments nothing can be dropped: it doesn't join what waits.
            self._refill(True)
            self._require_state(False)  # unless that failed
        self._write_data(opcode, data, fin, compress)
        if not fin:
            self._sending_opcode = opcode
            self._obstacles |= FRAGMENTS

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
            self._obstacles &= ~FRAGMENTS

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

    cdef int _pending(self) noexcept:
        """Return the activity bits after something was sent."""
        return OUTPUT

    # ------------------------------------------------------------------ frames

    cdef int _write_data(self, int opcode, object data, bint fin, object compress) except -1:
        """Write a data frame, extensions applied."""
        cdef Py_buffer view
        cdef Py_ssize_t size
        cdef bytes payload
        if self._extensions is not None:
            self._refresh_extensions()
        if unlikely(self._debug()):
            self.logger.debug("> %s", Frame.make(opcode, to_bytes("message", data), fin, 0))
        if unlikely(self._foreign_extensions):
            self._write_through_extensions(opcode, to_bytes("message", data), fin)
            return 0
        if self._deflate is not None:
            payload = data if PyBytes_CheckExact(data) else to_bytes("message", data)
            return self._write_deflated(opcode, payload, fin, compress)
        if PyUnicode_Check(data):
            if PyUnicode_IS_ASCII(data):
                size = PyUnicode_GET_LENGTH(data)
                if size >= LARGE_PAYLOAD and PyUnicode_CheckExact(data):
                    return self._write_large(opcode, fin, 0, data, PyUnicode_1BYTE_DATA(data), size)
                return self._write_frame(opcode, fin, 0, PyUnicode_1BYTE_DATA(data), size)
            return self._write_payload(opcode, fin, 0, (<str>data).encode())
        if PyBytes_CheckExact(data):
            return self._write_payload(opcode, fin, 0, data)
        if isinstance(data, memoryview) and not data.c_contiguous:
            data = data.tobytes()
        elif not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"message must be str or bytes-like; got {type(data).__name__}")
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self._write_frame(opcode, fin, 0, view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    cdef int _write_deflated(self, int opcode, bytes payload, bint fin, object compress) except -1:
        """Write a data frame, compressed if that is asked for or pays (RFC 7692 section 6)."""
        cdef PerMessageDeflate deflate = self._deflate
        cdef bytes data = None
        if opcode != OP_CONT:
            if not fin:
                self._sending_compressed = compress is not False
            elif compress:
                data = deflate.compress(payload, True)
            elif compress is None and PyBytes_GET_SIZE(payload) >= deflate.min_size:
                data = deflate.compress_message(payload)
        if self._sending_compressed and not (fin and opcode != OP_CONT):
            data = deflate.compress(payload, fin)
        if data is None:
            return self._write_payload(opcode, fin, 0, payload)
        self._use_deflate()
        self._sent.change += PyBytes_GET_SIZE(payload) - PyBytes_GET_SIZE(data)
        self._write_payload(opcode, fin, 0 if opcode == OP_CONT else 4, data)

    cdef int _use_deflate(self) noexcept:
        """Note that compression contexts are in use.

        When isn't noted: who sends doesn't tell the time.
        """
        self._deflate_used = True
        if self._release_time == INFINITY and self._state == OPEN:
            self._release_time = self._now + IDLE_TIME
            self._release_armed = True
            self._activity |= ATTENTION

    cdef int _release_contexts(self, bint receiving) except -1:
        """Free compression contexts that weren't used since the last time; ``receiving`` inside a message."""
        self._release_time = INFINITY
        if self._deflate is None or not self._deflate.holds_state():
            return 0
        if self._deflate_used or receiving or self._sending_opcode:
            self._deflate_used = False
            self._release_time = self._now + IDLE_TIME
        else:
            self._deflate.release()

    cdef int _write_through_extensions(self, int opcode, bytes data, bint fin) except -1:
        frame = Frame.make(opcode, data, fin, 0)
        for extension in self._extensions:
            frame = extension.encode(frame)
        payload = bytes(frame.data)
        if not opcode & 8:
            self._sent.change += len(data) - len(payload)
        self._write_frame(
            frame.opcode, frame.fin, frame.rsv1 << 2 | frame.rsv2 << 1 | frame.rsv3,
            PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload),
        )

    cdef int _write_control(self, int opcode, bytes payload) except -1:
        if PyBytes_GET_SIZE(payload) > 125:
            raise ProtocolError("control frame too long")
        if self._debug():
            self.logger.debug("> %s", Frame.make(opcode, payload, True, 0))
        if self._foreign_extensions:
            self._write_through_extensions(opcode, payload, True)
        else:
            self._write_frame(opcode, True, 0, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))

    cdef int _write_payload(self, int opcode, bint fin, int rsv, bytes payload) except -1:
        cdef char* memory = PyBytes_AS_STRING(payload)
        if unlikely(PyBytes_GET_SIZE(payload) >= LARGE_PAYLOAD):
            return self._write_large(opcode, fin, rsv, payload, memory, PyBytes_GET_SIZE(payload))
        return self._write_frame(opcode, fin, rsv, memory, PyBytes_GET_SIZE(payload))

    cdef int _write_large(
        self, int opcode, bint fin, int rsv, object payload, const void* memory, Py_ssize_t size
    ) except -1:
        """Write a frame with a payload that is bytes or an ASCII str, in ``memory``, and that nobody changes."""
        cdef unsigned char header[14]
        if self._is_client:
            return self._write_frame(opcode, fin, rsv, memory, size)  # masked
        self._output.append_large(header, write_header(header, opcode, fin, rsv, size, NULL), payload, size)
        count_frame(&self._sent, opcode, fin, size)

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
        count_frame(&self._sent, opcode, fin, size)

    cdef int _check_sent_text(self, object data, bint fin) except -1:
        """Check the next bytes of a text message before they are sent; nothing changes if they are bad."""
        cdef ws_utf8_state state = self._sending_utf8
        cdef bytes payload
        cdef Py_ssize_t good, start
        if PyUnicode_Check(data) and state.missing == 0:
            return 0
        payload = to_bytes("message", data)
        good = <Py_ssize_t>ws_utf8_check(
            &state, <const unsigned char*>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload)
        )
        if good < PyBytes_GET_SIZE(payload) or (fin and state.missing):
            start = max(good - state.seen, 0)
            raise UnicodeDecodeError("utf-8", payload, start, max(good, start + 1), "invalid text message")
        self._sending_utf8 = state
