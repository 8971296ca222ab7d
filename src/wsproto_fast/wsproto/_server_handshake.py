"""Opening handshake of a server: requests to events, answers to bytes (RFC 6455 §4.2)."""

from __future__ import annotations

import http
from collections.abc import Iterable, Sequence
from typing import cast

from .. import ServerProtocol
from .._http11 import RequestParser
from ..datastructures import Headers as HTTPHeaders
from ..exceptions import InvalidHandshake, InvalidHeader
from ..headers import parse_extension, parse_subprotocol
from ..http11 import Request as HTTPRequest
from ..http11 import Response as HTTPResponse
from ..http11 import parse_content_length
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
from .utilities import LocalProtocolError, split_comma_header

# What a client may send before its request is answered.
_MAX_EARLY = 65536
# Headers of a request that have their own places in the event.
_PARSED = {"host", "sec-websocket-extensions", "sec-websocket-protocol"}


def _elements(headers: HTTPHeaders, name: str) -> list[str]:
    """Return the elements of a list that may be spread over repeated headers."""
    found: list[str] = []
    for value in headers.get_all(name):
        found += filter(None, split_comma_header(value.encode("iso-8859-1")))
    return found


def _first_fault(exc: InvalidHandshake, headers: HTTPHeaders) -> InvalidHandshake:
    """Return what programs expect to be told first: the version, then the key, then Upgrade."""
    if isinstance(exc, InvalidHeader) and exc.name in ("Upgrade", "Sec-WebSocket-Key"):
        versions = headers.get_all("Sec-WebSocket-Version")
        if versions != [WEBSOCKET_VERSION.decode()]:
            return InvalidHeader("Sec-WebSocket-Version", ", ".join(versions) or None)
        if "Sec-WebSocket-Key" not in headers:
            return InvalidHeader("Sec-WebSocket-Key")
    return exc


class ServerHandshake(HandshakeSide):
    """Opening handshake of a server.

    Args:
        max_size: Limit on the size of messages of the connection that results.
    """

    def __init__(self, max_size: int | None) -> None:
        super().__init__(ConnectionType.SERVER, max_size)
        self._parser: RequestParser | None = RequestParser()
        self._started = False  # some of the request was received
        self._request: Request | None = None
        self._accept_token = b""
        self._early = bytearray()
        self._body: _BodyWriter | None = None

    def initiate(self, headers: Headers, path: bytes | str) -> None:
        """Begin with a request that was received and parsed elsewhere.

        Args:
            headers: Headers of the request; names and values may be str, too.
            path: Request target.

        Raises:
            LocalProtocolError: If headers aren't well formed.
            RemoteProtocolError: If the request isn't right.
        """
        head = to_http(headers)
        try:
            target = path if isinstance(path, str) else path.decode("ascii")
            data = HTTPRequest(target, head).serialize()
        except ValueError as exc:
            raise refuse("Bad HTTP message") from exc
        self.receive(data)

    def send(self, event: Event) -> bytes:
        """Return the bytes of an answer.

        Args:
            event: AcceptConnection or RejectConnection in state CONNECTING, RejectData in state
                REJECTING.

        Raises:
            LocalProtocolError: If it can't be sent in this state, or has a value that can't be.
        """
        if self.state is ConnectionState.CONNECTING:
            if isinstance(event, AcceptConnection):
                return self._accept(event)
            if isinstance(event, RejectConnection):
                return self._reject(event)
        elif self.state is ConnectionState.REJECTING and isinstance(event, RejectData):
            return self._send_reject_data(event)
        raise LocalProtocolError(f"Event {event} cannot be sent in state {self.state}.")

    def receive(self, data: bytes) -> None:
        """Take received bytes; none are the end of the stream."""
        parser = self._parser
        if parser is None:
            # Frames that the client sent before it knows whether it may.
            if self.state is ConnectionState.CONNECTING:
                if len(self._early) + len(data) > _MAX_EARLY:
                    raise refuse("too much data before the handshake is complete")
                self._early += data
            return
        try:
            if data:
                self._started = True
                used = parser.feed_data(data)
            elif self._started:
                parser.feed_eof()
        except (EOFError, InvalidHandshake, NotImplementedError, ValueError) as exc:
            self._parser = None
            raise refuse("Bad HTTP message") from exc
        if parser.message is None:
            return
        self._parser = None
        self._early += data[used:]
        self.received.append(self._check_request(parser.message))

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
            raise complaint(_first_fault(exc, headers)) from exc
        except UnicodeError as exc:
            raise refuse("Bad HTTP message") from exc
        self._accept_token = accept.encode()
        self._request = Request(
            host=host,
            target=message.path,
            extensions=_elements(headers, "Sec-WebSocket-Extensions"),
            extra_headers=from_http(headers, _PARSED),
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
        to_http(event.extra_headers)
        answer = server_extensions_handshake(
            cast("Sequence[str]", self._request.extensions), event.extensions
        )
        if answer:
            headers.append((b"Sec-WebSocket-Extensions", answer))
        head = to_http([*headers, *event.extra_headers])
        data = HTTPResponse(101, "Switching Protocols", head).serialize()
        self._open(event.extensions, bytes(self._early))
        self._early.clear()
        return data

    def _reject(self, event: RejectConnection) -> bytes:
        headers = list(event.headers)
        if not event.has_body:
            headers.append((b"content-length", b"0"))
        head = to_http(headers)
        body = _BodyWriter(head)
        try:
            phrase = http.HTTPStatus(event.status_code).phrase
        except ValueError:
            phrase = ""
        if not 200 <= event.status_code <= 599:
            raise LocalProtocolError(f"invalid status code of a rejection: {event.status_code}")
        self._parser = None
        self._early.clear()
        if event.has_body:
            self._body = body
            self.state = ConnectionState.REJECTING
        else:
            self.state = ConnectionState.CLOSED
        return HTTPResponse(event.status_code, phrase, head).serialize()

    def _send_reject_data(self, event: RejectData) -> bytes:
        assert self._body is not None
        data = self._body.write(bytes(event.data), event.body_finished)
        if event.body_finished:
            self.state = ConnectionState.CLOSED
        return data


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
