"""Servers: what handlers do, where they listen, how they close."""

from __future__ import annotations

import contextvars
import logging
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Ws, until_closed
from tests.wsapi.conformance.raw import RawPeer, parsed
from tests.wsapi.helpers import CLOSE, close_payload, logged_errors, request
from wsapi.exceptions import (
    ConnectionClosed,
    InvalidMessage,
    InvalidStatus,
    ProtocolError,
)
from wsapi.protocol import State


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


IPV6 = has_ipv6()


class TestHandler:
    @pytest.mark.parametrize("closes", [True, False])
    async def test_returns(self, driver: Driver, closes: bool) -> None:
        async def handler(ws: Ws) -> None:
            if closes:
                await ws.close(4000, "mine")

        async with driver.serve(handler) as server, driver.connect(server) as ws:
            await ws.wait_closed()
            expected = (4000, "mine") if closes else (1000, "")
            assert (ws.close_code, ws.close_reason) == expected

    async def test_raises(self, driver: Driver) -> None:
        async def handler(_ws: Ws) -> None:
            raise ZeroDivisionError

        async with driver.serve(handler) as server, driver.connect(server) as ws:
            await ws.wait_closed()
            assert (ws.close_code, ws.close_reason) == (1011, "")
        (record,) = logged_errors("connection handler failed")
        assert record.name == "wsapi.server"
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], ZeroDivisionError)

    @pytest.mark.parametrize("code", [1000, 1011])
    @pytest.mark.parametrize("grouped", [False, True])
    async def test_raises_its_own_connection_closed(
        self, driver: Driver, code: int, grouped: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def handler(ws: Ws) -> None:
            try:
                await ws.recv()
            except ConnectionClosed as exc:
                if grouped:
                    raise ExceptionGroup("tasks", [exc, ExceptionGroup("more", [exc])]) from None
                raise

        caplog.set_level("INFO")
        async with driver.serve(handler) as server, driver.connect(server) as ws:
            await ws.close(code)
        (record,) = [r for r in caplog.records if "handler" in r.getMessage()]
        assert (record.levelname, record.exc_info) == ("INFO", None)
        assert record.getMessage().startswith(f"connection ended its handler: received {code} ")

    async def test_raises_its_own_loss(
        self, driver: Driver, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def handler(ws: Ws) -> None:
            await ws.recv()

        def ended() -> list[logging.LogRecord]:
            return [r for r in caplog.records if "handler" in r.getMessage()]

        caplog.set_level("INFO")
        async with driver.serve(handler) as server, driver.connect(server) as ws:
            ws.lose()
            # A server that closes before it has noticed the loss sends a Close frame.
            await driver.until(ended)
        (record,) = ended()
        assert record.getMessage() == (
            "connection ended its handler: no close frame received or sent"
        )

    async def test_raises_connection_closed_of_another(self, driver: Driver) -> None:
        async with driver.pair() as (lost, _server):
            lost.lose()
            await lost.wait_closed()

            async def handler(_ws: Ws) -> None:
                await lost.recv()

            async with driver.serve(handler) as server, driver.connect(server) as ws:
                await ws.wait_closed()
                assert ws.close_code == 1011
        (record,) = logged_errors("connection handler failed")
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], ConnectionClosed)

    async def test_outlives_the_connection(self, driver: Driver) -> None:
        left = []

        async def handler(ws: Ws) -> None:
            await ws.wait_closed()
            await driver.sleep(0.02)
            left.append(ws.close_code)

        async with driver.serve(handler) as server:
            async with driver.connect(server):
                pass
        assert left == [1000]

    @pytest.mark.not_on("sync", reason="threads start with an empty context")
    async def test_context_variables(self, driver: Driver) -> None:
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
        seen = []

        async def handler(ws: Ws) -> None:
            seen.append(variable.get())
            variable.set(f"handler {ws.request.path if ws.request else ''}")
            async for message in ws:
                await ws.send(message)
                seen.append(variable.get())
            seen.append(variable.get())

        variable.set("outside")
        async with driver.serve(handler) as server:
            async with (
                driver.connect(server.uri("/1")) as ws1,
                driver.connect(server.uri("/2")) as ws2,
            ):
                for ws in (ws1, ws2, ws1, ws2):
                    await ws.send("x")
                    await ws.recv()
                    assert variable.get() == "outside"
                await ws1.close()
        assert sorted(seen) == sorted(["outside"] * 2 + ["handler /1", "handler /2"] * 3)

    async def test_several_tasks_per_connection(self, driver: Driver) -> None:
        async def handler(ws: Ws) -> None:
            async def relay() -> None:
                async for message in ws:
                    messages.append(message)

            messages: list[Any] = []
            task = driver.spawn(relay())
            while not task.done():
                while messages:
                    await ws.send(messages.pop(0))
                await driver.sleep(0.001)
            await task

        async with driver.serve(handler) as server, driver.connect(server) as ws:
            for i in range(100):
                await ws.send(str(i))
            assert [await ws.recv() for _ in range(100)] == [str(i) for i in range(100)]

    async def test_waits_for_other_things_between_messages(self, driver: Driver) -> None:
        async def handler(ws: Ws) -> None:
            async for message in ws:
                await driver.sleep(0)
                await ws.send(message)
                await driver.sleep(0.001)
                await ws.send(message)

        async with driver.serve(handler) as server, driver.connect(server) as ws:
            for i in range(20):
                await ws.send(str(i))
            expected = [str(i) for i in range(20) for _ in range(2)]
            assert [await ws.recv() for _ in range(40)] == expected


class TestLifeOfAServer:
    async def test_connections(self, driver: Driver) -> None:
        async with driver.serve(until_closed) as server:
            async with driver.raw_client(server, b""), driver.connect(server):
                await driver.until(lambda: server.connections)
                (ws,) = server.connections
                assert ws.state is State.OPEN
                assert ws.server is server.raw
            await driver.until(lambda: not server.connections)

    @pytest.mark.parametrize(
        "arguments, code, reason",
        [({}, 1001, ""), ({"code": 1012}, 1012, ""), ({"code": 4000, "reason": "é"}, 4000, "é")],
    )
    async def test_close_closes_connections(
        self, driver: Driver, arguments: Any, code: int, reason: str
    ) -> None:
        ended = []

        async def handler(ws: Ws) -> None:
            with pytest.raises(ConnectionClosed):
                await ws.recv()
            await driver.sleep(0.01)
            ended.append(ws)

        async with driver.serve(handler) as server:
            clients = [await driver.open(server) for _ in range(5)]
            await driver.until(lambda: len(server.connections) == 5)
            await server.close(**arguments)
            assert len(ended) == 5
            await server.close(code=1000)
            for ws in clients:
                await ws.wait_closed()
                assert (ws.close_code, ws.close_reason) == (code, reason)

    async def test_close_leaves_connections(self, driver: Driver) -> None:
        async with driver.serve() as server:
            async with driver.connect(server) as ws:
                await driver.until(lambda: server.connections)
                waiting = driver.spawn(server.close(close_connections=False))
                await driver.settle()
                await ws.send("still there")
                assert await ws.recv() == "still there"
                assert not waiting.done()
            await waiting

    @pytest.mark.parametrize("arguments", [{"code": 999}, {"code": 1000, "reason": "x" * 124}])
    async def test_close_with_wrong_arguments(self, driver: Driver, arguments: Any) -> None:
        async with driver.serve() as server, driver.connect(server) as ws:
            with pytest.raises(ProtocolError):
                await server.close(**arguments)
            await ws.send("x")
            assert await ws.recv() == "x"
            await driver.attempt(server)

    async def test_close_answers_connecting_clients(self, driver: Driver) -> None:
        async with driver.serve(until_closed, open_timeout=None) as server:
            async with (
                driver.raw_client(server, b"") as silent,
                driver.raw_client(server, b"") as partial,
            ):
                await partial.send(request()[:20])
                await driver.until(lambda: server.accepted == 2)
                await driver.settle()
                closing = driver.spawn(server.close())
                for peer in (silent, partial):
                    answer = parsed(await peer.read_to_end())
                    assert answer.status_code == 503
                    assert answer.body == b"Server is shutting down.\n"
                    assert len(answer.headers.get_all("Server")) == 1
            await closing

    @pytest.mark.parametrize("name", ["process_request", "process_response"])
    async def test_close_during_a_handshake(self, driver: Driver, name: str) -> None:
        gate = driver.event()
        waiting = []

        async def process(ws: Ws, *_args: Any) -> None:
            waiting.append(ws)
            await gate.wait()

        async with driver.serve(until_closed, **{name: process}) as server:
            client = driver.spawn(driver.rejection(server))
            await driver.until(lambda: waiting)
            closing = driver.spawn(server.close())
            await driver.settle()
            gate.set()
            response = await client
            await closing
            assert response.status_code == 503
            assert response.body == b"Server is shutting down.\n"
            assert len(response.headers.get_all("Server")) == 1

    async def test_close_after_the_client_left(self, driver: Driver) -> None:
        async with driver.serve(until_closed, open_timeout=None) as server:
            async with driver.raw_client(server, b""):
                await driver.until(lambda: server.accepted)
            await server.close()

    async def test_close_when_clients_reset(self, driver: Driver) -> None:
        async with driver.serve(until_closed, open_timeout=None) as server:
            peers = [
                RawPeer(driver, await driver.sock_connect(("127.0.0.1", server.port)), masked=True)
                for _ in range(5)
            ]
            await driver.until(lambda: server.accepted == 5)
            closing = driver.spawn(server.close())
            for peer in peers:
                peer.reset()
            await closing

    async def test_close_does_not_wait_for_silent_clients(self, driver: Driver) -> None:
        async with driver.serve(until_closed, close_timeout=0.03) as server:
            async with driver.raw_client(server) as peer:
                await driver.until(lambda: server.connections)
                await server.close()
                assert await peer.read_message() == (CLOSE, close_payload(1001))

    async def test_close_waits_for_handlers(self, driver: Driver) -> None:
        gate = driver.event()

        async def handler(_ws: Ws) -> None:
            await gate.wait()

        async with driver.serve(handler) as server, driver.connect(server) as ws:
            await driver.until(lambda: server.connections)
            closing = driver.spawn(server.close())
            await ws.wait_closed()
            await driver.settle()
            assert not closing.done()
            gate.set()
            await closing

    async def test_clients_that_connect_while_it_closes(self, driver: Driver) -> None:
        async def attempt() -> Any:
            try:
                async with driver.connect(uri) as ws:
                    await ws.wait_closed()
                    return ws.close_code
            except InvalidStatus as exc:
                return exc.response.status_code
            except (OSError, InvalidMessage):
                return "refused"

        async with driver.serve(until_closed) as server:
            uri = server.uri()
            tasks = [driver.spawn(attempt()) for _ in range(20)]
            await driver.sleep(0.002)
            await server.close()
            assert {await task for task in tasks} <= {"refused", 503, 1001}

    async def test_log(self, driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "wsapi")
        async with driver.serve(until_closed) as server:
            port = server.port
            async with driver.connect(server):
                pass
            await driver.until(lambda: not server.accepted)
            await server.ask(request("GET / HTTP/1.0"))
        assert [record.getMessage() for record in caplog.records] == [
            f"server listening on 127.0.0.1:{port}",
            "connection open",
            "connection closed",
            "connection rejected (505 HTTP Version Not Supported)",
            "server closing",
            "server closed",
        ]
        assert {record.name for record in caplog.records} == {"wsapi.server"}

    async def test_own_logger(self, driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        async with driver.serve(until_closed, logger=logging.getLogger("mine")) as server:
            async with driver.connect(server):
                pass
        names = {r.name for r in caplog.records if r.name != "asyncio"}
        assert names == {"mine"}

    @pytest.mark.parametrize("max_queue", [(1, 2), (4, -1), -1])
    async def test_wrong_max_queue(self, driver: Driver, max_queue: Any) -> None:
        with pytest.raises(ValueError, match="max_queue"):
            async with driver.serve(max_queue=max_queue):
                pass

    async def test_ready_made_socket(self, driver: Driver) -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        async with driver.serve(until_closed, ready_made=sock) as server:
            assert server.port == port
            await driver.attempt(server)

    async def test_ipv6(self, driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "wsapi")
        if not IPV6:
            pytest.skip("no IPv6 here")
        async with driver.serve(until_closed, host="::1") as server:
            port = server.port
            assert f"server listening on [::1]:{port}" in caplog.text
            async with driver.connect(f"ws://[::1]:{port}/") as ws:
                assert ws.request is not None
                assert ws.request.headers["Host"] == f"[::1]:{port}"
                assert ws.remote_address[:2] == ("::1", port)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")
class TestUnixSockets:
    @pytest.mark.parametrize("kind", [str, Path])
    async def test_path(
        self, driver: Driver, tmp_path: Path, kind: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "wsapi")
        path = tmp_path / "socket"
        async with driver.unix_serve(until_closed, kind(path)) as server:
            assert f"server listening on {path}" in caplog.text
            async with driver.unix_connect(kind(path)) as ws:
                await driver.until(lambda: server.connections)
                assert ws.request is not None
                assert ws.request.headers["Host"] == "localhost"
                assert ws.request.path == "/"
            async with driver.unix_connect(path, "ws://example.com/chat") as ws:
                assert ws.request is not None
                assert ws.request.headers["Host"] == "example.com"
                assert ws.request.path == "/chat"

    async def test_socket(self, driver: Driver, tmp_path: Path) -> None:
        path = os.fspath(tmp_path / "socket")
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        sock.listen()
        async with driver.unix_serve(until_closed, None, ready_made=sock):
            client = socket.socket(socket.AF_UNIX)
            client.connect(path)
            async with driver.unix_connect(ready_made=client) as ws:
                await (await ws.ping()).wait()

    async def test_nobody_listens(self, driver: Driver, tmp_path: Path) -> None:
        with pytest.raises(OSError):
            async with driver.unix_connect(tmp_path / "nothing"):
                pass
