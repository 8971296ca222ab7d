"""A server behind nginx, which knows the clients' addresses and does TLS: see nginx.conf.

Usage: behind_nginx.py [PATH], the path of the Unix socket
"""

import asyncio
import contextlib
import os
import sys

from wsapi.asyncio.server import ServerConnection, unix_serve
from wsapi.http11 import Request, Response


def health(connection: ServerConnection, request: Request) -> Response | None:
    """Answer whoever asks whether this process is alive."""
    return connection.respond(200, "OK\n") if request.path == "/health" else None


async def handler(connection: ServerConnection) -> None:
    assert connection.request is not None
    # nginx sets it: clients can't make it up.
    address = connection.request.headers["X-Real-IP"]
    async for message in connection:
        await connection.send(f"{address}: {message!s}")


async def main(path: str = "websocket.sock") -> None:
    async with unix_serve(handler, path, process_request=health) as server:
        os.chmod(path, 0o666)  # nginx is another user; better: put them in one group
        print(path)
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
