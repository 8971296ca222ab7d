"""Keepalive: pings, latency, and a peer that answers none."""

import asyncio
import base64
import hashlib

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosedError


async def echo(websocket):
    async for message in websocket:
        await websocket.send(message)


async def silent(reader, writer):
    """Answer the opening handshake, and then nothing."""
    request = (await reader.readuntil(b"\r\n\r\n")).decode()
    key = next(line for line in request.splitlines() if line.startswith("Sec-WebSocket-Key"))
    digest = hashlib.sha1((key[19:] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
    )
    await reader.read()
    writer.close()


async def main():
    async with serve(echo, "127.0.0.1", 0, ping_interval=None) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect(uri, ping_interval=0.05, ping_timeout=5) as websocket:
            print(websocket.latency == 0)
            await asyncio.sleep(0.3)
            print(0 < websocket.latency < 5)
            print(0 < await (await websocket.ping()) < 5)
            print(0 < await (await websocket.ping(b"payload")) < 5)
            waiting = await websocket.ping("twice")
            try:
                await websocket.ping("twice")
            except Exception as exc:
                print(type(exc).__name__, exc)
            await waiting
            await websocket.pong(b"unsolicited")
    other = await asyncio.start_server(silent, "127.0.0.1", 0)
    uri = f"ws://127.0.0.1:{other.sockets[0].getsockname()[1]}"
    async with connect(uri, ping_interval=0.1, ping_timeout=0.1, close_timeout=0.1) as websocket:
        try:
            await websocket.recv()
        except ConnectionClosedError as exc:
            print(exc, exc.sent.code, exc.sent.reason, exc.rcvd)
    other.close()


asyncio.run(main())
