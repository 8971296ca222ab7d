"""HTTP Basic Authentication: credentials in the URI, lists of them, and a function that checks."""

import asyncio

from websockets.asyncio.client import connect
from websockets.asyncio.server import basic_auth, serve
from websockets.exceptions import InvalidStatus
from websockets.headers import build_authorization_basic


async def hello(websocket):
    await websocket.send(f"Hello {websocket.username}")


async def check(username, password):
    return username == password[::-1]


async def attempt(uri, **options):
    try:
        async with connect(uri, **options) as websocket:
            print(await websocket.recv())
    except InvalidStatus as exc:
        response = exc.response
        print(response.status_code, response.headers["WWW-Authenticate"], bytes(response.body))


async def main():
    for checking in (
        basic_auth(realm="one", credentials=("ada", "pa:ss")),
        basic_auth(realm='t"wo', credentials=[("ada", "x"), ("éve", "ü")]),
        basic_auth("three", check_credentials=check),
    ):
        async with serve(hello, "127.0.0.1", 0, process_request=checking) as server:
            host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            await attempt(f"ws://{host}")
            await attempt(f"ws://ada:pa%3Ass@{host}")
            await attempt(f"ws://ada:ada@{host}")
            header = {"Authorization": build_authorization_basic("éve", "ü")}
            await attempt(f"ws://{host}", additional_headers=header)
            await attempt(f"ws://{host}", additional_headers={"Authorization": "Bearer abc"})
    for wrong in ({}, {"credentials": 3}, {"credentials": ("a", "b"), "check_credentials": check}):
        try:
            basic_auth("realm", **wrong)
        except (TypeError, ValueError) as exc:
            print(type(exc).__name__)


asyncio.run(main())
