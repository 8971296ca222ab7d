"""Chapter 1: a board that paints what it is told, and says which colour a cell has.

Usage: board1.py [PORT]
"""

import asyncio
import contextlib
import sys

from wsapi.asyncio.server import ServerConnection, serve

board: dict[tuple[int, int], int] = {}  # the colours of cells; one that isn't here has 0


async def handler(connection: ServerConnection) -> None:
    async for message in connection:
        x, y, *colour = map(int, message.split())
        if colour:
            board[x, y] = colour[0]
        await connection.send(f"{x} {y} {board.get((x, y), 0)}")


async def main(port: int = 8765) -> None:
    async with serve(handler, "127.0.0.1", port) as server:
        print(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*map(int, sys.argv[1:])))
