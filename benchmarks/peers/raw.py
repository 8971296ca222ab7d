"""No WebSocket: an asyncio protocol that writes back what it reads. The cost of the loop alone.

``BufferedProtocol`` has one read buffer for all connections.
"""

from __future__ import annotations

import asyncio
import platform
import ssl
from typing import ClassVar, cast

from . import HOST, Running


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class BufferedEcho(asyncio.BufferedProtocol):
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

    def data_received(self, data: bytes) -> None:
        for transport in self.transports:
            transport.write(data)


class BufferedBroadcast(BufferedEcho):
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


class Peer:
    def __init__(self, *, buffered: bool) -> None:
        self.buffered = buffered

    def version(self) -> str:
        return f"Python {platform.python_version()}"

    async def echo(
        self, deflate: bool, *, tls: ssl.SSLContext | None = None, max_size: int | None = None
    ) -> Running:
        protocol = BufferedEcho if self.buffered else Echo
        return await asyncio.get_running_loop().create_server(protocol, HOST, 0, ssl=tls)

    async def broadcast(self, deflate: bool) -> Running:
        protocol = BufferedBroadcast if self.buffered else Broadcast
        return await asyncio.get_running_loop().create_server(protocol, HOST, 0)
