"""A chat room: what one says, all hear. Nobody waits for those who are slow.

Usage: broadcast.py [PORT]
"""

import asyncio
import contextlib
import sys

from wsapi.asyncio.server import ServerConnection, broadcast, serve


async def chat(connection: ServerConnection) -> None:
    room = connection.server
    broadcast(room.connections, f"there are {len(room.connections)} of us")
    async for message in connection:
        broadcast(room.connections, message)


async def main(port: int = 8765) -> None:
    async with serve(chat, "127.0.0.1", port, max_size=1000) as server:
        print(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*map(int, sys.argv[1:])))
