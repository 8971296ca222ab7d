"""Events: what a connection tells its program, and what the program tells it.

Those that belong to frames are compiled; they behave like the frozen dataclasses that the others
are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ._core import BytesMessage, CloseConnection, Event, Message, Ping, Pong, TextMessage
from .typing import Headers

if TYPE_CHECKING:
    from .extensions import Extension

__all__ = [
    "AcceptConnection",
    "BytesMessage",
    "CloseConnection",
    "Event",
    "Message",
    "Ping",
    "Pong",
    "RejectConnection",
    "RejectData",
    "Request",
    "TextMessage",
]


@dataclass(frozen=True)
class Request(Event):
    """Opening handshake of a client.

    Args:
        host: Value of the ``Host`` header.
        target: Request target: path and query.
        extensions: Extensions to offer; on a server the offers, parameters included, as strings.
        extra_headers: Other headers. A server finds the rest of the handshake's headers there, too.
        subprotocols: Subprotocols that are offered, in order of preference.
    """

    host: str
    target: str
    extensions: Sequence[Extension] | Sequence[str] = field(default_factory=list)
    extra_headers: Headers = field(default_factory=list)
    subprotocols: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class AcceptConnection(Event):
    """Answer of a server that accepts the opening handshake.

    Args:
        subprotocol: Subprotocol that was chosen among the offered ones, or None.
        extensions: Extensions: on a server those to choose from, on a client those agreed upon.
        extra_headers: Other headers.
    """

    subprotocol: str | None = None
    extensions: list[Extension] = field(default_factory=list)
    extra_headers: Headers = field(default_factory=list)


@dataclass(frozen=True)
class RejectConnection(Event):
    """Answer of a server that refuses the opening handshake.

    Args:
        status_code: HTTP status code.
        headers: Headers of the response.
        has_body: Whether ``RejectData`` follows. Received ones always have a body, be it an empty
            one, but for informational responses.
    """

    status_code: int = 400
    headers: Headers = field(default_factory=list)
    has_body: bool = False


@dataclass(frozen=True)
class RejectData(Event):
    """Piece of the body of the response that refuses the opening handshake.

    Args:
        data: Contents.
        body_finished: Whether this is the end of the body.
    """

    data: bytes
    body_finished: bool = True
