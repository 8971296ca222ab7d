"""A proxy that the environment names, one that is given, and none."""

import asyncio
import os

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import InvalidProxyStatus, ProxyError


async def echo(websocket):
    await websocket.send(f"echo {await websocket.recv()}")


async def pump(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


async def proxy(reader, writer):
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, target, _ = lines[0].split()
    names = sorted(line.split(":")[0] for line in lines[1:] if line)
    print("proxy", method, target.rsplit(":")[0], names)
    if any(line.startswith("Proxy-Authorization: Basic d3Jvbmc6") for line in lines):
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        writer.close()
        return
    far_reader, far_writer = await asyncio.open_connection(*target.rsplit(":", 1))
    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))


async def talk(uri, **options):
    async with connect(uri, **options) as websocket:
        await websocket.send("hello")
        print(await websocket.recv())


async def main():
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            del os.environ[name]
    relay = await asyncio.start_server(proxy, "127.0.0.1", 0)
    address = f"127.0.0.1:{relay.sockets[0].getsockname()[1]}"
    async with serve(echo, "127.0.0.1", 0) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await talk(uri)
        os.environ["https_proxy"] = f"http://{address}"
        await talk(uri)
        await talk(uri, proxy=None)
        os.environ["no_proxy"] = "127.0.0.1"
        await talk(uri)
        await talk(uri, proxy=f"http://ada:secret@{address}", user_agent_header="tester")
        try:
            await talk(uri, proxy=f"http://wrong:x@{address}")
        except ProxyError as exc:
            print(type(exc).__name__, exc, isinstance(exc, InvalidProxyStatus))
        for wrong in ("ftp://127.0.0.1", "http://127.0.0.1/path"):
            try:
                await talk(uri, proxy=wrong)
            except Exception as exc:
                print(type(exc).__name__, exc)
    relay.close()


asyncio.run(main())
