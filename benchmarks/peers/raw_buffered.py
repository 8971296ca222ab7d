"""No WebSocket: asyncio ``BufferedProtocol`` with one read buffer for all connections."""

from __future__ import annotations

import asyncio
import platform
from typing import ClassVar, cast

from . import HOST, Running

label = "raw BufferedProtocol"
websocket = False


def version() -> str:
    return f"Python {platform.python_version()}"


class Echo(asyncio.BufferedProtocol):
    buffer = memoryview(bytearray(1 << 18))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(bytes(self.buffer[:nbytes]))


class Broadcast(Echo):
    transports: ClassVar[set[asyncio.Transport]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transports.add(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transports.discard(self.transport)

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self.buffer[:nbytes])
        for transport in self.transports:
            transport.write(data)


async def echo(deflate: bool) -> Running:
    return await asyncio.get_running_loop().create_server(Echo, HOST, 0)


async def broadcast(deflate: bool) -> Running:
    return await asyncio.get_running_loop().create_server(Broadcast, HOST, 0)
