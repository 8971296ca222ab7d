"""Receive and send at the same time: two tasks for each connection.

Counts down from the number that the client sent last.

Usage: both_ways.py [PORT]
"""

import asyncio
import contextlib
import sys

from wsapi.asyncio.server import ServerConnection, serve
from wsapi.exceptions import ConnectionClosed


class Countdown:
    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection
        self.number = 10

    async def receive(self) -> None:
        async for message in self.connection:
            self.number = int(message)

    async def send(self) -> None:
        while self.number > 0:
            await self.connection.send(str(self.number))
            self.number -= 1
            await asyncio.sleep(0.1)
        await self.connection.close(1000, "lift-off")


async def handler(connection: ServerConnection) -> None:
    countdown = Countdown(connection)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(countdown.receive())
            tasks.create_task(countdown.send())
    except* ConnectionClosed:
        pass  # the client left
    except* ValueError:
        await connection.close(1007, "not a number")


async def main(port: int = 8765) -> None:
    async with serve(handler, "127.0.0.1", port) as server:
        print(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*map(int, sys.argv[1:])))
