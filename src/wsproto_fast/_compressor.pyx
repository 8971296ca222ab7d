"""A compressor for DEFLATE (RFC 1951) that is made for messages; _compressor.h is all of it but the interface."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from ._free_threading cimport enter, leave


cdef extern from "_compressor.h" nogil:
    void ws_deflate_prepare()
    size_t ws_deflate_memory(unsigned window_bits)
    void ws_deflate_init(ws_deflate* state, unsigned window_bits, void* memory)
    void ws_deflate_reset(ws_deflate* state)
    void ws_deflate_replace(ws_deflate* state, const unsigned char* data, size_t n)
    size_t ws_deflate_bound(size_t n)
    size_t ws_deflate_tokens(size_t n)
    size_t ws_deflate_run(
        ws_deflate* state, const unsigned char* data, size_t n, unsigned char* to, uint32_t* tokens
    )


cdef enum:
    # Bytes of messages that are compressed on the stack, which they fit into whatever is in them.
    SMALL = 4096
    # Numbers that this takes: a token for each byte, and what is written, at most little more than that.
    ROOM = SMALL + 2048
    # From this size on, other threads may run meanwhile.
    LARGE = 16384

cdef int Z_SYNC_FLUSH = 2
cdef int Z_FULL_FLUSH = 3
cdef bytes TAIL = b"\x00\x00\xff\xff"

ws_deflate_prepare()


cdef class Compressor:
    """Compressor(window_bits=15)\n--\n
    A compressor for raw DEFLATE, with what messages need of the interface of ``zlib.compressobj``.

    Args:
        window_bits: Window, as a power of two, 8 to 15.

    Raises:
        ValueError: If there is no such window.
    """

    def __cinit__(self, int window_bits=15):
        if not 8 <= window_bits <= 15:
            raise ValueError(f"window_bits must be between 8 and 15; got {window_bits}")
        self._memory = PyMem_Calloc(1, ws_deflate_memory(window_bits))
        if self._memory == NULL:
            raise MemoryError
        ws_deflate_init(&self._state, window_bits, self._memory)

    def __dealloc__(self):
        PyMem_Free(self._memory)

    def compress(self, data) -> bytes:
        """Return all of ``data`` compressed, with the empty stored block that a flush ends with.

        Args:
            data: bytes-like object.

        Raises:
            RuntimeError: If another thread compresses with this.
        """
        return self.deflate(bytes(data), False)

    def flush(self, int mode=Z_SYNC_FLUSH) -> bytes:
        """Return nothing, since nothing is ever held back.

        Args:
            mode: ``zlib.Z_SYNC_FLUSH``, or ``zlib.Z_FULL_FLUSH`` to refer to nothing before from now on.

        Raises:
            ValueError: If it is another one. Messages don't end a stream.
            RuntimeError: If another thread compresses with this.
        """
        if mode == Z_FULL_FLUSH:
            self.forget()
        elif mode != Z_SYNC_FLUSH:
            raise ValueError(f"mode must be Z_SYNC_FLUSH or Z_FULL_FLUSH; got {mode}")
        return b""

    cdef bytes deflate(self, bytes data, bint fin):
        """Compress a fragment, or the end of a message, without the tail (RFC 7692 section 7.2.1)."""
        cdef const unsigned char* source = <unsigned char*>PyBytes_AS_STRING(data)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef uint32_t small[ROOM]
        cdef uint32_t* tokens = small
        cdef size_t count = ws_deflate_tokens(size)
        cdef unsigned char* to
        cdef Py_ssize_t written
        if size > SMALL:
            tokens = <uint32_t*>PyMem_Malloc(
                count * sizeof(uint32_t) + ws_deflate_bound(size) + PyBytes_GET_SIZE(TAIL)
            )
            if tokens == NULL:
                raise MemoryError
        to = <unsigned char*>(tokens + count)
        try:
            self._enter()
            if size < LARGE:
                written = ws_deflate_run(&self._state, source, size, to, tokens)
            else:
                with nogil:
                    written = ws_deflate_run(&self._state, source, size, to, tokens)
            leave(&self._busy)
            if not fin:
                memcpy(to + written, PyBytes_AS_STRING(TAIL), PyBytes_GET_SIZE(TAIL))
                written += PyBytes_GET_SIZE(TAIL)
            return (<char*>to)[:written]
        finally:
            if tokens != small:
                PyMem_Free(tokens)

    cdef int forget(self) except -1:
        """Refer to nothing before."""
        self._enter()
        ws_deflate_reset(&self._state)
        leave(&self._busy)

    cdef int replace_window(self, bytes data) except -1:
        """Refer to data that something else compressed from a fresh state."""
        self._enter()
        ws_deflate_replace(&self._state, <unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        leave(&self._busy)

    cdef int _enter(self) except -1:
        # Two threads at once would write past its memory, not only give something wrong.
        if not enter(&self._busy):
            raise RuntimeError("another thread compresses with this")
