"""Several handlers behind one port, chosen by URL. Needs werkzeug: the extra ``router``.

Usage: routing.py [PORT]
"""

import asyncio
import contextlib
import sys

from werkzeug.routing import Map, Rule

from wsapi.asyncio.router import route
from wsapi.asyncio.server import ServerConnection


async def index(connection: ServerConnection) -> None:
    await connection.send("try /echo or /add/1/2")


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def add(connection: ServerConnection, a: int, b: int) -> None:
    await connection.send(str(a + b))


URLS = Map(
    [
        Rule("/", endpoint=index),
        Rule("/echo", endpoint=echo),
        Rule("/add/<int:a>/<int:b>", endpoint=add),
        Rule("/mirror", redirect_to="/echo"),
    ]
)


async def main(port: int = 8765) -> None:
    async with route(URLS, "127.0.0.1", port) as server:
        print(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*map(int, sys.argv[1:])))
