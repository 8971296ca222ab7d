"""Tokens: in the first message, and in the query of the URI."""

import asyncio
import http
import urllib.parse

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.frames import CloseCode

TOKENS = {"s3cret": "ada"}


async def first_message(websocket):
    token = await websocket.recv()
    user = TOKENS.get(token)
    if user is None:
        await websocket.close(CloseCode.INTERNAL_ERROR, "authentication failed")
        return
    await websocket.send(f"Hello {user}!")


def query(connection, request):
    parameters = urllib.parse.parse_qs(urllib.parse.urlparse(request.path).query)
    user = TOKENS.get(parameters.get("token", [""])[0])
    if user is None:
        return connection.respond(http.HTTPStatus.UNAUTHORIZED, "Invalid token\n")
    connection.username = user


async def greet(websocket):
    await websocket.send(f"Hello {websocket.username}!")


async def main():
    async with serve(first_message, "127.0.0.1", 0) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect(uri) as websocket:
            await websocket.send("s3cret")
            print(await websocket.recv())
        async with connect(uri) as websocket:
            await websocket.send("guess")
            try:
                await websocket.recv()
            except ConnectionClosedError as exc:
                print(exc, exc.rcvd.code, exc.rcvd.reason, isinstance(exc, ConnectionClosed))
    async with serve(greet, "127.0.0.1", 0, process_request=query) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect(uri + "/?token=s3cret") as websocket:
            print(await websocket.recv())
        try:
            await connect(uri + "/?token=guess")
        except InvalidStatus as exc:
            print(
                exc, exc.response.status_code, exc.response.reason_phrase, bytes(exc.response.body)
            )


asyncio.run(main())
