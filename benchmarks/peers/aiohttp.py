"""aiohttp's web server, automatic pong left on.

Compression off: ``compress=False``, on: default.
"""

from __future__ import annotations

import ssl
from typing import Any

from aiohttp import WSMsgType, web

from . import HOST, Running, version_of


class Site:
    """A running application, seen as the listening server that it owns."""

    def __init__(self, site: web.TCPSite) -> None:
        server = site._server  # the only way to the port that was picked
        assert server is not None
        self.site, self.sockets = site, getattr(server, "sockets", ())


async def serve(
    *,
    to_all: bool,
    deflate: bool,
    tls: ssl.SSLContext | None = None,
    max_size: int | None = None,
) -> Running:
    # It refuses a message of that very size, too.
    limits: dict[str, Any] = {} if max_size is None else {"max_msg_size": max_size + 1}
    connections: set[web.WebSocketResponse] = set()

    async def handler(request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse(compress=deflate, **limits)
        await connection.prepare(request)
        connections.add(connection)
        async for message in connection:
            if message.type is WSMsgType.TEXT:
                for receiver in connections if to_all else (connection,):
                    await receiver.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                for receiver in connections if to_all else (connection,):
                    await receiver.send_bytes(message.data)
        connections.discard(connection)
        return connection

    application = web.Application()
    application.router.add_get("/{name}", handler)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0, ssl_context=tls)
    await site.start()
    return Site(site)


class Peer:
    def version(self) -> str:
        return version_of("aiohttp")

    async def echo(
        self, deflate: bool, *, tls: ssl.SSLContext | None = None, max_size: int | None = None
    ) -> Running:
        return await serve(to_all=False, deflate=deflate, tls=tls, max_size=max_size)

    async def broadcast(self, deflate: bool) -> Running:
        return await serve(to_all=True, deflate=deflate)
