# cython: language_level=3
"""What decompresses DEFLATE by the C functions of a library; see _inflater.pyx."""


cdef extern from "_inflater.h" nogil:
    ctypedef struct ws_stream:
        const unsigned char* next_in
        unsigned int avail_in
        unsigned char* next_out
        unsigned int avail_out
        const char* msg
        int data_type

    ctypedef struct ws_inflating:
        int (*inflate)(ws_stream* stream, int flush) noexcept nogil
        int (*end)(ws_stream* stream) noexcept nogil
        int (*set_dictionary)(ws_stream* stream, const unsigned char* data, unsigned int size) noexcept nogil
        int (*get_dictionary)(ws_stream* stream, unsigned char* data, unsigned int* size) noexcept nogil


cdef class Library:
    cdef ws_inflating _functions
    cdef object _error

    cdef bint _works(self) except -1


cdef class Inflater:
    cdef Library _library
    cdef ws_stream _stream
    cdef bint _ready                    # the stream has to be ended
    cdef char _busy                     # another thread may be inflating
    cdef int _window_bits
    cdef readonly bint eof              # a final block was there
    cdef readonly bytes unused_data     # what is behind it

    cdef bytes inflate(self, bytes data, Py_ssize_t limit)
    cdef Py_ssize_t probe(self, bytes tail) except -1
    cdef bint between_blocks(self) noexcept
    cdef bytes window(self)
    cdef int _enter(self) except -1
    cdef int _step(self, bint large) except -2
