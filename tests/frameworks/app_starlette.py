"""What clients talk to, in Starlette; run in processes of their own."""

from __future__ import annotations

import asyncio
import sys

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

CHUNK = bytes(65536)
ended: dict[str, str] = {}  # how conversations ended, by their query strings, to be asked for


def engine() -> str:
    """Return what speaks WebSocket here: the modules that a server imported for it."""
    names = {
        "uvicorn.protocols.websockets.websockets_impl": "WebSocketServerProtocol",
        "uvicorn.protocols.websockets.websockets_sansio_impl": "ServerProtocol",
        "uvicorn.protocols.websockets.wsproto_impl": "wsproto",
        "hypercorn.protocol.ws_stream": "Connection",
    }
    found = [getattr(sys.modules[module], names[module]) for module in names & sys.modules.keys()]
    if "wsapi.uvicorn" in sys.modules:
        found.append(sys.modules["wsapi.uvicorn"].WebSocketProtocol)
    return " ".join(getattr(thing, "__module__", thing.__name__) for thing in found)


async def echo(websocket: WebSocket) -> None:
    """Send messages back; close when told to; note how it ends."""
    await websocket.accept(
        subprotocol="echo" if "echo" in websocket.scope["subprotocols"] else None,
        headers=[(b"x-app", b"starlette")],
    )
    while (message := await websocket.receive())["type"] == "websocket.receive":
        if message.get("text") == "close!":
            await websocket.close(4001, "enough")
            ended[websocket.url.query] = "closed"
            return
        if message.get("text") == "fail!":
            raise ValueError("told to")
        if message.get("bytes") is not None:
            await websocket.send_bytes(message["bytes"])
        else:
            await websocket.send_text(message["text"])
    ended[websocket.url.query] = f"{message['code']} {message.get('reason') or ''}".strip()


async def about(websocket: WebSocket) -> None:
    """Answer questions about the server."""
    await websocket.accept()
    try:
        while True:
            question = await websocket.receive_text()
            if question == "engine":
                await websocket.send_text(engine())
            else:
                await websocket.send_text(ended.pop(question, ""))
    except WebSocketDisconnect:
        pass


async def slow(websocket: WebSocket) -> None:
    """Take a pause, then as many messages as come; send back how many bytes they had."""
    await websocket.accept()
    await asyncio.sleep(0.5)
    size = 0
    while (message := await websocket.receive_bytes()) != b"end":
        size += len(message)
    await websocket.send_text(str(size))


async def flood(websocket: WebSocket) -> None:
    """Send 200 messages of 64 KiB, numbered, and close."""
    await websocket.accept()
    for number in range(200):
        await websocket.send_bytes(number.to_bytes(4, "big") + CHUNK)
    await websocket.close(4002, "flooded")


async def deny(websocket: WebSocket) -> None:
    await websocket.close()


async def denial(websocket: WebSocket) -> None:
    await websocket.send_denial_response(JSONResponse({"why": "no"}, 418, headers={"X-Why": "no"}))


app = Starlette(
    routes=[
        WebSocketRoute(f"/{endpoint.__name__}", endpoint)
        for endpoint in (echo, about, slow, flood, deny, denial)
    ]
)
