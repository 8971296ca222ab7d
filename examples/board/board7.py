"""Chapter 7: as many processes as one likes, which meet at Redis or Valkey.

Usage: BOARD_SECRET=... board7.py [--redis URL] [PORT], then open the URLs in a browser
"""

import argparse
import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from redis.asyncio import Redis

from wsapi.asyncio.server import ServerConnection, serve
from wsapi.http11 import Request, Response
from wsapi.limits import Door, Rate
from wsapi.topics import History, Position, Topics
from wsapi.topics.gateway import Gateway, RequestRefused, browser_client, envelope
from wsapi.topics.presence import PresenceEvent
from wsapi.typing import Origin

PAGE = Path(__file__).with_name("page6.html").read_text("utf-8")
SECRET = os.environ.get("BOARD_SECRET") or sys.exit("BOARD_SECRET must be set")
HOSTS = ("127.0.0.1", "localhost")  # names of this server in the URLs of its pages
WIDTH, HEIGHT, COLOURS = 32, 24, 8
ROOMS = ("lobby", "kitchen", "garden")
TOKENS = {
    room: hmac.new(SECRET.encode(), room.encode(), hashlib.sha256).hexdigest()[:24]
    for room in ROOMS
}

Cell = tuple[int, int, int, int]  # x, y, colour, and the number of the stroke that painted it


class Store:
    """The boards of all rooms, in Redis: what all processes share, and what outlives them."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    async def paint(self, room: str, x: int, y: int, colour: int) -> Cell:
        number: int = await self.redis.incr("board-strokes")
        # A score is kept if it is greater than the one before (gt), so that a cell has the colour
        # of its last stroke, in whichever order processes come here.
        score = number * COLOURS + colour
        await self.redis.zadd(f"board-cells:{room}", {f"{x} {y}": score}, gt=True)
        return x, y, colour, number

    async def cells(self, room: str) -> list[Cell]:
        found: Any = await self.redis.zrange(f"board-cells:{room}", 0, -1, withscores=True)
        cells: list[Cell] = []
        for place, score in found:
            x, y = map(int, place.split())
            number, colour = divmod(int(score), COLOURS)
            cells.append((x, y, colour, number))
        return cells


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


async def main(port: int, url: str) -> None:
    async with (
        Redis.from_url(url, socket_timeout=5) as redis,
        Topics(url, history=History(messages=5000, seconds=600), envelope=envelope) as topics,
    ):
        board = Board(topics, Store(redis))
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
    parser = argparse.ArgumentParser()
    parser.add_argument("port", nargs="?", type=int, default=8765)
    parser.add_argument("--redis", default="redis://127.0.0.1:6379")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(arguments.port, arguments.redis))
