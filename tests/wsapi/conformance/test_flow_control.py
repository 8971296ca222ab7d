"""Backpressure in both directions: who is slow slows the other one, and memory stays bounded."""

from __future__ import annotations

from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Task, Ws, until_closed
from tests.wsapi.conformance.raw import RawPeer
from tests.wsapi.helpers import BINARY, CLOSE, CONT, PING, PONG, frame
from wsapi.exceptions import ConnectionClosed, ConnectionClosedError

# A buffer's limit, one message above it, headers aside.
BOUND = 2**15 + 100_100


async def stuck(tasks: list[Task]) -> bool:
    """Wait until tasks that are held up by backpressure make no progress any more."""
    await tasks[0].ended(0.05)
    return not any(task.done() for task in tasks)


async def send_numbers(ws: Ws, count: int) -> None:
    for i in range(count):
        await ws.send(str(i))


async def send_blocks(ws: Ws, count: int) -> None:
    for _ in range(count):
        await ws.send(bytes(100_000))


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
        self, driver: Driver, max_queue: Any, high: int, low: int
    ) -> None:
        async with driver.pair(server={"max_queue": max_queue}) as (client, server):
            for i in range(high):
                await client.send(str(i))
                await (await client.ping()).wait()
            assert not server.paused
            await client.send(str(high))
            await driver.until(lambda: server.paused)
            for i in range(high - low):
                assert await server.recv() == str(i)
                assert server.paused
            assert await server.recv() == str(high - low)
            assert not server.paused
            for i in range(high - low + 1, high + 1):
                assert await server.recv() == str(i)
            await client.send("last")
            assert await server.recv() == "last"

    @pytest.mark.parametrize("max_queue", [None, (None, None)])
    async def test_no_limit(self, driver: Driver, max_queue: Any) -> None:
        async with driver.pair(server={"max_queue": max_queue}) as (client, server):
            for _ in range(1000):
                await client.send("x")
            await (await client.ping()).wait()
            assert not server.paused
            for _ in range(1000):
                await server.recv()

    async def test_frames_count(self, driver: Driver) -> None:
        async with driver.pair(server={"max_queue": (4, 2)}) as (client, server):
            await client.send(["a", "b", "c"])
            await (await client.ping()).wait()
            assert not server.paused
            await client.send("next")
            await driver.until(lambda: server.paused)
            assert await server.recv() == "abc"
            assert not server.paused
            assert await server.recv() == "next"

    async def test_message_larger_than_the_queue(self, driver: Driver) -> None:
        async with driver.pair(server={"max_queue": 2}) as (client, server):
            send = driver.spawn(client.send(["x"] * 1000))
            await driver.until(lambda: server.paused)
            assert await server.recv() == "x" * 1000
            await send

    async def test_bytes_count(self, driver: Driver) -> None:
        """Few but large messages don't fill the memory either."""
        async with driver.pair(server={"max_queue": None}) as (client, server):
            sends = [driver.spawn(client.send(bytes(2**20))) for _ in range(40)]
            await driver.until(lambda: server.paused)
            for _ in range(40):
                assert len(await server.recv()) == 2**20
            for send in sends:
                await send

    async def test_iteration_resumes_reading(self, driver: Driver) -> None:
        async with driver.pair(max_queue=2) as (client, server):
            sends = driver.spawn(send_numbers(client, 500))
            await driver.sleep(0.01)
            received = []
            async for message in server:
                received.append(message)
                if len(received) % 50 == 0:
                    await driver.sleep(0.001)
                if len(received) == 500:
                    break
            assert received == [str(i) for i in range(500)]
            await sends

    async def test_sender_is_held_up(self, driver: Driver) -> None:
        async with driver.pair(server={"max_queue": 2}) as (client, server):
            send = driver.spawn(send_blocks(client, 300))
            await driver.until(lambda: server.paused)
            assert await stuck([send])
            assert client.unsent < BOUND
            for _ in range(300):
                assert len(await server.recv()) == 100_000
            await send

    async def test_echo_without_reading_the_answers(self, driver: Driver) -> None:
        """Who sends and never reads fills neither side's memory."""
        async with driver.serve(max_queue=4) as server:
            async with driver.connect(server, max_queue=4) as ws:
                other = await server.connection()
                send = driver.spawn(send_blocks(ws, 500))
                await driver.until(lambda: ws.paused)
                assert await stuck([send])
                assert ws.unsent < BOUND
                # The handler waits in send() for its first message above the limit.
                assert other.unsent < BOUND
                for _ in range(500):
                    assert len(await ws.recv()) == 100_000
                await send

    @pytest.mark.fake_time
    async def test_keepalive_does_not_blame_a_peer_that_is_not_read(self, driver: Driver) -> None:
        options = {"max_queue": 1, "ping_interval": 20, "ping_timeout": 20}
        async with driver.pair_in_memory(ping_interval=None, server=options) as (client, server):
            for i in range(50):
                await client.send(str(i))
            await driver.advance(300)
            assert server.paused
            assert [await server.recv() for _ in range(50)] == [str(i) for i in range(50)]

    async def test_receiver_that_waits_for_a_fragmented_message(self, driver: Driver) -> None:
        received: list[Any] = []

        async def handler(ws: Ws) -> None:
            received.append(await ws.recv())

        async with driver.serve(handler, max_queue=2) as server, driver.raw_client(server) as peer:
            await peer.write(BINARY, b"0", fin=False)
            for i in range(1, 100):
                await peer.write(CONT, str(i).encode(), fin=False)
            await driver.settle()
            await peer.write(CONT, fin=True)
            assert (await peer.read_message())[0] == CLOSE
        assert received == ["".join(map(str, range(100))).encode()]

    @pytest.mark.not_on("sync", reason="threads can't be cancelled")
    async def test_cancelled_receiver_leaves_reading_bounded(self, driver: Driver) -> None:
        async with (
            driver.serve(until_closed, max_queue=2) as server,
            driver.raw_client(server) as peer,
        ):
            ws = await server.connection()
            receiving = driver.spawn(ws.recv())
            await driver.settle()
            assert await receiving.cancelled()
            await peer.write(BINARY, b"0", fin=False)
            for _ in range(10):
                await peer.write(CONT, b"0", fin=False)
            await driver.until(lambda: ws.paused)
            receiving = driver.spawn(ws.recv())
            await driver.settle()
            assert not ws.paused
            await peer.write(CONT, b"1")
            assert await receiving == b"0" * 11 + b"1"


class TestWriting:
    @pytest.mark.parametrize("side", ["client", "server"])
    async def test_peer_that_does_not_read(self, driver: Driver, side: str) -> None:
        async def check(ws: Ws) -> None:
            send = driver.spawn(send_blocks(ws, 1000))
            assert await stuck([send])
            assert ws.unsent < BOUND
            others = [driver.spawn(send_blocks(ws, 3)) for _ in range(5)]
            assert await stuck(others)
            assert ws.unsent < BOUND + 5 * 100_100
            ws.lose()
            for task in (send, *others):
                with pytest.raises(ConnectionClosedError):
                    await task

        async def deaf(peer: RawPeer) -> None:
            await peer.over.wait()

        if side == "client":
            async with driver.raw_server(deaf) as server:
                async with driver.connect(server) as ws:
                    await check(ws)
        else:
            async with driver.serve(check) as server, driver.raw_client(server):
                await driver.until(lambda: server.handling)
                await driver.until(lambda: not server.handling)

    async def test_peer_that_reads_later(self, driver: Driver) -> None:
        gate = driver.event()
        received: list[int] = []

        async def late(peer: RawPeer) -> None:
            await gate.wait()
            while True:
                opcode, payload = await peer.read_message()
                if opcode == CLOSE:
                    await peer.write(CLOSE, payload)
                    return
                received.append(len(payload))

        async with driver.raw_server(late) as server:
            async with driver.connect(server) as ws:
                sends = [driver.spawn(send_blocks(ws, 100)) for _ in range(3)]
                assert await stuck(sends)
                gate.set()
                for send in sends:
                    await send
        assert received == [100_000] * 300

    async def test_close_timeout_of_a_peer_that_does_not_read(self, driver: Driver) -> None:
        async def deaf(peer: RawPeer) -> None:
            await peer.over.wait()

        async with driver.raw_server(deaf) as server:
            async with driver.connect(server, close_timeout=0.05) as ws:
                send = driver.spawn(send_blocks(ws, 1000))
                assert await stuck([send])
                await ws.close()
                assert ws.close_code == 1006
                with pytest.raises(ConnectionClosed):
                    await send

    async def test_last_message_is_not_lost(self, driver: Driver) -> None:
        """A handler that sends a lot and returns."""

        async def handler(ws: Ws) -> None:
            for _ in range(20):
                await ws.send(bytes(100_000))
            await ws.send("last")

        async with driver.serve(handler) as server, driver.connect(server) as ws:
            messages = [message async for message in ws]
            assert len(messages) == 21
            assert messages[-1] == "last"
            assert ws.close_code == 1000

    async def test_ping_flood_without_reading_the_pongs(self, driver: Driver) -> None:
        async with driver.serve(until_closed) as server, driver.raw_client(server) as peer:
            ws = await server.connection()
            flood = frame(PING, b"x" * 125, masked=True) * 100_000
            last = frame(PING, b"last", masked=True)
            flooding = driver.spawn(peer.send(flood + last))
            # All are read, or not all: what there is to write stays bounded.
            await stuck([flooding])
            assert ws.unsent < 2**20
            while not peer.buffer.endswith(frame(PONG, b"last")):
                assert await peer.fill()
            await flooding

    @pytest.mark.parametrize("side", ["client", "server"])
    async def test_nothing_waits_for_more(self, driver: Driver, side: str) -> None:
        """What was sent leaves, though nothing else is awaited that concerns the connection."""
        arrived = driver.event()

        async def send(ws: Ws) -> None:
            for i in range(10):
                await ws.send(str(i))
            await arrived.wait()

        async def receive(peer: RawPeer) -> None:
            assert [(await peer.read_message())[1] for _ in range(10)] == [
                str(i).encode() for i in range(10)
            ]
            arrived.set()

        if side == "client":
            async with driver.raw_server(receive) as raw:
                async with driver.connect(raw, close_timeout=0.1) as ws:
                    await send(ws)
        else:
            async with driver.serve(send, close_timeout=0.1) as server:
                async with driver.raw_client(server) as peer:
                    await receive(peer)
