"""The front-end for trio: an echo server, clients in a nursery, cancellation."""

import functools

import trio
from websockets.exceptions import ConnectionClosedOK
from websockets.trio.client import connect
from websockets.trio.server import serve


async def echo(websocket):
    async for message in websocket:
        await websocket.send(message)


async def client(uri, number, results):
    async with connect(uri) as websocket:
        await websocket.send(f"message {number}")
        results.append(await websocket.recv())


async def main():
    async with trio.open_nursery() as nursery:
        server = await nursery.start(functools.partial(serve, echo, 0, host="127.0.0.1"))
        port = server.listeners[0].socket.getsockname()[1]
        uri = f"ws://127.0.0.1:{port}"
        results = []
        async with trio.open_nursery() as clients:
            for number in range(4):
                clients.start_soon(client, uri, number, results)
        print(sorted(results))
        async with connect(uri) as websocket:
            with trio.move_on_after(0.1) as scope:
                await websocket.recv()
            print("cancelled", scope.cancelled_caught)
            await websocket.send("after")
            print(await websocket.recv())
            await websocket.aclose(1000, "done")
            try:
                await websocket.recv()
            except ConnectionClosedOK as exc:
                print(exc)
        nursery.cancel_scope.cancel()


trio.run(main)
