"""Bytes waiting to be sent, gathered so that the frames of one turn leave in one write.

Frames are written into the end of a bytes object that grows; taking it hands that object over without a
copy, and it is never touched again, as a transport may keep it.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.ref cimport Py_XDECREF, PyObject
from libc.string cimport memcpy


# Pieces this large are sent as they are instead of being copied behind what waits already.
cdef Py_ssize_t LARGE_PIECE = 65536


@cython.final
@cython.no_gc  # what it holds refers to nothing
cdef class OutputBuffer:
    """Growing buffer of bytes to send."""

    def __dealloc__(self):
        Py_XDECREF(self._tail)

    cdef unsigned char* reserve(self, Py_ssize_t size) except NULL:
        """Extend what is to be sent by ``size`` bytes; return where the caller must write them."""
        cdef Py_ssize_t needed = self._tail_size + size
        cdef unsigned char* place
        if self._tail == NULL:
            # The first frame gets just its size: most often it leaves alone.
            self._tail = new_bytes(NULL, size)
            self._tail_capacity = size
        elif needed > self._tail_capacity:
            self._tail_capacity = max(2 * self._tail_capacity, needed)
            resize_bytes(&self._tail, self._tail_capacity)
        place = <unsigned char*>PyBytes_AS_STRING(<object>self._tail) + self._tail_size
        self._tail_size = needed
        self.size += size
        return place

    cdef int append(self, bytes piece) except -1:
        """Extend what is to be sent by ``piece``, without a copy where it pays."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(piece)
        if size and (self.size == 0 or size >= LARGE_PIECE):
            self._finish_tail()
            if self._pieces is None:
                self._pieces = []
            self._pieces.append(piece)
            self.size += size
        elif size:
            memcpy(self.reserve(size), PyBytes_AS_STRING(piece), size)

    cdef int _finish_tail(self) except -1:
        cdef PyObject* tail = self._tail
        if tail == NULL:
            return 0
        self._tail = NULL
        if self._tail_capacity != self._tail_size:
            resize_bytes(&tail, self._tail_size)
        self._tail_size = 0
        if self._pieces is None:
            self._pieces = []
        self._pieces.append(<object>tail)
        Py_XDECREF(tail)

    cdef bytes take(self):
        """Remove and return the next piece; empty when nothing waits."""
        cdef PyObject* tail = self._tail
        cdef bytes piece
        if self.size > self.most:
            self.most = self.size
        if self._pieces is not None:
            piece = self._pieces.pop(0)
            if not self._pieces:
                self._pieces = None
            self.size -= PyBytes_GET_SIZE(piece)
            self.taken += PyBytes_GET_SIZE(piece)
            return piece
        if tail == NULL:
            return b""
        self._tail = NULL
        if self._tail_capacity != self._tail_size:
            resize_bytes(&tail, self._tail_size)
        self._tail_size = 0
        self.taken += self.size
        self.size = 0
        piece = <bytes>tail
        Py_XDECREF(tail)
        return piece

    cdef int clear(self) except -1:
        """Forget what waits."""
        self.most = max(self.most, self.size)
        self._pieces = None
        Py_XDECREF(self._tail)
        self._tail = NULL
        self._tail_size = self.size = 0
