"""The opening handshake over HTTP/1.1, both sides (RFC 6455 §4).

Owns which events may be sent when, and their translation into HTTP messages and back. What a
handshake must look like is checked by the engine: ``ServerProtocol.process_request`` and
``ClientProtocol.process_response``; so is the grammar of HTTP, within the engine's limits.
"""

from __future__ import annotations

import http
import re
from collections.abc import Generator, Iterable, Sequence
from typing import Any, cast

from .. import ClientProtocol, ServerProtocol
from .._http11 import RequestParser
from .._http11_response import ResponseParser
from ..datastructures import Headers as HTTPHeaders
from ..exceptions import (
    InvalidHandshake,
    InvalidHeader,
    InvalidHeaderValue,
    InvalidMethod,
    InvalidProtocol,
    InvalidUpgrade,
    NegotiationError,
)
from ..headers import (
    build_extension,
    build_subprotocol,
    is_valid_host,
    parse_extension,
    parse_subprotocol,
)
from ..http11 import Request as HTTPRequest
from ..http11 import Response as HTTPResponse
from ..http11 import parse_content_length
from ..typing import BytesLike, ExtensionName, ExtensionParameter, Subprotocol
from ..uri import WebSocketURI
from .connection import DEFAULT_MAX_SIZE, Connection, ConnectionState, ConnectionType
from .events import AcceptConnection, Event, RejectConnection, RejectData, Request
from .extensions import Extension
from .typing import Headers
from .utilities import (
    LocalProtocolError,
    RemoteProtocolError,
    generate_nonce,
    split_comma_header,
)

__all__ = [
    "WEBSOCKET_UPGRADE",
    "WEBSOCKET_VERSION",
    "H11Handshake",
    "client_extensions_handshake",
    "server_extensions_handshake",
]

WEBSOCKET_VERSION = b"13"
"""Value of ``Sec-WebSocket-Version`` (RFC 6455 §4.1)."""

WEBSOCKET_UPGRADE = b"websocket"
"""Value of ``Upgrade``."""

# What a client may send before its request is answered.
_MAX_EARLY = 65536
_token = re.compile(rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+")
_target = re.compile(rb"[\x21-\x7e]+")
# Headers of a request that have their own places in the event.
_PARSED = {"host", "sec-websocket-extensions", "sec-websocket-protocol"}
# Headers of a response that the client has dealt with.
_NEGOTIATED = {
    "connection",
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-protocol",
    "upgrade",
}


def _to_http(headers: Iterable[tuple[bytes | str, bytes | str]]) -> HTTPHeaders:
    """Check headers that are to be sent.

    Raises:
        LocalProtocolError: If a name or a value isn't well formed.
    """
    result = HTTPHeaders()
    for name, value in headers:
        # Servers with ASGI's habits give bytes, others str.
        try:
            name = name.encode("ascii") if isinstance(name, str) else bytes(name)
            value = value.encode("iso-8859-1") if isinstance(value, str) else bytes(value)
        except UnicodeError as exc:
            raise LocalProtocolError(f"invalid header {name!r}: {value!r}") from exc
        if _token.fullmatch(name) is None:
            raise LocalProtocolError(f"invalid name of a header: {name!r}")
        try:
            result[name.decode("ascii")] = value.decode("iso-8859-1")
        except InvalidHeaderValue as exc:
            raise LocalProtocolError(f"invalid value of header {name!r}: {value!r}") from exc
    return result


def _from_http(headers: HTTPHeaders, leave_out: Iterable[str] = ()) -> Headers:
    """Return received headers as pairs of bytes, names in lower case."""
    return [
        (name.lower().encode("ascii"), value.encode("iso-8859-1"))
        for name, value in headers.raw_items()
        if name.lower() not in leave_out
    ]


def _elements(headers: HTTPHeaders, name: str) -> list[str]:
    """Return the elements of a list that may be spread over repeated headers."""
    found: list[str] = []
    for value in headers.get_all(name):
        found += filter(None, split_comma_header(value.encode("iso-8859-1")))
    return found


def _refuse(
    message: str, status_code: int = 400, headers: Headers | None = None
) -> RemoteProtocolError:
    hint = RejectConnection(status_code=status_code, headers=headers or [])
    return RemoteProtocolError(message, event_hint=hint)


def _first_fault(exc: InvalidHandshake, headers: HTTPHeaders) -> InvalidHandshake:
    """Return what programs expect to be told first: the version, then the key, then Upgrade."""
    if isinstance(exc, InvalidHeader) and exc.name in ("Upgrade", "Sec-WebSocket-Key"):
        versions = headers.get_all("Sec-WebSocket-Version")
        if versions != [WEBSOCKET_VERSION.decode()]:
            return InvalidHeader("Sec-WebSocket-Version", ", ".join(versions) or None)
        if "Sec-WebSocket-Key" not in headers:
            return InvalidHeader("Sec-WebSocket-Key")
    return exc


def _complaint(exc: InvalidHandshake) -> RemoteProtocolError:
    """Translate what the engine found wrong."""
    if isinstance(exc, InvalidMethod):
        return _refuse("Request method must be GET")
    if isinstance(exc, InvalidProtocol):
        return _refuse(str(exc), 505)
    if isinstance(exc, InvalidUpgrade):
        expected = "websocket" if exc.name == "Upgrade" else "Upgrade"
        return _refuse(f"Missing header, '{exc.name}: {expected}'")
    if isinstance(exc, InvalidHeader):
        if exc.name == "Host":
            return _refuse("Bad HTTP message")
        if exc.name == "Sec-WebSocket-Version":
            known: Headers = [(b"Sec-WebSocket-Version", WEBSOCKET_VERSION)]
            message = "Missing header, 'Sec-WebSocket-Version'"
            return _refuse(message, 426 if exc.value else 400, known)
        if exc.name == "Sec-WebSocket-Accept":
            return _refuse("Bad accept token")
        if exc.value is None:
            return _refuse(f"Missing header, '{exc.name}'")
    return _refuse(str(exc))


class _Offered:
    """An extension that a client offered, as the engine's factories look."""

    def __init__(self, extension: Extension) -> None:
        self.name = ExtensionName(extension.name)
        self._extension = extension

    def get_request_params(self) -> Sequence[ExtensionParameter]:
        raise NotImplementedError("what is offered is up to Extension.offer()")

    def process_response_params(
        self, params: list[ExtensionParameter], accepted_extensions: list[Any]
    ) -> Any:
        if self._extension in accepted_extensions:
            raise NegotiationError(f"extension {self.name} was accepted twice")
        try:
            self._extension.finalize(build_extension([(self.name, params)]))
        except ValueError as exc:
            raise NegotiationError(str(exc)) from exc
        return self._extension


class H11Handshake:
    """The opening handshake of one connection.

    Args:
        connection_type: Role.
        max_size: Limit on the size of messages of the connection that results.
    """

    def __init__(
        self, connection_type: ConnectionType, *, max_size: int | None = DEFAULT_MAX_SIZE
    ) -> None:
        self.client = connection_type is ConnectionType.CLIENT
        self._connection_type = connection_type
        self._max_size = max_size
        self._state = ConnectionState.CONNECTING
        self._connection: Connection | None = None
        self._events: list[Event] = []
        self._request: Request | None = None
        self._accept_token = b""
        # Server
        self._request_parser: RequestParser | None = None if self.client else RequestParser()
        self._request_started = False
        self._early = bytearray()
        self._body: _BodyWriter | None = None
        # Client
        self._response_parser: ResponseParser | None = ResponseParser() if self.client else None
        self._checker: ClientProtocol | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(client={self.client}, state={self.state})"

    @property
    def state(self) -> ConnectionState:
        """State: CONNECTING, OPEN when it is done, REJECTING or CLOSED when it failed."""
        return self._state

    @property
    def connection(self) -> Connection | None:
        """Connection that the handshake opened, None before that."""
        return self._connection

    def events(self) -> Generator[Event, None, None]:
        """Yield the events that were received, each of them once."""
        while self._events:
            yield self._events.pop(0)

    def initiate_upgrade_connection(self, headers: Headers, path: bytes | str) -> None:
        """Begin with a request that was received and parsed elsewhere.

        Args:
            headers: Headers of the request; names and values may be str, too.
            path: Request target.

        Raises:
            LocalProtocolError: On a client, or if headers aren't well formed.
            RemoteProtocolError: If the request isn't right.
        """
        if self.client:
            raise LocalProtocolError(
                "Cannot initiate an upgrade connection when acting as the client"
            )
        head = _to_http(headers)
        try:
            target = path if isinstance(path, str) else path.decode("ascii")
            data = HTTPRequest(target, head).serialize()
        except ValueError as exc:
            raise _refuse("Bad HTTP message") from exc
        self.receive_data(data)

    def send(self, event: Event) -> bytes:
        """Return the bytes to send for an event.

        In state CONNECTING, that is a Request on a client, AcceptConnection or RejectConnection on
        a server; in state REJECTING, RejectData on a server.

        Args:
            event: Event.

        Raises:
            LocalProtocolError: If it can't be sent in this state, or has a value that can't be.
        """
        if not isinstance(event, (Request, AcceptConnection, RejectConnection, RejectData)):
            raise LocalProtocolError(f"Event {event} cannot be sent during the handshake")
        expected = (
            ConnectionState.REJECTING
            if isinstance(event, RejectData)
            else ConnectionState.CONNECTING
        )
        if isinstance(event, Request) is not self.client or self._state is not expected:
            raise LocalProtocolError(f"Event {event} cannot be sent in state {self._state}.")
        if isinstance(event, Request):
            return self._send_request(event)
        if isinstance(event, AcceptConnection):
            return self._accept(event)
        if isinstance(event, RejectConnection):
            return self._reject(event)
        return self._send_reject_data(event)

    def receive_data(self, data: BytesLike | None) -> None:
        """Take received bytes; ``events()`` tells what they mean.

        Args:
            data: Bytes-like object; None, or an empty one, for the end of the stream.

        Raises:
            RemoteProtocolError: If the peer's handshake isn't right.
        """
        if self._connection is not None:
            if data:
                self._connection.receive_data(data)
        elif self.client:
            self._receive_response(bytes(data or b""))
        else:
            self._receive_request(bytes(data or b""))

    # Server

    def _receive_request(self, data: bytes) -> None:
        parser = self._request_parser
        if parser is None:
            # Frames that the client sent before it knows whether it may.
            if self._state is ConnectionState.CONNECTING:
                if len(self._early) + len(data) > _MAX_EARLY:
                    raise _refuse("too much data before the handshake is complete")
                self._early += data
            return
        try:
            if data:
                self._request_started = True
                used = parser.feed_data(data)
            elif self._request_started:
                parser.feed_eof()
        except (EOFError, InvalidHandshake, NotImplementedError, ValueError) as exc:
            self._request_parser = None
            raise _refuse("Bad HTTP message") from exc
        if parser.message is None:
            return
        self._request_parser = None
        self._early += data[used:]
        self._events.append(self._check_request(parser.message))

    def _check_request(self, message: HTTPRequest) -> Request:
        headers = message.headers
        try:
            accept, _, _ = ServerProtocol(check_host=True).process_request(message)
            for value in headers.get_all("Sec-WebSocket-Extensions"):
                parse_extension(value)
            subprotocols: list[str] = []
            for value in headers.get_all("Sec-WebSocket-Protocol"):
                subprotocols += parse_subprotocol(value)
            host = headers["Host"].encode("ascii").decode("idna")
        except InvalidHandshake as exc:
            raise _complaint(_first_fault(exc, headers)) from exc
        except UnicodeError as exc:
            raise _refuse("Bad HTTP message") from exc
        self._accept_token = accept.encode()
        self._request = Request(
            host=host,
            target=message.path,
            extensions=_elements(headers, "Sec-WebSocket-Extensions"),
            extra_headers=_from_http(headers, _PARSED),
            subprotocols=subprotocols,
        )
        return self._request

    def _accept(self, event: AcceptConnection) -> bytes:
        if self._request is None:
            raise LocalProtocolError(f"Event {event} cannot be sent before a Request is received")
        headers: Headers = [
            (b"Upgrade", WEBSOCKET_UPGRADE),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Accept", self._accept_token),
        ]
        if event.subprotocol is not None:
            if event.subprotocol not in self._request.subprotocols:
                raise LocalProtocolError(f"unexpected subprotocol {event.subprotocol}")
            headers.append((b"Sec-WebSocket-Protocol", event.subprotocol.encode("ascii")))
        _to_http(event.extra_headers)
        answer = server_extensions_handshake(
            cast("Sequence[str]", self._request.extensions), event.extensions
        )
        if answer:
            headers.append((b"Sec-WebSocket-Extensions", answer))
        head = _to_http([*headers, *event.extra_headers])
        data = HTTPResponse(101, "Switching Protocols", head).serialize()
        self._open(event.extensions, bytes(self._early))
        self._early.clear()
        return data

    def _reject(self, event: RejectConnection) -> bytes:
        headers = list(event.headers)
        if not event.has_body:
            headers.append((b"content-length", b"0"))
        head = _to_http(headers)
        body = _BodyWriter(head)
        try:
            phrase = http.HTTPStatus(event.status_code).phrase
        except ValueError:
            phrase = ""
        if not 200 <= event.status_code <= 599:
            raise LocalProtocolError(f"invalid status code of a rejection: {event.status_code}")
        self._request_parser = None
        self._early.clear()
        if event.has_body:
            self._body = body
            self._state = ConnectionState.REJECTING
        else:
            self._state = ConnectionState.CLOSED
        return HTTPResponse(event.status_code, phrase, head).serialize()

    def _send_reject_data(self, event: RejectData) -> bytes:
        assert self._body is not None
        data = self._body.write(bytes(event.data), event.body_finished)
        if event.body_finished:
            self._state = ConnectionState.CLOSED
        return data

    # Client

    def _send_request(self, event: Request) -> bytes:
        if self._request is not None:
            raise LocalProtocolError(f"Event {event} cannot be sent twice")
        extensions = cast("Sequence[Extension]", event.extensions)
        try:
            host = event.host.encode("idna")
            target = event.target.encode("ascii")
            subprotocols = build_subprotocol(
                [Subprotocol(name) for name in event.subprotocols]
            ).encode()
            offers = b", ".join(_offers(extensions))
        except ValueError as exc:
            raise LocalProtocolError(f"Event {event} has characters that can't be sent") from exc
        if not is_valid_host(host.decode()):
            raise LocalProtocolError(f"invalid host: {event.host!r}")
        if _target.fullmatch(target) is None:
            raise LocalProtocolError(f"invalid request target: {event.target!r}")
        nonce = generate_nonce()
        headers: Headers = [
            (b"Host", host),
            (b"Upgrade", WEBSOCKET_UPGRADE),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Key", nonce),
            (b"Sec-WebSocket-Version", WEBSOCKET_VERSION),
        ]
        if subprotocols:
            headers.append((b"Sec-WebSocket-Protocol", subprotocols))
        if offers:
            headers.append((b"Sec-WebSocket-Extensions", offers))
        data = HTTPRequest(event.target, _to_http([*headers, *event.extra_headers])).serialize()
        self._request = event
        self._checker = ClientProtocol(
            WebSocketURI(False, event.host, 80, event.target, "", None, None),
            extensions=[_Offered(extension) for extension in extensions],
            subprotocols=[Subprotocol(name) for name in event.subprotocols],
        )
        self._checker.key = nonce.decode()
        return data

    def _receive_response(self, data: bytes) -> None:
        parser = self._response_parser
        if parser is None:
            return
        rejecting = self._state is ConnectionState.REJECTING
        try:
            if self._request is None:
                raise ValueError("a response without a request")
            if data:
                used = parser.feed_data(data)
            else:
                parser.feed_eof()
        except (EOFError, InvalidHandshake, NotImplementedError, ValueError) as exc:
            self._response_parser = None
            raise _refuse("Bad HTTP message") from exc
        message = parser.message
        if message is None:
            return
        if message.status_code == 101:
            self._response_parser = None
            self._events.append(self._establish(message, data[used:]))
            return
        if not rejecting:
            self._events.append(
                RejectConnection(message.status_code, _from_http(message.headers), has_body=True)
            )
            self._state = ConnectionState.REJECTING
        if piece := parser.take_body():
            self._events.append(RejectData(piece, body_finished=False))
        if parser.complete:
            self._response_parser = None
            self._events.append(RejectData(b"", body_finished=True))
            self._state = ConnectionState.CLOSED

    def _establish(self, message: HTTPResponse, trailing_data: bytes) -> AcceptConnection:
        checker = self._checker
        assert checker is not None
        try:
            checker.process_response(message)
        except NegotiationError as exc:
            raise _refuse(self._unrecognized(message.headers) or str(exc)) from exc
        except InvalidHandshake as exc:
            raise _complaint(exc) from exc
        extensions = cast("list[Extension]", checker.extensions)
        self._open(extensions, trailing_data)
        return AcceptConnection(
            subprotocol=checker.subprotocol,
            extensions=extensions,
            extra_headers=_from_http(message.headers, _NEGOTIATED),
        )

    def _unrecognized(self, headers: HTTPHeaders) -> str | None:
        """Tell what of an answer wasn't offered, None for nothing."""
        assert self._request is not None
        offered = [extension.name for extension in cast("Any", self._request.extensions)]
        for value in headers.get_all("Sec-WebSocket-Extensions"):
            for name, _ in parse_extension(value):
                if name not in offered:
                    return f"unrecognized extension {name}"
        for value in headers.get_all("Sec-WebSocket-Protocol"):
            for subprotocol in parse_subprotocol(value):
                if subprotocol not in self._request.subprotocols:
                    return f"unrecognized subprotocol {subprotocol}"
        return None

    def _open(self, extensions: list[Extension], trailing_data: bytes) -> None:
        self._connection = Connection(
            self._connection_type, extensions, trailing_data, max_size=self._max_size
        )
        self._state = ConnectionState.OPEN
        self._checker = None


class _BodyWriter:
    """Body of a response, framed as its headers say; in chunks if they don't (RFC 9112 §6).

    Args:
        headers: Headers of the response; ``Transfer-Encoding`` is added if nothing tells the
            length.

    Raises:
        LocalProtocolError: If the headers contradict each other.
    """

    def __init__(self, headers: HTTPHeaders) -> None:
        try:
            self._left = parse_content_length(headers)
        except (ValueError, InvalidHandshake) as exc:
            raise LocalProtocolError(str(exc)) from exc
        if self._left is None and "transfer-encoding" not in headers:
            headers["transfer-encoding"] = "chunked"

    def write(self, data: bytes, finished: bool) -> bytes:
        """Return a piece of the body as it is sent.

        Args:
            data: Contents.
            finished: Whether this is the last piece.

        Raises:
            LocalProtocolError: If the body doesn't have the length that was announced.
        """
        if self._left is None:
            chunk = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            return chunk + b"0\r\n\r\n" if finished else chunk
        left = self._left - len(data)
        if left < 0 or (finished and left > 0):
            raise LocalProtocolError(
                f"the body doesn't have its Content-Length: {abs(left)} bytes too "
                + ("many" if left < 0 else "few")
            )
        self._left = left
        return data


def _offers(extensions: Iterable[Extension]) -> Generator[bytes, None, None]:
    """Yield what a client offers, each extension once."""
    offered: dict[str, bool | str] = {}
    for extension in extensions:
        offered[extension.name] = extension.offer()
    for name, parameters in offered.items():
        if parameters is True or parameters == "":
            yield name.encode("ascii")
        elif parameters:
            yield f"{name}; {parameters}".encode("ascii")


def server_extensions_handshake(
    requested: Iterable[str], supported: Sequence[Extension]
) -> bytes | None:
    """Choose among the extensions that a client offers; those that are accepted get enabled.

    Args:
        requested: Offers, names with parameters, in the client's order.
        supported: Extensions to choose from. Of several offers of one, the first that it accepts
            counts.

    Returns:
        Value of ``Sec-WebSocket-Extensions`` in the answer, None if nothing is accepted.
    """
    accepted: dict[str, str] = {}
    for offer in requested:
        name = offer.partition(";")[0].strip()
        for extension in supported:
            if extension.name != name or name in accepted:
                continue
            answer = extension.accept(offer)
            if answer is True or isinstance(answer, str):
                accepted[name] = "" if answer is True else answer
    header = [f"{name}; {answer}" if answer else name for name, answer in accepted.items()]
    return ", ".join(header).encode("ascii") or None


def client_extensions_handshake(
    accepted: Iterable[str], supported: Sequence[Extension]
) -> list[Extension]:
    """Match the extensions that a server accepted with those that were offered.

    Args:
        accepted: What the server answered, names with parameters.
        supported: Extensions that were offered.

    Returns:
        Those that were accepted, enabled.

    Raises:
        RemoteProtocolError: If one wasn't offered, or not with these parameters.
    """
    extensions: list[Extension] = []
    for answer in accepted:
        name = answer.partition(";")[0].strip()
        for extension in supported:
            if extension.name == name and extension not in extensions:
                try:
                    extension.finalize(answer)
                except ValueError as exc:
                    raise _refuse(str(exc)) from exc
                extensions.append(extension)
                break
        else:
            raise _refuse(f"unrecognized extension {name}")
    return extensions
