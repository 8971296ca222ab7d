"""Topics of several processes, on a bus whose broker is in memory and fails when it is told."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Ws
from tests.wsapi.conformance.test_topics import Subscribed, crowd, messages, nothing_more
from tests.wsapi.helpers import logged_errors
from tests.wsapi.topics.memory_bus import MemoryBroker
from wsapi.exceptions import ConnectionClosed
from wsapi.frames import CloseCode
from wsapi.topics import (
    BusError,
    BusUnavailable,
    History,
    Message,
    Position,
    PublishUncertain,
    TopicsError,
)
from wsapi.topics.bus import Page


@pytest.fixture(autouse=True)
def _no_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have chance choose the beginning of each span."""
    monkeypatch.setattr(random, "random", lambda: 0.001)


@contextlib.asynccontextmanager
async def processes(
    driver: Driver, number: int, broker: MemoryBroker | None = None, **options: Any
) -> AsyncIterator[list[Subscribed]]:
    """Open topics as several processes have them, on one broker."""
    broker = broker or MemoryBroker()
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(Subscribed(driver, broker.bus(), **options))
            for _ in range(number)
        ]


async def healthy(driver: Driver, topics: Subscribed) -> None:
    await driver.call(topics.raw.wait_healthy, 10)
    assert topics.healthy


async def unhealthy(driver: Driver, topics: Subscribed) -> None:
    await driver.until(lambda: not topics.healthy)


class TestDelivery:
    async def test_to_all_processes(self, driver: Driver) -> None:
        async with processes(driver, 3) as (one, two, three), crowd(driver, 3) as pairs:
            clients = [client for client, _ in pairs]
            async with (
                one.subscribe(pairs[0][1], "a"),
                two.subscribe(pairs[1][1], "a"),
                two.subscribe(pairs[2][1], "a") as subscription,
            ):
                positions = [
                    await topics.publish("a", f"m{number}")
                    for number, topics in enumerate((one, two, three))
                ]
                for client in clients:
                    assert await messages(client, 3) == ["m0", "m1", "m2"]
                assert [position and position.offset for position in positions] == [1, 2, 3]
                assert subscription.position == positions[-1]
                published = [t.stats().counters.published for t in (one, two, three)]
                assert published == [1, 1, 1]
            await one.publish("a", "late")
            for client in clients:
                await nothing_more(client)

    async def test_one_follow_and_one_delayed_unfollow(self, driver: Driver) -> None:
        broker = MemoryBroker()
        async with processes(driver, 1, broker, unfollow_delay=0.05) as (topics,):
            async with crowd(driver, 3) as pairs:
                subscriptions = await driver.gather(
                    *(topics.subscribed(server, "a") for _, server in pairs)
                )
                assert broker.calls == [("follow", "a")]
                for subscription in subscriptions:
                    subscription.unsubscribe()
                async with topics.subscribe(pairs[0][1], "a"):
                    pass
                await driver.until(lambda: topics.stats().topics == 0)
                assert broker.calls == [("follow", "a"), ("unfollow", "a")]

    async def test_from_other_threads(self, driver: Driver) -> None:
        broker = MemoryBroker()
        async with processes(driver, 1, broker) as (topics,), driver.pair() as (client, server):
            async with topics.subscribe(server, "a"):

                def publish() -> list[Any]:
                    futures = [topics.publish_threadsafe("a", str(n)) for n in range(50)]
                    return [future.result(10) for future in futures]

                positions = await driver.in_thread(publish)
                assert [position.offset for position in positions] == list(range(1, 51))
                assert await messages(client, 50) == [str(n) for n in range(50)]
                broker.go_away()
                future = topics.publish_threadsafe("a", "x")
                with pytest.raises(BusUnavailable):
                    await driver.in_thread(future.result, 10)

    async def test_who_is_present(self, driver: Driver) -> None:
        events: list[Any] = []
        async with processes(driver, 2) as (one, two), crowd(driver, 1) as ((client, server),):
            end = two.watch_presence("a", events.append)
            await one.subscribed(server, "a", member="ann")
            await driver.until(lambda: two.presence("a", names=True).names == ("ann",))
            await client.close()
            await driver.until(lambda: not two.presence("a").members)
            await driver.until(lambda: len(events) == 2)
            assert events == [("a", "ann", True), ("a", "ann", False)]
            end()
            end()


class TestOpeningAndClosing:
    async def test_before_it_is_opened(self, driver: Driver) -> None:
        topics = Subscribed(driver, MemoryBroker().bus())
        async with driver.pair() as (_, server):
            with pytest.raises(RuntimeError, match="enter them first"):
                await topics.publish("a", "x")
            with pytest.raises(RuntimeError, match="enter them first"):
                await topics.subscribed(server, "a")
        assert not topics.healthy
        with pytest.raises(BusUnavailable):
            await driver.call(topics.raw.wait_healthy, 0.1)

    async def test_a_broker_that_is_not_there(self, driver: Driver) -> None:
        broker = MemoryBroker()
        broker.go_away()
        topics = Subscribed(driver, broker.bus())
        with pytest.raises(BusUnavailable):
            await driver.call(topics.raw.open)
        broker.come_back()
        async with topics:
            await healthy(driver, topics)
            await topics.publish("a", "x")
        with pytest.raises(RuntimeError):
            await driver.call(topics.raw.open)

    async def test_closing(self, driver: Driver) -> None:
        broker = MemoryBroker()
        async with driver.pair() as (client, server):
            async with processes(driver, 1, broker) as (topics,):
                await topics.subscribed(server, "a")
                await topics.subscribed(server, "b")
            with pytest.raises(ConnectionClosed):
                await client.recv(timeout=10)
            assert client.close_code == CloseCode.SERVICE_RESTART
            assert topics.gone()
            with pytest.raises(RuntimeError, match="closed"):
                await topics.publish("a", "x")
            assert not broker.buses
            if driver.package != "asyncio":
                with pytest.raises((BusError, RuntimeError)):
                    topics.publish_threadsafe("a", "x")

    async def test_opening_after_closing(self, driver: Driver) -> None:
        """Those that were closed can't be opened; others take their place, with the same bus."""
        bus = MemoryBroker().bus()
        async with Subscribed(driver, bus) as first:
            position = await first.publish("a", "1")
        with pytest.raises(RuntimeError, match="closed for good: make others"):
            await driver.call(first.raw.open)
        with pytest.raises(RuntimeError, match="these topics are closed"):
            await first.publish("a", "x")
        async with Subscribed(driver, bus) as second, driver.pair() as (client, server):
            async with second.subscribe(server, "a", since=position):
                await second.publish("a", "2")
                assert await messages(client, 1) == ["2"]

    @pytest.mark.parametrize("patience", [0.1, None])
    async def test_closing_what_does_not_answer(
        self, driver: Driver, patience: float | None
    ) -> None:
        """Nobody waits for ever, and nothing is left."""
        broker = MemoryBroker()
        came: list[BaseException] = []

        async def fails(awaitable: Any) -> None:
            try:
                await awaitable
            except (TopicsError, ConnectionClosed) as exc:
                came.append(exc)

        bus = broker.bus(timeout=patience)
        async with driver.pair() as (_, server):
            async with Subscribed(driver, bus) as topics:
                broker.answers = False
                tasks = [
                    driver.spawn(fails(topics.subscribed(server, "a"))),
                    driver.spawn(fails(topics.publish("b", "x"))),
                ]
                await driver.settle()
            if driver.package == "asyncio":
                # Publishing goes on in its own task, as long as the bus has patience.
                broker.answers = True
            for task in tasks:
                await task
            assert len(came) == 2 or driver.package == "asyncio"
            assert topics.gone()
        logged_errors()

    async def test_left_behind(self, driver: Driver) -> None:
        """Topics that were never opened keep nothing alive."""
        before = threading.active_count()
        topics = Subscribed(driver, MemoryBroker().bus())
        del topics
        gc.collect()
        assert threading.active_count() <= before


class TestRecovery:
    async def test_in_another_process(self, driver: Driver) -> None:
        async with processes(driver, 2) as (one, two), crowd(driver, 2) as pairs:
            (client, server), (_, other) = pairs
            async with one.subscribe(other, "a") as subscription:
                positions = [await one.publish("a", str(number)) for number in range(600)]
                await driver.until(lambda: subscription.position == positions[-1])
            async with two.subscribe(server, "a", since=positions[9]) as subscription:
                assert subscription.recovered is True
                await one.publish("a", "600")
                assert await messages(client, 591) == [str(n) for n in range(10, 601)]

    async def test_without_gap_while_publishing_goes_on(self, driver: Driver) -> None:
        broker = MemoryBroker(100_000)
        async with (
            processes(driver, 2, broker, history=History(0)) as (one, two),
            crowd(driver, 4) as pairs,
        ):
            positions = [await one.publish("a", str(number)) for number in range(300)]
            stop = driver.event()

            async def publish() -> None:
                number = 300
                while not stop.is_set():
                    await one.publish("a", str(number))
                    number += 1

            async def come_back(client: Ws, server: Ws, offset: int) -> None:
                async with two.subscribe(server, "a", since=positions[offset]) as subscription:
                    assert subscription.recovered
                    for number in range(offset + 1, 500):
                        assert await client.recv(timeout=10) == str(number)

            publishing = driver.spawn(publish())
            await driver.gather(
                *(
                    come_back(client, server, 37 * number)
                    for number, (client, server) in enumerate(pairs)
                )
            )
            stop.set()
            await publishing

    async def test_a_history_that_does_not_reach_back(self, driver: Driver) -> None:
        broker = MemoryBroker(10)
        async with processes(driver, 2, broker) as (one, two), driver.pair() as (client, server):
            positions = [await one.publish("a", str(number)) for number in range(30)]
            assert positions[0] is not None
            for since in (positions[5], ("foreign", 1), (positions[0].epoch, 31)):
                async with two.subscribe(
                    server, "a", since=since, announce=lambda s: f"{s.recovered}"
                ) as subscription:
                    assert subscription.position == positions[-1]
                assert await client.recv() == "False"
            async with two.subscribe(server, "a", since=positions[-1]) as subscription:
                assert subscription.recovered is True


class TestTrouble:
    async def test_what_was_missed_is_filled(self, driver: Driver) -> None:
        broker = MemoryBroker()
        health: list[bool] = []
        async with (
            processes(driver, 2, broker, on_health=lambda good, _: health.append(good)) as topics,
            driver.pair() as (client, server),
        ):
            one, two = topics
            async with two.subscribe(server, "a"):
                await one.publish("a", "1")
                assert await client.recv(timeout=10) == "1"
                bus = broker.buses[1]
                bus.lose(ConnectionResetError("gone"))
                await unhealthy(driver, two)
                await one.publish("a", "2")
                await one.publish("a", "3")
                bus.regain()
                await one.publish("a", "4")
                assert await messages(client, 3) == ["2", "3", "4"]
                await healthy(driver, two)
                counters = two.stats().counters
                assert (counters.resumed, counters.gaps) == (1, 0)
                assert counters.filled >= 2
            await driver.until(lambda: len(health) == 4)
            assert health == [True, True, False, True]

    async def test_publishers_while_the_bus_is_away(self, driver: Driver) -> None:
        broker = MemoryBroker()
        async with processes(driver, 1, broker) as (topics,), driver.pair() as (client, server):
            async with topics.subscribe(server, "a"):
                broker.go_away()
                await unhealthy(driver, topics)
                with pytest.raises(BusUnavailable):
                    await topics.publish("a", "1")
                with pytest.raises(TimeoutError):
                    await driver.call(topics.raw.wait_healthy, 0.01)
                broker.come_back()
                await healthy(driver, topics)
                broker.lost_answers = 1
                with pytest.raises(PublishUncertain):
                    await topics.publish("a", "2")
                await topics.publish("a", "3")
                assert await messages(client, 2) == ["2", "3"]

    async def test_subscribers_while_the_bus_is_away(self, driver: Driver) -> None:
        broker = MemoryBroker()
        async with processes(driver, 1, broker) as (topics,), crowd(driver, 2) as pairs:
            (one, first), (two, second) = pairs
            await topics.subscribed(first, "a")
            position = await topics.publish("a", "1")
            assert await one.recv(timeout=10) == "1"
            broker.go_away()
            await unhealthy(driver, topics)
            # What is followed can be subscribed to; what isn't, can't.
            await topics.subscribed(second, "a", since=position)
            with pytest.raises(BusUnavailable):
                await topics.subscribed(second, "b")
            assert topics.stats().subscriptions == 2
            broker.come_back()
            await healthy(driver, topics)
            await topics.publish("a", "2")
            assert (await one.recv(timeout=10), await two.recv(timeout=10)) == ("2", "2")
            await topics.subscribed(second, "b")

    @pytest.mark.parametrize("how", ["closed", "told", "nothing told", "fails", "unsubscribes"])
    async def test_a_gap(self, driver: Driver, how: str) -> None:
        broker = MemoryBroker()
        told: list[Position | None] = []

        def on_gap(subscription: Any) -> Message | None:
            told.append(subscription.position)
            if how == "fails":
                raise ZeroDivisionError
            if how == "unsubscribes":
                subscription.unsubscribe()
            return "gap" if how == "told" else None

        async with processes(driver, 2, broker) as (one, two), driver.pair() as (client, server):
            await two.subscribed(server, "a", on_gap=None if how == "closed" else on_gap)
            await one.publish("a", "1")
            assert await client.recv(timeout=10) == "1"
            bus = broker.buses[1]
            bus.lose(ConnectionResetError("gone"))
            await one.publish("a", "2")
            latest = await one.publish("a", "3")
            broker.trim("a")
            bus.regain()
            await driver.until(lambda: two.stats().counters.gaps)
            await one.publish("a", "4")
            if how in ("closed", "fails"):
                with pytest.raises(ConnectionClosed):
                    await client.recv(timeout=10)
                assert client.close_code == CloseCode.SERVICE_RESTART
                assert client.close_reason == "messages may be missing: come again"
                assert two.stats().subscriptions == 0
                if how == "fails":
                    logged_errors("on_gap failed")
            elif how == "unsubscribes":
                await driver.until(lambda: two.stats().subscriptions == 0)
                await nothing_more(client)
            else:
                expected = ["gap", "4"] if how == "told" else ["4"]
                assert await messages(client, len(expected)) == expected
            assert told == ([] if how == "closed" else [latest])

    async def test_a_gap_while_much_comes(self, driver: Driver) -> None:
        """Whoever is told of a gap goes on behind it, and misses nothing more."""
        broker = MemoryBroker()
        async with processes(driver, 2, broker) as (one, two), driver.pair() as (client, server):
            await two.subscribed(server, "a", on_gap=lambda subscription: "gap")
            broker.drops = lambda notice: notice.message == "1"
            await one.publish("a", "1")
            broker.trim("a")
            for number in range(2, 300):
                await one.publish("a", str(number))
            assert await client.recv(timeout=10) == "gap"
            # Some of these are part of the gap, since the broker had them when it was asked.
            first = int(await client.recv(timeout=10))
            assert await messages(client, 299 - first) == [str(n) for n in range(first + 1, 300)]

    @pytest.mark.parametrize(
        "then", ["kept here", "read", "read in vain", "a gap again", "unsubscribed"]
    )
    async def test_what_came_while_a_gap_was_found(self, driver: Driver, then: str) -> None:
        """It follows the gap: from what the process keeps, or else from the broker."""
        broker = MemoryBroker(10_000)
        kept = 100 if then == "kept here" else 2
        async with (
            processes(driver, 2, broker, history=History(messages=kept)) as (one, two),
            driver.pair() as (client, server),
        ):
            subscription = await two.subscribed(server, "a", on_gap=lambda subscription: "gap")
            bus, reads = broker.buses[1], list[Page]()
            go_on, read_now = [threading.Event(), threading.Event()], bus.read

            async def read(topic: str, since: Position, limit: int) -> Page:
                page = await read_now(topic, since, limit)
                reads.append(page)
                while not go_on[len(reads) - 1].is_set():
                    await asyncio.sleep(0.001)
                if len(reads) == 2 and then == "read in vain":
                    raise BusUnavailable("no")
                return page

            bus.read = read  # type: ignore[method-assign] # until what it returns is old
            broker.drops = lambda notice: notice.message == "lost"
            await one.publish("a", "lost")
            broker.trim("a")
            await one.publish("a", "0")
            await driver.until(lambda: reads)
            for number in range(1, 10):
                await one.publish("a", str(number))
            if then == "a gap again":
                broker.trim("a")
            go_on[0].set()
            assert await client.recv(timeout=10) == "gap"
            if then != "kept here":
                await driver.until(lambda: len(reads) == 2)
                if then == "unsubscribed":
                    subscription.unsubscribe()
                go_on[1].set()
            if then in ("kept here", "read"):
                assert await messages(client, 9) == [str(number) for number in range(1, 10)]
            elif then == "read in vain":
                with pytest.raises(ConnectionClosed):
                    await client.recv(timeout=10)
                assert client.close_code == CloseCode.SERVICE_RESTART
            elif then == "a gap again":
                assert await client.recv(timeout=10) == "gap"
            await one.publish("a", "last")
            if then == "unsubscribed":
                await nothing_more(client)
            elif then != "read in vain":
                assert await client.recv(timeout=10) == "last"

    async def test_a_connection_with_several_topics_is_closed_once(self, driver: Driver) -> None:
        """Each of them has it closed, at a time of its own."""
        broker = MemoryBroker()
        async with (
            processes(driver, 1, broker, on_gap="close", spread=10) as (topics,),
            driver.pair() as (client, server),
        ):
            for name in "ab":
                await topics.subscribed(server, name)
            broker.go_away()
            await unhealthy(driver, topics)
            broker.come_back()
            with pytest.raises(ConnectionClosed):
                await client.recv(timeout=10)
            assert client.close_code == CloseCode.SERVICE_RESTART
            await healthy(driver, topics)
            assert topics.gone()

    async def test_closing_all_after_trouble(self, driver: Driver) -> None:
        broker = MemoryBroker()
        async with (
            processes(driver, 1, broker, on_gap="close", spread=0.01) as (topics,),
            crowd(driver, 3) as pairs,
        ):
            subscriptions = [await topics.subscribed(server, "a") for _, server in pairs[:2]]
            await topics.publish("a", "1")
            for client, _ in pairs[:2]:
                assert await client.recv(timeout=10) == "1"
            broker.go_away()
            await unhealthy(driver, topics)
            assert topics.stats().subscriptions == 2
            broker.come_back()
            for client, _ in pairs[:2]:
                with pytest.raises(ConnectionClosed):
                    await client.recv(timeout=10)
                assert client.close_code == CloseCode.SERVICE_RESTART
            await healthy(driver, topics)
            await topics.publish("a", "2")
            async with topics.subscribe(
                pairs[2][1], "a", since=subscriptions[0].position
            ) as subscription:
                assert subscription.recovered
                assert await pairs[2][0].recv(timeout=10) == "2"

    async def test_an_envelope_that_fails(self, driver: Driver) -> None:
        def envelope(topic: str, position: Position | None, message: Message) -> Message:
            if message == "bad":
                raise ZeroDivisionError
            return message

        async with (
            processes(driver, 1, envelope=envelope) as (topics,),
            driver.pair() as (client, server),
        ):
            await topics.subscribed(server, "a", on_gap=lambda subscription: "gap")
            await topics.publish("a", "bad")
            await topics.publish("a", "good")
            assert await messages(client, 2) == ["gap", "good"]
            logged_errors("envelope failed")


class TestEndings:
    @pytest.mark.not_on("sync", reason="threads can't be cancelled")
    @pytest.mark.parametrize("since", [None, ("e1", 1)])
    async def test_cancelled_subscribing(self, driver: Driver, since: Any) -> None:
        broker = MemoryBroker()
        async with processes(driver, 1, broker) as (topics,), crowd(driver, 2) as pairs:
            (_, server), (_, other) = pairs
            for number in range(3):
                await topics.publish("a", str(number))
            if since is not None:
                await topics.subscribed(other, "a")
            broker.answers = False
            subscribing = driver.spawn(topics.subscribed(server, "a", since=since))
            await driver.settle()
            assert await subscribing.cancelled()
            broker.answers = True
            assert topics.subscribers("a") == (since is not None)
            # Nobody else notices.
            async with topics.subscribe(server, "a", since=("e1", 1)) as subscription:
                assert subscription.recovered

    @pytest.mark.not_on("sync", reason="threads can't be cancelled")
    async def test_cancelled_publishing(self, driver: Driver) -> None:
        broker = MemoryBroker()
        async with processes(driver, 1, broker) as (topics,), driver.pair() as (client, server):
            await topics.subscribed(server, "a")
            broker.answers = False
            publishing = driver.spawn(topics.publish("a", "1"))
            await driver.settle()
            assert await publishing.cancelled()
            broker.answers = True
            await topics.publish("a", "2")
            received = await client.recv(timeout=10)
            # Whether it was published, nobody knows; but it can't come later.
            assert received == "2" or await client.recv(timeout=10) == "2"
            await nothing_more(client)

    @pytest.mark.not_on("sync", reason="threads can't be cancelled")
    async def test_cancelled_opening(self, driver: Driver) -> None:
        broker = MemoryBroker()
        broker.answers = False
        topics = Subscribed(driver, broker.bus(timeout=None))
        opening = driver.spawn(driver.call(topics.raw.open))
        await driver.settle()
        assert await opening.cancelled()
        broker.answers = True
        async with topics:
            await topics.publish("a", "x")

    @pytest.mark.parametrize("since", [None, ("e1", 1)])
    async def test_a_connection_that_ends_meanwhile(self, driver: Driver, since: Any) -> None:
        broker = MemoryBroker()
        async with processes(driver, 1, broker) as (topics,), crowd(driver, 2) as pairs:
            (client, server), (_, other) = pairs
            for number in range(3):
                await topics.publish("a", str(number))
            if since is not None:
                await topics.subscribed(other, "a")
            broker.answers = False

            async def subscribe() -> None:
                with pytest.raises(ConnectionClosed):
                    await topics.subscribed(server, "a", since=since)

            subscribing = driver.spawn(subscribe())
            await driver.settle()
            client.lose()
            await subscribing
            assert topics.subscribers("a") == (since is not None)
            broker.answers = True
