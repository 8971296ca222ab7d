"""Headers and faults of opening handshakes, translated between this interface and the engine's.

Owns what is well formed in a header that a program gives, and the answer that is proposed to each
fault which the engine finds; and what both sides of a handshake have in common.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..datastructures import Headers as HTTPHeaders
from ..exceptions import (
    InvalidHandshake,
    InvalidHeader,
    InvalidHeaderValue,
    InvalidMethod,
    InvalidProtocol,
    InvalidUpgrade,
)
from .connection import Connection, ConnectionState, ConnectionType
from .events import Event, RejectConnection
from .extensions import Extension
from .typing import Headers
from .utilities import LocalProtocolError, RemoteProtocolError

WEBSOCKET_VERSION = b"13"
"""Value of ``Sec-WebSocket-Version`` (RFC 6455 §4.1)."""

WEBSOCKET_UPGRADE = b"websocket"
"""Value of ``Upgrade``."""

_token = re.compile(rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+")


def to_http(headers: Iterable[tuple[bytes | str, bytes | str]]) -> HTTPHeaders:
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


def from_http(headers: HTTPHeaders, leave_out: Iterable[str] = ()) -> Headers:
    """Return received headers as pairs of bytes, names in lower case."""
    return [
        (name.lower().encode("ascii"), value.encode("iso-8859-1"))
        for name, value in headers.raw_items()
        if name.lower() not in leave_out
    ]


def refuse(
    message: str, status_code: int = 400, headers: Headers | None = None
) -> RemoteProtocolError:
    hint = RejectConnection(status_code=status_code, headers=headers or [])
    return RemoteProtocolError(message, event_hint=hint)


def complaint(exc: InvalidHandshake) -> RemoteProtocolError:
    """Translate what the engine found wrong."""
    if isinstance(exc, InvalidMethod):
        return refuse("Request method must be GET")
    if isinstance(exc, InvalidProtocol):
        return refuse(str(exc), 505)
    if isinstance(exc, InvalidUpgrade):
        expected = "websocket" if exc.name == "Upgrade" else "Upgrade"
        return refuse(f"Missing header, '{exc.name}: {expected}'")
    if isinstance(exc, InvalidHeader):  # pragma: no branch: nothing else is found wrong
        if exc.name == "Host":
            return refuse("Bad HTTP message")
        if exc.name == "Sec-WebSocket-Version":
            known: Headers = [(b"Sec-WebSocket-Version", WEBSOCKET_VERSION)]
            message = "Missing header, 'Sec-WebSocket-Version'"
            return refuse(message, 426 if exc.value else 400, known)
        if exc.name == "Sec-WebSocket-Accept":
            return refuse("Bad accept token")
        if exc.value is None:
            return refuse(f"Missing header, '{exc.name}'")
    return refuse(str(exc))


class HandshakeSide:
    """What the two sides of an opening handshake have in common.

    Args:
        connection_type: Role.
        max_size: Limit on the size of messages of the connection that results.

    Attributes:
        state: State of the handshake.
        connection: Connection that it opened, None before that.
        received: Events that were received and not taken yet.
    """

    def __init__(self, connection_type: ConnectionType, max_size: int | None) -> None:
        self.state = ConnectionState.CONNECTING
        self.connection: Connection | None = None
        self.received: list[Event] = []
        self._connection_type = connection_type
        self._max_size = max_size

    def _open(self, extensions: list[Extension], trailing_data: bytes) -> None:
        self.connection = Connection(
            self._connection_type, extensions, trailing_data, max_size=self._max_size
        )
        self.state = ConnectionState.OPEN
