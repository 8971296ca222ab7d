"""Unix sockets, on asyncio and in threads."""

import asyncio
import pathlib
import tempfile
import threading

from websockets.asyncio.client import unix_connect
from websockets.asyncio.server import unix_serve
from websockets.sync.client import unix_connect as sync_unix_connect
from websockets.sync.server import unix_serve as sync_unix_serve


async def hello(websocket):
    name = await websocket.recv()
    await websocket.send(f"Hello {name} at {websocket.request.path}")


def hello_in_thread(websocket):
    websocket.send(f"Hello {websocket.recv()}")


async def main(path):
    async with unix_serve(hello, path):
        async with unix_connect(path) as websocket:
            await websocket.send("ada")
            print(await websocket.recv(), websocket.request.headers["Host"])
        async with unix_connect(path, "ws://example.com/chat?x=1") as websocket:
            await websocket.send("bob")
            print(await websocket.recv(), websocket.request.headers["Host"])


with tempfile.TemporaryDirectory() as directory:
    asyncio.run(main(str(pathlib.Path(directory) / "socket")))
    path = str(pathlib.Path(directory) / "threads")
    with sync_unix_serve(hello_in_thread, path) as server:
        threading.Thread(target=server.serve_forever).start()
        with sync_unix_connect(path) as websocket:
            websocket.send("eve")
            print(websocket.recv())
        server.shutdown()
    try:
        sync_unix_connect(path + "missing")
    except OSError as exc:
        print(type(exc).__name__)
