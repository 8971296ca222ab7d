"""No WebSocket: an asyncio protocol that writes back what it reads. The cost of the loop alone.

``BufferedProtocol`` has one read buffer for all connections. `Whole` does what nobody can leave out
who passes on messages: it waits until all of one is there, in memory that is used again.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
import shlex
import ssl
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import ClassVar, Final, cast

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


PIECE: Final = 1 << 18  # bytes that are read at once
MASKED_HEADER: Final = 14  # bytes of a long frame's header
KEY: Final = bytes(4)  # with which nothing changes: the client gets back what it sent


def unmasking() -> ctypes.CDLL:
    """Compile and load the loops that unmask."""
    source = Path(__file__).parent.parent / "unmask.c"
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "unmask.so")
        subprocess.run(
            [*compiler, "-O3", "-shared", "-fPIC", "-o", str(library), str(source)], check=True
        )
        return ctypes.CDLL(str(library))


class Memory:
    """Memory of a fixed size, and its address."""

    def __init__(self, size: int) -> None:
        data = bytearray(size)
        self.view = memoryview(data)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(data))


class Whole(asyncio.BufferedProtocol):
    """Writes back binary messages of 64 KiB and more, when they are whole, headers included.

    What was read together with the header is copied to its place, the rest is read there. A message
    is written past the transport, as far as the network takes it.
    """

    first: ClassVar[Memory] = Memory(PIECE)
    library: ClassVar[ctypes.CDLL]
    unmasked: ClassVar[bool] = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.encrypted = transport.get_extra_info("ssl_object") is not None
        self.descriptor = transport.get_extra_info("socket").fileno()
        self.message: Memory | None = None
        self.size = self.got = 0

    def get_buffer(self, sizehint: int) -> memoryview:
        if self.message is None or not self.got:
            return self.first.view
        return self.message.view[self.got : min(self.got + PIECE, self.size)]

    def buffer_updated(self, nbytes: int) -> None:
        if self.message is None:
            length = int.from_bytes(self.first.view[2:10], "big")
            self.size = length + MASKED_HEADER
            self.message = Memory(self.size)
        address, size = self.message.address + self.got, ctypes.c_size_t(nbytes)
        place, zero = ctypes.c_void_p(address), ctypes.c_size_t(0)
        if not self.got:
            source = ctypes.c_void_p(self.first.address)
            if self.unmasked:
                self.library.unmask_copy(place, source, size, KEY, zero)
            else:
                ctypes.memmove(address, self.first.address, nbytes)
        elif self.unmasked:
            self.library.unmask(place, size, KEY, zero)
        self.got += nbytes
        if self.got == self.size:
            self.got = 0
            self.write(self.message.view)

    def write(self, message: memoryview) -> None:
        """Write a message."""
        if self.encrypted:
            for start in range(0, self.size, PIECE // 2):
                self.transport.write(message[start : start + PIECE // 2])
            return
        sent = 0
        if not self.transport.get_write_buffer_size():
            try:
                sent = os.write(self.descriptor, message)
            except BlockingIOError:
                pass
        if sent < self.size:
            self.transport.write(message[sent:])


class Unmasked(Whole):
    """Does the same, and as much as unmasks each piece where it was read."""

    unmasked = True


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
    def __init__(
        self, *, buffered: bool = True, whole: bool = False, unmasked: bool = False
    ) -> None:
        self.buffered = buffered
        self.protocol: type[asyncio.BaseProtocol] = BufferedEcho if buffered else Echo
        if whole or unmasked:
            self.protocol = Unmasked if unmasked else Whole
            Whole.library = unmasking()

    def version(self) -> str:
        return f"Python {platform.python_version()}"

    async def echo(
        self, deflate: bool, *, tls: ssl.SSLContext | None = None, max_size: int | None = None
    ) -> Running:
        loop = asyncio.get_running_loop()
        return await loop.create_server(self.protocol, HOST, 0, ssl=tls)

    async def broadcast(self, deflate: bool) -> Running:
        protocol = BufferedBroadcast if self.buffered else Broadcast
        return await asyncio.get_running_loop().create_server(protocol, HOST, 0)
