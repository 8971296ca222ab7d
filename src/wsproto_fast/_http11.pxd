# cython: language_level=3
"""Incremental parser of heads of HTTP/1.1 messages; see _http11.pyx."""

cdef extern from "_http11.h":
    enum:
        WS_TOKEN
        WS_FIELD
        WS_VISIBLE
        WS_HEXDIGIT
    bint ws_is(unsigned char c, int classes) nogil


# Parts of a message.
cdef enum:
    START_LINE
    HEADERS
    CHUNK_SIZE
    TRAILERS
    BODY_SIZED      # the rest isn't made of lines
    BODY_TO_EOF
    CHUNK_DATA
    CHUNK_END

# Phases of lines. FIRST is where every line begins, CR expects LF.
cdef enum:
    FIRST
    SECOND
    THIRD
    VALUE
    CR

cdef inline bint same_name(const unsigned char* name, const char* lower, Py_ssize_t size) noexcept nogil:
    """Tell whether a name of a header is another one, which is in lower case; both have this size."""
    cdef Py_ssize_t i
    cdef unsigned char c
    for i in range(size):
        c = name[i]
        if c"A" <= c <= c"Z":
            c |= 0x20
        if c != <unsigned char>lower[i]:
            return False
    return True


cdef object new_instance(cls)
cdef object headers_of_block(bytes block)
cdef str quote(const unsigned char* line, Py_ssize_t size)


cdef class HeadParser:
    cdef readonly bint complete     # the message is whole
    cdef readonly object message    # Request or Response once the message is whole
    cdef int _part                  # of the message: start line, headers, a kind of body
    cdef int _phase                 # within the current line
    cdef Py_ssize_t _scanned        # bytes of the current line that were looked at
    cdef Py_ssize_t _first_mark     # where the first and second separators of the line are
    cdef Py_ssize_t _second_mark
    cdef unsigned char* _line       # an unfinished line
    cdef Py_ssize_t _line_size
    cdef Py_ssize_t _line_capacity
    cdef unsigned char* _block      # headers, as they are sent: names and values as received
    cdef Py_ssize_t _block_size
    cdef Py_ssize_t _block_capacity
    cdef int _count                 # headers in it
    cdef Py_ssize_t _last_header    # where the last one begins
    cdef Py_ssize_t _last_name_size
    cdef int _more_lines            # lines of trailers, and those that continue a header line
    cdef bint _allow_folding        # header lines may be continued
    cdef Py_ssize_t _interim_size   # of all interim responses, in bytes
    cdef bint _interim              # the head is that of a response that isn't the final one
    cdef bint _framing_headers      # Content-Length or Transfer-Encoding was seen
    cdef Py_ssize_t _remaining      # bytes of the body, or of the chunk, still to come

    cdef Py_ssize_t feed(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int finish(self) except -1
    cdef bint started(self) noexcept
    cdef Py_ssize_t _scan(self, const unsigned char* line, Py_ssize_t size) except -1
    cdef Py_ssize_t _scan_rest(
        self, const unsigned char* line, Py_ssize_t size, Py_ssize_t i, int phase
    ) except -1
    cdef int _store(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int _process(self, const unsigned char* line, Py_ssize_t size) except -1
    cdef Py_ssize_t _feed_body(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int _extend_block(
        self, const unsigned char* data, Py_ssize_t size, const char* two_more
    ) except -1
    cdef object _take_headers(self)
    cdef int _release(self) noexcept
    cdef int _line_too_long(self) except -1
    cdef object _too_long(self, str message)
    cdef object _too_early(self)
    cdef int _too_many_headers(self) except -1
    cdef bint _may_continue(self) noexcept
    cdef int _count_interim(self, Py_ssize_t size) except -1
    cdef int _invalid(self, const unsigned char* line, Py_ssize_t size) except -1
    cdef int _continue_line(self, const unsigned char* line, Py_ssize_t size) except -1
    cdef str _start_line_name(self)
    cdef object _start_line_too_long(self, str message)
    cdef Py_ssize_t _scan_other(self, const unsigned char* line, Py_ssize_t size) except -1
    cdef int _process_other(self, const unsigned char* line, Py_ssize_t size) except -1
    cdef int _head_complete(self) except -1
    cdef int _finish_message(self) except -1


cdef class RequestParser(HeadParser):
    cdef object _method
    cdef object _path
    cdef object _protocol
