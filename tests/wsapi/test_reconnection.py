"""Reconnecting iterators: when they try again, how long they wait, how they close."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import queue
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.wsapi.helpers import port_of, serving, until, uri_of
from wsapi._shared.reconnection import Reconnection
from wsapi.asyncio.client import connect
from wsapi.asyncio.server import Server, ServerConnection
from wsapi.client import backoff, process_exception
from wsapi.datastructures import Headers
from wsapi.exceptions import (
    InvalidMessage,
    InvalidProxyStatus,
    InvalidStatus,
    InvalidURI,
    ProxyError,
)
from wsapi.http11 import Response

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


def proxy_error(cause: Exception) -> ProxyError:
    exc = ProxyError("failed to connect")
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
        (proxy_error(EOFError()), True),
        (proxy_error(ValueError()), False),
        (InvalidProxyStatus(status(503).response), True),
        (InvalidProxyStatus(status(407).response), False),
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


@contextlib.asynccontextmanager
async def recording(**options: Any) -> AsyncIterator[tuple[Server, list[int | None]]]:
    """Serve; yield the server and the codes with which clients closed."""
    codes: list[int | None] = []

    async def handler(ws: ServerConnection) -> None:
        await ws.wait_closed()
        codes.append(ws.close_code)

    async with serving(handler, **options) as server:
        yield server, codes


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


async def test_exception_thrown_in() -> None:
    async with recording() as (server, codes):
        connections = aiter(connect(uri_of(server)))
        ws = await anext(connections)
        with pytest.raises(KeyError):
            await connections.athrow(KeyError())
        assert ws.close_code == 1011
        await until(lambda: codes == [1011])
