"""Publish and subscribe three ways: a queue per client, a shared iterator, and broadcast()."""

import asyncio

from websockets.asyncio.client import connect
from websockets.asyncio.server import broadcast, serve


class Waiters:
    """A linked list of futures: each subscriber waits for the next message."""

    def __init__(self):
        self.waiter = asyncio.get_running_loop().create_future()

    def publish(self, value):
        waiter, self.waiter = self.waiter, asyncio.get_running_loop().create_future()
        waiter.set_result((value, self.waiter))

    async def __aiter__(self):
        waiter = self.waiter
        while True:
            value, waiter = await waiter
            yield value


async def main():
    queues, plain, waiters = set(), set(), Waiters()

    async def handler(websocket):
        kind = websocket.request.path
        if kind == "/queue":
            queue = asyncio.Queue()
            queues.add(queue)
            try:
                await websocket.send("ready")
                while True:
                    await websocket.send(await queue.get())
                    if queue.empty():
                        break
                await websocket.wait_closed()
            finally:
                queues.remove(queue)
        elif kind == "/iterator":
            await websocket.send("ready")
            async for message in waiters:
                await websocket.send(message)
                if message == "three":
                    break
            await websocket.wait_closed()
        else:
            plain.add(websocket)
            await websocket.send("ready")
            try:
                await websocket.wait_closed()
            finally:
                plain.remove(websocket)

    async with serve(handler, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        paths = ["queue", "iterator", "broadcast", "broadcast"]
        clients = [await connect(f"ws://127.0.0.1:{port}/{path}") for path in paths]
        print([await client.recv() for client in clients])
        await asyncio.sleep(0.05)  # until all of them wait
        for message in ("one", b"two", "three"):
            for queue in queues:
                queue.put_nowait(message)
            waiters.publish(message)
            broadcast(plain, message)
        for path, client in zip(paths, clients, strict=True):
            print(path, [await client.recv() for _ in range(3)])
        broadcast(server.connections, "to all")
        print([await client.recv() for client in clients])
        try:
            broadcast(plain, 42)
        except TypeError as exc:
            print(type(exc).__name__)
        for client in clients:
            await client.close()
    print(len(plain))


asyncio.run(main())
