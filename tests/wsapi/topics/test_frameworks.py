"""Topics in applications of Starlette, on our class for uvicorn and on one of uvicorn's own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.wsapi.helpers import until, uri_of
from tests.wsapi.uvicorn_helpers import serving_app
from wsapi.asyncio.client import connect
from wsapi.exceptions import ConnectionClosed
from wsapi.frames import CloseCode
from wsapi.topics import History, Topics
from wsapi.uvicorn import WebSocketProtocol

applications = pytest.importorskip("starlette.applications")
routing = pytest.importorskip("starlette.routing")
websockets = pytest.importorskip("starlette.websockets")

CLASSES = {"ours": WebSocketProtocol, "theirs": "wsproto"}


def application(topics: Topics) -> Any:
    async def room(websocket: Any) -> None:
        with pytest.raises(RuntimeError, match="isn't accepted yet"):
            await topics.subscribe(websocket, "a")
        await websocket.accept()
        since = websocket.query_params.get("since")
        try:
            async with topics.subscribe(websocket, "a", since=since) as subscription:
                assert subscription.connection is websocket
                async for text in websocket.iter_text():
                    await topics.publish("a", text)
        except (ConnectionClosed, websockets.WebSocketDisconnect, RuntimeError):
            pass  # the topics have closed it

    return applications.Starlette(routes=[routing.WebSocketRoute("/room", room)])


@pytest.mark.parametrize("ws", CLASSES.values(), ids=CLASSES)
async def test_chatting(ws: Any) -> None:
    topics = Topics(history=History(messages=100))
    async with serving_app(application(topics), ws) as server:
        uri = uri_of(server, "/room")
        async with connect(uri) as one, connect(uri) as two:
            await until(lambda: topics.subscribers("a") == 2)
            # Objects of frameworks that stand for connections of ours need no queue.
            kinds = {type(recipient).__name__ for recipient in topics._recipients.values()}
            assert kinds == {
                "_ConnectionRecipient" if ws is WebSocketProtocol else "QueueRecipient"
            }
            for number in range(10):
                await one.send(str(number))
            for client in (one, two):
                assert [await client.recv() for _ in range(10)] == [str(n) for n in range(10)]
            position = topics._core.position("a")
            await topics.publish("a", b"binary")
            assert (await one.recv(), await two.recv()) == (b"binary", b"binary")
        await until(lambda: topics.subscribers("a") == 0)
        async with connect(f"{uri}?since={position}") as back:
            assert await back.recv() == b"binary"
            await until(lambda: topics.subscribers("a") == 1)
            await topics.aclose()
            with pytest.raises(ConnectionClosed):
                await back.recv()
            assert back.close_code == CloseCode.SERVICE_RESTART
        await until(lambda: not topics._tasks)
    await asyncio.sleep(0)
