"""The clock of the testing kit on asyncio: how time passes, and who waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.wsapi.helpers import echo, on_asyncio
from wsapi.exceptions import ConnectionClosedError
from wsapi.testing import Clock, Wire, link, pair, serving
from wsapi.testing._clock import clock_of
from wsproto_fast.frames import State

# ---------------------------------------------------------------------- time


@on_asyncio
async def test_time_stands_still_until_it_is_advanced() -> None:
    async with Clock() as clock:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        happened = []

        async def program() -> None:
            for pause in (10, 5, 10):
                await asyncio.sleep(pause)
                happened.append(loop.time() - begin)

        task = asyncio.create_task(program())
        await clock.advance(9.5)
        assert happened == []
        await clock.advance(0.5)
        assert happened == [10]
        await clock.advance(100)
        assert happened == pytest.approx([10, 15, 25])
        assert loop.time() == clock.time() == pytest.approx(begin + 110)
        await task
    assert clock_of(loop) is None


@on_asyncio
async def test_time_goes_on_after_a_clock() -> None:
    """What was to come in its block, or has begun there, doesn't wait until time catches up."""
    loop = asyncio.get_running_loop()
    ticks = []

    async def tick() -> None:
        while True:
            ticks.append(loop.time())
            await asyncio.sleep(0.02)

    ticking = asyncio.create_task(tick())
    for _ in range(2):
        async with Clock() as clock:
            await clock.advance(60)
        number = len(ticks)
        assert clock.time() <= loop.time() < clock.time() + 10
        async with asyncio.timeout(10):
            while len(ticks) < number + 2:
                await asyncio.sleep(0)
    assert ticks == sorted(ticks)
    ticking.cancel()


@on_asyncio
async def test_a_clock_on_a_machine_that_has_run_for_a_year(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Floating-point numbers of that size can't tell the resolution of the event loop's clock."""
    loop: Any = asyncio.get_running_loop()
    resolution = loop._clock_resolution
    year = 365 * 86400.0
    assert year + resolution == year
    with monkeypatch.context() as patch:
        patch.setattr(type(loop), "time", lambda self: year)
        async with Clock() as clock:
            waiting = asyncio.create_task(asyncio.sleep(5))
            await clock.advance(5)
            assert waiting.done()
        del loop.time  # as long as a year, and no more
    assert loop._clock_resolution == resolution


@on_asyncio
async def test_the_time_of_a_loop_is_its_own_where_no_other_has_passed() -> None:
    loop = asyncio.get_running_loop()
    async with Clock():
        time.sleep(0.01)
    assert loop.time.__self__ is loop  # type: ignore[attr-defined] # a method


@on_asyncio
async def test_a_server_that_outlives_a_clock() -> None:
    async with serving(echo) as place:
        async with Clock() as clock:
            client = await place.connect(ping_interval=0.05)
            await clock.advance(60)
            pings = client.stats().pings_sent
        async with asyncio.timeout(10):
            while client.stats().pings_sent == pings:
                await asyncio.sleep(0)
            await client.send("message")
            assert await client.recv() == "message"
    assert client.close_code == 1001


@on_asyncio
async def test_a_pair_that_was_there_before_its_clock() -> None:
    async with pair(ping_interval=20, ping_timeout=20) as (client, _), Clock() as clock:
        link(client).cut()
        await clock.advance(60)
        with pytest.raises(ConnectionClosedError, match="keepalive"):
            await client.recv()


@on_asyncio
async def test_keepalive_in_fake_time() -> None:
    async with Clock() as clock:
        async with pair(client={"ping_interval": 20}, server={"ping_interval": None}) as (
            client,
            server,
        ):
            link(client).outgoing.delay = 0.25
            await clock.advance(19.9)
            assert client.stats().pings_sent == 0
            await clock.advance(0.2)
            assert client.stats().pings_sent == 1
            await clock.advance(0.5)
            assert client.latency == pytest.approx(0.25)
            link(client).cut()
            await clock.advance(39.2)  # until shortly before 60
            assert client.state is State.OPEN
            await clock.advance(0.4)
            assert client.state is State.CLOSING
            await clock.advance(10.1)
            assert client.state is State.CLOSED
            with pytest.raises(ConnectionClosedError, match="keepalive"):
                await client.recv()
            assert server.state is State.OPEN


@on_asyncio
async def test_a_latency_is_that_of_the_wires() -> None:
    async with Clock() as clock, pair(ping_interval=None) as (client, server):
        link(client).outgoing.delay = 1.5
        link(client).incoming.delay = 0.5
        pong = await server.ping()
        await clock.advance(1.9)
        assert not pong.done()  # type: ignore[attr-defined] # a future
        await clock.advance(0.1)
        assert await pong == pytest.approx(2)


@on_asyncio
async def test_the_closing_handshake_times_out() -> None:
    async with Clock() as clock, pair(client={"close_timeout": 7}) as (client, _):
        link(client).cut()
        closing = asyncio.create_task(client.close())
        await clock.advance(6.9)
        assert not closing.done()
        await clock.advance(0.2)
        await closing
        assert client.close_code == 1006


@on_asyncio
async def test_the_opening_handshake_times_out() -> None:
    async with Clock() as clock, serving(echo, open_timeout=30) as place:
        connecting = asyncio.create_task(
            place.connect(incoming=Wire(drop=True), open_timeout=5)._connect()
        )
        await clock.advance(4.9)
        assert not connecting.done()
        await clock.advance(0.2)
        with pytest.raises(TimeoutError, match="opening handshake"):
            await connecting


@on_asyncio
async def test_a_server_times_out_requests() -> None:
    async with Clock() as clock, serving(echo, open_timeout=3) as place:
        connecting = asyncio.create_task(
            place.connect(outgoing=Wire(hold=True), open_timeout=None)._connect()
        )
        await clock.advance(2.9)
        assert not connecting.done()
        await clock.advance(0.2)
        with pytest.raises(Exception, match=r"did not receive a valid HTTP response|closed"):
            await connecting


@on_asyncio
async def test_limits_on_rates_in_fake_time() -> None:
    async with Clock() as clock, pair(server={"message_rate": 1}) as (client, server):
        for number in range(6):
            await client.send(str(number))
        received = []

        async def receive() -> None:
            async for message in server:
                received.append(message)

        task = asyncio.create_task(receive())
        await clock.settle()
        at_once = len(received)
        assert 0 < at_once < 6
        await clock.advance(6 - at_once + 0.1)
        assert received == list("012345")
        task.cancel()


@on_asyncio
async def test_draining_in_fake_time() -> None:
    async with Clock() as clock, serving(echo) as place:
        connections = [await place.connect() for _ in range(10)]
        draining = asyncio.create_task(place.server.drain(timeout=30, spread=10))
        await clock.settle()
        assert any(connection.state is State.OPEN for connection in connections)
        await clock.advance(11)
        assert {connection.close_code for connection in connections} == {1012}
        await draining


def in_a_thread_of_asyncio(*call: Any) -> Coroutine[Any, Any, Any]:
    return asyncio.to_thread(*call)


def in_a_thread_of_anyio(*call: Any) -> Coroutine[Any, Any, Any]:
    return pytest.importorskip("anyio.to_thread").run_sync(*call)  # type: ignore[no-any-return] # one


@pytest.mark.parametrize("in_a_thread", [in_a_thread_of_asyncio, in_a_thread_of_anyio])
@on_asyncio
async def test_no_time_passes_while_a_thread_runs(in_a_thread: Callable[..., Any]) -> None:
    ends = []

    async def handler(connection: Any) -> None:
        async with asyncio.timeout(5):
            await in_a_thread(time.sleep, 0.05)
        await connection.send("message")
        await connection.wait_closed()
        await in_a_thread(time.sleep, 0.05)
        ends.append("end")

    async with Clock() as clock:
        async with serving(handler) as place:
            client = await place.connect()
            await clock.advance(10)
            assert await client.recv() == "message"
        assert ends == ["end"]
    loop = asyncio.get_running_loop()
    assert loop.run_in_executor.__self__ is loop  # type: ignore[attr-defined] # a method


@on_asyncio
async def test_threads_where_nobody_uses_anyio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "anyio.to_thread", raising=False)
    async with Clock() as clock, asyncio.timeout(5):
        sleeping = asyncio.create_task(asyncio.to_thread(time.sleep, 0.01))
        await clock.advance(1)
        assert sleeping.done()


@on_asyncio
async def test_a_thread_that_waits_for_what_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsapi.testing._clock.PATIENCE", 0.05)

    async def later() -> float:
        await asyncio.sleep(100)
        return loop.time()

    def wait() -> float:
        return asyncio.run_coroutine_threadsafe(later(), loop).result()

    loop = asyncio.get_running_loop()
    async with Clock() as clock:
        begin = clock.time()
        waiting = asyncio.create_task(asyncio.to_thread(wait))
        await clock.advance(200)
        assert await waiting == pytest.approx(begin + 100)


@on_asyncio
async def test_misuse_of_clocks() -> None:
    clock = Clock()
    with pytest.raises(RuntimeError, match="isn't in use"):
        await clock.advance(1)
    async with clock:
        for seconds in (-1, math.inf, math.nan):
            with pytest.raises(ValueError, match="seconds"):
                await clock.advance(seconds)
        with pytest.raises(RuntimeError, match="already"):
            async with Clock():
                raise AssertionError
        with pytest.raises(RuntimeError, match="already"):
            async with clock:
                raise AssertionError


@on_asyncio
async def test_time_passes_in_debug_mode(caplog: pytest.LogCaptureFixture) -> None:
    """What advances the clock isn't a slow callback."""
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    duration = loop.slow_callback_duration = 60
    async with Clock() as clock:
        sleeping = asyncio.create_task(asyncio.sleep(3600))
        await clock.advance(3600)
        await sleeping
    await asyncio.sleep(0)
    assert [record.getMessage() for record in caplog.records] == []
    assert loop.slow_callback_duration == duration


@on_asyncio
async def test_two_tasks_advance() -> None:
    async with Clock() as clock:
        begin = clock.time()
        advancing = asyncio.create_task(clock.advance(1))
        await asyncio.sleep(0)
        for call in (clock.advance(1), clock.settle()):
            with pytest.raises(RuntimeError, match="another task"):
                await call
        await advancing
        await clock.advance(1)
        assert clock.time() == pytest.approx(begin + 2)


@on_asyncio
async def test_a_clock_ends_while_a_task_advances_it() -> None:
    async def advance() -> None:
        while True:
            await clock.advance(1)

    async with Clock() as clock:
        advancing = asyncio.create_task(advance())
        await asyncio.sleep(3600)
    with pytest.raises(RuntimeError, match="isn't in use"):
        await advancing


@on_asyncio
async def test_a_long_time_of_a_program_that_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsapi.testing._clock.MAX_TURNS", 100)

    async def tick() -> None:
        while True:
            await asyncio.sleep(1)

    async with Clock() as clock:
        task = asyncio.create_task(tick())
        await clock.advance(1000)
        task.cancel()


@on_asyncio
async def test_a_program_that_never_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsapi.testing._clock.MAX_TURNS", 100)

    async def restless() -> None:
        while True:
            await asyncio.sleep(0)

    async with Clock() as clock:
        task = asyncio.create_task(restless())
        with pytest.raises(RuntimeError, match="rest"):
            await clock.settle()
        task.cancel()


@on_asyncio
async def test_what_is_called_a_little_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event loop does that within the resolution of its clock; then it may be called again."""
    monkeypatch.setattr("wsapi.testing._clock.MAX_TURNS", 100)
    loop = asyncio.get_running_loop()

    def expire() -> None:
        if clock.time() < later:
            loop.call_at(later, expire)
        else:
            expired.append(clock.time())

    expired: list[float] = []
    async with Clock() as clock:
        due = clock.time() + 1
        later = math.nextafter(due, math.inf)
        loop.call_at(due, lambda: None)
        loop.call_at(later, expire)
        await clock.advance(1)
        assert expired == [later]
        await clock.advance(1)
        assert clock.time() == pytest.approx(due + 1)


# ---------------------------------------------------------------------- nothing happens


@pytest.fixture
def hopeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a clock give up soon, if nothing can come from elsewhere; otherwise late."""
    monkeypatch.setattr("wsapi.testing._clock.INTERVAL", 0.002)
    monkeypatch.setattr("wsapi.testing._clock.HOPELESS_OUTSIDE", 10_000)


@on_asyncio
async def test_who_waits_while_nobody_advances_the_clock(hopeless: None) -> None:
    task = asyncio.current_task()
    assert task is not None
    ended = []
    with pytest.raises(RuntimeError) as caught:
        async with Clock(), pair(ping_interval=7, open_timeout=None) as (client, _):
            try:
                await client.recv()
            finally:
                ended.append(client.state)
    text = str(caught.value)
    assert text.startswith(
        "all tasks wait while the clock stands still, this one at test_testing_asyncio_clock.py:"
    )
    assert ": await client.recv(), and the next timer is due in 7 seconds: start what waits" in text
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert ended == [State.OPEN]
    assert not task.cancelling()
    await asyncio.sleep(0.01)  # it goes on


@on_asyncio
async def test_who_waits_for_what_has_no_time(hopeless: None) -> None:
    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match=r"get_running_loop\(\).*, and no timer is set: "):
        async with Clock():
            await wait()


@on_asyncio
async def test_who_does_not_end_when_it_waits_for_ever(hopeless: None) -> None:
    with pytest.raises(RuntimeError, match="stands still"):
        async with Clock():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1)


@on_asyncio
async def test_who_fails_when_it_waits_for_ever(hopeless: None) -> None:
    with pytest.raises(ZeroDivisionError):
        async with Clock():
            try:
                await asyncio.sleep(1)
            finally:
                raise ZeroDivisionError


def test_who_is_cancelled_by_others_too(hopeless: None) -> None:
    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        async with Clock():
            try:
                await asyncio.sleep(1)
            finally:
                task.cancel()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())


def test_who_waits_in_another_task_than_entered_the_clock(hopeless: None) -> None:
    """As fixtures of pytest-asyncio do."""

    async def wait() -> None:
        await asyncio.sleep(3)

    clock = Clock()
    with asyncio.Runner() as runner:
        runner.run(clock.__aenter__())
        with pytest.raises(asyncio.CancelledError, match="stands still, and the next timer is due"):
            runner.run(wait())
        with pytest.raises(RuntimeError, match="the next timer is due in 3 seconds"):
            runner.run(clock.__aexit__(None, None, None))


@on_asyncio
async def test_what_comes_from_elsewhere_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsapi.testing._clock.INTERVAL", 0.002)
    monkeypatch.setattr("wsapi.testing._clock.HOPELESS", 1)
    monkeypatch.setattr("wsapi.testing._clock.HOPELESS_OUTSIDE", 30_000)  # a thread may be late
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        timer = threading.Timer(0.03, right.send, [b"x"])
        timer.start()  # before the clock is in use
        async with Clock():
            assert await loop.sock_recv(left, 1) == b"x"
            await asyncio.to_thread(time.sleep, 0.03)
            event = asyncio.Event()
            threading.Timer(0.03, loop.call_soon_threadsafe, [event.set]).start()
            await event.wait()
        timer.join()


@on_asyncio
async def test_what_could_come_from_elsewhere_and_does_not(hopeless: None) -> None:
    ended = threading.Event()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="stands still"):
        patch.setattr("wsapi.testing._clock.HOPELESS_OUTSIDE", 8)
        async with Clock():
            try:
                await asyncio.to_thread(ended.wait)
            finally:
                ended.set()
