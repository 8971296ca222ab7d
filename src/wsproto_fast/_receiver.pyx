"""What frames are to the application: messages in a queue, events, or callbacks.

Decompresses and checks what the parser found, and gives it to the one sink that there is.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_Check, PyUnicode_DecodeUTF8
from libc.stdint cimport UINT32_MAX, uint8_t, uint64_t
from libc.string cimport memcpy

from ._deflate cimport NO_LIMIT
from ._endpoint cimport OPEN, count_frame
from ._flag cimport unlikely
from ._frames cimport (
    BAD_RSV,
    OP_BINARY,
    OP_CONT,
    OP_TEXT,
    Frame,
    Header,
    read_header,
    ws_mask_copy,
    ws_mask_in_place,
    ws_plain_copy,
)
from ._listener cimport Callbacks, Listener
from ._parser cimport Parser
from ._queue cimport ATTENTION, FLUSH, MESSAGE, OUTPUT, MessageQueue
from ._settings cimport queue_marks

from ._deflate import CompressedDataError
from .exceptions import PayloadTooBig, ProtocolError
from .frames import CloseCode


cdef extern from "Python.h":
    object PyBytes_FromStringAndSize(const char* data, Py_ssize_t size)
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    unsigned char* PyUnicode_1BYTE_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)


# Above this, output shouldn't wait for the end of the turn.
cdef Py_ssize_t FLUSH_SIZE = 65536

# What callbacks may send without a pause for the network, when messages that were received together are inflated
# for them, in bytes.
cdef Py_ssize_t MAX_BURST = 1 << 20


cdef inline object next_item(MessageQueue queue, bint fragment, object decode):
    return queue.next_fragment(decode) if fragment else queue.next_message(decode)


cdef inline object pop(Receiver receiver, bint fragment, object decode, double now):
    """Return the next message or fragment, or None."""
    receiver._require_queue()
    receiver._now = now
    if decode is None and receiver.validate_text:
        return pop_item(receiver, fragment, decode)  # nothing is decoded
    try:
        return pop_item(receiver, fragment, decode)
    except UnicodeDecodeError as exc:
        return receiver._fail_decoding(exc)


cdef inline object pop_item(Receiver receiver, bint fragment, object decode):
    cdef object item = next_item(receiver._queue, fragment, decode)
    if (
        receiver._kept is not None
        and receiver._discarding
        and receiver._listener is None  # or else listen() does it, which delivers what is queued
        and receiver._queue.has_room()
    ):
        receiver._receive_kept()
        if item is None:
            item = next_item(receiver._queue, fragment, decode)
    return item


cdef inline object take(Receiver receiver, bint fragment, object decode, double now, int* activity):
    """Do the same, then process what was kept if there is room for it."""
    cdef object item = pop(receiver, fragment, decode, now)
    activity[0] = 0
    if receiver._kept is not None and receiver._has_room():
        activity[0] = receiver.process_kept(now)
        if item is None:
            item = pop(receiver, fragment, decode, now)
    return item


cdef class Receiver(Parser):
    """The incoming side of a connection: frames into messages or events."""

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
            high: Number of queued frames above which ``reading_wanted`` becomes false; None for four times ``low``,
                or no limit.
            low: Number of queued frames at or below which it becomes true again; a quarter of ``high`` by default.
            max_bytes: Number of queued bytes that has the same effect as ``high``.
            max_fragments: Limit on the number of fragments in a message; None for no limit.
        """
        if type(high) is not int or low is not None or not 0 <= high < 2**20:
            high, low = queue_marks((high, low))
        else:
            low = <int>high // 4
        self._queue = MessageQueue(high, low, max_bytes)
        self._max_fragments = UINT32_MAX if max_fragments is None else max_fragments

    def listen(
        self, on_message=None, *, on_frame=None, Listener listener=None, now: float | None = None
    ) -> None:
        """Have callbacks called with what is received, inside ``receive_data`` and ``buffer_updated``.

        They may send, ping, close, and fail. An exception in one is logged and fails the connection with
        1011; what isn't an Exception passes through. While writing is paused, ``reading_wanted`` is false. What is
        queued is delivered at once. If that is cut short by what passes through, nothing listens, and the rest is
        still queued.

        Args:
            on_message: Callable that is given each message, str or bytes.
            on_frame: Callable that is given, instead, each frame of a message: its opcode (that of the
                message, CONT after the first frame), its payload as a memoryview that is released when the
                callable returns, and whether it ends the message. Nothing is copied; text is checked but
                not decoded.
            listener: Object of a compiled class, instead of callables.
            now: Current time.

        Raises:
            TypeError: If there isn't exactly one of the three, or it isn't callable.
        """
        cdef double time = self._time(now)
        if (on_message is not None) + (on_frame is not None) + (listener is not None) != 1:
            raise TypeError("listen() takes one of on_message, on_frame, and listener")
        if listener is None:
            for name, value in (("on_message", on_message), ("on_frame", on_frame)):
                if value is not None and not callable(value):
                    raise TypeError(f"{name} must be callable, not {type(value).__name__}")
            listener = Callbacks(on_message, on_frame)
        if self._queue is None:
            self.queue_messages(None, max_bytes=None)
        self._queue.skip_streamed()
        self._now = time
        before = self._listener
        try:
            while self._kept is not None and not self._calling and not self.peer_has_to_wait():
                # Including what waits because the queue was full.
                self._listener = listener
                self._deliver_queued()
                self._listener = None
                self._receive_kept()
            self._listener = listener
            self._deliver_queued()
        except BaseException:
            # A callback ends the event loop. What it wasn't given is still queued, and nothing overtakes it.
            self._listener = before
            raise

    cdef int _deliver_queued(self) except -1:
        """Call back with what was queued before."""
        cdef bytes payload
        cdef bint fin
        cdef int opcode
        self._rest_size = 0
        while self._queue.frames and not self._calling:
            if not self._listener.wants_frames:
                if not self._queue.messages:
                    return 0
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
            if used <= 0 or header.length > <uint64_t>(left - used):
                break
            if not header.opcode & 8 and (header.fin or self._listener.wants_frames):
                return False
            data += used + <Py_ssize_t>header.length
            left -= used + <Py_ssize_t>header.length
        return True

    # ------------------------------------------------------------------ payloads

    cdef int _whole_frame(self, const unsigned char* data, Py_ssize_t size) except -1:
        """Process a frame whose payload lies at ``data``, still masked."""
        cdef bytes payload
        cdef object text
        cdef unsigned char* out
        cdef bint wide
        if unlikely(
            self._gives_frames()
            and self._header.rsv == 0
            and not self._header.opcode & 8
            and not self._message_compressed
            and not self._foreign_extensions
            and self._unmask_in_place
            and not self._debug()
        ):
            return self._whole_frame_in_place(data, size)
        if self._header.opcode == OP_TEXT and size and self._becomes_text():
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
        if unlikely(self._header.opcode & 8 != 0):
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

    cdef bint _becomes_text(self) except -1:
        return (
            self._header.fin
            and self._queue is not None
            and self._header.rsv == 0
            and not self._foreign_extensions
            and self.validate_text
            and not self._gives_frames()
            and not self._debug()
        )

    cdef int _text_payload(self, str text) except -1:
        cdef char* memory = <char*>PyUnicode_1BYTE_DATA(text)
        cdef Py_ssize_t size = PyUnicode_GET_LENGTH(text)
        if not self._becomes_text():
            # A callback or a logger has come since it began.
            return self._data_payload(PyBytes_FromStringAndSize(memory, size), True)
        if self._utf8.wide:
            text = PyUnicode_DecodeUTF8(memory, size, NULL)
        self._message_opcode = 0
        self._deliver(text, OP_TEXT, True)

    cdef int _data_payload(self, bytes payload, bint checked) except -1:
        """Process the unmasked payload of a data frame; ``checked`` if it was checked as UTF-8."""
        cdef int opcode = self._header.opcode
        cdef int rsv = self._header.rsv
        cdef bint fin = self._header.fin
        cdef Frame frame
        cdef Py_ssize_t size
        cdef int message_opcode
        if unlikely(self._message_compressed):
            if self._is_unwanted():
                if fin:
                    self._message_opcode = 0
                return 0
            size = PyBytes_GET_SIZE(payload)
            payload = self._decompress(payload, fin)
            if payload is None:
                return 0
            self._received.change += PyBytes_GET_SIZE(payload) - size
            checked = False
        if unlikely(self._foreign_extensions):
            size = PyBytes_GET_SIZE(payload)
            frame = self._decode(Frame.make(opcode, payload, fin, rsv))
            if frame is None:
                return 0
            payload = frame.data if type(frame.data) is bytes else bytes(frame.data)
            self._received.change += PyBytes_GET_SIZE(payload) - size
            checked = False
        if unlikely(self._debug()):
            self.logger.debug("< %s", Frame.make(opcode, payload, fin, 0))
        message_opcode = self._message_opcode
        self._message_size += PyBytes_GET_SIZE(payload)
        if unlikely(message_opcode == OP_TEXT and not checked and self.validate_text and not (
            # A whole message in one frame is validated by decoding it.
            self._queue is not None and fin and opcode == OP_TEXT and not self._gives_frames()
        )):
            if not self._check_text(
                <const unsigned char*>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), 0, fin
            ):
                return 0
        if fin:
            self._message_opcode = 0
        if unlikely(self._queue is None):
            self._add_event(Frame.make(opcode, payload, fin, 0))
            self._activity |= ATTENTION
        elif unlikely(self._gives_frames()):
            self._call_back(
                None, opcode, fin, <const unsigned char*>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), payload
            )
        elif unlikely(message_opcode == OP_TEXT and fin and opcode == OP_TEXT and self.validate_text):
            try:
                text = payload.decode()
            except UnicodeDecodeError as exc:
                return self._fail_text(exc)
            self._deliver(text, OP_TEXT, True)
        else:
            self._deliver(payload, message_opcode, fin)
        if unlikely(self._message_compressed and self._is_full()):
            self._paused = True

    cdef bint _gives_frames(self) noexcept:
        return self._listener is not None and self._listener.wants_frames

    cdef int _deliver(self, object payload, int opcode, bint fin) except -1:
        """Queue a message or a fragment of one, or call back with a message."""
        if self._listener is None:
            self._activity |= self._queue.put(payload, opcode, fin, self._message_compressed)
        else:
            if fin and not self._queue.frames and (opcode != OP_TEXT or PyUnicode_Check(payload)):
                self._call_back(payload, opcode, True, NULL, 0, None)
                return 0
            if self._is_unwanted():
                return 0  # what is compressed is dropped before: there may be a message without its end
            if self._queue.put(payload, opcode, fin, self._message_compressed) & MESSAGE:
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
        if unlikely(self._queue.skipping):
            self._queue.skipping = not fin
        elif self._state == OPEN:
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
            # RFC 6455 section 7.4.1: an unexpected condition is 1011.
            self._logger.error("callback failed", exc_info=exc)
            self._fail_receiving(CloseCode.INTERNAL_ERROR, "", exc)
        finally:
            self._calling = False

    cdef Py_ssize_t _remaining_limit(self) noexcept:
        """Return how many bytes the current frame's payload may have, at most NO_LIMIT."""
        cdef uint64_t limit = min(self._max_message_size - self._message_size, self._max_fragment_size)
        return <Py_ssize_t>min(limit, <uint64_t>NO_LIMIT)

    cdef bytes _decompress(self, bytes payload, bint fin):
        """Decompress a received payload; return None after failing the connection.

        What is too big is 1009, what doesn't inflate 1007 (RFC 6455 section 7.4.1).
        """
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

    # ------------------------------------------------------------------ what waits, compressed

    cdef bint _is_full(self) noexcept:
        """Tell whether what comes next must wait if it may be compressed."""
        if self.peer_has_to_wait():
            return True
        if self._listener is not None:
            return self._state == OPEN and (self._writing_paused or self._output.size > MAX_BURST)
        return self._queue is not None and (self._late or not self._queue.closing) and self._queue.is_full()

    cdef bint _has_room(self) noexcept:
        """Tell whether what waits needn't wait any longer."""
        if self.peer_has_to_wait():
            return False
        if self._listener is not None:
            return not self._is_full()
        return self._queue is None or self._queue.has_room()

    cdef bint _is_unwanted(self) noexcept:
        """Tell whether a frame needn't be inflated, since it would be dropped, and so all that follow."""
        if self._listener is not None:
            return self._state != OPEN and not self._late
        return self._queue is not None and self._queue.drops_next()

    cdef int _keep(self, const unsigned char* data, Py_ssize_t size) except -1:
        """Keep received bytes, compressed as they are.

        Control frames among them don't wait for room in the queue. Callbacks answer messages, and events are told
        in order, which is why control frames wait for their turn then. At most one read is kept if the driver heeds
        ``reading_wanted``.
        """
        cdef Header header, current = self._header
        cdef uint8_t message_opcode = self._message_opcode
        cdef list pieces = []
        cdef bytes joined
        cdef Py_ssize_t position = 0, begin = 0, end
        cdef int used
        cdef bint in_turn = self._listener is not None or self._queue is None
        if size == 0:
            return 0
        self._activity |= ATTENTION
        if self._kept is not None or self._header_size:
            joined = (<const char*>self._header_bytes)[: self._header_size]
            if self._kept is not None:
                joined = self._kept[PyBytes_GET_SIZE(self._kept) - self._kept_size :]
            joined += data[:size]
            data = <const unsigned char*>PyBytes_AS_STRING(joined)
            size = PyBytes_GET_SIZE(joined)
            self._header_size = 0
        # Something is kept: a control frame that fails the connection doesn't end the frame that has begun.
        self._kept, self._kept_size = b"", 0
        if self._in_frame:
            position = size if self._frame_left > <uint64_t>size else <Py_ssize_t>self._frame_left
            if self._header.opcode & 8:
                if self._frame_left == <uint64_t>position and not in_turn:
                    self._store_partial(data, position)
                    self._finish_partial()
                    begin = size if self._discarding else position
                    position = begin
            elif self._header.fin:
                self._message_opcode = 0
        while position < size and not in_turn:
            used = read_header(&header, data + position, size - position, not self._is_client, 7)
            if used <= 0 or header.length > <uint64_t>(size - position - used):
                break
            end = position + used + <Py_ssize_t>header.length
            if header.opcode & 8:
                if header.rsv:
                    break
                if begin < position:
                    pieces.append(data[begin:position])
                begin = end
                self._header = header
                count_frame(&self._received, header.opcode, header.fin, <Py_ssize_t>header.length)
                self._whole_frame(data + position + used, <Py_ssize_t>header.length)
                if self._discarding:
                    begin = size
                    break
            else:
                # What a Close frame tells depends on whether it comes inside a message.
                self._message_opcode = 0 if header.fin else OP_BINARY
            position = end
        self._header = current
        self._message_opcode = message_opcode
        if begin < size:
            pieces.append(data[begin:size])
        self._kept = b"".join(pieces) if pieces else None
        self._kept_size = 0 if self._kept is None else PyBytes_GET_SIZE(self._kept)

    def receive_kept(self, now: float | None = None) -> int:
        """Process what was received and isn't yet; return the activity bits.

        Compressed frames wait as they are while the queue is above its marks. This is for after a message was taken,
        if ``can_receive_kept``; ``handle_timeout`` does it, too. When nothing more can be received, ``next_message``
        and ``next_fragment`` do.

        Args:
            now: Current time.
        """
        return self.process_kept(self._time(now))

    cdef int process_kept(self, double now) except -1:
        self._now = now
        self._activity = 0
        if self._kept is not None and self._has_room():
            self._receive_kept()
        return self._activity | (OUTPUT if self._output.size else 0)

    # ------------------------------------------------------------------ messages and events

    @property
    def reading_wanted(self) -> bool:
        """Whether the driver should go on reading from the network (flow control)."""
        return self.wants_reading()

    cdef bint wants_reading(self) noexcept:
        if (self._kept is not None and not self._discarding) or self.peer_has_to_wait():
            return False
        if self._listener is not None:
            # Callbacks take what comes. What they send isn't to grow while the peer doesn't read.
            return not self._writing_paused or self._state != OPEN
        return self._queue is None or self._queue.reading_wanted

    def events_received(self) -> list:
        """Return and forget what was received: a Request or Response first, then frames.

        Their payloads are inflated as they are received, with a limit for each message only (``max_size``): what
        is received at once can become a thousand times as large (RFC 1951 section 3.2.5), so receive less at once
        where that matters, or call ``queue_messages``.
        """
        events, self._events = self._events, None
        return [] if events is None else events

    cdef int _add_event(self, event) except -1:
        if self._events is None:
            self._events = []
        self._events.append(event)

    def next_message(self, decode: bool | None = None, *, now: float | None = None):
        """Return the next message, or None if there isn't a whole one (after ``queue_messages``).

        Args:
            decode: None for str from text and bytes from binary messages; True for str, False for bytes.
            now: Current time; it matters with ``decode``, and without ``validate_text``.

        A binary message that ``decode=True`` can't decode fails the connection with 1007.
        """
        return self.pop_message(decode, self._time(now))

    cdef object pop_message(self, object decode, double now):
        return pop(self, False, decode, now)

    cdef object take_message(self, object decode, double now, int* activity):
        return take(self, False, decode, now, activity)

    def next_fragment(self, decode: bool | None = None, *, now: float | None = None):
        """Return the next fragment and whether it ends its message, or None (after ``queue_messages``).

        Args:
            decode: As in ``next_message``; characters cut by fragmentation come with the later fragment.
            now: Current time.

        After a first fragment, ``next_message``, ``skip_fragments``, and ``listen`` skip the rest of that message.
        """
        return self.pop_fragment(decode, self._time(now))

    cdef object pop_fragment(self, object decode, double now):
        return pop(self, True, decode, now)

    cdef object take_fragment(self, object decode, double now, int* activity):
        return take(self, True, decode, now, activity)

    def skip_fragments(self) -> None:
        """Skip the rest of a message whose first fragments were taken; ``next_fragment`` begins with the next one."""
        self._require_queue()
        self._queue.skip_streamed()

    def _fail_decoding(self, exc):
        self._require_queue()
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
