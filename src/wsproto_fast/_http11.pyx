"""Incremental parser of heads of HTTP/1.1 messages (RFC 9112); whole requests of opening handshakes.

Owns the grammar of request lines and header lines, and the limits on them. Each byte is looked at
once, however the input is cut, and a fault is reported at the byte that shows it. Only an
unfinished line is ever copied. Knows nothing of what headers mean, except those that announce a
body. Status lines and bodies are in ``_http11_response``.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.unicode cimport PyUnicode_DecodeLatin1
from libc.string cimport memchr, memcmp, memcpy

from . import http11
from .datastructures import Headers
from .exceptions import (
    HeaderLineTooLong,
    RequestLineTooLong,
    SecurityError,
    TooManyHeaders,
)
from .environment import follow
from .http11 import Request, check_no_body
from .redaction import redact_header, redact_line


cdef Py_ssize_t MAX_LINE_LENGTH
cdef Py_ssize_t MAX_NUM_HEADERS
cdef Py_ssize_t MAX_BODY_SIZE
cdef Py_ssize_t MAX_INTERIM_SIZE


def _read_settings():
    global MAX_LINE_LENGTH, MAX_NUM_HEADERS, MAX_BODY_SIZE, MAX_INTERIM_SIZE
    MAX_LINE_LENGTH = http11.MAX_LINE_LENGTH
    MAX_NUM_HEADERS = http11.MAX_NUM_HEADERS
    MAX_BODY_SIZE = http11.MAX_BODY_SIZE
    MAX_INTERIM_SIZE = http11.MAX_INTERIM_SIZE


follow(_read_settings)

cdef Py_ssize_t MAX_QUOTED = http11.MAX_QUOTED


cdef extern from *:
    """
    static PyObject *wsproto_fast_new_instance(PyObject *type) {
        PyObject *arguments = PyTuple_New(0);
        PyObject *object = arguments ? PyBaseObject_Type.tp_new((PyTypeObject *)type, arguments, NULL) : NULL;
        Py_XDECREF(arguments);
        return object;
    }
    """
    object _new_instance "wsproto_fast_new_instance"(object cls)


cdef object new_instance(cls):
    """Return an object of a class in Python, without a call of its ``__init__``."""
    return _new_instance(cls)


cdef object headers_of_block(bytes block):
    """Return headers that are made of lines as they are sent, each with a blank behind its colon.

    They must be valid.
    """
    headers = new_instance(Headers)
    headers._block = block
    headers._index = None
    return headers


cdef str quote(const unsigned char* line, Py_ssize_t size):
    """Return a line, as far as it is there, in a form that is fit for the text of an exception."""
    cdef const unsigned char* end = <const unsigned char*> memchr(line, c"\n", size)
    cdef str more = ""
    if end != NULL:
        size = end - line + 1
    if size > 1 and line[size - 1] == c"\n" and line[size - 2] == c"\r":
        size -= 2
    elif size > 0 and line[size - 1] == c"\r":
        size -= 1  # the other half may be on its way
    if size > MAX_QUOTED:
        size = MAX_QUOTED
        more = "..."
    seen = PyUnicode_DecodeLatin1(<const char*> line, size, NULL)
    return seen.encode("unicode_escape").decode() + more


# Without a call, for each line of each request.
cdef inline Py_ssize_t scan_rest(
    HeadParser self, const unsigned char* line, Py_ssize_t size, Py_ssize_t i, int phase
) except -1:
    if phase == VALUE:
        while i < size and ws_is(line[i], WS_FIELD):
            i += 1
        if i < size:
            if line[i] != c"\r":
                self._invalid(line, size)
            i += 1
            phase = CR
    if phase == CR and i < size:
        if line[i] != c"\n":
            self._invalid(line, size)
        i += 1
        if i > MAX_LINE_LENGTH:
            self._line_too_long()
        self._scanned = 0
        self._phase = FIRST
        return i
    if size > MAX_LINE_LENGTH:
        self._line_too_long()
    self._scanned = i
    self._phase = phase
    return 0


cdef class HeadParser:
    """Base of the parsers. Not for use as such."""

    def __dealloc__(self):
        self._release()

    def feed_data(self, data) -> int:
        """Parse some bytes.

        Args:
            data: Bytes-like object.

        Returns:
            How many bytes belong to the message: all of them until it is complete.

        Raises:
            SecurityError: If a limit is exceeded.
            ValueError: If the message is malformed.
            NotImplementedError: If the message has a transfer coding that isn't supported.
        """
        cdef const unsigned char[::1] view = data
        if view.shape[0] == 0:
            return 0
        return self.feed(&view[0], view.shape[0])

    def feed_eof(self) -> None:
        """Tell that nothing more will come.

        Raises:
            EOFError: If the message isn't complete.
        """
        self.finish()

    def read(self, read_line, read_exact=None, read_to_eof=None):
        """Parse a message that functions read: generators, which yield to wait, as this one does.

        Args:
            read_line: Takes a limit in bytes; returns a line with its line end.
            read_exact: Takes a number of bytes; returns as many.
            read_to_eof: Takes a limit in bytes; returns all the rest.

        Returns:
            The message.

        Raises:
            EOFError: If a function raises it, or has no more data.
            SecurityError: If a limit is exceeded; functions tell by RuntimeError.
            ValueError: If the message is malformed.
            NotImplementedError: If the message has a transfer coding that isn't supported.
        """
        cdef bint to_eof
        while not self.complete:
            to_eof = self._part == BODY_TO_EOF
            try:
                if to_eof:
                    data = yield from read_to_eof(MAX_BODY_SIZE)
                elif self._part >= BODY_SIZED:
                    data = yield from read_exact(self._remaining)
                else:
                    data = yield from read_line(MAX_LINE_LENGTH)
                if not data and not to_eof:
                    raise EOFError("no more data")
            except EOFError as exc:
                raise self._too_early() from exc
            except RuntimeError as exc:
                raise self._too_long(str(exc)) from exc
            self.feed_data(data)
            if to_eof:
                self.finish()
        return self.message

    cdef Py_ssize_t feed(self, const unsigned char* data, Py_ssize_t size) except -1:
        """Parse bytes; return how many were consumed: all, unless the message is complete."""
        cdef Py_ssize_t pos = 0
        cdef Py_ssize_t available
        cdef Py_ssize_t length
        cdef const unsigned char* end
        while pos < size and not self.complete:
            if self._part >= BODY_SIZED:
                pos += self._feed_body(data + pos, size - pos)
                continue
            # One byte beyond the limit is enough to see that a line exceeds it.
            available = size - pos
            if available > MAX_LINE_LENGTH + 1:
                available = MAX_LINE_LENGTH + 1
            if self._line_size == 0:
                length = self._scan(data + pos, available)
                if length == 0:
                    self._store(data + pos, available)
                    return size
                self._process(data + pos, length)
                pos += length
                continue
            if available > MAX_LINE_LENGTH + 1 - self._line_size:
                available = MAX_LINE_LENGTH + 1 - self._line_size
            end = <const unsigned char*> memchr(data + pos, c"\n", available)
            if end != NULL:
                available = end - (data + pos) + 1
            self._store(data + pos, available)
            pos += available
            length = self._scan(self._line, self._line_size)
            if length != 0:
                self._line_size = 0
                self._process(self._line, length)
        return pos

    cdef int finish(self) except -1:
        """Handle the end of the input; raise EOFError if it comes too early."""
        if self.complete:
            return 0
        raise self._too_early()

    cdef object _too_early(self):
        """Return the exception for input that ends within the message."""
        cdef str part = "body"
        if self._part == START_LINE:
            part = self._start_line_name()
        elif self._part == HEADERS:
            part = "headers"
        return EOFError(f"connection closed while reading HTTP {part}")

    cdef bint started(self) noexcept:
        """Tell whether a part of the message was read."""
        return self._part != START_LINE or self._line_size != 0

    cdef int _release(self) noexcept:
        PyMem_Free(self._line)
        PyMem_Free(self._block)
        self._line = self._block = NULL
        self._line_size = self._line_capacity = self._block_size = self._block_capacity = 0
        return 0

    cdef int _store(self, const unsigned char* data, Py_ssize_t size) except -1:
        """Append to the unfinished line."""
        cdef Py_ssize_t needed = self._line_size + size
        cdef Py_ssize_t capacity = self._line_capacity
        cdef void* memory
        if needed > capacity:
            capacity = max(needed, 2 * capacity, 128)
            memory = PyMem_Realloc(self._line, capacity)
            if memory == NULL:
                raise MemoryError()
            self._line = <unsigned char*> memory
            self._line_capacity = capacity
        memcpy(self._line + self._line_size, data, size)
        self._line_size = needed
        return 0

    cdef Py_ssize_t _scan(self, const unsigned char* line, Py_ssize_t size) except -1:
        """Look at the new bytes of a line; return its length with CRLF, 0 if it is unfinished.

        Leave the places of separators in the marks.
        """
        cdef Py_ssize_t i = self._scanned
        cdef int phase = self._phase
        if self._part == START_LINE or self._part == CHUNK_SIZE:
            return self._scan_other(line, size)

        # A header line, or the empty line after the last one.
        if phase == FIRST:
            while i < size and ws_is(line[i], WS_TOKEN):
                i += 1
            if i < size:
                if line[i] == c":" and i > 0:
                    self._first_mark = i
                    i += 1
                    phase = VALUE
                elif line[i] == c"\r" and i == 0:
                    i += 1
                    phase = CR
                elif i == 0 and self._may_continue() and (line[0] == c" " or line[0] == c"\t"):
                    self._first_mark = 0
                    i += 1
                    phase = VALUE
                else:
                    self._invalid(line, size)
        return scan_rest(self, line, size, i, phase)

    cdef Py_ssize_t _scan_rest(
        self, const unsigned char* line, Py_ssize_t size, Py_ssize_t i, int phase
    ) except -1:
        """Do what ``_scan`` does from `i` on, where any kind of line may have a value, and ends."""
        return scan_rest(self, line, size, i, phase)

    cdef int _process(self, const unsigned char* line, Py_ssize_t size) except -1:
        """Handle a whole line."""
        cdef Py_ssize_t start
        cdef Py_ssize_t end
        cdef Py_ssize_t name_size
        if self._part == START_LINE or self._part == CHUNK_SIZE:
            return self._process_other(line, size)

        if size == 2:
            if self._part == TRAILERS:
                self._finish_message()
            else:
                self._head_complete()
                if self.complete:
                    self._release()
            return 0
        if self._part == TRAILERS:
            # Trailers are dropped, within the limit for headers.
            self._more_lines += 1
            if self._more_lines > MAX_NUM_HEADERS:
                self._too_many_headers()
            return 0
        if self._count + self._more_lines >= MAX_NUM_HEADERS:
            self._too_many_headers()
        if self._interim:
            self._count_interim(size)
        name_size = self._first_mark
        start = name_size + 1 if name_size else 0
        end = size - 2
        while start < end and (line[start] == c" " or line[start] == c"\t"):
            start += 1
        while end > start and (line[end - 1] == c" " or line[end - 1] == c"\t"):
            end -= 1
        if name_size == 0:
            return self._continue_line(line + start, end - start)
        if (name_size == 14 and same_name(line, b"content-length", 14)) or (
            name_size == 17 and same_name(line, b"transfer-encoding", 17)
        ):
            self._framing_headers = True
        self._count += 1
        self._last_header = self._block_size
        self._last_name_size = name_size
        self._extend_block(line, name_size, b": ")
        self._extend_block(line + start, end - start, b"\r\n")
        return 0

    cdef int _extend_block(
        self, const unsigned char* data, Py_ssize_t size, const char* two_more
    ) except -1:
        """Append to the headers, as they are sent, and two bytes."""
        cdef Py_ssize_t needed = self._block_size + size + 2
        cdef void* memory
        if needed > self._block_capacity:
            # Most requests aren't longer.
            memory = PyMem_Realloc(self._block, max(needed, 2 * self._block_capacity, 512))
            if memory == NULL:
                raise MemoryError()
            self._block = <unsigned char*> memory
            self._block_capacity = max(needed, 2 * self._block_capacity, 512)
        memcpy(self._block + self._block_size, data, size)
        memcpy(self._block + needed - 2, two_more, 2)
        self._block_size = needed
        return 0

    cdef object _take_headers(self):
        """Return and forget the headers that were parsed."""
        headers = headers_of_block(
            PyBytes_FromStringAndSize(<const char*> self._block, self._block_size)
        )
        self._block_size = self._count = 0
        return headers

    cdef bint _may_continue(self) noexcept:
        """Tell whether a line that begins with a blank continues a header line."""
        if not self._allow_folding:
            return False
        return self._more_lines > 0 if self._part == TRAILERS else self._count > 0

    cdef int _continue_line(self, const unsigned char* data, Py_ssize_t size) except -1:
        """Append to the last header: RFC 9112 section 5.2 makes a space of the line end."""
        self._more_lines += 1
        if size == 0:
            return 0
        self._block_size -= 2
        if self._block_size > self._last_header + self._last_name_size + 2:
            self._block[self._block_size] = c" "  # the line end was there
            self._block_size += 1
        # The last header, but for the colon and the blank behind its name.
        if self._block_size - self._last_header - 2 + size > MAX_LINE_LENGTH:
            self._line_too_long()
        return self._extend_block(data, size, b"\r\n")

    cdef int _count_interim(self, Py_ssize_t size) except -1:
        self._interim_size += size
        if self._interim_size > MAX_INTERIM_SIZE:
            raise SecurityError(f"interim responses too large: over {MAX_INTERIM_SIZE} bytes")
        return 0

    cdef int _too_many_headers(self) except -1:
        raise TooManyHeaders(f"expected no more than {MAX_NUM_HEADERS} headers")

    cdef int _line_too_long(self) except -1:
        raise self._too_long(
            f"read {MAX_LINE_LENGTH + 1} bytes, expected no more than {MAX_LINE_LENGTH} bytes"
        )

    cdef object _too_long(self, str message):
        """Return the exception for a line, or a body up to the end, over its limit."""
        if self._part == START_LINE:
            return self._start_line_too_long(message)
        if self._part == HEADERS or self._part == TRAILERS:
            return HeaderLineTooLong(message)
        return SecurityError(message)

    cdef int _invalid(self, const unsigned char* line, Py_ssize_t size) except -1:
        """Refuse a line, of which there are `size` bytes and perhaps more."""
        cdef str text = quote(line, size)
        if self._part == START_LINE:
            raise ValueError(f"invalid HTTP {self._start_line_name()}: {text}")
        if self._count and line[0] in b" \t":  # it continues a value
            name = PyUnicode_DecodeLatin1(
                <const char*> self._block + self._last_header, self._last_name_size, NULL
            )
            text = redact_header(name, text)
        raise ValueError(f"invalid HTTP header line: {redact_line(text)}")

    # What differs between the two kinds of messages: both parsers override these.

    cdef str _start_line_name(self):
        """Return what errors call the start line."""
        raise NotImplementedError

    cdef object _start_line_too_long(self, str message):
        """Return the exception for a start line over its limit."""
        raise NotImplementedError

    cdef Py_ssize_t _scan_other(self, const unsigned char* line, Py_ssize_t size) except -1:
        """Do what ``_scan`` does for a line that isn't a header line."""
        raise NotImplementedError

    cdef int _process_other(self, const unsigned char* line, Py_ssize_t size) except -1:
        """Handle such a line, which is whole."""
        raise NotImplementedError

    cdef int _head_complete(self) except -1:
        """Handle the end of the headers."""
        raise NotImplementedError

    # What only responses have, a body: ResponseParser overrides these.

    cdef Py_ssize_t _feed_body(self, const unsigned char* data, Py_ssize_t size) except -1:
        """Parse bytes of a part that isn't made of lines; return how many."""
        raise NotImplementedError

    cdef int _finish_message(self) except -1:
        """Handle the end of the trailers, which end the message."""
        raise NotImplementedError


cdef class RequestParser(HeadParser):
    """Parser of a request without body, incremental."""

    def __init__(self) -> None:
        pass

    cdef str _start_line_name(self):
        return "request line"

    cdef object _start_line_too_long(self, str message):
        return RequestLineTooLong(message)

    cdef Py_ssize_t _scan_other(self, const unsigned char* line, Py_ssize_t size) except -1:
        # RFC 9112 section 3: method SP request-target SP HTTP-version CRLF
        cdef Py_ssize_t i = self._scanned
        cdef int phase = self._phase
        if phase == FIRST:
            while i < size and ws_is(line[i], WS_TOKEN):
                i += 1
            if i < size:
                if line[i] != c" " or i == 0:
                    self._invalid(line, size)
                self._first_mark = i
                i += 1
                phase = SECOND
        if phase == SECOND:
            while i < size and ws_is(line[i], WS_VISIBLE):
                i += 1
            if i < size:
                if line[i] != c" " or i == self._first_mark + 1:
                    self._invalid(line, size)
                self._second_mark = i
                i += 1
                phase = THIRD
        if phase == THIRD:
            while i < size and ws_is(line[i], WS_VISIBLE):
                i += 1
            if i < size:
                if line[i] != c"\r":
                    self._invalid(line, size)
                i += 1
                phase = CR
        return scan_rest(self, line, size, i, phase)

    cdef int _process_other(self, const unsigned char* line, Py_ssize_t size) except -1:
        cdef const unsigned char* version = line + self._second_mark + 1
        cdef Py_ssize_t version_size = size - 2 - self._second_mark - 1
        if version_size != 8 or memcmp(version, b"HTTP/1.", 7) != 0 or version[7] not in b"01":
            raise ValueError(
                f"unsupported protocol; expected HTTP/1.1 or HTTP/1.0: {quote(line, size)}"
            )
        if self._first_mark == 3 and memcmp(line, b"GET", 3) == 0:
            self._method = "GET"
        else:
            self._method = PyUnicode_DecodeLatin1(<const char*> line, self._first_mark, NULL)
        self._path = PyUnicode_DecodeLatin1(
            <const char*> line + self._first_mark + 1, self._second_mark - self._first_mark - 1, NULL
        )
        self._protocol = "HTTP/1.1" if version[7] == c"1" else "HTTP/1.0"
        self._part = HEADERS
        return 0

    cdef int _head_complete(self) except -1:
        headers = self._take_headers()
        if self._framing_headers:
            check_no_body(headers)
        request = new_instance(Request)
        request.path = self._path
        request.headers = headers
        request.method = self._method
        request.protocol = self._protocol
        self.message = request
        self._path = None
        self.complete = True
        return 0
