"""Incremental parser of HTTP/1.1 responses (RFC 9112 sections 4, 6, 7), interim ones before them included.

Owns the grammar of status lines and bodies, and the limits on them. Which body a response has
depends on its headers: ``http11.body_framing`` has that.
"""

from cpython.unicode cimport PyUnicode_DecodeLatin1
from libc.string cimport memcmp

from ._http11 cimport (
    BODY_SIZED,
    BODY_TO_EOF,
    CHUNK_DATA,
    CHUNK_END,
    CHUNK_SIZE,
    FIRST,
    HEADERS,
    SECOND,
    START_LINE,
    TRAILERS,
    VALUE,
    WS_HEXDIGIT,
    HeadParser,
    quote,
    ws_is,
)

from . import http11
from .exceptions import SecurityError, StatusLineTooLong
from .environment import follow
from .http11 import Response, body_framing


cdef Py_ssize_t MAX_BODY_SIZE
cdef Py_ssize_t MAX_INTERIM_RESPONSES


def _read_settings():
    global MAX_BODY_SIZE, MAX_INTERIM_RESPONSES
    MAX_BODY_SIZE = http11.MAX_BODY_SIZE
    MAX_INTERIM_RESPONSES = http11.MAX_INTERIM_RESPONSES


follow(_read_settings)

cdef Py_ssize_t MAX_CHUNK_DIGITS = http11.MAX_CHUNK_DIGITS


cdef class ResponseParser(HeadParser):
    """Parser of a response, incremental.

    Interim responses before it are skipped (RFC 9110 section 15.2). 101 is a final one here.

    Args:
        allow_http10: Accept HTTP/1.0, for proxies.
        read_body: Read the body; no for the answer to CONNECT, after which other data follows.

    Attributes:
        complete: Whether the response is whole.
        message: The ``Response`` once it is whole; None before.
    """

    def __init__(self, *, allow_http10: bool = False, read_body: bool = True) -> None:
        self._allow_http10 = allow_http10
        self._read_body = read_body
        self._allow_folding = True

    cdef str _start_line_name(self):
        return "status line"

    cdef object _start_line_too_long(self, str message):
        return StatusLineTooLong(message)

    cdef int _invalid(self, const unsigned char* line, Py_ssize_t size) except -1:
        if self._part == CHUNK_SIZE:
            raise ValueError(f"invalid chunk size: {quote(line, size)}")
        if self._part == START_LINE and self._is_other_version(line, size):
            expected = "HTTP/1.1 or HTTP/1.0" if self._allow_http10 else "HTTP/1.1"
            raise ValueError(f"unsupported protocol; expected {expected}: {quote(line, size)}")
        return HeadParser._invalid(self, line, size)

    cdef Py_ssize_t _scan_other(self, const unsigned char* line, Py_ssize_t size) except -1:
        if self._part == CHUNK_SIZE:
            return self._scan_chunk_size(line, size)
        # RFC 9112 section 4: HTTP-version SP status-code SP [ reason-phrase ] CRLF
        cdef Py_ssize_t i = self._scanned
        cdef int phase = self._phase
        cdef unsigned char c
        if phase == FIRST:
            while i < size and i < 13:
                c = line[i]
                if i < 8:
                    if i == 7:
                        if c != c"1" and not (c == c"0" and self._allow_http10):
                            self._invalid(line, size)
                    elif c != <unsigned char> (<const char*> b"HTTP/1.")[i]:
                        self._invalid(line, size)
                elif i == 8 or i == 12:
                    if c != c" ":
                        self._invalid(line, size)
                elif not c"0" <= c <= c"9" or (i == 9 and not c"1" <= c <= c"5"):
                    self._invalid(line, size)
                i += 1
            if i == 13:
                phase = VALUE
        return self._scan_rest(line, size, i, phase)

    cdef int _process_other(self, const unsigned char* line, Py_ssize_t size) except -1:
        if self._part == CHUNK_SIZE:
            return self._process_chunk_size(line, size)
        self._part = HEADERS
        self._status_code = (
            (line[9] - c"0") * 100 + (line[10] - c"0") * 10 + (line[11] - c"0")
        )
        self._reason_phrase = PyUnicode_DecodeLatin1(<const char*> line + 13, size - 15, NULL)
        self._interim = 100 <= self._status_code < 200 and self._status_code != 101
        if self._interim:
            if self._interim_responses >= MAX_INTERIM_RESPONSES:
                raise SecurityError(f"expected no more than {MAX_INTERIM_RESPONSES} interim responses")
            self._interim_responses += 1
            self._count_interim(size)
        return 0

    cdef bint _is_other_version(self, const unsigned char* line, Py_ssize_t size) noexcept:
        """Tell whether a status line is fine but for its version."""
        if size < 6 or memcmp(line, b"HTTP/", 5) != 0 or not c"0" <= line[5] <= c"9":
            return False
        if size < 8 or memcmp(line + 5, b"1.", 2) != 0:
            return True
        return line[7] != c"1" and not (line[7] == c"0" and self._allow_http10)

    cdef int _head_complete(self) except -1:
        cdef Py_ssize_t framing = 0
        headers = self._take_headers()
        response = Response(self._status_code, self._reason_phrase, headers)
        self._more_lines = 0
        if self._interim:
            if self._skipped is None:
                self._skipped = []
            self._skipped.append(response)
            self._framing_headers = False
            self._part = START_LINE
            return 0
        self.message = response
        if self._read_body:
            if self._framing_headers or self._status_code >= 200:
                framing = body_framing(self._status_code, headers)
            if framing != 0:
                self._body = bytearray()
                self._remaining = framing
                self._part = (
                    BODY_SIZED if framing > 0 else CHUNK_SIZE if framing == -1 else BODY_TO_EOF
                )
                self._release()
                return 0
        self.complete = True
        return 0

    cdef list take_skipped(self):
        """Return and forget the interim responses that were skipped; None if there are none."""
        skipped, self._skipped = self._skipped, None
        return skipped

    cdef bint reading_body(self) noexcept:
        """Tell whether all but the body is there."""
        return self.message is not None and not self.complete

    cdef int end_body(self) except -1:
        """Be content with what there is of the body."""
        return self._finish_message()

    def take_body(self) -> bytes:
        """Return and forget the part of the body that was received since the last call.

        What is taken doesn't count against the limit on the size of bodies any more, nor is it in
        ``message.body``.
        """
        cdef bytes piece
        if self.complete or self._body is None:
            piece = b"" if self.message is None else self.message.body
            if piece:
                self.message.body = b""
            return piece
        piece = bytes(self._body)
        self._body.clear()
        return piece

    cdef Py_ssize_t _scan_chunk_size(self, const unsigned char* line, Py_ssize_t size) except -1:
        # RFC 9112 section 7.1: 1*HEXDIG [ chunk-ext ] CRLF
        cdef Py_ssize_t i = self._scanned
        cdef int phase = self._phase
        if phase == FIRST:
            while i < size and ws_is(line[i], WS_HEXDIGIT):
                if i == MAX_CHUNK_DIGITS:
                    raise SecurityError(f"chunk size too long: over {MAX_CHUNK_DIGITS} digits")
                i += 1
            if i < size:
                if i == 0 or line[i] not in b"; \t\r":
                    self._invalid(line, size)
                self._first_mark = i
                phase = SECOND
        if phase == SECOND:
            # Section 7.1.1: an extension begins with a semicolon, behind spaces maybe.
            while i < size and (line[i] == c" " or line[i] == c"\t"):
                i += 1
            if i < size:
                if line[i] not in b";\r":
                    self._invalid(line, size)
                phase = VALUE
        return self._scan_rest(line, size, i, phase)

    cdef int _process_chunk_size(self, const unsigned char* line, Py_ssize_t size) except -1:
        cdef Py_ssize_t i
        cdef Py_ssize_t chunk_size = 0
        cdef unsigned char c
        for i in range(self._first_mark):
            c = line[i]
            # Letters have bit 6 set, and "a" and "A" end in 0001.
            chunk_size = chunk_size * 16 + (c & 0x0F) + (9 if c & 0x40 else 0)
        if chunk_size == 0:
            self._part = TRAILERS
            return 0
        if chunk_size > MAX_BODY_SIZE - len(self._body):
            raise SecurityError(
                f"chunk too large: {chunk_size} bytes after {len(self._body)} bytes"
            )
        self._remaining = chunk_size
        self._part = CHUNK_DATA
        return 0

    cdef Py_ssize_t _feed_body(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef Py_ssize_t taken = size
        if self._part == CHUNK_END:
            # self._remaining counts what is missing of CRLF.
            if data[0] != (c"\r" if self._remaining == 2 else c"\n"):
                raise ValueError("chunk without CRLF")
            self._remaining -= 1
            if self._remaining == 0:
                self._part = CHUNK_SIZE
            return 1
        if self._part == BODY_TO_EOF:
            if taken > MAX_BODY_SIZE - len(self._body):
                raise SecurityError(f"body too large: over {MAX_BODY_SIZE} bytes")
            self._body += data[:taken]
            return taken
        if taken > self._remaining:
            taken = self._remaining
        self._body += data[:taken]
        self._remaining -= taken
        if self._remaining == 0:
            if self._part == BODY_SIZED:
                self._finish_message()
            else:
                self._part = CHUNK_END
                self._remaining = 2
        return taken

    cdef int _finish_message(self) except -1:
        self.message.body = bytes(self._body)
        self._body = None
        self._release()
        self.complete = True
        return 0

    cdef int finish(self) except -1:
        if not self.complete and self._part == BODY_TO_EOF:
            return self._finish_message()
        return HeadParser.finish(self)
