# cython: language_level=3
"""Frames on the wire (RFC 6455 section 5): headers, masking, UTF-8, and the Frame object."""

from libc.stdint cimport uint8_t, uint64_t

from ._flag cimport flag


cdef extern from "_mask.h" nogil:
    bint ws_mask_copy(unsigned char* dst, const unsigned char* src, size_t n, const unsigned char* key, size_t offset)
    bint ws_mask_in_place(unsigned char* data, size_t n, const unsigned char* key, size_t offset)
    bint ws_plain_copy(unsigned char* dst, const unsigned char* src, size_t n)


cdef extern from "_utf8.h" nogil:
    ctypedef struct ws_utf8_state:
        unsigned char seen
        unsigned char missing
        unsigned char low
        unsigned char high
        unsigned char wide
    size_t ws_utf8_check(ws_utf8_state* state, const unsigned char* data, size_t n)


cdef enum:
    OP_CONT = 0
    OP_TEXT = 1
    OP_BINARY = 2
    OP_CLOSE = 8
    OP_PING = 9
    OP_PONG = 10

    # A header: two bytes, at most eight of length, four of masking key (RFC 6455 section 5.2).
    MAX_HEADER = 14


# Results of read_header() that aren't a header's length.
cdef enum HeaderFault:
    NEED_MORE = 0
    BAD_RSV = -1
    BAD_OPCODE = -2
    BAD_MASKING = -3
    CONTROL_FRAGMENTED = -4
    CONTROL_TOO_LONG = -5
    LENGTH_NOT_MINIMAL = -6
    LENGTH_TOO_LARGE = -7


cdef struct Header:
    uint8_t opcode
    uint8_t rsv          # RSV1 = 4, RSV2 = 2, RSV3 = 1
    flag fin
    unsigned char key[4]
    uint64_t length


cdef int read_header(
    Header* header, const unsigned char* data, Py_ssize_t size, bint expect_mask, uint8_t allowed_rsv
) noexcept nogil
cdef int write_header(
    unsigned char* out, int opcode, bint fin, int rsv, uint64_t length, const unsigned char* key
) noexcept nogil
cdef int next_masking_key(unsigned char* key) except -1


cdef class Frame:
    cdef public object opcode
    cdef public object data
    cdef public bint fin
    cdef public bint rsv1
    cdef public bint rsv2
    cdef public bint rsv3

    cdef tuple _values(self)

    @staticmethod
    cdef Frame make(int opcode, object data, bint fin, int rsv)
