"""The same conversations in FastAPI."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI, WebSocket

from tests.frameworks import app_starlette

app = FastAPI()


async def greeting(websocket: WebSocket) -> str:
    return websocket.query_params.get("greeting", "")


@app.websocket("/greet/{name}")
async def greet(websocket: WebSocket, name: str, text: Annotated[str, Depends(greeting)]) -> None:
    await websocket.accept()
    await websocket.send_json({"text": f"{text} {name}"})
    await websocket.close()


for endpoint in ("echo", "about", "slow", "flood", "deny", "denial"):
    app.add_api_websocket_route(f"/{endpoint}", getattr(app_starlette, endpoint))
