"""A Starlette application on uvicorn with its class for this package, and a client of it."""

import asyncio
import threading
import time

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocketDisconnect
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus


async def chat(websocket):
    if websocket.query_params.get("token") != "x":
        await websocket.close(1008)
        return
    await websocket.accept(subprotocol="chat", headers=[(b"x-app", b"yes")])
    try:
        while True:
            message = await websocket.receive_text()
            if message == "quit":
                await websocket.close(4001, "as asked")
                return
            await websocket.send_text(f"you said {message}")
            await websocket.send_bytes(message.encode())
    except WebSocketDisconnect as exc:
        print("disconnect", exc.code, exc.reason)


async def talk(port):
    uri = f"ws://127.0.0.1:{port}/chat"
    async with connect(uri + "?token=x", subprotocols=["chat"]) as websocket:
        print(websocket.subprotocol, websocket.response.headers["X-App"])
        await websocket.send("hello")
        print(await websocket.recv(), await websocket.recv())
    async with connect(uri + "?token=x", subprotocols=["chat"]) as websocket:
        await websocket.send("quit")
        try:
            await websocket.recv()
        except ConnectionClosed as exc:
            print(exc)
    try:
        await connect(uri)
    except InvalidStatus as exc:
        print(exc)


application = Starlette(routes=[WebSocketRoute("/chat", chat)])
config = uvicorn.Config(application, port=0, ws="websockets-sansio", log_level="critical")
server = uvicorn.Server(config)
thread = threading.Thread(target=server.run)
thread.start()
while not server.started:
    time.sleep(0.01)
asyncio.run(talk(server.servers[0].sockets[0].getsockname()[1]))
server.should_exit = True
thread.join()
