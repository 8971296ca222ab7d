"""Subprotocols: agreed, chosen by a function, and refused."""

import asyncio

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import InvalidStatus, NegotiationError
from websockets.typing import Subprotocol


async def tell(websocket):
    await websocket.send(str(websocket.subprotocol))


def newest(connection, offered):
    if not offered:
        return None
    if "v1" not in offered and "v2" not in offered:
        raise NegotiationError(f"none of {offered}")
    return max(Subprotocol(name) for name in offered)


async def attempt(uri, **options):
    try:
        async with connect(uri, **options) as websocket:
            print(await websocket.recv(), websocket.subprotocol)
    except InvalidStatus as exc:
        print(exc, bytes(exc.response.body))


async def main():
    async with serve(tell, "127.0.0.1", 0, subprotocols=["chat", "superchat"]) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await attempt(uri, subprotocols=["superchat", "chat"])
        await attempt(uri, subprotocols=["other"])
        await attempt(uri)
    async with serve(
        tell, "127.0.0.1", 0, subprotocols=["v1", "v2"], select_subprotocol=newest
    ) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await attempt(uri, subprotocols=["v1", "v2"])
        await attempt(uri)
        await attempt(uri, subprotocols=["v3"])
    async with serve(tell, "127.0.0.1", 0) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await attempt(uri, subprotocols=["v3"])
    for wrong in ("chat", ["with space"]):
        try:
            await connect(uri, subprotocols=wrong)
        except Exception as exc:
            print(type(exc).__name__, exc)


asyncio.run(main())
