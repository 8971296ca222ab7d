"""Routing with werkzeug: converters, methods of the map, redirects, and unknown paths."""

import asyncio

from websockets.asyncio.client import connect
from websockets.asyncio.router import route
from websockets.exceptions import InvalidStatus
from werkzeug.routing import Map, Rule


async def clock(websocket, tzinfo):
    await websocket.send(f"clock {tzinfo}")


async def channel(websocket, channel_id):
    await websocket.send(f"channel {channel_id!r}")


async def folder(websocket):
    await websocket.send("folder")


URLS = Map(
    [
        Rule("/", redirect_to="/clock"),
        Rule("/clock", endpoint=clock, defaults={"tzinfo": "UTC"}),
        Rule("/clock/<path:tzinfo>", endpoint=clock),
        Rule("/channel/<int:channel_id>", endpoint=channel),
        Rule("/folder/", endpoint=folder),
    ]
)


async def main():
    async with route(URLS, "127.0.0.1", 0) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for path in ("/clock/Europe/Paris", "/clock", "/", "/channel/7", "/folder", "/folder/"):
            async with connect(uri + path) as websocket:
                print(path, await websocket.recv(), websocket.request.path)
        for path in ("/channel/x", "/missing"):
            try:
                await connect(uri + path)
            except InvalidStatus as exc:
                print(path, exc, bytes(exc.response.body))


asyncio.run(main())
