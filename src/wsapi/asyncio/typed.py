"""Connections with types, for asyncio."""

from __future__ import annotations

from typing import TypeVar

from .._shared.typed import AsyncTypedConnection
from .connection import Connection

__all__ = ["TypedConnection"]

SentT = TypeVar("SentT")
ReceivedT = TypeVar("ReceivedT")


class TypedConnection(AsyncTypedConnection[Connection, SentT, ReceivedT]):
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
