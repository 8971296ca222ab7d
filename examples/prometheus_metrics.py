"""Counts for Prometheus at /metrics, on the port of the server.

The server's own counts come from ServerCollector; the application adds its own, with the same
library. Prometheus is told by:

    scrape_configs:
      - job_name: echo
        static_configs: [{targets: ["127.0.0.1:8765"]}]

Needs the extra prometheus. Where the port is open to everybody, have /metrics on another one, by
prometheus_client.start_http_server(), since counts aren't for everybody.

Usage: prometheus_metrics.py [PORT]
"""

import asyncio
import contextlib
import sys
import time

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Counter, Histogram, generate_latest

from wsapi.asyncio.server import ServerConnection, serve
from wsapi.http11 import Request, Response
from wsapi.metrics.prometheus import ServerCollector

COMMANDS = Counter("echo_commands", "Messages by what they ask for.", ["command"])
SECONDS = Histogram("echo_seconds", "Times from a message to its answer.")


def metrics(connection: ServerConnection, request: Request) -> Response | None:
    """Answer a scrape; let other requests become WebSocket connections."""
    if request.path.partition("?")[0] != "/metrics":
        return None
    response = connection.respond(200, generate_latest().decode())
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = CONTENT_TYPE_LATEST
    return response


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        begin = time.perf_counter()
        # Labels with what clients write in them would grow without end.
        COMMANDS.labels("shout" if isinstance(message, str) else "other").inc()
        await connection.send(message.upper())
        SECONDS.observe(time.perf_counter() - begin)


async def main(port: int = 8765) -> None:
    async with serve(echo, "127.0.0.1", port, process_request=metrics) as server:
        REGISTRY.register(ServerCollector({"echo": server.stats}))
        print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/metrics", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*map(int, sys.argv[1:])))
