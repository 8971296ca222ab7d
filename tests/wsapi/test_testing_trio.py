"""The testing kit on trio: pairs and servers in memory, and the time of the run."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, Self

import pytest
import trio
import trio.testing

from wsapi.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    InvalidStatus,
    NegotiationError,
)
from wsapi.testing._streams import MemoryStream, connected
from wsapi.testing._wires import WINDOW
from wsapi.testing.trio import Wire, advance, link, pair, serving
from wsapi.trio.client import ClientConnection
from wsproto_fast.frames import State


async def echo(connection: Any) -> None:
    async for message in connection:
        await connection.send(message)


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine function with a clock that stands still."""
    trio.run(main, clock=trio.testing.MockClock())


def test_a_pair_exchanges_messages() -> None:
    async def main() -> None:
        async with pair(subprotocols=["chat"]) as (client, server):
            assert client.subprotocol == server.subprotocol == "chat"
            await client.send("question")
            assert await server.recv() == "question"
            await server.send(b"answer" * 100_000)
            assert await client.recv() == b"answer" * 100_000
        assert (client.close_code, server.close_code) == (1000, 1000)

    run(main)


def test_options_of_a_pair() -> None:
    async def main() -> None:
        async with pair(
            "wss://example.com/path",
            client={"additional_headers": {"X-Test": "1"}},
            server={"server_header": "kit"},
            compression=None,
        ) as (client, server):
            assert server.request is not None
            assert (server.request.path, server.request.headers["X-Test"]) == ("/path", "1")
            assert client.response is not None
            assert client.response.headers["Server"] == "kit"

    run(main)


def test_a_pair_whose_handshake_fails() -> None:
    async def main() -> None:
        with pytest.raises(InvalidStatus, match="403"):
            async with pair(client={"origin": "http://a"}, server={"origins": ["http://b"]}):
                raise AssertionError

    run(main)


def test_a_pair_whose_client_does_not_take_the_response() -> None:
    """Its server doesn't wait for its end then."""

    def choose_another(connection: Any, request: Any, response: Any) -> None:
        response.headers["Sec-WebSocket-Protocol"] = "another"

    async def main() -> None:
        begin = trio.current_time()
        with pytest.raises(NegotiationError):
            async with pair(server={"process_response": choose_another}):
                raise AssertionError
        assert trio.current_time() < begin + 0.9

    trio.run(main)


def test_a_pair_whose_block_fails() -> None:
    """The exception comes as it is, in no group."""

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with pair() as (client, server):
                raise ZeroDivisionError
        assert (client.state, server.state) == (State.CLOSED, State.CLOSED)

    run(main)


def test_a_pair_ends_with_unread_messages() -> None:
    async def main() -> None:
        async with pair(max_queue=1) as (client, server):
            for _ in range(10):
                await client.send("message")
        assert (client.state, server.state) == (State.CLOSED, State.CLOSED)

    run(main)


def test_a_pair_ends_although_the_server_has_to_wait() -> None:
    """The limit on the rate keeps it from reading the Close frame, until time passes."""

    async def main() -> None:
        async with pair(server={"message_rate": 1}) as (client, server):
            for _ in range(20):
                await client.send("message")
            assert await server.recv() == "message"
        assert (client.state, server.state) == (State.CLOSED, State.CLOSED)

    run(main)


def test_keepalive_in_fake_time() -> None:
    async def main() -> None:
        async with pair(client={"ping_interval": 20}, server={"ping_interval": None}) as (
            client,
            server,
        ):
            link(client).outgoing.delay = 0.25
            await advance(19.9)
            assert client.stats().pings_sent == 0
            await advance(0.2)
            assert client.stats().pings_sent == 1
            await advance(0.5)
            assert client.latency == pytest.approx(0.25)
            link(client).cut()
            await advance(39.2)  # until shortly before 60
            assert client.state is State.OPEN
            await advance(0.4)
            assert client.state is State.CLOSING
            await advance(10.1)
            assert client.state is State.CLOSED
            with pytest.raises(ConnectionClosedError, match="keepalive"):
                await client.recv()
            assert server.state is State.OPEN

    run(main)


def test_the_closing_handshake_times_out() -> None:
    async def main() -> None:
        async with pair(client={"close_timeout": 7}) as (client, _):
            link(client).cut()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.aclose)
                await advance(6.9)
                assert client.state is State.CLOSING
                await advance(0.2)
                assert client.close_code == 1006

    run(main)


def test_the_opening_handshake_times_out() -> None:
    async def main() -> None:
        async with serving(echo, open_timeout=30) as place:
            begin = trio.current_time()
            with pytest.raises(TimeoutError):
                async with place.connect(incoming=Wire(drop=True), open_timeout=5):
                    raise AssertionError
            assert trio.current_time() - begin == pytest.approx(5)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_misuse_of_advance() -> None:
    async def main() -> None:
        for seconds in (-1, math.inf, math.nan):
            with pytest.raises(ValueError, match="seconds"):
                await advance(seconds)

    run(main)
    with pytest.raises(RuntimeError, match="MockClock"):
        trio.run(advance, 1)


# ---------------------------------------------------------------------- faults


def test_single_bytes() -> None:
    async def main() -> None:
        async with serving(echo) as place:
            async with place.connect(incoming=Wire(split=1), outgoing=Wire(split=1)) as connection:
                await connection.send("message" * 100)
                assert await connection.recv() == "message" * 100

    run(main)


def test_bytes_that_are_held() -> None:
    async def main() -> None:
        async with pair() as (client, server):
            link(client).outgoing.hold = True
            await client.send("message")
            with trio.move_on_after(10) as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(server.recv)
                    await advance(15)
            assert scope.cancelled_caught
            link(client).outgoing.hold = False
            assert await server.recv() == "message"

    run(main)


def test_delays_and_bandwidth() -> None:
    async def main() -> None:
        async with pair(compression=None, ping_interval=None) as (client, server):
            link(client).outgoing.delay = 5
            begin = trio.current_time()
            await client.send("message")
            assert await server.recv() == "message"
            assert trio.current_time() - begin == pytest.approx(5)
            link(client).outgoing.delay = 0
            link(client).outgoing.bandwidth = 1000
            await client.send(bytes(10_000))
            assert await server.recv() == bytes(10_000)
            assert trio.current_time() - begin == pytest.approx(15, abs=0.1)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_reset() -> None:
    async def main() -> None:
        async with pair() as (client, server):
            await client.send("lost")
            link(client).reset()
            for connection in (client, server):
                with pytest.raises(ConnectionClosedError) as info:
                    await connection.recv()
                assert isinstance(info.value.__cause__, trio.BrokenResourceError)
            with pytest.raises(ConnectionClosed):
                await client.send("message")

    run(main)


def test_a_pair_ends_although_the_cable_is_cut() -> None:
    async def main() -> None:
        async with pair() as (client, server):
            link(client).cut()
        assert (client.state, server.state) == (State.CLOSED, State.CLOSED)
        with pytest.raises(ZeroDivisionError):
            async with pair() as (client, server):
                link(client).outgoing.delay = 60
                await client.send("late")
                raise ZeroDivisionError
        assert (client.state, server.state) == (State.CLOSED, State.CLOSED)

    run(main)


def test_a_pair_that_is_cancelled() -> None:
    async def main() -> None:
        with trio.CancelScope() as scope:
            async with pair() as (client, server):
                link(server).incoming.hold = True
                await client.send("message")
                scope.cancel()
                await server.recv()
        assert scope.cancelled_caught
        await trio.testing.wait_all_tasks_blocked()
        assert (client.state, server.state) == (State.CLOSED, State.CLOSED)

    run(main)


def test_a_pair_that_is_cancelled_when_it_is_about_to_begin() -> None:
    async def main() -> None:
        class Client(ClientConnection):
            async def __aenter__(self) -> Self:
                scope.cancel()
                return self

        with trio.CancelScope() as scope:
            async with pair(client={"create_connection": Client}):
                raise AssertionError
        assert scope.cancelled_caught

    run(main)


def test_a_pair_in_real_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delay is no reason to give the closing handshake up, but one that is too long is."""
    monkeypatch.setattr("wsapi.testing._common.GRACE", 0.2)

    async def main() -> None:
        async with pair() as (client, server):
            link(client).outgoing.delay = link(client).incoming.delay = 0.01
        assert (client.close_code, server.close_code) == (1000, 1000)
        async with pair() as (client, server):
            link(client).cut()
        assert client.close_code == 1006

    trio.run(main)


# ---------------------------------------------------------------------- streams


def test_streams_are_as_trio_wants_them() -> None:
    async def make() -> tuple[MemoryStream, MemoryStream]:
        return connected(Wire(), Wire())

    async def make_clogged() -> tuple[MemoryStream, MemoryStream]:
        left, right = await make()
        for stream in (left, right):
            await stream.send_all(bytes(WINDOW))
        return left, right

    async def main() -> None:
        await trio.testing.check_half_closeable_stream(make, make_clogged)

    trio.run(main)


def test_streams_that_have_ended() -> None:
    async def main() -> None:
        left, right = connected(Wire(), Wire())
        left._reset()
        with pytest.raises(trio.BrokenResourceError, match="reset"):
            await left.send_all(b"data")
        await left.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await left.send_eof()
        await right.aclose()

    trio.run(main)


def test_who_sends_waits_for_who_receives() -> None:
    async def main() -> None:
        left, right = connected(Wire(), Wire())
        data = bytes(1_000_000)
        received = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(left.send_all, data)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await left.send_all(b"")
            assert left._outgoing.bytes_written < len(data)
            while len(received) < len(data):
                received += await right.receive_some(10_000)
        await left.wait_send_all_might_not_block()
        await left.send_all(bytes(2**16))
        with trio.move_on_after(1) as scope:
            await left.wait_send_all_might_not_block()
        assert scope.cancelled_caught

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_serving_a_handler() -> None:
    async def main() -> None:
        async with serving(echo) as place:
            async with place.connect() as first, place.connect() as second:
                await first.send("1")
                await second.send("2")
                assert (await first.recv(), await second.recv()) == ("1", "2")
                assert len(place.server.connections) == 2
        with pytest.raises(ConnectionRefusedError):
            async with place.connect():
                raise AssertionError

    run(main)


def test_connecting_to_a_server_that_was_not_entered() -> None:
    async def main() -> None:
        with pytest.raises(ConnectionRefusedError, match="async with"):
            async with serving(echo).connect():
                raise AssertionError

    run(main)


def test_reconnecting_in_memory() -> None:
    async def handler(connection: Any) -> None:
        await connection.send("hello")

    async def main() -> None:
        greetings = []
        async with serving(handler) as place:
            async for connection in place.connect():
                greetings.append(await connection.recv())
                if len(greetings) == 3:
                    break
        assert greetings == ["hello"] * 3

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_handler_that_does_not_end_is_cancelled() -> None:
    ends = []

    async def handler(connection: Any) -> None:
        try:
            await trio.sleep(3600)
        finally:
            ends.append(True)

    async def main() -> None:
        async with serving(handler) as place, place.connect():
            await trio.testing.wait_all_tasks_blocked()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert ends == [True]


def test_one_at_a_time_in_its_handshake() -> None:
    async def main() -> None:
        async with serving(echo) as place:
            async with place.connect(one_connecting=True) as connection:
                await connection.send("message")
                assert await connection.recv() == "message"

    run(main)


def test_a_server_that_does_not_start() -> None:
    async def main() -> None:
        with pytest.raises(Exception, match=r"colour|TypeError"):
            async with serving(echo, colour="blue"):
                raise AssertionError

    run(main)


@pytest.mark.parametrize("option", ["host", "port", "listeners", "ssl"])
def test_options_of_sockets_have_no_use(option: str) -> None:
    with pytest.raises(ValueError, match=f"no use for {option}"):
        serving(echo, **{option: None})


def test_options_of_sockets_have_no_use_on_clients() -> None:
    async def main() -> None:
        async with serving(echo) as place:
            with pytest.raises(ValueError, match="no use for host"):
                place.connect(host="localhost")

    run(main)


@pytest.mark.parametrize("kind", ["serving", "pair"])
@pytest.mark.parametrize("nested", [True, False])
def test_entered_twice(kind: str, nested: bool) -> None:
    async def main() -> None:
        manager: Any = serving(echo) if kind == "serving" else pair()
        if nested:
            async with manager:
                with pytest.raises(RuntimeError, match="entered once"):
                    await manager.__aenter__()
        else:
            async with manager:
                pass
            with pytest.raises(RuntimeError, match="entered once"):
                await manager.__aenter__()

    run(main)
