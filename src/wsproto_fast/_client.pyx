"""A client's side of the opening handshake (RFC 6455 section 4.1): from CONNECTING to OPEN.

Owns the request, and the checks on responses and their order.
"""

import binascii
import os

from ._handshake cimport (
    HandshakeProtocol,
    accept_key,
    check_upgrade,
    get_all_values,
    one_value,
    parse_extensions,
    parse_subprotocols,
)
from ._http11_response cimport ResponseParser
from ._protocol cimport Protocol
from ._queue cimport ATTENTION
from ._endpoint cimport CONNECTING

from . import http11
from .datastructures import Headers
from .exceptions import (
    InvalidHeader,
    InvalidHeaderValue,
    InvalidMessage,
    InvalidStatus,
    NegotiationError,
    StatusLineTooLong,
)
from .frames import Side, State
from .headers import build_authorization_basic, build_extension, build_host, validate_subprotocols
from .http11 import Request, Response
from .uri import WebSocketURI


cdef double BODY_TIMEOUT = http11.BODY_TIMEOUT
cdef double BODY_PART_TIMEOUT = http11.BODY_PART_TIMEOUT

cdef object b2a_base64 = binascii.b2a_base64


cdef class ClientProtocol(HandshakeProtocol):
    """ClientProtocol(uri, *, origin=None, extensions=None, subprotocols=None, state=State.CONNECTING, \
max_size=1048576, logger=None)\n--\n
    Client side of a WebSocket connection.

    Args:
        uri: Parsed URI.
        origin: Value of the ``Origin`` header.
        extensions: Factories of extensions to offer, in order of preference.
        subprotocols: Subprotocols to offer, in order of preference; each is offered once.
        state: State to start in.
        max_size: Limit for messages and fragments, see ``Protocol``.
        logger: Logger, ``wsproto_fast.client`` by default; see ``environment``.

    Attributes:
        key: Value of the ``Sec-WebSocket-Key`` header.
        available_extensions: Factories of extensions that are offered.
        available_subprotocols: Subprotocols that are offered.
    """

    def __init__(
        self,
        uri: WebSocketURI,
        *,
        origin: Origin | None = None,
        extensions: Sequence[ClientExtensionFactory] | None = None,
        subprotocols: Sequence[Subprotocol] | None = None,
        state: State = State.CONNECTING,
        max_size: int | None | tuple[int | None, int | None] = 2**20,
        logger: LoggerLike | None = None,
    ) -> None:
        Protocol.__init__(self, Side.CLIENT, state=state, max_size=max_size, logger=logger)
        self.uri = uri
        self.origin = origin
        self.available_extensions = extensions
        self.available_subprotocols = subprotocols
        self.key = (<bytes> b2a_base64(os.urandom(16), newline=False)).decode("ascii")
        if self._state == CONNECTING:
            self._parser = ResponseParser()

    def connect(self) -> Request:
        """Build the handshake request (RFC 6455 section 4.1).

        The caller may alter it, then passes it to ``send_request``.
        """
        cdef list items
        uri = self.uri
        items = [("Host", build_host(uri.host, uri.port, uri.secure))]
        if uri.user_info is not None:
            items.append(("Authorization", build_authorization_basic(*uri.user_info)))
        if self.origin is not None:
            items.append(("Origin", self.origin))
        items.append(("Upgrade", "websocket"))
        items.append(("Connection", "Upgrade"))
        items.append(("Sec-WebSocket-Key", self.key))
        items.append(("Sec-WebSocket-Version", "13"))
        if self.available_extensions:
            items.append((
                "Sec-WebSocket-Extensions",
                build_extension([
                    (factory.name, factory.get_request_params())
                    for factory in self.available_extensions
                ]),
            ))
        if self.available_subprotocols:
            validate_subprotocols(self.available_subprotocols)
            # Programs put lists together.
            items.append(("Sec-WebSocket-Protocol", ", ".join(dict.fromkeys(self.available_subprotocols))))
        # Only what the caller supplies needs a check, which Headers does.
        return Request(uri.resource_name, Headers(items))

    def send_request(self, request: Request) -> None:
        """Send a handshake request.

        Args:
            request: What ``connect`` returned, perhaps altered.

        Raises:
            InvalidState: If the connection isn't in state CONNECTING.
        """
        self._require_connecting()
        data = request.serialize()
        if self._debug():
            self._log_request(">", request)
        self._append_output(data)

    def process_response(self, response: Response) -> None:
        """Check a handshake response and set up what it negotiates (RFC 6455 section 4.1).

        Args:
            response: What the server answered.

        Raises:
            InvalidHandshake: If it isn't right.
        """
        if response.status_code != 101:
            raise InvalidStatus(response)
        headers = response.headers
        check_upgrade(headers)
        accept = one_value(headers, "Sec-WebSocket-Accept", "sec-websocket-accept")
        if accept != accept_key(self.key):
            raise InvalidHeaderValue("Sec-WebSocket-Accept", accept)
        extensions = self.process_extensions(headers)
        if extensions:
            self.extensions = extensions
        self.subprotocol = self.process_subprotocol(headers)

    def process_extensions(self, headers: Headers) -> list[Extension]:
        """Match the extensions that the server accepted with those that were offered.

        Each accepted extension goes to the first factory of that name that agrees with its
        parameters.

        Args:
            headers: Headers of the response.

        Returns:
            Extensions in the order in which they transform outgoing frames.

        Raises:
            NegotiationError: If an extension wasn't offered, or not with these parameters.
        """
        cdef list accepted = []
        cdef list values = get_all_values(headers, "sec-websocket-extensions")
        if not values:
            return accepted
        if self.available_extensions is None:
            raise NegotiationError("no extensions supported")
        for name, parameters in parse_extensions(values):
            for factory in self.available_extensions:
                if factory.name != name:
                    continue
                try:
                    extension = factory.process_response_params(parameters, accepted)
                except NegotiationError:
                    continue
                accepted.append(extension)
                break
            else:
                raise NegotiationError(
                    f"Unsupported extension: name = {name}, params = {parameters}"
                )
        return accepted

    def process_subprotocol(self, headers: Headers) -> Subprotocol | None:
        """Check the subprotocol that the server selected.

        Args:
            headers: Headers of the response.

        Returns:
            The subprotocol, None when the server selected none.

        Raises:
            NegotiationError: If it wasn't offered.
            InvalidHeader: If there are several.
        """
        cdef list values = get_all_values(headers, "sec-websocket-protocol")
        if not values:
            return None
        if self.available_subprotocols is None:
            raise NegotiationError("no subprotocols supported")
        subprotocols = parse_subprotocols(values)
        if len(subprotocols) > 1:
            raise InvalidHeader(
                "Sec-WebSocket-Protocol", f"multiple values: {', '.join(subprotocols)}"
            )
        subprotocol = subprotocols[0]
        if subprotocol not in self.available_subprotocols:
            raise NegotiationError(f"unsupported subprotocol: {subprotocol}")
        return subprotocol

    cdef int _received_part(self) except -1:
        cdef ResponseParser parser = <ResponseParser> self._parser
        cdef list skipped = parser.take_skipped()
        if skipped is not None and self._debug():
            for response in skipped:
                self._log_response("<", response)
                self.logger.debug("- skipped an interim response")
        if parser.reading_body():
            # RFC 9112 section 6.3: the connection may be what ends the body, but servers forget to
            # close it. The status must not wait for that.
            if self._body_deadline == 0:
                self._body_deadline = min(self._open_deadline, self._now + BODY_TIMEOUT)
            self._open_deadline = min(self._body_deadline, self._now + BODY_PART_TIMEOUT)
            self._activity |= ATTENTION
        return 0

    cdef int _opening_timed_out(self) except -1:
        cdef ResponseParser parser = <ResponseParser> self._parser
        if parser is None or not parser.reading_body():
            return Protocol._opening_timed_out(self)
        if self._debug():
            self.logger.debug("- timed out while reading the body of the response")
        parser.end_body()
        return self._received_message()

    cdef int _received_message(self) except -1:
        response = self._parser.message
        self._parser = None
        if self._debug():
            self._log_response("<", response)
        self._add_event(response)
        self._activity |= ATTENTION
        try:
            self.process_response(response)
        except Exception as exc:
            self._set_handshake_failed(exc)
            self._send_eof()
            return 0
        self._set_open()
        return 0

    cdef int _received_garbage(self, exc) except -1:
        self._parser = None
        if not isinstance(exc, StatusLineTooLong):
            cause = exc
            exc = InvalidMessage("did not receive a valid HTTP response")
            exc.__cause__ = cause
        self._set_handshake_failed(exc)
        self._send_eof()
        return 0
