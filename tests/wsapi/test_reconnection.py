"""Reconnecting iterators: when they try again, how long they wait, how they close."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.wsapi.helpers import echo, port_of, raw_server, serving, until, uri_of
from wsapi._reconnection import Reconnection
from wsapi.asyncio.client import connect
from wsapi.asyncio.server import Server, ServerConnection, serve
from wsapi.client import backoff, process_exception
from wsapi.datastructures import Headers
from wsapi.exceptions import InvalidMessage, InvalidStatus, InvalidURI, ProxyError
from wsapi.http11 import Request, Response

# ---------------------------------------------------------------------- policies


def test_backoff() -> None:
    firsts = {next(backoff(initial_delay=5)) for _ in range(20)}
    assert len(firsts) > 1
    assert all(0 <= first < 5 for first in firsts)
    delays = list(itertools.islice(backoff(), 12))
    assert delays[1] == 3.1
    for before, after in itertools.pairwise(delays[1:9]):
        assert after == min(before * 1.618, 90)
    assert delays[-1] == 90
    assert list(itertools.islice(backoff(0, 1, 4, 2), 6)) == [0, 1, 2, 4, 4, 4]


@pytest.mark.parametrize("prefix", ["WSAPI", "WEBSOCKETS"])
def test_backoff_of_environment(prefix: str) -> None:
    environment = os.environ | {
        f"{prefix}_BACKOFF_INITIAL_DELAY": "0",
        f"{prefix}_BACKOFF_MIN_DELAY": "0.5",
        f"{prefix}_BACKOFF_MAX_DELAY": "4.5",
        f"{prefix}_BACKOFF_FACTOR": "3",
    }
    code = "from wsapi.client import backoff; print(*[d for d, _ in zip(backoff(), range(5))])"
    output = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert output == "0.0 0.5 1.5 4.5 4.5\n"


def status(code: int) -> InvalidStatus:
    return InvalidStatus(Response(code, "", Headers()))


def message(cause: Exception) -> InvalidMessage:
    exc = InvalidMessage("did not receive a valid HTTP response")
    exc.__cause__ = cause
    return exc


@pytest.mark.parametrize(
    "exc, again",
    [
        (OSError(), True),
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (message(EOFError()), True),
        (message(ValueError()), False),
        (status(500), True),
        (status(502), True),
        (status(503), True),
        (status(504), True),
        (status(501), False),
        (status(401), False),
        (InvalidURI("", ""), False),
        (ProxyError(), False),
        (ValueError(), False),
    ],
)
def test_process_exception(exc: Exception, again: bool) -> None:
    assert process_exception(exc) is (None if again else exc)


def failing_policy(exc: Exception) -> Exception | None:
    raise KeyError("policy")


@pytest.mark.parametrize(
    "policy, raised",
    [
        (lambda exc: exc, OSError),
        (lambda exc: KeyError("other"), KeyError),
        (failing_policy, KeyError),
    ],
)
def test_policies(policy: Any, raised: type[Exception]) -> None:
    exc = OSError()
    with pytest.raises(raised) as info:
        Reconnection(policy, backoff).failed(exc)
    assert info.value is exc or info.value.__cause__ is exc


def test_delays() -> None:
    started = []

    def delays() -> Iterator[float]:
        started.append(True)
        yield 1
        yield 2

    reconnection = Reconnection(process_exception, delays)
    assert not started
    exc = OSError()
    assert [reconnection.failed(exc), reconnection.failed(exc)] == [1, 2]
    reconnection.succeeded()
    assert [reconnection.failed(exc), reconnection.failed(exc)] == [1, 2]
    assert len(started) == 2
    # No delay left: enough.
    with pytest.raises(OSError) as info:
        reconnection.failed(exc)
    assert info.value is exc


# ---------------------------------------------------------------------- connections


def at_once() -> Iterator[float]:
    while True:
        yield 0


@contextlib.asynccontextmanager
async def recording(**options: Any) -> AsyncIterator[tuple[Server, list[int | None]]]:
    """Serve; yield the server and the codes with which clients closed."""
    codes: list[int | None] = []

    async def handler(ws: ServerConnection) -> None:
        await ws.wait_closed()
        codes.append(ws.close_code)

    async with serving(handler, **options) as server:
        yield server, codes


async def test_each_turn_is_a_connection() -> None:
    async with recording() as (server, codes):
        connections = []
        async for ws in connect(uri_of(server)):
            assert all(earlier.close_code == 1000 for earlier in connections)
            connections.append(ws)
            if len(connections) == 3:
                break
        assert len({ws.id for ws in connections}) == 3
        await until(lambda: codes == [1000] * 3)


async def test_break_closes() -> None:
    async with recording() as (server, codes):
        async for ws in connect(uri_of(server)):
            connection = ws
            break
        await connection.wait_closed()
        assert connection.close_code == 1000
        await until(lambda: codes == [1000])


async def test_aclosing_closes_at_once() -> None:
    async with recording() as (server, _):
        async with contextlib.aclosing(aiter(connect(uri_of(server)))) as connections:
            async for ws in connections:
                connection = ws
                break
        assert connection.close_code == 1000


def test_break_before_the_end_of_the_event_loop() -> None:
    """There is time for the closing handshake even so."""
    ports: queue.Queue[int] = queue.Queue()
    codes: queue.Queue[int | None] = queue.Queue()

    async def serve_one() -> None:
        closed = asyncio.Event()

        async def handler(ws: ServerConnection) -> None:
            await ws.wait_closed()
            codes.put(ws.close_code)
            closed.set()

        async with serving(handler) as server:
            ports.put(port_of(server))
            await closed.wait()

    async def client(uri: str) -> None:
        async for _ in connect(uri):
            break

    thread = threading.Thread(target=asyncio.run, args=[serve_one()])
    thread.start()
    try:
        asyncio.run(client(f"ws://127.0.0.1:{ports.get(timeout=10)}/"))
    finally:
        thread.join(10)
    assert codes.get_nowait() == 1000


async def test_exceptions_of_the_body() -> None:
    async with recording() as (server, codes):
        seen = []
        with pytest.raises(OSError, match="body"):
            async for ws in connect(uri_of(server)):
                seen.append(ws)
                raise OSError("body")
        assert len(seen) == 1
        await seen[0].wait_closed()
        await until(lambda: len(codes) == 1)


async def test_exception_thrown_in() -> None:
    async with recording() as (server, codes):
        connections = aiter(connect(uri_of(server)))
        ws = await anext(connections)
        with pytest.raises(KeyError):
            await connections.athrow(KeyError())
        assert ws.close_code == 1011
        await until(lambda: codes == [1011])


async def test_tries_again(caplog: pytest.LogCaptureFixture) -> None:
    answers = [500, 502, 503, 504]

    def process_request(connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(answers.pop(), "later\n") if answers else None

    with caplog.at_level(logging.INFO, "wsapi.client"):
        async with recording(process_request=process_request) as (server, _):
            async for ws in connect(uri_of(server), reconnect_delays=at_once):
                await ws.close()
                break
    assert [record.getMessage() for record in caplog.records if record.name == "wsapi.client"] == [
        "connect failed; reconnecting in 0.0 seconds: wsproto_fast.exceptions.InvalidStatus: "
        f"server rejected WebSocket connection: HTTP {code}"
        for code in (504, 503, 502, 500)
    ]


async def test_server_that_comes_later() -> None:
    async with serving() as server:
        port = port_of(server)
    attempts = []

    def policy(exc: Exception) -> Exception | None:
        attempts.append(exc)
        return process_exception(exc)

    async def client() -> str | bytes:
        async for ws in connect(
            f"ws://127.0.0.1:{port}/",
            process_exception=policy,
            reconnect_delays=lambda: itertools.repeat(0.001),
        ):
            await ws.send("hello")
            received = await ws.recv()
            await ws.close()
            return received
        raise AssertionError

    task = asyncio.create_task(client())
    await until(lambda: len(attempts) > 2)
    async with serve(echo, "127.0.0.1", port):
        assert await task == "hello"
    assert all(isinstance(exc, ConnectionRefusedError) for exc in attempts)


async def test_server_that_closes_at_once() -> None:
    connections = 0

    async def behave(peer: Any) -> None:
        nonlocal connections
        connections += 1
        if connections == 1:
            await peer.reader.readuntil(b"\r\n\r\n")
        else:
            peer.writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    async with raw_server(behave, handshake=False) as server:
        with pytest.raises(InvalidStatus, match="404"):
            async for _ in connect(uri_of(server), reconnect_delays=at_once):
                raise AssertionError
    assert connections == 2


async def test_fatal() -> None:
    def process_request(connection: ServerConnection, request: Request) -> Response:
        return connection.respond(404, "no\n")

    async with recording(process_request=process_request) as (server, _):
        with pytest.raises(InvalidStatus, match="404"):
            async for _ in connect(uri_of(server)):
                raise AssertionError
        with pytest.raises(KeyError) as info:
            async for _ in connect(uri_of(server), process_exception=lambda exc: KeyError("x")):
                raise AssertionError
        assert isinstance(info.value.__cause__, InvalidStatus)


@pytest.mark.parametrize("delay", [0, 60])
async def test_cancelled_while_waiting(delay: float) -> None:
    failed = asyncio.Event()

    def delays() -> Iterator[float]:
        failed.set()
        yield from itertools.repeat(delay)

    async def client(uri: str) -> None:
        async for _ in connect(uri, reconnect_delays=delays):
            raise AssertionError

    async with serving() as server:
        uri = uri_of(server)
    task = asyncio.create_task(client(uri))
    await failed.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancelled_body() -> None:
    async with recording() as (server, codes):
        connected = asyncio.Event()

        async def client() -> None:
            async for ws in connect(uri_of(server)):
                connected.set()
                await ws.recv()

        task = asyncio.create_task(client())
        await connected.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: len(codes) == 1)


async def test_ready_made_socket_is_good_for_one_connection() -> None:
    async with recording() as (server, codes):
        sock = socket.create_connection(("127.0.0.1", port_of(server)))
        seen = 0
        with pytest.raises(ValueError, match="sock is closed"):
            async for _ in connect("ws://h.test/", sock=sock):
                seen += 1
        assert seen == 1
        await until(lambda: codes == [1000])
