"""Send back every message. Ctrl-C ends it, with a closing handshake on each connection.

Usage: echo_server.py [PORT]
"""

import asyncio
import contextlib
import sys

from wsapi.asyncio.server import ServerConnection, serve


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def main(port: int = 8765) -> None:
    async with serve(echo, "127.0.0.1", port) as server:
        print(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*map(int, sys.argv[1:])))
