"""permessage-deflate (RFC 7692): what happens to the payloads once the extension is negotiated.

Contexts exist only while they are used: compressor and decompressor are made when first needed and can be
released at any time between messages. A compressor then starts afresh, which no peer can tell; of a
decompressor the window is kept, if the peer may refer to it.
"""

from cpython.bytes cimport PyBytes_GET_SIZE

from .backends import get_backend
from .exceptions import PayloadTooBig, ProtocolError

from ._frames cimport OP_CONT, Frame


# RFC 7692 section 7.2.1: what a sender removes from the end of a message, and a receiver appends.
cdef bytes TAIL = b"\x00\x00\xff\xff"
cdef int Z_SYNC_FLUSH = 2
# An empty stored block, without its tail: an empty message, or the empty end of one.
cdef bytes EMPTY = b"\x00"
# A whole empty stored block, and one that ends the stream.
cdef bytes EMPTY_BLOCK = b"\x00\x00\x00\xff\xff"
cdef bytes LAST_EMPTY_BLOCK = b"\x01\x00\x00\xff\xff"
# Ends of streams inside a message, and the bytes copied because of them; each costs a new context.
cdef int MAX_FINAL_BLOCKS = 1000
cdef Py_ssize_t MAX_FINAL_WORK = 1 << 26
# Messages kept as they are because a window needs them; small ones cost more than they hold.
cdef int MAX_RECENT = 64


class CompressedDataError(ProtocolError):
    """Raised when the payload of a compressed message isn't valid."""


cdef class Extension:
    """Extension()\n--\n
    Base of extensions: one of them as negotiated for one connection, with its state.

    All frames pass through it, control frames included. Frames aren't to be changed: return the one given, or
    a new one, for instance from ``dataclasses.replace``. The engine only calls methods, so an extension may do
    without this base, and may leave out what is never called.

    Attributes:
        name: Name in the registry, as in ``Sec-WebSocket-Extensions``.
    """

    name = ""

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        """Undo the transformation of a received frame.

        Args:
            frame: Frame as received, or as left by the extensions applied after this one.
            max_size: Limit for the payload of the result, in bytes; None for no limit.

        Returns:
            The frame, with the reserved bits cleared that this extension gives a meaning.

        Raises:
            PayloadTooBig: If the payload would exceed ``max_size``.
            ProtocolError: If the frame isn't what the extension allows.
        """
        raise NotImplementedError("extensions have their own decode()")

    def encode(self, frame: Frame) -> Frame:
        """Transform a frame that is going to be sent.

        Args:
            frame: Frame as made by the application, or by the extensions applied before this one.
        """
        raise NotImplementedError("extensions have their own encode()")


cdef class PerMessageDeflate(Extension):
    """PerMessageDeflate(remote_no_context_takeover, local_no_context_takeover, remote_max_window_bits, \
local_max_window_bits, compress_settings=None, *, backend=None, min_size=32)\n--\n
    permessage-deflate with negotiated parameters (RFC 7692 section 7).

    Args:
        remote_no_context_takeover: Whether the peer compresses each message on its own.
        local_no_context_takeover: Whether we do.
        remote_max_window_bits: Window of the peer's compressor, as a power of two, 8 to 15.
        local_max_window_bits: Window of ours, 9 to 15.
        compress_settings: Keywords of ``zlib.compressobj``, for instance ``level`` and ``memLevel``.
        backend: Name of the implementation of DEFLATE, see ``backends``; None for the default one.
        min_size: Messages of fewer bytes aren't compressed unless asked for.
    """

    name = "permessage-deflate"

    def __init__(
        self,
        remote_no_context_takeover: bool,
        local_no_context_takeover: bool,
        remote_max_window_bits: int,
        local_max_window_bits: int,
        compress_settings: dict | None = None,
        *,
        backend: str | None = None,
        min_size: int = 32,
    ):
        if not 8 <= remote_max_window_bits <= 15:
            raise ValueError(f"remote_max_window_bits must be between 8 and 15; got {remote_max_window_bits}")
        if not 9 <= local_max_window_bits <= 15:
            raise ValueError(f"local_max_window_bits must be between 9 and 15; got {local_max_window_bits}")
        if compress_settings and "wbits" in compress_settings:
            raise ValueError("compress_settings can't contain wbits: the window is negotiated")
        self.remote_no_context_takeover = remote_no_context_takeover
        self.local_no_context_takeover = local_no_context_takeover
        self.remote_max_window_bits = remote_max_window_bits
        self.local_max_window_bits = local_max_window_bits
        self.compress_settings = {} if compress_settings is None else dict(compress_settings)
        if backend is None and set(self.compress_settings) - {"memLevel"}:
            # Such settings mean what they mean to zlib.
            backend = "zlib"
        self.backend = get_backend(backend)
        self.min_size = min_size

    def __repr__(self) -> str:
        return (
            f"PerMessageDeflate(remote_no_context_takeover={self.remote_no_context_takeover}, "
            f"local_no_context_takeover={self.local_no_context_takeover}, "
            f"remote_max_window_bits={self.remote_max_window_bits}, "
            f"local_max_window_bits={self.local_max_window_bits})"
        )

    # ------------------------------------------------------------------ compressing

    cdef bytes compress(self, object payload, bint fin):
        """Compress a fragment, or the end of a message, or a whole one."""
        cdef bytes data
        if self._compressor is None:
            self._compressor = self.backend.new_compressor(self.local_max_window_bits, self.compress_settings)
        data = self._compressor.compress(payload)
        data = data + <bytes>self._compressor.flush(Z_SYNC_FLUSH) if data else self._compressor.flush(Z_SYNC_FLUSH)
        if not fin:
            # Nothing to flush: zlib has just done it.
            return data
        if self.local_no_context_takeover:
            self._compressor = None
        return data[: len(data) - 4] if data.endswith(TAIL) and len(data) > 4 else EMPTY

    cdef bytes compress_message(self, bytes payload):
        """Compress a whole message; None if that would make it larger."""
        cdef bytes data = self.compress(payload, True)
        if PyBytes_GET_SIZE(data) < PyBytes_GET_SIZE(payload):
            return data
        # The peer isn't going to see what this compressor has seen.
        self._compressor = None
        return None

    cdef int start_afresh(self) except -1:
        """Forget what was compressed, after a message that was compressed elsewhere."""
        self._compressor = None

    # ------------------------------------------------------------------ decompressing

    cdef bytes decompress(self, bytes payload, bint fin, object limit):
        """Decompress a fragment, or the end of a message, or a whole one.

        Raises:
            CompressedDataError: If it isn't valid.
            PayloadTooBig: If it gives more than ``limit`` bytes; nothing more is inflated then.
        """
        cdef bytes data
        cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
        # The last byte ends with the header of the stored block that the tail belongs to, three zero
        # bits, and the padding behind it. This finds most of the messages that were cut.
        if fin and (size == 0 and not self._inside or size and payload[size - 1] & 0xE0):
            raise CompressedDataError("decompression failed: truncated data")
        try:
            data = self._inflate(payload, limit) if size else b""
            self._inside = not fin
            if fin:
                self._finish_message()
        except self.backend.errors as exc:
            raise CompressedDataError("decompression failed") from exc
        return data

    cdef int _finish_message(self) except -1:
        """Complete a message with its tail, which has no contents; so has the empty block appended to it.

        A message that was cut is out of step here, and that gives contents, or an error.
        """
        cdef bytes end = LAST_EMPTY_BLOCK if self.remote_no_context_takeover else EMPTY_BLOCK
        cdef bytes rest = self._inflate(TAIL + end, None)
        if rest or (self.remote_no_context_takeover and self._decompressor is not None):
            raise CompressedDataError("decompression failed: truncated data")
        if self.remote_no_context_takeover:
            self._recent = None
            self._recent_size = 0

    cdef bytes _inflate(self, bytes payload, object limit):
        """Inflate all of ``payload``, over the ends of DEFLATE streams inside it."""
        cdef list pieces = None
        cdef bytes data = b""
        cdef Py_ssize_t size = 0
        cdef int ends = 0
        while True:
            if self._decompressor is None:
                self._decompressor = self.backend.new_decompressor(self._inflate_bits(), self._window())
            if limit is None:
                data = self._decompressor.decompress(payload)
            else:
                # One byte more than allowed shows that there is too much. A limit of 0 would be none.
                data = self._decompressor.decompress(payload, limit - size + 1)
                size += PyBytes_GET_SIZE(data)
                if size > limit:
                    raise PayloadTooBig(None, limit)
            self._remember(data)
            if pieces is not None:
                pieces.append(data)
            if not self._decompressor.eof:
                break
            # RFC 7692 section 7.2.3.5: a block may be marked as the last one; others follow all the same.
            payload = self._decompressor.unused_data
            self._decompressor = None
            if not payload:
                break
            if pieces is None:
                pieces = [data]
            ends += 1
            if ends > MAX_FINAL_BLOCKS or ends * PyBytes_GET_SIZE(payload) > MAX_FINAL_WORK:
                raise CompressedDataError("decompression failed: too many final blocks")
        return data if pieces is None else b"".join(pieces)

    cdef int _inflate_bits(self) noexcept:
        # zlib makes no window of 8 bits: it uses 9 when it is asked for that.
        return max(self.remote_max_window_bits, 9)

    cdef bytes _window(self):
        """Return what the peer may refer to."""
        cdef Py_ssize_t size = 1 << self._inflate_bits()
        cdef bytes window
        if self._recent is None:
            return b""
        window = self._recent[len(self._recent) - 1]
        if PyBytes_GET_SIZE(window) < size:
            window = b"".join(self._recent)
        if PyBytes_GET_SIZE(window) > size:
            window = window[PyBytes_GET_SIZE(window) - size :]
        self._recent = [window]
        self._recent_size = PyBytes_GET_SIZE(window)
        return window

    cdef int _remember(self, bytes data) except -1:
        """Keep what was inflated last: at least a window, at most two of it and the last message."""
        if not PyBytes_GET_SIZE(data):
            return 0
        if self._recent is None:
            self._recent = []
        self._recent.append(data)
        self._recent_size += PyBytes_GET_SIZE(data)
        if self._recent_size > (2 << self._inflate_bits()) or len(self._recent) > MAX_RECENT:
            self._window()

    # ------------------------------------------------------------------ memory

    cdef bint holds_state(self) noexcept:
        return self._compressor is not None or self._decompressor is not None

    cdef int release(self) except -1:
        """Free the contexts, between messages."""
        self._compressor = None
        if self._decompressor is not None:
            self._window()
            self._decompressor = None

    # ------------------------------------------------------------------ interface of extensions

    def decode(self, frame, *, max_size: int | None = None):
        """Decompress a frame.

        Args:
            frame: Received frame.
            max_size: Limit on the size of the payload, in bytes; None for no limit.

        Raises:
            ProtocolError: If the frame isn't valid.
            PayloadTooBig: If the payload is too big.
        """
        if frame.opcode & 8:
            return frame
        if frame.opcode == OP_CONT:
            if frame.rsv1:
                raise ProtocolError("RSV1 bit set in continuation frame")
            if not self._decoding:
                return frame
        elif not frame.rsv1:
            return frame
        data = self.decompress(bytes(frame.data), frame.fin, max_size)
        self._decoding = not frame.fin
        return Frame(frame.opcode, data, frame.fin, False, frame.rsv2, frame.rsv3)

    def encode(self, frame):
        """Compress a frame.

        Args:
            frame: Frame to send.
        """
        if frame.opcode & 8:
            return frame
        if frame.opcode == OP_CONT:
            if not self._encoding:
                return frame
        self._encoding = not frame.fin
        data = self.compress(frame.data, frame.fin)
        return Frame(frame.opcode, data, frame.fin, frame.opcode != OP_CONT, frame.rsv2, frame.rsv3)


cdef bytes compress_afresh(object backend, int window_bits, bytes payload):
    """Compress a message from a fresh state, valid on any connection with at least that window."""
    compressor = backend.new_compressor(window_bits, {})
    cdef bytes data = compressor.compress(payload)
    data = data + <bytes>compressor.flush(Z_SYNC_FLUSH)
    return data[: len(data) - 4] if data.endswith(TAIL) and len(data) > 4 else EMPTY
