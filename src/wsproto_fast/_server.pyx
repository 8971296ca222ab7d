"""A server's side of the opening handshake (RFC 6455 section 4.2): from CONNECTING to OPEN.

Owns the checks on requests, their order, and what is answered. One thing isn't data given by the
caller: the ``Date`` header comes from the wall clock, which nothing else in the engine depends on.
"""

import binascii
import http
import logging

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
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
from ._parser cimport MAX_EARLY
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
    ProtocolError,
    RequestLineTooLong,
    TooManyHeaders,
)
from .frames import Side, State
from .headers import build_extension, build_subprotocol, is_valid_host
from .http11 import Request, Response
from .typing import StatusLike


cdef extern from *:
    """
    /* Whether an object has so many references; where threads count apart, nobody knows. */
    #ifdef Py_GIL_DISABLED
    #define wsproto_fast_has_references(object, number) 0
    #else
    #define wsproto_fast_has_references(object, number) (Py_REFCNT(object) == (number))
    #endif

    /* Whether its class is one of compiled code, so that no program overrides its methods. */
    #define wsproto_fast_is_compiled(object) (!PyType_HasFeature(Py_TYPE(object), Py_TPFLAGS_HEAPTYPE))
    """
    bint has_references "wsproto_fast_has_references"(object object, Py_ssize_t number)
    bint is_compiled "wsproto_fast_is_compiled"(object object)


cdef object _INFO = logging.INFO
cdef object _SERVER = Side.SERVER

# The second that the value of the Date header was made for, and that.
cdef time_t _second = -1
cdef str _date = None
cdef cython.pymutex _date_lock      # of these two, where there is no global lock

cdef bytes STATUS_LINE = b"HTTP/1.1 101 Switching Protocols\r\n"

# What the value of Sec-WebSocket-Accept has: 20 bytes in base64.
cdef enum:
    ACCEPT_SIZE = 28


cdef str _dated():
    """Return the value of the Date header of this second (RFC 9110 section 6.6.1)."""
    global _second, _date
    cdef time_t second = time(NULL)
    cdef str date = None
    if FREE_THREADED:
        _date_lock.acquire()
    if second == _second:
        date = _date
    if FREE_THREADED:
        _date_lock.release()
    if date is not None:
        return date
    from email.utils import formatdate  # which imports much that clients don't need

    date = formatdate(second, usegmt=True)
    if FREE_THREADED:
        _date_lock.acquire()
    _date = date
    _second = second
    if FREE_THREADED:
        _date_lock.release()
    return date


@cython.final
@cython.no_gc  # what it holds refers to nothing
cdef class Acceptance:
    """Headers of responses that accept a request, but for the value of Sec-WebSocket-Accept between its two parts.

    Those of connections that are opened in the same second with the same settings share it.
    """

    cdef bytes _before
    cdef bytes _after
    cdef str _date                  # values of headers in them
    cdef object _extensions
    cdef object _subprotocol
    cdef object _server

    cdef bint suits(self, str date, extensions, subprotocol, server) except -1:
        """Tell whether a response with these values would have the same headers."""
        return (
            self._date is date
            and self._server is server
            and (self._extensions is extensions or self._extensions == extensions)
            and (self._subprotocol is subprotocol or self._subprotocol == subprotocol)
        )

    cdef Py_ssize_t size(self) noexcept:
        """Return the size of the headers."""
        return PyBytes_GET_SIZE(self._before) + ACCEPT_SIZE + PyBytes_GET_SIZE(self._after)

    cdef int write(self, unsigned char* place, str accept) except -1:
        """Write the headers, with the value of Sec-WebSocket-Accept."""
        cdef Py_ssize_t size
        cdef const char* value = PyUnicode_AsUTF8AndSize(accept, &size)
        if size != ACCEPT_SIZE:
            raise ValueError(f"not the value of Sec-WebSocket-Accept: {accept!r}")
        memcpy(place, PyBytes_AS_STRING(self._before), PyBytes_GET_SIZE(self._before))
        place += PyBytes_GET_SIZE(self._before)
        memcpy(place, value, ACCEPT_SIZE)
        memcpy(place + ACCEPT_SIZE, PyBytes_AS_STRING(self._after), PyBytes_GET_SIZE(self._after))

    cdef object headers(self, str accept):
        """Return the headers, with the value of Sec-WebSocket-Accept."""
        cdef bytes block = PyBytes_FromStringAndSize(NULL, self.size())
        self.write(<unsigned char*>PyBytes_AS_STRING(block), accept)
        return headers_of_block(block)


# The last one. Not used where threads would change it at the same time.
cdef Acceptance _acceptance = None


cdef Acceptance _acceptance_of(extensions, subprotocol, server):
    """Return what responses have now that accept; None if one of these values isn't plainly one."""
    global _acceptance
    cdef str date = _dated()
    cdef Acceptance acceptance
    if not FREE_THREADED:
        acceptance = _acceptance
        if acceptance is not None and acceptance.suits(date, extensions, subprotocol, server):
            return acceptance
    if not (_is_visible(extensions) and _is_visible(subprotocol) and _is_visible(server)):
        return None
    after = "\r\n"
    if extensions is not None:
        after += f"Sec-WebSocket-Extensions: {extensions}\r\n"
    if subprotocol is not None:
        after += f"Sec-WebSocket-Protocol: {subprotocol}\r\n"
    if server is not None:
        after += f"Server: {server}\r\n"
    acceptance = Acceptance.__new__(Acceptance)
    acceptance._date = date
    acceptance._before = (
        f"Date: {date}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    ).encode()
    acceptance._after = after.encode()
    acceptance._extensions = extensions
    acceptance._subprotocol = subprotocol
    acceptance._server = server
    if not FREE_THREADED:
        _acceptance = acceptance
    return acceptance


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
            return STATUS_LINE + block + b"\r\n"
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
        checked = self._checked(request)
        if type(checked) is not tuple:
            return checked
        accept, extensions, subprotocol = <tuple>checked
        return _response(101, "Switching Protocols", self._accepting_headers(accept, extensions, subprotocol), b"")

    cdef object _checked(self, request):
        """Return what ``process_request`` does, or the response if the request isn't right."""
        try:
            accept, extensions, subprotocol = self.process_request(request)
            return accept, extensions, subprotocol
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

    cdef object _accepting_headers(self, accept, extensions, subprotocol):
        cdef object server = self.server_header
        cdef Acceptance acceptance = _acceptance_of(extensions, subprotocol, server)
        if acceptance is not None and type(accept) is str and len(<str>accept) == ACCEPT_SIZE:
            return acceptance.headers(accept)
        # Programs may return anything: this checks it.
        headers = Headers._from_raw_items(
            [("Date", _dated()), ("Upgrade", "websocket"), ("Connection", "Upgrade")]
        )
        headers["Sec-WebSocket-Accept"] = accept
        if extensions is not None:
            headers["Sec-WebSocket-Extensions"] = extensions
        if subprotocol is not None:
            headers["Sec-WebSocket-Protocol"] = subprotocol
        if server is not None:
            headers["Server"] = server
        return headers

    # ------------------------------------------------------------------ what was received, and answered

    @property
    def request(self):
        """What the client sent; None before that is whole."""
        if type(self._request) is bytes:
            self._unfold()
        self._request_folds = False
        return self._request

    @request.setter
    def request(self, request):
        if type(self._request) is bytes:
            self._unfold()
        self._request_folds = False
        self._request = request

    @property
    def response(self):
        """What it was answered by ``answer`` or ``send_response``; None before.

        Nor is there one if this object answered by itself.
        """
        if type(self._response) is Acceptance:
            self._unfold()
        return self._response

    @response.setter
    def response(self, response):
        if type(self._response) is Acceptance:
            self._unfold()
        self._response = response

    def take_request(self) -> bool:
        """Take the request from the events, once; return whether it was among them.

        Then it is in ``request``. As long as that isn't asked for, it needs less memory.
        """
        if self._events is None or self._request is None:
            return False
        # Frames follow the response only.
        self._events = None
        self._request_folds = is_compiled(self)
        return True

    def answer(self, now: float | None = None) -> Response | None:
        """Accept the request that was taken, and enter OPEN, if it is right.

        This is what ``accept`` and ``send_response`` do, in less time and memory.

        Args:
            now: Current time.

        Returns:
            The response if the request isn't right, to be altered, perhaps, and passed to ``send_response``; None if
            the connection was opened.

        Raises:
            InvalidState: If the connection isn't in state CONNECTING, was answered already, or there is no request.
        """
        cdef Acceptance acceptance
        cdef unsigned char* place
        cdef Py_ssize_t size
        cdef double when
        self._require_unanswered()
        if self._request is None:
            raise InvalidState("there is no request yet")
        when = self._time(now)
        checked = self._checked(self._request)
        if type(checked) is not tuple:
            return checked
        self._require_unanswered()  # programs choose subprotocols
        accept, extensions, subprotocol = <tuple>checked
        acceptance = _acceptance_of(extensions, subprotocol, self.server_header)
        if acceptance is None or len(<str?>accept) != ACCEPT_SIZE or self._debug() or not self._fold():
            self.send_response(
                _response(
                    101, "Switching Protocols", self._accepting_headers(accept, extensions, subprotocol), b""
                ),
                now,
            )
            return None
        self._response = acceptance
        self._now = when
        self._parser = None
        size = acceptance.size()
        place = self._output.reserve(PyBytes_GET_SIZE(STATUS_LINE) + size + 2)
        memcpy(place, PyBytes_AS_STRING(STATUS_LINE), PyBytes_GET_SIZE(STATUS_LINE))
        place += PyBytes_GET_SIZE(STATUS_LINE)
        acceptance.write(place, accept)
        memcpy(place + size, b"\r\n", 2)
        self._opened()
        return None

    cdef int _opened(self) except -1:
        self.response_status = 101
        self._set_open()
        if self._enabled(_INFO):
            self.logger.info("connection open")

    cdef bint _fold(self) except -1:
        """Keep the request as little as possible, if nobody else has seen it."""
        cdef object request = self._request
        cdef object headers, path
        cdef bytes block, folded
        cdef const char* line
        cdef char* place
        cdef Py_ssize_t size
        # Two references: in the attribute and in the variable.
        if not self._request_folds or not has_references(request, 2):
            return False
        headers = request.headers
        if type(headers) is not Headers or not has_references(headers, 2):
            return False
        block = headers._block
        path = request.path
        if block is None or type(path) is not str:
            return False
        # The parser has seen to it that it is ASCII, without blanks.
        line = PyUnicode_AsUTF8AndSize(path, &size)
        folded = PyBytes_FromStringAndSize(NULL, size + 1 + PyBytes_GET_SIZE(block))
        place = PyBytes_AS_STRING(folded)
        memcpy(place, line, size)
        place[size] = c"\n"
        memcpy(place + size + 1, PyBytes_AS_STRING(block), PyBytes_GET_SIZE(block))
        self._request = folded
        return True

    cdef int _unfold(self) except -1:
        """Make objects of the request and of the response, which nobody has asked for until now."""
        cdef object folded = self._request
        cdef object acceptance = self._response
        cdef bytes path, block
        if type(folded) is not bytes or type(acceptance) is not Acceptance:
            return 0
        path, _, block = (<bytes>folded).partition(b"\n")
        request = new_instance(Request)
        request.path = path.decode()
        request.headers = headers_of_block(block)
        request.method = "GET"
        request.protocol = "HTTP/1.1"
        accept = accept_key(one_value(request.headers, "Sec-WebSocket-Key", "sec-websocket-key"))
        self._response = _response(101, "Switching Protocols", (<Acceptance>acceptance).headers(accept), b"")
        self._request = request

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
            ("Date", _dated()),
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
        the connection. Where the method of the request is HEAD, its body isn't sent (RFC 9110 section 9.3.2).

        Args:
            response: What ``accept`` or ``reject`` returned, perhaps altered, or any other.
            now: Current time.

        Raises:
            InvalidState: If the connection isn't in state CONNECTING, or was answered already.
        """
        self._send_response(response, self._time(now))
        self._response = response

    cdef int _send_response(self, response, double now) except -1:
        self._require_unanswered()
        data = _serialize(response)
        self._now = now
        # A server may answer before the request is complete, but then nothing more of it is read.
        parser, self._parser = self._parser, None
        if self._debug():
            self._log_response(">", response)
        if response.status_code == 101:
            self._append_output(data)
            return self._opened()
        self._append_output(self._without_content(response, data))
        self.response_status = response.status_code
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

    def _without_content(self, response, data):
        """Return a serialized response as it is sent: to HEAD without content (RFC 9110 section 9.3.2)."""
        body = getattr(response, "body", None)
        if body and getattr(self._request, "method", None) == "HEAD":
            return data[: len(data) - len(body)]
        return data

    def _require_unanswered(self):
        self._require_connecting()
        if self._discarding:
            raise InvalidState("the handshake was answered already")

    cdef int _received_message(self) except -1:
        request = self._request = self._parser.message
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
            self._send_response(
                self.reject(status, f"Failed to open a WebSocket connection: {exc}.\n"), self._now
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

    cdef int _set_early_data_refused(self) except -1:
        """Answer a client that sends on and on instead of waiting for the response (RFC 6455 section 4.1)."""
        exc = ProtocolError(f"over {MAX_EARLY} bytes before the handshake is complete")
        self.handshake_exc = exc
        # Named differently by versions of Python.
        self._send_response(self.reject(413, f"Failed to open a WebSocket connection: {exc}.\n"), self._now)
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
        self._send_response(response, self._now)
        self.transport_action = max(self.transport_action, CLOSE)
        return 0
