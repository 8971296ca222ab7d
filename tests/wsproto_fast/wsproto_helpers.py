"""What tests of the handshake with the interface of wsproto have in common."""

import re
from typing import Any

from wsproto_fast.wsproto import ConnectionState, ConnectionType, WSConnection
from wsproto_fast.wsproto.events import Request
from wsproto_fast.wsproto.utilities import generate_accept_token

CONNECTING, OPEN = ConnectionState.CONNECTING, ConnectionState.OPEN

REJECTING, CLOSED = ConnectionState.REJECTING, ConnectionState.CLOSED

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="

TOKEN = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 section 1.3

HEADERS = {
    "Host": "example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY.decode(),
    "Sec-WebSocket-Version": "13",
}


def request(start: str = "GET /chat?x=1 HTTP/1.1", **changes: str | None) -> bytes:
    """Write a request; ``_`` in names stands for ``-``, None leaves a header out."""
    headers: dict[str, str | None] = {**HEADERS}
    headers.update({name.replace("_", "-"): value for name, value in changes.items()})
    lines = [f"{name}: {value}\r\n" for name, value in headers.items() if value is not None]
    return (start + "\r\n" + "".join(lines) + "\r\n").encode()


def server(data: bytes = b"") -> WSConnection:
    connection = WSConnection(ConnectionType.SERVER)
    if data:
        connection.receive_data(data)
    return connection


def client(**options: Any) -> tuple[WSConnection, bytes]:
    """Return a client whose request was sent, and its key."""
    connection = WSConnection(ConnectionType.CLIENT)
    sent = connection.send(Request("example.com", "/", **options))
    match = re.search(rb"Sec-WebSocket-Key: (.*)\r\n", sent)
    assert match is not None
    return connection, match[1]


def response(key: bytes, **changes: str | None) -> bytes:
    headers: dict[str, str | None] = {
        "Upgrade": "WebSocket",
        "Connection": "keep-alive, Upgrade",
        "Sec-WebSocket-Accept": generate_accept_token(key).decode(),
    }
    headers.update({name.replace("_", "-"): value for name, value in changes.items()})
    lines = [f"{name}: {value}\r\n" for name, value in headers.items() if value is not None]
    return b"HTTP/1.1 101 Switching Protocols\r\n" + "".join(lines).encode() + b"\r\n"
