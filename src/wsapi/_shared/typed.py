"""Connections with types where coroutines wait: those of asyncio and of trio."""

from __future__ import annotations

from typing import Any, Generic, Self, TypeVar

from wsproto_fast.exceptions import ConnectionClosedOK

from ..codecs import Codec, OnError, check_on_error
from .coroutines import AsyncConnection

__all__ = ["AsyncTypedConnection"]

SentT = TypeVar("SentT")
ReceivedT = TypeVar("ReceivedT")
ConnectionT = TypeVar("ConnectionT", bound=AsyncConnection)


class AsyncTypedConnection(Generic[ConnectionT, SentT, ReceivedT]):
    """A connection on which values are sent and received, by a codec.

    Args:
        connection: The connection.
        codec: What makes messages of values, and values of messages.
        on_error: What follows a message that can't be decoded: ``"raise"`` a ``DecodeError``, and
            the connection stays open; or ``"close"`` it with 1007.

    Raises:
        ValueError: If ``on_error`` is something else.

    Attributes:
        connection: The connection, whose other methods may be used at any time.
        codec: The codec.
        on_error: What follows a message that can't be decoded.
    """

    def __init__(
        self,
        connection: ConnectionT,
        codec: Codec[SentT, ReceivedT],
        *,
        on_error: OnError = "raise",
    ) -> None:
        check_on_error(on_error)
        self.connection = connection
        self.codec = codec
        self.on_error: OnError = on_error

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.connection!r}>"

    async def send(self, value: SentT) -> None:
        """Send a value as a message.

        Cancelling this never tears a frame.

        Args:
            value: What to send.

        Raises:
            ConnectionClosed: When the connection is closed.
            Exception: What the codec raises if it can't encode the value. Nothing is sent.
        """
        await self.connection.send_json(value, codec=self.codec)

    async def recv(self) -> ReceivedT:
        """Receive the next message, and return its value.

        Cancelling this loses nothing.

        Raises:
            ConnectionClosed: When the connection is closed and every message was received; also
                when a message has closed it that can't be decoded, with the ``DecodeError`` as its
                cause.
            DecodeError: If the message can't be decoded, unless it closes the connection.
            ConcurrencyError: If the connection is being received from already.
        """
        codec: Codec[Any, ReceivedT] = self.codec
        return await self.connection.recv_json(codec=codec, on_error=self.on_error)

    def __aiter__(self) -> Self:
        """Yield the values of messages until the connection is closed.

        Raises:
            ConnectionClosedError: If it didn't end properly.
            DecodeError: If a message can't be decoded, unless it closes the connection. Iterating
                again goes on behind it.
        """
        return self

    async def __anext__(self) -> ReceivedT:
        try:
            return await self.recv()
        except ConnectionClosedOK:
            raise StopAsyncIteration from None
