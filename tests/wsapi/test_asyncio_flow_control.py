"""Backpressure in both directions: who is slow slows the other one, and memory stays bounded."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.wsapi.helpers import pair
from wsapi.asyncio.connection import Connection


def paused(ws: Connection) -> bool:
    return not ws.transport.is_reading()


def queued(ws: Connection) -> int:
    return ws.transport.get_write_buffer_size()


async def settle(tasks: set[asyncio.Task[None]]) -> None:
    """Wait until tasks that are held up by backpressure make no progress any more."""
    await asyncio.wait(tasks, timeout=0.05)


class TestReading:
    async def test_sender_is_held_up(self) -> None:
        async with pair(server={"max_queue": 2}, client={"write_limit": 4096}) as (client, server):
            send = asyncio.create_task(send_blocks(client, 300))
            await settle({send})
            assert not send.done()
            assert paused(server)
            # One message above the limit at most, headers aside.
            assert queued(client) < 4096 + 100_000 + 100
            for _ in range(300):
                assert len(await server.recv()) == 100_000
            await send


async def send_blocks(ws: Connection, count: int) -> None:
    for _ in range(count):
        await ws.send(bytes(100_000))


class TestWriting:
    @pytest.mark.parametrize(
        "write_limit, limits",
        [
            (2**15, (2**13, 2**15)),
            (1000, (250, 1000)),
            ((1000, 10), (10, 1000)),
            ((1000, None), (250, 1000)),
            (0, (0, 0)),
        ],
    )
    async def test_limits(self, write_limit: Any, limits: tuple[int, int]) -> None:
        async with pair(write_limit=write_limit) as (client, server):
            for ws in (client, server):
                assert ws.transport.get_write_buffer_limits() == limits
            await client.send("x" * 5000)
            assert await server.recv() == "x" * 5000
