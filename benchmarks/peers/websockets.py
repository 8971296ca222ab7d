"""``websockets``, its asyncio server. Compression off: ``compression=None``."""

from __future__ import annotations

from importlib.metadata import version as distribution_version

from websockets.asyncio.server import ServerConnection, serve
from websockets.asyncio.server import broadcast as send_to_all

from . import HOST, Running

label = "websockets"
websocket = True


def version() -> str:
    return distribution_version("websockets")


async def echo() -> Running:
    async def handler(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    running: Running = await serve(handler, HOST, 0, compression=None)
    return running


async def broadcast() -> Running:
    connections: set[ServerConnection] = set()

    async def handler(connection: ServerConnection) -> None:
        connections.add(connection)
        async for message in connection:
            send_to_all(connections, message)

    running: Running = await serve(handler, HOST, 0, compression=None)
    return running
