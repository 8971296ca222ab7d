"""Settings of permessage-deflate, and what is agreed."""

import asyncio

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)


async def echo(websocket):
    async for message in websocket:
        await websocket.send(message)


async def talk(server_options, client_options):
    async with serve(echo, "127.0.0.1", 0, **server_options) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect(uri, **client_options) as websocket:
            print(websocket.response.headers.get("Sec-WebSocket-Extensions"))
            print([extension.name for extension in websocket.protocol.extensions])
            message = "abc" * 10_000
            await websocket.send(message)
            print(await websocket.recv() == message)
            await websocket.send(b"", text=False)
            print(await websocket.recv())


async def main():
    await talk({}, {})
    await talk({"compression": None}, {})
    await talk({}, {"compression": None})
    small = ServerPerMessageDeflateFactory(
        server_max_window_bits=11, client_max_window_bits=11, compress_settings={"memLevel": 4}
    )
    await talk({"extensions": [small]}, {})
    none = ClientPerMessageDeflateFactory(
        server_no_context_takeover=True, client_no_context_takeover=True
    )
    await talk({}, {"extensions": [none], "compression": None})
    for wrong in ({"server_max_window_bits": 7}, {"client_max_window_bits": 16}):
        try:
            ServerPerMessageDeflateFactory(**wrong)
        except ValueError as exc:
            print(exc)
    try:
        connect("ws://localhost", compression="gzip")
    except ValueError as exc:
        print(str(exc).startswith("unsupported compression: gzip"))


asyncio.run(main())
