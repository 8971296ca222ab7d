"""The ``websockets``-like face of picows (compiled).

Compression off: ``compression=None``, on: default.
"""

from __future__ import annotations

from importlib.metadata import version as distribution_version

from picows.websockets.asyncio.server import ServerConnection, serve
from picows.websockets.asyncio.server import broadcast as send_to_all

from . import HOST, Running

label = "picows.websockets"
websocket = True
COMPRESSION = (None, "deflate")


def version() -> str:
    return distribution_version("picows")


async def echo(deflate: bool) -> Running:
    async def handler(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    running: Running = await serve(handler, HOST, 0, compression=COMPRESSION[deflate])
    return running


async def broadcast(deflate: bool) -> Running:
    connections: set[ServerConnection] = set()

    async def handler(connection: ServerConnection) -> None:
        connections.add(connection)
        async for message in connection:
            send_to_all(connections, message)

    running: Running = await serve(handler, HOST, 0, compression=COMPRESSION[deflate])
    return running
