"""A chat of any number of processes: what one says in a room, all hear, wherever they are.

Usage: chat.py [--bus URL] [PORT], then open the page that it names in a browser.

Without a bus, it is one process. With one, start it as often as you like, on other ports and hosts:
--bus redis://localhost:6379, which is also for Valkey, or --bus nats://localhost:4222. The
environment variable CHAT_BUS does the same.

Who loses the connection finds another one, and gets what was said meanwhile.
"""

import argparse
import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

from wsapi.asyncio.server import ServerConnection, serve
from wsapi.http11 import Request, Response
from wsapi.topics import History, Position, Topics
from wsapi.topics.gateway import Gateway, RequestRefused, browser_client, envelope

FILES = {
    "/": (Path(__file__).with_name("chat.html").read_text("utf-8"), "text/html"),
    "/wsapi-topics.js": (browser_client(), "text/javascript"),
}
KEPT = History(messages=1000, seconds=600)


class Chat:
    """What is a chat, and not the business of topics."""

    def __init__(self, topics: Topics) -> None:
        self.gateway = Gateway(topics, authorize=self.may, on_publish=self.say)

    def may(self, connection: ServerConnection, topic: str, action: str) -> bool:
        return re.fullmatch(r"room\.[\w-]{1,40}", topic) is not None

    async def say(self, connection: ServerConnection, topic: str, data: Any) -> Position | None:
        match data:
            case {"name": str(name), "text": str(text)} if 0 < len(name) <= 40 and text.strip():
                message = {"name": name, "text": text[:1000], "time": time.time()}
                return await self.gateway.publish(topic, message)
        raise RequestRefused("who says something has a name of at most 40 characters")


def respond(connection: ServerConnection, request: Request) -> Response | None:
    """Answer ordinary requests; let those for /topics become WebSocket connections."""
    if request.path == "/topics":
        return None
    if request.path not in FILES:
        return connection.respond(404, "Not found\n")
    text, media_type = FILES[request.path]
    response = connection.respond(200, text)
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = f"{media_type}; charset=utf-8"
    return response


async def main(port: int, bus: str | None) -> None:
    async with Topics(bus, history=KEPT, envelope=envelope) as topics:
        chat = Chat(topics)
        handle = chat.gateway.handle
        async with serve(handle, "127.0.0.1", port, process_request=respond) as server:
            # Browsers are told to come back, all of them within five seconds.
            server.drain_on_signal(signal.SIGTERM, timeout=10, spread=5)
            print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", flush=True)
            await server.wait_closed()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", nargs="?", type=int, default=8765)
    parser.add_argument("--bus", default=os.environ.get("CHAT_BUS"))
    arguments = parser.parse_args(sys.argv[1:])
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(arguments.port, arguments.bus))
