"""``websockets``, its asyncio server, and what has the same interface: the same lines for all.

Compression off: ``compression=None``, on: default.
"""

from __future__ import annotations

import importlib
import ssl
from typing import Any

from . import HOST, KEEPALIVE, Running, version_of


class Peer:
    def __init__(self, *, package: str) -> None:
        self.package = package

    def version(self) -> str:
        return version_of(self.package)

    async def prepare(self) -> Any:
        """Import the module with `serve` and `broadcast`; called on the loop."""
        return importlib.import_module(f"{self.package}.asyncio.server")

    def options(self, deflate: bool) -> dict[str, Any]:
        """Return the arguments of `serve`."""
        return KEEPALIVE if deflate else {"compression": None, **KEEPALIVE}

    async def echo(
        self, deflate: bool, *, tls: ssl.SSLContext | None = None, max_size: int | None = None
    ) -> Running:
        module = await self.prepare()
        options = self.options(deflate) | ({} if max_size is None else {"max_size": max_size})

        async def handler(connection: Any) -> None:
            async for message in connection:
                await connection.send(message)

        running: Running = await module.serve(handler, HOST, 0, ssl=tls, **options)
        return running

    async def broadcast(self, deflate: bool) -> Running:
        module = await self.prepare()
        send_to_all = module.broadcast
        connections: set[Any] = set()

        async def handler(connection: Any) -> None:
            connections.add(connection)
            async for message in connection:
                send_to_all(connections, message)

        running: Running = await module.serve(handler, HOST, 0, **self.options(deflate))
        return running
