"""Bytes waiting to be sent, gathered so that the frames of one turn leave in one write.

Frames are written into the end of a bytes object that grows; taking it hands that object over without a
copy, and it is never touched again, as a transport may keep it. A large payload that nobody can change, and that
isn't masked, stays where it is: who can write several things at once gets it apart from its header, so that it is never
copied. Not only the copy costs: with a second large object per message, more memory is freed together than the
allocator keeps, glibc's for one, which then asks the system for each of its pages again.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.ref cimport Py_XDECREF, PyObject
from cpython.unicode cimport PyUnicode_CheckExact
from libc.string cimport memcpy

from ._flag cimport unlikely


cdef extern from *:
    """
    /* Resize a bytes object that nobody else has. What is in it stays if there is no memory for a larger one, where
       _PyBytes_Resize() would free it; one that is to be smaller needn't be. */
    #ifdef Py_TRACE_REFS
    static PyObject *wsproto_fast_resized(PyObject *data, Py_ssize_t size) {
        PyObject *resized = PyBytes_FromStringAndSize(NULL, size);
        if (resized != NULL) {
            memcpy(PyBytes_AS_STRING(resized), PyBytes_AS_STRING(data), Py_MIN(size, PyBytes_GET_SIZE(data)));
            Py_DECREF(data);
        }
        return resized;
    }
    #else
    static PyObject *wsproto_fast_resized(PyObject *data, Py_ssize_t size) {
        PyObject *resized = (PyObject *)PyObject_Realloc(data, offsetof(PyBytesObject, ob_sval) + 1 + size);
        return resized != NULL ? resized : PyErr_NoMemory();
    }
    #endif

    static int wsproto_fast_grow_bytes(PyObject **data, Py_ssize_t size) {
        PyObject *resized = wsproto_fast_resized(*data, size);
        if (resized == NULL) {
            return -1;
        }
        *data = resized;
        Py_SET_SIZE((PyVarObject *)resized, size);
        return 0;
    }

    static void wsproto_fast_shrink_bytes(PyObject **data, Py_ssize_t size) {
        PyObject *resized = wsproto_fast_resized(*data, size);
        if (resized != NULL) {
            *data = resized;
        }
        else {
            PyErr_Clear();
        }
        Py_SET_SIZE((PyVarObject *)*data, size);
        PyBytes_AS_STRING(*data)[size] = 0;
    }
    """
    int grow_bytes "wsproto_fast_grow_bytes"(PyObject** data, Py_ssize_t size) except -1
    void shrink_bytes "wsproto_fast_shrink_bytes"(PyObject** data, Py_ssize_t size) noexcept


# Pieces this large are sent as they are instead of being copied behind what waits already.
cdef Py_ssize_t LARGE_PIECE = 65536


cdef bytes joined(tuple frame):
    """Return a frame in one piece."""
    cdef bytes header = frame[0]
    payload = frame[1]
    if PyUnicode_CheckExact(payload):
        payload = (<str>payload).encode()
    return header + <bytes>payload


@cython.final
@cython.no_gc  # what it holds refers to nothing
cdef class OutputBuffer:
    """Growing buffer of bytes to send. Where memory lacks for a change, nothing changes, and nothing is lost."""

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
            grow_bytes(&self._tail, max(2 * self._tail_capacity, needed))
            self._tail_capacity = PyBytes_GET_SIZE(<object>self._tail)
        place = <unsigned char*>PyBytes_AS_STRING(<object>self._tail) + self._tail_size
        self._tail_size = needed
        self.size += size
        return place

    cdef int append(self, bytes piece) except -1:
        """Extend what is to be sent by ``piece``, without a copy where it pays."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(piece)
        if size and (self.size == 0 or size >= LARGE_PIECE):
            self._add(piece, size)
        elif size:
            memcpy(self.reserve(size), PyBytes_AS_STRING(piece), size)

    cdef int append_large(
        self, const unsigned char* header, int header_size, object payload, Py_ssize_t size
    ) except -1:
        """Extend what is to be sent by a frame, without a copy of its payload.

        Args:
            header: Its header.
            header_size: Size of that.
            payload: bytes, or str that is ASCII.
            size: Size of the payload.
        """
        self._add(((<const char*>header)[:header_size], payload), header_size + size)

    cdef int _add(self, object piece, Py_ssize_t size) except -1:
        self._have_pieces()
        self._finish_tail()
        self._pieces.append(piece)
        self.size += size

    cdef int _have_pieces(self) except -1:
        """Make the list of pieces, if there is none."""
        cdef list pieces
        if self._pieces is None:
            pieces = []
            # In Python 3.11 that may have run finalizers of the program, which send.
            if self._pieces is None:
                self._pieces = pieces

    cdef int _finish_tail(self) except -1:
        """Make a piece of the tail; there is a list for it."""
        if self._tail == NULL:
            return 0
        self._fit_tail()
        self._pieces.append(<object>self._tail)
        Py_XDECREF(self._tail)
        self._tail = NULL
        self._tail_size = 0

    cdef int _fit_tail(self) noexcept:
        """Give up the room at the end of the tail."""
        if self._tail_capacity != self._tail_size:
            shrink_bytes(&self._tail, self._tail_size)
            self._tail_capacity = self._tail_size

    cdef bint has_large(self) noexcept:
        """Tell whether what waits has a payload in it that lies elsewhere."""
        if self._pieces is not None:
            for piece in self._pieces:
                if type(piece) is tuple:
                    return True
        return False

    cdef bytes take(self):
        """Remove and return the next piece, a whole number of frames; empty when nothing waits."""
        cdef bytes piece
        if self.size > self.most:
            self.most = self.size
        if unlikely(self._pieces is not None) and self._pieces:  # without memory for a piece, it is empty
            first = self._pieces[0]
            piece = joined(first) if type(first) is tuple else first
            self._pieces.pop(0)
            if not self._pieces:
                self._pieces = None
            self.size -= PyBytes_GET_SIZE(piece)
            self.taken += PyBytes_GET_SIZE(piece)
            return piece
        if unlikely(self._tail == NULL):
            return b""
        self._fit_tail()
        self.taken += self.size
        self._tail_size = self.size = 0
        piece = <bytes>self._tail
        Py_XDECREF(self._tail)
        self._tail = NULL
        return piece

    cdef list parts(self):
        """Return all that waits, apart as it is: bytes, and payloads as ``append_large`` was given them."""
        cdef list parts = []
        self._have_pieces()
        self._finish_tail()
        for piece in self._pieces:
            if type(piece) is tuple:
                parts.extend(<tuple>piece)
            else:
                parts.append(piece)
        return parts

    cdef int forget_parts(self) except -1:
        """Remove what ``parts`` has returned."""
        if self.size > self.most:
            self.most = self.size
        self.taken += self.size
        self.size = 0
        self._pieces = None

    cdef int clear(self) except -1:
        """Forget what waits."""
        self.most = max(self.most, self.size)
        self._pieces = None
        Py_XDECREF(self._tail)
        self._tail = NULL
        self._tail_size = self.size = 0
