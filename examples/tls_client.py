"""Send a message over TLS to a server whose certificate isn't signed by a public authority.

For those that are, ``connect`` needs no ``ssl`` argument.

Usage: tls_client.py AUTHORITY [URL]
"""

import asyncio
import ssl
import sys

from wsapi.asyncio.client import connect


async def main(authority: str, url: str = "wss://localhost:8765") -> None:
    context = ssl.create_default_context(cafile=authority)
    async with connect(url, ssl=context) as connection:
        await connection.send("Hello!")
        print(await connection.recv())
        print(connection.transport.get_extra_info("cipher"))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    asyncio.run(main(*sys.argv[1:]))
