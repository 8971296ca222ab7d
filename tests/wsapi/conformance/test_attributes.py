"""What connections tell about themselves, and to the log."""

from __future__ import annotations

import logging
import uuid
import weakref
from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Ws, echo
from tests.wsapi.helpers import garbage_collection_off, logged_errors
from wsapi.exceptions import ConnectionClosedOK
from wsapi.protocol import State


class TestAttributes:
    async def test_open_and_closed(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            for ws in (client, server):
                assert isinstance(ws.id, uuid.UUID)
                assert ws.id == ws.id
                assert ws.state is State.OPEN
                assert ws.subprotocol is None
                assert ws.request is not None
                assert ws.request.path == "/"
                assert ws.response is not None
                assert ws.response.status_code == 101
                assert ws.protocol.state.name == "OPEN"
                assert "OPEN" in repr(ws.raw)
                assert hash(ws) == hash(ws)
                assert len({ws, ws}) == 1
            assert client.id != server.id
            assert client.local_address == server.remote_address
            assert client.remote_address == server.local_address
            address = client.remote_address
            await client.close()
            assert "CLOSED" in repr(client.raw)
            assert isinstance(client.raw, driver.client.ClientConnection)
            assert isinstance(server.raw, driver.server.ServerConnection)
            if driver.package == "asyncio":
                assert client.remote_address == address
            else:
                for name in ("local_address", "remote_address"):
                    with pytest.raises(OSError):
                        getattr(client, name)

    async def test_what_may_be_set(self, driver: Driver) -> None:
        async with driver.pair() as (client, _):
            raw = client.raw
            raw.id = chosen = uuid.uuid4()
            raw.latency = 1.5
            assert (raw.id, raw.protocol.id, raw.latency) == (chosen, chosen, 1.5)
            await (await client.ping()).wait()
            assert raw.latency != 1.5

    async def test_what_waits_to_be_received(self, driver: Driver) -> None:
        async with driver.pair(client={"max_queue": (2, 1)}) as (client, server):
            waiting = client.raw.recv_messages
            assert (waiting.high, waiting.low) == (2, 1)
            assert (len(waiting), waiting.paused) == (0, False)
            for _ in range(3):
                await server.send("x")
            if driver.package != "sync":  # where nobody reads until somebody receives
                await driver.until(lambda: len(waiting.frames) == 3)
                assert waiting.paused
            for _ in range(3):
                await client.recv()
            assert (len(waiting.frames), waiting.paused) == (0, False)
        async with driver.pair(max_queue=None) as (client, _):
            assert (client.raw.recv_messages.high, client.raw.recv_messages.low) == (None, None)

    async def test_how_it_was_closed(self, driver: Driver) -> None:
        async with driver.pair() as (client, _):
            with pytest.raises(AssertionError, match="connection isn't closed yet"):
                client.raw.close_exc  # noqa: B018 # it raises
            await client.close(1001)
            assert isinstance(client.raw.close_exc, ConnectionClosedOK)
            assert client.raw.close_exc.sent.code == 1001

    async def test_log_records_name_the_connection(
        self, driver: Driver, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        async with driver.pair() as (client, server):
            client.logger.warning("from the test")
            caplog.clear()
            server.logger.warning("from the server")
            (record,) = caplog.records
            assert record.websocket.id == server.id  # type: ignore[attr-defined] # an adapter sets it
            assert record.name == "wsapi.server"

    async def test_debug_log(self, driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        async with driver.pair() as (client, server):
            await client.send("hello")
            assert await server.recv() == "hello"
            await client.send(["frag", "ments"])
            assert await server.recv() == "fragments"
            await (await client.ping("p")).wait()
        lines = [record.getMessage() for record in caplog.records]
        for line in ("> TEXT 'hello' [5 bytes]", "< TEXT 'hello' [5 bytes]", "> EOF", "< EOF"):
            assert line in lines
        assert lines.count("= connection is OPEN") == 2

    async def test_level_of_the_log_may_change(
        self, driver: Driver, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        async with driver.pair() as (client, server):
            await client.send("before")
            assert await server.recv() == "before"
            caplog.set_level(logging.DEBUG)
            await client.send("between")
            assert await server.recv() == "between"
            caplog.set_level(logging.INFO)
            await client.send("after")
            assert await server.recv() == "after"
        assert "between" in caplog.text
        assert "before" not in caplog.text
        assert "after" not in caplog.text

    async def test_own_loggers(self, driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        mine = {"logger": logging.getLogger("mine")}
        adapter = logging.LoggerAdapter(logging.getLogger("adapted"), {"extra": 1})
        async with driver.pair(client=mine, server={"logger": adapter}) as (client, server):
            caplog.clear()
            client.logger.warning("client")
            server.logger.warning("server")
            assert [record.name for record in caplog.records] == ["mine", "adapted"]
            caplog.clear()
            await client.send("x")
            assert await server.recv() == "x"
            await client.close()
            await server.wait_closed()
            assert {record.name for record in caplog.records} - {"asyncio"} == {"mine", "adapted"}

    async def test_nothing_waits_for_the_garbage_collector(self, driver: Driver) -> None:
        references: list[weakref.ref[Any]] = []

        async def handler(ws: Ws) -> None:
            references.append(weakref.ref(ws.raw))
            async for message in ws:
                await ws.send(message)

        with garbage_collection_off():
            async with driver.serve(handler) as server:
                ws = await driver.open(server)
                references.append(weakref.ref(ws.raw))
                await ws.send("x")
                await ws.recv()
                await ws.close()
                del ws
                await driver.until(lambda: not any(reference() for reference in references))


async def test_errors_of_handlers_are_seen_by_these_tests(driver: Driver) -> None:
    async def handler(_ws: Ws) -> None:
        raise ZeroDivisionError

    async with driver.serve(handler) as server, driver.connect(server) as ws:
        await ws.wait_closed()
        assert ws.close_code == 1011
    (record,) = logged_errors("connection handler failed")
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_echo_helper(driver: Driver) -> None:
    async with driver.serve(echo) as server, driver.connect(server) as ws:
        await ws.send("x")
        assert await ws.recv() == "x"
