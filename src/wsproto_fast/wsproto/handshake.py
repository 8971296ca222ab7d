"""The opening handshake over HTTP/1.1, either side (RFC 6455 §4).

Owns which events may be sent in a handshake; each side has a module of its own. What a handshake
must look like is checked by the engine: ``ServerProtocol.process_request`` and
``ClientProtocol.process_response``; so is the grammar of HTTP, within the engine's limits.
"""

from __future__ import annotations

from collections.abc import Generator

from ..typing import BytesLike
from ._client_handshake import ClientHandshake, client_extensions_handshake
from ._server_handshake import ServerHandshake, server_extensions_handshake
from ._translation import WEBSOCKET_UPGRADE, WEBSOCKET_VERSION
from .connection import DEFAULT_MAX_SIZE, Connection, ConnectionState, ConnectionType
from .events import AcceptConnection, Event, RejectConnection, RejectData, Request
from .typing import Headers
from .utilities import LocalProtocolError

__all__ = [
    "WEBSOCKET_UPGRADE",
    "WEBSOCKET_VERSION",
    "H11Handshake",
    "client_extensions_handshake",
    "server_extensions_handshake",
]


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
        self._side: ClientHandshake | ServerHandshake = (
            ClientHandshake(max_size) if self.client else ServerHandshake(max_size)
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(client={self.client}, state={self.state})"

    @property
    def state(self) -> ConnectionState:
        """State: CONNECTING, OPEN when it is done, REJECTING or CLOSED when it failed."""
        return self._side.state

    @property
    def connection(self) -> Connection | None:
        """Connection that the handshake opened, None before that."""
        return self._side.connection

    def events(self) -> Generator[Event, None, None]:
        """Yield the events that were received, each of them once."""
        while self._side.received:
            yield self._side.received.pop(0)

    def initiate_upgrade_connection(self, headers: Headers, path: bytes | str) -> None:
        """Begin with a request that was received and parsed elsewhere.

        Args:
            headers: Headers of the request; names and values may be str, too.
            path: Request target.

        Raises:
            LocalProtocolError: On a client, or if headers aren't well formed.
            RemoteProtocolError: If the request isn't right.
        """
        if isinstance(self._side, ClientHandshake):
            raise LocalProtocolError(
                "Cannot initiate an upgrade connection when acting as the client"
            )
        self._side.initiate(headers, path)

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
        return self._side.send(event)

    def receive_data(self, data: BytesLike | None) -> None:
        """Take received bytes; ``events()`` tells what they mean.

        Args:
            data: Bytes-like object; None, or an empty one, for the end of the stream.

        Raises:
            RemoteProtocolError: If the peer's handshake isn't right.
        """
        if self._side.connection is None:
            self._side.receive(bytes(data or b""))
        elif data:
            self._side.connection.receive_data(data)
