"""A server to deploy behind a proxy, which does TLS and tells the clients' addresses.

It listens on a port or on a Unix socket, tells at /healthz whether it takes connections, has a line
in its log for each connection, and closes them one by one on SIGTERM.

Usage: server.py [--host HOST] [--port PORT] [--unix PATH]
"""

import argparse
import asyncio
import logging
import os
import signal
from typing import Any

from wsapi.asyncio.server import ServerConnection, serve
from wsapi.health import readiness
from wsapi.limits import Door, forwarded_for


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(f"{connection.client_address}: {message!s}")


async def main(host: str, port: int, unix: str | None) -> None:
    address: dict[str, Any] = {"path": unix} if unix else {"host": host, "port": port}
    # The proxy writes the address into X-Forwarded-For; nobody else may be able to connect.
    door = Door(max_connections=10_000, max_per_address=100, client_address=forwarded_for())
    async with serve(
        echo, **address, door=door, process_request=readiness("/healthz"), log_connections=True
    ) as server:
        server.drain_on_signal(signal.SIGTERM, signal.SIGINT, timeout=30, spread=5)
        if unix:
            os.chmod(unix, 0o660)  # for the group, to which the proxy belongs
        await server.wait_closed()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A server to deploy behind a proxy")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--unix", metavar="PATH", help="Unix socket, instead of host and port")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    asyncio.run(main(**vars(arguments)))
