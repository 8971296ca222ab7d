"""Chapter 6: a page that loses its connection comes back, and gets what it has missed.

Usage: board6.py [PORT], then open the URLs in a browser
"""

import asyncio
import contextlib
import hashlib
import hmac
import itertools
import json
import os
import secrets
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from wsapi.asyncio.server import ServerConnection, serve
from wsapi.http11 import Request, Response
from wsapi.limits import Door, Rate
from wsapi.topics import History, Position, Topics
from wsapi.topics.gateway import Gateway, RequestRefused, browser_client, envelope
from wsapi.topics.presence import PresenceEvent
from wsapi.typing import Origin

PAGE = Path(__file__).with_name("page6.html").read_text("utf-8")
SECRET = os.environ.get("BOARD_SECRET") or secrets.token_hex()
HOSTS = ("127.0.0.1", "localhost")  # names of this server in the URLs of its pages
WIDTH, HEIGHT, COLOURS = 32, 24, 8
ROOMS = ("lobby", "kitchen", "garden")
TOKENS = {
    room: hmac.new(SECRET.encode(), room.encode(), hashlib.sha256).hexdigest()[:24]
    for room in ROOMS
}

Cell = tuple[int, int, int, int]  # x, y, colour, and the number of the stroke that painted it


class Store:
    """The boards of all rooms, in memory."""

    def __init__(self) -> None:
        self.boards: dict[str, dict[tuple[int, int], Cell]] = {room: {} for room in ROOMS}
        self.numbers = itertools.count(1)

    async def paint(self, room: str, x: int, y: int, colour: int) -> Cell:
        cell = x, y, colour, next(self.numbers)
        self.boards[room][x, y] = cell
        return cell

    async def cells(self, room: str) -> list[Cell]:
        return list(self.boards[room].values())


class Board:
    """What clients may do, and what becomes of it."""

    def __init__(self, topics: Topics, store: Store) -> None:
        self.topics = topics
        self.store = store
        self.gateway = Gateway(
            topics, authorize=self.may, on_publish=self.paint, member=self.member
        )
        for room in ROOMS:
            topics.watch_presence(f"board.{room}", self.count_people)

    def may(self, connection: ServerConnection, topic: str, action: str) -> bool:
        kind, _, room = topic.partition(".")
        if kind not in ("board", "people") or room not in ROOMS:
            return False
        if action == "subscribe":
            return True
        assert connection.request is not None
        return kind == "board" and knows_token(room, connection.request.path)

    async def paint(self, connection: ServerConnection, topic: str, data: Any) -> Position | None:
        x, y, colour = understand(data)
        cell = await self.store.paint(topic.partition(".")[2], x, y, colour)
        return await self.gateway.publish(topic, cell)

    def member(self, connection: ServerConnection, topic: str) -> str | None:
        return str(connection.id) if topic.startswith("board.") else None

    def count_people(self, event: PresenceEvent) -> None:
        room = event.topic.partition(".")[2]
        number = self.topics.presence(event.topic).members
        # Unlike publish(), this needn't be awaited: nobody waits for watchers.
        self.topics.publish_threadsafe(f"people.{room}", str(number))

    async def respond(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer ordinary requests; let those for /topics become WebSocket connections."""
        path = urlsplit(request.path).path
        name, _, kind = path.removeprefix("/").partition(".")
        if path == "/topics":
            return None
        if path == "/wsapi-topics.js":
            return answer(connection, browser_client(), "text/javascript")
        if name in ROOMS and kind == "":
            return answer(connection, PAGE, "text/html")
        if name in ROOMS and kind == "json":
            state = {
                "cells": await self.store.cells(name),
                "people": self.topics.presence(f"board.{name}").members,
                "may_paint": knows_token(name, request.path),
            }
            return answer(connection, json.dumps(state), "application/json")
        return connection.respond(404, f"Not found; there are: {', '.join(ROOMS)}\n")


def knows_token(room: str, path: str) -> bool:
    """Tell whether the query of a path has the token that one needs for painting in a room."""
    token = parse_qs(urlsplit(path).query).get("token", [""])[0]
    return hmac.compare_digest(token.encode(), TOKENS[room].encode())


def understand(data: Any) -> tuple[int, int, int]:
    """Return what a client wants to paint: x, y, and a colour."""
    if not isinstance(data, dict):
        raise RequestRefused("what is painted is an object")
    limits = {"x": WIDTH, "y": HEIGHT, "colour": COLOURS}
    for name, limit in limits.items():
        value = data.get(name)
        if type(value) is not int or not 0 <= value < limit:
            raise RequestRefused(f"{name} is an integer from 0 to {limit - 1}")
    return data["x"], data["y"], data["colour"]


def answer(connection: ServerConnection, text: str, media_type: str) -> Response:
    response = connection.respond(200, text)
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = f"{media_type}; charset=utf-8"
    response.headers["Cache-Control"] = "no-store"
    return response


async def main(port: int = 8765) -> None:
    async with Topics(history=History(messages=5000, seconds=600), envelope=envelope) as topics:
        board = Board(topics, Store())
        async with serve(
            board.gateway.handle,
            "127.0.0.1",
            port,
            process_request=board.respond,
            door=Door(max_connections=1000, max_per_address=50),
            message_rate=Rate(100, burst=300),
            origins=[*(Origin(f"http://{host}:{port}") for host in HOSTS), None],
        ) as server:
            for room, token in TOKENS.items():
                print(f"http://127.0.0.1:{port}/{room}#{token}", flush=True)
            await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*map(int, sys.argv[1:])))
