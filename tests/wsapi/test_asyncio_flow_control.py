"""Backpressure in both directions: who is slow slows the other one, and memory stays bounded."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.wsapi.helpers import pair, until
from wsapi.asyncio.connection import Connection
from wsapi.frames import Frame, Opcode
from wsapi.limits import Slow


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
            await until(lambda: paused(server))
            await settle({send})
            assert not send.done()
            # One message above the limit at most, headers aside.
            assert queued(client) < 4096 + 100_000 + 100
            for _ in range(300):
                assert len(await server.recv()) == 100_000
            await send

    @pytest.mark.parametrize("taken, pauses", [(10, []), (9, []), (4, [True]), (0, [True])])
    async def test_what_is_taken_at_once_pauses_nothing(
        self, taken: int, pauses: list[bool]
    ) -> None:
        async with pair(server={"max_queue": (2, 1)}) as (_, server):
            seen: list[bool] = []
            update = server._update_reading

            def update_reading() -> None:
                update()
                seen.append(server._driver.reading_paused)

            server._update_reading = update_reading  # type: ignore[method-assign]

            async def receive() -> None:
                for number in range(taken):
                    assert await server.recv() == f"{number}"
                await asyncio.Event().wait()

            task = asyncio.create_task(receive())
            await asyncio.sleep(0)
            frames = b"".join(
                Frame(Opcode.TEXT, f"{number}".encode()).serialize(mask=True)
                for number in range(10)
            )

            def arrive() -> None:
                server.get_buffer(-1)[: len(frames)] = frames
                server.buffer_updated(len(frames))
                seen.append(paused(server))

            server.loop.call_soon(arrive)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert seen == [*pauses, bool(pauses)]
            task.cancel()
            for number in range(taken, 10):
                assert await server.recv() == f"{number}"
            assert not paused(server)

    @pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt])
    async def test_reading_pauses_if_who_was_resumed_ends_the_loop(
        self, end: type[BaseException]
    ) -> None:
        async with pair(server={"max_queue": (2, 1)}) as (_, server):

            async def receive() -> None:
                await server.recv()
                raise end

            task = asyncio.create_task(receive())
            await asyncio.sleep(0)
            frames = Frame(Opcode.TEXT, b"message").serialize(mask=True) * 10
            raised: list[BaseException] = []

            def arrive() -> None:
                server.get_buffer(-1)[: len(frames)] = frames
                try:
                    server.buffer_updated(len(frames))
                except BaseException as exc:
                    raised.append(exc)

            server.loop.call_soon(arrive)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert [type(exc) for exc in raised] == [end]
            assert isinstance(task.exception(), end)
            assert paused(server)
            for _ in range(9):
                assert await server.recv() == "message"
            assert not paused(server)


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

    async def test_nothing_is_due_without_timeouts(self) -> None:
        """Whoever takes nothing may do so for ever, if nobody says for how long."""
        async with pair(ping_interval=None, compression=None) as (client, server):
            send = asyncio.create_task(send_blocks(server, 300))
            await settle({send})
            assert not send.done()
            assert server.protocol.next_timeout() is None
            for _ in range(300):
                assert len(await client.recv()) == 100_000
            await send

    async def test_draining_waits_for_what_the_engine_holds(self) -> None:
        """With a policy, messages wait there: the transport pauses again and again meanwhile."""
        policy = {"slow": Slow.DROP_OLDEST, "max_backlog": None, "write_limit": 2**15}
        async with pair(server=policy, compression=None) as (client, server):
            for _ in range(300):
                await server.send(bytes(100_000))  # which the kernel doesn't take at once
            drain = asyncio.create_task(server.drain())
            for number in range(300):
                if number < 100:
                    assert not drain.done()
                assert len(await client.recv()) == 100_000
            await drain
            assert server.protocol.backlog_messages == 0
