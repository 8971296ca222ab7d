"""No WebSocket: asyncio ``Protocol`` that writes back what it reads. The cost of the loop alone."""

from __future__ import annotations

import asyncio
import platform
from typing import ClassVar, cast

from . import HOST, Running

label = "raw Protocol"
websocket = False


def version() -> str:
    return f"Python {platform.python_version()}"


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Broadcast(Echo):
    transports: ClassVar[set[asyncio.Transport]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transports.add(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transports.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        for transport in self.transports:
            transport.write(data)


async def echo(deflate: bool) -> Running:
    return await asyncio.get_running_loop().create_server(Echo, HOST, 0)


async def broadcast(deflate: bool) -> Running:
    return await asyncio.get_running_loop().create_server(Broadcast, HOST, 0)
