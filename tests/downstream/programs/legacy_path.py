"""Programs of before 2024: handlers with one and two arguments, old clients."""

import asyncio
import warnings

warnings.simplefilter("ignore")

from websockets.legacy.client import connect  # noqa: E402
from websockets.legacy.server import serve  # noqa: E402


async def two_arguments(websocket, path):
    print(websocket.path, path, websocket.request_headers["Host"] is not None)
    async for message in websocket:
        await websocket.send(message.upper())


async def one_argument(websocket):
    name = await websocket.recv()
    await websocket.send(f"Hello {name}! {websocket.open} {websocket.closed}")
    await websocket.wait_closed()
    print(websocket.open, websocket.closed, websocket.close_code)


async def main():
    async with serve(two_arguments, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}/one?two=3") as websocket:
            await websocket.send("abc")
            print(await websocket.recv(), websocket.subprotocol)
    server = await serve(one_argument, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    websocket = await connect(f"ws://127.0.0.1:{port}", extra_headers={"X-A": "b"})
    await websocket.send("ada")
    print(await websocket.recv())
    waiter = await websocket.ping()
    print(await waiter >= 0)
    await websocket.close()
    server.close()
    await server.wait_closed()


asyncio.run(main())
