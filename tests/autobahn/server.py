"""Echo server for the Autobahn Testsuite in fuzzingclient mode. Usage: server.py PORT [HOST]"""

import asyncio
import sys
from typing import Any

from wsapi.asyncio.server import ServerConnection, serve
from wsapi.exceptions import ConnectionClosed


class Unbounded(ServerConnection):
    """A connection that accepts any number of fragments: cases 9.3.1 and 9.4.1 send 65,536."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.protocol.queue_messages(max_fragments=None)


async def echo(connection: ServerConnection) -> None:
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        pass  # most cases are about endings


async def main(port: int, host: str = "127.0.0.1") -> None:
    async with serve(echo, host, port, max_size=None, create_connection=Unbounded) as server:
        print("listening", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), *sys.argv[2:]))
