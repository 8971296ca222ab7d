"""Chapter 3: the server also serves a page, page3.html, which paints.

Usage: board3.py [PORT], then open the URL in a browser
"""

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from wsapi.asyncio.server import ServerConnection, serve
from wsapi.http11 import Request, Response

PAGE = Path(__file__).with_name("page3.html").read_text("utf-8")
WIDTH, HEIGHT, COLOURS = 32, 24, 8

board: dict[tuple[int, int], int] = {}  # the colours of cells; one that isn't here has 0


class Refused(Exception):
    """A message can't be accepted; the text says why."""


def understand(message: str | bytes) -> tuple[int, int, int]:
    """Return what a message wants to paint: x, y, and a colour."""
    try:
        request = json.loads(message)
    except (ValueError, RecursionError):
        raise Refused("a message is a JSON text") from None
    if not isinstance(request, dict) or request.get("type") != "paint":
        raise Refused('a message is an object with the type "paint"')
    limits = {"x": WIDTH, "y": HEIGHT, "colour": COLOURS}
    for name, limit in limits.items():
        value = request.get(name)
        if type(value) is not int or not 0 <= value < limit:
            raise Refused(f"{name} is an integer from 0 to {limit - 1}")
    return request["x"], request["y"], request["colour"]


def respond(connection: ServerConnection, request: Request) -> Response | None:
    """Answer requests for the page; let those for /board become WebSocket connections."""
    if request.path == "/board":
        return None
    if request.path != "/":
        return connection.respond(404, "Not found\n")
    response = connection.respond(200, PAGE)
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = "text/html; charset=utf-8"
    return response


async def handler(connection: ServerConnection) -> None:
    cells = [[x, y, colour] for (x, y), colour in board.items()]
    await connection.send(json.dumps({"type": "board", "cells": cells}))
    async for message in connection:
        try:
            x, y, colour = understand(message)
        except Refused as exc:
            answer: dict[str, Any] = {"type": "error", "message": str(exc)}
        else:
            board[x, y] = colour
            answer = {"type": "painted", "x": x, "y": y, "colour": colour}
        await connection.send(json.dumps(answer))


async def main(port: int = 8765) -> None:
    async with serve(handler, "127.0.0.1", port, max_size=1024, process_request=respond) as server:
        print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*map(int, sys.argv[1:])))
