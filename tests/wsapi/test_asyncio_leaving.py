"""Servers of asyncio that leave: what only they have."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.wsapi.helpers import serving, until, uri_of
from wsapi.asyncio.client import connect
from wsapi.asyncio.server import ServerConnection, serve


async def test_serve_forever_ends() -> None:
    async with serve(ServerConnection.wait_closed, "127.0.0.1", 0) as server:
        serving_forever = asyncio.create_task(server.serve_forever())
        async with connect(uri_of(server)) as ws:
            await server.drain(spread=0)
            await serving_forever
            assert ws.close_code == 1012


async def test_before_it_is_started() -> None:
    server = serve(ServerConnection.wait_closed, "127.0.0.1", 0)
    with pytest.raises(RuntimeError, match="await it first"):
        await server.drain()
    with pytest.raises(RuntimeError, match="await it first"):
        server.drain_on_signal(signal.SIGTERM)


async def test_handler_that_waits_for_the_end_of_its_server() -> None:
    ended = []

    async def handler(ws: ServerConnection) -> None:
        ws.server.close(code=1012)
        await ws.server.wait_closed()
        ended.append(ws)

    async with serving(handler) as server, connect(uri_of(server)) as ws:
        await ws.wait_closed()
        assert ws.close_code == 1012
        await until(lambda: ended)


async def test_handler_that_waits_for_the_end_is_cancelled() -> None:
    """It is one of those that are waited for, then."""
    gates = asyncio.Event(), asyncio.Event()
    waiting: list[ServerConnection] = []
    ended = []

    async def handler(ws: ServerConnection) -> None:
        if await ws.recv() == "handler":
            await gates[0].wait()
            return
        waiting.append(ws)
        try:
            await ws.server.wait_closed()
        finally:
            await gates[1].wait()
            ended.append(ws)

    async with serving(handler) as server:
        async with connect(uri_of(server)) as one, connect(uri_of(server)) as other:
            await one.send("handler")
            await other.send("waiter")
            await until(lambda: waiting)
            server.close()
            await one.wait_closed()
            await other.wait_closed()
        waiting[0].task.cancel()
        await asyncio.sleep(0)
        closed = asyncio.create_task(server.wait_closed())
        gates[0].set()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not closed.done()
        gates[1].set()
        await closed
        assert ended == waiting
