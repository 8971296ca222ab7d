"""Old names of exceptions and classes in ``except`` clauses, annotations, and checks."""

import asyncio
import warnings

import websockets


async def handler(websocket: "websockets.WebSocketServerProtocol"):
    await websocket.close(1011, "sorry")


def refuse(connection, request):
    return connection.respond(503, "busy\n")


async def main():
    async with websockets.serve(handler, "127.0.0.1", 0) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with websockets.connect(uri) as websocket:
            try:
                await websocket.recv()
            except websockets.exceptions.ConnectionClosedOK:
                print("unexpected")
            except websockets.ConnectionClosedError as exc:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    print(exc.code, exc.reason, exc)
                print([f"{w.category.__name__} {w.message}" for w in caught])
    async with websockets.serve(handler, "127.0.0.1", 0, process_request=refuse) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                await websockets.connect(uri)
            except websockets.exceptions.InvalidStatusCode:
                print("unexpected")
            except websockets.InvalidHandshake as exc:
                print(type(exc).__name__, exc, isinstance(exc, websockets.WebSocketException))
        print([f"{w.category.__name__} {w.message}" for w in caught][:1])
    for name in (
        "WebSocketClientProtocol",
        "WebSocketServerProtocol",
        "WebSocketCommonProtocol",
        "InvalidStatusCode",
        "AbortHandshake",
        "RedirectHandshake",
        "InvalidMessage",
        "unix_connect",
        "Missing",
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = getattr(websockets, name).__name__
            except AttributeError as exc:
                found = exc
        print(name, found, [str(w.message) for w in caught])
    try:
        await websockets.connect("http://127.0.0.1")
    except websockets.InvalidURI as exc:
        print(exc, exc.uri, exc.msg)


asyncio.run(main())
