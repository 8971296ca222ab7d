"""Topics on asyncio with a bus, whose broker is in memory and fails when it is told."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.wsapi.helpers import logged_errors, pair, turns, until
from tests.wsapi.topics.memory_bus import MemoryBroker
from tests.wsapi.topics.test_asyncio import SmallBuffers, crowd, is_gone, messages, nothing_more
from wsapi.exceptions import ConnectionClosed
from wsapi.frames import CloseCode
from wsapi.topics import (
    BusUnavailable,
    History,
    Message,
    Position,
    Subscription,
    TopicLimitExceeded,
    Topics,
)
from wsapi.topics.bus import Page
from wsapi.topics.presence import PresenceEvent

pytestmark = pytest.mark.usefixtures("no_spread")


@pytest.fixture
def no_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have chance choose the beginning of each span."""
    monkeypatch.setattr(random, "random", lambda: 0.001)


@contextlib.asynccontextmanager
async def processes(
    number: int, broker: MemoryBroker | None = None, **options: Any
) -> AsyncIterator[list[Topics]]:
    """Open topics as several processes have them, on one broker."""
    broker = broker or MemoryBroker()
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(Topics(broker.bus(), **options)) for _ in range(number)
        ]


class TestDelivery:
    async def test_to_all_processes(self) -> None:
        async with processes(3) as (one, two, three), crowd(3) as pairs:
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
                assert [t.stats().counters.published for t in (one, two, three)] == [1, 1, 1]
                assert [t.stats().counters.delivered for t in (one, two, three)] == [3, 6, 0]
                assert one.stats().bus["published"] >= 1
            await one.publish("a", "late")
            await nothing_more(one, "a", *clients)

    async def test_one_follow_and_one_delayed_unfollow(self) -> None:
        broker = MemoryBroker()
        async with processes(1, broker, unfollow_delay=0.05) as (topics,), crowd(3) as pairs:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(wait_for(topics.subscribe(s, "a"))) for _, s in pairs]
            assert broker.calls == [("follow", "a")]
            for task in tasks:
                task.result().unsubscribe()
            async with topics.subscribe(pairs[0][1], "a"):
                pass
            await until(lambda: topics.stats().topics == 0)
            assert broker.calls == [("follow", "a"), ("unfollow", "a")]

    async def test_without_history(self) -> None:
        async with processes(2, MemoryBroker(None)) as (one, two), pair() as (client, server):
            async with one.subscribe(server, "a", since="e:1") as subscription:
                assert (subscription.recovered, subscription.position) == (False, None)
                assert await two.publish("a", b"1") is None
                assert await client.recv() == b"1"

    async def test_from_other_threads(self) -> None:
        broker = MemoryBroker()
        async with processes(1, broker) as (topics,), pair() as (client, server):
            async with topics.subscribe(server, "a"):

                def publish() -> list[Any]:
                    futures = [topics.publish_threadsafe("a", str(n)) for n in range(50)]
                    return [future.result(10) for future in futures]

                positions = await asyncio.to_thread(publish)
                assert [position.offset for position in positions] == list(range(1, 51))
                assert await messages(client, 50) == [str(n) for n in range(50)]
                broker.go_away()
                with pytest.raises(BusUnavailable):
                    await asyncio.to_thread(lambda: topics.publish_threadsafe("a", "x").result(10))

    def test_from_another_thread_when_the_event_loop_ends(self) -> None:
        """Whoever waits there isn't left waiting."""
        broker = MemoryBroker()
        futures: list[Any] = []

        async def main() -> None:
            topics = await Topics(broker.bus(timeout=None)).__aenter__()
            broker.answers = False
            futures.append(topics.publish_threadsafe("a", "x"))
            await until(lambda: ("publish", "a") in broker.calls)

        asyncio.run(main())
        with pytest.raises(BusUnavailable, match="topics are closed"):
            futures[0].result(10)

    def test_from_another_thread_just_before_the_event_loop_ends(self) -> None:
        """What publishes it is cancelled before it has begun."""
        futures: list[Any] = []

        async def main() -> None:
            topics = await Topics(MemoryBroker().bus()).__aenter__()
            futures.append(topics.publish_threadsafe("a", "x"))

        asyncio.run(main())
        with pytest.raises(BusUnavailable, match="topics are closed"):
            futures[0].result(0)

    async def test_from_another_thread_after_closing(self) -> None:
        async with processes(1) as (topics,):
            pass
        future = topics.publish_threadsafe("a", "x")
        await asyncio.sleep(0)  # there may be no more turns
        with pytest.raises(RuntimeError, match="closed"):
            future.result(0)


async def wait_for(subscribing: Any) -> Subscription:
    subscription: Subscription = await subscribing
    return subscription


class TestOpening:
    async def test_before_it_is_opened(self) -> None:
        topics = Topics(MemoryBroker().bus())
        async with pair() as (_, server):
            for call in (topics.publish("a", "x"), topics.subscribe(server, "a")):
                with pytest.raises(RuntimeError, match="enter them first"):
                    await call
        assert not topics.healthy
        with pytest.raises(BusUnavailable):
            await topics.wait_healthy(0.1)

    async def test_a_broker_that_is_not_there(self) -> None:
        broker = MemoryBroker()
        broker.go_away()
        topics = Topics(broker.bus())
        with pytest.raises(BusUnavailable):
            await topics.open()
        broker.come_back()
        async with topics:
            await topics.wait_healthy(1)
            await topics.publish("a", "x")

    async def test_closing(self) -> None:
        broker = MemoryBroker()
        async with pair() as (client, server):
            async with processes(1, broker) as (topics,):
                subscribing = asyncio.ensure_future(wait_for(topics.subscribe(server, "b")))
                await topics.subscribe(server, "a")
            with pytest.raises(ConnectionClosed):
                await client.recv()
            assert client.close_code == CloseCode.SERVICE_RESTART
            with pytest.raises(ConnectionClosed):
                await subscribing
            with pytest.raises(RuntimeError, match="closed"):
                await topics.publish("a", "x")
            assert not broker.buses

    async def test_closing_while_somebody_subscribes(self) -> None:
        broker = MemoryBroker()
        async with pair() as (_, server):
            async with processes(1, broker) as (topics,):
                broker.answers = False
                subscribing = asyncio.ensure_future(wait_for(topics.subscribe(server, "b")))
                await turns(5)
            with pytest.raises(ConnectionClosed):
                await subscribing

    async def test_closing_while_the_application_is_asked(self) -> None:
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        options = {"authorize": lambda connection, topic, action: answer}
        async with pair() as (_, server):
            async with processes(1, **options) as (topics,):
                subscribing = asyncio.ensure_future(wait_for(topics.subscribe(server, "a")))
                await turns(2)
            answer.set_result(True)
            with pytest.raises(RuntimeError, match="closed"):
                await asyncio.wait_for(subscribing, 10)
            assert is_gone(topics)


class TestRecovery:
    async def test_in_another_process(self) -> None:
        async with processes(2) as (one, two), crowd(2) as ((client, server), (_, other)):
            async with one.subscribe(other, "a") as subscription:
                positions = [await one.publish("a", str(number)) for number in range(600)]
                assert subscription.position == positions[-1]
            async with two.subscribe(server, "a", since=positions[9]) as subscription:
                assert subscription.recovered is True
                await one.publish("a", "600")
                assert await messages(client, 591) == [str(n) for n in range(10, 601)]

    async def test_without_gap_while_publishing_goes_on(self) -> None:
        broker = MemoryBroker(100_000)
        async with processes(2, broker, history=History(0)) as (one, two), crowd(6) as pairs:
            positions = [await one.publish("a", str(number)) for number in range(300)]
            stop = False

            async def publish() -> None:
                number = 300
                while not stop:
                    await one.publish("a", str(number))
                    number += 1

            async def come_back(client: Any, server: Any, offset: int) -> None:
                async with two.subscribe(server, "a", since=positions[offset]) as subscription:
                    assert subscription.recovered
                    for number in range(offset + 1, 700):
                        assert await client.recv() == str(number)

            publishing = asyncio.ensure_future(publish())
            async with asyncio.TaskGroup() as group:
                for number, (client, server) in enumerate(pairs):
                    group.create_task(come_back(client, server, 37 * number))
            stop = True
            await publishing

    async def test_a_history_that_does_not_reach_back(self) -> None:
        broker = MemoryBroker(10)
        async with processes(2, broker) as (one, two), pair() as (client, server):
            positions = [await one.publish("a", str(number)) for number in range(30)]
            for since in (positions[5], ("foreign", 1), (positions[0].epoch, 31)):
                async with two.subscribe(
                    server, "a", since=since, announce=lambda s: f"{s.recovered}"
                ) as subscription:
                    assert subscription.position == positions[-1]
                assert await client.recv() == "False"
            async with two.subscribe(server, "a", since=positions[-1]) as subscription:
                assert subscription.recovered is True

    async def test_announcing_comes_first(self) -> None:
        async with processes(2) as (one, two), pair() as (client, server):
            first = await one.publish("a", "1")
            await one.publish("a", "2")

            def announce(subscription: Subscription) -> Message:
                return f"{subscription.recovered} {subscription.position}"

            assert first is not None
            async with two.subscribe(server, "a", since=first, announce=announce):
                await one.publish("a", "3")
                assert await messages(client, 3) == [f"True {first}", "2", "3"]
            async with two.subscribe(server, "b", announce=announce):
                await one.publish("b", "4")
                received = await messages(client, 2)
                assert received == ["None " + str(two._core.position("b"))[:-1] + "0", "4"]


class TestTrouble:
    async def test_what_was_missed_is_filled(self) -> None:
        broker = MemoryBroker()
        health: list[Any] = []
        async with (
            processes(2, broker, on_health=lambda *args: health.append(args)) as (one, two),
            pair() as (client, server),
        ):
            async with two.subscribe(server, "a"):
                await one.publish("a", "1")
                assert await client.recv() == "1"
                bus = broker.buses[1]
                bus.lose(ConnectionResetError("gone"))
                await turns(3)
                assert not two.healthy
                await one.publish("a", "2")
                await one.publish("a", "3")
                bus.regain()
                await one.publish("a", "4")
                assert await messages(client, 3) == ["2", "3", "4"]
                await two.wait_healthy(5)
                assert two.healthy
                counters = two.stats().counters
                assert (counters.resumed, counters.gaps) == (1, 0)
                assert counters.filled >= 2
            assert [good for good, _ in health] == [True, True, False, True] or [
                good for good, _ in health
            ] == [False, True]

    async def test_publishers_while_the_bus_is_away(self) -> None:
        broker = MemoryBroker()
        async with processes(1, broker) as (topics,), pair() as (client, server):
            async with topics.subscribe(server, "a"):
                broker.go_away()
                await turns(3)
                with pytest.raises(BusUnavailable):
                    await topics.publish("a", "1")
                broker.come_back()
                await topics.wait_healthy(5)
                await topics.publish("a", "2")
                assert await client.recv() == "2"

    async def test_a_queue_for_publishers(self) -> None:
        broker = MemoryBroker()
        async with processes(1, broker, publish_queue=10) as (topics,), pair() as (client, server):
            async with topics.subscribe(server, "a"):
                broker.go_away()
                await turns(3)
                publishing = [asyncio.ensure_future(topics.publish("a", str(n))) for n in range(5)]
                await turns(3)
                publishing[2].cancel()
                broker.come_back()
                await topics.wait_healthy(5)
                await asyncio.wait(publishing)
                received = await messages(client, 4)
                assert received == ["0", "1", "3", "4"]

    async def test_subscribers_while_the_bus_is_away(self) -> None:
        broker = MemoryBroker()
        async with processes(1, broker) as (topics,), crowd(2) as ((one, first), (two, second)):
            await topics.subscribe(first, "a")
            position = await topics.publish("a", "1")
            assert await one.recv() == "1"
            broker.go_away()
            await turns(3)
            # What is followed can be subscribed to; what isn't, can't.
            await topics.subscribe(second, "a", since=position)
            with pytest.raises(BusUnavailable):
                await topics.subscribe(second, "b")
            assert topics.stats().subscriptions == 2
            broker.come_back()
            await topics.wait_healthy(5)
            await topics.publish("a", "2")
            assert (await one.recv(), await two.recv()) == ("2", "2")
            await topics.subscribe(second, "b")

    @pytest.mark.parametrize("how", ["closed", "told", "nothing told", "fails", "unsubscribes"])
    async def test_a_gap(self, how: str) -> None:
        broker = MemoryBroker()
        told: list[Position | None] = []

        def on_gap(subscription: Subscription) -> Message | None:
            told.append(subscription.position)
            if how == "fails":
                raise ZeroDivisionError
            if how == "unsubscribes":
                subscription.unsubscribe()
            return "gap" if how == "told" else None

        async with processes(2, broker) as (one, two), pair() as (client, server):
            await two.subscribe(server, "a", on_gap=None if how == "closed" else on_gap)
            await one.publish("a", "1")
            assert await client.recv() == "1"
            bus = broker.buses[1]
            bus.lose(ConnectionResetError("gone"))
            await one.publish("a", "2")
            latest = await one.publish("a", "3")
            broker.trim("a")
            bus.regain()
            await until(lambda: two.stats().counters.gaps)
            await one.publish("a", "4")
            if how in ("closed", "fails"):
                with pytest.raises(ConnectionClosed):
                    await client.recv()
                assert client.close_code == CloseCode.SERVICE_RESTART
                assert client.close_reason == "messages may be missing: come again"
                assert two.stats().subscriptions == 0
                if how == "fails":
                    logged_errors("on_gap failed")
            elif how == "unsubscribes":
                await nothing_more(two, "a", client)
                assert two.stats().subscriptions == 0
            else:
                assert await messages(client, 1 + (how == "told")) == ["gap"] * (how == "told") + [
                    "4"
                ]
            assert told == ([] if how == "closed" else [latest])

    async def test_a_gap_that_has_another_one_unsubscribe(self) -> None:
        """Who has left isn't told of it any more."""
        broker = MemoryBroker()
        told: list[str] = []
        async with processes(2, broker) as (one, two), crowd(2) as pairs:
            subscriptions: list[Subscription] = []

            def on_gap(subscription: Subscription) -> None:
                told.append("gap")
                for other in subscriptions:
                    if other is not subscription:
                        other.unsubscribe()

            for _, server in pairs:
                subscriptions.append(await two.subscribe(server, "a", on_gap=on_gap))
            broker.drops = lambda notice: notice.message == "lost"
            await one.publish("a", "lost")
            broker.trim("a")
            await one.publish("a", "1")
            await until(lambda: told)
            await turns(10)
            assert told == ["gap"]
            assert two.stats().subscriptions == 1

    async def test_a_gap_and_no_room_for_what_follows(self) -> None:
        """Whoever is told of a gap, and can't be sent what comes next, is caught up later."""
        broker = MemoryBroker()
        async with processes(2, broker) as (one, two), pair() as (client, server):
            await two.subscribe(server, "a", on_gap=lambda subscription: "gap")
            bus = broker.buses[1]
            broker.drops = lambda notice: notice.message == "1"
            await one.publish("a", "1")
            broker.trim("a")
            for number in range(2, 300):
                await one.publish("a", str(number))
            assert await client.recv() == "gap"
            # Some of these are part of the gap, since the broker had them when it was asked.
            first = int(await client.recv())
            assert await messages(client, 299 - first) == [str(n) for n in range(first + 1, 300)]
            assert bus.connected

    @pytest.mark.parametrize(
        "end", ["goes on", "unsubscribes", "is lost", "bus is away", "cancelled"]
    )
    async def test_a_subscriber_that_is_slow_after_a_gap(self, end: str) -> None:
        broker = MemoryBroker(10_000)
        async with (
            processes(2, broker, history=History(messages=4)) as (one, two),
            SmallBuffers.stuck() as (client, server),
        ):
            subscription = await two.subscribe(
                server, "a", on_gap=lambda subscription: "gap", max_backlog=2**24
            )
            # More than its network takes.
            for _ in range(100):
                await one.publish("a", "x" * 10_000)
            bus, let = broker.buses[1], asyncio.Event()
            read_now = bus.read

            async def read(topic: str, since: Position, limit: int) -> Page:
                page = await read_now(topic, since, limit)
                await let.wait()
                return page

            bus.read = read  # type: ignore[method-assign] # until what it returns is old
            broker.drops = lambda notice: notice.message == "lost"
            await one.publish("a", "lost")
            broker.trim("a")
            await one.publish("a", "0")
            await turns(10)
            for number in range(1, 100):
                await one.publish("a", str(number))
            let.set()
            await until(lambda: two.stats().counters.gaps)
            # What follows the gap is on its way to it, and waits for the network.
            await turns(10)
            assert two._tasks
            if end == "unsubscribes":
                subscription.unsubscribe()
            elif end == "is lost":
                client.transport.abort()
            elif end == "cancelled":
                for task in two._tasks:
                    task.cancel()  # as when the event loop ends
            elif end == "bus is away":
                for number in range(100, 200):
                    await one.publish("a", str(number))
                broker.go_away()
            client.transport.resume_reading()
            received: list[str] = []
            with contextlib.suppress(ConnectionClosed, TimeoutError):
                while end == "bus is away" or received[-1:] != ["99"]:
                    received.append(str(await asyncio.wait_for(client.recv(), 0.5)))
            if end == "goes on":
                assert received[100:] == ["gap", *map(str, range(1, 100))]
            elif end == "bus is away":
                assert client.close_code == CloseCode.SERVICE_RESTART
            await until(lambda: not two._tasks)
            assert subscription.active is (end == "goes on")
            broker.come_back()

    async def test_closing_all_after_trouble(self) -> None:
        broker = MemoryBroker()
        async with (
            processes(1, broker, on_gap="close", spread=0.01) as (topics,),
            crowd(3) as pairs,
        ):
            subscriptions = [await topics.subscribe(server, "a") for _, server in pairs[:2]]
            await topics.publish("a", "1")
            for client, _ in pairs[:2]:
                assert await client.recv() == "1"
            broker.go_away()
            await turns(3)
            assert topics.stats().subscriptions == 2
            broker.come_back()
            for client, _ in pairs[:2]:
                with pytest.raises(ConnectionClosed):
                    await client.recv()
                assert client.close_code == CloseCode.SERVICE_RESTART
            await topics.wait_healthy(5)
            await topics.publish("a", "2")
            async with topics.subscribe(
                pairs[2][1], "a", since=subscriptions[0].position
            ) as subscription:
                assert subscription.recovered
                assert await pairs[2][0].recv() == "2"

    async def test_an_envelope_that_fails(self) -> None:
        def envelope(topic: str, position: Position | None, message: Message) -> Message:
            if message == "bad":
                raise ZeroDivisionError
            return message

        async with processes(1, envelope=envelope) as (topics,), pair() as (client, server):
            await topics.subscribe(server, "a", on_gap=lambda subscription: "gap")
            await topics.publish("a", "bad")
            await topics.publish("a", "good")
            assert await messages(client, 2) == ["gap", "good"]
            logged_errors("envelope failed")


class TestCancellation:
    @pytest.mark.parametrize("since", [None, ("e1", 1)])
    async def test_of_subscribing(self, since: Any) -> None:
        broker = MemoryBroker()
        async with processes(1, broker) as (topics,), crowd(2) as ((_, server), (_, other)):
            for number in range(3):
                await topics.publish("a", str(number))
            if since is not None:
                await topics.subscribe(other, "a")
            broker.answers = False
            subscribing = asyncio.ensure_future(
                wait_for(topics.subscribe(server, "a", since=since))
            )
            await turns(5)
            subscribing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await subscribing
            broker.answers = True
            assert topics.subscribers("a") == (since is not None)
            # Nobody else notices.
            async with topics.subscribe(server, "a", since=("e1", 1)) as subscription:
                assert subscription.recovered

    @pytest.mark.parametrize("since", [None, ("e1", 1)])
    async def test_a_connection_that_ends_meanwhile(self, since: Any) -> None:
        broker = MemoryBroker()
        async with processes(1, broker) as (topics,), crowd(2) as ((client, server), (_, other)):
            for number in range(3):
                await topics.publish("a", str(number))
            if since is not None:
                await topics.subscribe(other, "a")
            broker.answers = False
            subscribing = asyncio.ensure_future(
                wait_for(topics.subscribe(server, "a", since=since))
            )
            await turns(5)
            client.transport.abort()
            with pytest.raises(ConnectionClosed):
                await subscribing
            assert topics.subscribers("a") == (since is not None)
            broker.answers = True

    async def test_of_publishing(self) -> None:
        broker = MemoryBroker()
        async with processes(1, broker) as (topics,), pair() as (client, server):
            await topics.subscribe(server, "a")
            broker.answers = False
            publishing = asyncio.ensure_future(topics.publish("a", "1"))
            await turns(5)
            publishing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await publishing
            broker.answers = True
            await topics.publish("a", "2")
            received = await client.recv()
            # Whether it was published, nobody knows; but it can't come later.
            assert received == "2" or await client.recv() == "2"
            await nothing_more(topics, "a", client)


class TestPresence:
    async def test_over_processes(self) -> None:
        events: list[PresenceEvent] = []
        async with processes(2) as (one, two), crowd(2) as ((_, first), (client, second)):
            end = two.watch_presence("a", events.append)
            async with one.subscribe(first, "a", member="ann"):
                async with two.subscribe(second, "a", member="bob"), two.subscribe(second, "b"):
                    await until(lambda: one.presence("a").members == 2 == two.presence("a").members)
                    assert two.presence("a", names=True).names == ("ann", "bob")
                    assert two.presence("b").members == 0
                    await client.close()
                    await until(lambda: one.presence("a").members == 1)
            await until(lambda: two.presence("a").members == 0)
            assert sorted(events) == [
                ("a", "ann", False),
                ("a", "ann", True),
                ("a", "bob", False),
                ("a", "bob", True),
            ]
            end()
            end()
            async with one.subscribe(first, "a", member="cid"):
                await until(lambda: two.presence("a").members)
            assert len(events) == 4

    async def test_in_one_process(self) -> None:
        topics = Topics(max_topics=1)
        events: list[PresenceEvent] = []

        def fail(event: PresenceEvent) -> None:
            raise ZeroDivisionError

        async with pair() as (client, server):
            topics.watch_presence("a", fail)
            topics.watch_presence("a", events.append)
            await topics.subscribe(server, "a", member="ann")
            with pytest.raises(TopicLimitExceeded):
                await topics.subscribe(server, "b", member="ann")
            assert topics.presence("a", names=True) == (1, 1, True, ("ann",))
            assert topics.presence("b").members == 0
            await client.close()
            await server.wait_closed()
            await turns(2)
            assert topics.presence("a").members == 0
            assert events == [("a", "ann", True), ("a", "ann", False)]
            logged_errors(*["a callback for presence failed"] * 2)
            assert is_gone(topics)
            with pytest.raises(TypeError, match="callback must be a callable"):
                topics.watch_presence("a", None)  # type: ignore[arg-type] # is refused
            with pytest.raises(ValueError, match="the name of a member"):
                topics.subscribe(server, "a", member="")
