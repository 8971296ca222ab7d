"""Small functions that programs use, though they aren't documented in `websockets`."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from wsproto_fast import apply_mask
from wsproto_fast.aliases import fallback
from wsproto_fast.wsproto.utilities import ACCEPT_GUID, generate_accept_token, generate_nonce

from ._shared.server import format_address

__all__ = ["GUID", "accept_key", "apply_mask", "generate_key", "get_socket_name"]

GUID = ACCEPT_GUID.decode()
"""What a key is joined with to get the token that answers it (RFC 6455 section 1.3)."""


def generate_key() -> str:
    """Return a new value for the ``Sec-WebSocket-Key`` header."""
    return generate_nonce().decode()


def accept_key(key: str) -> str:
    """Return the value of the ``Sec-WebSocket-Accept`` header that answers a key.

    Args:
        key: Value of the ``Sec-WebSocket-Key`` header.
    """
    return generate_accept_token(key.encode()).decode()


def get_socket_name(sock: socket.socket) -> str:
    """Return the address of a socket as a text for logs.

    Args:
        sock: Socket.
    """
    return format_address(sock)


if not TYPE_CHECKING:
    __getattr__ = fallback(__name__, "wsapi._names")
