"""Client for the Autobahn Testsuite in fuzzingserver mode. Usage: client.py URL"""

import asyncio
import sys
from typing import Any

from wsapi.asyncio.client import ClientConnection, connect
from wsapi.exceptions import WebSocketException

AGENT = "wsapi"
BOUND = 120  # seconds per case


class Unbounded(ClientConnection):
    """A connection that accepts any number of fragments: cases 9.3.1 and 9.4.1 send 65,536."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.protocol.queue_messages(max_fragments=None)


async def echo(url: str) -> None:
    async with connect(url, max_size=None, create_connection=Unbounded) as connection:
        async for message in connection:
            await connection.send(message)


async def main(url: str) -> None:
    async with connect(f"{url}/getCaseCount") as connection:
        count = int(await connection.recv())
    for case in range(1, count + 1):
        try:
            await asyncio.wait_for(echo(f"{url}/runCase?case={case}&agent={AGENT}"), BOUND)
        except (WebSocketException, OSError, EOFError) as exc:  # the report tells if that was right
            print(f"case {case}: {type(exc).__name__}: {exc}", flush=True)
    async with connect(f"{url}/updateReports?agent={AGENT}", open_timeout=60):
        pass


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1].rstrip("/")))
