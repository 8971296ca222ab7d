"""Large messages: fragments from generators, streaming receivers, and a limit that is exceeded."""

import asyncio
import hashlib

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosedError

CHUNK = bytes(range(256)) * 256


async def chunks(count):
    for _ in range(count):
        yield CHUNK
        await asyncio.sleep(0)


async def handler(websocket):
    digest, size = hashlib.sha256(), 0
    async for fragment in websocket.recv_streaming():
        digest.update(fragment.encode() if isinstance(fragment, str) else fragment)
        size += len(fragment)
    await websocket.send(f"{size} {digest.hexdigest()}")
    message = await websocket.recv(decode=False)
    await websocket.send(message, text=True)
    await websocket.recv()


async def main():
    async with serve(handler, "127.0.0.1", 0, max_size=8 * 2**20) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect(uri) as websocket:
            await websocket.send(chunks(100))
            print(await websocket.recv(), hashlib.sha256(CHUNK * 100).hexdigest()[:8])
            await websocket.send(["Ĥéł", "lö ", "wörld"])
            print([fragment async for fragment in websocket.recv_streaming()])
            await websocket.send([b"1"] * 3)
            try:
                await websocket.send(["text", b"bytes"])
            except (TypeError, ConnectionClosedError) as exc:
                print(type(exc).__name__, exc)
        async with connect(uri) as websocket:
            try:
                await websocket.send(bytes(8 * 2**20 + 1))
                await websocket.recv()
            except ConnectionClosedError as exc:
                print(exc.rcvd.code, exc.rcvd.reason)
        async with connect(uri, max_size=1000) as websocket:
            await websocket.send("x")
            await websocket.recv()
            await websocket.send("y" * 1001)
            try:
                await websocket.recv()
            except ConnectionClosedError as exc:
                print(exc, exc.sent.code)


asyncio.run(main())
