"""What both sides of the opening handshake share (RFC 6455 section 4): one HTTP message, then frames.

The sides are in _client.pyx and _server.pyx. Parsing is below, frames are beside it.
"""

import binascii
import functools
from hashlib import sha1

from ._protocol cimport Protocol
from ._endpoint cimport CONNECTING

from .datastructures import Headers
from .exceptions import InvalidHeader, InvalidState, InvalidUpgrade
from .headers import parse_connection, parse_extension, parse_subprotocol, parse_upgrade
from .redaction import escape, redact_header, redact_url


cdef bytes GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

cdef object b2a_base64 = binascii.b2a_base64


cpdef str accept_key(str key):
    """Return the Sec-WebSocket-Accept that answers a Sec-WebSocket-Key (RFC 6455 section 4.2.2)."""
    cdef bytes digest = sha1(key.encode() + GUID, usedforsecurity=False).digest()
    return (<bytes> b2a_base64(digest, newline=False)).decode("ascii")


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


cdef list get_all_values(headers, str name):
    """Return all values of a header, whose name is given in lower case.

    For the few names of interest, looking through the pairs costs less than an index, in time and
    in memory.
    """
    cdef list values
    cdef tuple item
    cdef str other
    if type(headers) is not Headers:
        return headers.get_all(name)
    values = []
    for item in <list> headers._items:
        other = <str> item[0]
        if len(other) == len(name) and other.lower() == name:
            values.append(item[1])
    return values


cdef int check_upgrade(headers) except -1:
    """Check Connection and Upgrade, whose rules are the same on both sides (RFC 6455 sections 4.1 and 4.2.1)."""
    cdef list values = get_all_values(headers, "connection")
    cdef list options
    if len(values) != 1 or (<str> values[0]).lower() not in ("upgrade", "keep-alive, upgrade"):
        options = []
        for value in values:
            options += parse_connection(value)
        if not any([option.lower() == "upgrade" for option in options]):
            raise InvalidUpgrade("Connection", ", ".join(options) if options else None)
    values = get_all_values(headers, "upgrade")
    if len(values) != 1 or (<str> values[0]).lower() != "websocket":
        options = []
        for value in values:
            options += parse_upgrade(value)
        if not (len(options) == 1 and options[0].lower() == "websocket"):
            raise InvalidUpgrade("Upgrade", ", ".join(options) if options else None)
    return 0


cdef object one_value(headers, str name):
    """Return the value of a header that must not be missing nor repeated."""
    cdef list values = get_all_values(headers, name.lower())
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
