"""Takes the place of connections while there is no transport for them yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from wsproto_fast import Protocol

    from .connection import Connection

__all__ = ["StandIn"]


class StandIn(asyncio.BufferedProtocol):
    """Takes the transport for a connection when TLS is set up.

    What a failed handshake leaves behind in an event loop, such as uvloop's timer, or exceptions
    and their frames, knows only this.

    Args:
        connection: Callable that returns the connection; None if there isn't any more.
    """

    def __init__(self, connection: Callable[[], Connection | None]) -> None:
        self._connection = connection

    @property
    def protocol(self) -> Protocol:
        """Engine of the connection.

        Raises:
            RuntimeError: If there isn't any more.
        """
        connection = self._connection()
        if connection is None:
            raise RuntimeError("connection was given up")
        return connection.protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connection = self._connection()
        if connection is None:
            cast(asyncio.Transport, transport).abort()
        else:
            transport.set_protocol(connection)
            connection.connection_made(transport)
