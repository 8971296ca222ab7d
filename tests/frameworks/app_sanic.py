"""What conversations Sanic can have: the opening handshake ends before its handlers begin."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from sanic import Sanic, response
from sanic.server.websockets import impl

app = Sanic("conversations", configure_logging=False)
app.config.WEBSOCKET_MAX_SIZE = 1_000_000
ended: dict[str, str] = {}


@app.on_request
async def deny(request: Any) -> Any:
    return response.text("no", 403) if request.path == "/deny" else None


@app.websocket("/echo")
async def echo(request: Any, ws: Any) -> None:
    try:
        async for message in ws:
            if message == "close!":
                await ws.close(4001, "enough")
                ended[request.query_string] = "closed"
                return
            if message == "fail!":
                raise ValueError("told to")
            await ws.send(message)
    finally:
        # Handlers are cancelled when the client leaves.
        if ws.ws_proto.close_sent is None or ws.ws_proto.close_rcvd_then_sent:
            close = ws.ws_proto.close_rcvd
            ended[request.query_string] = (
                f"{close.code} {close.reason}".strip() if close else "1006"
            )


@app.websocket("/about")
async def about(request: Any, ws: Any) -> None:
    async for question in ws:
        if question == "engine":
            await ws.send(impl.ServerProtocol.__module__)
        else:
            await ws.send(ended.pop(question, ""))


@app.websocket("/slow")
async def slow(request: Any, ws: Any) -> None:
    await asyncio.sleep(0.5)
    size = 0
    while (message := await ws.recv()) != b"end":
        size += len(message)
    await ws.send(str(size))


@app.websocket("/flood")
async def flood(request: Any, ws: Any) -> None:
    for number in range(200):
        await ws.send(number.to_bytes(4, "big") + bytes(65536))
    await ws.close(4002, "flooded")


if __name__ == "__main__":
    app.run("127.0.0.1", int(sys.argv[1]), single_process=True, access_log=False, motd=False)
