"""Publish and subscribe: a web page that shows figures of the server as they change.

The page is served on the same port. It subscribes to topics by sending their names.

Usage: dashboard.py [PORT], then open the URL in a browser
"""

import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path

from wsapi.asyncio.server import ServerConnection, broadcast, serve
from wsapi.http11 import Request, Response

PAGE = Path(__file__).with_name("dashboard.html").read_text(encoding="utf-8")

subscribers: dict[str, set[ServerConnection]] = {"time": set(), "visitors": set()}


def page(connection: ServerConnection, request: Request) -> Response | None:
    """Answer ordinary requests; let those for /feed become WebSocket connections."""
    if request.path == "/feed":
        return None
    if request.path != "/":
        return connection.respond(404, "Not found\n")
    response = connection.respond(200, PAGE)
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = "text/html; charset=utf-8"
    return response


async def subscribe(connection: ServerConnection) -> None:
    try:
        async for topic in connection:
            if topic not in subscribers:
                await connection.close(1008, "no such topic")
                break
            subscribers[str(topic)].add(connection)
    finally:
        for connections in subscribers.values():
            connections.discard(connection)


def publish(topic: str, value: object) -> None:
    broadcast(subscribers[topic], json.dumps({"topic": topic, "value": value}))


async def main(port: int = 8765) -> None:
    async with serve(subscribe, "127.0.0.1", port, process_request=page) as server:
        print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        while True:
            publish("time", time.strftime("%H:%M:%S"))
            publish("visitors", len(server.connections))
            await asyncio.sleep(0.5)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*map(int, sys.argv[1:])))
