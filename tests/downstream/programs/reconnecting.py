"""A client that connects again whenever the server restarts: ``async for`` over connect()."""

import asyncio
import itertools

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

COUNT = itertools.count(1)


async def handler(websocket):
    number = next(COUNT)
    await websocket.send(f"message {number}")
    if number < 4:
        await websocket.close(1012 if number % 2 else 1000, "restart")
    else:
        await websocket.wait_closed()


def refuse(connection, request):
    return connection.respond(404, "not here\n")


async def main():
    async with serve(handler, "127.0.0.1", 0) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async for websocket in connect(uri):
            try:
                while True:
                    message = await websocket.recv()
                    print(message)
                    if message == "message 4":
                        break
            except ConnectionClosed as exc:
                print(type(exc).__name__, exc)
                continue
            await websocket.close()
            break
    async with serve(handler, "127.0.0.1", 0, process_request=refuse) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            async for _ in connect(uri):
                print("unexpected")
        except InvalidStatus as exc:
            print(exc)

    def give_up(exc):
        print("gives up on", type(exc).__name__)
        return exc

    try:
        async for _ in connect(uri, process_exception=give_up):
            print("unexpected")
    except OSError as exc:
        print("refused", isinstance(exc, ConnectionRefusedError))


asyncio.run(main())
