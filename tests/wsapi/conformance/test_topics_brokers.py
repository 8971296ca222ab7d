"""Topics of several processes on real brokers, which fail."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver
from tests.wsapi.conformance.test_topics import Subscribed, crowd, messages
from tests.wsapi.topics.test_brokers import Server
from wsapi.exceptions import ConnectionClosed
from wsapi.frames import CloseCode
from wsapi.topics import BusError

prefixes = (f"faces{number}" for number in count())


@pytest.fixture(params=["valkey", "nats"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    server = Server(request.param, tmp_path)
    server.start()
    yield server
    server.server.stop()


def bus_of(server: Server, prefix: str) -> Any:
    if server.kind == "nats":
        from wsapi.topics.nats import NatsBus

        url = f"nats://127.0.0.1:{server.port}"
        return NatsBus(url, prefix=prefix, stream=prefix, timeout=2)
    from wsapi.topics.redis import RedisBus

    return RedisBus(f"redis://127.0.0.1:{server.port}", prefix=prefix, timeout=2)


@contextlib.asynccontextmanager
async def processes(
    driver: Driver, number: int, server: Server, **options: Any
) -> AsyncIterator[list[Subscribed]]:
    prefix = next(prefixes)
    options = {"heartbeat": 0.2} | options
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(Subscribed(driver, bus_of(server, prefix), **options))
            for _ in range(number)
        ]


async def publish(driver: Driver, topics: Subscribed, text: str) -> Any:
    """Publish a message, again and again until that is possible."""
    while True:
        try:
            return await topics.publish("a", text)
        except BusError:
            await driver.sleep(0.01)


async def test_a_broker_that_is_killed(driver: Driver, server: Server) -> None:
    """Whoever is subscribed gets all in order; whoever comes back, what was missed, too."""
    async with processes(driver, 2, server) as (one, two), crowd(driver, 2) as pairs:
        (client, there), (other, elsewhere) = pairs
        async with two.subscribe(there, "a"), two.subscribe(elsewhere, "a") as subscription:
            for number in range(20):
                await publish(driver, one, str(number))
            assert await messages(client, 20) == [str(number) for number in range(20)]
            assert await messages(other, 20) == [str(number) for number in range(20)]
            position = subscription.position
            await driver.in_thread(server.kill)
            await driver.until(lambda: not (one.healthy or two.healthy))
            await driver.in_thread(server.start)
            for number in range(20, 40):
                await publish(driver, one, str(number))
            got: list[Any] = []
            while "39" not in got:
                got += await messages(client, 1)
            # Whether it was published is uncertain where the answer was lost.
            assert list(dict.fromkeys(got)) == [str(number) for number in range(20, 40)]
        await driver.call(one.raw.wait_healthy, 10)
        async with one.subscribe(elsewhere, "a", since=position) as subscription:
            assert subscription.recovered
            again = await messages(other, 2 * len(got))
            assert again == got + got


async def test_closing_while_the_broker_stands_still(driver: Driver, server: Server) -> None:
    """It takes its time, but not for ever, and leaves nothing behind."""
    async with driver.pair() as (client, there):
        async with processes(driver, 1, server) as (topics,):
            await topics.subscribed(there, "a")
            await publish(driver, topics, "x")
            assert await messages(client, 1) == ["x"]
            await driver.in_thread(server.pause)

            async def fail() -> None:
                with pytest.raises(BusError):
                    await topics.publish("a", "y")

            publishing = driver.spawn(fail())
            await driver.settle()
        server.go_on()
        with pytest.raises(ConnectionClosed):
            await messages(client, 2)
        assert client.close_code == CloseCode.SERVICE_RESTART
        await publishing
        assert topics.gone()
