"""A TCP proxy that cuts connections, for brokers that have no command for that."""

from __future__ import annotations

import asyncio
import random

__all__ = ["CutProxy"]

CHUNK = 2**16


class CutProxy:
    """A TCP proxy on a port of its own; a context manager.

    Args:
        port: Port of what is behind it.
    """

    def __init__(self, port: int) -> None:
        self.port = 0
        self.cuts = 0
        self._behind = port
        self._connections: dict[asyncio.StreamWriter, asyncio.StreamWriter] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> CutProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        self.cut(every=True)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self, chance: random.Random | None = None, *, every: bool = False) -> None:
        """Cut a connection at random, or every one, at once and without a word."""
        connections = list(self._connections.items())
        if not every and connections:
            connections = [(chance or random.Random()).choice(connections)]
        for near, far in connections:
            self.cuts += 1
            near.transport.abort()
            far.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        try:
            behind, far = await asyncio.open_connection("127.0.0.1", self._behind)
        except OSError:
            near.transport.abort()
            return
        self._connections[near] = far
        there = asyncio.create_task(self._relay(reader, far))
        back = asyncio.create_task(self._relay(behind, near))
        self._tasks |= {there, back}
        try:
            await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._connections[near]
            for task in (there, back):
                task.cancel()
                self._tasks.discard(task)
            near.transport.abort()
            far.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(CHUNK):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
