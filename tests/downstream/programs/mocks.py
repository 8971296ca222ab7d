"""Test doubles: mocks with the connection classes as their specification."""

import asyncio
import inspect
from unittest import mock

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK
from websockets.frames import Close
from websockets.sync.client import ClientConnection as SyncConnection


async def handler(websocket):
    async for message in websocket:
        await websocket.send(message[::-1])


async def main():
    double = mock.AsyncMock(spec=ServerConnection)
    double.__aiter__.return_value = ["abc", "def"]
    await handler(double)
    print(double.send.await_args_list, isinstance(double, ServerConnection))
    try:
        print(double.missing)
    except AttributeError as exc:
        print(exc)
    client = mock.create_autospec(ClientConnection, instance=True)
    client.recv.side_effect = ["one", ConnectionClosedOK(None, None)]
    print(await client.recv())
    try:
        await client.recv()
    except ConnectionClosedOK as exc:
        print(exc)
    try:
        client.close(1000, "reason", "too much")
    except TypeError as exc:
        print(exc)
    print([inspect.iscoroutinefunction(getattr(client, name)) for name in ("recv", "send", "ping")])
    threaded = mock.Mock(spec=SyncConnection)
    threaded.recv.return_value = b"bytes"
    print(threaded.recv(timeout=1), isinstance(threaded, SyncConnection))
    error = ConnectionClosedError(Close(1011, "boom"), Close(1011, "boom"), True)
    print(error, error.rcvd_then_sent, error == ConnectionClosedError(error.rcvd, error.sent, True))
    with mock.patch("websockets.asyncio.client.connect") as patched:
        patched.return_value.__aenter__.return_value.recv.return_value = "patched"
        from websockets.asyncio import client as module

        async with module.connect("ws://nowhere") as websocket:
            print(await websocket.recv())
        print(patched.call_args)
    async with serve(handler, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}") as websocket:
            with mock.patch.object(websocket, "recv", mock.AsyncMock(return_value="fake")):
                print(await websocket.recv())
            with mock.patch.object(ClientConnection, "send", autospec=True) as send:
                await websocket.send("not sent")
                print(send.call_args == mock.call(websocket, "not sent"))


asyncio.run(main())
