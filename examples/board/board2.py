"""Chapter 2: messages are JSON objects, and what is wrong with one is told to who sent it.

Usage: board2.py [PORT]
"""

import asyncio
import contextlib
import json
import sys
from typing import Any

from wsapi.asyncio.server import ServerConnection, serve

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


async def handler(connection: ServerConnection) -> None:
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
    async with serve(handler, "127.0.0.1", port, max_size=1024) as server:
        print(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*map(int, sys.argv[1:])))
