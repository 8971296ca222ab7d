"""A server whose listening socket comes from systemd: see websocket.socket, websocket.service.

Without systemd it listens on a port of its own.

Usage: activated.py
"""

import asyncio
import logging
import os
import signal
import socket
from typing import Any

from wsapi.asyncio.server import ServerConnection, serve
from wsapi.health import readiness


def inherited_sockets() -> list[socket.socket]:
    """Return the sockets that systemd has opened, as sd_listen_fds(3) tells."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []  # they are another process's
    return [socket.socket(fileno=3 + number) for number in range(int(os.environ["LISTEN_FDS"]))]


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def main() -> None:
    sockets = inherited_sockets()
    address: dict[str, Any] = {"sock": sockets[0]} if sockets else {"host": "::1", "port": 8765}
    # The backlog is set again here, whatever the unit says.
    async with serve(
        echo,
        **address,
        backlog=4096,
        process_request=readiness("/healthz"),
        log_connections=True,
    ) as server:
        server.drain_on_signal(signal.SIGTERM, signal.SIGINT, timeout=30, spread=5)
        await server.wait_closed()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    asyncio.run(main())
