"""A chat server: names by path, messages to everybody else, who comes and goes."""

import asyncio

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

ROOM = {}


async def handler(websocket):
    name = websocket.request.path.strip("/")
    ROOM[name] = websocket
    try:
        for other in list(ROOM.values()):
            await other.send(f"{name} joined")
        async for message in websocket:
            for other in list(ROOM.values()):
                if other is not websocket:
                    await other.send(f"{name}: {message}")
    except ConnectionClosed as exc:
        print("lost", name, exc.rcvd.code if exc.rcvd else None)
    finally:
        del ROOM[name]
        for other in list(ROOM.values()):
            await other.send(f"{name} left")


async def main():
    async with serve(handler, "localhost", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(f"ws://localhost:{port}/ada") as ada:
            print(await ada.recv())
            async with connect(f"ws://localhost:{port}/bob") as bob:
                print(await ada.recv(), "|", await bob.recv())
                await bob.send("hello")
                print(await ada.recv())
                await ada.send("hi bob")
                print(await bob.recv())
            print(await ada.recv())
    print(sorted(ROOM))


asyncio.run(main())
