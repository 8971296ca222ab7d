"""Connections with types, for threads."""

from __future__ import annotations

from typing import Any, Generic, Self, TypeVar

from wsproto_fast.exceptions import ConnectionClosedOK

from ..codecs import Codec, OnError, check_on_error
from .connection import Connection

__all__ = ["TypedConnection"]

SentT = TypeVar("SentT")
ReceivedT = TypeVar("ReceivedT")


class TypedConnection(Generic[SentT, ReceivedT]):
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
        connection: Connection,
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

    def send(self, value: SentT) -> None:
        """Send a value as a message.

        Args:
            value: What to send.

        Raises:
            ConnectionClosed: When the connection is closed.
            Exception: What the codec raises if it can't encode the value. Nothing is sent.
        """
        self.connection.send_json(value, codec=self.codec)

    def recv(self, timeout: float | None = None) -> ReceivedT:
        """Receive the next message, and return its value.

        Args:
            timeout: Seconds to wait, None for no limit; with 0 or less only what has arrived
                already is received.

        Raises:
            TimeoutError: If there is no message in time; nothing is lost.
            ConnectionClosed: When the connection is closed and every message was received; also
                when a message has closed it that can't be decoded, with the ``DecodeError`` as its
                cause.
            DecodeError: If the message can't be decoded, unless it closes the connection.
            ConcurrencyError: If the connection is being received from already.
        """
        codec: Codec[Any, ReceivedT] = self.codec
        return self.connection.recv_json(timeout, codec=codec, on_error=self.on_error)

    def __iter__(self) -> Self:
        """Yield the values of messages until the connection is closed.

        Raises:
            ConnectionClosedError: If it didn't end properly.
            DecodeError: If a message can't be decoded, unless it closes the connection. Iterating
                again goes on behind it.
        """
        return self

    def __next__(self) -> ReceivedT:
        try:
            return self.recv()
        except ConnectionClosedOK:
            raise StopIteration from None
