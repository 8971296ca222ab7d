"""Opening handshake of a client: requests to bytes, answers to events (RFC 6455 §4.1)."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Sequence
from typing import Any, cast

from .. import ClientProtocol
from .._http11_response import ResponseParser
from ..datastructures import Headers as HTTPHeaders
from ..exceptions import InvalidHandshake, NegotiationError
from ..headers import (
    build_extension,
    build_subprotocol,
    is_valid_host,
    parse_extension,
    parse_subprotocol,
)
from ..http11 import Request as HTTPRequest
from ..http11 import Response as HTTPResponse
from ..typing import ExtensionName, ExtensionParameter, Subprotocol
from ..uri import WebSocketURI
from ._translation import (
    WEBSOCKET_UPGRADE,
    WEBSOCKET_VERSION,
    HandshakeSide,
    complaint,
    from_http,
    refuse,
    to_http,
)
from .connection import ConnectionState, ConnectionType
from .events import AcceptConnection, Event, RejectConnection, RejectData, Request
from .extensions import Extension
from .typing import Headers
from .utilities import LocalProtocolError, generate_nonce

_target = re.compile(rb"[\x21-\x7e]+")
# Headers of a response that the client has dealt with.
_NEGOTIATED = {
    "connection",
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-protocol",
    "upgrade",
}


class _Offered:
    """An extension that a client offered, as the engine's factories look."""

    def __init__(self, extension: Extension) -> None:
        self.name = ExtensionName(extension.name)
        self._extension = extension

    def get_request_params(self) -> Sequence[ExtensionParameter]:
        raise AssertionError("what is offered is up to Extension.offer()")

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


class ClientHandshake(HandshakeSide):
    """Opening handshake of a client.

    Args:
        max_size: Limit on the size of messages of the connection that results.
    """

    def __init__(self, max_size: int | None) -> None:
        super().__init__(ConnectionType.CLIENT, max_size)
        self._parser: ResponseParser | None = ResponseParser()
        self._request: Request | None = None
        self._checker: ClientProtocol | None = None

    def send(self, event: Event) -> bytes:
        """Return the bytes of a request.

        Args:
            event: Request.

        Raises:
            LocalProtocolError: If it can't be sent in this state, or has a value that can't be.
        """
        if not isinstance(event, Request) or self.state is not ConnectionState.CONNECTING:
            raise LocalProtocolError(f"Event {event} cannot be sent in state {self.state}.")
        if self._request is not None:
            raise LocalProtocolError(f"Event {event} cannot be sent twice")
        extensions = cast("Sequence[Extension]", event.extensions)
        try:
            host = event.host.encode("idna")
            target = event.target.encode("ascii")
            subprotocols = build_subprotocol(
                [Subprotocol(name) for name in dict.fromkeys(event.subprotocols)]
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
        data = HTTPRequest(event.target, to_http([*headers, *event.extra_headers])).serialize()
        self._request = event
        self._checker = ClientProtocol(
            WebSocketURI(False, event.host, 80, event.target, "", None, None),
            extensions=[_Offered(extension) for extension in extensions],
            subprotocols=[Subprotocol(name) for name in event.subprotocols],
        )
        self._checker.key = nonce.decode()
        return data

    def receive(self, data: bytes) -> None:
        """Take received bytes; none are the end of the stream."""
        parser = self._parser
        if parser is None:
            return
        rejecting = self.state is ConnectionState.REJECTING
        try:
            if self._request is None:
                raise ValueError("a response without a request")
            if data:
                used = parser.feed_data(data)
            else:
                parser.feed_eof()
        except (EOFError, InvalidHandshake, NotImplementedError, ValueError) as exc:
            self._parser = None
            raise refuse("Bad HTTP message") from exc
        message = parser.message
        if message is None:
            return
        if message.status_code == 101:
            self._parser = None
            self.received.append(self._establish(message, data[used:]))
            return
        if not rejecting:
            self.received.append(
                RejectConnection(message.status_code, from_http(message.headers), has_body=True)
            )
            self.state = ConnectionState.REJECTING
        if piece := parser.take_body():
            self.received.append(RejectData(piece, body_finished=False))
        if parser.complete:
            self._parser = None
            self.received.append(RejectData(b"", body_finished=True))
            self.state = ConnectionState.CLOSED

    def _establish(self, message: HTTPResponse, trailing_data: bytes) -> AcceptConnection:
        checker = self._checker
        assert checker is not None
        try:
            checker.process_response(message)
        except NegotiationError as exc:
            raise refuse(self._unrecognized(message.headers) or str(exc)) from exc
        except InvalidHandshake as exc:
            raise complaint(exc) from exc
        extensions = cast("list[Extension]", checker.extensions)
        self._open(extensions, trailing_data)
        self._checker = None
        return AcceptConnection(
            subprotocol=checker.subprotocol,
            extensions=extensions,
            extra_headers=from_http(message.headers, _NEGOTIATED),
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
                    raise refuse(str(exc)) from exc
                extensions.append(extension)
                break
        else:
            raise refuse(f"unrecognized extension {name}")
    return extensions
