"""What decompresses DEFLATE (RFC 1951) for permessage-deflate by the C functions of zlib-ng or zlib.

These are the same libraries that their modules for Python contain, whose objects can't tell whether a block has
ended, nor what their window holds, and make more of a short message than it takes to inflate it. Where the functions
aren't to be found (Windows, an interpreter that hides them), those objects serve.
"""

import os

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.string cimport memcpy

from ._free_threading cimport enter, leave


cdef extern from "_inflater.h" nogil:
    int WS_STREAM_END, WS_MEMORY_ERROR, WS_BUFFER_ERROR, WS_SYNC_FLUSH, WS_BETWEEN_BLOCKS
    int ws_find_library(ws_inflating* library, const char* path, int ng)
    int ws_inflater_init(const ws_inflating* library, ws_stream* stream, int window_bits)


cdef extern from "Python.h":
    # Of objects that nobody else knows yet, which change their place.
    PyObject* new_bytes "PyBytes_FromStringAndSize"(const char* data, Py_ssize_t size) except NULL
    int _PyBytes_Resize(PyObject** data, Py_ssize_t size) except -1
    void Py_XDECREF(PyObject* data)
    Py_ssize_t PY_SSIZE_T_MAX


cdef enum:
    # Bytes that are inflated on the stack: more than a message of 16 KiB, since libraries are slow near the end.
    ROOM = 16384 + 512
    # From this size on, other threads may run meanwhile.
    LARGE = 16384
    # Bytes of input at a time; a stream counts less than all that there may be.
    MOST = 1 << 30
    # Bytes of the largest window.
    LARGEST_WINDOW = 1 << 15

# What a library has to inflate before it is used: a block that refers to itself, and an empty one.
cdef bytes SAMPLE = b"\x2a\xcf\xcc\x4b\xc9\x2f\x57\x28\x07\x53\x00\x00\x00\x00\xff\xff"
cdef bytes SAMPLE_TEXT = b"window window"
# The same text, all of which refers to what was before it.
cdef bytes SAMPLE_AGAIN = b"\x2a\x47\xe6\x00\x00\x00\x00\xff\xff"


@cython.final
@cython.no_gc  # it refers to a class
cdef class Library:
    """Library(path, ng, error)\n--\n
    The C functions of a library that is loaded.

    Args:
        path: File that contains the library, or needs it; None if the program does.
        ng: Whether it is zlib-ng, with names of its own.
        error: Exception that means invalid data.

    Raises:
        LookupError: If they aren't there.
    """

    def __cinit__(self, path: str | None, bint ng, error: type):
        cdef bytes encoded = b"" if path is None else os.fsencode(path)
        self._error = error
        if (
            not ws_find_library(&self._functions, NULL if path is None else PyBytes_AS_STRING(encoded), ng)
            or not self._works()
        ):
            raise LookupError(f"no functions to inflate with in {path or 'this program'}")

    cdef bint _works(self) except -1:
        """Try all that is asked of it: other functions may have these names, or another version's stream."""
        cdef Inflater inflater
        try:
            inflater = self.new(9)
            if inflater.inflate(SAMPLE, PY_SSIZE_T_MAX) != SAMPLE_TEXT or not inflater.between_blocks():
                return False
            inflater = self.new(9, inflater.window())
            return inflater.inflate(SAMPLE_AGAIN, PY_SSIZE_T_MAX) == SAMPLE_TEXT
        except Exception:
            return False

    def new(self, int window_bits, bytes window not None=b"") -> Inflater:
        """Return what decompresses one stream.

        Args:
            window_bits: Window, as a power of two, 9 to 15.
            window: What the stream may refer to.

        Raises:
            ValueError: If there is no such window.
        """
        if not 9 <= window_bits <= 15:
            raise ValueError(f"window_bits must be between 9 and 15; got {window_bits}")
        cdef Inflater inflater = Inflater.__new__(Inflater)
        inflater._library = self
        inflater._window_bits = window_bits
        inflater.unused_data = b""
        if ws_inflater_init(&self._functions, &inflater._stream, -window_bits) != 0:
            raise MemoryError
        inflater._ready = True
        if PyBytes_GET_SIZE(window) and self._functions.set_dictionary(
            &inflater._stream, <unsigned char*>PyBytes_AS_STRING(window), <unsigned int>PyBytes_GET_SIZE(window)
        ) != 0:
            raise MemoryError
        return inflater


# What it refers to refers to nothing, and mustn't be taken from it before it ends the stream.
@cython.final
@cython.no_gc
cdef class Inflater:
    """Decompresses one stream of raw DEFLATE; has what messages need of the interface of ``zlib.decompressobj``.

    Attributes:
        eof: Whether a block was there that is marked as the last one.
        unused_data: What is behind it.
    """

    def __dealloc__(self):
        if self._ready:
            self._library._functions.end(&self._stream)

    def decompress(self, bytes data not None, Py_ssize_t limit=0) -> bytes:
        """Return what ``data`` gives, at most ``limit`` bytes; what they leave over is lost.

        Args:
            data: Input.
            limit: Bytes; 0 for all of them.

        Raises:
            ValueError: If the limit is negative.
            RuntimeError: If another thread inflates this stream, or ``Library.new`` didn't make it.
        """
        if not self._ready:
            raise RuntimeError("Library.new() makes streams")
        if limit < 0:
            raise ValueError(f"limit must be 0 or more; got {limit}")
        return self.inflate(data, limit or PY_SSIZE_T_MAX)

    cdef bytes inflate(self, bytes data, Py_ssize_t limit):
        """Return what ``data`` gives, at most ``limit`` bytes, 1 or more.

        Nothing is to be inflated after a result of this size: some of the input is lost then.
        """
        cdef unsigned char small[ROOM]
        cdef PyObject* large = NULL
        cdef unsigned char* to = small
        cdef Py_ssize_t room = min(limit, <Py_ssize_t>ROOM), size = 0, left = PyBytes_GET_SIZE(data), wanted
        cdef bint others = left >= LARGE
        cdef ws_stream* stream = &self._stream
        self._enter()
        if self.eof:
            leave(&self._busy)
            return b""
        stream.next_in = <unsigned char*>PyBytes_AS_STRING(data)
        stream.avail_in = 0
        try:
            while True:
                if stream.avail_in == 0:
                    stream.avail_in = <unsigned int>min(left, <Py_ssize_t>MOST)
                    left -= stream.avail_in
                stream.next_out = to + size
                stream.avail_out = <unsigned int>min(room - size, <Py_ssize_t>MOST)
                wanted = stream.avail_out
                self.eof = self._step(others) == WS_STREAM_END
                size += wanted - stream.avail_out
                if self.eof:
                    left += stream.avail_in
                    if left:
                        self.unused_data = data[PyBytes_GET_SIZE(data) - left :]
                    break
                if stream.avail_out:
                    if left == 0:
                        break
                elif size == limit:
                    break
                elif size == room:
                    # Twice as much each time, but no more than the limit.
                    room = limit if room > limit // 2 else 2 * room
                    if large == NULL:
                        large = new_bytes(NULL, room)
                        memcpy(PyBytes_AS_STRING(<object>large), small, size)
                    else:
                        _PyBytes_Resize(&large, room)
                    to = <unsigned char*>PyBytes_AS_STRING(<object>large)
            if large == NULL:
                return PyBytes_FromStringAndSize(<char*>small, size)
            _PyBytes_Resize(&large, size)
            return <bytes>large
        finally:
            stream.next_in = stream.next_out = NULL
            leave(&self._busy)
            Py_XDECREF(large)

    cdef Py_ssize_t probe(self, bytes tail) except -1:
        """Go on with what the peer didn't send; return how many bytes that gives, 1 at most."""
        cdef unsigned char byte
        cdef ws_stream* stream = &self._stream
        self._enter()
        if self.eof:
            leave(&self._busy)
            return 0
        stream.next_in = <unsigned char*>PyBytes_AS_STRING(tail)
        stream.avail_in = <unsigned int>PyBytes_GET_SIZE(tail)
        stream.next_out = &byte
        stream.avail_out = 1
        try:
            self.eof = self._step(False) == WS_STREAM_END
            return 1 - stream.avail_out
        finally:
            stream.next_in = stream.next_out = NULL
            leave(&self._busy)

    cdef bint between_blocks(self) noexcept:
        return self._stream.data_type == WS_BETWEEN_BLOCKS

    cdef bytes window(self):
        """Return what the stream may refer to from here on."""
        cdef unsigned int size = 0
        # Libraries that inflate in hardware may keep more than they were asked for.
        cdef bytes window = PyBytes_FromStringAndSize(NULL, LARGEST_WINDOW)
        self._enter()
        self._library._functions.get_dictionary(&self._stream, <unsigned char*>PyBytes_AS_STRING(window), &size)
        leave(&self._busy)
        return window[max(<Py_ssize_t>size - (1 << self._window_bits), 0) : size]

    cdef int _enter(self) except -1:
        # The library's functions would write past their memory, not only give something wrong.
        if not enter(&self._busy):
            raise RuntimeError("another thread is inflating this stream")

    cdef int _step(self, bint large) except -2:
        """Inflate from here to there, and make an exception of what is invalid."""
        cdef int result
        cdef ws_inflating* functions = &self._library._functions
        if large:
            with nogil:
                result = functions.inflate(&self._stream, WS_SYNC_FLUSH)
        else:
            result = functions.inflate(&self._stream, WS_SYNC_FLUSH)
        if result >= 0 or result == WS_BUFFER_ERROR:
            return result if result >= 0 else 0
        if result == WS_MEMORY_ERROR:
            raise MemoryError
        message = "" if self._stream.msg == NULL else ": " + self._stream.msg.decode("ascii", "replace")
        raise self._library._error(f"Error {result} while decompressing data{message}")
