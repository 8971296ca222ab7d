"""uvicorn's HTTP side with our WebSocket class, in the loop of a test."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from tests.wsapi.helpers import RawPeer, request, until
from wsapi.uvicorn import WebSocketProtocol

App = Callable[[Any, Any, Any], Awaitable[None]]

DEFAULT_HEADERS = [(b"server", b"uvicorn"), (b"date", b"Mon, 23 Nov 2026 04:00:00 GMT")]


class Running:
    """A server in the test's loop: what uvicorn's connections share, and its socket.

    Args:
        app: ASGI application.
        ws: Class of WebSocket connections.
        tls: Context of TLS.
        options: Settings of uvicorn.
    """

    def __init__(
        self, app: App, ws: Any, *, tls: ssl.SSLContext | None = None, **options: Any
    ) -> None:
        self.tls = tls
        options = {"lifespan": "off", "proxy_headers": False, "log_config": None} | options
        self.config = uvicorn.Config(app, ws=ws, **options)
        self.state = ServerState()
        self.state.default_headers = DEFAULT_HEADERS
        self.app_state = {"pool": object()}
        self.server: asyncio.Server

    async def __aenter__(self) -> Running:
        self.config.load()

        def connection() -> asyncio.Protocol:
            return self.config.http_protocol_class(
                config=self.config, server_state=self.state, app_state=self.app_state
            )

        self.server = await asyncio.get_running_loop().create_server(
            connection, "127.0.0.1", 0, ssl=self.tls or self.config.ssl
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.server.close()
        await self.server.wait_closed()
        await until(lambda: not self.state.tasks and not self.state.connections)

    @property
    def sockets(self) -> Any:
        return self.server.sockets

    @property
    def connection(self) -> WebSocketProtocol:
        """The only WebSocket connection there is."""
        (connection,) = (c for c in self.state.connections if isinstance(c, WebSocketProtocol))
        return connection


def serving_app(app: App, ws: Any = WebSocketProtocol, **options: Any) -> Any:
    return Running(app, ws, **options)


async def accepted(receive: Any, send: Any, **event: Any) -> None:
    """Accept a connection, in an application."""
    assert await receive() == {"type": "websocket.connect"}
    await send({"type": "websocket.accept", **event})


async def echo_app(scope: Any, receive: Any, send: Any) -> None:
    await accepted(receive, send)
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})


def recording(app: App) -> tuple[App, list[Any]]:
    """Wrap an application; return a list, too, of what it received and what it raised."""
    seen: list[Any] = []

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        async def recorded() -> Any:
            event = await receive()
            seen.append(event)
            return event

        try:
            await app(scope, recorded, send)
        except BaseException as exc:
            seen.append(exc)
            raise

    return wrapped, seen


class Head:
    """Status and headers of a response."""

    def __init__(self, text: bytes) -> None:
        status, *lines = text.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        self.status = int(status.split()[1])
        self.phrase = status.split(" ", 2)[2]
        self.headers = [tuple(line.split(": ", 1)) for line in lines]

    def get(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


@contextlib.asynccontextmanager
async def client(running: Running, handshake: bytes) -> AsyncIterator[tuple[RawPeer, Head]]:
    """Send a request; give the connection and the head of the response."""
    port = running.sockets[0].getsockname()[1]
    peer = RawPeer(*await asyncio.open_connection("127.0.0.1", port), masked=True)
    try:
        peer.writer.write(handshake)
        yield peer, Head(await peer.reader.readuntil(b"\r\n\r\n"))
    finally:
        await peer.close()


def lines(caplog: Any) -> list[str]:
    """Return what was logged for users, without the port of the client."""
    return [
        record.getMessage().partition(" - ")[2] or record.getMessage()
        for record in caplog.records
        if record.name == "uvicorn.error" and record.levelno >= logging.INFO
    ]


# uvicorn puts a request together again from what each of its two parsers gives.
HTTP = ["h11", "httptools"]


async def answer(app: Any, handshake: bytes | None = None, **options: Any) -> tuple[Head, bytes]:
    """Return what an application answers to an opening handshake, up to the end of the stream."""
    async with serving_app(app, **options) as running:
        async with client(running, handshake or request()) as (peer, head):
            return head, await peer.read_to_end()
