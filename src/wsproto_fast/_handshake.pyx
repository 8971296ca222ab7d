"""What both sides of the opening handshake share (RFC 6455 section 4): one HTTP message, then frames.

The sides are in _client.pyx and _server.pyx. Parsing is below, frames are beside it.
"""

import functools

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeASCII, PyUnicode_DecodeLatin1
from libc.string cimport memchr

from ._http11 cimport same_name
from ._protocol cimport Protocol
from ._endpoint cimport CONNECTING

from .datastructures import Headers
from .exceptions import InvalidHeader, InvalidState, InvalidUpgrade
from .headers import parse_connection, parse_extension, parse_subprotocol, parse_upgrade
from .redaction import escape, redact_header, redact_url


cdef extern from "_sha1.h":
    void ws_sha1(const unsigned char* data, size_t size, unsigned char* digest) nogil


cdef str GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

cdef const char* BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


cpdef str accept_key(str key):
    """Return the Sec-WebSocket-Accept that answers a Sec-WebSocket-Key (RFC 6455 section 4.2.2)."""
    cdef str both = key + GUID
    cdef Py_ssize_t size
    cdef const char* hashed = PyUnicode_AsUTF8AndSize(both, &size)
    cdef unsigned char data[20]
    cdef char text[28]
    cdef unsigned int bits
    cdef int i
    ws_sha1(<const unsigned char*>hashed, size, data)
    for i in range(7):
        bits = data[3 * i] << 16 | data[3 * i + 1] << 8
        if i < 6:  # 20 bytes are two less than a multiple of three
            bits |= data[3 * i + 2]
        text[4 * i] = BASE64[bits >> 18]
        text[4 * i + 1] = BASE64[bits >> 12 & 63]
        text[4 * i + 2] = BASE64[bits >> 6 & 63]
        text[4 * i + 3] = BASE64[bits & 63]
    text[27] = c"="
    return PyUnicode_DecodeASCII(text, 28, NULL)


# Clients offer the same few combinations all the time.
@functools.lru_cache(maxsize=64)
def _parse_extension_cached(header):
    return parse_extension(header)


cdef list parse_extensions(list values):
    cdef list offers = []
    for value in values:
        parsed = _parse_extension_cached(value) if len(value) <= 256 else parse_extension(value)
        # Factories may keep or change the list of parameters.
        offers += [(name, parameters.copy()) for name, parameters in parsed]
    return offers


cdef list parse_subprotocols(list values):
    cdef list subprotocols = []
    for value in values:
        subprotocols += parse_subprotocol(value)
    return subprotocols


cdef int find(bytes block, str name, const char** value, Py_ssize_t* value_size) except -1:
    """Look for a header, whose name is given in lower case, in lines as they are sent; return how many there are.

    For the few names of interest, looking through the lines costs less than an index, in time and in memory.

    Args:
        block: The lines.
        name: The name.
        value: Becomes the value of the last one.
        value_size: Becomes its size.
    """
    cdef Py_ssize_t size
    cdef const char* lower = PyUnicode_AsUTF8AndSize(name, &size)
    cdef const char* line = PyBytes_AS_STRING(block)
    cdef const char* end = line + PyBytes_GET_SIZE(block)
    cdef const char* line_end
    cdef int count = 0
    while line < end:
        line_end = <const char*>memchr(line, c"\n", end - line)
        if line_end - line > size and line[size] == c":" and same_name(<const unsigned char*>line, lower, size):
            # Behind the name are a colon and a blank, behind the value CRLF.
            value[0] = line + size + 2
            value_size[0] = line_end - line - size - 3
            count += 1
        line = line_end + 1
    return count


cdef list get_all_values(headers, str name):
    """Return all values of a header, whose name is given in lower case."""
    cdef bytes block
    cdef const char* last
    cdef Py_ssize_t size
    cdef int count
    if type(headers) is Headers:
        block = headers._block
        if block is not None:
            count = find(block, name, &last, &size)
            if count == 0:
                return []
            if count == 1:
                return [PyUnicode_DecodeLatin1(last, size, NULL)]
        return [value for other, value in <list>headers._items if other.lower() == name]
    return headers.get_all(name)


cdef bint has_value(bytes block, str name, const char* expected, Py_ssize_t size) except -1:
    """Tell whether there is one such header, with this value, which is in lower case."""
    cdef const char* value
    cdef Py_ssize_t value_size
    return (
        find(block, name, &value, &value_size) == 1
        and value_size == size
        and same_name(<const unsigned char*>value, expected, size)
    )


cdef int check_upgrade(headers) except -1:
    """Check Connection and Upgrade, whose rules are the same on both sides (RFC 6455 sections 4.1 and 4.2.1)."""
    cdef bytes block = headers._block if type(headers) is Headers else None
    cdef list options
    if block is None or not (
        has_value(block, "connection", b"upgrade", 7) or has_value(block, "connection", b"keep-alive, upgrade", 19)
    ):
        options = []
        for value in get_all_values(headers, "connection"):
            options += parse_connection(value)
        if not any([option.lower() == "upgrade" for option in options]):
            raise InvalidUpgrade("Connection", ", ".join(options) if options else None)
    if block is None or not has_value(block, "upgrade", b"websocket", 9):
        options = []
        for value in get_all_values(headers, "upgrade"):
            options += parse_upgrade(value)
        if not (len(options) == 1 and options[0].lower() == "websocket"):
            raise InvalidUpgrade("Upgrade", ", ".join(options) if options else None)
    return 0


cdef object one_value(headers, str name, str lower):
    """Return the value of a header that must not be missing nor repeated; the name is given in lower case, too."""
    cdef list values = get_all_values(headers, lower)
    if len(values) == 1:
        return values[0]
    if values:
        raise InvalidHeader(name, "multiple values")
    raise InvalidHeader(name)


cdef class HandshakeProtocol(Protocol):
    """Base of ClientProtocol and ServerProtocol: receives one HTTP message before the frames."""

    cdef Py_ssize_t _receive_handshake(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef Py_ssize_t used
        if self._parser is None:
            return 0
        try:
            used = self._parser.feed(data, size)
        except Exception as exc:
            self._received_part()
            self._received_garbage(exc)
            return size
        self._received_part()
        if self._parser.complete:
            self._received_message()
        return used

    cdef int _receive_handshake_eof(self) except -1:
        if self._parser is None or self._discarding:
            return 0
        try:
            self._parser.finish()
        except Exception as exc:
            self._received_garbage(exc)
        else:
            self._received_message()
        return 0

    cdef int _received_part(self) except -1:
        return 0

    cdef int _received_message(self) except -1:
        """Handle the request or response, which is whole; ClientProtocol and ServerProtocol override it."""
        raise NotImplementedError

    cdef int _received_garbage(self, exc) except -1:
        """Handle what the parser raised; ClientProtocol and ServerProtocol override it."""
        raise NotImplementedError

    def _require_connecting(self):
        if self._state != CONNECTING:
            raise InvalidState(f"connection is {self.state.name.lower()}")

    def _log_message(self, direction, line, message):
        debug = self.logger.debug
        debug("%s %s", direction, line)
        for name, value in message.headers.raw_items():
            debug("%s %s: %s", direction, name, escape(redact_header(name, value)))
        body = getattr(message, "body", b"")
        if body:
            debug("%s [body] (%d bytes)", direction, len(body))

    def _log_request(self, direction, request):
        self._log_message(
            direction, f"{request.method} {redact_url(request.path)} {request.protocol}", request
        )

    def _log_response(self, direction, response):
        self._log_message(
            direction, f"HTTP/1.1 {response.status_code} {escape(response.reason_phrase)}", response
        )
