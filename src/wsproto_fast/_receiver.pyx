"""What arrives at a connection: bytes into frames, frames into messages or events.

Middle of the three layers of a connection (Sender, Receiver, Protocol). Finds what is wrong with the bytes as
early as they allow; what follows from that, and from control frames, is decided above.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.ref cimport Py_XDECREF
from cpython.unicode cimport PyUnicode_Check, PyUnicode_DecodeUTF8
from libc.stdint cimport UINT32_MAX, UINT64_MAX, uint8_t, uint64_t
from libc.string cimport memcpy

from ._deflate cimport NO_LIMIT
from ._frames cimport (
    BAD_MASKING,
    BAD_OPCODE,
    BAD_RSV,
    CONTROL_FRAGMENTED,
    CONTROL_TOO_LONG,
    LENGTH_NOT_MINIMAL,
    MAX_HEADER,
    NEED_MORE,
    OP_CONT,
    OP_TEXT,
    Frame,
    Header,
    read_header,
    ws_mask_copy,
    ws_mask_in_place,
    ws_plain_copy,
    ws_utf8_check,
)
from ._output cimport new_bytes, resize_bytes
from ._listener cimport Callbacks, Listener
from ._queue cimport ATTENTION, OUTPUT, MessageQueue
from ._sender cimport CONNECTING, OPEN, Sender

from ._deflate import CompressedDataError
from .exceptions import PayloadTooBig, ProtocolError, TooManyFragments
from .frames import CloseCode


cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX
    object PyBytes_FromStringAndSize(const char* data, Py_ssize_t size)
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    unsigned char* PyUnicode_1BYTE_DATA(object text)


# Bytes accepted while the opening handshake isn't answered yet.
cdef Py_ssize_t MAX_EARLY = 65536
# Receiving buffer of a protocol that wasn't given one to share.
cdef Py_ssize_t OWN_READ_BUFFER = 16384
# A frame that isn't whole yet gets room for at least this much of it.
cdef Py_ssize_t MIN_PARTIAL = 128
cdef int PyBUF_WRITE = 0x200

cdef dict _header_faults = {
    BAD_RSV: "reserved bits must be 0",
    BAD_OPCODE: "invalid opcode",
    BAD_MASKING: "incorrect masking",
    CONTROL_FRAGMENTED: "fragmented control frame",
    CONTROL_TOO_LONG: "control frame too long",
    LENGTH_NOT_MINIMAL: "payload length isn't minimal",
}


cdef uint64_t _limit(str name, value) except? 0:
    """Check a size given by a caller; None stands for no limit."""
    if value is None:
        return UINT64_MAX
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be int or None; got {type(value).__name__}")
    if value < 0:
        raise ValueError(f"{name} must be 0 or more, or None; got {value}")
    return min(value, UINT64_MAX)


cdef class Receiver(Sender):
    """The incoming side of a connection: bytes into frames, frames into messages or events."""

    def __cinit__(self, *args, **kwargs):
        self._events = []
        self._max_fragments = UINT32_MAX

    def __dealloc__(self):
        Py_XDECREF(self._partial)

    cdef int _set_max_size(self, max_size) except -1:
        if isinstance(max_size, tuple):
            message_size, fragment_size = max_size
        else:
            message_size, fragment_size = max_size, None
        self._max_message_size = _limit("max_size", message_size)
        self._max_fragment_size = _limit("max_size", fragment_size)

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
        for mark in (high, low):
            if mark is not None and (isinstance(mark, bool) or not isinstance(mark, int)):
                raise TypeError(f"max_queue must be int, a pair of int, or None; got {type(mark).__name__}")
        if low is None and high is not None:
            low = high // 4
        if high is not None and not 0 <= low <= high < UINT32_MAX:
            raise ValueError(f"max_queue must be (high, low) with high >= low >= 0; got ({high}, {low})")
        self._queue = MessageQueue(high, low, max_bytes)
        self._max_fragments = UINT32_MAX if max_fragments is None else max_fragments

    def listen(self, on_message=None, *, on_frame=None, Listener listener=None) -> None:
        """Have callbacks called with what is received, inside ``receive_data`` and ``buffer_updated``.

        They may send, ping, close, and fail. An exception in one is logged and fails the connection with
        1011. While writing is paused, ``reading_wanted`` is false. What is queued is delivered at once.

        Args:
            on_message: Callable that is given each message, str or bytes.
            on_frame: Callable that is given, instead, each frame of a message: its opcode (that of the
                message, CONT after the first frame), its payload as a memoryview that is released when the
                callable returns, and whether it ends the message. Nothing is copied; text is checked but
                not decoded.
            listener: Object of a compiled class, instead of callables.

        Raises:
            TypeError: If there isn't exactly one of the three, or it isn't callable.
        """
        if (on_message is not None) + (on_frame is not None) + (listener is not None) != 1:
            raise TypeError("listen() takes one of on_message, on_frame, and listener")
        if listener is None:
            for name, value in (("on_message", on_message), ("on_frame", on_frame)):
                if value is not None and not callable(value):
                    raise TypeError(f"{name} must be callable, not {type(value).__name__}")
            listener = Callbacks(on_message, on_frame)
        if self._queue is None:
            self.queue_messages(None, max_bytes=None)
        self._listener = listener
        self._deliver_queued()

    def _deliver_queued(self):
        """Call back with what was queued before."""
        cdef bytes payload
        cdef bint fin
        cdef int opcode
        self._rest_size = 0
        while self._queue.frames and not self._calling:
            if not self._listener.wants_frames:
                if not self._queue.messages:
                    return
                self._call_listener(self.next_message(), 0, True, NULL, 0, None)
                continue
            opcode = OP_CONT if self._queue._streaming else self._queue._front().opcode
            payload, fin = self._queue.next_fragment(False)
            self._call_listener(
                None, opcode, fin, <const unsigned char*>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), payload
            )

    @property
    def last_in_buffer(self) -> bool:
        """Whether no other callback follows this one at once (inside a callback of ``listen``).

        What a callback does for several messages together is done when it is true.
        """
        cdef Header header
        cdef const unsigned char* data = self._rest
        cdef Py_ssize_t left = self._rest_size
        cdef int used
        while self._calling and left > 0 and not self._discarding:
            used = read_header(&header, data, left, not self._is_client, 7)
            if used < 0 or header.length > <uint64_t>(left - used):
                break
            if not header.opcode & 8 and (header.fin or self._listener.wants_frames):
                return False
            data += used + <Py_ssize_t>header.length
            left -= used + <Py_ssize_t>header.length
        return True

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

    @property
    def max_size(self) -> int | None | tuple[int | None, int | None]:
        """Limit on incoming messages in bytes, or a pair of limits on messages and fragments."""
        message = None if self._max_message_size == UINT64_MAX else self._max_message_size
        if self._max_fragment_size == UINT64_MAX:
            return message
        return message, self._max_fragment_size

    # ------------------------------------------------------------------ bytes

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
        if self._calling:
            raise RuntimeError("a callback can't have more data processed")
        self._handed_out = 0
        if not 0 <= size <= room:
            raise ValueError(f"get_buffer() gave room for {room} bytes, not {size}")
        self._activity = 0
        self._rest_size = 0
        self._now = self._last_received = now
        if self._reading_direct:
            self._reading_direct = False
            self._receive_direct(size)
        else:
            self._unmask_in_place = True
            self._receive(self._read_memory, size)
            self._unmask_in_place = False
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
        if self._calling:
            raise RuntimeError("a callback can't have more data processed")
        # A buffer that was handed out is void now.
        self._handed_out = 0
        self._reading_direct = False
        self._activity = 0
        self._rest_size = 0
        self._unmask_in_place = False
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
                        self._set_early_data_refused()
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
        self.logger.error("parser failed", exc_info=exc)
        self._fail_receiving(CloseCode.INTERNAL_ERROR, "", exc)

    # ------------------------------------------------------------------ frames

    cdef Py_ssize_t _receive_frames(self, const unsigned char* data, Py_ssize_t size) except -1:
        """Read frames; return how many bytes are left because a sink paused, else 0."""
        cdef Py_ssize_t take
        cdef int used
        cdef uint8_t allowed_rsv = 0
        if self._extensions is not None:
            self._refresh_extensions()
            if self._deflate is not None:
                allowed_rsv = 4
            elif self._foreign_extensions:
                # What extensions leave of the reserved bits is checked after decoding.
                allowed_rsv = 7
        while not self._discarding and not self._paused:
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
                self._rest, self._rest_size = data + take, size - take
                self._whole_frame(data, take)
            else:
                if size == 0:
                    return 0
                take = <Py_ssize_t>min(self._frame_left, <uint64_t>size)
                self._rest, self._rest_size = data + take, size - take
                self._store_partial(data, take)
                if self._frame_left == 0 and not self._discarding:
                    self._finish_partial()
            data += take
            size -= take
        return 0 if self._discarding else size

    cdef int _start_frame(self) except -1:
        """Check what a frame's header can tell; return whether its payload is welcome."""
        cdef uint64_t length = self._header.length
        cdef int opcode = self._header.opcode
        cdef uint64_t limit
        if self._deflate is not None and self._header.rsv and (opcode & 8 or opcode == OP_CONT):
            # RFC 7692 section 6: RSV1 is for the first frame of a message.
            if opcode & 8:
                self._fail_header(BAD_RSV)
            else:
                exc = ProtocolError("RSV1 bit set in continuation frame")
                self._fail_receiving(CloseCode.PROTOCOL_ERROR, str(exc), exc)
            return False
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
            self._message_compressed = self._deflate is not None and self._header.rsv
            self._message_size = 0
            self._message_frames = 0
            self._utf8.missing = self._utf8.seen = 0
        self._message_frames += 1
        if self._message_frames > self._max_fragments:
            exc = TooManyFragments(self._max_fragments)
            self._fail_receiving(CloseCode.MESSAGE_TOO_BIG, "too many fragments", exc)
            return False
        limit = min(self._max_message_size - self._message_size, self._max_fragment_size)
        # What can't be compressed grows a little; its size is checked again when it is inflated.
        if length > limit and not (self._message_compressed and length <= limit + (limit >> 8) + 64):
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
            self._gives_frames()
            and self._header.rsv == 0
            and not self._header.opcode & 8
            and not self._message_compressed
            and not self._foreign_extensions
            and self._unmask_in_place
            and not self._debug()
        ):
            return self._whole_frame_in_place(data, size)
        if (
            self._header.opcode == OP_TEXT
            and self._header.fin
            and self._queue is not None
            and self._header.rsv == 0
            and not self._foreign_extensions
            and size
            and self.validate_text
            and not self._gives_frames()
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
            return self._deliver(text, OP_TEXT, True)
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

    cdef int _whole_frame_in_place(self, const unsigned char* data, Py_ssize_t size) except -1:
        """Call back with a frame where it lies in the read buffer."""
        cdef int opcode = self._header.opcode
        cdef bint fin = self._header.fin
        if not self._is_client:
            ws_mask_in_place(<unsigned char*>data, size, self._header.key, 0)
        self._message_size += size
        if self._message_opcode == OP_TEXT and self.validate_text and not self._check_text(data, size, 0, fin):
            return 0
        if fin:
            self._message_opcode = 0
        self._call_back(None, opcode, fin, data, size, self._read_buffer)

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
        if (
            self._message_opcode == OP_TEXT
            and not self._header.opcode & 8
            and not self._message_compressed
            and not self._foreign_extensions
            and self.validate_text
        ):
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

    cdef int _drop_partial(self) except -1:
        """Forget the frame being read; keep its memory while a transport may write there."""
        self._in_frame = False
        self._partial_size = 0
        if not self._reading_direct:
            Py_XDECREF(self._partial)
            self._partial = NULL

    # ------------------------------------------------------------------ payloads

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
        if self._message_compressed:
            payload = self._decompress(payload, fin)
            if payload is None:
                return 0
            checked = False
        if self._foreign_extensions:
            frame = self._decode(Frame.make(opcode, payload, fin, rsv))
            if frame is None:
                return 0
            payload = frame.data if type(frame.data) is bytes else bytes(frame.data)
            checked = False
        if self._debug():
            self.logger.debug("< %s", Frame.make(opcode, payload, fin, 0))
        message_opcode = self._message_opcode
        self._message_size += PyBytes_GET_SIZE(payload)
        if message_opcode == OP_TEXT and not checked and self.validate_text and not (
            # A whole message in one frame is validated by decoding it.
            self._queue is not None and fin and opcode == OP_TEXT and not self._gives_frames()
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
        elif self._gives_frames():
            self._call_back(
                None, opcode, fin, <const unsigned char*>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), payload
            )
        elif message_opcode == OP_TEXT and fin and opcode == OP_TEXT and self.validate_text:
            try:
                text = payload.decode()
            except UnicodeDecodeError as exc:
                return self._fail_text(exc)
            self._deliver(text, OP_TEXT, True)
        else:
            self._deliver(payload, message_opcode, fin)

    cdef bint _gives_frames(self) noexcept:
        return self._listener is not None and self._listener.wants_frames

    cdef int _deliver(self, object payload, int opcode, bint fin) except -1:
        """Queue a message or a fragment of one, or call back with a message."""
        if self._listener is None:
            self._activity |= self._queue.put(payload, opcode, fin)
        else:
            if fin and not self._queue.frames and (opcode != OP_TEXT or PyUnicode_Check(payload)):
                self._call_back(payload, opcode, True, NULL, 0, None)
                return 0
            self._queue.put(payload, opcode, fin)
            if fin:
                try:
                    payload = self._queue.next_message(None)
                except UnicodeDecodeError as exc:
                    # It wasn't checked as it came: see validate_text.
                    self._fail_text(exc)
                else:
                    self._call_back(payload, opcode, True, NULL, 0, None)

    cdef int _call_back(
        self, object message, int opcode, bint fin, const unsigned char* payload, Py_ssize_t size, object owner
    ) except -1:
        """Call the listener with a message, or with a frame."""
        if self._state == OPEN:
            self._call_listener(message, opcode, fin, payload, size, owner)
        # Otherwise the application closes the connection, and wants nothing more.

    cdef int _call_listener(
        self, object message, int opcode, bint fin, const unsigned char* payload, Py_ssize_t size, object owner
    ) except -1:
        self._calling = True
        try:
            if self._listener.wants_frames:
                self._listener.received_frame(opcode, fin, payload, size, owner)
            else:
                self._listener.received_message(message)
        except Exception as exc:
            self._logger.error("callback failed", exc_info=exc)
            self._fail_receiving(CloseCode.INTERNAL_ERROR, "", exc)
        finally:
            self._calling = False

    cdef Py_ssize_t _remaining_limit(self) noexcept:
        """Return how many bytes the current frame's payload may have, at most NO_LIMIT."""
        cdef uint64_t limit = min(self._max_message_size - self._message_size, self._max_fragment_size)
        return <Py_ssize_t>min(limit, <uint64_t>NO_LIMIT)

    cdef bytes _decompress(self, bytes payload, bint fin):
        """Decompress a received payload; return None after failing the connection."""
        self._use_deflate()
        try:
            return self._deflate.decompress(payload, fin, self._remaining_limit())
        except PayloadTooBig as exc:
            if self._message_size:
                exc.set_current_size(self._message_size)
            self._fail_receiving(CloseCode.MESSAGE_TOO_BIG, str(exc), exc)
        except CompressedDataError as exc:
            self._fail_receiving(CloseCode.INVALID_DATA, str(exc), exc)
        return None

    def _decode(self, Frame frame):
        """Pass a received frame through the extensions; return None after failing the connection."""
        limit = self._remaining_limit()
        if limit == NO_LIMIT:
            limit = None
        try:
            for extension in reversed(self._extensions):
                frame = extension.decode(frame, max_size=limit)
        except CompressedDataError as exc:
            self._fail_receiving(CloseCode.INVALID_DATA, str(exc), exc)
        except ProtocolError as exc:
            self._fail_receiving(CloseCode.PROTOCOL_ERROR, str(exc), exc)
        except PayloadTooBig as exc:
            if self._message_size:
                exc.set_current_size(self._message_size)
            self._fail_receiving(CloseCode.MESSAGE_TOO_BIG, str(exc), exc)
        else:
            if frame.rsv1 or frame.rsv2 or frame.rsv3:
                self._fail_header(BAD_RSV)
            elif limit is not None and len(frame.data) > limit and not frame.opcode & 8:
                exc = PayloadTooBig(len(frame.data), limit, self._message_size or None)
                self._fail_receiving(CloseCode.MESSAGE_TOO_BIG, str(exc), exc)
            else:
                return frame
        return None

    # ------------------------------------------------------------------ messages and events

    @property
    def reading_wanted(self) -> bool:
        """Whether the driver should go on reading from the network (flow control)."""
        return self._reading_wanted()

    cdef bint _reading_wanted(self) noexcept:
        if self._listener is not None:
            # Callbacks take what comes. What they send isn't to grow while the peer doesn't read.
            return not self._writing_paused or self._state != OPEN
        return self._queue is None or self._queue.reading_wanted

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

    cdef int _require_queue(self) except -1:
        if self._queue is None:
            raise RuntimeError("messages aren't queued: call queue_messages() first")

    def stop_waiting(self) -> None:
        """Tell that nobody waits any longer for a message that wasn't there yet."""
        self._require_queue()
        self._queue.reader_waiting = False

    # ------------------------------------------------------------------ failures

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

    # ------------------------------------------------------------------ for the layers above

    cdef Py_ssize_t _receive_handshake(self, const unsigned char* data, Py_ssize_t size) except -1:
        raise NotImplementedError("the opening handshake belongs to ClientProtocol and ServerProtocol")

    cdef int _set_early_data_refused(self) except -1:
        raise NotImplementedError

    cdef int _control_payload(self, bytes payload) except -1:
        raise NotImplementedError

    cdef int _fail_receiving(self, int code, str reason, exc) except -1:
        raise NotImplementedError
