"""The testing kit on asyncio: pairs and servers in memory, a clock that stands still, faults."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import math
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from wsapi import route, serve
from wsapi.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from wsapi.testing import Clock, Wire, link, pair, serving, serving_asgi
from wsapi.testing._clock import clock_of
from wsapi.testing._memory import MemoryTransport, connected
from wsapi.testing._wires import WINDOW
from wsproto_fast.frames import State


def on_asyncio(function: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Have a coroutine function run as a test."""

    def test(**fixtures: Any) -> None:
        asyncio.run(function(**fixtures))

    functools.update_wrapper(test, function)
    test.__signature__ = inspect.signature(function)  # type: ignore[attr-defined] # for pytest
    return test


async def echo(connection: Any) -> None:
    async for message in connection:
        await connection.send(message)


# ---------------------------------------------------------------------- pairs


@on_asyncio
async def test_a_pair_exchanges_messages() -> None:
    async with pair() as (client, server):
        assert (client.state, server.state) == (State.OPEN, State.OPEN)
        assert client.response is not None
        assert client.response.status_code == 101
        await client.send("question")
        assert await server.recv() == "question"
        await server.send(b"answer" * 100_000)
        assert await client.recv() == b"answer" * 100_000
        assert client.local_address == server.remote_address
    assert (client.close_code, server.close_code) == (1000, 1000)


@on_asyncio
async def test_options_of_a_pair() -> None:
    options = {"subprotocols": ["chat"], "compression": None}
    async with pair(
        "ws://example.com/path",
        client={"additional_headers": {"X-Test": "1"}},
        server={"server_header": "kit"},
        **options,
    ) as (client, server):
        assert server.request is not None
        assert (server.request.path, server.request.headers["Host"]) == ("/path", "example.com")
        assert server.request.headers["X-Test"] == "1"
        assert client.response is not None
        assert client.response.headers["Server"] == "kit"
        assert client.subprotocol == server.subprotocol == "chat"


@on_asyncio
async def test_a_pair_opens_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "__init__", refuse)
    async with pair() as (client, server):
        await client.send("message")
        assert await server.recv() == "message"


@on_asyncio
async def test_a_pair_ends_with_unread_messages() -> None:
    """The peer that doesn't read can't answer a Close frame; nobody waits for it."""
    async with Clock():
        async with pair(max_queue=1) as (client, server):
            for _ in range(10):
                await client.send("message")
        assert (client.state, server.state) == (State.CLOSED, State.CLOSED)


@on_asyncio
async def test_a_pair_ends_although_the_cable_is_cut() -> None:
    async with Clock():
        async with pair() as (client, server):
            link(client).cut()
        assert (client.close_code, server.close_code) == (1006, 1006)


@on_asyncio
async def test_a_pair_whose_handshake_fails() -> None:
    with pytest.raises(InvalidStatus, match="403"):
        async with pair(client={"origin": "http://a"}, server={"origins": ["http://b"]}):
            raise AssertionError


# ---------------------------------------------------------------------- servers


@on_asyncio
async def test_serving_a_handler() -> None:
    async with serving(echo) as place:
        async with place.connect() as first, place.connect() as second:
            await first.send("1")
            await second.send("2")
            assert (await first.recv(), await second.recv()) == ("1", "2")
            assert len(place.server.connections) == 2
        third = await place.connect()
    assert third.close_code == 1001
    with pytest.raises(ConnectionRefusedError):
        await place.connect()


@on_asyncio
async def test_serving_a_server_that_was_made_elsewhere() -> None:
    pytest.importorskip("werkzeug", reason="the router needs it")
    from werkzeug.routing import Map, Rule

    async with serving(route(Map([Rule("/echo", endpoint=echo)]))) as place:
        async with place.connect("ws://localhost/echo") as connection:
            await connection.send("message")
            assert await connection.recv() == "message"
        with pytest.raises(InvalidStatus, match="404"):
            await place.connect("ws://localhost/elsewhere")
    with pytest.raises(TypeError, match="options"):
        serving(serve(echo), compression=None)


@on_asyncio
async def test_reconnecting_in_memory() -> None:
    async def handler(connection: Any) -> None:
        await connection.send("hello")

    async with Clock() as clock, serving(handler) as place:
        greetings = []

        async def client() -> None:
            async for connection in place.connect(reconnect_delays=lambda: iter([5.0] * 9)):
                greetings.append(await connection.recv())
                if len(greetings) == 3:
                    break

        task = asyncio.create_task(client())
        await clock.advance(60)
        await task
    assert greetings == ["hello"] * 3


@on_asyncio
async def test_a_handler_that_does_not_end_is_cancelled() -> None:
    ends = []

    async def handler(connection: Any) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ends.append(connection.state)

    async with Clock(), serving(handler) as place:
        await place.connect()
    assert ends == [State.CLOSED]


@on_asyncio
async def test_a_handler_that_sleeps_when_it_is_cancelled() -> None:
    """The time that it waits for doesn't come."""
    ends = []

    async def handler(connection: Any) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            try:
                await asyncio.sleep(1)
            finally:
                ends.append("end")

    async with Clock(), serving(handler) as place:
        await place.connect()
    assert ends == ["end"]


@on_asyncio
async def test_a_test_that_is_cancelled_while_its_server_ends() -> None:
    async def handler(connection: Any) -> None:
        await asyncio.sleep(3600)

    async def test() -> None:
        async with serving(handler) as place:
            await place.connect()
            entered.set()

    entered = asyncio.Event()
    task = asyncio.create_task(test())
    await entered.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@on_asyncio
async def test_creation_of_connections_goes_by_the_options() -> None:
    from wsapi.asyncio.client import ClientConnection
    from wsapi.asyncio.server import ServerConnection

    class Client(ClientConnection):
        pass

    class Server(ServerConnection):
        pass

    async with (
        Clock(),
        pair(client={"create_connection": Client}, server={"create_connection": Server}) as both,
    ):
        assert [type(each) for each in both] == [Client, Server]


@pytest.mark.parametrize("option", ["host", "port", "sock", "ssl", "path", "backlog"])
def test_options_of_sockets_have_no_use_on_servers(option: str) -> None:
    with pytest.raises(ValueError, match=f"no use for {option}"):
        serving(echo, **{option: None})


@on_asyncio
async def test_options_of_sockets_have_no_use_on_clients() -> None:
    async with serving(echo) as place:
        with pytest.raises(ValueError, match="no use for host"):
            place.connect(host="localhost")


@on_asyncio
async def test_one_connection_at_a_time_in_its_handshake() -> None:
    async with serving(echo) as place:
        await place.server.start_serving()  # it is already
        async with place.connect(one_connecting=True) as connection:
            await connection.send("message")
            assert await connection.recv() == "message"


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
        "all tasks wait while the clock stands still, this one at test_testing_asyncio.py:"
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


def test_uvloop_has_no_fake_time_but_pairs() -> None:
    uvloop = pytest.importorskip("uvloop", reason="uvloop isn't installed")

    async def main() -> None:
        with pytest.raises(TypeError, match="event loop of asyncio"):
            async with Clock():
                raise AssertionError
        async with pair() as (client, server):
            link(client).outgoing.split = 1
            await client.send("message")
            assert await server.recv() == "message"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


# ---------------------------------------------------------------------- faults


@on_asyncio
async def test_single_bytes() -> None:
    """From the first byte of the opening handshake on."""
    async with pair(client={"outgoing": Wire(split=1), "incoming": Wire(split=1)}) as (
        client,
        server,
    ):
        for message in ("text " * 100, b"\0\1" * 5000, ""):
            await client.send(message)
            assert await server.recv() == message
            await server.send(message)
            assert await client.recv() == message
    assert client.close_code == 1000


@on_asyncio
async def test_delays_keep_the_order() -> None:
    async with Clock() as clock, pair() as (client, server):
        wire = link(client).outgoing
        wire.delay = 3
        await client.send("slow")
        wire.delay = 0
        await client.send("fast")
        receiving = asyncio.create_task(server.recv())
        await clock.advance(2.9)
        assert not receiving.done()
        await clock.advance(0.1)
        assert await receiving == "slow"
        assert await server.recv() == "fast"


@on_asyncio
async def test_holding() -> None:
    async with Clock() as clock, pair() as (client, server):
        link(server).incoming.hold = True
        assert link(client).outgoing.hold
        await client.send("message")
        receiving = asyncio.create_task(server.recv())
        await clock.advance(5)
        assert not receiving.done()
        assert link(client).outgoing.bytes_under_way > 0
        link(server).incoming.hold = False
        await clock.settle()
        assert await receiving == "message"
        assert link(client).outgoing.bytes_under_way == 0


@on_asyncio
async def test_dropping() -> None:
    async with Clock() as clock, pair(compression=None) as (client, server):
        wire = link(client).outgoing
        before = wire.bytes_written
        wire.drop = True
        await client.send("lost")
        await clock.settle()
        assert wire.bytes_written - before == 2 + 4 + 4
        wire.drop = False
        await client.send("found")
        assert await server.recv() == "found"


@on_asyncio
async def test_a_reset() -> None:
    async with pair() as (client, server):
        await client.send("lost")
        link(server).reset()
        for connection in (client, server):
            with pytest.raises(ConnectionClosedError) as caught:
                await connection.recv()
            assert isinstance(caught.value.__cause__, ConnectionResetError)


@on_asyncio
async def test_backpressure() -> None:
    async with Clock() as clock, pair(max_queue=1, compression=None) as (client, server):
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while True:
                await client.send(bytes(10_000))
                sent += 1

        task = asyncio.create_task(flood())
        await clock.advance(1)
        stuck = sent
        assert 5 < stuck < 100
        await clock.advance(1)
        assert sent == stuck
        for _ in range(20):
            assert len(await server.recv()) == 10_000
        await clock.settle()
        assert sent > stuck
        task.cancel()


@on_asyncio
async def test_who_does_not_read_for_too_long() -> None:
    async with (
        Clock() as clock,
        pair(server={"write_deadline": 5, "compression": None}, ping_interval=None) as (
            _,
            server,
        ),
    ):
        link(server).outgoing.hold = True
        sending = asyncio.create_task(server.send(bytes(500_000)))
        await clock.advance(4.9)
        assert not sending.done()
        await clock.advance(10)
        with pytest.raises(ConnectionClosed):
            await sending


@on_asyncio
async def test_what_is_not_in_memory_has_no_link() -> None:
    with pytest.raises(TypeError, match="in memory"):
        link(object())  # type: ignore[arg-type] # that is the test


def test_wires_are_checked() -> None:
    with pytest.raises(ValueError, match="delay"):
        Wire(delay=-1)
    with pytest.raises(ValueError, match="split"):
        Wire(split=0)


@on_asyncio
async def test_a_wire_is_good_for_one_connection() -> None:
    async with serving(echo) as place:
        wire = Wire()
        with pytest.raises(ValueError, match="Wire"):
            await place.connect(outgoing=wire, incoming=wire)
        async with place.connect(outgoing=wire):
            with pytest.raises(ValueError, match="Wire"):
                await place.connect(outgoing=wire)


# ---------------------------------------------------------------------- transports


class Recorder(asyncio.Protocol):
    """Notes how it is called."""

    keeps_open = False

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        if data == b"fail":
            raise ZeroDivisionError
        self.calls.append(data)

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return self.keeps_open

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append(("lost", exc))

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")


def recorders() -> tuple[Recorder, Recorder, MemoryTransport, MemoryTransport]:
    left, right = Recorder(), Recorder()
    return left, right, *connected(left, right, Wire(), Wire())


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@on_asyncio
async def test_a_transport_does_what_those_of_event_loops_do() -> None:
    """The same calls on a socket of the event loop and in memory, with the same outcome."""

    async def exercise(
        left: Recorder,
        right: Recorder,
        client: Any,
        server: Any,
        rest: Callable[[], Coroutine[Any, Any, None]],
    ) -> list[Any]:
        client.write(b"one")
        await rest()
        server.pause_reading()
        client.write(bytearray(b"two"))
        await rest()
        outcome: list[Any] = [server.is_reading(), list(right.calls)]
        server.resume_reading()
        await rest()
        right.keeps_open = True
        client.write_eof()
        await rest()
        with pytest.raises(RuntimeError, match="write_eof"):
            client.write(b"more")
        with pytest.raises(TypeError, match="bytes-like"):
            server.write("text")
        server.write(memoryview(b"three"))
        await rest()
        server.close()
        server.write(b"ignored")
        outcome += [server.is_closing(), server.can_write_eof()]
        await rest()
        return [*outcome, left.calls, right.calls, client.is_closing()]

    left, right, client, server = recorders()
    in_memory = await exercise(left, right, client, server, turns)

    async def pause() -> None:
        await asyncio.sleep(0.02)

    left, right = Recorder(), Recorder()
    loop = asyncio.get_running_loop()
    one, other = socket.socketpair()
    client_transport, _ = await loop.create_connection(lambda: left, sock=one)
    server_transport, _ = await loop.create_connection(lambda: right, sock=other)
    on_sockets = await exercise(left, right, client_transport, server_transport, pause)
    assert in_memory == on_sockets


@on_asyncio
async def test_flow_control_of_a_transport() -> None:
    left, right, client, server = recorders()
    client.set_write_buffer_limits(1000, 100)
    assert client.get_write_buffer_limits() == (100, 1000)
    server.pause_reading()
    client.write(bytes(WINDOW))
    assert client.get_write_buffer_size() == 0
    client.write(bytes(1001))
    assert client.get_write_buffer_size() == 1001
    await turns()
    assert left.calls == ["made", "pause"]
    client.close()
    await turns()
    assert left.calls == ["made", "pause"]  # it has something to write
    server.resume_reading()
    await turns()
    assert ("lost", None) in left.calls
    assert sum(len(call) for call in right.calls if isinstance(call, bytes)) == WINDOW + 1001
    assert right.calls[-2:] == ["eof", ("lost", None)]
    client.set_write_buffer_limits(low=10)
    assert client.get_write_buffer_limits() == (10, 40)
    client.set_write_buffer_limits()
    assert client.get_write_buffer_limits() == (2**14, 2**16)


class Sipping(asyncio.BufferedProtocol):
    """Takes two bytes, and then pauses."""

    def __init__(self) -> None:
        self.buffer = bytearray(2)
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.received += self.buffer[:nbytes]
        self.transport.pause_reading()


@on_asyncio
async def test_a_protocol_that_pauses_gets_the_rest_later() -> None:
    sipping = Sipping()
    client, server = connected(Recorder(), sipping, Wire(), Wire())
    client.write(b"12345")
    await turns()
    assert sipping.received == b"12"
    assert client._outgoing.bytes_under_way == 3
    for expected in (b"1234", b"12345"):
        server.resume_reading()
        await turns()
        assert sipping.received == expected
    other = Recorder()
    server.set_protocol(other)
    assert server.get_protocol() is other
    server.resume_reading()
    client.write(b"6")
    await turns()
    assert other.calls == [b"6"]
    client.abort()
    client.write_eof()  # too late
    await turns()
    assert other.calls == [b"6", "eof", ("lost", None)]


@on_asyncio
async def test_aborting_a_transport_loses_what_waits() -> None:
    left, right, client, server = recorders()
    server.pause_reading()
    client.write(bytes(WINDOW - 10))
    client.write(bytes(2 * WINDOW))
    client.abort()
    client.abort()
    await turns()
    assert left.calls[-1] == ("lost", None)
    server.resume_reading()
    await turns()
    assert sum(len(call) for call in right.calls if isinstance(call, bytes)) == WINDOW


@pytest.mark.parametrize("place", ["data", "eof"])
def test_a_protocol_that_fails(place: str) -> None:
    async def main() -> None:
        told = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        left, right, client, _ = recorders()
        if place == "eof":
            right.eof_received = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value] # fails
            client.write_eof()
        else:
            client.write(b"fail")
        await turns()
        assert isinstance(told[0]["exception"], ZeroDivisionError)
        assert right.calls[-1] == ("lost", told[0]["exception"])
        assert left.calls[-1] == ("lost", None)
        assert isinstance(client.get_protocol(), Recorder)

    asyncio.run(main())


# ---------------------------------------------------------------------- ASGI


class Application:
    """An echo, with a lifespan."""

    def __init__(self, failure: str | None = None) -> None:
        self.events: list[str] = []
        self.failure = failure

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.lifespan(scope, receive, send)
            return
        self.events.append(f"{scope['root_path']} {scope['path']} {scope['state']}")
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})
        self.events.append(f"disconnect {event['code']}")
        if scope["path"].endswith("/stuck"):
            await asyncio.sleep(3600)

    async def lifespan(self, scope: Any, receive: Any, send: Any) -> None:
        for what in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{what}"
            self.events.append(what)
            scope["state"][what] = True
            failed = self.failure == what
            await send(
                {"type": f"lifespan.{what}.failed", "message": "why"}
                if failed
                else {"type": f"lifespan.{what}.complete"}
            )
            if failed:
                return


@on_asyncio
async def test_an_asgi_application() -> None:
    app = Application()
    async with serving_asgi(app, root_path="/api") as place:
        async with place.connect("ws://localhost/echo") as connection:
            await connection.send("message")
            assert await connection.recv() == "message"
        left = await place.connect("ws://localhost/left")
    assert left.close_code == 1012
    assert app.events == [
        "startup",
        "/api /api/echo {'startup': True}",
        "disconnect 1000",
        "/api /api/left {'startup': True}",
        "disconnect 1012",
        "shutdown",
    ]
    with pytest.raises(ConnectionRefusedError):
        await place.connect()


@on_asyncio
async def test_an_asgi_application_in_fake_time() -> None:
    async with Clock() as clock, serving_asgi(Application(), ping_interval=5) as place:
        connection = await place.connect("ws://localhost/stuck", ping_interval=None)
        await clock.advance(5.1)
        assert connection.stats().pings_received == 1
    assert connection.state is State.CLOSED


@on_asyncio
async def test_an_asgi_application_whose_client_is_cut_off() -> None:
    app = Application()
    async with Clock(), serving_asgi(app) as place:
        connection = await place.connect("ws://localhost/")
        await connection.send("message")
        assert await connection.recv() == "message"
        link(connection).cut()
    assert app.events[-1] == "shutdown"
    assert app.events[-2].startswith("disconnect")


@on_asyncio
async def test_an_asgi_application_that_ends_with_its_connections() -> None:
    """It doesn't heed that the server leaves, but that its connections are cut off then."""
    ends: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "websocket"
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while scope["extensions"]["wsapi"]["connection"]().state is not State.CLOSED:
                await asyncio.sleep(0)
            ends.append("by itself")
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    async with Clock(), serving_asgi(app) as place:
        connection = await place.connect()
        link(connection).outgoing.hold = True
    assert ends == ["by itself"]


@pytest.mark.parametrize("what", ["startup", "shutdown"])
def test_a_lifespan_that_fails(what: str) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=f"{what} of the application failed: why"):
            async with serving_asgi(Application(what)):
                assert what == "shutdown"

    asyncio.run(main())


@pytest.mark.parametrize("place", ["startup", "connection", "shutdown"])
def test_a_test_that_is_cancelled_while_its_application_hangs(place: str) -> None:
    async def hang() -> None:
        hanging.set()
        await asyncio.sleep(3600)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            await hang()
        for what in ("startup", "shutdown"):
            await receive()
            if what == place:
                await hang()
            await send({"type": f"lifespan.{what}.complete"})
            log.append(what)

    async def test() -> None:
        async with serving_asgi(app) as server:
            if place == "connection":
                await server.connect()

    async def main() -> None:
        task = asyncio.create_task(test())
        await hanging.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    log: list[str] = []
    hanging = asyncio.Event()
    asyncio.run(main())
    assert log == {"startup": [], "connection": ["startup", "shutdown"]}.get(place, ["startup"])


@on_asyncio
async def test_an_application_without_lifespan() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "websocket"
        await receive()
        await send({"type": "websocket.close"})

    async with serving_asgi(app) as place:
        with pytest.raises(InvalidStatus, match="403"):
            await place.connect()


@on_asyncio
async def test_nothing_is_left(caplog: pytest.LogCaptureFixture) -> None:
    """Neither tasks nor timers, nor errors in logs."""
    caplog.set_level(logging.WARNING)
    async with pair() as (client, server):
        await client.send("message")
        await server.recv()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert [record.getMessage() for record in caplog.records] == []


@on_asyncio
async def test_holding_what_is_about_to_arrive() -> None:
    async with Clock() as clock, pair() as (client, server):
        await client.send("message")
        await clock.settle()
        assert await server.recv() == "message"
        link(client).outgoing.delay = 1
        await client.send("held")
        await clock.advance(0.5)
        link(client).outgoing.hold = True
        await clock.advance(10)
        receiving = asyncio.ensure_future(server.recv())
        await clock.settle()
        assert not receiving.done()
        link(client).outgoing.hold = False
        await clock.settle()
        assert receiving.result() == "held"
