"""Send back every message, over TLS.

Usage: tls_server.py CERTIFICATE KEY [PORT]
"""

import asyncio
import contextlib
import ssl
import sys

from wsapi.asyncio.server import ServerConnection, serve


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def main(certificate: str, key: str, port: str = "8765") -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with serve(echo, "127.0.0.1", int(port), ssl=context) as server:
        print(f"wss://localhost:{server.sockets[0].getsockname()[1]}")
        await server.serve_forever()


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
