# cython: language_level=3
"""A compressor for DEFLATE; see _compressor.pyx."""


cdef extern from "_compressor.h" nogil:
    ctypedef struct ws_deflate:
        pass


cdef class Compressor:
    cdef ws_deflate _state
    cdef void* _memory
    cdef char _busy                     # another thread may be compressing

    cdef int _enter(self) except -1

    cdef bytes deflate(self, bytes data, bint fin)
    cdef int forget(self) except -1
    cdef int replace_window(self, bytes data) except -1
