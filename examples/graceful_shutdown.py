"""End on SIGTERM, as service managers and containers ask for it, without losing work.

Load balancers are told by /healthz to send nobody any more, and who comes all the same is answered
503 with Retry-After. Connections are closed one by one (1012, service restart), so that their
clients don't all look for another server at once; handlers finish what they began. A second signal
closes what is left at once.

Whatever clients do, it is over SECONDS + 1 after the signal: connections of those that don't answer
are aborted, handlers that still run are cancelled. Containers are killed 10 seconds after the
signal by default with Docker, 30 seconds with Kubernetes.

Usage: graceful_shutdown.py [PORT [SECONDS]]
"""

import asyncio
import signal
import sys

from wsapi.asyncio.server import ServerConnection, serve
from wsapi.health import readiness


async def work(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(f"working on {message!r}")
        await asyncio.sleep(0.3)
        print(f"finished {message!r}")


async def main(port: int = 8765, seconds: int = 8) -> None:
    async with serve(work, "127.0.0.1", port, process_request=readiness("/healthz")) as server:
        server.drain_on_signal(
            signal.SIGTERM, signal.SIGINT, timeout=seconds, spread=min(1, seconds / 2)
        )
        print(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await server.wait_closed()
    print("closed")


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
