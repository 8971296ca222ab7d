"""Connections of classes of one's own, on both sides and in threads."""

import asyncio
import json
import threading

import websockets.sync.client
import websockets.sync.server
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve


class JSONServer(ServerConnection):
    created = 0

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        type(self).created += 1
        self.user = None

    async def send_json(self, value):
        await self.send(json.dumps(value))

    async def recv_json(self):
        return json.loads(await self.recv())


class LoggingClient(ClientConnection):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.sent = []

    async def send(self, message, *args, **kwargs):
        self.sent.append(message)
        await super().send(message, *args, **kwargs)

    async def recv(self, *args, **kwargs):
        return f"<{await super().recv(*args, **kwargs)}>"

    def connection_lost(self, exc):
        super().connection_lost(exc)
        print("lost", exc)


class ThreadClient(websockets.sync.client.ClientConnection):
    def hello(self):
        self.send("hello")
        return self.recv()


async def handler(websocket):
    websocket.user = await websocket.recv_json()
    await websocket.send_json({"user": websocket.user, "type": type(websocket).__name__})


def echo(websocket):
    for message in websocket:
        websocket.send(message)


async def main():
    async with serve(handler, "127.0.0.1", 0, create_connection=JSONServer) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect(uri, create_connection=LoggingClient) as websocket:
            await websocket.send('"ada"')
            print(await websocket.recv(), websocket.sent)
    print(JSONServer.created, isinstance(websocket, LoggingClient))


asyncio.run(main())
with websockets.sync.server.serve(echo, "127.0.0.1", 0) as server:
    threading.Thread(target=server.serve_forever).start()
    uri = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
    with websockets.sync.client.connect(uri, create_connection=ThreadClient) as websocket:
        print(websocket.hello())
    server.shutdown()
