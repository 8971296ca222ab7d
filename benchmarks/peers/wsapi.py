"""Ours, in the same lines as ``websockets``, or with one thing changed.

Compression off: ``compression=None``, on: default, or the same settings with another backend.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from functools import partial
from types import ModuleType
from typing import Any, cast

from . import HOST, Running, drop_in, version_of


class Peer(drop_in.Peer):
    """A server of ours.

    Args:
        backend: Name of what compresses.
        without: Libraries of the extra ``fast`` that are as if they weren't installed.
        callbacks: No task takes part in an echo.
        aiofastnet: Use the transports of aiofastnet, as picows does by default.

    """

    def __init__(
        self,
        *,
        backend: str | None = None,
        without: tuple[str, ...] = (),
        callbacks: bool = False,
        aiofastnet: bool = False,
    ) -> None:
        super().__init__(package="wsapi")
        self.backend, self.callbacks, self.aiofastnet = backend, callbacks, aiofastnet
        modules = cast("dict[str, ModuleType | None]", sys.modules)
        modules.update(dict.fromkeys(without))  # before they are imported: in a fresh process

    def version(self) -> str:
        from wsproto_fast.backends import get_backend

        default = get_backend()
        names = [default.name] + ([default.bulk.name] if default.bulk else [])
        version = version_of("wsapi", *([self.backend] if self.backend else names))
        return f"{version} + aiofastnet {version_of('aiofastnet')}" if self.aiofastnet else version

    async def prepare(self) -> Any:
        if self.aiofastnet:
            import aiofastnet

            aiofastnet.patch_loop(asyncio.get_running_loop())
        return await super().prepare()

    def options(self, deflate: bool) -> dict[str, Any]:
        from wsapi.extensions.permessage_deflate import (
            ServerPerMessageDeflateFactory,
            enable_server_permessage_deflate,
        )

        if not deflate:
            return super().options(deflate)
        (factory,) = enable_server_permessage_deflate(None)
        assert isinstance(factory, ServerPerMessageDeflateFactory)
        factory.backend = self.backend
        return {"extensions": [factory]}

    async def echo(
        self, deflate: bool, *, tls: ssl.SSLContext | None = None, max_size: int | None = None
    ) -> Running:
        if not self.callbacks:
            return await super().echo(deflate, tls=tls, max_size=max_size)
        options = self.options(deflate) | ({} if max_size is None else {"max_size": max_size})

        async def handler(connection: Any) -> None:
            connection.listen(connection.send_nowait)
            await connection.wait_closed()

        module = await self.prepare()
        running: Running = await module.serve(handler, HOST, 0, ssl=tls, **options)
        return running

    async def broadcast(self, deflate: bool) -> Running:
        if not self.callbacks:
            return await super().broadcast(deflate)
        module = await self.prepare()
        connections: set[Any] = set()

        async def handler(connection: Any) -> None:
            connections.add(connection)
            connection.listen(partial(module.broadcast, connections))
            await connection.wait_closed()

        running: Running = await module.serve(handler, HOST, 0, **self.options(deflate))
        return running
