"""The testing kit on trio: pairs and servers in memory, and the time of the run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from wsapi.exceptions import ConnectionClosedError, InvalidStatus
from wsapi.testing.trio import pair, serving
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
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        async with pair(client={"ping_interval": 20}, server={"ping_interval": None}) as (
            client,
            _,
        ):

            async def receive() -> None:
                with pytest.raises(ConnectionClosedError):
                    await client.recv()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await trio.testing.wait_all_tasks_blocked()
                clock.jump(19.9)
                await trio.testing.wait_all_tasks_blocked()
                assert client.stats().pings_sent == 0
                clock.jump(0.2)
                await trio.testing.wait_all_tasks_blocked()
                assert client.stats().pings_sent == 1
                nursery.cancel_scope.cancel()

    run(main)


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
