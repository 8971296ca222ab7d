"""The server as an object: sockets, connections, starting later, closing with a code."""

import asyncio

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus


async def handler(websocket):
    await websocket.send("ready")
    await websocket.wait_closed()


async def main():
    server = await serve(handler, "127.0.0.1", 0, start_serving=False)
    print(server.is_serving(), len(server.sockets))
    await server.start_serving()
    uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    clients = [await connect(uri) for _ in range(3)]
    print([await client.recv() for client in clients], len(server.connections), server.is_serving())
    print({type(connection).__name__ for connection in server.connections})
    print(all(c.remote_address[0] == c.local_address[0] == "127.0.0.1" for c in server.connections))
    print(len({connection.id for connection in server.connections}))
    server.close(code=1012, reason="restart")
    for client in clients:
        try:
            await client.recv()
        except ConnectionClosed as exc:
            print(exc)
    await server.wait_closed()
    print(server.is_serving(), len(server.connections), server.sockets)
    forever = await serve(handler, "127.0.0.1", 0)
    task = asyncio.create_task(forever.serve_forever())
    await asyncio.sleep(0)
    task.cancel()
    print((await asyncio.gather(task, return_exceptions=True))[0].__class__.__name__)

    gate = asyncio.Event()

    async def process_request(connection, request):
        await gate.wait()

    server = await serve(handler, "127.0.0.1", 0, process_request=process_request)
    uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    opening = asyncio.create_task(connect(uri).__aenter__())
    await asyncio.sleep(0.1)
    server.close()
    gate.set()
    try:
        await opening
    except InvalidStatus as exc:
        print(exc)
    await server.wait_closed()


asyncio.run(main())
