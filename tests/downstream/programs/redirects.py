"""HTTP redirects: followed, without an end, and to where a client must not go."""

import asyncio
import http

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve


def process_request(connection, request):
    if request.path.startswith("/old"):
        response = connection.respond(http.HTTPStatus.FOUND, "")
        response.headers["Location"] = "/new" + request.path.removeprefix("/old")
        return response
    if request.path == "/loop":
        response = connection.respond(http.HTTPStatus.TEMPORARY_REDIRECT, "")
        response.headers["Location"] = "/loop"
        return response
    if request.path == "/nowhere":
        return connection.respond(http.HTTPStatus.MOVED_PERMANENTLY, "")
    if request.path == "/http":
        response = connection.respond(http.HTTPStatus.SEE_OTHER, "")
        response.headers["Location"] = "http://127.0.0.1/"
        return response


async def handler(websocket):
    await websocket.send(websocket.request.path)


async def main():
    async with serve(handler, "127.0.0.1", 0, process_request=process_request) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}/old/place?a=b") as websocket:
            print(await websocket.recv())
        for path in ("loop", "nowhere", "http"):
            try:
                await connect(f"ws://127.0.0.1:{port}/{path}")
            except Exception as exc:
                print(path, type(exc).__name__, str(exc).replace(str(port), "PORT"))


asyncio.run(main())
