# cython: language_level=3
"""Incremental parser of HTTP/1.1 responses; see _http11_response.pyx."""

from ._http11 cimport HeadParser


cdef class ResponseParser(HeadParser):
    cdef bint _allow_http10
    cdef bint _read_body
    cdef int _status_code
    cdef object _reason_phrase
    cdef list _skipped              # interim responses since take_skipped, or None
    cdef int _interim_responses
    cdef bytearray _body

    cdef Py_ssize_t _scan_chunk_size(self, const unsigned char* line, Py_ssize_t size) except -1
    cdef int _process_chunk_size(self, const unsigned char* line, Py_ssize_t size) except -1
    cdef bint _is_other_version(self, const unsigned char* line, Py_ssize_t size) noexcept
    cdef bint reading_body(self) noexcept
    cdef int end_body(self) except -1
    cdef list take_skipped(self)
