"""Authentication by the first message, for browsers: their scripts can't set headers.

A URL isn't the place for a token: URLs end up in logs.

Usage: token_auth.py [PORT]
"""

import asyncio
import contextlib
import hmac
import sys

from wsapi.asyncio.server import ServerConnection, serve

TOKENS = {"alice": b"0f3c7a", "bob": b"9d41be"}
TIMEOUT = 5


async def authenticate(connection: ServerConnection) -> str | None:
    """Return the name of the user, None if the client doesn't say or doesn't know the token."""
    try:
        async with asyncio.timeout(TIMEOUT):
            name, _, token = (await connection.recv(decode=True)).partition(" ")
    except TimeoutError:
        return None
    known = name in TOKENS and hmac.compare_digest(TOKENS[name], token.encode())
    return name if known else None


async def handler(connection: ServerConnection) -> None:
    name = await authenticate(connection)
    if name is None:
        await connection.close(1008, "authentication failed")
        return
    await connection.send(f"Welcome, {name}!")


async def main(port: int = 8765) -> None:
    async with serve(handler, "127.0.0.1", port) as server:
        print(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*map(int, sys.argv[1:])))
