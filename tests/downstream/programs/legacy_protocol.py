"""The old way to customise a server: subclasses of its protocol, tuples as answers."""

import asyncio
import http
import warnings

warnings.simplefilter("ignore")

import websockets  # noqa: E402
from websockets.legacy.auth import basic_auth_protocol_factory  # noqa: E402
from websockets.legacy.client import connect  # noqa: E402
from websockets.legacy.exceptions import InvalidStatusCode  # noqa: E402
from websockets.legacy.server import WebSocketServerProtocol, serve  # noqa: E402


class Protocol(WebSocketServerProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.user = None

    async def process_request(self, path, request_headers):
        if path == "/health":
            return http.HTTPStatus.OK, [("X-Health", "yes")], b"OK\n"
        self.user = request_headers.get("X-User")
        if self.user is None:
            return http.HTTPStatus.UNAUTHORIZED, {}, b"who?\n"


async def handler(websocket):
    await websocket.send(f"Hello {websocket.user}")


async def named(websocket):
    await websocket.send(f"Hello {websocket.username}")


async def main():
    async with serve(handler, "127.0.0.1", 0, create_protocol=Protocol) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect(uri, extra_headers={"X-User": "ada"}) as websocket:
            print(await websocket.recv())
        for path in ("/", "/health"):
            try:
                await connect(uri + path)
            except InvalidStatusCode as exc:
                print(exc, exc.status_code, exc.headers.get("X-Health"))
    factory = basic_auth_protocol_factory(realm="r", credentials=("ada", "x"))
    async with serve(named, "127.0.0.1", 0, create_protocol=factory) as server:
        host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect(f"ws://ada:x@{host}") as websocket:
            print(await websocket.recv())
        try:
            await connect(f"ws://{host}")
        except websockets.exceptions.InvalidStatusCode as exc:
            print(exc.status_code, exc.headers["WWW-Authenticate"])


asyncio.run(main())
