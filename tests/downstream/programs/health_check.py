"""Health checks and other HTTP on the port of a WebSocket server, by process_request."""

import asyncio
import http
import urllib.error
import urllib.request

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.datastructures import Headers
from websockets.http11 import Response


def process_request(connection, request):
    if request.path == "/healthz":
        return connection.respond(http.HTTPStatus.OK, "OK\n")
    if request.path == "/page":
        body = b"<p>hello</p>"
        headers = Headers([("Content-Type", "text/html"), ("Content-Length", str(len(body)))])
        return Response(200, "OK", headers, body)
    if request.path == "/broken":
        raise RuntimeError("broken")
    return None


async def echo(websocket):
    async for message in websocket:
        await websocket.send(message)


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, response.headers["Content-Type"], response.read()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.headers.get("Content-Type"), exc.read()


async def main():
    async with serve(echo, "127.0.0.1", 0, process_request=process_request) as server:
        host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for path in ("healthz", "page", "broken", "other"):
            print(path, *await asyncio.to_thread(get, f"http://{host}/{path}"))
        async with connect(f"ws://{host}/") as websocket:
            await websocket.send("still here")
            print(await websocket.recv())


asyncio.run(main())
