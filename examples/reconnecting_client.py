"""Print what a server sends; when the connection is lost, connect again, less and less often.

Usage: reconnecting_client.py [URL]
"""

import asyncio
import contextlib
import logging
import sys

from wsapi.asyncio.client import connect
from wsapi.exceptions import ConnectionClosed


async def main(url: str = "ws://127.0.0.1:8765") -> None:
    async for connection in connect(url):
        try:
            async for message in connection:
                print(message)
                if message == "bye":
                    return
        except ConnectionClosed:
            print("connection lost")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)  # shows when it will try again
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
