"""Tasks that start eagerly: handlers and applications begin inside the transport's callback."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.wsapi.helpers import echo, run, serving, until, uri_of
from wsapi.asyncio.client import connect
from wsapi.asyncio.server import ServerConnection
from wsapi.exceptions import ConnectionClosedOK, InvalidStatus

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="there are no eager tasks in this version"
)


def eagerly(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test on asyncio's own loop; uvloop doesn't take its factory of eager tasks."""

    def loop() -> asyncio.AbstractEventLoop:
        made = asyncio.new_event_loop()
        made.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore] # since Python 3.12
        return made

    def run_it() -> None:
        run(test(), loop)

    return run_it


@eagerly
async def test_echo() -> None:
    async with serving(echo) as server, connect(uri_of(server)) as ws:
        for size in (1, 1_000_000):
            await ws.send("x" * size)
            assert await ws.recv() == "x" * size


@eagerly
async def test_handler_that_sends_and_ends_at_once() -> None:
    async def handler(ws: ServerConnection) -> None:
        await ws.send("first")

    async with serving(handler) as server:
        async with connect(uri_of(server)) as ws:
            assert await ws.recv() == "first"
            with pytest.raises(ConnectionClosedOK):
                await ws.recv()
        await until(lambda: not server._handlers and not server._connections)


@eagerly
async def test_handler_that_drains_its_server_at_once() -> None:
    async def handler(ws: ServerConnection) -> None:
        await ws.server.drain(timeout=1000, spread=0)
        ended.append(ws)

    ended: list[ServerConnection] = []
    async with serving(handler) as server, connect(uri_of(server)) as ws:
        await ws.wait_closed()
        assert ws.close_code == 1012
        await until(lambda: ended)


@eagerly
async def test_refusal() -> None:
    async with serving(echo, process_request=lambda ws, _: ws.respond(403, "no")) as server:
        with pytest.raises(InvalidStatus):
            await connect(uri_of(server))


@eagerly
async def test_asgi() -> None:
    pytest.importorskip("uvicorn")
    from tests.wsapi.uvicorn_helpers import accepted, serving_app

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accepted(receive, send)
        for _ in range(100):  # until the transport is full, which it must be able to tell
            await send({"type": "websocket.send", "bytes": bytes(100_000)})

    async with serving_app(app) as running:
        async with connect(uri_of(running), compression=None, max_queue=1) as ws:
            for _ in range(100):
                assert len(await ws.recv()) == 100_000
