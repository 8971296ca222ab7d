"""Programs that use wsproto, run on our implementation under its name.

``python wsproto_programs.py SERVER`` starts a server and prints its port; ``python
wsproto_programs.py CLIENT URI`` talks to one and prints what comes back, line by line.
"""

import asyncio
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import wsproto_fast


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Echo; refuse at /deny; close at /close."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body", "body": b""})
    if scope["type"] != "websocket":
        return
    await receive()
    if scope["path"] == "/deny":
        await send({"type": "websocket.close", "code": 1008})
        return
    subprotocol = next(iter(scope["subprotocols"]), None)
    await send({"type": "websocket.accept", "subprotocol": subprotocol})
    if scope["path"] == "/close":
        await send({"type": "websocket.close", "code": 3001, "reason": "bye"})
        return
    while (message := await receive())["type"] == "websocket.receive":
        echo = {key: message[key] for key in ("text", "bytes") if message.get(key) is not None}
        await send({"type": "websocket.send", **echo})


def listen() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    return listener


def hypercorn() -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    listener = listen()
    config.bind = [f"fd://{listener.detach()}"]
    config.websocket_max_message_size = 100_000
    asyncio.run(serve(app, config, shutdown_trigger=asyncio.Event().wait))  # type: ignore[arg-type] # an application, by its use


def uvicorn() -> None:
    import uvicorn

    config = uvicorn.Config(app, ws="wsproto", lifespan="off", ws_max_size=100_000)
    asyncio.run(uvicorn.Server(config).serve(sockets=[listen()]))


def trio_websocket() -> None:
    import trio
    from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket

    async def handle(request: WebSocketRequest) -> None:
        if request.path == "/deny":
            await request.reject(403, body=b"no")
            return
        connection = await request.accept(
            subprotocol=next(iter(request.proposed_subprotocols), None)
        )
        if request.path == "/close":
            await connection.aclose(3001, "bye")
            return
        try:
            while True:
                await connection.send_message(await connection.get_message())
        except ConnectionClosed:
            pass

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                lambda task_status: serve_websocket(
                    handle,
                    "127.0.0.1",
                    0,
                    None,
                    task_status=task_status,
                    max_message_size=100_000,
                )
            )
            print(server.port, flush=True)

    trio.run(main)


def simple_websocket() -> None:
    from simple_websocket import ConnectionClosed, Server

    def handle(connection: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        start, *lines = head.decode().split("\r\n")[:-2]
        path = start.split()[1]
        if path == "/deny":
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            connection.close()
            return
        headers = [line.split(": ", 1) for line in lines]
        environ: dict[str, Any] = {
            f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers
        }
        environ["werkzeug.socket"] = connection
        server = Server.accept(environ, subprotocols=["chat"], max_message_size=100_000)
        try:
            if path == "/close":
                server.close(3001, "bye")
            while True:
                server.send(server.receive())
        except ConnectionClosed:
            # Its thread sends the answer to a Close frame after it wakes us.
            server.thread.join(10)
            connection.close()

    listener = listen()
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=handle, args=[connection], daemon=True).start()


MESSAGES: list[str | bytes] = ["", "h€llo", b"\x00\xff", "x" * 70000]


def show(message: object) -> None:
    print(f"{type(message).__name__} {len(message)}", flush=True)  # type: ignore[arg-type] # str or bytes


def trio_websocket_client(uri: str) -> None:
    import trio
    from trio_websocket import ConnectionClosed, ConnectionRejected, open_websocket_url

    async def main() -> None:
        async with open_websocket_url(uri, subprotocols=["chat"]) as connection:
            print(connection.subprotocol)
            for message in MESSAGES:
                await connection.send_message(message)
                show(await connection.get_message())
            await connection.ping(b"ping")
            await connection.send_message("close")
            try:
                await connection.get_message()
            except ConnectionClosed as exc:
                print(exc.reason and f"{exc.reason.code} {exc.reason.reason}")
        try:
            async with open_websocket_url(uri + "deny"):
                pass
        except ConnectionRejected as exc:
            print(exc.status_code, exc.body)

    trio.run(main)


def httpx_ws_client(uri: str) -> None:
    import httpx
    from httpx_ws import WebSocketDisconnect, WebSocketUpgradeError, connect_ws

    with httpx.Client(trust_env=False) as client:
        with connect_ws(uri, client, subprotocols=["chat"], queue_size=100) as session:
            print(session.subprotocol)
            for message in MESSAGES:
                if isinstance(message, str):
                    session.send_text(message)
                    show(session.receive_text(timeout=10))
                else:
                    session.send_bytes(message)
                    show(session.receive_bytes(timeout=10))
            assert session.ping(b"ping").wait(10)
            session.send_text("close")
            try:
                session.receive_text(timeout=10)
            except WebSocketDisconnect as exc:
                print(exc.code, exc.reason)
        try:
            with connect_ws(uri + "deny", client):
                pass
        except WebSocketUpgradeError as exc:
            print(exc.response.status_code, b"no")


def simple_websocket_client(uri: str) -> None:
    from simple_websocket import Client, ConnectionClosed, ConnectionError

    client = Client.connect(uri, subprotocols=["chat"])
    print(client.subprotocol)
    for message in MESSAGES:
        client.send(message)
        show(client.receive(timeout=10))
    client.send("close")
    try:
        client.receive(timeout=10)
    except ConnectionClosed as exc:
        print(exc.reason, exc.message)
    try:
        Client.connect(uri + "deny")
    except ConnectionError as exc:
        print(exc.status_code, b"no")


if __name__ == "__main__":
    wsproto_fast.install_as_wsproto()
    program = globals()[sys.argv[1]]
    program(*sys.argv[2:])
