"""Time limits: of recv() by two means, of the opening handshake, and of closing."""

import asyncio
import contextlib

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve


async def slow(websocket):
    async for message in websocket:
        await asyncio.sleep(0.2)
        await websocket.send(message)


async def never(reader, writer):
    with contextlib.suppress(ConnectionError):
        await reader.read()
    writer.close()


async def main():
    async with serve(slow, "127.0.0.1", 0) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect(uri) as websocket:
            await websocket.send("late")
            try:
                await asyncio.wait_for(websocket.recv(), timeout=0.05)
            except TimeoutError as exc:
                print("wait_for", type(exc).__name__, exc)
            try:
                async with asyncio.timeout(0.05):
                    await websocket.recv()
            except TimeoutError:
                print("timeout()")
            print(await websocket.recv())
            await websocket.send("again")
            task = asyncio.create_task(websocket.recv())
            await asyncio.sleep(0)
            task.cancel()
            print((await asyncio.gather(task, return_exceptions=True))[0].__class__.__name__)
            print(await websocket.recv())
    stuck = await asyncio.start_server(never, "127.0.0.1", 0)
    uri = f"ws://127.0.0.1:{stuck.sockets[0].getsockname()[1]}"
    try:
        await connect(uri, open_timeout=0.1)
    except TimeoutError as exc:
        print(type(exc).__name__, exc)
    stuck.close()


asyncio.run(main())
