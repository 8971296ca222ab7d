"""One message to many connections."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver
from tests.wsapi.helpers import BINARY, TEXT
from wsapi.exceptions import ConcurrencyError
from wsapi.frames import Frame


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

    @pytest.mark.not_on("trio", reason="broadcast() returns there when all is written")
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
