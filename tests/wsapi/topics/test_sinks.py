"""Subscribers that are no connections of ours."""

from __future__ import annotations

import asyncio
import enum
import sys
from typing import Any

import pytest

from tests.wsapi.helpers import checking_errors, pair, run, turns, until
from tests.wsapi.topics.memory_bus import MemoryBroker
from tests.wsapi.topics.test_asyncio import is_gone
from wsapi import limits
from wsapi.exceptions import ConnectionClosed
from wsapi.frames import CloseCode
from wsapi.limits import Slow
from wsapi.topics import History, Message, Topics, _sinks
from wsapi.topics._history import ENTRY_OVERHEAD

LIMIT = 1000


class State(enum.Enum):
    CONNECTING = 0
    CONNECTED = 1
    DISCONNECTED = 2


class FakeWebSocket:
    """Has the methods of Starlette's class; sends while it is let."""

    def __init__(self) -> None:
        self.client_state = self.application_state = State.CONNECTED
        self.sent: list[Message] = []
        self.let = asyncio.Event()
        self.let.set()
        self.sending = 0
        self.error: Exception | None = None
        self.close_code: int | None = None
        self.closes = True

    async def _send(self, message: Message, kind: type) -> None:
        assert isinstance(message, kind)
        self.sending += 1
        assert self.sending == 1, "one after the other"
        try:
            await self.let.wait()
        finally:
            self.sending -= 1
        if self.error is not None:
            raise self.error
        self.sent.append(message)

    async def send_text(self, data: str) -> None:
        await self._send(data, str)

    async def send_bytes(self, data: bytes) -> None:
        await self._send(data, bytes)

    async def send(self, message: dict[str, Any]) -> None:
        raise AssertionError("this takes events of ASGI")

    async def close(self, code: int = 1000, reason: str | None = None) -> None:
        self.close_code = code
        if not self.closes:
            await asyncio.get_running_loop().create_future()


class Failing(FakeWebSocket):
    """Sends one message."""

    async def _send(self, message: Message, kind: type) -> None:
        await super()._send(message, kind)
        self.error = RuntimeError("the client is gone")


class Plain:
    """Has a coroutine method and nothing else."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    async def send(self, message: Message) -> None:
        self.sent.append(message)


class WithStr(Plain):
    async def send_str(self, message: str) -> None:
        self.sent.append(message)

    async def send_bytes(self, message: bytes) -> None:
        self.sent.append(message)


class TestSending:
    async def test_methods(self) -> None:
        topics = Topics()
        sockets: list[Any] = [FakeWebSocket(), Plain(), WithStr()]
        async with (
            topics.subscribe(sockets[0], "a"),
            topics.subscribe(sockets[1], "a"),
            topics.subscribe(sockets[2], "a"),
            pair() as (client, server),
            topics.subscribe(server, "a"),
        ):
            for message in ("1", b"2", "ä"):
                await topics.publish("a", message)
            for ws in sockets:
                await until(lambda ws=ws: len(ws.sent) == 3)
                assert ws.sent == ["1", b"2", "ä"]
            assert await client.recv() == "1"
            assert topics.stats().connections == 4
        assert is_gone(topics)

    @pytest.mark.skipif(
        sys.version_info < (3, 12), reason="there are no eager tasks in this version"
    )
    def test_eager_tasks(self) -> None:
        """What sends may have ended before it is known; uvloop doesn't take this factory."""

        def loop() -> asyncio.AbstractEventLoop:
            made = asyncio.new_event_loop()
            made.set_task_factory(asyncio.eager_task_factory)
            return made

        async def test() -> None:
            topics = Topics(history=History(messages=10))
            ws, slow = Plain(), FakeWebSocket()
            first = await topics.publish("a", "0")
            await topics.publish("a", "1")
            async with topics.subscribe(ws, "a", since=first):
                for number in range(2, 5):
                    await topics.publish("a", str(number))
                await until(lambda: len(ws.sent) == 4)
                slow.let.clear()
                async with topics.subscribe(slow, "a"):
                    for number in range(5, 8):
                        await topics.publish("a", str(number))
                    slow.let.set()
                    await until(lambda: len(slow.sent) == 3)
            assert ws.sent == [str(number) for number in range(1, 8)]
            assert slow.sent == ["5", "6", "7"]

        run(test(), loop)

    async def test_what_cannot_send(self) -> None:
        for connection in (object(), None, type("Socket", (), {"send": 1})()):
            with pytest.raises(TypeError, match="or an object with"):
                Topics().subscribe(connection, "a")

    async def test_several_topics_share_a_queue(self) -> None:
        topics = Topics()
        ws = FakeWebSocket()
        async with topics.subscribe(ws, "a"), topics.subscribe(ws, "b"):
            for number in range(20):
                await topics.publish("ab"[number % 2], str(number))
            await until(lambda: len(ws.sent) == 20)
            assert ws.sent == [str(number) for number in range(20)]

    async def test_what_was_missed_comes_first(self) -> None:
        topics = Topics(history=History(messages=100))
        first = await topics.publish("a", "0")
        for number in range(1, 50):
            await topics.publish("a", str(number))
        ws = FakeWebSocket()
        ws.let.clear()
        subscribing = asyncio.ensure_future(
            until_subscribed(topics.subscribe(ws, "a", since=first, announce=lambda s: "hello"))
        )
        await turns(3)
        for number in range(50, 60):
            await topics.publish("a", str(number))
        assert not subscribing.done()
        ws.let.set()
        subscription = await subscribing
        await topics.publish("a", "60")
        await until(lambda: len(ws.sent) == 61)
        assert ws.sent == ["hello", *map(str, range(1, 61))]
        subscription.unsubscribe()

    async def test_what_was_published_before_unsubscribing_is_sent(self) -> None:
        topics = Topics()
        ws = FakeWebSocket()
        async with topics.subscribe(ws, "a"):
            ws.let.clear()
            for number in range(3):
                await topics.publish("a", str(number))
        await topics.publish("a", "late")
        ws.let.set()
        await until(lambda: len(ws.sent) == 3)
        await turns(3)
        assert ws.sent == ["0", "1", "2"]

    async def test_subscribing_again_while_something_waits(self) -> None:
        """That comes first; there is one queue for an object."""
        topics = Topics(history=History(messages=100))
        ws = FakeWebSocket()
        subscribing = topics.subscribe(ws, "b")  # made before, awaited later
        async with topics.subscribe(ws, "a") as subscription:
            ws.let.clear()
            for number in range(3):
                await topics.publish("a", str(number))
            position = subscription.position
            assert position is not None
        assert topics.subscribers("a") == 0
        await subscribing
        await topics.publish("b", "b")
        again = asyncio.ensure_future(
            until_subscribed(
                topics.subscribe(
                    ws, "a", since=(position.epoch, 1), announce=lambda subscription: "again"
                )
            )
        )
        await turns(5)
        ws.let.set()
        await again
        assert ws.sent == ["0", "1", "2", "b", "again", "1", "2"]

    async def test_subscribing_again_when_nothing_waits(self) -> None:
        topics = Topics()
        ws = FakeWebSocket()
        for number in range(3):
            async with topics.subscribe(ws, "a"):
                await topics.publish("a", str(number))
            await until(lambda number=number: len(ws.sent) == number + 1)
        assert ws.sent == ["0", "1", "2"]


async def until_subscribed(subscribing: Any) -> Any:
    return await subscribing


class TestTheEnd:
    async def test_an_object_that_fails(self) -> None:
        topics = Topics()
        ws = FakeWebSocket()
        await topics.subscribe(ws, "a")
        await topics.subscribe(ws, "b")
        ws.error = RuntimeError("the client is gone")
        await topics.publish("a", "1")
        await topics.publish("a", "2")
        await until(lambda: is_gone(topics))
        assert ws.close_code is None

    async def test_one_that_fails_while_it_catches_up(self) -> None:
        topics = Topics(history=History(messages=10))
        first = await topics.publish("a", "1")
        await topics.publish("a", "2")
        ws = FakeWebSocket()
        ws.error = RuntimeError("the client is gone")
        with pytest.raises(ConnectionClosed):
            await topics.subscribe(ws, "a", since=first)
        assert topics.stats().subscriptions == 0

    async def test_one_that_fails_between_messages_that_it_missed(self) -> None:
        topics = Topics(history=History(messages=10))
        first = await topics.publish("a", "1")
        for message in ("2", "3"):
            await topics.publish("a", message)
        ws = Failing()
        ws.let.clear()
        async with topics.subscribe(ws, "b"):
            subscribing = asyncio.ensure_future(
                until_subscribed(topics.subscribe(ws, "a", since=first))
            )
            await turns(3)
            await topics.publish("b", "4")  # behind the first one, before the next
            ws.let.set()
            with pytest.raises(ConnectionClosed):
                await subscribing
            assert ws.sent == ["2"]
            assert topics.stats().subscriptions == 0

    async def test_closed_while_it_catches_up(self) -> None:
        topics = Topics(history=History(messages=10))
        first = await topics.publish("a", "1")
        await topics.publish("a", "2")
        ws = FakeWebSocket()
        ws.let.clear()
        subscribing = asyncio.ensure_future(
            until_subscribed(topics.subscribe(ws, "a", since=first))
        )
        await turns(3)
        await topics.aclose()
        with pytest.raises(ConnectionClosed):
            await subscribing
        # Whoever is told that it is closed finds that done.
        assert ws.close_code == CloseCode.SERVICE_RESTART
        assert ws.sent == []

    async def test_an_announcement_that_cannot_be_sent(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        topics = Topics()
        ws = FakeWebSocket()
        with pytest.raises(ConnectionClosed):
            await topics.subscribe(ws, "a", announce=lambda subscription: "\ud800")
        assert is_gone(topics)
        await until(lambda: ws.close_code == CloseCode.SERVICE_RESTART)
        (record,) = caplog.records
        assert record.getMessage().startswith("skipped a subscriber: UnicodeEncodeError")

    async def test_an_announcement_that_has_no_room(self) -> None:
        topics = Topics(max_backlog=LIMIT)
        ws = FakeWebSocket()
        await topics.subscribe(ws, "a")
        ws.let.clear()
        for _ in range(2):
            await topics.publish("a", "x")
            await turns(2)
        with pytest.raises(ConnectionClosed):
            await topics.subscribe(ws, "b", announce=lambda subscription: "y" * LIMIT)
        assert is_gone(topics)
        await until(lambda: ws.close_code == CloseCode.TRY_AGAIN_LATER)

    async def test_cancelled_while_it_catches_up(self) -> None:
        topics = Topics(history=History(messages=10))
        first = await topics.publish("a", "1")
        await topics.publish("a", "2")
        ws = FakeWebSocket()
        ws.let.clear()
        subscribing = asyncio.ensure_future(
            until_subscribed(topics.subscribe(ws, "a", since=first))
        )
        await turns(3)
        subscribing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await subscribing
        assert topics.stats().subscriptions == 0
        ws.let.set()
        await turns(3)

    @pytest.mark.parametrize("name", ["client_state", "application_state"])
    async def test_states(self, name: str) -> None:
        topics = Topics()
        ws = FakeWebSocket()
        setattr(ws, name, State.CONNECTING)
        with pytest.raises(RuntimeError, match="the WebSocket isn't accepted yet"):
            await topics.subscribe(ws, "a")
        setattr(ws, name, State.DISCONNECTED)
        with pytest.raises(ConnectionClosed):
            await topics.subscribe(ws, "a")
        assert is_gone(topics)

    async def test_a_flag(self) -> None:
        ws = Plain()
        ws.closed = True  # type: ignore[attr-defined] # as those of aiohttp have it
        with pytest.raises(ConnectionClosed):
            await Topics().subscribe(ws, "a")

    async def test_closing_topics(self) -> None:
        ws, plain = FakeWebSocket(), Plain()
        async with Topics() as topics:
            await topics.subscribe(ws, "a")
            await topics.subscribe(plain, "a")
        await until(lambda: ws.close_code == CloseCode.SERVICE_RESTART)

    async def test_closing_ends_what_is_being_sent(self) -> None:
        """As frameworks have it: what is being sent raises when the object is closed."""

        class Broken(FakeWebSocket):
            async def close(self, code: int = 1000, reason: str | None = None) -> None:
                self.error = RuntimeError("closed")
                self.let.set()
                await turns(3)
                await super().close(code, reason)

        ws = Broken()
        ws.let.clear()
        with checking_errors():
            async with Topics() as topics:
                await topics.subscribe(ws, "a")
                await topics.publish("a", "1")
                await turns(3)
            await until(lambda: ws.close_code == CloseCode.SERVICE_RESTART)
            assert ws.sent == []
            assert is_gone(topics)

    async def test_closed_for_each_of_its_topics(self) -> None:
        """Each is closed at a time of its own; the connection is closed once."""
        broker = MemoryBroker()
        codes: list[int] = []

        class Counting(FakeWebSocket):
            async def close(self, code: int = 1000, reason: str | None = None) -> None:
                codes.append(code)

        ws = Counting()
        async with Topics(broker.bus(), on_gap="close", spread=0.01) as topics:
            await topics.subscribe(ws, "a")
            await topics.subscribe(ws, "b")
            broker.go_away()
            broker.come_back()
            await until(lambda: bool(codes))
            await asyncio.sleep(0.02)
        assert codes == [CloseCode.SERVICE_RESTART]

    async def test_closing_lasts_no_longer_than_that(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("wsapi.topics._sinks.CLOSE_TIMEOUT", 0.01)
        topics = Topics()
        ws = FakeWebSocket()
        ws.closes = False
        await topics.subscribe(ws, "a")
        ws.let.clear()
        await topics.publish("a", "1")
        await topics.aclose()
        await until(lambda: not topics._tasks)
        assert ws.close_code == CloseCode.SERVICE_RESTART
        assert ws.sent == []


class TestSlowSubscribers:
    async def stuck(
        self, slow: Slow, number: int, size: int = 100, **options: Any
    ) -> tuple[Topics, FakeWebSocket]:
        """Publish while nothing can be sent."""
        topics = Topics(**options)
        ws = FakeWebSocket()
        await topics.subscribe(ws, "a", slow=slow, max_backlog=LIMIT)
        ws.let.clear()
        await topics.publish("a", "first")
        await turns(2)
        for count in range(number):
            await topics.publish("a", f"{count}".ljust(size))
        return topics, ws

    async def after(self, ws: FakeWebSocket) -> list[Message]:
        ws.let.set()
        await turns(20)
        return [str(message).strip() for message in ws.sent]

    @pytest.mark.parametrize("slow", [Slow.CLOSE, Slow.WAIT])
    async def test_closing(self, slow: Slow) -> None:
        before = limits.connections_given_up()
        topics, ws = await self.stuck(slow, 3)
        assert not is_gone(topics)
        await topics.publish("a", "x" * 300)
        await until(lambda: ws.close_code == CloseCode.TRY_AGAIN_LATER)
        assert is_gone(topics)
        assert limits.connections_given_up() == before + 1
        assert await self.after(ws) == []
        with pytest.raises(TypeError):
            topics.subscribe(object(), "a")

    async def test_what_comes_at_once_with_what_is_too_much(self) -> None:
        """As when what was missing of a topic is read: all of it is delivered, then looked at."""
        before = limits.connections_given_up()
        topics, ws = await self.stuck(Slow.CLOSE, 3)
        for message in ("x" * 300, "y", "z"):
            topics._core.publish("a", message, 0.0)
        topics._look()
        assert is_gone(topics)
        await until(lambda: ws.close_code == CloseCode.TRY_AGAIN_LATER)
        assert limits.connections_given_up() == before + 1
        assert await self.after(ws) == []

    async def test_a_burst_of_one_turn(self) -> None:
        """How the peer reads shows only when sending has begun."""
        topics = Topics(max_backlog=LIMIT)
        ws, stuck = FakeWebSocket(), FakeWebSocket()
        stuck.let.clear()
        await topics.subscribe(ws, "a")
        await topics.subscribe(stuck, "a")
        burst = [f"{count}".ljust(40_000) for count in range(32)]
        for message in burst:
            await topics.publish("a", message)
        await until(lambda: len(ws.sent) == 32)
        assert ws.sent == burst
        assert topics.stats().subscriptions == 2
        await topics.publish("a", "more")
        await until(lambda: stuck.close_code == CloseCode.TRY_AGAIN_LATER)
        await until(lambda: ws.sent[32:] == ["more"])
        assert ws.close_code is None
        for message in burst:
            await topics.publish("a", message)
        await until(lambda: len(ws.sent) == 65)  # again, by another task
        assert topics.stats().subscriptions == 1

    async def test_a_burst_that_is_too_large(self) -> None:
        topics = Topics(max_backlog=LIMIT)
        ws = FakeWebSocket()
        await topics.subscribe(ws, "a")
        message = "x" * (_sinks.MAX_BURST_SIZE // 4 - ENTRY_OVERHEAD)
        for _ in range(4):
            await topics.publish("a", message)
        assert topics.stats().subscriptions == 1
        await topics.publish("a", message)
        assert topics.stats().subscriptions == 0
        await until(lambda: ws.close_code == CloseCode.TRY_AGAIN_LATER)

    @pytest.mark.parametrize(
        ("slow", "kept"),
        [(Slow.DROP_NEWEST, ["0", "1", "2"]), (Slow.DROP_OLDEST, ["7", "8", "9"])],
    )
    async def test_dropping(self, slow: Slow, kept: list[str]) -> None:
        before = limits.messages_dropped()
        topics, ws = await self.stuck(slow, 10)
        assert await self.after(ws) == ["first", *kept]
        assert limits.messages_dropped() == before + 7
        assert topics.stats().subscriptions == 1

    async def test_the_latest(self) -> None:
        topics, ws = await self.stuck(Slow.LATEST, 10)
        await topics.subscribe(ws, "b", slow=Slow.LATEST, max_backlog=LIMIT)
        for count in range(10):
            await topics.publish("b", f"b{count}")
        await topics.publish("a", "10")
        assert await self.after(ws) == ["first", "10", "b9"]
        await topics.publish("a", "11")
        assert await self.after(ws) == ["first", "10", "b9", "11"]

    async def test_the_latest_without_a_limit(self) -> None:
        topics = Topics(max_backlog=None)
        ws = FakeWebSocket()
        await topics.subscribe(ws, "a", slow=Slow.LATEST)
        await topics.subscribe(ws, "b", slow=Slow.LATEST)
        ws.let.clear()
        await topics.publish("a", "first")
        await turns(2)
        for count in range(5):
            await topics.publish("a", f"{count}" * LIMIT)
            await topics.publish("b", f"b{count}")
        assert await self.after(ws) == ["first", "4" * LIMIT, "b4"]

    async def test_the_latest_may_cost_others_their_room(self) -> None:
        topics, ws = await self.stuck(Slow.DROP_OLDEST, 2)
        await topics.subscribe(ws, "b", slow=Slow.LATEST, max_backlog=LIMIT)
        await topics.publish("b", "b")
        await topics.publish("b", "B" * 400)
        assert await self.after(ws) == ["first", "1", "B" * 400]

    async def test_what_has_no_room_at_all(self) -> None:
        topics, ws = await self.stuck(Slow.DROP_OLDEST, 2)
        await topics.publish("a", "x" * 2000)
        assert await self.after(ws) == ["first", "0", "1"]

    @pytest.mark.parametrize("slow", Slow)
    async def test_what_is_larger_than_the_limit_while_nothing_waits(self, slow: Slow) -> None:
        topics, ws = await self.stuck(slow, 0)
        await topics.publish("a", "x" * 2000)
        assert await self.after(ws) == ["first", "x" * 2000]

    async def test_what_must_not_be_dropped_keeps_its_room(self) -> None:
        topics, ws = await self.stuck(Slow.CLOSE, 2)
        await topics.subscribe(ws, "b", slow=Slow.DROP_OLDEST, max_backlog=LIMIT)
        for count in range(5):
            await topics.publish("b", f"b{count}".ljust(200))
        assert await self.after(ws) == ["first", "0", "1", "b4"]

    async def test_what_waits_counts_as_it_is_sent(self) -> None:
        """Of text, bytes of UTF-8 count."""
        size = 2 * (150 + ENTRY_OVERHEAD)
        for text, kept in (("x" * 150, ["first", "0", "1"]), ("é" * 149, ["first", "0"])):
            topics = Topics()
            ws = FakeWebSocket()
            await topics.subscribe(ws, "a", slow=Slow.DROP_NEWEST, max_backlog=size)
            ws.let.clear()
            await topics.publish("a", "first")
            await turns(2)
            for count in range(3):
                await topics.publish("a", f"{count}{text[1:]}")
            assert [message[:5].rstrip("xé") for message in await self.after(ws)] == kept

    async def test_no_limit(self) -> None:
        topics = Topics(max_backlog=None)
        ws = FakeWebSocket()
        await topics.subscribe(ws, "a")
        ws.let.clear()
        for _ in range(100):
            await topics.publish("a", "x" * 10_000)
        ws.let.set()
        await until(lambda: len(ws.sent) == 100)
