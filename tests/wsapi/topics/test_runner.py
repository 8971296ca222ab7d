"""A core, a bus, and what goes wrong between them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import pytest

from tests.wsapi.helpers import logged_errors, turns, until
from tests.wsapi.topics.clock import fake_time
from tests.wsapi.topics.memory_bus import MemoryBroker, MemoryBus
from tests.wsapi.topics.processes import Process
from wsapi.topics import _runner
from wsapi.topics.bus import BusReceiver, Notice, Page
from wsapi.topics.exceptions import BusUnavailable
from wsapi.topics.positions import Position


def elapsed_since(start: float) -> float:
    return asyncio.get_running_loop().time() - start


def now() -> float:
    return asyncio.get_running_loop().time()


def texts(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    found = [(record.levelname, record.getMessage()) for record in caplog.records]
    caplog.clear()
    return found


# ---------------------------------------------------------------------- carrying out requests


@fake_time
async def test_two_processes() -> None:
    broker = MemoryBroker()
    async with Process(broker) as one, Process(broker) as two:
        reader = await one.subscribed("a")
        late = await two.subscribed("a")
        assert await two.runner.publish("a", "1") == Position("e1", 1)
        assert await one.runner.publish("a", b"2") == Position("e1", 2)
        await turns(5)
        assert reader.got == late.got == ["1", b"2"]
        back = await two.subscribed("a", Position("e1", 1))
        assert back.subscriber.recovered
        assert back.got == [b"2"]
        # The topic is followed once, however many subscribe.
        assert broker.calls.count(("follow", "a")) == 2
    assert broker.buses == []


@fake_time
async def test_unfollow_is_delayed() -> None:
    broker = MemoryBroker()
    async with Process(broker, core_options={"unfollow_delay": 10}) as process:
        reader = await process.subscribed("a")
        reader.leave()
        await asyncio.sleep(9)
        again = await process.subscribed("a")
        assert broker.calls == [("follow", "a"), *broker.calls[1:]]
        assert "a" in process.bus.followed
        await asyncio.sleep(5)
        assert "a" in process.bus.followed
        again.leave()
        await asyncio.sleep(11)
        assert "a" not in process.bus.followed
        assert process.core.topics == 0
        await process.subscribed("a")
        assert "a" in process.bus.followed
    calls = [call for call, _ in broker.calls if call != "position"]
    assert calls == ["follow", "unfollow", "follow"]


@fake_time
async def test_unfollowing_that_fails_is_tried_again_later() -> None:
    broker = MemoryBroker()
    async with Process(broker, core_options={"unfollow_delay": 0}) as process:
        reader = await process.subscribed("a")
        broker.go_away()
        reader.leave()
        await asyncio.sleep(10)
        assert 3 <= broker.calls.count(("unfollow", "a")) <= 11
        broker.come_back()
        await asyncio.sleep(3)
        assert "a" not in process.bus.followed
        assert process.core.topics == 0


@fake_time
async def test_many_topics_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_runner, "MAX_REQUESTS", 3)
    broker = MemoryBroker()
    async with Process(broker) as process:
        readers = [process.read(f"{number}") for number in range(50)]
        assert process.runner.stats()["requests"] == 50
        for reader in readers:
            await reader.known.wait()
            assert reader.error is None
        assert process.runner.stats()["requests"] == 0


@fake_time
async def test_subscribing_while_the_broker_is_away_fails() -> None:
    broker = MemoryBroker()
    async with Process(broker) as process:
        broker.go_away()
        reader = process.read("a")
        await reader.known.wait()
        assert isinstance(reader.error, BusUnavailable)
        assert process.core.topics == 0
        broker.come_back()
        await process.subscribed("a")


@fake_time
async def test_requests_that_are_not_answered_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that never had their turn."""
    monkeypatch.setattr(_runner, "MAX_REQUESTS", 3)
    broker = MemoryBroker()
    async with Process(broker, bus=broker.bus(timeout=None)) as process:
        broker.answers = False
        start = now()
        readers = [process.read(f"{number}") for number in range(50)]
        for reader in readers:
            await reader.known.wait()
            assert isinstance(reader.error, BusUnavailable)
        assert elapsed_since(start) == pytest.approx(_runner.REQUEST_TIMEOUT)
        broker.answers = True


class Failing(MemoryBus):
    """Raises what no bus should."""

    async def follow(self, topic: str) -> Position | None:
        if topic == "bad":
            raise ZeroDivisionError("oh")
        return await super().follow(topic)


@fake_time
async def test_errors_of_the_bus_are_logged() -> None:
    broker = MemoryBroker()
    async with Process(broker, bus=Failing(broker, 5)) as process:
        reader = process.read("bad")
        await reader.known.wait()
        assert isinstance(reader.error, BusUnavailable)
        logged_errors("topics: couldn't follow 'bad': oh")
        await process.subscribed("good")


@fake_time
async def test_failures_are_logged_at_a_bounded_rate(caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(MemoryBus):
        async def follow(self, topic: str) -> Position | None:
            if topic.startswith("\0"):
                return await super().follow(topic)
            raise BusUnavailable("not allowed")

    broker = MemoryBroker()
    async with Process(broker, bus=Refusing(broker, 5)) as process:
        readers = [process.read(f"{number}") for number in range(50)]
        for reader in readers:
            await reader.known.wait()
        assert process.runner.healthy
    assert texts(caplog) == [("WARNING", "topics: couldn't follow '0': not allowed")]


# ---------------------------------------------------------------------- trouble


@fake_time
async def test_missed_messages_are_filled(caplog: pytest.LogCaptureFixture) -> None:
    broker = MemoryBroker()
    caplog.set_level(logging.INFO, "wsapi.topics")
    async with Process(broker) as process, Process(broker) as other:
        reader = await process.subscribed("a")
        await other.runner.publish("a", "1")
        process.bus.lose(ConnectionResetError("the cable"))
        await turns(3)
        assert not process.runner.healthy
        assert other.runner.healthy
        for number in "234":
            await other.runner.publish("a", number)
        await asyncio.sleep(3)
        process.bus.regain()
        await process.runner.wait_healthy(1)
        await until(lambda: len(reader.got) == 4)
        await other.runner.publish("a", "5")
        await turns(3)
        assert reader.got == ["1", "2", "3", "4", "5"]
        assert process.health == [(True, ""), (False, "the bus is away: the cable"), (True, "")]
        assert process.core.counters.resumed == 1
        assert process.core.counters.gaps == 0
        assert process.runner.stats()["trouble"] == 1
        assert texts(caplog) == [
            ("WARNING", "topics: the bus is away: the cable"),
            ("INFO", "topics: the bus is back after 3.0 seconds; messages filled: 3, gaps: 0"),
        ]


@fake_time
async def test_nobody_is_sent_back_by_a_process_that_is_behind() -> None:
    """It comes with a position that the process has yet to see, and of which a bit is lost."""
    broker = MemoryBroker()
    async with Process(broker) as process, Process(broker) as other:
        behind = await process.subscribed("a")
        reader = await other.subscribed("a")
        process.bus.deaf = True
        for number in "123":
            await other.runner.publish("a", number)
        await turns(3)
        assert reader.got == ["1", "2", "3"]
        reader.leave()
        since = reader.subscriber.position
        await other.runner.publish("a", "4")
        await other.runner.publish("a", "5")
        broker.trim("a", keep=1)
        back = await process.subscribed("a", since)
        assert back.subscriber.recovered is False
        assert back.subscriber.position == Position("e1", 5)
        await asyncio.sleep(30)
        await other.runner.publish("a", "6")
        await turns(5)
        assert back.got == ["6"]
        assert behind.got == [..., "6"]


@fake_time
async def test_gap_is_told(caplog: pytest.LogCaptureFixture) -> None:
    broker = MemoryBroker()
    caplog.set_level(logging.INFO, "wsapi.topics")
    async with Process(broker) as process, Process(broker) as other:
        reader = await process.subscribed("a")
        process.bus.lose(ConnectionResetError("the cable"))
        await turns(3)
        for number in "123":
            await other.runner.publish("a", number)
        broker.trim("a", keep=1)
        process.bus.regain()
        await until(lambda: len(process.health) == 3)
        await other.runner.publish("a", "4")
        await turns(5)
        assert reader.got == [..., "4"]
        assert texts(caplog)[-1][1].endswith("messages filled: 0, gaps: 1")


@fake_time
async def test_lost_connections_all_the_time(caplog: pytest.LogCaptureFixture) -> None:
    """The log tells of it now and then."""
    broker = MemoryBroker()
    caplog.set_level(logging.INFO, "wsapi.topics")
    async with Process(broker) as process, Process(broker) as other:
        reader = await process.subscribed("a")
        for number in range(200):
            await other.runner.publish("a", f"{number}")
            process.bus.lose(ConnectionResetError("the cable"))
            await asyncio.sleep(0.025)
            process.bus.regain()
            await asyncio.sleep(0.025)
        await process.runner.wait_healthy(1)
        await until(lambda: len(reader.got) == 200)
        assert reader.got == [f"{number}" for number in range(200)]
        assert 0 < len(texts(caplog)) <= 24
        assert process.runner.stats()["trouble"] == 200


@fake_time
async def test_deaf_subscriber_is_found() -> None:
    """The bus drops all notices in silence: the heartbeat finds out, and has it connect again."""
    broker = MemoryBroker()
    async with Process(broker, heartbeat=5) as process, Process(broker) as other:
        reader = await process.subscribed("a")
        await asyncio.sleep(60)
        assert process.health == [(True, "")]
        assert process.bus.reconnections == 0
        process.bus.deaf = True
        start = now()
        await other.runner.publish("a", "1")
        await until(lambda: not process.runner.healthy)
        assert elapsed_since(start) <= 15
        assert process.health[1] == (
            False,
            "deaf: what is published hasn't come for 10 seconds",
        )
        await process.runner.wait_healthy(1)
        await until(lambda: reader.got)
        assert reader.got == ["1"]
        assert process.bus.reconnections == 1
        assert process.core.counters.deaf == 1


@fake_time
async def test_deaf_for_good(caplog: pytest.LogCaptureFixture) -> None:
    """It is tried again and again, not too often, and said now and then."""
    broker = MemoryBroker()
    async with Process(broker, heartbeat=5) as process:
        process.bus.deaf = process.bus.deaf_for_good = True
        await asyncio.sleep(100)
        assert process.health[1:] == [(False, "deaf: what is published hasn't come for 10 seconds")]
        assert 7 <= process.bus.reconnections <= 10
        assert 3 <= len(texts(caplog)) <= 5
        # Publishing works all the time.
        await process.runner.publish("a", "1")
        process.bus.deaf_for_good = False
        await process.runner.wait_healthy(20)


@fake_time
async def test_broker_that_does_not_answer() -> None:
    broker = MemoryBroker()
    async with Process(broker, bus=broker.bus(timeout=None), heartbeat=5) as process:
        reader = await process.subscribed("a")
        await turns(5)
        broker.answers = False
        await asyncio.sleep(16)
        assert process.health[1:] == [(False, "the broker hasn't answered for 10 seconds")]
        assert process.bus.reconnections == 0
        # There may be nobody any more where the connection leads.
        await asyncio.sleep(10)
        assert process.bus.reconnections == 1
        await asyncio.sleep(100)
        assert process.bus.reconnections <= 12
        # Publishers needn't find that out each for itself.
        start = now()
        with pytest.raises(BusUnavailable, match="hasn't answered"):
            await process.runner.publish("a", "1")
        assert elapsed_since(start) == 0
        broker.answers = True
        await process.runner.wait_healthy(3)
        await process.runner.publish("a", "2")
        await turns(5)
        assert reader.got == ["2"]


@fake_time
async def test_broker_that_takes_nothing() -> None:
    class Refusing(MemoryBus):
        refuses = False

        async def publish(self, topic: str, message: Any) -> Position | None:
            if self.refuses:
                raise BusUnavailable("no memory left")
            return await super().publish(topic, message)

    broker = MemoryBroker()
    bus = Refusing(broker, 5)
    async with Process(broker, bus=bus) as process:
        bus.refuses = True
        await asyncio.sleep(16)
        assert process.health[1:] == [(False, "the broker takes nothing: no memory left")]
        bus.refuses = False
        await process.runner.wait_healthy(3)
        assert bus.reconnections == 0


@fake_time
async def test_bus_with_a_mistake() -> None:
    """It is logged, at a bounded rate, and the process is unhealthy as long as it lasts."""

    class Wrong(MemoryBus):
        wrong = False

        async def publish(self, topic: str, message: Any) -> Position | None:
            if self.wrong:
                raise ZeroDivisionError("oh")
            return await super().publish(topic, message)

    broker = MemoryBroker()
    bus = Wrong(broker, 5)
    async with Process(broker, bus=bus, heartbeat=5) as process:
        bus.wrong = True
        await asyncio.sleep(16)
        assert process.health[1:] == [(False, "the broker takes nothing: oh")]
        for record in logged_errors(*["topics: no beat"] * 3):
            assert record.exc_info is not None
            assert record.exc_info[0] is ZeroDivisionError
        bus.wrong = False
        await process.runner.wait_healthy(3)


@fake_time
async def test_loop_that_stands_still_is_not_deaf() -> None:
    broker = MemoryBroker()
    async with Process(broker, heartbeat=5) as process:
        for _ in range(5):
            await asyncio.sleep(4)
            asyncio.get_running_loop()._fake.now += 30
        await asyncio.sleep(20)
        assert process.health == [(True, "")]


@fake_time
async def test_late_notices_are_not_lost_ones() -> None:
    """Beats that are on their way for longer than an interval show that it isn't deaf."""
    broker = MemoryBroker()

    async with Process(broker, heartbeat=5) as process:
        deliver = process.bus.bring
        loop = asyncio.get_running_loop()
        process.bus.bring = lambda notice: loop.call_later(7, deliver, notice)
        await asyncio.sleep(6.5)
        await asyncio.sleep(60)
        assert process.health == [(True, "")]
        assert process.bus.reconnections == 0


@fake_time
async def test_lost_last_message_is_found(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing comes after it, so that only the audit can tell."""
    broker = MemoryBroker()
    async with Process(broker, heartbeat=5) as process, Process(broker) as other:
        readers = [await process.subscribed(f"{number}") for number in range(40)]
        broker.drops = lambda notice: notice.topic == "7"
        await other.runner.publish("7", "lost")
        broker.drops = lambda notice: False
        # 40 topics take two beats, and answers are compared with the next one.
        await asyncio.sleep(16)
        assert readers[7].got == ["lost"]
        assert process.runner.stats()["lost"] == 1
        assert process.runner.stats()["audited"] >= 40
        assert process.runner.healthy
        assert all(not reader.got for reader in readers if reader is not readers[7])
    ((level, text),) = texts(caplog)
    assert level == "WARNING"
    assert "'7'" in text


@fake_time
async def test_topic_that_is_not_followed_any_more_is_followed_again() -> None:
    """The broker brings all others, beats among them."""
    broker = MemoryBroker()
    async with Process(broker, heartbeat=5) as process, Process(broker) as other:
        reader = await process.subscribed("a")
        broker.drops = lambda notice: notice.topic == "a" and not process.bus.reconnections
        got = []
        for number in range(6):
            await other.runner.publish("a", f"{number}")
            got.append(f"{number}")
            await asyncio.sleep(12)
            assert reader.got == got
        assert process.bus.reconnections == 1
        assert process.runner.stats()["lost"] == 2


@fake_time
async def test_topics_with_losses_are_remembered_within_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_runner, "MAX_LOST_LATELY", 2)
    broker = MemoryBroker()
    async with Process(broker, heartbeat=5) as process, Process(broker) as other:
        readers = [await process.subscribed(name) for name in "abcd"]
        broker.drops = lambda notice: notice.topic in "abcd"
        for name in "abcd":
            await other.runner.publish(name, "lost")
        await asyncio.sleep(16)
        # All of it is read nevertheless.
        assert [reader.got for reader in readers] == [["lost"]] * 4
        assert process.runner.stats()["lost"] == 4
        assert len(process.runner._lost_lately) == 2
        assert process.bus.reconnections == 0


@fake_time
async def test_audit_of_busy_topics_finds_nothing() -> None:
    """Messages that are on their way aren't lost."""
    broker = MemoryBroker()
    async with Process(broker, heartbeat=1) as process, Process(broker) as other:
        reader = await process.subscribed("a")
        deliver = process.bus.bring
        loop = asyncio.get_running_loop()
        process.bus.bring = lambda notice: loop.call_later(0.3, deliver, notice)
        for number in range(300):
            await other.runner.publish("a", f"{number}")
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        assert len(reader.got) == 300
        assert process.runner.stats()["audited"] > 20
        assert process.runner.stats()["lost"] == 0
        assert ("read", "a") not in broker.calls


@fake_time
async def test_suspect_is_read() -> None:
    broker = MemoryBroker()
    async with Process(broker) as process, Process(broker) as other:
        reader = await process.subscribed("a")
        broker.drops = lambda notice: notice.topic == "a"
        await other.runner.publish("a", "1")
        process.bus.suspect("a")
        process.bus.suspect("\0a")
        await until(lambda: reader.got)
        assert reader.got == ["1"]


@fake_time
async def test_all_are_closed_after_trouble() -> None:
    broker = MemoryBroker()
    async with Process(broker, core_options={"close_on_trouble": True}) as process:
        readers = [await process.subscribed(name) for name in "aab"]
        process.bus.lose(ConnectionResetError("the cable"))
        process.bus.regain()
        await until(lambda: len(process.health) == 3)
        assert all(reader.closed for reader in readers)


@fake_time
async def test_reads_are_tried_again() -> None:
    class Moody(MemoryBus):
        failures = 3

        async def read(self, topic: str, since: Position, limit: int) -> Page:
            if self.failures:
                self.failures -= 1
                raise BusUnavailable("loading")
            return await super().read(topic, since, limit)

    broker = MemoryBroker()
    async with Process(broker, bus=Moody(broker, 5)) as process, Process(broker) as other:
        reader = await process.subscribed("a")
        broker.drops = lambda notice: True
        await other.runner.publish("a", "1")
        broker.drops = lambda notice: False
        await other.runner.publish("a", "2")
        await asyncio.sleep(2)
        assert reader.got == ["1", "2"]


@fake_time
async def test_broker_with_an_older_state() -> None:
    """Positions that were given before are given again."""
    broker = MemoryBroker()
    async with Process(broker) as process, Process(broker) as other:
        reader = await process.subscribed("a")
        await other.runner.publish("a", "1")
        state = broker.state()
        await other.runner.publish("a", "2")
        await turns(3)
        broker.go_away()
        broker.come_back(state)
        await other.runner.publish("a", "another 2")
        await other.runner.publish("a", "3")
        await asyncio.sleep(20)
        assert reader.got[:2] == ["1", "2"]
        assert ... in reader.got
        await other.runner.publish("a", "4")
        await turns(5)
        assert reader.got[-1] == "4"


# ---------------------------------------------------------------------- beginning and end


@fake_time
async def test_open_while_the_broker_is_away() -> None:
    broker = MemoryBroker()
    broker.go_away()
    process = Process(broker)
    with pytest.raises(BusUnavailable, match="no connection"):
        await process.runner.open()
    assert not process.runner.healthy
    with pytest.raises(BusUnavailable):
        await process.runner.publish("a", "1")
    with pytest.raises(BusUnavailable):
        await process.runner.wait_healthy(1)
    broker.come_back()
    async with process:
        assert process.runner.healthy
        await process.subscribed("a")
        with pytest.raises(RuntimeError, match="open already"):
            await process.runner.open()
    with pytest.raises(RuntimeError, match="closed for good"):
        await process.runner.open()


@fake_time
async def test_open_with_a_broker_that_does_not_answer() -> None:
    broker = MemoryBroker()
    broker.answers = False
    process = Process(broker, bus=broker.bus(timeout=None))
    with pytest.raises(BusUnavailable, match="within 30 seconds"):
        await process.runner.open()


class Shaky(MemoryBus):
    """Is lost, and comes back, before it is open."""

    async def open(self, receiver: BusReceiver) -> None:
        await super().open(receiver)
        receiver.interrupted(ConnectionResetError("gone"))
        receiver.resumed()


@fake_time
async def test_bus_that_is_lost_while_it_opens() -> None:
    broker = MemoryBroker()
    async with Process(broker, bus=Shaky(broker, 5)) as process:
        assert process.runner.healthy
        reader = await process.subscribed("a")
        await process.runner.publish("a", "1")
        await turns(5)
        assert reader.got == ["1"]


@fake_time
async def test_what_a_bus_tells_when_it_is_not_open_is_ignored() -> None:
    process = Process(MemoryBroker())

    def tell() -> None:
        told = list(process.health)
        process.runner.interrupted(ConnectionResetError("gone"))
        process.runner.resumed()
        assert process.health == told
        assert not process.runner.healthy

    tell()
    async with process:
        assert process.runner.healthy
    tell()


@fake_time
async def test_a_bus_of_others_is_left_alone() -> None:
    broker = MemoryBroker()
    async with Process(broker) as process:
        reader = await process.subscribed("a")
        with pytest.raises(RuntimeError, match="the bus is open"):
            await Process(broker, bus=process.bus).runner.open()
        assert process.runner.healthy
        await process.runner.publish("a", "1")
        await turns(5)
        assert reader.got == ["1"]


@fake_time
async def test_open_deaf() -> None:
    broker = MemoryBroker()
    broker.drops = lambda notice: True
    process = Process(broker)
    with pytest.raises(BusUnavailable, match="doesn't bring"):
        await process.runner.open()
    assert broker.buses == []
    broker.drops = lambda notice: False
    async with process:
        pass


@fake_time
async def test_what_was_wanted_before_it_opened_is_done() -> None:
    broker = MemoryBroker()
    process = Process(broker)
    process.runner._loop = asyncio.get_running_loop()
    reader = process.read("a")
    async with process:
        await reader.known.wait()
        assert reader.error is None


@pytest.mark.parametrize("answers", [True, False])
def test_close_ends_all(answers: bool) -> None:
    """In bounded time, though the broker answers nothing, and with nothing left."""

    @fake_time
    async def test() -> None:
        broker = MemoryBroker()
        process = Process(broker, bus=broker.bus(timeout=None), publish_queue=10)
        async with process:
            known = await process.subscribed("a")
            broker.answers = False
            waiting = [process.read(f"{number}") for number in range(100)]
            publishing = [
                asyncio.ensure_future(process.runner.publish("a", f"{number}"))
                for number in range(3)
            ]
            process.bus.lose(ConnectionResetError("the cable"))
            unhealthy = asyncio.ensure_future(process.runner.wait_healthy(None))
            await turns(5)
            broker.answers = answers
            start = now()
        assert elapsed_since(start) <= 3 * _runner.CLOSING_TIME
        for reader in waiting:
            assert isinstance(reader.error, BusUnavailable)
        for result in await asyncio.gather(*publishing, return_exceptions=True):
            assert isinstance(result, Exception)
        with pytest.raises(BusUnavailable, match="closed"):
            await unhealthy
        # Whoever comes too late hears so.
        late = process.read("b")
        assert isinstance(late.error, BusUnavailable)
        with pytest.raises(BusUnavailable):
            await process.runner.publish("a", "1")
        assert not process.runner.healthy
        known.leave()
        await process.runner.close()

    test()


@fake_time
async def test_cancelled_closing_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on without who has called it, and others wait for the same."""
    ours = asyncio.current_task()
    for turn in range(1, 9):
        broker = MemoryBroker()
        process = Process(broker)
        close = process.bus.close

        async def close_slowly(close: Any = close) -> None:
            await turns(4)
            await close()

        monkeypatch.setattr(process.bus, "close", close_slowly)
        await process.runner.open()
        closing = asyncio.ensure_future(process.runner.close())
        await turns(turn)
        closing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await closing
        if turn % 2:
            await asyncio.gather(process.runner.close(), process.runner.close())
        else:
            await asyncio.sleep(1)
        assert broker.buses == []
        assert asyncio.all_tasks() == {ours}


@pytest.mark.parametrize("turn", range(1, 5))
def test_closing_when_the_event_loop_ends(turn: int) -> None:
    broker = MemoryBroker()

    async def main() -> None:
        process = Process(broker)
        await process.runner.open()
        broker.answers = False
        process.read("a")
        await turns(5)
        broker.answers = True
        closing = asyncio.ensure_future(process.runner.close())
        await turns(turn)
        del closing

    asyncio.run(main())
    assert broker.buses == []


@pytest.mark.parametrize("turn", range(8))
def test_closed_while_it_opens(turn: int) -> None:
    @fake_time
    async def test() -> None:
        broker = MemoryBroker()
        process = Process(broker)
        opening = asyncio.ensure_future(process.runner.open())
        await turns(turn)
        await process.runner.close()
        with contextlib.suppress(BusUnavailable, RuntimeError):
            await opening
        assert not process.runner.healthy
        assert broker.buses == []
        with pytest.raises(RuntimeError, match="closed for good"):
            await process.runner.open()

    test()


@fake_time
async def test_cancelled_opening_leaves_nothing() -> None:
    broker = MemoryBroker()
    broker.answers = False
    process = Process(broker)
    opening = asyncio.ensure_future(process.runner.open())
    await asyncio.sleep(1)
    opening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await opening
    assert opening.cancelled()


@fake_time
async def test_strange_beats_are_ignored() -> None:
    broker = MemoryBroker()
    async with Process(broker) as process:
        alive = process.runner._alive
        for beat in ["x", "-1", "999", b"\xff"]:
            process.bus.bring(Notice(alive, beat))
        process.bus.bring(Notice("\0other", "1"))
        await turns(3)
        await asyncio.sleep(20)
        assert process.health == [(True, "")]


# ---------------------------------------------------------------------- a core that lives elsewhere


class Elsewhere:
    """Makes calls later, as another thread would, or not at all for a while."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.stalled = False

    def __call__(self, *call: Any) -> None:
        self.calls.append(call)
        if not self.stalled:
            asyncio.get_running_loop().call_soon(self.catch_up)

    def catch_up(self) -> None:
        while self.calls and not self.stalled:
            function, *args = self.calls.pop(0)
            function(*args)


@fake_time
async def test_notices_for_a_stalled_core_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_runner, "MAX_NOTICES_AHEAD", 10)
    broker = MemoryBroker()
    elsewhere = Elsewhere()
    async with Process(broker, call=elsewhere) as process, Process(broker) as other:
        readers = [await process.subscribed(name) for name in "ab"]
        elsewhere.stalled = True
        for number in range(50):
            await other.runner.publish("ab"[number % 2], f"{number}")
        assert len(elsewhere.calls) <= 12
        elsewhere.stalled = False
        elsewhere.catch_up()
        await asyncio.sleep(1)
        for parity, reader in enumerate(readers):
            assert reader.got == [f"{number}" for number in range(50) if number % 2 == parity]


@fake_time
async def test_no_history() -> None:
    broker = MemoryBroker(None)
    async with Process(broker, core_options={}) as process, Process(broker) as other:
        reader = await process.subscribed("a")
        assert await other.runner.publish("a", "1") is None
        await turns(3)
        process.bus.lose(ConnectionResetError("the cable"))
        process.bus.regain()
        await process.runner.wait_healthy(1)
        await other.runner.publish("a", "2")
        await turns(5)
        assert reader.got == ["1", ..., "2"]
        await asyncio.sleep(20)
        assert process.runner.stats()["audited"] == 0
