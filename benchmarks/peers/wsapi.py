"""Ours, in the same lines as the peer ``websockets``.

Compression off: ``compression=None``, on: default, or the same settings with another backend.
"""

from __future__ import annotations

from importlib.metadata import version as distribution_version
from typing import Any

from wsapi.asyncio.server import ServerConnection, serve
from wsapi.asyncio.server import broadcast as send_to_all
from wsapi.extensions.permessage_deflate import (
    ServerPerMessageDeflateFactory,
    enable_server_permessage_deflate,
)
from wsproto_fast.backends import get_backend

from . import HOST, Running

label = "wsapi (ours)"
websocket = True


def implementation() -> str:
    """Name what compresses: messages in general, and large ones."""
    default = get_backend()
    return f"{default.name}, {default.bulk.name}" if default.bulk else default.name


def version() -> str:
    return f"{distribution_version('wsproto-fast')} ({implementation()})"


def compression(deflate: bool, backend: str | None) -> dict[str, Any]:
    """Return the arguments for `serve`."""
    if not deflate:
        return {"compression": None}
    (factory,) = enable_server_permessage_deflate(None)
    assert isinstance(factory, ServerPerMessageDeflateFactory)
    factory.backend = backend
    return {"extensions": [factory]}


async def echo(deflate: bool, backend: str | None = None) -> Running:
    async def handler(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    running: Running = await serve(handler, HOST, 0, **compression(deflate, backend))
    return running


async def broadcast(deflate: bool, backend: str | None = None) -> Running:
    connections: set[ServerConnection] = set()

    async def handler(connection: ServerConnection) -> None:
        connections.add(connection)
        async for message in connection:
            send_to_all(connections, message)

    running: Running = await serve(handler, HOST, 0, **compression(deflate, backend))
    return running
