"""What arrives at a connection: bytes into frames.

Finds what is wrong with the bytes as early as they allow; what becomes of a frame, and what follows from a fault,
is decided in the layers above.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.object cimport PyTypeObject
from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject
from cpython.unicode cimport PyUnicode_CheckExact
from libc.stdint cimport UINT32_MAX, UINT64_MAX, uint8_t, uint64_t
from libc.string cimport memcpy

from ._deflate cimport PerMessageDeflate
from ._endpoint cimport CONNECTING, OPEN, count_frame
from ._flag cimport unlikely
from ._frames cimport (
    BAD_MASKING,
    BAD_OPCODE,
    BAD_RSV,
    CONTROL_FRAGMENTED,
    CONTROL_TOO_LONG,
    LENGTH_NOT_MINIMAL,
    LENGTH_TOO_LARGE,
    MAX_HEADER,
    NEED_MORE,
    OP_CONT,
    OP_TEXT,
    read_header,
    ws_mask_copy,
    ws_mask_in_place,
    ws_plain_copy,
    ws_utf8_check,
)
from ._output cimport new_bytes
from ._queue cimport ATTENTION, OUTPUT
from ._rates cimport Bucket
from ._sender cimport Sender
from ._settings cimport size_limits

from .exceptions import PayloadTooBig, ProtocolError, RateExceeded, TooManyFragments
from .frames import CloseCode


cdef extern from *:
    """
    /* What grows while a payload arrives: bytes, or str whose text is ASCII as far as is known. */
    static inline int wsproto_fast_is_text(PyObject *payload) {
        return !PyBytes_CheckExact(payload);
    }
    static inline unsigned char *wsproto_fast_memory_of(PyObject *payload) {
        return wsproto_fast_is_text(payload) ? PyUnicode_1BYTE_DATA(payload)
                                             : (unsigned char *)PyBytes_AS_STRING(payload);
    }
    static inline Py_ssize_t wsproto_fast_room_of(PyObject *payload) {
        return wsproto_fast_is_text(payload) ? PyUnicode_GET_LENGTH(payload) : PyBytes_GET_SIZE(payload);
    }
    static inline int wsproto_fast_resize(PyObject **payload, Py_ssize_t size) {
        return wsproto_fast_is_text(*payload) ? PyUnicode_Resize(payload, size) : _PyBytes_Resize(payload, size);
    }

    /* A bound method would be one more object for each connection, as long as it lasts. */
    static void wsproto_fast_set_parser_call(PyTypeObject *type, Py_ssize_t offset) {
        type->tp_vectorcall_offset = offset;
        type->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL;
        PyType_Modified(type);
    }
    """
    Py_buffer* buffer_of "PyMemoryView_GET_BUFFER"(object view)
    void set_call "wsproto_fast_set_parser_call"(PyTypeObject* type, Py_ssize_t offset)
    Py_ssize_t PyVectorcall_NARGS(size_t arguments)
    Py_ssize_t PY_SSIZE_T_MAX
    bint is_text "wsproto_fast_is_text"(PyObject* payload) noexcept
    unsigned char* memory_of "wsproto_fast_memory_of"(PyObject* payload) noexcept
    Py_ssize_t room_of "wsproto_fast_room_of"(PyObject* payload) noexcept
    int resize "wsproto_fast_resize"(PyObject** payload, Py_ssize_t size) except -1
    PyObject* new_text "PyUnicode_New"(Py_ssize_t size, Py_UCS4 most) except NULL


# Receiving buffer of a protocol that wasn't given one to share.
cdef Py_ssize_t OWN_READ_BUFFER = 16384
# A frame that isn't whole yet gets room for at least this much of it.
cdef Py_ssize_t MIN_PARTIAL = 128
# And for at most so many times what has arrived of it, for which nothing is written to memory: a header alone, which
# costs its sender nothing, reserves nothing. Where that is all of it, memory is asked for once per frame. What grows
# by little steps gives the allocator nothing large to keep: glibc would return memory to the system when a message
# is freed, and the next one would pay for each of its pages again.
cdef Py_ssize_t ROOM_FACTOR = 8
# What is left of a frame is received into its place if it is at least this much, or as much as the read buffer.
cdef Py_ssize_t DIRECT_SIZE = 65536
# At most so much at once, so that it is unmasked and checked while the processor has it in its cache; or a bit more, so
# that nothing is left of a message whose size is a multiple of this but for its header.
cdef Py_ssize_t DIRECT_ROOM = 1 << 18
cdef Py_ssize_t DIRECT_REST = 4096
cdef int PyBUF_WRITE = 0x200

cdef dict _header_faults = {
    BAD_RSV: "reserved bits must be 0",
    BAD_OPCODE: "invalid opcode",
    BAD_MASKING: "incorrect masking",
    CONTROL_FRAGMENTED: "fragmented control frame",
    CONTROL_TOO_LONG: "control frame too long",
    LENGTH_NOT_MINIMAL: "payload length isn't minimal",
    LENGTH_TOO_LARGE: "payload length exceeds 2**63 - 1",
}


cdef class Parser(Sender):
    """The incoming side of a connection, as far as frames."""

    def __cinit__(self):
        self._max_fragments = UINT32_MAX
        self._vectorcall = <void*>_call_parser

    def __dealloc__(self):
        Py_XDECREF(self._partial)

    cdef int _set_max_size(self, max_size) except -1:
        self._max_message_size, self._max_fragment_size = size_limits(max_size)

    cdef int _look_at_extensions(self) except -1:
        cdef PerMessageDeflate before = self._deflate
        Sender._look_at_extensions(self)
        if self._deflate is not before:
            # Nobody can inflate the rest of a message whose beginning was another one's.
            self._message_compressed = False

    # ------------------------------------------------------------------ settings

    def use_read_buffer(self, buffer) -> None:
        """Receive through ``buffer``, which other connections may share.

        Args:
            buffer: Writable memoryview. Its contents matter only between ``get_buffer()`` and
                ``buffer_updated()``.

        Raises:
            ValueError: If ``buffer`` is empty.
            RuntimeError: If a callback does this: what it is called with may still be in the other one.
        """
        cdef Py_buffer view
        if self._calling:
            raise RuntimeError("a callback can't change the read buffer")
        if not isinstance(buffer, memoryview):
            # As long as there is a view of it, its size can't change.
            buffer = memoryview(buffer)
        if not buffer.nbytes:
            raise ValueError("a read buffer can't be empty")
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        PyBuffer_Release(&view)
        self._read_buffer = buffer

    @property
    def max_size(self) -> int | None | tuple[int | None, int | None]:
        """Limit on incoming messages in bytes, or a pair of limits on messages and fragments."""
        if self._max_fragment_size == UINT64_MAX:
            return self.max_message_size
        return self.max_message_size, self._max_fragment_size

    @property
    def max_message_size(self) -> int | None:
        """Limit on incoming messages in bytes; it may be set, for what is received from then on."""
        return None if self._max_message_size == UINT64_MAX else self._max_message_size

    @max_message_size.setter
    def max_message_size(self, limit):
        self._set_max_size((limit, self.max_fragment_size))

    @property
    def max_fragment_size(self) -> int | None:
        """Limit on incoming fragments in bytes; it may be set, for what is received from then on."""
        return None if self._max_fragment_size == UINT64_MAX else self._max_fragment_size

    @max_fragment_size.setter
    def max_fragment_size(self, limit):
        self._set_max_size((self.max_message_size, limit))

    # ------------------------------------------------------------------ bytes

    def get_buffer(self, Py_ssize_t sizehint = -1):
        """Return a writable buffer to receive into; follow up with ``buffer_updated``.

        Args:
            sizehint: Ignored; for the interface of ``asyncio.BufferedProtocol``.
        """
        return self._get_buffer()

    def __call__(self, Py_ssize_t sizehint = -1):
        """Do what ``get_buffer`` does.

        A bound method would be one more object for each connection, as long as a transport keeps it.

        Args:
            sizehint: Ignored.
        """
        return self._get_buffer()

    cdef object _get_buffer(self):
        cdef Py_ssize_t capacity
        if unlikely(self._read_buffer is None):
            self.use_read_buffer(memoryview(bytearray(OWN_READ_BUFFER)))
        capacity = buffer_of(self._read_buffer).len
        if unlikely(
            self._in_frame
            and self._partial != NULL
            and self._frame_left >= <uint64_t>min(capacity, DIRECT_SIZE)
            and self._kept is None
        ):
            # Large frames are received into their place.
            try:
                self._reserve_partial(min(capacity, DIRECT_SIZE))
            except MemoryError as exc:
                # What is received from now on is discarded.
                self._parser_failed(exc)
            else:
                self._reading_direct = True
                self._handed_out = room_of(self._partial) - self._partial_size
                if self._handed_out > DIRECT_ROOM + DIRECT_REST:
                    self._handed_out = DIRECT_ROOM
                return PyMemoryView_FromMemory(
                    <char*>memory_of(self._partial) + self._partial_size, self._handed_out, PyBUF_WRITE
                )
        self._reading_direct = False
        if unlikely(self._partial != NULL and not self._in_frame):
            self._drop_partial()
        self._handed_out = capacity
        return self._read_buffer

    def buffer_updated(self, Py_ssize_t size, now: float | None = None) -> int:
        """Process what was received into the buffer of ``get_buffer``; return the activity bits.

        Args:
            size: Number of bytes.
            now: Current time.

        Raises:
            ValueError: If the buffer hasn't got so much room.
        """
        return self.process_buffer(size, self._time(now))

    cdef int process_buffer(self, Py_ssize_t size, double now) except -1:
        cdef Py_ssize_t room = self._handed_out
        if unlikely(self._calling):
            raise RuntimeError("a callback can't have more data processed")
        self._handed_out = 0
        if unlikely(not 0 <= size <= room):
            raise ValueError(f"get_buffer() gave room for {room} bytes, not {size}")
        self._activity = 0
        self._rest_size = 0
        self._now = self._last_received = now
        self._received.wire += <uint64_t>size
        if unlikely(self._reading_direct):
            self._reading_direct = False
            self._receive_direct(size)
        else:
            self._unmask_in_place = True
            # Without any bytes there may be no buffer.
            self._receive(<const unsigned char*>buffer_of(self._read_buffer).buf if size else NULL, size)
            self._unmask_in_place = False
        return self._activity | (OUTPUT if self._output.size else 0)

    def receive_data(self, data, now: float | None = None) -> int:
        """Process received bytes; return the activity bits.

        Args:
            data: Bytes-like object.
            now: Current time.

        Raises:
            EOFError: If the end of the stream was received before.
        """
        cdef Py_buffer view
        cdef double time = self._time(now)
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
        self._now = self._last_received = time
        if PyBytes_CheckExact(data):
            self._received.wire += <uint64_t>PyBytes_GET_SIZE(data)
            self._receive(<const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        else:
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
            self._received.wire += <uint64_t>view.len
            try:
                self._receive(<const unsigned char*>view.buf, view.len)
            finally:
                PyBuffer_Release(&view)
        return self._activity | (OUTPUT if self._output.size else 0)

    cdef int _receive(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef Py_ssize_t used, left
        cdef bint parsing = False
        try:
            while unlikely(self._state == CONNECTING and size and not self._discarding):
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
            if unlikely(self._kept is not None):
                if not self._discarding:
                    self._keep(data, size)
                    if self._has_room():
                        self._receive_kept()
                return 0
            self._paused = self._deflate is not None and self._is_full()
            parsing = True
            left = self._receive_frames(data, size)
            parsing = False
            if unlikely(left != 0):
                self._keep(data + (size - left), left)
        except Exception as exc:
            self._parser_failed(exc)
        except BaseException:
            # A callback ends the event loop. That may be run again, for what follows the frame.
            if parsing and not self._discarding:
                self._keep(self._rest, self._rest_size)
            raise

    cdef int _receive_kept(self) except -1:
        """Parse what was kept, as far as the sink takes it.

        After a failure, a Close frame, or the end of the stream, it is all there is still to come.
        """
        cdef bytes kept = self._kept
        cdef Py_ssize_t size, left = 0
        cdef bint discarding = self._discarding
        if kept is None or self._calling:
            return 0
        size = self._kept_size
        self._kept, self._kept_size = None, 0
        self._unmask_in_place = self._paused = self._discarding = False
        self._late = discarding
        self._rest_size = 0
        try:
            left = self._receive_frames(
                <const unsigned char*>PyBytes_AS_STRING(kept) + (PyBytes_GET_SIZE(kept) - size), size
            )
        except Exception as exc:
            self._parser_failed(exc)
        except BaseException:
            left = self._rest_size  # as in _receive()
            raise
        finally:
            self._late = False
            self._rest_size = 0
            if left and not self._discarding:
                self._kept, self._kept_size = kept, left
            elif discarding:
                # What is left of a frame isn't going to be whole.
                self._header_size = 0
                self._drop_partial()
            self._discarding = self._discarding or discarding

    cdef int _receive_direct(self, Py_ssize_t size) except -1:
        """Process bytes that were received right behind the current frame's payload."""
        cdef unsigned char* data
        cdef bint wide = True  # as far as is known
        if self._discarding or not self._in_frame:
            return self._drop_partial()
        data = memory_of(self._partial) + self._partial_size
        try:
            if not self._is_client:
                wide = ws_mask_in_place(data, size, self._header.key, self._partial_size & 3)
            self._extended_partial(data, size, wide)
            if self._frame_left == 0 and not self._discarding:
                self._finish_partial()
        except Exception as exc:
            self._parser_failed(exc)

    cdef int _parser_failed(self, exc) except -1:
        # Nothing that a peer sends should lead here; an extension's fault does, or a lack of memory. It is the
        # unexpected condition of RFC 6455 section 7.4.1: 1011.
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
                if unlikely(self.peer_has_to_wait()):
                    break
                if not unlikely(self._header_size != 0):
                    used = read_header(&self._header, data, size, not self._is_client, allowed_rsv)
                    if unlikely(used == NEED_MORE):
                        memcpy(self._header_bytes, data, size)
                        self._header_size = <uint8_t>size
                        return 0
                    if unlikely(used < 0):
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
                if unlikely(not self._start_frame()):
                    return 0
                self._in_frame = True
            if self._partial == NULL and self._frame_left <= <uint64_t>size:
                take = <Py_ssize_t>self._frame_left
                self._in_frame = False
                self._rest, self._rest_size = data + take, size - take
                count_frame(&self._received, self._header.opcode, self._header.fin, take)
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
        if unlikely(self._deflate is not None and self._header.rsv and (opcode & 8 or opcode == OP_CONT)):
            # RFC 7692 section 6: RSV1 is for the first frame of a message, and for data frames only.
            if opcode & 8:
                self._fail_header(BAD_RSV)
            else:
                exc = ProtocolError("RSV1 bit set in continuation frame")
                self._fail_receiving(CloseCode.PROTOCOL_ERROR, str(exc), exc)
            return False
        if unlikely(opcode & 8 != 0):
            return True  # what it costs is asked when it is all there
        # RFC 6455 section 5.4: fragments of different messages don't interleave. 1002 is for what breaks the
        # protocol, 1009 for what is too big (section 7.4.1; limits are section 10.4's).
        if opcode == OP_CONT:
            if unlikely(self._message_opcode == 0):
                self._fail_receiving(
                    CloseCode.PROTOCOL_ERROR,
                    "unexpected continuation frame",
                    ProtocolError("unexpected continuation frame"),
                )
                return False
        else:
            if unlikely(self._message_opcode != 0):
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
            self._utf8.missing = self._utf8.seen = self._utf8.wide = 0
        self._message_frames += 1
        if unlikely(self._message_frames > self._max_fragments):
            exc = TooManyFragments(self._max_fragments)
            self._fail_receiving(CloseCode.MESSAGE_TOO_BIG, "too many fragments", exc)
            return False
        limit = min(self._max_message_size - self._message_size, self._max_fragment_size)
        # What can't be compressed grows a little; its size is checked again when it is inflated.
        if unlikely(length > limit and not (self._message_compressed and length <= limit + (limit >> 8) + 64)):
            if limit == self._max_fragment_size:
                exc = PayloadTooBig(length, self._max_fragment_size)
            else:
                exc = PayloadTooBig(length, limit, self._message_size or None)
            self._fail_receiving(CloseCode.MESSAGE_TOO_BIG, str(exc), exc)
            return False
        return True if self._rates is None else self._charge(opcode != OP_CONT)

    cdef int _charge(self, double messages) except -1:
        """Count the current frame against the limits on rates; return whether it is welcome.

        What is too much is 1008 (RFC 6455 section 7.4.1), or nothing is read behind this frame.
        """
        cdef Bucket exceeded
        if self._late:
            return True
        exceeded = self._rates.charge(messages, <double>self._header.length, self._now)
        if exceeded is not None:
            exc = RateExceeded(exceeded.unit, exceeded.rate.per_second)
            self._fail_receiving(CloseCode.POLICY_VIOLATION, str(exc), exc)
            return False
        if self._rates.blocked(self._now):
            self._activity |= ATTENTION
        return True

    cdef bint _rates_block(self) noexcept:
        return (
            self._state == OPEN
            and not self._in_frame
            and not self._discarding
            and not self._late
            and self._rates.blocked(self._now)
        )

    cdef int _reserve_partial(self, Py_ssize_t extra) except -1:
        """Make room for ``extra`` more bytes of the current frame, at most for all of it."""
        cdef Py_ssize_t total, needed, arrived, room
        if <uint64_t>extra > self._frame_left:
            extra = <Py_ssize_t>self._frame_left
        needed = self._partial_size + extra
        if self._partial != NULL and needed <= room_of(self._partial):
            return 0
        total = self._partial_size + <Py_ssize_t>min(self._frame_left, <uint64_t>(PY_SSIZE_T_MAX // 2))
        arrived = extra if self._partial == NULL else self._partial_size
        room = total
        if arrived < total // ROOM_FACTOR:
            room = min(total, max(needed, max(ROOM_FACTOR * arrived, MIN_PARTIAL)))
        if self._partial != NULL:
            resize(&self._partial, room)
        elif self._header.opcode == OP_TEXT and self._becomes_text():
            self._partial = new_text(room, 127)
        else:
            self._partial = new_bytes(NULL, room)

    cdef int _store_partial(self, const unsigned char* data, Py_ssize_t size) except -1:
        """Append a piece of the current frame's payload, still masked."""
        cdef unsigned char* out
        cdef bint wide
        self._reserve_partial(size)
        out = memory_of(self._partial) + self._partial_size
        if self._is_client:
            wide = ws_plain_copy(out, data, size)
        else:
            wide = ws_mask_copy(out, data, size, self._header.key, self._partial_size & 3)
        self._extended_partial(out, size, wide)

    cdef int _extended_partial(self, unsigned char* data, Py_ssize_t size, bint wide) except -1:
        """Check ``size`` more bytes at the end of the current frame's payload, unmasked; ASCII unless ``wide``."""
        self._partial_size += size
        self._frame_left -= size
        if (
            self._message_opcode == OP_TEXT
            and (wide or self._utf8.missing)  # else it is good as it is
            and not self._header.opcode & 8
            and not self._message_compressed
            and not self._foreign_extensions
            and (self.validate_text or is_text(self._partial))
        ):
            self._check_text(
                data, size, self._partial_size - size, self._header.fin and self._frame_left == 0
            )

    cdef int _finish_partial(self) except -1:
        cdef object payload = <object>self._partial
        count_frame(&self._received, self._header.opcode, self._header.fin, self._partial_size)
        Py_XDECREF(self._partial)
        self._partial = NULL
        self._partial_size = 0
        self._in_frame = self._frame_spared = False
        if self.peer_has_to_wait():
            self._activity |= ATTENTION  # from now on
        if self._header.opcode & 8:
            self._control_payload(payload)
        elif PyUnicode_CheckExact(payload):
            self._text_payload(payload)
        else:
            self._data_payload(payload, True)

    cdef int _drop_partial(self) except -1:
        """Forget the frame being read; keep its memory while a transport may write there."""
        self._in_frame = False
        self._partial_size = 0
        if not self._reading_direct:
            Py_XDECREF(self._partial)
            self._partial = NULL

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

    # ------------------------------------------------------------------ failures

    cdef int _fail_text(self, exc) except -1:
        """Fail the connection because text isn't UTF-8 (RFC 6455 section 8.1; section 7.4.1: 1007)."""
        self._fail_receiving(CloseCode.INVALID_DATA, f"{exc.reason} at position {exc.start}", exc)

    cdef int _fail_header(self, int fault) except -1:
        """Fail the connection because of a frame's header (RFC 6455 section 7.4.1: 1002)."""
        cdef str reason = _header_faults[fault]
        self._fail_receiving(CloseCode.PROTOCOL_ERROR, reason, ProtocolError(reason))

    # ------------------------------------------------------------------ for the layers above

    cdef Py_ssize_t _receive_handshake(self, const unsigned char* data, Py_ssize_t size) except -1:
        raise NotImplementedError("the opening handshake belongs to ClientProtocol and ServerProtocol")

    cdef int _set_early_data_refused(self) except -1:
        """Fail the handshake because of what comes too early; ServerProtocol overrides it."""
        raise NotImplementedError

    cdef int _whole_frame(self, const unsigned char* data, Py_ssize_t size) except -1:
        """Process a frame whose payload lies at ``data``, still masked; Receiver overrides it."""
        raise NotImplementedError

    cdef bint _is_full(self) noexcept:
        """Tell whether what comes next must wait if it may be compressed; Receiver overrides it."""
        return False

    cdef bint _has_room(self) noexcept:
        """Tell whether what waits needn't wait any longer; Receiver overrides it."""
        return True

    cdef int _keep(self, const unsigned char* data, Py_ssize_t size) except -1:
        """Keep received bytes, compressed as they are; Receiver overrides it."""
        raise NotImplementedError

    cdef bint _becomes_text(self) except -1:
        """Tell whether the text in the current frame becomes a message as it is; Receiver overrides it."""
        return False

    cdef int _text_payload(self, str text) except -1:
        """Process the payload of such a frame, in UTF-8 unless it is ASCII; Receiver overrides it."""
        raise NotImplementedError

    cdef int _data_payload(self, bytes payload, bint checked) except -1:
        """Process the unmasked payload of a data frame; Receiver overrides it."""
        raise NotImplementedError

    cdef int _control_payload(self, bytes payload) except -1:
        """Process the unmasked payload of a control frame; Protocol overrides it."""
        raise NotImplementedError

    cdef int _fail_receiving(self, int code, str reason, exc) except -1:
        """Fail the connection because of what was received; Protocol overrides it."""
        raise NotImplementedError


cdef PyObject* _call_parser(
    PyObject* parser, PyObject* const* arguments, size_t count, PyObject* names
) except NULL:
    if PyVectorcall_NARGS(count) > 1 or names != NULL:
        raise TypeError("a connection's engine is called with a hint for the size of the buffer")
    buffer = (<Parser>parser)._get_buffer()
    Py_INCREF(buffer)
    return <PyObject*>buffer


cdef Parser _parser = Parser.__new__(Parser)
set_call(<PyTypeObject*>Parser, <char*>&_parser._vectorcall - <char*><PyObject*>_parser)
_parser = None
