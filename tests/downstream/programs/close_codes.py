"""How connections end, by whom, and what the exceptions and the connection say about it."""

import asyncio

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def handler(websocket):
    how = websocket.request.path[1:]
    if how == "return":
        return
    if how == "raise":
        raise ValueError("failed")
    if how == "abort":
        websocket.transport.abort()
        return
    if how == "client":
        await websocket.wait_closed()
        print("server", websocket.close_code, websocket.close_reason)
        return
    code, _, reason = how.partition("-")
    await websocket.close(int(code), reason)


async def main():
    async with serve(handler, "127.0.0.1", 0) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        for how in (
            "return",
            "raise",
            "abort",
            "1000-bye",
            "1001",
            "1011-oops",
            "3000",
            "4321-own",
        ):
            async with connect(uri + how) as websocket:
                try:
                    await websocket.recv()
                except ConnectionClosed as exc:
                    print(how, type(exc).__name__, exc)
                    print(exc.rcvd, exc.sent, exc.rcvd_then_sent)
                    print(websocket.close_code, websocket.close_reason, websocket.state.name)
        async with connect(uri + "client") as websocket:
            await websocket.close(3001, "own reason")
            try:
                await websocket.send("x")
            except ConnectionClosed as exc:
                print(type(exc).__name__, exc)
        async with connect(uri + "client") as websocket:
            print(websocket.close_code, websocket.close_reason)
        async with connect(uri + "return") as websocket:
            print([message async for message in websocket])
        try:
            async with connect(uri + "1011") as websocket:
                print([message async for message in websocket])
        except ConnectionClosed as exc:
            print(type(exc).__name__, exc)


asyncio.run(main())
