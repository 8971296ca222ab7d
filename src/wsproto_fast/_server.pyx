"""A server's side of the opening handshake (RFC 6455 section 4.2): from CONNECTING to OPEN.

Owns the checks on requests, their order, and what is answered. One thing isn't data given by the
caller: the ``Date`` header comes from the wall clock, which nothing else in the engine depends on.
"""

import binascii
import http
import logging

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.string cimport memcpy
from libc.time cimport time, time_t

from ._free_threading cimport FREE_THREADED
from ._handshake cimport (
    HandshakeProtocol,
    accept_key,
    check_upgrade,
    get_all_values,
    has_value,
    one_value,
    parse_extensions,
    parse_subprotocols,
)
from ._http11 cimport RequestParser, headers_of_block, new_instance
from ._protocol cimport Protocol
from ._queue cimport ATTENTION
from ._endpoint cimport CLOSE, CONNECTING

from .datastructures import Headers
from .exceptions import (
    HeaderLineTooLong,
    InvalidHandshake,
    InvalidHeader,
    InvalidHeaderValue,
    InvalidMessage,
    InvalidMethod,
    InvalidOrigin,
    InvalidProtocol,
    InvalidState,
    InvalidUpgrade,
    NegotiationError,
    RequestLineTooLong,
    TooManyHeaders,
)
from .frames import Side, State
from .headers import build_extension, build_subprotocol, is_valid_host
from .http11 import Request, Response
from .typing import StatusLike


cdef object _INFO = logging.INFO
cdef object _SERVER = Side.SERVER

# The second that the block of headers was made for that responses begin with, and that.
cdef time_t _second = -1
cdef str _accepted = None           # up to the value of Sec-WebSocket-Accept
cdef str _date = None
cdef cython.pymutex _date_lock      # of these three, where there is no global lock


cdef str _dated(bint accepted):
    """Return the value of the Date header of this second (RFC 9110 section 6.6.1), or the block that has it."""
    global _second, _accepted, _date
    cdef time_t second = time(NULL)
    cdef str date, block, found = None
    if FREE_THREADED:
        _date_lock.acquire()
    if second == _second:
        found = _accepted if accepted else _date
    if FREE_THREADED:
        _date_lock.release()
    if found is not None:
        return found
    from email.utils import formatdate  # which imports much that clients don't need

    date = formatdate(second, usegmt=True)
    block = f"Date: {date}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    found = block if accepted else date
    if FREE_THREADED:
        _date_lock.acquire()
    _date = date
    _accepted = block
    _second = second
    if FREE_THREADED:
        _date_lock.release()
    return found


# Parts of the lines of a response: at most 13 of them.
cdef struct Lines:
    const char* parts[13]
    Py_ssize_t sizes[13]
    int size


cdef int _add(Lines* lines, str part) except -1:
    """Add a part, which is ASCII, and must be kept until they are joined."""
    lines.parts[lines.size] = PyUnicode_AsUTF8AndSize(part, &lines.sizes[lines.size])
    lines.size += 1


cdef bytes _join(Lines* lines):
    cdef Py_ssize_t size = 0
    cdef int i
    cdef bytes joined
    cdef char* place
    for i in range(lines.size):
        size += lines.sizes[i]
    joined = PyBytes_FromStringAndSize(NULL, size)
    place = PyBytes_AS_STRING(joined)
    for i in range(lines.size):
        memcpy(place, lines.parts[i], lines.sizes[i])
        place += lines.sizes[i]
    return joined


cdef bint _is_visible(value) noexcept:
    """Tell whether a value of a header is plainly one, a str of blanks and visible ASCII, or there is none."""
    cdef Py_UCS4 c
    if value is None:
        return True
    if type(value) is not str:
        return False
    for c in <str>value:
        if not u" " <= c <= u"~":
            return False
    return True


# The last Server header that was found to be visible: that of all connections of a process, most often.
cdef str _server = None


cdef bint _is_usable_server(value) noexcept:
    """Do what ``_is_visible`` does for the value of the ``Server`` header."""
    global _server
    if value is _server:
        return True
    if not _is_visible(value):
        return False
    if not FREE_THREADED:
        _server = <str>value
    return True


cdef bint _is_plain_host(str host) noexcept:
    """Tell whether a value of the Host header is plainly a name or an IPv4 address, perhaps with a port."""
    cdef Py_UCS4 c
    cdef bint in_port = False
    cdef Py_ssize_t size = 0
    for c in host:
        if u"0" <= c <= u"9":
            pass
        elif in_port:
            return False
        elif c == u":":
            if not size:
                return False
            in_port = True
        elif not (u"a" <= c <= u"z" or u"A" <= c <= u"Z" or c == u"." or c == u"-"):
            return False
        size += 1
    return size > 0


cdef bint _is_nonce(str key) except -1:
    """Tell whether a key is plainly 16 bytes in base64: 22 digits and the padding."""
    cdef Py_UCS4 c
    cdef Py_ssize_t i = 0
    if len(key) != 24:
        return False
    for c in key:
        if i >= 22:
            if c != u"=":
                return False
        elif not (
            u"A" <= c <= u"Z" or u"a" <= c <= u"z" or u"0" <= c <= u"9" or c == u"+" or c == u"/"
        ):
            return False
        i += 1
    return True


cdef bytes _serialize(response):
    """Return a response as it is sent."""
    cdef bytes block
    if type(response) is Response and type(response.headers) is Headers:
        block = response.headers._block
        if (
            block is not None
            and response.status_code == 101
            and response.reason_phrase == "Switching Protocols"
            and response.body == b""
        ):
            # Nobody has changed what accept() returned.
            return b"HTTP/1.1 101 Switching Protocols\r\n" + block + b"\r\n"
    return response.serialize()


cdef object _response(int status, str reason, headers, bytes body):
    response = new_instance(Response)
    response.status_code = status
    response.reason_phrase = reason
    response.headers = headers
    response.body = body
    return response


cdef class ServerProtocol(HandshakeProtocol):
    """ServerProtocol(*, origins=None, extensions=None, subprotocols=None, select_subprotocol=None, \
state=State.CONNECTING, max_size=1048576, logger=None, check_host=False, server_header=None)\n--\n
    Server side of a WebSocket connection.

    Args:
        origins: Acceptable values of the ``Origin`` header: str, compiled regular expressions, or
            None for requests without this header. By default it isn't checked.
        extensions: Factories of extensions to accept.
        subprotocols: Supported subprotocols, in order of preference.
        select_subprotocol: Callable that replaces the method of this name; takes the connection
            that this was attached to, or else this object, and the subprotocols that the client
            offers.
        state: State to start in.
        max_size: Limit for messages and fragments, see ``Protocol``.
        logger: Logger, ``wsproto_fast.server`` by default; see ``environment``.
        check_host: Refuse requests whose ``Host`` header is missing, repeated or malformed.
        server_header: Value of the ``Server`` header in the responses built here.

    Attributes:
        response_status: Status code of the response that was sent; 0 before.
    """

    def __init__(
        self,
        *,
        origins: Sequence[Origin | re.Pattern[str] | None] | None = None,
        extensions: Sequence[ServerExtensionFactory] | None = None,
        subprotocols: Sequence[Subprotocol] | None = None,
        select_subprotocol: Callable[..., Subprotocol | None] | None = None,
        state: State = State.CONNECTING,
        max_size: int | None | tuple[int | None, int | None] = 2**20,
        logger: LoggerLike | None = None,
        check_host: bool = False,
        server_header: str | None = None,
    ) -> None:
        self._set_up(_SERVER, state, max_size, logger)
        self.origins = origins
        self.available_extensions = extensions
        self.available_subprotocols = subprotocols
        self._select_subprotocol = select_subprotocol
        self.check_host = check_host
        self.server_header = server_header
        if self._state == CONNECTING:
            self._parser = RequestParser.__new__(RequestParser)

    def accept(self, request: Request) -> Response:
        """Build the response to a handshake request: 101, or an error if the request isn't right.

        The caller may alter it, then passes it to ``send_response``. The reason of an error is in
        ``handshake_exc``.

        Args:
            request: What the client sent.
        """
        try:
            accept, extensions, subprotocol = self.process_request(request)
        except InvalidOrigin as exc:
            self._log_failure("! invalid origin")
            self.handshake_exc = exc
            return self.reject(
                http.HTTPStatus.FORBIDDEN, f"Failed to open a WebSocket connection: {exc}.\n"
            )
        except InvalidMethod as exc:
            self._log_failure("! invalid method")
            self.handshake_exc = exc
            return self._error_response(
                http.HTTPStatus.METHOD_NOT_ALLOWED,
                f"Failed to open a WebSocket connection: {exc}.\n",
                [("Allow", "GET")],
            )
        except InvalidProtocol as exc:
            self._log_failure("! invalid protocol")
            self.handshake_exc = exc
            return self.reject(
                http.HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
                f"Failed to open a WebSocket connection: {exc}.\n",
            )
        except InvalidUpgrade as exc:
            self._log_failure("! invalid upgrade")
            self.handshake_exc = exc
            return self._error_response(
                http.HTTPStatus.UPGRADE_REQUIRED,
                f"Failed to open a WebSocket connection: {exc}.\n"
                "\n"
                "You cannot access a WebSocket server directly with a browser. "
                "You need a WebSocket client.\n",
                [("Upgrade", "websocket")],
            )
        except InvalidHandshake as exc:
            self._log_failure("! invalid handshake")
            self.handshake_exc = exc
            texts = []
            error = exc
            while error is not None:
                texts.append(str(error))
                error = error.__cause__
            extra = None
            if isinstance(exc, InvalidHeader) and exc.name == "Sec-WebSocket-Version":
                # RFC 6455 section 4.4: say which versions would do.
                extra = [("Sec-WebSocket-Version", "13")]
            return self._error_response(
                http.HTTPStatus.BAD_REQUEST,
                f"Failed to open a WebSocket connection: {'; '.join(texts)}.\n",
                extra,
            )
        except Exception as exc:
            self.logger.error("opening handshake failed", exc_info=True)
            self.handshake_exc = exc
            return self.reject(
                http.HTTPStatus.INTERNAL_SERVER_ERROR,
                "Failed to open a WebSocket connection.\nSee server log for more information.\n",
            )

        return _response(101, "Switching Protocols", self._accepting_headers(accept, extensions, subprotocol), b"")

    cdef object _accepting_headers(self, accept, extensions, subprotocol):
        cdef Lines lines
        cdef object server = self.server_header
        cdef str accepted = _dated(True)  # which lines refer to
        lines.size = 0
        _add(&lines, accepted)
        _add(&lines, accept)
        _add(&lines, "\r\n")
        if not (_is_visible(extensions) and _is_visible(subprotocol) and _is_usable_server(server)):
            headers = headers_of_block(_join(&lines))
            # Programs may return anything: this checks it.
            if extensions is not None:
                headers["Sec-WebSocket-Extensions"] = extensions
            if subprotocol is not None:
                headers["Sec-WebSocket-Protocol"] = subprotocol
            if server is not None:
                headers["Server"] = server
            return headers
        if extensions is not None:
            _add(&lines, "Sec-WebSocket-Extensions: ")
            _add(&lines, extensions)
            _add(&lines, "\r\n")
        if subprotocol is not None:
            _add(&lines, "Sec-WebSocket-Protocol: ")
            _add(&lines, subprotocol)
            _add(&lines, "\r\n")
        if server is not None:
            _add(&lines, "Server: ")
            _add(&lines, server)
            _add(&lines, "\r\n")
        return headers_of_block(_join(&lines))

    def _log_failure(self, text):
        if self._debug():
            self.logger.debug(text, exc_info=True)

    def process_request(self, request: Request) -> tuple[str, str | None, str | None]:
        """Check a handshake request and negotiate (RFC 6455 section 4.2).

        Args:
            request: What the client sent.

        Returns:
            Values of the headers ``Sec-WebSocket-Accept``, ``Sec-WebSocket-Extensions`` and
            ``Sec-WebSocket-Protocol`` of the response; None leaves one out.

        Raises:
            InvalidHandshake: If the request isn't right.
        """
        cdef str key
        if request.method != "GET":
            raise InvalidMethod(request.method)
        if request.protocol != "HTTP/1.1":
            raise InvalidProtocol(request.protocol)
        headers = request.headers
        if self.check_host:
            # RFC 9112 section 3.2: such a request must be answered with 400.
            host = one_value(headers, "Host", "host")
            if not _is_plain_host(host) and not is_valid_host(host):
                raise InvalidHeaderValue("Host", host)
        check_upgrade(headers)

        key = one_value(headers, "Sec-WebSocket-Key", "sec-websocket-key")
        if not _is_nonce(key):
            try:
                binascii.a2b_base64(key.encode(), strict_mode=True)  # no frame of Python in tracebacks
            except binascii.Error as exc:
                raise InvalidHeaderValue("Sec-WebSocket-Key", key) from exc
            raise InvalidHeaderValue("Sec-WebSocket-Key", key)
        block = headers._block if type(headers) is Headers else None
        if block is None or not has_value(block, "sec-websocket-version", b"13", 2):
            version = one_value(headers, "Sec-WebSocket-Version", "sec-websocket-version")
            if version != "13":
                raise InvalidHeaderValue("Sec-WebSocket-Version", version)

        self.origin = self.process_origin(headers)
        extensions_header, extensions = self.process_extensions(headers)
        if extensions:
            self.extensions = extensions
        subprotocol = self.process_subprotocol(headers)
        if subprotocol is not None:
            build_subprotocol([subprotocol])  # programs may return anything
        self.subprotocol = subprotocol
        return accept_key(key), extensions_header, subprotocol

    def process_origin(self, headers: Headers) -> Origin | None:
        """Check the origin of a request (RFC 6455 section 10.2).

        Args:
            headers: Headers of the request.

        Returns:
            The origin, None without one.

        Raises:
            InvalidHeader: If there are several.
            InvalidOrigin: If it isn't acceptable.
        """
        cdef list values = get_all_values(headers, "origin")
        if len(values) > 1:
            raise InvalidHeader("Origin", "multiple values")
        origin = values[0] if values else None
        if self.origins is None:
            return origin
        for acceptable in self.origins:
            if acceptable is None or isinstance(acceptable, str):
                if acceptable == origin:
                    return origin
            elif origin is not None and acceptable.fullmatch(origin) is not None:
                return origin
        raise InvalidOrigin(origin)

    def process_extensions(self, headers: Headers) -> tuple[str | None, list[Extension]]:
        """Negotiate extensions (RFC 6455 section 9.1).

        Each offer, in the client's order, goes to the first factory of that name that agrees with
        its parameters; an offer that suits none is ignored.

        Args:
            headers: Headers of the request.

        Returns:
            Value of the header of the response, None without extensions; and the extensions in the
            order in which they transform outgoing frames.

        Raises:
            InvalidHeader: If the header is malformed.
        """
        cdef list accepted = []
        cdef list answers = []
        cdef list values
        if not self.available_extensions:
            return None, accepted
        values = get_all_values(headers, "sec-websocket-extensions")
        for name, parameters in parse_extensions(values):
            for factory in self.available_extensions:
                if factory.name != name:
                    continue
                try:
                    answer, extension = factory.process_request_params(parameters, accepted)
                except NegotiationError:
                    continue
                answers.append((name, answer))
                accepted.append(extension)
                break
        return (build_extension(answers) if answers else None), accepted

    def process_subprotocol(self, headers: Headers) -> Subprotocol | None:
        """Negotiate the subprotocol.

        Args:
            headers: Headers of the request.

        Returns:
            The subprotocol, None to go without.

        Raises:
            InvalidHandshake: If there can't be an agreement.
        """
        return self.select_subprotocol(
            parse_subprotocols(get_all_values(headers, "sec-websocket-protocol"))
        )

    def select_subprotocol(self, subprotocols: Sequence[Subprotocol]) -> Subprotocol | None:
        """Choose a subprotocol: the first supported one that the client offers.

        Args:
            subprotocols: What the client offers.

        Returns:
            The subprotocol, None to go without.

        Raises:
            NegotiationError: If none that is supported is offered.
        """
        if self._select_subprotocol is not None:
            return self._select_subprotocol(self._subject(), subprotocols)
        if not self.available_subprotocols:
            return None
        for subprotocol in self.available_subprotocols:
            if subprotocol in subprotocols:
                return subprotocol
        if not subprotocols:
            raise NegotiationError("missing subprotocol")
        raise NegotiationError(
            f"invalid subprotocol; expected one of {', '.join(self.available_subprotocols)}"
        )

    def reject(self, status: StatusLike, text: str) -> Response:
        """Build a response that refuses the connection.

        The caller may alter it, then passes it to ``send_response``.

        Args:
            status: Status code, one that HTTP defines.
            text: Body, sent as UTF-8.
        """
        return self._error_response(status, text, None)

    cdef object _error_response(self, status, str text, list extra):
        cdef list items
        status = http.HTTPStatus(status)
        body = text.encode()
        items = [
            ("Date", _dated(False)),
            ("Connection", "close"),
            ("Content-Length", str(len(body))),
            ("Content-Type", "text/plain; charset=utf-8"),
        ]
        if extra is not None:
            items += extra
        headers = Headers._from_raw_items(items)
        if self.server_header is not None:
            headers["Server"] = self.server_header
        return Response(status.value, status.phrase, headers, body)

    def send_response(self, response: Response, now: float | None = None) -> None:
        """Send the response to the handshake request, and enter OPEN if its status is 101.

        Any other response is followed by the end of the stream; if nothing of a request was received, by that of
        the connection.

        Args:
            response: What ``accept`` or ``reject`` returned, perhaps altered, or any other.
            now: Current time.

        Raises:
            InvalidState: If the connection isn't in state CONNECTING, or was answered already.
        """
        self._require_connecting()
        if self._discarding:
            raise InvalidState("the handshake was answered already")
        data = _serialize(response)
        self._now = self._time(now)
        # A server may answer before the request is complete, but then nothing more of it is read.
        parser, self._parser = self._parser, None
        if self._debug():
            self._log_response(">", response)
        self._append_output(data)
        self.response_status = response.status_code
        if response.status_code == 101:
            self._set_open()
            if self._enabled(_INFO):
                self.logger.info("connection open")
            return
        if self.handshake_exc is None:
            text = "HTTP response sent (%d %s)"
        else:
            text = "connection rejected (%d %s)"
        self.logger.info(text, response.status_code, response.reason_phrase)
        self._set_handshake_failed(self.handshake_exc)
        self._send_eof()
        if parser is not None and not parser.started():
            # Browsers connect in advance: such a client asks for nothing, and may not look at the end of the
            # stream for long. There is nothing unread, so that closing sends no reset, which could overtake the
            # response (RFC 9112 section 9.6).
            self.transport_action = max(self.transport_action, CLOSE)

    cdef int _received_message(self) except -1:
        request = self._parser.message
        self._parser = None
        if self._debug():
            self._log_request("<", request)
        self._add_event(request)
        self._activity |= ATTENTION
        return 0

    cdef int _received_garbage(self, exc) except -1:
        if isinstance(exc, (RequestLineTooLong, HeaderLineTooLong, TooManyHeaders)):
            if isinstance(exc, RequestLineTooLong):
                status = 414  # named differently by versions of Python
                text = "! request line too long"
            else:
                status = http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                text = "! header fields too large"
            if self._debug():
                self.logger.debug(text, exc_info=exc)
            self.handshake_exc = exc
            self.send_response(
                self.reject(status, f"Failed to open a WebSocket connection: {exc}.\n")
            )
            return 0
        self._parser = None
        if self._debug():
            self.logger.debug("! no valid HTTP request", exc_info=exc)
        error = InvalidMessage("did not receive a valid HTTP request")
        error.__cause__ = exc
        self._set_handshake_failed(error)
        self._send_eof()
        return 0

    def timeout_response(self) -> Response | None:
        """Build the 408 for a client that takes too long to send its request.

        Returns:
            The response; None unless a part of the request was read, and no more.
        """
        if self._parser is None or not self._parser.started():
            return None
        return self.reject(
            http.HTTPStatus.REQUEST_TIMEOUT,
            "Failed to open a WebSocket connection: timed out during opening handshake.\n",
        )

    cdef int _opening_timed_out(self) except -1:
        if self._debug():
            self.logger.debug("- timed out during opening handshake")
        response = self.timeout_response()
        if response is None:
            return Protocol._opening_timed_out(self)
        self.handshake_exc = TimeoutError("timed out during opening handshake")
        self.send_response(response)
        self.transport_action = max(self.transport_action, CLOSE)
        return 0
