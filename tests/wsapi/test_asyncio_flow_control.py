"""Backpressure in both directions: who is slow slows the other one, and memory stays bounded."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.wsapi.helpers import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    RawPeer,
    close_payload,
    frame,
    pair,
    raw_client,
    raw_server,
    serving,
    turns,
    until,
    until_closed,
    uri_of,
)
from wsapi.asyncio.client import connect
from wsapi.asyncio.connection import Connection
from wsapi.asyncio.server import ServerConnection
from wsapi.exceptions import ConnectionClosed, ConnectionClosedError


def paused(ws: Connection) -> bool:
    return not ws.transport.is_reading()


def queued(ws: Connection) -> int:
    return ws.transport.get_write_buffer_size()


async def settle(tasks: set[asyncio.Task[None]]) -> None:
    """Wait until tasks that are held up by backpressure make no progress any more."""
    await asyncio.wait(tasks, timeout=0.05)


class TestReading:
    @pytest.mark.parametrize(
        "max_queue, high, low",
        [
            (16, 16, 4),
            (4, 4, 1),
            (1, 1, 0),
            (0, 0, 0),
            ((8, 6), 8, 6),
            ((8, None), 8, 2),
            ((8, 8), 8, 8),
            ((8, 0), 8, 0),
            ((None, 2), 8, 2),
        ],
    )
    async def test_pauses_at_the_high_mark_and_resumes_at_the_low_one(
        self, max_queue: Any, high: int, low: int
    ) -> None:
        async with pair(server={"max_queue": max_queue}) as (client, server):
            for i in range(high):
                await client.send(str(i))
                await (await client.ping())
            assert not paused(server)
            await client.send(str(high))
            await until(lambda: paused(server))
            for i in range(high - low):
                assert await server.recv() == str(i)
                assert paused(server)
            assert await server.recv() == str(high - low)
            assert not paused(server)
            for i in range(high - low + 1, high + 1):
                assert await server.recv() == str(i)
            await client.send("last")
            assert await server.recv() == "last"

    @pytest.mark.parametrize("max_queue", [None, (None, None)])
    async def test_no_limit(self, max_queue: Any) -> None:
        async with pair(server={"max_queue": max_queue}) as (client, server):
            for _ in range(1000):
                await client.send("x")
            await (await client.ping())
            assert not paused(server)
            for _ in range(1000):
                await server.recv()

    async def test_frames_count(self) -> None:
        async with pair(server={"max_queue": (4, 2)}) as (client, server):
            await client.send(["a", "b", "c"])
            await (await client.ping())
            assert not paused(server)
            await client.send("next")
            await until(lambda: paused(server))
            assert await server.recv() == "abc"
            assert not paused(server)
            assert await server.recv() == "next"

    async def test_message_larger_than_the_queue(self) -> None:
        async with pair(server={"max_queue": 2}) as (client, server):
            send = asyncio.create_task(client.send(["x"] * 1000))
            await asyncio.sleep(0.01)
            assert paused(server)
            assert await server.recv() == "x" * 1000
            await send

    async def test_bytes_count(self) -> None:
        """Few but large messages don't fill the memory either."""
        async with pair(server={"max_queue": None}) as (client, server):
            sends = {asyncio.create_task(client.send(bytes(2**20))) for _ in range(40)}
            await until(lambda: paused(server))
            for _ in range(40):
                assert len(await server.recv()) == 2**20
            await asyncio.gather(*sends)

    async def test_iteration_resumes_reading(self) -> None:
        async with pair(max_queue=2) as (client, server):
            sends = asyncio.create_task(send_numbers(client, 500))
            await asyncio.sleep(0.01)
            received = []
            async for message in server:
                received.append(message)
                if len(received) % 50 == 0:
                    await asyncio.sleep(0.001)
                if len(received) == 500:
                    break
            assert received == [str(i) for i in range(500)]
            await sends

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

    async def test_echo_without_reading_the_answers(self) -> None:
        """Who sends and never reads fills neither side's memory."""
        async with serving(max_queue=4, write_limit=4096) as server:
            async with connect(uri_of(server), max_queue=4, write_limit=4096) as ws:
                await until(lambda: server.connections)
                (other,) = server.connections
                send = asyncio.create_task(send_blocks(ws, 500))
                await settle({send})
                assert not send.done()
                assert queued(ws) < 4096 + 100_100
                # The handler waits in send() for its first message above the limit.
                assert queued(other) < 4096 + 100_100
                for _ in range(500):
                    assert len(await ws.recv()) == 100_000
                await send

    async def test_keepalive_does_not_blame_a_peer_that_is_not_read(self) -> None:
        options = {"max_queue": 1, "ping_interval": 0.01, "ping_timeout": 0.03}
        async with pair(server=options, client={"ping_interval": None}) as (client, server):
            for i in range(50):
                await client.send(str(i))
            await until(lambda: paused(server))
            await asyncio.sleep(0.1)
            assert [await server.recv() for _ in range(50)] == [str(i) for i in range(50)]

    async def test_receiver_that_waits_for_a_fragmented_message(self) -> None:
        received: list[Any] = []

        async def handler(ws: ServerConnection) -> None:
            received.append(await ws.recv())

        async with serving(handler, max_queue=2) as server, raw_client(server) as peer:
            peer.write(BINARY, b"0", fin=False)
            for i in range(1, 100):
                peer.write(CONT, str(i).encode(), fin=False)
            await turns(20)
            peer.write(CONT, fin=True)
            assert (await peer.read_message())[0] == CLOSE
        assert received == ["".join(map(str, range(100))).encode()]

    async def test_cancelled_receiver_leaves_reading_bounded(self) -> None:
        async with serving(until_closed, max_queue=2) as server, raw_client(server) as peer:
            await until(lambda: server.connections)
            (ws,) = server.connections
            receiving = asyncio.create_task(ws.recv())
            await turns(2)
            receiving.cancel()
            await asyncio.wait([receiving])
            peer.write(BINARY, b"0", fin=False)
            for _ in range(10):
                peer.write(CONT, b"0", fin=False)
            await until(lambda: paused(ws))
            receiving = asyncio.create_task(ws.recv())
            await turns(2)
            assert not paused(ws)
            peer.write(CONT, b"1")
            assert await receiving == b"0" * 11 + b"1"


async def send_numbers(ws: Connection, count: int) -> None:
    for i in range(count):
        await ws.send(str(i))


async def send_blocks(ws: Connection, count: int) -> None:
    for _ in range(count):
        await ws.send(bytes(100_000))


class TestWriting:
    @pytest.mark.parametrize(
        "write_limit, limits",
        [(2**15, (2**13, 2**15)), (1000, (250, 1000)), ((1000, 500), (500, 1000)), (0, (0, 0))],
    )
    async def test_limits(self, write_limit: Any, limits: tuple[int, int]) -> None:
        async with pair(write_limit=write_limit) as (client, server):
            for ws in (client, server):
                assert ws.transport.get_write_buffer_limits() == limits
            await client.send("x" * 5000)
            assert await server.recv() == "x" * 5000

    @pytest.mark.parametrize("side", ["client", "server"])
    async def test_peer_that_does_not_read(self, side: str) -> None:
        async def check(ws: Connection) -> None:
            send = asyncio.create_task(send_blocks(ws, 1000))
            await settle({send})
            assert not send.done()
            assert queued(ws) < 2**15 + 100_100
            others = {asyncio.create_task(ws.send("x")) for _ in range(5)}
            others.add(asyncio.create_task(send_blocks(ws, 3)))
            await settle(others)
            assert not any(task.done() for task in others)
            ws.transport.abort()
            for task in (send, *others):
                with pytest.raises(ConnectionClosedError):
                    await task

        done = asyncio.Event()

        async def deaf(peer: RawPeer) -> None:
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await done.wait()

        if side == "client":
            async with raw_server(deaf) as server:
                async with connect(uri_of(server)) as ws:
                    await check(ws)
                    done.set()
        else:
            async with serving(check) as server, raw_client(server) as peer:
                peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
                await until(lambda: server._handlers)
                await until(lambda: not server._handlers)

    async def test_peer_that_reads_later(self) -> None:
        gate = asyncio.Event()
        received: list[int] = []

        async def late(peer: RawPeer) -> None:
            await gate.wait()
            while True:
                opcode, payload = await peer.read_message()
                if opcode == CLOSE:
                    peer.write(CLOSE, payload)
                    return
                received.append(len(payload))

        async with raw_server(late) as server:
            async with connect(uri_of(server)) as ws:
                sends = {asyncio.create_task(send_blocks(ws, 100)) for _ in range(3)}
                await settle(sends)
                assert not any(task.done() for task in sends)
                gate.set()
                await asyncio.gather(*sends)
        assert received == [100_000] * 300

    async def test_close_timeout_of_a_peer_that_does_not_read(self) -> None:
        done = asyncio.Event()

        async def deaf(_peer: RawPeer) -> None:
            await done.wait()

        async with raw_server(deaf) as server:
            async with connect(uri_of(server), close_timeout=0.05) as ws:
                send = asyncio.create_task(send_blocks(ws, 1000))
                await settle({send})
                await ws.close()
                assert ws.close_code == 1006
                with pytest.raises(ConnectionClosed):
                    await send
            done.set()

    async def test_last_message_is_not_lost(self) -> None:
        """A handler that sends a lot and returns."""

        async def handler(ws: ServerConnection) -> None:
            for _ in range(20):
                await ws.send(bytes(100_000))
            await ws.send("last")

        async with serving(handler) as server, connect(uri_of(server)) as ws:
            messages = [message async for message in ws]
            assert len(messages) == 21
            assert messages[-1] == "last"
            assert ws.close_code == 1000

    async def test_ping_flood_without_reading_the_pongs(self) -> None:
        async with serving(until_closed, write_limit=1000) as server, raw_client(server) as peer:
            await until(lambda: server.connections)
            (ws,) = server.connections
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            flood = frame(PING, b"x" * 125, masked=True) * 1000
            largest = 0
            for _ in range(100):
                peer.writer.write(flood)
                try:
                    await asyncio.wait_for(peer.writer.drain(), 0.05)
                except TimeoutError:
                    break
                await asyncio.sleep(0)
                largest = max(largest, queued(ws))
            # One read's worth of pongs and what comes before.
            assert largest < 2**20
            peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
            peer.write(PING, b"last")
            while await peer.read_message() != (PONG, b"last"):
                pass
            peer.write(CLOSE, close_payload(1000))
            while (await peer.read_message())[0] != CLOSE:
                pass

    async def test_messages_of_one_turn_leave_together(self) -> None:
        reads: list[bytes] = []
        gate = asyncio.Event()

        async def reader(peer: RawPeer) -> None:
            reads.append(await peer.reader.read(2**16))
            gate.set()
            await peer.read_to_end()

        async with raw_server(reader) as server:
            async with connect(uri_of(server), close_timeout=0.01) as ws:
                for i in range(10):
                    await ws.send(str(i))
                # Nothing else is awaited: they leave at the end of the turn at the latest.
                await gate.wait()
                assert reads[0]
