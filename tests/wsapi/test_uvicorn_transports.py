"""ASGI connections on transports, and in servers, that can do little."""

from __future__ import annotations

import logging
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from tests.wsapi.helpers import CLOSE, PONG, TEXT, close_payload, frame, request, until
from tests.wsapi.uvicorn_helpers import Head, echo_app, recording
from wsapi.asgi import ASGIConnection
from wsapi.asyncio.server import broadcast
from wsapi.uvicorn import WebSocketProtocol
from wsproto_fast import ServerProtocol, State


class SimpleTransport:
    """A transport that has only what HTTP needs, as those of other people's tests have."""

    def __init__(self, address: str | None = None) -> None:
        self.address = address
        self.written = b""
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.address if name == "sockname" else default

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def test_transport_that_has_only_what_http_needs() -> None:
    app, seen = recording(echo_app)
    config = uvicorn.Config(app, lifespan="off", log_config=None)
    connection = WebSocketProtocol(config, ServerState(), {})
    transport: Any = SimpleTransport()
    connection.connection_made(transport)
    connection.data_received(request())
    await until(lambda: b"\r\n\r\n" in transport.written)
    transport.written = b""
    connection.data_received(frame(TEXT, b"abc", masked=True))
    await until(lambda: transport.written)
    assert transport.written == frame(TEXT, b"abc")
    connection.data_received(frame(CLOSE, close_payload(1001), masked=True))
    await until(lambda: transport.closed)
    connection.data_received(frame(PONG, b"", masked=True))  # what was read before the end
    connection.connection_lost(None)
    connection.shutdown()  # has nothing to do any more
    await until(lambda: len(seen) == 3)
    assert seen[2] == {"type": "websocket.disconnect", "code": 1001, "reason": ""}
    await until(lambda: not connection.server_state.tasks)


def simple_connection(app: Any, **options: Any) -> tuple[ASGIConnection, SimpleTransport]:
    """Return a connection of a server that isn't uvicorn."""
    log = logging.getLogger("server")
    connection = ASGIConnection(app, ServerProtocol(), log=log, **options)
    transport: Any = SimpleTransport("/run/socket")
    connection.connection_made(transport)
    return connection, transport


async def test_other_servers() -> None:
    """They needn't add headers, and listen where they want."""
    app, seen = recording(echo_app)
    connection, transport = simple_connection(app)
    connection.data_received(request())
    await until(lambda: b"\r\n\r\n" in transport.written)
    head = Head(transport.written)
    assert head.status == 101
    assert head.get("Server") == head.get("Date") == []
    assert connection.scope["server"] == ("/run/socket", None)
    assert connection.scope["client"] is None
    assert connection.scope["state"] == {}
    connection.connection_lost(None)
    await until(lambda: len(seen) == 2)


async def test_broadcast_where_it_is_not_known_what_waits() -> None:
    connection, transport = simple_connection(echo_app)
    connection.data_received(request())
    await until(lambda: transport.written)
    transport.written = b""
    connection.pause_writing()
    broadcast([connection], "abc", max_backlog=0)
    assert connection.state is State.OPEN
    assert transport.written == frame(TEXT, b"abc")
    connection.connection_lost(None)


async def test_shutdown_before_the_request() -> None:
    connection, transport = simple_connection(echo_app)
    connection.data_received(request()[:10])
    connection.shutdown()
    assert transport.closed
    connection.connection_lost(None)


async def test_client_that_does_not_close() -> None:
    connection, transport = simple_connection(echo_app, close_timeout=0.01)
    connection.data_received(request())
    await until(lambda: transport.written)
    connection.shutdown()
    await until(lambda: transport.closed)
    connection.connection_lost(None)
