"""HTTP Basic Authentication: only those who know a password get in. Use it with TLS.

Clients give it in the URL, like ws://alice:wonderland@127.0.0.1:8765/

Usage: basic_auth.py [PORT]
"""

import asyncio
import contextlib
import hashlib
import hmac
import sys

from wsapi.asyncio.server import ServerConnection, basic_auth, serve

# In earnest these come from a database; the password itself is never stored.
SALT = b"a random salt for each user"
HASHES = {"alice": hashlib.scrypt(b"wonderland", salt=SALT, n=2**12, r=8, p=1)}


async def check(username: str, password: str) -> bool:
    """Hash the password in a thread: that takes a while, on purpose."""
    data = password.encode(errors="surrogateescape")
    found = await asyncio.to_thread(hashlib.scrypt, data, salt=SALT, n=2**12, r=8, p=1)
    return hmac.compare_digest(HASHES.get(username, b""), found)


async def welcome(connection: ServerConnection) -> None:
    await connection.send(f"Welcome, {connection.username}!")


async def main(port: int = 8765) -> None:
    authenticate = basic_auth("the looking-glass", check_credentials=check)
    async with serve(welcome, "127.0.0.1", port, process_request=authenticate) as server:
        print(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*map(int, sys.argv[1:])))
