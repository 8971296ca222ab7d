"""Ours with callbacks: no task takes part in an echo."""

from __future__ import annotations

from functools import partial

from wsapi.asyncio.server import ServerConnection, serve
from wsapi.asyncio.server import broadcast as send_to_all

from . import HOST, Running, wsapi

label = "wsapi callbacks"
websocket = True
version = wsapi.version


async def echo(deflate: bool) -> Running:
    async def handler(connection: ServerConnection) -> None:
        connection.listen(connection.send_nowait)
        await connection.wait_closed()

    running: Running = await serve(handler, HOST, 0, **wsapi.compression(deflate, None))
    return running


async def broadcast(deflate: bool) -> Running:
    connections: set[ServerConnection] = set()

    async def handler(connection: ServerConnection) -> None:
        connections.add(connection)
        connection.listen(partial(send_to_all, connections))
        await connection.wait_closed()

    running: Running = await serve(handler, HOST, 0, **wsapi.compression(deflate, None))
    return running
