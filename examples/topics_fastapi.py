"""Topics in a FastAPI application: an HTTP request notifies all browsers that look at a page.

Usage: topics_fastapi.py [PORT], or, with several workers and a broker between them,

TOPICS_BUS=redis://localhost:6379 uvicorn topics_fastapi:app --workers 4 \\
    --ws wsapi.uvicorn:WebSocketProtocol
"""

import contextlib
import os
import sys
from collections.abc import AsyncIterator
from typing import Annotated, Any

import uvicorn
from fastapi import Body, FastAPI, Response, WebSocket
from fastapi.responses import HTMLResponse

from wsapi.topics import History, Topics
from wsapi.topics.gateway import Gateway, browser_client, envelope

PAGE = """<!DOCTYPE html>
<title>Orders</title>
<link rel="icon" href="data:,">
<h1>Orders</h1>
<ol id="orders"></ol>
<script type="module">
import { Topics } from "./wsapi-topics.js";

new Topics("topics").subscribe("orders", {
  onmessage({ data }) {
    const item = document.createElement("li");
    item.textContent = JSON.stringify(data);
    document.getElementById("orders").append(item);
  },
  onreload: () => location.reload(),
});
</script>
"""

bus = os.environ.get("TOPICS_BUS")
topics = Topics(bus, history=History(messages=100), envelope=envelope)
# Browsers see what happens, and publish nothing themselves.
gateway = Gateway(topics, authorize=lambda websocket, topic, action: action == "subscribe")


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with topics:
        yield


app = FastAPI(lifespan=lifespan)


@app.websocket("/topics")
async def connect(websocket: WebSocket) -> None:
    await gateway.handle(websocket)


@app.post("/orders")
async def order(data: Annotated[Any, Body()]) -> dict[str, Any]:
    return {"position": await gateway.publish("orders", data)}


@app.get("/wsapi-topics.js")
async def client() -> Response:
    return Response(browser_client(), media_type="text/javascript")


@app.get("/")
async def page() -> HTMLResponse:
    return HTMLResponse(PAGE)


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    uvicorn.run(app, port=port, ws="wsapi.uvicorn:WebSocketProtocol", log_level="warning")
