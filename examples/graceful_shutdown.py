"""End on SIGTERM, as service managers and containers ask for it, without losing work.

No new connections; a closing handshake on those that are open (1001, going away); handlers finish
what they began.

Usage: graceful_shutdown.py [PORT]
"""

import asyncio
import signal
import sys

from wsapi.asyncio.server import ServerConnection, serve


async def work(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(f"working on {message!r}")
        await asyncio.sleep(0.3)
        print(f"finished {message!r}")


async def main(port: int = 8765) -> None:
    async with serve(work, "127.0.0.1", port) as server:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.close)
        print(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await server.wait_closed()
    print("closed")


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
