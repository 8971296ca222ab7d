"""Send a message to the echo server and print what comes back.

Usage: echo_client.py [URL]
"""

import asyncio
import sys

from wsapi.asyncio.client import connect


async def main(url: str = "ws://127.0.0.1:8765") -> None:
    async with connect(url) as connection:
        await connection.send("Hello!")
        print(await connection.recv())
        latency = await (await connection.ping())
        print(f"ping: {latency * 1e3:.2f} ms")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
