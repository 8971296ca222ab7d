"""The engine with the interface of wsproto: events in, bytes out, and the other way round.

Nothing is sent on its own accord: a Request is answered by AcceptConnection or RejectConnection, a
Ping and a CloseConnection by their ``response()``.

Beyond wsproto there are limits on what a peer can make us hold: ``max_size`` for messages, inflated
or not, 64 MiB unless ``WSPROTO_FAST_WSPROTO_MAX_SIZE`` in the environment says otherwise, and
those of the engine for the opening handshake. ``Connection.failed`` tells that the peer broke the
protocol.
"""

from __future__ import annotations

from collections.abc import Generator

from ..typing import BytesLike
from . import events, extensions, frame_protocol, utilities
from .connection import DEFAULT_MAX_SIZE, Connection, ConnectionState, ConnectionType
from .events import Event
from .handshake import H11Handshake
from .typing import Headers

__all__ = [
    "Connection",
    "ConnectionState",
    "ConnectionType",
    "H11Handshake",
    "WSConnection",
    "events",
    "extensions",
    "frame_protocol",
    "utilities",
]

# The version whose interface this is: programs compare it.
__version__ = "1.3.2"


class WSConnection:
    """A WebSocket connection, opening handshake included.

    Args:
        connection_type: Role.
        max_size: Limit on the size of messages in bytes, inflated; None for no limit. A larger one
            is a ``CloseConnection`` with code 1009.

    Attributes:
        client: Whether this is the client's end.
        handshake: The opening handshake.
        connection: The connection that it opened, None before that.
    """

    def __init__(
        self, connection_type: ConnectionType, *, max_size: int | None = DEFAULT_MAX_SIZE
    ) -> None:
        self.client = connection_type is ConnectionType.CLIENT
        self.handshake = H11Handshake(connection_type, max_size=max_size)
        self.connection: Connection | None = None

    @property
    def state(self) -> ConnectionState:
        """State of the connection, as of the events that were taken."""
        return self.handshake.state if self.connection is None else self.connection.state

    def initiate_upgrade_connection(self, headers: Headers, path: bytes | str) -> None:
        """Begin with a request that was received and parsed elsewhere.

        Args:
            headers: Headers of the request.
            path: Request target.

        Raises:
            LocalProtocolError: On a client.
            RemoteProtocolError: If the request isn't right.
        """
        self.handshake.initiate_upgrade_connection(headers, path)

    def send(self, event: Event) -> bytes:
        """Return the bytes to send for an event.

        Args:
            event: Event.

        Raises:
            LocalProtocolError: If it can't be sent in this state.
        """
        if self.connection is not None:
            return self.connection.send(event)
        data = self.handshake.send(event)
        self.connection = self.handshake.connection
        return data

    def receive_data(self, data: BytesLike | None) -> None:
        """Take received bytes; ``events()`` tells what they mean.

        Args:
            data: Bytes-like object; None for the end of the stream.

        Raises:
            LocalProtocolError: If the connection is closed.
            RemoteProtocolError: If the peer's opening handshake isn't right.
        """
        if self.connection is not None:
            self.connection.receive_data(data)
            return
        self.handshake.receive_data(data)
        self.connection = self.handshake.connection

    def events(self) -> Generator[Event, None, None]:
        """Yield the events that were received, each of them once.

        The state changes as they are taken.
        """
        if self.connection is not None and not self.handshake._side.received:
            return self.connection.events()
        return self._all_events()

    def _all_events(self) -> Generator[Event, None, None]:
        yield from self.handshake.events()
        if self.connection is not None:
            yield from self.connection.events()
