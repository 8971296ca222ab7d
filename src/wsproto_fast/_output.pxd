# cython: language_level=3
"""Bytes waiting to be sent; see _output.pyx."""

from cpython.ref cimport PyObject
from libc.stdint cimport uint64_t


cdef class OutputBuffer:
    cdef PyObject* _tail               # bytes object with room at its end, or NULL
    cdef Py_ssize_t _tail_size
    cdef Py_ssize_t _tail_capacity
    cdef list _pieces                  # before the tail: finished pieces, or pairs of a header and a payload
    cdef Py_ssize_t size               # bytes waiting, in all
    cdef Py_ssize_t most               # the most that waited when some were taken
    cdef uint64_t taken                # bytes that were taken so far

    cdef unsigned char* reserve(self, Py_ssize_t size) except NULL
    cdef int append(self, bytes piece) except -1
    cdef int append_large(self, const unsigned char* header, int header_size, object payload, Py_ssize_t size) except -1
    cdef int _add(self, object piece, Py_ssize_t size) except -1
    cdef int _have_pieces(self) except -1
    cdef int _finish_tail(self) except -1
    cdef int _fit_tail(self) noexcept
    cdef bint has_large(self) noexcept
    cdef bytes take(self)
    cdef list parts(self)
    cdef int forget_parts(self) except -1
    cdef int clear(self) except -1


# Payloads this large are sent from where they are, where that is possible: less costs more than its copy.
cdef enum:
    LARGE_PAYLOAD = 32768


cdef extern from "Python.h":
    PyObject* new_bytes "PyBytes_FromStringAndSize"(const char* data, Py_ssize_t size) except NULL
