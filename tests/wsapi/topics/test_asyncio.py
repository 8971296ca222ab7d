"""Topics on asyncio, without a bus, with real connections."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.wsapi.helpers import pair, serving, turns, until, uri_of
from tests.wsapi.topics.memory_bus import MemoryBus
from wsapi.asyncio.client import ClientConnection, connect
from wsapi.asyncio.server import ServerConnection
from wsapi.exceptions import ConnectionClosed, ConnectionClosedError
from wsapi.frames import CloseCode
from wsapi.limits import Slow
from wsapi.sync.connection import Connection as ThreadConnection
from wsapi.topics import (
    History,
    Message,
    NotAuthorized,
    Position,
    Subscription,
    TopicLimitExceeded,
    Topics,
    _base,
)


def tell_position(topic: str, position: Position | None, message: Message) -> Message:
    return f"{message!s}|{position}"


@contextlib.asynccontextmanager
async def crowd(number: int, **options: Any) -> AsyncIterator[list[tuple[Any, Any]]]:
    """Connect clients; give pairs of a client's end and the server's."""
    accepted: list[ServerConnection] = []

    async def handler(ws: ServerConnection) -> None:
        accepted.append(ws)
        await ws.wait_closed()

    async with serving(handler, **options) as server, contextlib.AsyncExitStack() as stack:
        pairs = []
        for count in range(number):
            client = await stack.enter_async_context(connect(uri_of(server), compression=None))
            await until(lambda count=count: len(accepted) > count)
            pairs.append((client, accepted[-1]))
        yield pairs


async def messages(ws: ClientConnection, number: int) -> list[Message]:
    return [await ws.recv() for _ in range(number)]


async def nothing_more(topics: Topics, topic: str, *clients: ClientConnection) -> None:
    """Check that clients have been sent nothing that they haven't received."""
    for client in clients:
        assert client.protocol.queued_frames == 0
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.recv(), 0.01)


class SmallBuffers:
    """Pairs of which one side stops reading fill up soon."""

    @staticmethod
    @contextlib.asynccontextmanager
    async def stuck(**options: Any) -> AsyncIterator[tuple[Any, Any]]:
        async with pair(client={"max_queue": 1}, server={"write_limit": 1000} | options) as (
            client,
            server,
        ):
            sock = server.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            client.transport.pause_reading()
            yield client, server
            client.transport.abort()


def is_gone(topics: Topics) -> bool:
    stats = topics.stats()
    return (stats.topics, stats.connections, stats.subscriptions) == (0, 0, 0)


class TestPublishing:
    async def test_to_all_who_subscribed(self) -> None:
        topics = Topics()
        async with crowd(4) as pairs:
            async with contextlib.AsyncExitStack() as stack:
                for _, server in pairs[:3]:
                    await stack.enter_async_context(topics.subscribe(server, "a"))
                await stack.enter_async_context(topics.subscribe(pairs[2][1], "b"))
                assert topics.subscribers("a") == 3
                assert await topics.publish("a", "text") is None
                assert await topics.publish("b", b"binary") is None
                assert await topics.publish("a", bytearray(b"more")) is None
                assert await topics.publish("a", memoryview(b"more")) is None
                assert await topics.publish("c", "nobody") is None
                for client, _ in pairs[:2]:
                    assert await messages(client, 3) == ["text", b"more", b"more"]
                assert await messages(pairs[2][0], 4) == ["text", b"binary", b"more", b"more"]
                counters = topics.stats().counters
                assert (counters.published, counters.delivered) == (5, 10)
            await topics.publish("a", "late")
            await nothing_more(topics, "a", *(client for client, _ in pairs))
            assert is_gone(topics)

    async def test_compressed_once_for_all_who_want_that(self) -> None:
        topics = Topics()
        async with pair(compression="deflate") as (client, server):
            async with topics.subscribe(server, "a", compress=True):
                await topics.publish("a", "x" * 1000)
                assert await client.recv() == "x" * 1000
            async with topics.subscribe(server, "a", compress=False):
                await topics.publish("a", "x" * 1000)
                assert await client.recv() == "x" * 1000
            assert server.stats().payload_bytes_sent < 1200

    async def test_order(self) -> None:
        topics = Topics(history=History(messages=10))
        async with pair() as (client, server):
            async with topics.subscribe(server, "a"):
                async with asyncio.TaskGroup() as group:
                    for number in range(100):
                        group.create_task(topics.publish("a", str(number)))
                assert await messages(client, 100) == [str(number) for number in range(100)]

    async def test_others_run_while_a_task_publishes(self) -> None:
        topics = Topics()
        ran = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(ran.set_result, None)
        for _ in range(1000):
            await topics.publish("a", "x")
            if ran.done():
                break
        assert ran.done()

    async def test_from_other_threads(self) -> None:
        topics = Topics(history=History(messages=1000))
        async with pair() as (client, server):
            async with topics.subscribe(server, "a") as subscription:
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
                    mine = [m for m in received if str(m).startswith(name)]
                    assert mine == [f"{name}{number}" for number in range(50)]
                for thread in threads:
                    await asyncio.to_thread(thread.join)
                offsets = sorted(future.result(0).offset for future in futures)
                assert offsets == list(range(1, 151))
                assert subscription.position == max(future.result(0) for future in futures)

    async def test_from_other_threads_what_fails(self) -> None:
        def envelope(topic: str, position: Position | None, message: Message) -> Message:
            raise ZeroDivisionError

        topics = Topics(envelope=envelope)
        with pytest.raises(RuntimeError, match="no event loop has used these topics yet"):
            topics.publish_threadsafe("a", "x")
        async with pair() as (_, server), topics, topics.subscribe(server, "a"):
            with pytest.raises(TypeError):
                topics.publish_threadsafe("a", 1)  # type: ignore[arg-type] # is refused
            with pytest.raises(ValueError):
                topics.publish_threadsafe("", "x")
            future = topics.publish_threadsafe("a", "x")
            cancelled = topics.publish_threadsafe("a", "x")
            assert cancelled.cancel()
            with pytest.raises(ZeroDivisionError):
                await asyncio.wrap_future(future)
            with pytest.raises(ZeroDivisionError):
                await topics.publish("a", "x")
            await turns(2)
            assert topics.stats().counters.published == 0

    @pytest.mark.parametrize(
        ("topic", "message", "error", "text"),
        [
            ("", "x", ValueError, "must not be empty"),
            (b"a", "x", TypeError, "must be str; got bytes"),
            ("a", None, TypeError, "message must be str or bytes-like, not NoneType"),
            ("a", ["x"], TypeError, "message must be str or bytes-like, not list"),
            ("a", "\ud800", ValueError, "surrogates not allowed"),
            ("a", "x" * 101, ValueError, "message has 101 bytes; max_message_size is 100"),
            ("a", "ä" * 51, ValueError, "message has 102 bytes"),
            ("a", bytes(101), ValueError, "message has 101 bytes"),
        ],
    )
    async def test_wrong_arguments(
        self, topic: Any, message: Any, error: type[Exception], text: str
    ) -> None:
        topics = Topics(max_message_size=100, history=History(messages=3))
        async with pair() as (client, server), topics.subscribe(server, "a") as subscription:
            before = subscription.position
            with pytest.raises(error, match=text):
                await topics.publish(topic, message)
            assert subscription.position == before
            await topics.publish("a", "ä" * 50)
            assert await client.recv() == "ä" * 50


class TestSubscribing:
    async def test_awaited(self) -> None:
        topics = Topics()
        async with pair() as (client, server):
            subscription = await topics.subscribe(server, "a")
            assert isinstance(subscription, Subscription)
            assert (subscription.topic, subscription.connection) == ("a", server)
            assert (subscription.recovered, subscription.position) == (None, None)
            assert subscription.active
            assert "'a' LIVE" in repr(subscription)
            await topics.publish("a", "1")
            subscription.unsubscribe()
            subscription.unsubscribe()
            assert not subscription.active
            await topics.publish("a", "2")
            assert await client.recv() == "1"
            await nothing_more(topics, "a", client)
            assert is_gone(topics)

    @pytest.mark.parametrize(
        ("arguments", "error", "text"),
        [
            ({"topic": ""}, ValueError, "must not be empty"),
            ({"topic": None}, TypeError, "must be str"),
            ({"connection": None}, TypeError, "connection must be a connection of wsapi.asyncio"),
            ({"connection": "x"}, TypeError, "got str"),
            ({"since": "x"}, ValueError, "a position is"),
            ({"since": 1}, TypeError, "a position is"),
            ({"since": ("e", -1)}, ValueError, "an offset is between"),
            ({"slow": "close"}, TypeError, "slow must be a member of Slow or None, not str"),
            ({"max_backlog": -1}, ValueError, "max_backlog must be 0 or more"),
            ({"max_backlog": 1.5}, TypeError, "max_backlog must be int"),
            ({"compress": 1}, TypeError, "compress must be a bool or None"),
            ({"announce": 1}, TypeError, "announce must be a callable or None"),
            ({"on_gap": 1}, TypeError, "on_gap must be a callable or None"),
        ],
    )
    async def test_wrong_arguments(
        self, arguments: dict[str, Any], error: type[Exception], text: str
    ) -> None:
        topics = Topics()
        async with pair() as (_, server):
            given = {"connection": server, "topic": "a"} | arguments
            with pytest.raises(error, match=text):
                topics.subscribe(**given)
            assert is_gone(topics)
            async with topics.subscribe(server, "a"):
                pass

    def test_connections_of_other_front_ends(
        self, both_ends: tuple[ThreadConnection, object]
    ) -> None:
        with pytest.raises(TypeError, match="is of another front-end"):
            Topics().subscribe(both_ends[0], "a")

    async def test_twice(self) -> None:
        topics = Topics()
        async with pair() as (client, server), topics.subscribe(server, "a"):
            with pytest.raises(ValueError, match="has subscribed to 'a' already"):
                await topics.subscribe(server, "a")
            await topics.publish("a", "1")
            assert await client.recv() == "1"
            await nothing_more(topics, "a", client)

    async def test_limits(self) -> None:
        topics = Topics(max_subscriptions=2, max_topics=3, max_subscribers=2)
        async with crowd(3) as ((_, one), (_, two), (_, three)):
            subscriptions = [
                await topics.subscribe(one, "a"),
                await topics.subscribe(one, "b"),
                await topics.subscribe(two, "a"),
                await topics.subscribe(two, "c"),
            ]
            with pytest.raises(TopicLimitExceeded, match="the connection has 2 subscriptions"):
                await topics.subscribe(one, "c")
            with pytest.raises(TopicLimitExceeded, match="topic 'a' has 2 subscribers"):
                await topics.subscribe(three, "a")
            with pytest.raises(TopicLimitExceeded, match="there are 3 topics"):
                await topics.subscribe(three, "d")
            assert topics.stats().subscriptions == 4
            assert topics.stats().connections == 2
            for subscription in subscriptions:
                subscription.unsubscribe()
            assert is_gone(topics)
            async with topics.subscribe(three, "d"):
                pass

    async def test_a_closed_connection(self) -> None:
        topics = Topics()
        async with pair() as (client, server):
            subscribing = topics.subscribe(server, "a")
            await client.close()
            await server.wait_closed()
            with pytest.raises(ConnectionClosed):
                await subscribing
            with pytest.raises(ConnectionClosed):
                await topics.subscribe(server, "a")
        assert is_gone(topics)

    async def test_another_loop(self) -> None:
        topics = Topics()
        async with pair() as (_, server), topics.subscribe(server, "a"):

            def other() -> None:
                with pytest.raises(RuntimeError, match="belong to another event loop"):
                    asyncio.run(topics.publish("a", "x"))

            await asyncio.to_thread(other)
        await asyncio.to_thread(lambda: asyncio.run(topics.publish("a", "x")))

    async def test_closing_topics(self) -> None:
        async with crowd(2) as ((one, _), (two, server)):
            async with Topics() as topics:
                await topics.subscribe(server, "a")
                await topics.subscribe(server, "b")
            with pytest.raises(ConnectionClosedError):
                await two.recv()
            assert two.close_code == CloseCode.SERVICE_RESTART
            assert is_gone(topics)
            with pytest.raises(RuntimeError, match="these topics are closed"):
                await topics.publish("a", "x")
            with pytest.raises(RuntimeError, match="these topics are closed"):
                await topics.subscribe(server, "a")
            await topics.aclose()
            assert one.state.name == "OPEN"

    async def test_announcing(self) -> None:
        topics = Topics(history=History(messages=10), slow=Slow.LATEST)
        async with pair() as (client, server):
            first = await topics.publish("a", "1")
            await topics.publish("a", "2")
            await topics.publish("a", "3")

            def announce(subscription: Subscription) -> str:
                return f"{subscription.recovered} {subscription.position}"

            for since in (None, first, ("foreign", 1)):
                async with topics.subscribe(server, "a", since=since, announce=announce):
                    await topics.publish("a", "4")
            assert first is not None
            assert await messages(client, 9) == [
                f"None {first.epoch}:3",
                "4",
                f"True {first}",
                "2",
                "3",
                "4",
                "4",
                f"False {first.epoch}:5",
                "4",
            ]

    @pytest.mark.parametrize("result", [1, ZeroDivisionError])
    async def test_an_announcement_that_fails(self, result: Any) -> None:
        def announce(subscription: Subscription) -> Any:
            if result is ZeroDivisionError:
                raise ZeroDivisionError
            return result

        topics = Topics()
        async with pair() as (client, server):
            with pytest.raises((TypeError, ZeroDivisionError)):
                await topics.subscribe(server, "a", announce=announce)
            assert is_gone(topics)
            async with topics.subscribe(server, "a", announce=lambda subscription: None):
                await topics.publish("a", "x")
                assert await client.recv() == "x"


class TestAuthorization:
    @pytest.mark.parametrize("asynchronous", [False, True])
    async def test_asking(self, asynchronous: bool) -> None:
        asked: list[Any] = []

        def authorize(connection: Any, topic: str, action: str) -> bool:
            asked.append((connection, topic, action))
            return topic == "a"

        async def authorize_later(connection: Any, topic: str, action: str) -> bool:
            await asyncio.sleep(0)
            return authorize(connection, topic, action)

        topics = Topics(authorize=authorize_later if asynchronous else authorize)
        async with pair() as (client, server):
            async with topics.subscribe(server, "a"):
                with pytest.raises(NotAuthorized, match="may not subscribe to 'b'"):
                    await topics.subscribe(server, "b")
                with pytest.raises(NotAuthorized, match="may not publish to 'b'"):
                    await topics.publish("b", "x", connection=server)
                await topics.publish("a", "1", connection=server)
                await topics.publish("b", "2")
                assert await client.recv() == "1"
            assert asked == [
                (server, "a", "subscribe"),
                (server, "b", "subscribe"),
                (server, "b", "publish"),
                (server, "a", "publish"),
            ]
            assert is_gone(topics)

    async def test_a_hook_that_fails(self) -> None:
        def authorize(connection: Any, topic: str, action: str) -> bool:
            raise ZeroDivisionError

        topics = Topics(authorize=authorize)
        async with pair() as (_, server):
            with pytest.raises(ZeroDivisionError):
                await topics.subscribe(server, "a")
            with pytest.raises(ZeroDivisionError):
                await topics.publish("a", "x", connection=server)
        assert is_gone(topics)

    async def test_a_connection_that_ends_meanwhile(self) -> None:
        async def authorize(connection: Any, topic: str, action: str) -> bool:
            await connection.wait_closed()
            return True

        topics = Topics(authorize=authorize)
        async with pair() as (client, server):
            subscribing = asyncio.ensure_future(topics.subscribe(server, "a"))
            await turns(2)
            await client.close()
            with pytest.raises(ConnectionClosed):
                await subscribing
        assert is_gone(topics)


class TestRecovery:
    async def test_what_was_missed_comes_first(self) -> None:
        topics = Topics(history=History(messages=100), envelope=tell_position)
        async with crowd(2) as ((one, server_one), (two, server_two)):
            async with topics.subscribe(server_one, "a") as subscription:
                await topics.publish("a", "1")
                assert await topics.publish("a", "2") == subscription.position
                last = str(await one.recv()).split("|")[1]
            await topics.publish("a", "3")
            async with topics.subscribe(server_two, "a", since=last) as subscription:
                assert subscription.recovered is True
                await topics.publish("a", "4")
                assert [str(m).split("|")[0] for m in await messages(two, 3)] == ["2", "3", "4"]
            async with topics.subscribe(server_two, "a", since=("other", 3)) as subscription:
                assert subscription.recovered is False
                await topics.publish("a", "5")
                assert str(await two.recv()).startswith("5|")

    async def test_without_gap_while_publishing_goes_on(self) -> None:
        topics = Topics(history=History(messages=100_000, bytes=2**30))
        positions = [await topics.publish("a", str(number)) for number in range(300)]
        stop = False

        async def publish() -> int:
            number = len(positions)
            while not stop:
                await topics.publish("a", str(number))
                number += 1
                if number % 3 == 0:
                    await asyncio.sleep(0)
            return number

        async def come_back(client: Any, server: Any, offset: int) -> None:
            async with topics.subscribe(server, "a", since=positions[offset]) as subscription:
                assert subscription.recovered
                # Numbers begin with 0, offsets with 1.
                for number in range(offset + 1, 1000):
                    assert await client.recv() == str(number)

        async with crowd(8, write_limit=1000) as pairs:
            publishing = asyncio.ensure_future(publish())
            async with asyncio.TaskGroup() as group:
                for number, (client, server) in enumerate(pairs):
                    group.create_task(come_back(client, server, 37 * number))
            stop = True
            assert await publishing >= 1000

    @pytest.mark.parametrize("slow", [Slow.WAIT, Slow.CLOSE, Slow.DROP_OLDEST])
    async def test_backpressure_holds_what_catches_up(self, slow: Slow) -> None:
        topics = Topics(history=History(messages=1000, bytes=2**25))
        first = await topics.publish("a", "0")
        for number in range(1, 300):
            await topics.publish("a", str(number) + "x" * 10_000)
        # Whatever the connection does with messages otherwise.
        async with SmallBuffers.stuck(slow=slow, max_backlog=50_000) as (client, server):
            subscribing = asyncio.ensure_future(topics.subscribe(server, "a", since=first))
            await asyncio.wait({subscribing}, timeout=0.05)
            assert not subscribing.done()
            assert server.transport.get_write_buffer_size() < 50_000
            client.transport.resume_reading()
            for number in range(1, 300):
                assert await client.recv() == str(number) + "x" * 10_000
            subscription = await subscribing
            assert subscription.recovered

    @pytest.mark.parametrize("told", [True, False])
    async def test_whoever_is_too_slow_in_catching_up(self, told: bool) -> None:
        topics = Topics(history=History(messages=100, bytes=2**25))
        first = await topics.publish("a", "0")
        for number in range(1, 100):
            await topics.publish("a", str(number) + "x" * 10_000)
        async with SmallBuffers.stuck() as (client, server):
            subscribing = asyncio.ensure_future(
                topics.subscribe(
                    server, "a", since=first, on_gap=(lambda subscription: "gap") if told else None
                )
            )
            await asyncio.wait({subscribing}, timeout=0.05)
            for number in range(100, 400):
                await topics.publish("a", str(number))
            client.transport.resume_reading()
            received: list[Message] = []
            with contextlib.suppress(ConnectionClosed):
                while "399" not in received:
                    received.append(await client.recv())
                    if received[-1] == "gap":
                        await topics.publish("a", "399")
            if told:
                assert received[-2:] == ["gap", "399"]
                assert (await subscribing).recovered is True
            else:
                with pytest.raises(ConnectionClosedError):
                    await subscribing
                assert client.close_code == CloseCode.TRY_AGAIN_LATER
                assert is_gone(topics) or topics.stats().subscriptions == 0
            # What came before is without gap.
            count = len(received) - 2 * told
            assert received[:count] == [str(n) + "x" * 10_000 for n in range(1, count + 1)]


class TestTheEnd:
    @pytest.mark.parametrize("how", ["close", "abort", "server closes", "server aborts", "fails"])
    async def test_a_connection_that_ends_leaves(self, how: str) -> None:
        topics = Topics()
        async with crowd(2) as ((client, server), (other, other_server)):
            await topics.subscribe(server, "a")
            await topics.subscribe(server, "b")
            await topics.subscribe(other_server, "a")
            if how == "close":
                await client.close()
            elif how == "abort":
                client.transport.abort()
            elif how == "server closes":
                await server.close()
            elif how == "server aborts":
                server.transport.abort()
            else:
                client.transport.write(b"\xff\xff\xff")
            await server.wait_closed()
            await turns(2)
            stats = topics.stats()
            assert (stats.topics, stats.connections, stats.subscriptions) == (1, 1, 1)
            await topics.publish("a", "x")
            assert await other.recv() == "x"

    async def test_nothing_is_left(self) -> None:
        topics = Topics(history=History(messages=3))
        kept: list[Any] = []
        async with crowd(1) as ((_, server),):
            for _ in range(10):
                async with topics.subscribe(server, "a") as subscription:
                    await topics.publish("a", "x")
                async with topics.subscribe(server, "b", since="e:1"):
                    pass
            assert len(server._lost_waiters) <= 3
            kept.append(weakref.ref(server))
            del server, subscription
        await turns(5)
        gc.collect()
        assert kept[0]() is None
        assert topics.stats().topics == 1

    async def test_an_exception_in_the_block(self) -> None:
        topics = Topics()
        async with pair() as (_, server):
            with pytest.raises(ZeroDivisionError):
                async with topics.subscribe(server, "a"):
                    raise ZeroDivisionError
        assert is_gone(topics)


async def test_an_object_that_subscribes_again() -> None:
    """What waits for it comes first."""

    sent: list[Any] = []

    class Sender:
        async def send(self, message: Any) -> None:
            await asyncio.sleep(0)
            sent.append(message)

    topics, sender = Topics(), Sender()
    for name in ("a", "b"):
        async with topics.subscribe(sender, name):
            for number in range(3):
                await topics.publish(name, f"{name}{number}")
    await until(lambda: len(sent) == 6)
    assert sent == ["a0", "a1", "a2", "b0", "b1", "b2"]


class TestCancellation:
    async def test_while_it_is_asked(self) -> None:
        async def authorize(connection: Any, topic: str, action: str) -> bool:
            await asyncio.get_running_loop().create_future()
            return True

        topics = Topics(authorize=authorize)
        async with pair() as (_, server):
            for call in (
                topics.subscribe(server, "a"),
                topics.publish("a", "x", connection=server),
            ):
                task = asyncio.ensure_future(call)
                await turns(2)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
        assert is_gone(topics)
        assert topics.stats().counters.published == 0

    async def test_while_catching_up(self) -> None:
        topics = Topics(history=History(messages=1000, bytes=2**25))
        first = await topics.publish("a", "0")
        for _ in range(300):
            await topics.publish("a", "x" * 10_000)
        async with SmallBuffers.stuck() as (_, server):
            task = asyncio.ensure_future(topics.subscribe(server, "a", since=first))
            await asyncio.wait({task}, timeout=0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            stats = topics.stats()
            assert (stats.connections, stats.subscriptions) == (0, 0)

    async def test_a_connection_that_ends_while_catching_up(self) -> None:
        topics = Topics(history=History(messages=1000, bytes=2**25))
        first = await topics.publish("a", "0")
        for _ in range(300):
            await topics.publish("a", "x" * 10_000)
        async with SmallBuffers.stuck() as (client, server):
            task = asyncio.ensure_future(topics.subscribe(server, "a", since=first))
            await asyncio.wait({task}, timeout=0.05)
            client.transport.abort()
            with pytest.raises(ConnectionClosed):
                await task
            assert topics.stats().subscriptions == 0

    async def test_while_publishing(self) -> None:
        topics = Topics(history=History(messages=100))

        async def publish() -> None:
            while True:
                await topics.publish("a", "x")

        task = asyncio.ensure_future(publish())
        await turns(3)
        published = topics.stats().counters.published
        assert published
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # What wasn't published by then, isn't.
        assert topics.stats().counters.published == published
        position = await topics.publish("a", "x")
        assert position is not None
        assert position.offset == published + 1


class TestSlowSubscribers:
    @pytest.mark.parametrize("slow", list(Slow))
    async def test_policies(self, slow: Slow) -> None:
        topics = Topics(max_backlog=30_000, slow=Slow.CLOSE if slow is Slow.WAIT else slow)
        async with SmallBuffers.stuck() as (client, server):
            await topics.subscribe(server, "a", slow=slow)
            # What the network takes is no matter here.
            for number in range(100):
                await topics.publish("a", f"{number:03}" + "x" * 10_000)
            if slow in (Slow.CLOSE, Slow.WAIT):
                client.transport.resume_reading()
                with pytest.raises(ConnectionClosed):
                    while True:
                        await client.recv()
                if slow is Slow.CLOSE:
                    assert client.close_code == CloseCode.TRY_AGAIN_LATER
                await server.wait_closed()
                await turns(2)
                assert is_gone(topics)
                return
            assert server.stats().messages_dropped
            client.transport.resume_reading()
            received = []
            with contextlib.suppress(asyncio.TimeoutError):
                while True:
                    message = await asyncio.wait_for(client.recv(), 0.1)
                    received.append(int(str(message)[:3]))
            assert received == sorted(set(received))
            assert len(received) < 100
            assert (99 in received) is (slow is not Slow.DROP_NEWEST)

    async def test_others_are_not_held_up(self) -> None:
        topics = Topics(max_backlog=30_000)
        async with SmallBuffers.stuck() as (_, slow), pair() as (client, server):
            await topics.subscribe(slow, "a")
            await topics.subscribe(server, "a")
            for number in range(50):
                await topics.publish("a", str(number) + "x" * 10_000)
                assert await client.recv() == str(number) + "x" * 10_000
            assert topics.subscribers("a") == 1

    async def test_a_message_in_fragments_on_the_way(self) -> None:
        topics = Topics()
        async with pair() as (client, server), topics.subscribe(server, "a"):
            go_on = asyncio.Event()

            async def fragments() -> AsyncIterator[str]:
                yield "one"
                await go_on.wait()
                yield "two"

            task = asyncio.ensure_future(server.send(fragments()))
            await turns(5)
            await topics.publish("a", "x")
            go_on.set()
            await task
            assert await messages(client, 2) == ["onetwo", "x"]

    async def test_a_message_in_fragments_for_which_nothing_can_wait(self) -> None:
        topics = Topics()
        async with pair() as (client, server):
            await topics.subscribe(server, "a", slow=Slow.WAIT)
            go_on = asyncio.Event()

            async def fragments() -> AsyncIterator[str]:
                yield "one"
                await go_on.wait()
                yield "two"

            task = asyncio.ensure_future(server.send(fragments()))
            await turns(5)
            await topics.publish("a", "x")
            # It hasn't got the message, and is told so.
            assert is_gone(topics)
            go_on.set()
            with pytest.raises(ConnectionClosed):
                await task
            with pytest.raises(ConnectionClosedError):
                await client.recv()


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({"bus": object()}, TypeError, r"bus must be a Bus, a URL, .* has no open\(\)"),
            ({"bus": MemoryBus}, TypeError, "bus must be an instance of .*; MemoryBus is the"),
            ({"history": 5}, TypeError, "history must be a History or None, not int"),
            ({"slow": None}, TypeError, "slow must be a member of Slow; got None"),
            ({"slow": "close"}, TypeError, "slow must be a member of Slow; got 'close'"),
            ({"max_backlog": -1}, ValueError, "max_backlog must be 0 or more"),
            ({"on_gap": "ignore"}, ValueError, "on_gap must be 'fill' or 'close'"),
            ({"spread": -1}, ValueError, "spread must be 0 or more, and finite; got -1"),
            ({"spread": None}, TypeError, "spread must be a number of seconds, not NoneType"),
            ({"unfollow_delay": float("nan")}, ValueError, "unfollow_delay must be 0 or more"),
            ({"heartbeat": 0}, ValueError, "heartbeat must be more than 0"),
            ({"publish_timeout": True}, TypeError, "publish_timeout must be a number of s"),
            ({"publish_queue": None}, TypeError, "publish_queue must be int; got NoneType"),
            ({"publish_queue": -1}, ValueError, "publish_queue must be 0 or more"),
            ({"max_message_size": 0}, ValueError, "max_message_size must be 1 or more"),
            ({"max_topics": 0}, ValueError, "max_topics must be 1 or more, or None"),
            ({"max_subscribers": 1.5}, TypeError, "max_subscribers must be int or None"),
            ({"max_subscriptions": "1"}, TypeError, "max_subscriptions must be int or None"),
            ({"authorize": 1}, TypeError, "authorize must be a callable or None"),
            ({"envelope": 1}, TypeError, "envelope must be a callable or None"),
            ({"on_health": 1}, TypeError, "on_health must be a callable or None"),
            ({"logger": 5}, TypeError, "logger must be a Logger, a LoggerAdapter.* not int"),
        ],
    )
    def test_wrong_options(
        self, options: dict[str, Any], error: type[Exception], text: str
    ) -> None:
        with pytest.raises(error, match=text):
            Topics(**options)

    async def test_health(self) -> None:
        async with Topics() as topics:
            assert topics.healthy
            await topics.wait_healthy(0.0)
            assert topics.stats().healthy


def test_one_connection_is_much_like_another() -> None:
    """Memory of 10,000 subscriptions on 1,000 topics is measured in benchmarks/topics.py."""
    assert not hasattr(Subscription, "__dict__") or Subscription.__dictoffset__ == 0
    assert _base.Recipient.__dictoffset__ == 0
