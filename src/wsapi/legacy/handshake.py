"""The headers of opening handshakes, for programs that look at them by themselves."""

from __future__ import annotations

from wsproto_fast import ClientProtocol, ServerProtocol
from wsproto_fast.datastructures import Headers
from wsproto_fast.http11 import Request, Response
from wsproto_fast.uri import parse_uri

from ..utils import accept_key, generate_key

__all__ = ["build_request", "build_response", "check_request", "check_response"]


def build_request(headers: Headers) -> str:
    """Add what a request must have.

    Args:
        headers: Headers of the request.

    Returns:
        The key, for ``check_response``.
    """
    key = generate_key()
    headers["Upgrade"] = "websocket"
    headers["Connection"] = "Upgrade"
    headers["Sec-WebSocket-Key"] = key
    headers["Sec-WebSocket-Version"] = "13"
    return key


def check_request(headers: Headers) -> str:
    """Check a request.

    Args:
        headers: Headers of the request.

    Returns:
        The key, for ``build_response``.

    Raises:
        InvalidHandshake: If it isn't right.
    """
    ServerProtocol().process_request(Request("/", headers))
    return headers["Sec-WebSocket-Key"]


def build_response(headers: Headers, key: str) -> None:
    """Add what a response must have.

    Args:
        headers: Headers of the response.
        key: What ``check_request`` returned.
    """
    headers["Upgrade"] = "websocket"
    headers["Connection"] = "Upgrade"
    headers["Sec-WebSocket-Accept"] = accept_key(key)


def check_response(headers: Headers, key: str) -> None:
    """Check a response.

    Args:
        headers: Headers of the response.
        key: What ``build_request`` returned.

    Raises:
        InvalidHandshake: If it isn't right.
    """
    client = ClientProtocol(parse_uri("ws://localhost/"))
    client.key = key
    client.process_response(Response(101, "Switching Protocols", headers))
