"""Clients of a gateway, and gateways on servers of ours and in FastAPI."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.wsapi.helpers import serving, uri_of
from tests.wsapi.uvicorn_helpers import serving_app
from wsapi.asyncio.client import ClientConnection, connect
from wsapi.topics import History, Topics
from wsapi.topics.gateway import Gateway, envelope
from wsapi.uvicorn import WebSocketProtocol

KEPT = History(messages=1000)


def everything(connection: Any, topic: str, action: str) -> bool:
    return True


class Client:
    """A client of the protocol, as somebody might write one in Python."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.numbers = itertools.count(1)

    async def read(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(await self.connection.recv())
        return message

    async def ask(self, kind: str, **members: object) -> int:
        number = next(self.numbers)
        await self.connection.send(json.dumps({"type": kind, "id": number, **members}))
        return number

    async def request(self, kind: str, **members: object) -> dict[str, Any]:
        """Return the answer, which must be the next message."""
        number = await self.ask(kind, **members)
        answer = await self.read()
        assert answer.pop("id") == number, answer
        return answer

    async def subscribe(self, topic: str, since: object = None) -> dict[str, Any]:
        answer = await self.request("subscribe", topic=topic, since=since)
        assert answer.pop("type") == "subscribed", answer
        assert answer.pop("topic") == topic
        return answer

    async def data(self, number: int) -> list[Any]:
        """Return the data of the next messages."""
        messages = [await self.read() for _ in range(number)]
        assert {message["type"] for message in messages} <= {"message"}, messages
        return [message["data"] for message in messages]


@contextlib.asynccontextmanager
async def client_of(uri: str, **options: Any) -> AsyncIterator[Client]:
    async with connect(uri, **options) as connection:
        client = Client(connection)
        hello = await client.read()
        assert hello["type"] == "hello"
        yield client


@contextlib.asynccontextmanager
async def gateway_of(
    topics: dict[str, Any] | None = None, authorize: Any = everything, **options: Any
) -> AsyncIterator[tuple[Gateway, str]]:
    """Run a gateway on a server of ours."""
    settings = {"history": KEPT, "envelope": envelope} | (topics or {})
    async with Topics(**settings) as its:
        gateway = Gateway(its, authorize=authorize, **options)
        async with serving(gateway.handle) as server:
            yield gateway, uri_of(server)


@contextlib.asynccontextmanager
async def gateway_in_fastapi(
    ws: Any = WebSocketProtocol,
    authorize: Any = everything,
    *,
    accepted: bool = False,
    **options: Any,
) -> AsyncIterator[tuple[Gateway, str]]:
    """Run a gateway in an application of FastAPI, on uvicorn with our class, or another one."""
    fastapi = pytest.importorskip("fastapi")
    async with Topics(history=KEPT, envelope=envelope) as topics:
        gateway = Gateway(topics, authorize=authorize, **options)
        app = fastapi.FastAPI()
        app.add_api_websocket_route("/", _endpoint(gateway, accepted))
        async with serving_app(app, ws) as server:
            yield gateway, uri_of(server)


def _endpoint(gateway: Gateway, accepted: bool) -> Any:
    from fastapi import WebSocket

    async def endpoint(websocket: WebSocket) -> None:
        if accepted:
            await websocket.accept()
        await gateway.handle(websocket)

    # Annotations of this module are text, which FastAPI looks up in the module.
    endpoint.__annotations__ = {"websocket": WebSocket}
    return endpoint


ALL = pytest.mark.parametrize(
    "running",
    [gateway_of, gateway_in_fastapi, functools.partial(gateway_in_fastapi, "wsproto")],
    ids=["ours", "fastapi", "fastapi-wsproto"],
)
