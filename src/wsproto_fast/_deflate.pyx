"""permessage-deflate (RFC 7692): what happens to the payloads once the extension is negotiated.

Contexts exist only while they are used: compressor and decompressor are made when first needed and can be
released at any time between messages. A compressor then starts afresh, which no peer can tell; of a
decompressor the window is kept, if the peer may refer to it.

Messages that are compressed on their own need no context of their connection: the compressors for them are
shared by the whole process.
"""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE

from .backends import get_backend
from .exceptions import PayloadTooBig, ProtocolError

from ._compressor cimport Compressor
from ._frames cimport OP_CONT, Frame
from ._inflater cimport Inflater


cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX


cdef int Z_SYNC_FLUSH = 2
# The same, after which a compressor refers to nothing before it.
cdef int Z_FULL_FLUSH = 3
# RFC 7692 section 7.2.1: what a sender removes from the end of a message, and a receiver appends.
cdef bytes TAIL = b"\x00\x00\xff\xff"
# An empty stored block, without its tail: an empty message, or the empty end of one.
cdef bytes EMPTY = b"\x00"
# The tail and empty blocks, more bytes than a block's header can have: 14 + 19 * 3 + 316 * 7 bits (RFC 1951
# section 3.2.7). See _finish_message().
cdef bytes LONG_TAIL = TAIL + 60 * b"\x00\x00\x00\xff\xff"
# zlib makes no smaller windows for raw DEFLATE.
cdef int MIN_ZLIB_BITS = 9
# Ends of streams inside a message; each costs a new context.
cdef int MAX_FINAL_BLOCKS = 16
# Messages kept as they are because a window needs them; small ones cost more than they hold.
cdef int MAX_RECENT = 64
# Shared compressors of one kind that are kept; there are more while more threads compress.
cdef int MAX_SHARED = 4

# Larger than anything that can be inflated; one more still fits.
cdef Py_ssize_t NO_LIMIT = PY_SSIZE_T_MAX // 2

# From this size on, the backend for bulk compresses: large messages need what was before them least.
cdef Py_ssize_t BULK_SIZE = 8192

# By kind: backend, window bits, settings.
cdef dict _pools = {}


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


@cython.final
cdef class CompressorPool:
    """Compressors of one kind that refer to nothing before, for all connections of the process.

    There are as many as threads compress at the same time, and nobody waits for one.
    """

    def __cinit__(self, object backend, int window_bits, dict settings):
        self._new_compressor = backend.new_compressor
        self._window_bits = window_bits
        self._settings = settings
        # Taking from a list and giving back is atomic.
        self._idle = []

    cdef object take(self):
        try:
            return self._idle.pop()
        except IndexError:
            return self._new_compressor(self._window_bits, self._settings)

    cdef int give_back(self, object compressor) except -1:
        if len(self._idle) < MAX_SHARED:
            _forget(compressor)
            self._keep(compressor)

    cdef int _keep(self, object compressor) except -1:
        self._idle.append(compressor)
        if len(self._idle) > MAX_SHARED:  # other threads have given theirs back meanwhile
            try:
                self._idle.pop()
            except IndexError:
                pass  # or have taken them

    cdef bytes compress(self, bytes payload, bint fin):
        """Compress a fragment, or the end of a message, on its own."""
        cdef object compressor = self.take()
        cdef bint large = PyBytes_GET_SIZE(payload) >= BULK_SIZE and type(compressor) is not Compressor
        # A flush that ends with forgetting spares another one, but isal finds less in a short message then.
        cdef bytes data = _deflated(compressor, payload, fin, Z_FULL_FLUSH if large else Z_SYNC_FLUSH)
        if not large:
            self.give_back(compressor)
        elif len(self._idle) < MAX_SHARED:
            self._keep(compressor)
        return data


cdef class PerMessageDeflate(Extension):
    """PerMessageDeflate(remote_no_context_takeover, local_no_context_takeover, remote_max_window_bits, \
local_max_window_bits, compress_settings=None, *, backend=None, min_size=32)\n--\n
    permessage-deflate with negotiated parameters (RFC 7692 section 7).

    Args:
        remote_no_context_takeover: Whether the peer compresses each message on its own.
        local_no_context_takeover: Whether we do.
        remote_max_window_bits: Window of the peer's compressor, as a power of two, 8 to 15.
        local_max_window_bits: Window of ours, 8 to 15. Only the backend "native" makes one of 8, which is why it
            compresses then whatever is asked for.
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
        if not 8 <= local_max_window_bits <= 15:
            raise ValueError(f"local_max_window_bits must be between 8 and 15; got {local_max_window_bits}")
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
        self._compressing, self._settings = self.backend, self.compress_settings
        if local_max_window_bits < MIN_ZLIB_BITS:
            self._compressing, self._settings = get_backend("native"), {}
        self._bulk_size = (
            BULK_SIZE
            if self._compressing.bulk is not None and local_max_window_bits >= MIN_ZLIB_BITS
            else PY_SSIZE_T_MAX
        )

    def __repr__(self) -> str:
        return (
            f"PerMessageDeflate(remote_no_context_takeover={self.remote_no_context_takeover}, "
            f"local_no_context_takeover={self.local_no_context_takeover}, "
            f"remote_max_window_bits={self.remote_max_window_bits}, "
            f"local_max_window_bits={self.local_max_window_bits})"
        )

    # ------------------------------------------------------------------ compressing

    cdef bytes compress(self, bytes payload, bint fin):
        """Compress a fragment, or the end of a message, or a whole one."""
        cdef object compressor = self._compressor
        cdef bytes data
        if PyBytes_GET_SIZE(payload) >= self._bulk_size:
            return self._compress_bulk(payload, fin)
        if compressor is None:
            if fin and self.local_no_context_takeover:
                return self.compress_alone(payload)
            compressor = self._new_compressor()
        elif self._stale:
            _forget(compressor)
        self._stale = False
        # Until all is done: nobody is going to see what it has seen if something fails now.
        self._compressor = None
        data = _deflated(compressor, payload, fin, Z_SYNC_FLUSH)
        self._keep_compressor(compressor, fin)
        return data

    cdef bytes _compress_bulk(self, bytes payload, bint fin):
        """The same for what is large: on its own, by the backend for that; what follows may refer to it."""
        cdef object compressor = self._compressor
        cdef bytes data = self._shared_pool(True).compress(payload, fin)
        if compressor is None:
            if fin and self.local_no_context_takeover:
                return data
            compressor = self._new_compressor()
        if type(compressor) is Compressor:
            (<Compressor>compressor).replace_window(payload)
            self._stale = False
        else:
            self._stale = True
        self._keep_compressor(compressor, fin)
        return data

    cdef bytes compress_message(self, bytes payload):
        """Compress a whole message; None if that would make it larger."""
        cdef bytes data = self.compress(payload, True)
        if PyBytes_GET_SIZE(data) < PyBytes_GET_SIZE(payload):
            return data
        # The peer isn't going to see what this compressor has seen.
        self.start_afresh()
        return None

    cdef bytes compress_alone(self, bytes payload):
        """Compress a message on its own, which is valid on any connection with at least this window."""
        return self._shared_pool(PyBytes_GET_SIZE(payload) >= self._bulk_size).compress(payload, True)

    cdef object _new_compressor(self):
        if self.local_no_context_takeover:
            return self._shared_pool(False).take()
        return self._compressing.new_compressor(self.local_max_window_bits, self._settings)

    cdef int _keep_compressor(self, object compressor, bint fin) except -1:
        """Keep it for what follows, as far as that may refer to what it has seen."""
        if fin and self.local_no_context_takeover:
            self._compressor = None
            self._shared_pool(False).give_back(compressor)
        else:
            self._compressor = compressor

    cdef CompressorPool _shared_pool(self, bint bulk):
        """Return the compressors for what refers to nothing before, of the backend or the one for bulk."""
        cdef CompressorPool pool = self._bulk_pool if bulk else self._pool
        if pool is None:
            backend = self._compressing.bulk if bulk else self._compressing
            kind = (backend, self.local_max_window_bits, repr(sorted(self._settings.items())))
            pool = _pools.get(kind)
            if pool is None:
                pool = _pools.setdefault(kind, CompressorPool(backend, self.local_max_window_bits, self._settings))
            if bulk:
                self._bulk_pool = pool
            else:
                self._pool = pool
        return pool

    cdef int start_afresh(self) except -1:
        """Forget what was compressed, after a message that was compressed elsewhere."""
        self._stale = True

    # ------------------------------------------------------------------ decompressing

    cdef bytes decompress(self, bytes payload, bint fin, Py_ssize_t limit):
        """Decompress a fragment, or the end of a message, or a whole one.

        Raises:
            CompressedDataError: If it isn't valid.
            PayloadTooBig: If it gives more than ``limit`` bytes; nothing more is inflated then.
        """
        cdef bytes data
        cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
        # The last byte ends with the header of the stored block that the tail belongs to, three zero
        # bits, and the padding behind it. This finds most of the messages that were cut, at no cost.
        # Where nothing may refer to it, zlib's own notion of an end does: see _finish_alone().
        if fin and not self.remote_no_context_takeover and (
            size == 0 and not self._inside or size and payload[size - 1] & 0xE0
        ):
            raise CompressedDataError("decompression failed: truncated data")
        if not self._inside:
            self._ends = 0
        try:
            data = self._inflate(payload, limit) if size else b""
            self._inside = not fin
            if fin:
                if self.remote_no_context_takeover:
                    self._finish_alone()
                else:
                    self._finish_message()
        except self.backend.errors as exc:
            raise CompressedDataError("decompression failed") from exc
        return data

    cdef int _finish_message(self) except -1:
        """Complete a message with its tail, and make sure that it ends there.

        The tail and the empty blocks appended to it have no contents. Whatever else they are taken for by a
        decompressor that isn't between two blocks after the tail (the rest of a stored block, codes,
        a block's header) gives contents, the end of the stream, or an error before the last of them, or
        else leads to the boundary of two blocks. So after this it is between two blocks for sure, and its window
        is what it was.
        """
        cdef object decompressor = self._decompressor
        if decompressor is None:
            # There is nothing, or nothing behind a final block, that the tail could belong to.
            raise CompressedDataError("decompression failed: truncated data")
        if type(decompressor) is Inflater:
            # This one tells.
            if (<Inflater>decompressor).probe(TAIL) or not (<Inflater>decompressor).between_blocks():
                raise CompressedDataError("decompression failed: truncated data")
        elif (
            # A limit, because it decides what is allocated: one byte would be one too many.
            PyBytes_GET_SIZE(decompressor.decompress(LONG_TAIL, 1)) or decompressor.eof or decompressor.unused_data
        ):
            raise CompressedDataError("decompression failed: truncated data")

    cdef int _finish_alone(self) except -1:
        """The same where nothing that follows refers to the message, for senders that end it in another way.

        Behind a block marked as the last one, the empty block may be missing; an end may be that of any block,
        or that of a partial flush. Wherever zlib finds no fault, there is none, unless the tail, which the peer
        didn't send, would become a part of the message. Nor does zlib look at what is behind a last block.
        """
        cdef object decompressor = self._decompressor
        self._decompressor = None
        self._recent = None
        self._recent_size = 0
        cdef bint contents
        if self._ends == 0 and decompressor is not None:
            if type(decompressor) is Inflater:
                contents = (<Inflater>decompressor).probe(TAIL)
            else:
                contents = PyBytes_GET_SIZE(decompressor.decompress(TAIL, 1)) > 0
            if contents:
                raise CompressedDataError("decompression failed: truncated data")

    cdef bytes _inflate(self, bytes payload, Py_ssize_t limit):
        """Inflate all of ``payload``, over the ends of DEFLATE streams inside it."""
        cdef object decompressor
        cdef list pieces = None
        cdef bytes data = b""
        cdef Py_ssize_t size = 0
        cdef bint ended
        while True:
            if self._decompressor is None:
                self._decompressor = self.backend.new_decompressor(self._inflate_bits(), self._window())
                if type(self._decompressor) is Inflater:
                    self._recent = None  # it has that itself
            decompressor = self._decompressor
            # One byte more than allowed shows that there is too much. A limit of 0 would be none.
            try:
                if type(decompressor) is Inflater:
                    data = (<Inflater>decompressor).inflate(payload, limit - size + 1)
                    ended = (<Inflater>decompressor).eof
                else:
                    data = decompressor.decompress(payload, limit - size + 1)
                    self._remember(data)
                    ended = decompressor.eof
            except self.backend.errors:
                if not self._ends or not self.remote_no_context_takeover:
                    raise
                # See _finish_alone().
                self._decompressor = None
                break
            size += PyBytes_GET_SIZE(data)
            if size > limit:
                raise PayloadTooBig(None, limit)
            if pieces is not None:
                pieces.append(data)
            if not ended:
                break
            # RFC 7692 section 7.2.3.5: a block may be marked as the last one; others follow all the same.
            payload = decompressor.unused_data
            self._drop_decompressor()
            self._ends += 1
            if self._ends > MAX_FINAL_BLOCKS:
                raise CompressedDataError("decompression failed: too many final blocks")
            if not payload:
                break
            if pieces is None:
                pieces = [data]
        return data if pieces is None else b"".join(pieces)

    cdef int _inflate_bits(self) noexcept:
        # zlib makes no window of 8 bits: it uses 9 when it is asked for that.
        return max(self.remote_max_window_bits, MIN_ZLIB_BITS)

    cdef int _drop_decompressor(self) except -1:
        """Keep only what the peer may refer to."""
        if type(self._decompressor) is Inflater:
            self._recent = [(<Inflater>self._decompressor).window()]
            self._recent_size = PyBytes_GET_SIZE(self._recent[0])
        else:
            self._window()
        self._decompressor = None

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
            self._drop_decompressor()

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
        data = self.decompress(bytes(frame.data), frame.fin, NO_LIMIT if max_size is None else max_size)
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
        data = self.compress(bytes(frame.data), frame.fin)
        return Frame(frame.opcode, data, frame.fin, frame.opcode != OP_CONT, frame.rsv2, frame.rsv3)


cdef bytes _deflated(object compressor, bytes payload, bint fin, int flush):
    """Compress a fragment, or the end of a message, without the tail that its receiver appends."""
    cdef bytes data, rest
    cdef Py_ssize_t size
    if type(compressor) is Compressor:
        return (<Compressor>compressor).deflate(payload, fin)
    data = compressor.compress(payload)
    # Short messages stay inside it until it is flushed.
    rest = compressor.flush(flush)
    if data:
        rest = data + rest
    if not fin:
        return rest
    size = PyBytes_GET_SIZE(rest)
    # Nothing to flush: then a backend may make nothing.
    return rest[: size - 4] if size > 4 and rest.endswith(TAIL) else EMPTY


cdef int _forget(object compressor) except -1:
    """Make a compressor refer to nothing before.

    Libraries make an empty block of that, which nobody needs, with codes of its own in some.
    """
    if type(compressor) is Compressor:
        return (<Compressor>compressor).forget()
    compressor.flush(Z_FULL_FLUSH)
