"""Reconnecting iterators: when they try again, how long they wait, how they close."""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Served, Ws
from wsapi._shared import reconnection
from wsapi.client import process_exception
from wsapi.exceptions import InvalidStatus
from wsapi.http11 import Request, Response


def at_once() -> Iterator[float]:
    return itertools.repeat(0)


@contextlib.asynccontextmanager
async def recording(
    driver: Driver, **options: Any
) -> AsyncIterator[tuple[Served, list[int | None]]]:
    """Serve; yield the server and the codes with which clients closed."""
    codes: list[int | None] = []

    async def handler(ws: Ws) -> None:
        await ws.wait_closed()
        codes.append(ws.close_code)

    async with driver.serve(handler, **options) as server:
        yield server, codes


async def nothing(driver: Driver, target: Any, **options: Any) -> None:
    """Iterate, where no connection is expected."""
    async with driver.reconnecting(target, **options) as connections:
        async for _ in connections:
            raise AssertionError


async def test_each_turn_is_a_connection(driver: Driver) -> None:
    async with recording(driver) as (server, codes):
        seen = []
        async with driver.reconnecting(server) as connections:
            async for ws in connections:
                assert all(earlier.close_code == 1000 for earlier in seen)
                seen.append(ws)
                if len(seen) == 3:
                    break
        assert len({ws.id for ws in seen}) == 3
        assert seen[-1].close_code == 1000
        await driver.until(lambda: codes == [1000] * 3)


async def test_exceptions_of_the_body(driver: Driver) -> None:
    """They aren't failures to connect."""
    async with recording(driver) as (server, codes):
        seen = []
        with pytest.raises(OSError, match="body"):
            async with driver.reconnecting(server) as connections:
                async for ws in connections:
                    seen.append(ws)
                    raise OSError("body")
        assert len(seen) == 1
        await driver.until(lambda: len(codes) == 1)


async def test_tries_again(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    answers = [500, 502, 503, 504]

    def process_request(connection: Ws, request: Request) -> Response | None:
        return connection.respond(answers.pop(), "later\n") if answers else None

    with caplog.at_level(logging.INFO, "wsapi.client"):
        async with recording(driver, process_request=process_request) as (server, _):
            async with driver.reconnecting(server, reconnect_delays=at_once) as connections:
                async for ws in connections:
                    await ws.close()
                    break
    assert [record.getMessage() for record in caplog.records if record.name == "wsapi.client"] == [
        "connect failed; reconnecting in 0.0 seconds: wsproto_fast.exceptions.InvalidStatus: "
        f"server rejected WebSocket connection: HTTP {code}"
        for code in (504, 503, 502, 500)
    ]


def reconnections(caplog: pytest.LogCaptureFixture) -> list[str]:
    messages = [record.getMessage() for record in caplog.records if record.name == "wsapi.client"]
    return [message for message in messages if "reconnecting" in message]


@pytest.mark.parametrize(
    "codes, delays",
    [
        ([1012, 1012], [0.01, 0.01]),
        ([1013, 1013], [0.01, 0.02]),
        ([1000, 1001, 1011, 4000], []),
        # The code is the client's then.
        ([None], []),
    ],
)
async def test_server_that_leaves(
    driver: Driver,
    codes: list[int | None],
    delays: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    remaining = list(codes)

    async def handler(ws: Ws) -> None:
        code = remaining.pop(0) if remaining else None
        if code is None:
            await ws.wait_closed()
        else:
            await ws.close(code)

    options = {"reconnect_delays": lambda: iter([0.01, 0.02, 0.03])}
    with caplog.at_level(logging.INFO, "wsapi.client"):
        async with driver.serve(handler) as server:
            async with driver.reconnecting(server, **options) as connections:
                seen = 0
                async for ws in connections:
                    seen += 1
                    if seen > len(codes):
                        break
                    if codes[seen - 1] is None:
                        await ws.close(1012)
                    await ws.wait_closed()
    assert reconnections(caplog) == [
        f"connection closed with {code}; reconnecting in {delay:.1f} seconds"
        for code, delay in zip(codes, delays, strict=False)
    ]


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after(
    driver: Driver,
    status: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = ["100", "Sun, 06 Nov 2094 08:49:37 GMT", "0", "nonsense"]

    def process_request(connection: Ws, request: Request) -> Response | None:
        if not answers:
            return None
        response = connection.respond(status, "later\n")
        response.headers["Retry-After"] = answers.pop(0)
        return response

    # How long a server can keep a client away.
    monkeypatch.setattr(reconnection, "MAX_RETRY_AFTER", 0.2)
    options = {"reconnect_delays": lambda: itertools.repeat(0.1)}
    with caplog.at_level(logging.INFO, "wsapi.client"):
        async with recording(driver, process_request=process_request) as (server, _):
            async with driver.reconnecting(server, **options) as connections:
                async for _ws in connections:
                    break
    assert [message.split(":")[0] for message in reconnections(caplog)] == [
        f"connect failed; reconnecting in {delay} seconds" for delay in (0.3, 0.3, 0.1, 0.1)
    ]


async def test_too_many_requests(driver: Driver) -> None:
    def process_request(connection: Ws, request: Request) -> Response:
        return connection.respond(429, "no\n")

    async with recording(driver, process_request=process_request) as (server, _):
        with pytest.raises(InvalidStatus, match="429"):
            await nothing(driver, server)


async def test_server_that_comes_later(driver: Driver) -> None:
    async with driver.serve() as server:
        port, uri = server.port, server.uri()
    attempts = []

    def policy(exc: Exception) -> Exception | None:
        attempts.append(exc)
        return process_exception(exc)

    async def client() -> Any:
        options = {"process_exception": policy, "reconnect_delays": lambda: itertools.repeat(0.001)}
        async with driver.reconnecting(uri, **options) as connections:
            async for ws in connections:
                await ws.send("hello")
                return await ws.recv()

    task = driver.spawn(client())
    await driver.until(lambda: len(attempts) > 2)
    async with driver.serve(port=port):
        assert await task == "hello"
    assert all(isinstance(exc, OSError) for exc in attempts)


async def test_server_that_closes_at_once(driver: Driver) -> None:
    connections = 0

    async def behave(peer: Any) -> None:
        nonlocal connections
        connections += 1
        if connections == 1:
            await peer.read_head()
        else:
            await peer.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    async with driver.raw_server(behave, handshake=False) as server:
        with pytest.raises(InvalidStatus, match="404"):
            await nothing(driver, server, reconnect_delays=at_once)
    assert connections == 2


async def test_fatal(driver: Driver) -> None:
    def process_request(connection: Ws, request: Request) -> Response:
        return connection.respond(404, "no\n")

    async with recording(driver, process_request=process_request) as (server, _):
        with pytest.raises(InvalidStatus, match="404"):
            await nothing(driver, server)
        with pytest.raises(KeyError) as info:
            await nothing(driver, server, process_exception=lambda exc: KeyError("x"))
        assert isinstance(info.value.__cause__, InvalidStatus)


@pytest.mark.not_on("sync", reason="threads can't be cancelled")
@pytest.mark.parametrize("delay", [0, 60])
async def test_cancelled_while_waiting(driver: Driver, delay: float) -> None:
    failed = driver.event()

    def delays() -> Iterator[float]:
        failed.set()
        yield from itertools.repeat(delay)

    async with driver.serve() as server:
        uri = server.uri()
    task = driver.spawn(nothing(driver, uri, reconnect_delays=delays))
    await failed.wait()
    assert await task.cancelled()


@pytest.mark.not_on("sync", reason="threads can't be cancelled")
async def test_cancelled_body(driver: Driver) -> None:
    async with recording(driver) as (server, codes):
        connected = driver.event()

        async def client() -> None:
            async with driver.reconnecting(server) as connections:
                async for ws in connections:
                    connected.set()
                    await ws.recv()

        task = driver.spawn(client())
        await connected.wait()
        assert await task.cancelled()
        await driver.until(lambda: len(codes) == 1)


async def test_ready_made_socket_is_good_for_one_connection(driver: Driver) -> None:
    async with recording(driver) as (server, codes):
        sock = socket.create_connection(("127.0.0.1", server.port))
        seen = 0
        with pytest.raises(ValueError, match="is closed"):
            async with driver.reconnecting("ws://h.test/", ready_made=sock) as connections:
                async for _ in connections:
                    seen += 1
        assert seen == 1
        await driver.until(lambda: codes == [1000])
