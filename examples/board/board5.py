"""Chapter 5: three rooms; who knows a room's token may paint; nobody may do too much.

Usage: board5.py [PORT], then open the URLs in a browser
"""

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import secrets
import sys
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from wsapi.asyncio.server import ServerConnection, broadcast, serve
from wsapi.http11 import Request, Response
from wsapi.limits import Door, Rate, Slow
from wsapi.typing import Origin

PAGE = Path(__file__).with_name("page5.html").read_text("utf-8")
SECRET = os.environ.get("BOARD_SECRET") or secrets.token_hex()
HOSTS = ("127.0.0.1", "localhost")  # names of this server in the URLs of its pages
WIDTH, HEIGHT, COLOURS = 32, 24, 8


class Room:
    """A board of its own, and who looks at it."""

    def __init__(self, name: str) -> None:
        self.token = hmac.new(SECRET.encode(), name.encode(), hashlib.sha256).hexdigest()[:24]
        self.board: dict[tuple[int, int], int] = {}
        self.people: set[ServerConnection] = set()


rooms = {name: Room(name) for name in ("lobby", "kitchen", "garden")}


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
    """Answer requests for a room's page; let those for its board become WebSocket connections."""
    name, _, rest = urlsplit(request.path).path.removeprefix("/").partition("/")
    if name not in rooms or rest not in ("", "board"):
        return connection.respond(404, f"Not found; there are: {', '.join(rooms)}\n")
    if rest == "board":
        return None
    response = connection.respond(200, PAGE)
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = "text/html; charset=utf-8"
    return response


def enter(path: str) -> tuple[Room, bool]:
    """Return the room that a path names, and whether the token in it allows to paint there."""
    url = urlsplit(path)
    room = rooms[url.path.split("/")[1]]
    token = parse_qs(url.query).get("token", [""])[0]
    return room, hmac.compare_digest(token.encode(), room.token.encode())


def tell(connections: Iterable[ServerConnection], key: Hashable, **message: Any) -> None:
    """Send a message; it takes the place of one with the same key that still waits."""
    broadcast(connections, json.dumps(message), key=key)


async def handler(connection: ServerConnection) -> None:
    assert connection.request is not None
    room, may_paint = enter(connection.request.path)
    people = room.people
    people.add(connection)
    try:
        cells = [[x, y, colour] for (x, y), colour in room.board.items()]
        tell([connection], "board", type="board", cells=cells, may_paint=may_paint)
        tell(people, "people", type="people", number=len(people))
        async for message in connection:
            try:
                if not may_paint:
                    raise Refused("who paints here has a link with a token")
                x, y, colour = understand(message)
            except Refused as exc:
                tell([connection], "error", type="error", message=str(exc))
            else:
                room.board[x, y] = colour
                tell(people, (x, y), type="painted", x=x, y=y, colour=colour)
    finally:
        people.remove(connection)
        tell(people, "people", type="people", number=len(people))


async def main(port: int = 8765) -> None:
    async with serve(
        handler,
        "127.0.0.1",
        port,
        max_size=1024,
        process_request=respond,
        slow=Slow.LATEST,
        door=Door(max_connections=1000, max_per_address=50),
        message_rate=Rate(100, burst=300),
        origins=[*(Origin(f"http://{host}:{port}") for host in HOSTS), None],
    ) as server:
        for name, room in rooms.items():
            print(f"http://127.0.0.1:{port}/{name}#{room.token}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*map(int, sys.argv[1:])))
