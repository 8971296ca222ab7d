"""granian serves WebSocket applications of ASGI and RSGI; clients on asyncio and in threads."""

import asyncio
import os
import socket
import subprocess
import sys
import time

import websockets.sync.client
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus


async def asgi(scope, receive, send):
    if scope["type"] != "websocket":
        return
    await receive()
    if scope["path"] == "/refuse":
        await send({"type": "websocket.close", "code": 1000})
        return
    subprotocols = scope["subprotocols"]
    await send(
        {
            "type": "websocket.accept",
            "subprotocol": subprotocols[0] if subprotocols else None,
            "headers": [(b"x-app", b"yes")],
        }
    )
    while (event := await receive())["type"] == "websocket.receive":
        if event.get("text") == "close":
            await send({"type": "websocket.close", "code": 4000, "reason": "as asked"})
            return
        await send({**event, "type": "websocket.send"})


async def rsgi(scope, protocol):
    transport = await protocol.accept()
    while True:
        message = await transport.receive()
        if message.kind == 0:
            return
        if message.kind == 1:
            await transport.send_bytes(message.data)
        else:
            await transport.send_str(message.data)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


async def talk(uri):
    async with connect(f"{uri}/", subprotocols=["chat"]) as websocket:
        print(websocket.subprotocol, websocket.response.headers.get("x-app"))
        for message in ("text", b"bytes", "x" * 300_000):
            await websocket.send(message)
            print(await websocket.recv() == message)
        await (await websocket.ping())
        await websocket.send("close")
        try:
            print(await websocket.recv())
            await websocket.close()
        except ConnectionClosed as exc:
            print(exc.rcvd)
    try:
        await connect(f"{uri}/refuse")
    except InvalidStatus as exc:
        print(exc)


def talk_in_thread(uri):
    with websockets.sync.client.connect(uri) as websocket:
        for message in ("one", b"two"):
            websocket.send(message)
            print(websocket.recv())


def main():
    for interface in ("asgi", "rsgi"):
        port = free_port()
        name = os.path.splitext(os.path.basename(__file__))[0]
        command = [sys.executable, "-m", "granian", "--interface", interface, "--port", str(port)]
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--no-log", f"{name}:{interface}"],
            cwd=os.path.dirname(os.path.abspath(__file__)),
        )
        try:
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.05)
            print(interface)
            if interface == "asgi":
                asyncio.run(talk(f"ws://127.0.0.1:{port}"))
            talk_in_thread(f"ws://127.0.0.1:{port}/")
        finally:
            server.terminate()
            server.wait(20)


if __name__ == "__main__":
    main()
