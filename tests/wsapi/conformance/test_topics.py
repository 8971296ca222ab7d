"""Topics in one process: who gets what, and who leaves how."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Ws
from tests.wsapi.conformance.raw import RawPeer
from wsapi.exceptions import ConnectionClosed, ConnectionClosedError
from wsapi.frames import CloseCode
from wsapi.limits import Slow
from wsapi.topics import History, Message, NotAuthorized, Position, TopicLimitExceeded
from wsapi.topics.presence import PresenceEvent


class Subscribed:
    """Topics of a front-end, and what tests do with them."""

    def __init__(self, driver: Driver, *args: Any, **options: Any) -> None:
        self.driver = driver
        self.raw = driver.topics(*args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    async def __aenter__(self) -> Subscribed:
        self.context = self.driver.context(self.raw)
        assert await self.context.__aenter__() is self.raw
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self.context.__aexit__(*exc_info)

    async def publish(self, topic: Any, message: Any, **options: Any) -> Position | None:
        position: Position | None
        position = await self.driver.call(self.raw.publish, topic, message, **options)
        return position

    @contextlib.asynccontextmanager
    async def subscribe(self, ws: Ws, topic: str, **options: Any) -> AsyncIterator[Any]:
        async with self.driver.context(self.raw.subscribe(ws.raw, topic, **options)) as raw:
            yield raw

    async def subscribed(self, ws: Ws, topic: str, **options: Any) -> Any:
        return await self.driver.awaited(self.raw.subscribe(ws.raw, topic, **options))

    def gone(self) -> bool:
        """Tell whether nobody subscribes to anything."""
        stats = self.raw.stats()
        return (stats.connections, stats.subscriptions) == (0, 0)


@contextlib.asynccontextmanager
async def crowd(driver: Driver, number: int) -> AsyncIterator[list[tuple[Ws, Ws]]]:
    """Connect clients; give pairs of a client's end and the server's."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(driver.pair()) for _ in range(number)]


async def messages(ws: Ws, number: int) -> list[Any]:
    return [await ws.recv(timeout=10) for _ in range(number)]


async def nothing_more(ws: Ws) -> None:
    with pytest.raises(TimeoutError):
        await ws.recv(timeout=0.01)


def tell_position(topic: str, position: Position | None, message: Message) -> Message:
    assert position is not None
    return f"{position.offset} {message!s}"


class TestPublishing:
    async def test_to_all_who_subscribed(self, driver: Driver) -> None:
        topics = Subscribed(driver)
        async with crowd(driver, 3) as pairs:
            async with contextlib.AsyncExitStack() as stack:
                for _, server in pairs[:2]:
                    await stack.enter_async_context(topics.subscribe(server, "a"))
                await stack.enter_async_context(topics.subscribe(pairs[1][1], "b"))
                assert topics.subscribers("a") == 2
                assert await topics.publish("a", "text") is None
                assert await topics.publish("b", b"binary") is None
                assert await topics.publish("a", memoryview(b"more")) is None
                assert await topics.publish("c", "nobody") is None
                assert await messages(pairs[0][0], 2) == ["text", b"more"]
                assert await messages(pairs[1][0], 3) == ["text", b"binary", b"more"]
                counters = topics.stats().counters
                assert (counters.published, counters.delivered) == (4, 5)
            await topics.publish("a", "late")
            for client, _ in pairs:
                await nothing_more(client)
            assert topics.gone()
            assert topics.stats().topics == 0

    async def test_by_many_at_once(self, driver: Driver) -> None:
        topics = Subscribed(driver, history=History(messages=1000), envelope=tell_position)
        async with driver.pair() as (client, server), topics.subscribe(server, "a") as subscription:

            async def publish(name: str) -> list[Any]:
                return [await topics.publish("a", f"{name}{number}") for number in range(50)]

            positions = await driver.gather(*(publish(name) for name in "xyz"))
            received = [message.split() for message in await messages(client, 150)]
            assert [int(offset) for offset, _ in received] == list(range(1, 151))
            for name, mine in zip("xyz", positions, strict=True):
                assert [text for _, text in received if text.startswith(name)] == [
                    f"{name}{number}" for number in range(50)
                ]
                assert [p.offset for p in mine] == sorted(p.offset for p in mine)
            assert subscription.position.offset == 150

    async def test_from_other_threads(self, driver: Driver) -> None:
        topics = Subscribed(driver, history=History(messages=1000))
        async with driver.pair() as (client, server), topics, topics.subscribe(server, "a"):
            futures: list[Any] = []

            def publish(name: str) -> None:
                for number in range(50):
                    futures.append(topics.publish_threadsafe("a", f"{name}{number}"))
                futures[-1].result(10)

            threads = [threading.Thread(target=publish, args=(name,)) for name in "xyz"]
            for thread in threads:
                thread.start()
            received = await messages(client, 150)
            for name in "xyz":
                mine = [message for message in received if message.startswith(name)]
                assert mine == [f"{name}{number}" for number in range(50)]
            for thread in threads:
                await driver.in_thread(thread.join)
            offsets = sorted(future.result(0).offset for future in futures)
            assert offsets == list(range(1, 151))

    async def test_an_envelope_that_fails(self, driver: Driver) -> None:
        def envelope(topic: str, position: Position | None, message: Message) -> Message:
            raise ZeroDivisionError

        topics = Subscribed(driver, envelope=envelope)
        async with driver.pair() as (_, server), topics, topics.subscribe(server, "a"):
            with pytest.raises(ZeroDivisionError):
                await topics.publish("a", "x")
            future = topics.publish_threadsafe("a", "x")
            await driver.until(future.done)
            with pytest.raises(ZeroDivisionError):
                future.result()
            assert topics.stats().counters.published == 0

    @pytest.mark.parametrize(
        ("topic", "message", "error"),
        [("", "x", ValueError), (1, "x", TypeError), ("a", 1, TypeError), ("a", "xxx", ValueError)],
    )
    async def test_wrong_arguments(
        self, driver: Driver, topic: Any, message: Any, error: type[Exception]
    ) -> None:
        topics = Subscribed(driver, max_message_size=2)
        async with topics:
            with pytest.raises(error):
                await topics.publish(topic, message)
            with pytest.raises(error):
                topics.publish_threadsafe(topic, message)


class TestSubscribing:
    async def test_without_a_context(self, driver: Driver) -> None:
        topics = Subscribed(driver)
        async with driver.pair() as (client, server):
            subscription = await topics.subscribed(server, "a")
            assert (subscription.topic, subscription.connection) == ("a", server.raw)
            assert (subscription.recovered, subscription.position) == (None, None)
            assert subscription.active
            assert "'a' LIVE" in repr(subscription)
            with pytest.raises(ValueError, match="has subscribed to 'a' already"):
                await topics.subscribed(server, "a")
            await topics.publish("a", "1")
            subscription.unsubscribe()
            subscription.unsubscribe()
            assert not subscription.active
            await topics.publish("a", "2")
            assert await client.recv() == "1"
            await nothing_more(client)
            assert topics.gone()

    @pytest.mark.parametrize(
        "arguments",
        [
            {"connection": None},
            {"connection": 1},
            {"topic": ""},
            {"since": 1},
            {"since": "x"},
            {"slow": "close"},
            {"max_backlog": -1},
            {"compress": 1},
            {"announce": 1},
            {"on_gap": 1},
            {"member": ""},
        ],
    )
    async def test_wrong_arguments(self, driver: Driver, arguments: dict[str, Any]) -> None:
        topics = Subscribed(driver)
        async with driver.pair() as (_, server):
            with pytest.raises((TypeError, ValueError)):
                topics.raw.subscribe(**{"connection": server.raw, "topic": "a"} | arguments)
            assert topics.gone()
            async with topics.subscribe(server, "a"):
                pass

    async def test_limits(self, driver: Driver) -> None:
        topics = Subscribed(driver, max_subscriptions=2, max_topics=3, max_subscribers=2)
        async with crowd(driver, 3) as ((_, one), (_, two), (_, three)):
            subscriptions = [
                await topics.subscribed(one, "a"),
                await topics.subscribed(one, "b"),
                await topics.subscribed(two, "a"),
                await topics.subscribed(two, "c"),
            ]
            for ws, topic in (one, "c"), (three, "a"), (three, "d"):
                with pytest.raises(TopicLimitExceeded):
                    await topics.subscribed(ws, topic)
            assert topics.stats().subscriptions == 4
            assert topics.stats().connections == 2
            for subscription in subscriptions:
                subscription.unsubscribe()
            assert topics.gone()
            async with topics.subscribe(three, "d"):
                pass

    @pytest.mark.parametrize("end", ["client closes", "server closes", "lost", "killed"])
    async def test_however_a_connection_ends(self, driver: Driver, end: str) -> None:
        topics = Subscribed(driver)
        async with crowd(driver, 2) as ((client, server), (other, there)):
            subscriptions = [await topics.subscribed(server, name) for name in "abc"]
            await topics.subscribed(there, "a")
            if end == "client closes":
                await client.close()
            elif end == "server closes":
                await server.close()
            else:
                (client if end == "lost" else server).lose()
            # By itself: nothing is published, and the handler goes on.
            await driver.until(lambda: topics.stats().connections == 1)
            assert not any(subscription.active for subscription in subscriptions)
            assert topics.stats().topics == 1
            await topics.publish("a", "x")
            assert await other.recv() == "x"
            with pytest.raises(ConnectionClosed):
                await topics.subscribed(server, "a")
        await driver.until(topics.gone)

    async def test_again_and_again(self, driver: Driver) -> None:
        """What is noted for the end of a connection doesn't pile up."""
        topics = Subscribed(driver)
        async with driver.pair() as (client, server):
            for number in range(50):
                async with topics.subscribe(server, "a"):
                    await topics.publish("a", str(number))
            assert await messages(client, 50) == [str(number) for number in range(50)]
            async with topics.subscribe(server, "a"):
                client.lose()
                await driver.until(topics.gone)

    async def test_closing_topics(self, driver: Driver) -> None:
        async with crowd(driver, 2) as ((client, server), (_, other)):
            async with Subscribed(driver) as topics:
                await topics.subscribed(server, "a")
                await topics.subscribed(server, "b")
            with pytest.raises(ConnectionClosedError):
                await client.recv(timeout=10)
            assert client.close_code == CloseCode.SERVICE_RESTART
            assert topics.gone()
            with pytest.raises(RuntimeError, match="these topics are closed"):
                await topics.publish("a", "x")
            with pytest.raises(RuntimeError, match="these topics are closed"):
                await topics.subscribed(other, "a")
            await driver.call(getattr(topics.raw, driver.close_topics))
            assert other.state.name == "OPEN"
            async with topics, topics.subscribe(other, "a"):
                assert topics.subscribers("a") == 1  # without a bus, it can be opened again

    async def test_health_without_a_bus(self, driver: Driver) -> None:
        topics = Subscribed(driver)
        assert topics.healthy
        await driver.call(topics.raw.wait_healthy, 0)

    async def test_asking_for_leave(self, driver: Driver) -> None:
        asked: list[Any] = []

        def authorize(connection: Any, topic: str, action: str) -> bool:
            asked.append((connection, topic, action))
            return topic == "a"

        topics = Subscribed(driver, authorize=authorize)
        async with driver.pair() as (_, server):
            with pytest.raises(NotAuthorized):
                await topics.subscribed(server, "b")
            async with topics.subscribe(server, "a"):
                await topics.publish("a", "x", connection=server.raw)
                with pytest.raises(NotAuthorized):
                    await topics.publish("b", "x", connection=server.raw)
                await topics.publish("b", "x")
        assert asked == [
            (server.raw, "b", "subscribe"),
            (server.raw, "a", "subscribe"),
            (server.raw, "a", "publish"),
            (server.raw, "b", "publish"),
        ]

    @pytest.mark.not_on("sync", reason="threads don't run coroutines")
    async def test_asking_for_leave_and_waiting(self, driver: Driver) -> None:
        async def authorize(connection: Any, topic: str, action: str) -> bool:
            await driver.sleep(0)
            return topic == "a"

        topics = Subscribed(driver, authorize=authorize)
        async with driver.pair() as (_, server), topics.subscribe(server, "a"):
            with pytest.raises(NotAuthorized):
                await topics.subscribed(server, "b")

    async def test_closed_while_it_is_asked(self, driver: Driver) -> None:
        def authorize(connection: Any, topic: str, action: str) -> bool:
            topics.raw._end_all()
            return True

        topics = Subscribed(driver, authorize=authorize)
        async with driver.pair() as (_, server):
            with pytest.raises(RuntimeError, match="closed"):
                await topics.subscribed(server, "a")
            assert topics.gone()

    async def test_who_is_present(self, driver: Driver) -> None:
        topics = Subscribed(driver)
        events: list[PresenceEvent] = []
        end = topics.watch_presence("a", events.append)
        async with crowd(driver, 2) as ((_, one), (_, two)):
            async with topics.subscribe(one, "a", member="x"):
                async with topics.subscribe(two, "a", member="x"):
                    assert topics.presence("a", names=True) == (2, 1, True, ("x",))
                assert topics.presence("a").subscriptions == 1
            await driver.until(lambda: len(events) == 2)
            assert events == [("a", "x", True), ("a", "x", False)]
            others: list[PresenceEvent] = []
            end_other = topics.watch_presence("a", others.append)
            end()
            # One callback's end isn't that of another one.
            async with topics.subscribe(one, "a", member="y"):
                pass
            await driver.until(lambda: len(others) == 2)
            end_other()
            async with topics.subscribe(one, "a", member="x"):
                pass
        await driver.settle()
        assert (len(events), len(others)) == (2, 2)


class TestRecovery:
    async def test_what_was_missed(self, driver: Driver) -> None:
        topics = Subscribed(driver, history=History(messages=3), envelope=tell_position)
        positions = [await topics.publish("a", str(number)) for number in range(5)]

        def announce(subscription: Any) -> str:
            return f"{subscription.recovered} {subscription.position.offset}"

        async with driver.pair() as (client, server):
            for since, recovered in (
                (None, None),
                (positions[1], True),
                (str(positions[4]), True),
                (positions[0], False),
                (("foreign", 1), False),
            ):
                subscribing = topics.subscribe(server, "a", since=since, announce=announce)
                async with subscribing as subscription:
                    assert subscription.recovered is recovered
                    assert subscription.position == positions[4]
            assert await messages(client, 8) == [
                "None 5",
                *("True 2", "3 2", "4 3", "5 4"),
                "True 5",
                "False 5",
                "False 5",
            ]
            await nothing_more(client)

    async def test_compression_of_what_was_missed(self, driver: Driver) -> None:
        topics = Subscribed(driver, history=History(messages=3))
        first = await topics.publish("a", "1")
        await topics.publish("a", "x" * 1000)
        sizes = []
        async with driver.pair(compression="deflate") as (client, server):
            for compress in (False, True):
                before = client.raw.stats().payload_bytes_received
                async with topics.subscribe(server, "a", since=first, compress=compress):
                    assert await client.recv(timeout=10) == "x" * 1000
                sizes.append(client.raw.stats().payload_bytes_received - before)
        plain, compressed = sizes
        assert plain == 1000
        assert compressed < 100

    async def test_while_others_publish(self, driver: Driver) -> None:
        """There is no gap, duplicate, or disorder between what was missed, and what comes."""
        topics = Subscribed(driver, history=History(messages=5000), envelope=tell_position)
        first = await topics.publish("a", "first")
        for _ in range(1000):
            await topics.publish("a", "before")
        stop = driver.event()
        number = 1001

        async def publish() -> None:
            nonlocal number
            while not stop.is_set():
                await topics.publish("a", "during")
                number += 1
                await driver.sleep(0.0001)

        publishing = driver.spawn(publish())
        async with crowd(driver, 3) as pairs:
            ended = []
            for client, server in pairs:
                async with topics.subscribe(server, "a", since=first) as subscription:
                    assert subscription.recovered
                    got = await messages(client, 1100)
                    offsets = [int(message.split()[0]) for message in got]
                    assert offsets == list(range(2, 1102))
                ended.append(subscription.position)
            stop.set()
            await publishing
        assert number >= 1101
        assert topics.gone()


class TestSlowPeers:
    async def test_given_up(self, driver: Driver) -> None:
        topics = Subscribed(driver, max_backlog=65536)

        live: list[Ws] = []

        async def handler(ws: Ws) -> None:
            async with topics.subscribe(ws, "a"):
                live.append(ws)
                await ws.wait_closed()

        async with driver.serve(handler, close_timeout=0.1) as served:
            async with driver.raw_client(served), driver.connect(served) as ws:
                await driver.until(lambda: len(live) == 2)
                for number in range(5000):
                    await topics.publish("a", f"{number}".ljust(10000))
                    assert (await ws.recv(timeout=10)).strip() == str(number)
                    if topics.subscribers("a") == 1:
                        break
                await driver.until(lambda: topics.subscribers("a") == 1)
                await topics.publish("a", "x")
                assert await ws.recv(timeout=10) == "x"

    async def test_dropping(self, driver: Driver) -> None:
        dropped = 0

        def on_drop(connection: Any, number: int) -> None:
            nonlocal dropped
            dropped += number

        topics = Subscribed(driver, slow=Slow.DROP_NEWEST, max_backlog=65536)

        live: list[Ws] = []

        async def handler(ws: Ws) -> None:
            async with topics.subscribe(ws, "a"):
                live.append(ws)
                await ws.wait_closed()

        async with driver.serve(handler, on_drop=on_drop, close_timeout=0.1) as served:
            async with driver.raw_client(served) as peer:
                await driver.until(lambda: live)
                sent = 0
                while not dropped:
                    await topics.publish("a", f"{sent}".ljust(10000))
                    sent += 1
                    assert sent < 5000
                got: list[int] = []
                # When there is room again, one comes through that tells of the end.
                reading = driver.spawn(read_numbers(peer, got))
                await driver.until(lambda: got)
                while not reading.done():
                    await topics.publish("a", "-1".ljust(10000))
                    await driver.sleep(0.01)
                await reading
                assert got == sorted(set(got))
                await driver.until(lambda: dropped >= sent - len(got))

    async def test_what_cannot_be_sent(self, driver: Driver) -> None:
        """Whoever isn't sent a message is closed: it wouldn't know that one is missing."""
        topics = Subscribed(driver, slow=Slow.WAIT)
        begun, go_on = driver.event(), driver.event()

        async def fragments() -> AsyncGenerator[str, None]:
            yield "one"
            begun.set()
            await go_on.wait()
            yield "two"

        async def send(ws: Ws) -> None:
            async with contextlib.aclosing(fragments()) as items:
                with pytest.raises(ConnectionClosed):
                    await ws.send(items)

        async with driver.pair() as (client, server):
            await topics.subscribed(server, "a")
            sending = driver.spawn(send(server))
            await begun.wait()
            await topics.publish("a", "between")
            with pytest.raises(ConnectionClosed):
                await client.recv(timeout=10)
            # Closing during a message in fragments has a code of its own.
            assert client.close_code == CloseCode.INTERNAL_ERROR
            go_on.set()
            await sending
            await driver.until(topics.gone)

    @pytest.mark.parametrize("slow", [Slow.WAIT, Slow.CLOSE])
    async def test_catching_up_waits(self, driver: Driver, slow: Slow) -> None:
        """What was missed is sent as fast as the peer reads, and no faster.

        That holds whatever becomes of other messages on the connection.
        """
        topics = Subscribed(driver, history=History(messages=400, bytes=2**26), max_backlog=65536)
        first = await topics.publish("a", "first")
        for number in range(399):
            await topics.publish("a", f"{number}".ljust(50000))
        live = driver.event()

        async def handler(ws: Ws) -> None:
            async with topics.subscribe(ws, "a", since=first) as subscription:
                assert subscription.recovered
                live.set()
                await ws.wait_closed()

        options = {"slow": slow, "max_backlog": 200_000}
        async with driver.serve(handler, **options) as served, driver.raw_client(served) as peer:
            await driver.until(lambda: topics.subscribers("a") == 1)
            await driver.settle()
            assert not live.is_set()
            for number in range(399):
                _, payload = await peer.read_message()
                assert payload.strip() == str(number).encode()
            await live.wait()
            await topics.publish("a", "live")
            assert (await peer.read_message())[1] == b"live"

    async def test_a_connection_that_ends_while_it_catches_up(self, driver: Driver) -> None:
        topics = Subscribed(driver, history=History(messages=400, bytes=2**26))
        first = await topics.publish("a", "first")
        for number in range(399):
            await topics.publish("a", f"{number}".ljust(50000))
        raised: list[BaseException] = []

        async def handler(ws: Ws) -> None:
            try:
                async with topics.subscribe(ws, "a", since=first):
                    raise AssertionError
            except ConnectionClosed as exc:
                raised.append(exc)

        async with driver.serve(handler) as served:
            async with driver.raw_client(served):
                await driver.until(lambda: topics.subscribers("a") == 1)
                await driver.settle()
            await driver.until(lambda: raised)
            assert topics.gone()

    @pytest.mark.not_on("sync", reason="threads can't be cancelled")
    async def test_cancelled_while_it_catches_up(self, driver: Driver) -> None:
        topics = Subscribed(driver, history=History(messages=400, bytes=2**26))
        first = await topics.publish("a", "first")
        for number in range(399):
            await topics.publish("a", f"{number}".ljust(50000))
        async with driver.pair(client={"max_queue": 1, "max_size": None}) as (client, server):

            async def subscribe() -> None:
                await topics.subscribed(server, "a", since=first)

            task = driver.spawn(subscribe())
            await driver.until(lambda: topics.subscribers("a") == 1)
            await driver.settle()
            assert await task.cancelled()
            assert topics.gone()
            got = 0
            async with topics.subscribe(server, "b"):
                await driver.call(topics.raw.publish, "b", "end")
                while (message := await client.recv(timeout=10)) != "end":
                    assert message.strip() == str(got)
                    got += 1
            assert 0 < got < 399


async def read_numbers(peer: RawPeer, got: list[int]) -> None:
    """Read what is sent, up to a negative number."""
    while (number := int((await peer.read_message())[1])) >= 0:
        got.append(number)
