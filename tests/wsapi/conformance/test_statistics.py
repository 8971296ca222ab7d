"""What connections and servers count."""

from __future__ import annotations

import contextlib
import random
import threading
from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Served, Ws, echo, until_closed
from tests.wsapi.helpers import BINARY, CLOSE, close_payload, request
from wsapi.exceptions import ConnectionClosed
from wsapi.limits import BufferBudget, Door
from wsapi.protocol import State
from wsproto_fast.statistics import ConnectionStats


def counted(server: Served) -> int:
    """Return how many connections are in the sum that `accepted` has to be."""
    stats = server.raw.stats()
    now: int = stats.opening + stats.open + stats.closing
    number = now + sum(stats.refused.values()) + sum(stats.closed.values())
    assert stats.accepted == number
    return number


async def visit(driver: Driver, server: Served, kind: str) -> None:
    """Be a client of some kind; what goes wrong doesn't matter here."""
    # A server that is closed has no port any more.
    with contextlib.suppress(OSError, AssertionError, EOFError, IndexError):
        begin = b"" if kind in ("silent", "partial", "garbage", "refused") else None
        async with driver.raw_client(server, begin) as peer:
            if kind == "partial":
                await peer.send(request()[:20])
            elif kind == "garbage":
                await peer.send(b"what?\r\n\r\n")
                await peer.read_to_end()
            elif kind == "refused":
                await peer.send(request("GET /no HTTP/1.1"))
                await peer.read_to_end()
            elif kind == "closes":
                await peer.write(CLOSE, close_payload(4000))
                await peer.read_to_end()
            elif kind == "heavy":
                for _ in range(5):
                    await peer.write(BINARY, bytes(10_000))
                await peer.read_to_end()
            elif kind == "stays":
                await peer.read_to_end()
            elif kind == "resets":
                peer.reset()
            await driver.sleep(0.01)


class TestConnection:
    async def test_both_ends_count_the_same(self, driver: Driver) -> None:
        async with driver.serve(echo) as server, driver.connect(server) as ws:
            for message in ("text", b"bytes" * 100, ["in", "fragments"]):
                await ws.send(message)
                await ws.recv()
            pong = await ws.ping()
            await pong.wait()
            peer = await server.connection()
            ours, theirs = ws.stats(), peer.stats()
            await ws.close()
        assert ours.messages_sent == ours.messages_received == 3
        assert ours.message_bytes_sent == ours.message_bytes_received == 4 + 500 + 11
        assert ours.frames_sent == 3 + 2 + 1  # the third message ends with an empty fragment
        assert (ours.pings_sent, ours.pongs_received) == (1, 1)
        for name in (
            "messages",
            "message_bytes",
            "payload_bytes",
            "frames",
            "wire_bytes",
            "pings",
            "pongs",
        ):
            for one, other in ((ours, theirs), (theirs, ours)):
                assert getattr(one, f"{name}_sent") == getattr(other, f"{name}_received"), name
        assert ours.max_queued_frames >= 1
        assert ours.latency == ws.latency > 0
        assert ours.handshake_seconds is not None
        assert theirs.handshake_seconds is not None
        assert theirs.handshake_seconds > 0
        assert ours.open_seconds > 0

    async def test_after_the_end(self, driver: Driver) -> None:
        async with driver.serve(echo) as server, driver.connect(server) as ws:
            await ws.send("1")
            assert await ws.recv() == "1"
            await ws.close()
            first = ws.stats()
            await driver.sleep(0.01)
            assert ws.stats() == first
            assert first.messages_received == 1
            assert first.frames_sent == first.frames_received == 2

    async def test_before_the_end(self, driver: Driver) -> None:
        async def handler(ws: Ws) -> None:
            await ws.wait_closed()

        async with driver.serve(handler, close_timeout=None) as server:
            async with driver.raw_client(server) as peer:
                ws = await server.connection()
                task = driver.spawn(ws.close())
                await driver.until(lambda: ws.state is State.CLOSING)
                stats = ws.stats()
                assert (stats.frames_sent, stats.frames_received) == (1, 0)
                assert stats.open_seconds > 0
                peer.close()
                await task

    async def test_during_the_opening_handshake(self, driver: Driver) -> None:
        seen: list[ConnectionStats] = []

        def process_request(ws: Ws, _request: Any) -> None:
            seen.append(ws.stats())

        async with driver.serve(echo, process_request=process_request) as server:
            await driver.attempt(server)
        (stats,) = seen
        assert (stats.handshake_seconds, stats.open_seconds, stats.frames_sent) == (None, 0, 0)
        assert stats.wire_bytes_received > 100

    async def test_what_the_network_does_not_take(self, driver: Driver) -> None:
        """It is seen while it waits, and known afterwards."""
        size = 1 << 24

        async def handler(ws: Ws) -> None:
            await ws.send(bytes(size))
            await ws.wait_closed()

        async with driver.serve(handler, compression=None) as server:
            async with driver.raw_client(server, request()) as peer:
                ws = await server.connection()
                await driver.until(lambda: ws.stats().write_buffer_bytes)
                waiting = ws.stats().write_buffer_bytes
                assert 0 < waiting <= size + 10
                assert server.raw.stats().write_buffer_bytes > 0
                peer.close()
                await ws.wait_closed()
        assert ws.stats().write_buffer_bytes == 0
        assert waiting <= ws.stats().max_write_buffer_bytes <= size + 10


class TestServer:
    async def test_life_of_connections(self, driver: Driver) -> None:
        async with driver.serve(echo) as server:
            assert server.raw.stats() == type(server.raw.stats())()
            async with driver.connect(server) as first, driver.connect(server) as second:
                for ws in (first, second):
                    await ws.send("1234")
                    await ws.recv()
                stats = server.raw.stats()
                assert (stats.accepted, stats.opening, stats.open, stats.closing) == (2, 0, 2, 0)
                assert (stats.messages_received, stats.message_bytes_sent) == (2, 8)
                assert stats.handshakes.count == 2
                assert stats.handshakes.sum > 0
                await first.close(4000)
                await driver.until(lambda: server.raw.stats().closed)
                stats = server.raw.stats()
                assert (stats.accepted, stats.open, stats.closed) == (2, 1, {4000: 1})
                assert (stats.messages_received, stats.message_bytes_sent) == (2, 8)
                await second.send("5")
                await second.recv()
                second.lose()
                await driver.until(lambda: len(server.raw.stats().closed) == 2)
            stats = server.raw.stats()
            assert stats.closed == {4000: 1, 1006: 1}
            assert (stats.open, stats.messages_received, stats.message_bytes_received) == (0, 3, 9)
            assert not stats.refused
            last = stats
        assert server.raw.stats() == last

    async def test_sums_are_those_of_the_connections(self, driver: Driver) -> None:
        async with driver.serve(until_closed) as server:
            async with driver.connect(server) as first, driver.connect(server) as second:
                await first.send(b"x" * 1000)
                await second.send("y" * 500)
                await driver.until(lambda: server.raw.stats().messages_received == 2)
                each = [ws.stats() for ws in server.connections]
                stats = server.raw.stats()
            for name in ConnectionStats.__slots__:
                assert name in ("latency", "handshake_seconds", "open_seconds")
            assert stats.queued_frames == 2
            for name in ("wire_bytes_received", "wire_bytes_sent", "queued_bytes", "frames_sent"):
                assert getattr(stats, name) == sum(getattr(one, name) for one in each)
            assert stats.max_queued_bytes == max(one.max_queued_bytes for one in each)

    async def test_refusals(self, driver: Driver) -> None:
        def process_request(ws: Ws, request: Any) -> Any:
            return ws.respond(403, "no\n") if request.path == "/no" else None

        async with driver.serve(echo, process_request=process_request) as server:
            await driver.rejection(server.uri("/no"))
            await server.ask(request("GET /no HTTP/1.1"))
            await server.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await server.ask(request(Sec_WebSocket_Key="bad"))
            await server.ask_bytes(b"what?\r\n\r\n")
            async with driver.raw_client(server, b"") as peer:
                await peer.send(b"GET / HT")
                await driver.until(lambda: server.raw.stats().opening == 1)
                peer.close()
            await driver.until(lambda: sum(server.raw.stats().refused.values()) == 6)
            stats = server.raw.stats()
            assert stats.refused == {"403": 2, "426": 1, "400": 1, "malformed": 1, "gone": 1}
            assert (stats.accepted, stats.opening, stats.open, stats.closing) == (6, 0, 0, 0)
            assert stats.handshakes.count == 0
            assert not stats.closed

    async def test_clients_that_are_too_late(self, driver: Driver) -> None:
        async with driver.serve(echo, open_timeout=0.05) as server:
            assert await server.ask_bytes(b"") == b""
            assert (await server.ask(b"GET / HTTP/1.1\r\n")).status_code == 408
            await driver.until(lambda: sum(server.raw.stats().refused.values()) == 2)
            assert server.raw.stats().refused == {"timeout": 1, "408": 1}

    async def test_limits_that_refuse(self, driver: Driver) -> None:
        """What refuses connections by a limit tells its name."""

        def process_request(ws: Ws, _request: Any) -> Any:
            ws.server._statistics.refused("max_per_address", ws.raw)
            return ws.respond(429, "")

        async with driver.serve(echo, process_request=process_request) as server:
            await driver.rejection(server)
            server.raw._statistics.refused("max_connections")
            await driver.until(lambda: len(server.raw.stats().refused) == 2)
            stats = server.raw.stats()
            assert stats.refused == {"max_per_address": 1, "max_connections": 1}
            assert stats.accepted == 2

    async def test_a_closing_server(self, driver: Driver) -> None:
        async with driver.serve(echo) as server:
            async with driver.connect(server) as ws:
                await server.close()
                assert server.raw.stats().closed == {1001: 1}
                assert server.raw.stats().open == 0
                await ws.wait_closed()

    async def test_other_threads_may_read(self, driver: Driver) -> None:
        async with driver.serve(echo) as server:
            seen: list[int] = []
            done = threading.Event()

            def read() -> None:
                while not done.is_set():
                    stats = server.raw.stats()
                    counts = (*stats.refused.values(), *stats.closed.values())
                    now = stats.opening + stats.open + stats.closing
                    assert stats.accepted == now + sum(counts)
                    for ws in server.raw.connections:
                        ws.stats()
                    seen.append(stats.messages_received)

            thread = threading.Thread(target=read)
            thread.start()
            try:
                for _ in range(20):
                    async with driver.connect(server) as ws:
                        await ws.send("x")
                        await ws.recv()
            finally:
                done.set()
                await driver.in_thread(thread.join)
            assert seen == sorted(seen)
            await driver.until(lambda: server.raw.stats().closed == {1000: 20})
            assert server.raw.stats().messages_received == 20

    @pytest.mark.parametrize("leaves", ["drain", "close"])
    @pytest.mark.parametrize("seed", range(3))
    async def test_each_connection_is_counted_once(
        self, driver: Driver, seed: int, leaves: str
    ) -> None:
        """Whatever clients, limits and the end of the server do at the same time."""
        chance = random.Random(seed)
        door = Door(max_connections=12, max_opening=6, max_per_address=10)

        def process_request(ws: Ws, request: Any) -> Any:
            return ws.respond(403, "no\n") if request.path == "/no" else None

        kinds = ("silent", "partial", "garbage", "refused", "closes", "heavy", "stays", "resets")
        async with driver.serve(
            until_closed,
            door=door,
            buffer_budget=BufferBudget(60_000, interval=0.005),
            process_request=process_request,
            close_timeout=0.1,
            open_timeout=chance.choice([None, 0.02]),
        ) as server:

            async def come(kind: str) -> None:
                await driver.sleep(chance.random() * 0.1)
                await visit(driver, server, kind)

            clients = [driver.spawn(come(chance.choice(kinds))) for _ in range(40)]
            clients += [driver.spawn(come(kind)) for kind in kinds]

            def seen() -> bool:
                number, stats = counted(server), server.raw.stats()
                return bool(number > 2 * len(kinds) and stats.closed and stats.refused)

            await driver.until(seen)
            if leaves == "drain":
                await driver.call(server.raw.drain, timeout=1, spread=0.02)
            else:
                await server.close()
            for client in clients:
                await client.ended()
            stats = server.raw.stats()
            assert (stats.opening, stats.open, stats.closing) == (0, 0, 0)
            assert counted(server) == sum(stats.refused.values()) + sum(stats.closed.values())
            await driver.until(lambda: door.connections == door.opening == door._refusing == 0)
            assert not door._per_address


async def test_handlers_see_their_connection_end(driver: Driver) -> None:
    ended: list[ConnectionStats] = []

    async def handler(ws: Ws) -> None:
        try:
            await ws.recv()
        except ConnectionClosed:
            ended.append(ws.stats())

    async with driver.serve(handler) as server:
        await driver.attempt(server)
        await driver.until(lambda: ended)
    assert (ended[0].frames_received, ended[0].frames_sent) == (1, 1)
