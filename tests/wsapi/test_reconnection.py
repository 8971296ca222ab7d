"""Reconnecting iterators: when they try again, how long they wait, how they close."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import queue
import random
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.wsapi.helpers import port_of, serving, until, uri_of
from wsapi._shared.reconnection import MAX_RETRY_AFTER, Reconnection, one_line, retry_after
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


def test_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = [0.5, 0.25, 0.75, 1, 0, 0.5]
    monkeypatch.setattr(random, "random", iter(drawn).__next__)
    assert list(itertools.islice(backoff(8, 1, 4, 2), 6)) == [4, 0.25, 1.5, 4, 0, 2]


def test_backoff_by_default() -> None:
    bounds = [5, *(min(3.1 * 1.618**i, 90) for i in range(11))]
    seen = [list(itertools.islice(backoff(), 12)) for _ in range(50)]
    for delays in seen:
        assert all(0 <= delay <= bound for delay, bound in zip(delays, bounds, strict=True))
    # Those that lost the same server don't come back together.
    assert all(len(set(attempt)) > 1 for attempt in zip(*seen, strict=True))


def test_backoff_without_jitter() -> None:
    firsts = {next(backoff(initial_delay=5, jitter=False)) for _ in range(20)}
    assert len(firsts) > 1
    delays = list(itertools.islice(backoff(jitter=False), 12))
    assert delays[1] == 3.1
    for before, after in itertools.pairwise(delays[1:9]):
        assert after == min(before * 1.618, 90)
    assert delays[-1] == 90
    assert list(itertools.islice(backoff(0, 1, 4, 2, jitter=False), 6)) == [0, 1, 2, 4, 4, 4]
    assert list(itertools.islice(backoff(0, 5, 4, 2, jitter=False), 3)) == [0, 4, 4]


@pytest.mark.parametrize("prefix", ["WSAPI", "WEBSOCKETS"])
def test_backoff_of_environment(prefix: str) -> None:
    environment = os.environ | {
        f"{prefix}_BACKOFF_INITIAL_DELAY": "0",
        f"{prefix}_BACKOFF_MIN_DELAY": "0.5",
        f"{prefix}_BACKOFF_MAX_DELAY": "4.5",
        f"{prefix}_BACKOFF_FACTOR": "3",
    }
    code = (
        "from wsapi.client import backoff; "
        "print(*[delay for delay, _ in zip(backoff(jitter=False), range(5))])"
    )
    output = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert output == "0.0 0.5 1.5 4.5 4.5\n"


def status(code: int, **headers: str) -> InvalidStatus:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return InvalidStatus(Response(code, "", Headers(named)))


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
        (status(429), False),
        (status(429, Retry_After="1"), True),
        (status(401, Retry_After="1"), False),
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


# ---------------------------------------------------------------------- what servers want

# RFC 9110 section 5.6.7: the same time in three forms.
DATES = [
    "Sun, 06 Nov 1994 08:49:37 GMT",
    "Sunday, 06-Nov-94 08:49:37 GMT",
    "Sun Nov  6 08:49:37 1994",
]
TIME = 784111777.0


@pytest.mark.parametrize(
    "values, seconds",
    [
        ([], 0),
        (["0"], 0),
        (["120"], 120),
        ([" 7 "], 7),
        (["300"], 300),
        (["301"], MAX_RETRY_AFTER),
        (["9" * 5000], MAX_RETRY_AFTER),
        (["-1"], 0),
        (["1.5"], 0),
        (["1e3"], 0),
        (["²"], 0),
        (["soon"], 0),
        ([""], 0),
        (["1", "2"], 0),
        (["Sun, 06 Nov 1994 08:49:37 +9999999999999999"], 0),
        (["Sun, 99 Nov 1994 08:49:37 GMT"], 0),
    ],
)
def test_retry_after(values: list[str], seconds: float) -> None:
    headers = Headers()
    for value in values:
        headers["Retry-After"] = value
    assert retry_after(headers, TIME) == seconds


@pytest.mark.parametrize("date", DATES)
def test_retry_after_a_date(date: str) -> None:
    headers = Headers({"Retry-After": date})
    assert retry_after(headers, TIME - 20) == 20
    assert retry_after(headers, TIME + 20) == 0
    assert retry_after(headers, 0) == MAX_RETRY_AFTER
    # The server's clock counts: the client's may be wrong.
    headers["Date"] = "Sun, 06 Nov 1994 08:49:27 GMT"
    assert retry_after(headers, 0) == 10
    del headers["Date"]
    headers["Date"] = "today"
    assert retry_after(headers, TIME - 20) == 20


def test_retry_after_is_added_to_the_delay() -> None:
    reconnection = Reconnection(process_exception, lambda: iter([1, 2, 3]), lambda: TIME - 30)
    assert reconnection.failed(status(503)) == 1
    assert reconnection.failed(status(503, Retry_After="20")) == 22
    assert reconnection.failed(status(429, Retry_After=DATES[0])) == 33


def test_delays_after_a_server_that_leaves() -> None:
    reconnection = Reconnection(process_exception, lambda: iter([1, 2, 3]))
    assert [reconnection.failed(OSError()), reconnection.failed(OSError())] == [1, 2]
    for code in (None, 1000, 1001, 1006, 1011, 4000):
        reconnection.succeeded()
        assert reconnection.ended(code) == 0
    for _ in range(2):
        reconnection.succeeded()
        assert reconnection.ended(1012) == 1
    assert reconnection.failed(OSError()) == 2


def test_delays_grow_while_a_server_has_too_much_to_do() -> None:
    reconnection = Reconnection(process_exception, lambda: iter([1, 2, 3, 4]))
    assert reconnection.failed(OSError()) == 1
    for delay in (2, 3):
        reconnection.succeeded()
        assert reconnection.ended(1013) == delay
    assert reconnection.failed(OSError()) == 4
    # No delay left: at once, as after any other end.
    reconnection.succeeded()
    assert reconnection.ended(1013) == 0
    reconnection.succeeded()
    assert reconnection.ended(1000) == 0
    reconnection.succeeded()
    assert reconnection.ended(1013) == 1


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


@pytest.mark.parametrize(
    "reply, again", [(1, True), (2, False), (3, True), (6, True), (7, False), (None, False)]
)
def test_replies_of_socks_proxies(reply: int | None, again: bool) -> None:
    """Some tell of what may pass; that a rule forbids it, or nothing, doesn't."""
    exc, cause = ProxyError("failed to connect to SOCKS proxy"), RuntimeError("no way")
    cause.error_code = reply  # type: ignore[attr-defined]
    exc.__cause__ = cause
    assert process_exception(exc) is (None if again else exc)


@pytest.mark.parametrize(
    "exc, text",
    [
        (ValueError("why"), "ValueError: why"),
        (InvalidURI("x", "why"), "wsproto_fast.exceptions.InvalidURI: x isn't a valid URI: why"),
        (OSError(), "OSError"),
    ],
)
def test_exceptions_in_the_log(exc: Exception, text: str) -> None:
    assert one_line(exc) == text
