"""Exceptions, and helpers for headers of the opening handshake."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable
from hashlib import sha1
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .events import Event

__all__ = [
    "ACCEPT_GUID",
    "LocalProtocolError",
    "ProtocolError",
    "RemoteProtocolError",
    "generate_accept_token",
    "generate_nonce",
    "normed_header_dict",
    "split_comma_header",
]

ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""What a key is joined with to get the token that answers it (RFC 6455 §1.3)."""

# Elements of a list; commas inside quoted strings don't separate (RFC 9110 §5.6.1 and §5.6.4).
_element = re.compile(rb'(?:[^,"]|"(?:[^"\\]|\\.)*(?:"|\\?$))*', re.DOTALL)


class ProtocolError(Exception):
    """Base class of the errors of this package."""


class LocalProtocolError(ProtocolError):
    """Raised when the caller asks for what the state of the connection, or the protocol, forbids.

    Nothing is sent, and the state stays as it was.
    """


class RemoteProtocolError(ProtocolError):
    """Raised when the opening handshake of the peer isn't right.

    Args:
        message: What is wrong.
        event_hint: Event to answer with, if there is an answer.
    """

    def __init__(self, message: str, event_hint: Event | None = None) -> None:
        super().__init__(message)
        self.event_hint = event_hint


def generate_nonce() -> bytes:
    """Return a new value for ``Sec-WebSocket-Key``: 16 random bytes in base64 (RFC 6455 §4.1)."""
    return base64.b64encode(os.urandom(16))


def generate_accept_token(token: bytes) -> bytes:
    """Return the ``Sec-WebSocket-Accept`` that answers a key (RFC 6455 §4.2.2).

    Args:
        token: Value of ``Sec-WebSocket-Key``.
    """
    return base64.b64encode(sha1(token + ACCEPT_GUID, usedforsecurity=False).digest())


def split_comma_header(value: bytes) -> list[str]:
    """Return the elements of a list in a header, blanks around them removed.

    Args:
        value: Value of the header. Commas in quoted strings are left alone.

    Raises:
        UnicodeDecodeError: If there is anything but ASCII.
    """
    elements: list[str] = []
    start = 0
    while start <= len(value):
        match = _element.match(value, start)
        assert match is not None  # it may be empty
        elements.append(match.group().decode("ascii").strip())
        start = match.end() + 1
    return elements


def normed_header_dict(h11_headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return headers as a dict; repeated ones are joined by commas (RFC 9110 §5.3).

    Args:
        h11_headers: Pairs of name and value, names in lower case.
    """
    values: dict[bytes, list[bytes]] = {}
    for name, value in h11_headers:
        values.setdefault(name, []).append(value)
    return {name: b", ".join(several) for name, several in values.items()}
