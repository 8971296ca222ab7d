"""Two programs on one machine: no port, and the file system says who may connect.

Usage: unix_socket.py server|client [PATH]
"""

import asyncio
import contextlib
import os
import sys

from wsapi.asyncio.client import unix_connect
from wsapi.asyncio.server import ServerConnection, unix_serve


async def handler(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(f"process {os.getpid()} received {message!r}")


async def server(path: str) -> None:
    async with unix_serve(handler, path) as server:
        os.chmod(path, 0o600)
        print(path)
        await server.serve_forever()


async def client(path: str) -> None:
    async with unix_connect(path) as connection:
        await connection.send("Hello!")
        print(await connection.recv())


def main(role: str, path: str = "websocket.sock") -> None:
    asyncio.run(server(path) if role == "server" else client(path))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or sys.argv[1] not in ("server", "client"):
        sys.exit(__doc__)
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
