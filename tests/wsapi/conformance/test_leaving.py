"""Servers that leave: they close one by one what is open, and open nothing more."""

from __future__ import annotations

import inspect
import math
import os
import re
import signal
import ssl
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Served, Ws, until_closed
from tests.wsapi.conformance.raw import parsed
from tests.wsapi.helpers import CLOSE, close_payload, logged_errors, request
from wsapi._shared.leaving import Departure
from wsapi.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus, ProtocolError
from wsapi.health import readiness
from wsapi.http11 import Request, Response

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]

# As good as for ever: what lasts as long fails.
LONG = 1000.0
PLAIN = b"GET %s HTTP/1.1\r\nHost: h.test\r\n\r\n"


async def drain(server: Served, **options: Any) -> None:
    await server.driver.call(server.raw.drain, **options)


async def open_some(driver: Driver, server: Served, number: int) -> list[Ws]:
    clients = [await driver.open(server) for _ in range(number)]
    await driver.until(lambda: len(server.connections) == number)
    return clients


async def wait_for(server: Served, event: Any) -> None:
    await server.driver.call(event.wait)


class TestConnections:
    @pytest.mark.parametrize("spread", [0, 0.05])
    async def test_are_closed(self, driver: Driver, spread: float) -> None:
        ended = []

        async def handler(ws: Ws) -> None:
            with pytest.raises(ConnectionClosed):
                await ws.recv()
            await driver.sleep(0.01)
            ended.append(ws)

        async with driver.serve(handler) as server:
            clients = await open_some(driver, server, 10)
            uri = server.uri()
            await drain(server, timeout=LONG, spread=spread, reason="later")
            assert len(ended) == 10
            for ws in clients:
                await ws.wait_closed()
                assert (ws.close_code, ws.close_reason) == (1012, "later")
            with pytest.raises(OSError):
                await driver.attempt(uri)

    async def test_are_closed_at_times_of_their_own(
        self, driver: Driver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        times = iter([0, 1, 0])
        monkeypatch.setattr(Departure.__init__, "__defaults__", (lambda: next(times),))
        async with driver.serve() as server:
            clients = await open_some(driver, server, 3)
            draining = driver.spawn(drain(server, timeout=LONG, spread=LONG / 2))
            closed = [ws for ws in clients if ws.close_code is not None]
            while len(closed) < 2:
                await driver.sleep(0.001)
                closed = [ws for ws in clients if ws.close_code is not None]
            (other,) = [ws for ws in clients if ws not in closed]
            await other.send("still there")
            assert await other.recv() == "still there"
            assert not draining.done()
            await other.close()
            await draining

    async def test_none(self, driver: Driver) -> None:
        async with driver.serve() as server:
            await drain(server, timeout=LONG, spread=LONG)
            assert server.raw.draining.is_set()

    async def test_that_have_ended_before(self, driver: Driver) -> None:
        async with driver.serve() as server:
            async with driver.connect(server):
                pass
            await drain(server, timeout=LONG, spread=LONG)

    async def test_that_their_handlers_end(self, driver: Driver) -> None:
        async def handler(ws: Ws) -> None:
            await wait_for(server, ws.server.draining)
            await ws.send("bye")

        async with driver.serve(handler) as server:
            clients = await open_some(driver, server, 3)
            assert not server.raw.draining.is_set()
            await drain(server, timeout=LONG, spread=LONG)
            for ws in clients:
                assert await ws.recv() == "bye"
                await ws.wait_closed()
                assert ws.close_code == 1000

    async def test_that_their_clients_end(self, driver: Driver) -> None:
        async with driver.serve() as server:
            clients = await open_some(driver, server, 3)
            draining = driver.spawn(drain(server, timeout=LONG, spread=LONG))
            await driver.until(server.raw.draining.is_set)
            for ws in clients:
                await ws.close()
            await draining

    async def test_whose_handlers_raise(self, driver: Driver) -> None:
        async def handler(ws: Ws) -> None:
            await wait_for(server, ws.server.draining)
            raise ZeroDivisionError

        async with driver.serve(handler) as server:
            (ws,) = await open_some(driver, server, 1)
            await drain(server, timeout=LONG, spread=LONG)
            await ws.wait_closed()
            assert ws.close_code == 1011
        logged_errors("connection handler failed")

    async def test_whose_handlers_have_more_to_do(self, driver: Driver) -> None:
        gate = driver.event()
        ended = []

        async def handler(ws: Ws) -> None:
            await gate.wait()
            ended.append(ws)

        async with driver.serve(handler) as server:
            (ws,) = await open_some(driver, server, 1)
            draining = driver.spawn(drain(server, timeout=LONG, spread=0))
            await ws.wait_closed()
            await driver.settle()
            assert not draining.done()
            gate.set()
            await draining
            assert len(ended) == 1

    async def test_whose_clients_do_not_answer(self, driver: Driver) -> None:
        async with driver.serve(until_closed, close_timeout=LONG) as server:
            async with driver.raw_client(server) as peer:
                await driver.until(lambda: server.connections)
                await drain(server, timeout=0.05, spread=0)
                assert await peer.read_message() == (CLOSE, close_payload(1012))
                assert await peer.read_to_end() == b""

    async def test_whose_clients_do_not_read(self, driver: Driver) -> None:
        failures = []
        sent = []

        async def handler(ws: Ws) -> None:
            try:
                while True:
                    sent.append(await ws.send(bytes(2**14)))
            except ConnectionClosed as exc:
                failures.append(exc)

        async with driver.serve(handler, close_timeout=LONG) as server:
            async with driver.raw_client(server):
                await driver.until(lambda: sent)
                while sent:
                    sent.clear()
                    await driver.sleep(0.01)
                await drain(server, timeout=0.05, spread=0)
                assert len(failures) == 1

    async def test_whose_clients_reset(self, driver: Driver) -> None:
        async with driver.serve(until_closed) as server:
            async with driver.raw_client(server) as peer:
                await driver.until(lambda: server.connections)
                draining = driver.spawn(drain(server, timeout=LONG, spread=LONG))
                await driver.until(server.raw.draining.is_set)
                peer.reset()
                await draining

    async def test_over_tls(self, driver: Driver, tls: Contexts) -> None:
        async with driver.serve(until_closed, ssl=tls[0], close_timeout=LONG) as server:
            uri = server.uri(host="localhost", tls=True)
            async with driver.raw_client(server, b"") as stalled:
                await stalled.send(b"\x16\x03\x01")
                ws = await driver.open(uri, ssl=tls[1])
                async with driver.raw_client(server, tls=tls[1]) as silent:
                    await driver.until(lambda: len(server.connections) == 2)
                    await drain(server, timeout=0.1, spread=0.01)
                    await ws.wait_closed()
                    assert ws.close_code == 1012
                    assert await silent.read_message() == (CLOSE, close_payload(1012))


class TestClients:
    """Those that come while the server leaves."""

    async def test_are_refused(self, driver: Driver) -> None:
        asked = []

        def process_request(_ws: Ws, request: Request) -> None:
            asked.append(request)

        async with driver.serve(until_closed, process_request=process_request) as server:
            (ws,) = await open_some(driver, server, 1)
            options = {"timeout": LONG, "spread": LONG, "retry_after": 7}
            draining = driver.spawn(drain(server, **options))
            await driver.until(server.raw.draining.is_set)
            for _ in range(3):
                response = await driver.rejection(server)
                assert response.status_code == 503
                assert response.headers["Retry-After"] == "7"
                assert response.body == b"Server is shutting down.\n"
            assert len(asked) == 1
            assert not draining.done()
            await ws.close()
            await draining
            assert server.raw.stats().refused == {"draining": 3}

    @pytest.mark.parametrize("name", ["process_request", "process_response"])
    async def test_in_their_opening_handshake(self, driver: Driver, name: str) -> None:
        gate = driver.event()
        waiting = []

        async def process(ws: Ws, *_args: Any) -> None:
            waiting.append(ws)
            await gate.wait()

        async with driver.serve(until_closed, **{name: process}) as server:
            client = driver.spawn(driver.rejection(server))
            await driver.until(lambda: waiting)
            draining = driver.spawn(drain(server, timeout=LONG, spread=LONG))
            await driver.until(server.raw.draining.is_set)
            await driver.settle()
            assert not draining.done()
            gate.set()
            response = await client
            await draining
            assert (response.status_code, response.headers["Retry-After"]) == (503, "1")

    async def test_that_do_not_ask(self, driver: Driver) -> None:
        async with driver.serve(open_timeout=None) as server:
            async with (
                driver.raw_client(server, b"") as silent,
                driver.raw_client(server, b"") as partial,
            ):
                await partial.send(request()[:20])
                await driver.until(lambda: server.accepted == 2)
                await driver.settle()
                draining = driver.spawn(drain(server, timeout=LONG, spread=LONG))
                for peer in (silent, partial):
                    answer = parsed(await peer.read_to_end())
                    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
            await draining

    async def test_that_do_not_leave(self, driver: Driver) -> None:
        options: dict[str, Any] = {"open_timeout": None, "close_timeout": LONG}
        async with driver.serve(**options) as server:
            async with driver.raw_client(server, b"") as silent:
                await driver.until(lambda: server.accepted)
                await drain(server, timeout=0.05, spread=0)
                answer = await silent.read_to_end()
                assert not answer or parsed(answer).status_code == 503

    @pytest.mark.parametrize("late", [False, True])
    async def test_that_stay_after_their_answer(
        self, driver: Driver, monkeypatch: pytest.MonkeyPatch, late: bool
    ) -> None:
        """They have what they asked for; the server would else be as slow as ``close_timeout``."""
        monkeypatch.setattr(Departure, "lingering", 0.02)
        options: dict[str, Any] = {"process_request": readiness("/ready"), "close_timeout": LONG}
        async with driver.serve(until_closed, **options) as server:
            async with driver.raw_client(server, b"") as peer:
                if not late:
                    await peer.send(PLAIN % b"/ready")
                    assert (await peer.read_head()).startswith("HTTP/1.1 200 ")
                ws = await driver.open(server)
                draining = driver.spawn(drain(server, timeout=LONG, spread=0.1))
                await driver.until(server.raw.draining.is_set)
                if late:
                    await peer.send(PLAIN % b"/ready")
                    assert (await peer.read_head()).startswith("HTTP/1.1 503 ")
                await draining
                await ws.wait_closed()
                assert ws.close_code == 1012

    async def test_many(self, driver: Driver) -> None:
        async def attempt() -> Any:
            outcomes = set()
            while "gone" not in outcomes:
                try:
                    async with driver.connect(uri) as ws:
                        await ws.wait_closed()
                        outcomes.add(ws.close_code)
                except InvalidStatus as exc:
                    outcomes.add(exc.response.status_code)
                except (OSError, InvalidMessage):
                    outcomes.add("gone")
            return outcomes

        async with driver.serve(until_closed) as server:
            uri = server.uri()
            await open_some(driver, server, 5)
            clients = [driver.spawn(attempt()) for _ in range(5)]
            await drain(server, timeout=LONG, spread=0.1)
            for client in clients:
                assert await client <= {1012, 503, "gone"}


class TestTimeout:
    @pytest.fixture(autouse=True)
    def _short_grace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Departure, "grace", 0.01)

    @pytest.mark.parametrize("spread", [0, LONG])
    async def test_none(
        self, driver: Driver, spread: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Departure, "grace", LONG)  # handlers end, however slow the machine
        async with driver.serve(until_closed) as server:
            clients = await open_some(driver, server, 3)
            await drain(server, timeout=0, spread=spread)
            for ws in clients:
                await ws.wait_closed()
                assert ws.close_code in (1006, 1012)

    @pytest.mark.not_on("sync", reason="threads can't be cancelled")
    async def test_handlers_that_do_not_end_are_cancelled(self, driver: Driver) -> None:
        ended = []

        async def handler(_ws: Ws) -> None:
            try:
                await driver.sleep(LONG)
            finally:
                ended.append("cancelled")

        async with driver.serve(handler) as server:
            await open_some(driver, server, 2)
            await drain(server, timeout=0.02, spread=0)
            assert len(ended) == 2

    @pytest.mark.not_on("asyncio", "trio", reason="they can be cancelled there")
    async def test_handlers_that_do_not_end_are_left(
        self, driver: Driver, caplog: pytest.LogCaptureFixture
    ) -> None:
        gate = driver.event()

        async def handler(_ws: Ws) -> None:
            await gate.wait()

        async with driver.serve(handler) as server:
            await open_some(driver, server, 2)
            await drain(server, timeout=0.02, spread=0)
            logged_errors("handlers of a server that has drained are still running")
            assert re.search(r"2 handlers left: \S+ in wsapi-handler-.+, wsapi-han", caplog.text)
            gate.set()

    @pytest.mark.not_on("sync", reason="an error is logged there, too: see the test before")
    async def test_handlers_that_do_not_end_are_named(
        self, driver: Driver, caplog: pytest.LogCaptureFixture
    ) -> None:
        gate = driver.event()

        async def handler(ws: Ws) -> None:
            await ws.close()
            await gate.wait()

        async with driver.serve(handler) as server:
            for _ in range(2):
                ws = await driver.open(server)
                await ws.wait_closed()
            await driver.until(lambda: server.raw.stats().open == 0)
            await drain(server, timeout=0.02, spread=0)
            gate.set()
        assert re.search(r": 0 connections, 2 handlers left: \S*handle in .+, .+", caplog.text)

    async def test_longer_than_the_grace(self, driver: Driver) -> None:
        """A handler that learns of the end of its connection has time to end by itself."""
        ended = []

        async def handler(ws: Ws) -> None:
            with pytest.raises(ConnectionClosed):
                await ws.recv()
            ended.append(ws)

        async with driver.serve(handler, close_timeout=LONG) as server:
            async with driver.raw_client(server):
                await driver.until(lambda: server.connections)
                await drain(server, timeout=0.02, spread=0)
                assert len(ended) == 1


class TestCalls:
    async def test_twice(self, driver: Driver) -> None:
        async with driver.serve() as server:
            (ws,) = await open_some(driver, server, 1)
            first = driver.spawn(drain(server, timeout=LONG, spread=LONG))
            await driver.until(server.raw.draining.is_set)
            second = driver.spawn(drain(server, timeout=0, spread=0))
            await driver.settle()
            assert not first.done()
            assert not second.done()
            await ws.send("x")
            assert await ws.recv() == "x"
            await ws.close()
            await first
            await second
            await drain(server)

    async def test_then_close(self, driver: Driver) -> None:
        async with driver.serve() as server:
            (ws,) = await open_some(driver, server, 1)
            draining = driver.spawn(drain(server, timeout=LONG, spread=LONG))
            await driver.until(server.raw.draining.is_set)
            await server.close()
            await draining
            await ws.wait_closed()
            assert ws.close_code == 1001

    async def test_after_close(self, driver: Driver) -> None:
        async with driver.serve() as server:
            await server.close()
            await drain(server, timeout=LONG, spread=LONG)

    async def test_while_it_closes(self, driver: Driver) -> None:
        async with driver.serve(until_closed, close_timeout=LONG) as server:
            async with driver.raw_client(server):
                await driver.until(lambda: server.connections)
                closing = driver.spawn(server.close())
                await driver.until(server.raw.draining.is_set)
                await drain(server, timeout=0.02)
                await closing

    @pytest.mark.parametrize("number", [1, 2])
    async def test_in_handlers(self, driver: Driver, number: int) -> None:
        gate = driver.event()
        ended = []

        async def handler(ws: Ws) -> None:
            await gate.wait()
            await drain(server, timeout=LONG, spread=0)
            ended.append(ws)

        async with driver.serve(handler) as server:
            clients = await open_some(driver, server, number)
            gate.set()
            await driver.until(lambda: len(ended) == number)
            for ws in clients:
                await ws.wait_closed()
                assert ws.close_code == 1012

    async def test_in_a_handler_beside_others(self, driver: Driver) -> None:
        gate = driver.event()
        ended = []

        async def handler(ws: Ws) -> None:
            if await ws.recv() == "wait":
                await gate.wait()
                ended.append("other")
            else:
                await drain(server, timeout=LONG, spread=0)
                ended.append("caller")

        async with driver.serve(handler) as server:
            caller, other = await open_some(driver, server, 2)
            await other.send("wait")
            await caller.send("go")
            await other.wait_closed()
            await driver.settle()
            assert not ended
            gate.set()
            await driver.until(lambda: ended == ["other", "caller"])

    @pytest.mark.not_on("sync", reason="threads can't be cancelled")
    async def test_cancelled(self, driver: Driver) -> None:
        async with driver.serve() as server:
            (ws,) = await open_some(driver, server, 1)
            draining = driver.spawn(drain(server, timeout=LONG, spread=LONG))
            await driver.until(server.raw.draining.is_set)
            await driver.settle()
            assert await draining.cancelled()
            await ws.wait_closed()
            assert ws.close_code in (1001, 1006, 1012)
            await server.close()

    @pytest.mark.parametrize(
        "options, error",
        [
            ({"code": 999}, ProtocolError),
            ({"reason": "x" * 124}, ProtocolError),
            ({"timeout": -1}, ValueError),
            ({"spread": math.inf}, ValueError),
            ({"spread": None}, TypeError),
        ],
    )
    async def test_wrong(
        self, driver: Driver, options: dict[str, Any], error: type[Exception]
    ) -> None:
        async with driver.serve() as server, driver.connect(server) as ws:
            with pytest.raises(error):
                await drain(server, **options)
            with pytest.raises(error):
                await on_signal(server, **options)
            assert not server.raw.draining.is_set()
            await ws.send("x")
            assert await ws.recv() == "x"
            await driver.attempt(server)

    async def test_draining_is_set_by_close(self, driver: Driver) -> None:
        async with driver.serve() as server:
            waiting = driver.spawn(wait_for(server, server.raw.draining))
            await server.close()
            await waiting


async def on_signal(server: Served, *args: Any, **options: Any) -> None:
    done = server.raw.drain_on_signal(*args, **options)
    if inspect.isawaitable(done):
        await done


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
class TestSignals:
    @pytest.fixture(autouse=True)
    def _handlers(self, driver: Driver) -> Iterator[None]:
        numbers = (signal.SIGUSR1, signal.SIGTERM)
        # Whoever measures coverage has a handler; event loops put back the default.
        before = [signal.signal(number, signal.SIG_DFL) for number in numbers]
        yield
        after = [
            signal.signal(number, handler) for number, handler in zip(numbers, before, strict=True)
        ]
        # On threads, serve_forever() isn't in the main thread here.
        assert driver.name == "sync" or after == [signal.SIG_DFL] * 2

    async def test_once(self, driver: Driver) -> None:
        async with driver.serve() as server:
            await on_signal(server, signal.SIGUSR1, timeout=LONG, spread=0)
            (ws,) = await open_some(driver, server, 1)
            os.kill(os.getpid(), signal.SIGUSR1)
            await ws.wait_closed()
            assert ws.close_code == 1012
            await drain(server)

    async def test_sigterm_by_default(self, driver: Driver) -> None:
        async with driver.serve() as server:
            await on_signal(server, timeout=LONG, spread=0)
            os.kill(os.getpid(), signal.SIGTERM)
            await driver.until(server.raw.draining.is_set)
            await drain(server)

    async def test_twice(self, driver: Driver) -> None:
        async with driver.serve() as server:
            await on_signal(
                server, signal.SIGUSR1, signal.SIGTERM, timeout=LONG, spread=LONG, reason="twice"
            )
            (ws,) = await open_some(driver, server, 1)
            os.kill(os.getpid(), signal.SIGUSR1)
            await driver.until(server.raw.draining.is_set)
            await ws.send("x")
            assert await ws.recv() == "x"
            os.kill(os.getpid(), signal.SIGTERM)
            await ws.wait_closed()
            assert (ws.close_code, ws.close_reason) == (1012, "twice")
            await drain(server)

    async def test_of_a_server_that_is_closed(self, driver: Driver) -> None:
        async with driver.serve() as server:
            await on_signal(server, signal.SIGUSR1)
            await server.close()


class TestReadiness:
    async def test_alone(self, driver: Driver) -> None:
        async with driver.serve(process_request=readiness()) as server:
            response = parsed(await server.ask_bytes(PLAIN % b"/healthz"))
            assert (response.status_code, response.body) == (200, b"ready\n")
            assert response.headers["Cache-Control"] == "no-store"
            assert parsed(await server.ask_bytes(PLAIN % b"/healthz?x=1")).status_code == 200
            assert parsed(await server.ask_bytes(PLAIN % b"/healthz/")).status_code == 426
            (ws,) = await open_some(driver, server, 1)
            draining = driver.spawn(drain(server, timeout=LONG, spread=LONG))
            await driver.until(server.raw.draining.is_set)
            response = parsed(await server.ask_bytes(PLAIN % b"/healthz"))
            assert (response.status_code, response.body) == (503, b"draining\n")
            # There is nothing else to be had.
            assert parsed(await server.ask_bytes(PLAIN % b"/")).status_code == 503
            await ws.close()
            await draining

    @pytest.mark.parametrize("waits", [False, True])
    async def test_before_another_callback(self, driver: Driver, waits: bool) -> None:
        def plain(ws: Ws, request: Request) -> Response | None:
            return ws.respond(418, "tea\n") if request.path == "/tea" else None

        async def waiting(ws: Ws, request: Request) -> Response | None:
            await driver.sleep(0)
            return plain(ws, request)

        callback = readiness("/ready", driver.callback(waiting if waits else plain))
        async with driver.serve(process_request=readiness("/", callback)) as server:
            for path, status in [(b"/", 200), (b"/ready", 200), (b"/tea", 418), (b"/x", 426)]:
                assert parsed(await server.ask_bytes(PLAIN % path)).status_code == status
            await driver.attempt(server.uri("/chat"))
            # As much while it drains: metrics, for one thing.
            (ws,) = [await driver.open(server.uri("/chat"))]
            await driver.until(lambda: server.connections)
            draining = driver.spawn(drain(server, timeout=LONG, spread=LONG))
            await driver.until(server.raw.draining.is_set)
            for path, status in [(b"/", 503), (b"/ready", 503), (b"/tea", 418), (b"/x", 503)]:
                assert parsed(await server.ask_bytes(PLAIN % path)).status_code == status
            await ws.close()
            await draining
