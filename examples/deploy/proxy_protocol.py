"""A server with TLS of its own, behind a proxy that tells addresses by the PROXY protocol.

Usage: proxy_protocol.py CERTIFICATE KEY [PORT]
"""

import asyncio
import signal
import ssl
import sys

from wsapi.asyncio.server import ServerConnection, serve
from wsapi.health import readiness
from wsapi.limits import Door


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(f"{connection.client_address}: {message!s}")


async def main(certificate: str, key: str, port: str = "8765") -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    # Only the proxy may be able to connect: who can could claim any address.
    door = Door(max_per_address=100, proxy_protocol=True)
    async with serve(
        echo,
        "127.0.0.1",
        int(port),
        ssl=context,
        door=door,
        process_request=readiness("/healthz"),
    ) as server:
        server.drain_on_signal(signal.SIGTERM, signal.SIGINT, timeout=30, spread=5)
        await server.wait_closed()


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    asyncio.run(main(*sys.argv[1:]))
