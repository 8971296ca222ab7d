"""A Starlette application that sends messages back, on uvicorn with some WebSocket implementation.

permessage-deflate is on in uvicorn, by its default, but the client doesn't offer it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass

from . import HOST, Running, version_of


@dataclass(frozen=True)
class Listening:
    """A server that runs in a task."""

    sockets: tuple[socket.socket, ...]
    task: asyncio.Task[None]


class Peer:
    """uvicorn, set up for one WebSocket implementation.

    Args:
        ws: uvicorn's setting of this name.
        aliases: Package that is replaced by ours.

    """

    def __init__(self, *, ws: str, aliases: str) -> None:
        if aliases:  # before anybody imports it: in a fresh process
            from wsapi._run import install_aliases

            install_aliases(aliases)
        self.ws = ws

    def version(self) -> str:
        return f"uvicorn {version_of('uvicorn')}, starlette {version_of('starlette')}"

    async def echo(
        self, deflate: bool, *, tls: ssl.SSLContext | None = None, max_size: int | None = None
    ) -> Running:
        if tls is not None or max_size is not None:
            raise NotImplementedError("it takes part in nothing that has them")
        import uvicorn
        from starlette.applications import Starlette
        from starlette.routing import WebSocketRoute
        from starlette.websockets import WebSocket, WebSocketDisconnect

        async def echo(websocket: WebSocket) -> None:
            await websocket.accept()
            try:
                while True:
                    await websocket.send_bytes(await websocket.receive_bytes())
            except WebSocketDisconnect:
                pass

        app = Starlette(routes=[WebSocketRoute("/benchmark", echo)])
        config = uvicorn.Config(app, host=HOST, port=0, ws=self.ws, log_level="error")
        sock = config.bind_socket()
        sock.listen(2048)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[sock]))
        while not server.started:
            await asyncio.wait([task], timeout=0.01)
            if task.done():
                task.result()
        return Listening((sock,), task)

    async def broadcast(self, deflate: bool) -> Running:
        raise NotImplementedError("its applications know one connection each")
