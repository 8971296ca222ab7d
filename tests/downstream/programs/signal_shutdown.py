"""A server that SIGTERM ends, and a client that SIGTERM closes, as deployment guides do it."""

import asyncio
import os
import signal

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def echo(websocket):
    async for message in websocket:
        await websocket.send(message)
    print("handler ends", websocket.close_code)


async def watch(websocket):
    try:
        async for message in websocket:
            print("received", message)
        print("ended without an error", websocket.close_code, websocket.close_reason)
    except ConnectionClosed as exc:
        print("ended", exc)


async def main():
    loop = asyncio.get_running_loop()
    async with serve(echo, "127.0.0.1", 0) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect(uri) as websocket:
            loop.add_signal_handler(
                signal.SIGTERM, lambda: loop.create_task(websocket.close(1000, "terminated"))
            )
            await websocket.send("one")
            print(await websocket.recv())
            os.kill(os.getpid(), signal.SIGTERM)
            await watch(websocket)

        loop.add_signal_handler(signal.SIGTERM, server.close)
        websocket = await connect(uri)
        watcher = asyncio.create_task(watch(websocket))
        await websocket.send("two")
        await asyncio.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)
        await server.wait_closed()
        await watcher
        print(server.is_serving())


asyncio.run(main())
