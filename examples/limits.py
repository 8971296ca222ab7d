"""A chat that bounds what its clients can cost.

Each limit stands here with what a client sees beyond it. The numbers are so small that one reaches
them by hand; docs/limits.md tells the defaults, and what each limit costs.

Usage: limits.py [PORT]; Ctrl-C prints what was refused, closed, and dropped
"""

import asyncio
import contextlib
import sys

from wsapi.asyncio.server import ServerConnection, broadcast, serve
from wsapi.limits import BufferBudget, Door, Rate, Slow

HISTORY = "what was said\n" * 70_000  # a megabyte for eight bytes that ask for it

DOOR = Door(
    max_connections=6,  # at a time: 503, with Retry-After
    max_per_address=5,  # at a time: 429, with Retry-After
    max_opening=3,  # at a time in their opening handshake: 503, with Retry-After
    retry_after=5,  # seconds
)
# Bytes that wait on all connections together: 1013, or a reset of those that don't read.
BUDGET = BufferBudget(3_000_000, interval=0.1)


async def chat(connection: ServerConnection) -> None:
    async for message in connection:
        if message == "/history":
            await connection.send(HISTORY)
        else:
            broadcast(connection.server.connections, message)


async def main(port: int = 8765) -> None:
    async with serve(
        chat,
        "127.0.0.1",
        port,
        door=DOOR,
        open_timeout=2,  # seconds for the request: 408, or no answer to who has sent nothing
        max_size=20_000,  # bytes of a message: 1009
        message_rate=Rate(5, burst=10, exceeded="close"),  # a second, ten at once: 1008
        byte_rate=Rate(50_000, exceeded="close"),  # a second: 1008
        slow=Slow.DROP_OLDEST,  # who doesn't read in time misses what is oldest,
        max_backlog=1_500_000,  # of more bytes than these that wait for one client
        write_deadline=1.5,  # seconds in which a client may take nothing: reset
        ping_interval=1,  # seconds between looks whether a client is there, and
        ping_timeout=1,  # seconds in which it must show that: 1011
        close_timeout=2,  # seconds for its answer to a Close frame: reset
        buffer_budget=BUDGET,
    ) as server:
        print(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        try:
            await server.serve_forever()
        finally:
            stats = server.stats()
            print(f"refused: {dict(stats.refused)}")
            print(f"closed: {dict(stats.closed)}")
            print(f"dropped: {sum(stats.dropped.values())} messages")
            print(f"given up: {dict(stats.given_up)}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*map(int, sys.argv[1:])))
