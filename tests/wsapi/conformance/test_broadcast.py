"""One message to many connections."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Ws, until_closed
from tests.wsapi.helpers import BINARY, TEXT
from wsapi import limits
from wsapi.exceptions import ConcurrencyError, ConnectionClosed, ConnectionClosedError
from wsapi.frames import Frame
from wsapi.limits import MAX_BACKLOG, connections_given_up
from wsapi.protocol import State


class TestBroadcast:
    @pytest.mark.parametrize(
        "message, text, received",
        [
            ("é", None, "é"),
            (b"b", None, b"b"),
            (bytearray(b"c"), None, b"c"),
            (memoryview(b"d"), None, b"d"),
            ("e", False, b"e"),
            (b"f", True, "f"),
            ("g" * 100_000, None, "g" * 100_000),
        ],
    )
    async def test_clients_and_servers(
        self, driver: Driver, message: Any, text: Any, received: Any
    ) -> None:
        async with driver.pair() as (client1, server1), driver.pair() as (client2, server2):
            await driver.broadcast([client1, server2], message, text=text)
            assert await server1.recv() == received
            assert await client2.recv() == received

    @pytest.mark.parametrize("message", [1, None, ["a"], {"a": 1}])
    async def test_wrong_types(self, driver: Driver, message: Any) -> None:
        async with driver.pair() as (client, _server):
            with pytest.raises(TypeError):
                await driver.broadcast([client], message)

    async def test_order_with_other_messages(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            for i in range(10):
                await server.send(str(3 * i))
                await driver.broadcast([server], str(3 * i + 1))
                await server.send(str(3 * i + 2))
            assert [await client.recv() for _ in range(30)] == [str(i) for i in range(30)]

    async def test_closed_ones_are_skipped(
        self, driver: Driver, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with driver.pair() as (client1, server1), driver.pair() as (client2, server2):
            await client1.close()
            await driver.broadcast({client1, server1, server2}, "x", raise_exceptions=True)
            await driver.broadcast((ws for ws in [client1, server1, server2]), "y")
            assert [await client2.recv(), await client2.recv()] == ["x", "y"]
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    async def test_one_that_is_sending_fragments(
        self, driver: Driver, caplog: pytest.LogCaptureFixture
    ) -> None:
        started, gate = driver.event(), driver.event()

        async def slow() -> AsyncIterator[str]:
            yield "a"
            started.set()
            await gate.wait()
            yield "b"

        async with driver.pair() as (client1, server1), driver.pair() as (client2, server2):
            send = driver.spawn(server1.send(slow()))
            await started.wait()
            await driver.broadcast([server1, server2], "x")
            (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
            assert record.levelno == logging.WARNING
            assert record.getMessage().startswith("skipped broadcast: ")
            with pytest.raises(ExceptionGroup, match="skipped broadcast") as caught:
                await driver.broadcast([server1, server2], "y", raise_exceptions=True)
            (exc,) = caught.value.exceptions
            assert isinstance(exc, ConcurrencyError)
            gate.set()
            await send
            assert await client1.recv() == "ab"
            assert [await client2.recv(), await client2.recv()] == ["x", "y"]

    async def test_write_errors(self, driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
        error = ZeroDivisionError()

        class Broken:
            def encode(self, frame: Frame) -> Frame:
                if frame.opcode in (TEXT, BINARY):
                    raise error
                return frame

            def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
                return frame

        async with driver.pair() as (_client1, server1), driver.pair() as (client2, server2):
            server1.protocol.extensions = [Broken()]
            await driver.broadcast([server1, server2], "x")
            assert "skipped broadcast: failed to write message" in caplog.text
            with pytest.raises(ExceptionGroup) as caught:
                await driver.broadcast([server1, server2], "y", raise_exceptions=True)
            (exc,) = caught.value.exceptions
            assert isinstance(exc, RuntimeError)
            assert exc.__cause__ is error
            assert [await client2.recv(), await client2.recv()] == ["x", "y"]

    async def test_does_not_wait_for_slow_clients(self, driver: Driver) -> None:
        async with driver.pair(client={"max_queue": 1}) as (slow, server1):
            async with driver.pair() as (quick, server2):
                for _ in range(20):
                    await driver.broadcast([server1, server2], bytes(100_000))
                    assert len(await quick.recv()) == 100_000
                for _ in range(20):
                    assert len(await slow.recv()) == 100_000

    async def test_module(self, driver: Driver) -> None:
        assert driver.connection.broadcast is driver.server.broadcast
        assert driver.server.broadcast.__module__ == f"wsapi.{driver.package}.server"


class TestBacklog:
    async def test_peer_that_does_not_read(
        self,
        driver: Driver,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        ended = driver.event()
        failures: list[Exception] = []

        async def receive(ws: Ws) -> None:
            try:
                await ws.recv()
            except ConnectionClosed as exc:
                failures.append(exc)
            ended.set()

        monkeypatch.setattr(limits.given_up, "next_line", 0.0)
        monkeypatch.setattr(limits.given_up, "unlogged", 0)
        before = connections_given_up()
        async with driver.serve(receive) as served:
            async with driver.raw_client(served), driver.raw_client(served):
                await driver.until(lambda: len(served.connections) == 2)
                connections = list(served.connections)
                one, other = connections
                unsent = 0
                # More than any system's buffers take; it ends long before.
                for _ in range(400):
                    await driver.broadcast([one], bytes(2**20))
                    unsent = max(unsent, one.unsent)
                    if one.state is not State.OPEN:
                        break
                else:
                    raise AssertionError("it has no bound")
                assert MAX_BACKLOG - 2**20 < unsent <= MAX_BACKLOG + 2**21
                await ended.wait()
                await one.wait_closed()
                assert one.unsent == 0
                assert one.close_code == 1006
                (failure,) = failures
                assert isinstance(failure, ConnectionClosedError)
                assert isinstance(failure.__cause__, ConnectionAbortedError)
                assert other.state is State.OPEN
                assert connections_given_up() == before + 1
                (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
                assert record.getMessage().startswith("gave up 1 connection: ")

    async def test_limit_of_ones_own(self, driver: Driver) -> None:
        async with driver.serve(until_closed) as served:
            async with driver.raw_client(served):
                ws = await served.connection()
                for _ in range(40):
                    await driver.broadcast([ws], bytes(2**20), max_backlog=None)
                await driver.broadcast([ws], b"x", max_backlog=2**26)
                assert ws.state is State.OPEN
                with pytest.raises(ExceptionGroup) as caught:
                    await driver.broadcast([ws], b"x", max_backlog=2**20, raise_exceptions=True)
                (exc,) = caught.value.exceptions
                assert isinstance(exc.__cause__, ConnectionAbortedError)
                await ws.wait_closed()

    async def test_nothing_waits_for_a_large_message(self, driver: Driver) -> None:
        async with driver.pair(client={"max_size": None}) as (client, server):
            await driver.broadcast([server], bytes(2**20), max_backlog=0)
            assert len(await client.recv()) == 2**20

    @pytest.mark.parametrize(
        "limit, error", [(-1, ValueError), ("1", TypeError), (True, TypeError)]
    )
    async def test_wrong_limits(self, driver: Driver, limit: Any, error: type[Exception]) -> None:
        with pytest.raises(error):
            await driver.broadcast([], "x", max_backlog=limit)


def test_lines_in_the_log_are_few(caplog: pytest.LogCaptureFixture) -> None:
    count, logger = limits._Count("did %d thing%s"), logging.getLogger("backlog")
    for _ in range(100):
        count.add(2, logger)
    assert count.total == 200
    count.next_line = 0.0
    count.add(1, logger)
    count.next_line = 0.0
    count.add(1, logger, logging.ERROR)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "did 2 things"),
        ("WARNING", "did 199 things"),
        ("ERROR", "did 1 thing"),
    ]
