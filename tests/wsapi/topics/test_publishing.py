"""Publishing on a bus that comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from tests.wsapi.helpers import turns
from tests.wsapi.topics.clock import fake_time
from tests.wsapi.topics.memory_bus import MemoryBroker, MemoryBus
from wsapi.topics import _publishing
from wsapi.topics._publishing import Publisher
from wsapi.topics.bus import Message, Notice
from wsapi.topics.exceptions import BusError, BusUnavailable, PublishUncertain
from wsapi.topics.positions import Position


class Receiver:
    """Ignores what a bus tells."""

    def notice(self, notice: Notice) -> None:
        pass

    def interrupted(self, reason: Exception) -> None:
        pass

    def resumed(self) -> None:
        pass

    def suspect(self, topic: str) -> None:
        pass


async def opened(
    size: int = 0, timeout: float = 10, *, broker: MemoryBroker | None = None
) -> tuple[MemoryBroker, Publisher]:
    broker = broker or MemoryBroker()
    bus = broker.bus()
    await bus.open(Receiver())
    return broker, Publisher(bus, size, timeout)


def start(publishing: Coroutine[Any, Any, Position | None]) -> asyncio.Task[Position | None]:
    return asyncio.ensure_future(publishing)


async def outcomes(*tasks: asyncio.Task[Position | None]) -> list[Position | BaseException | None]:
    return await asyncio.gather(*tasks, return_exceptions=True)


def messages(broker: MemoryBroker, topic: str) -> list[Message]:
    """Return what was published."""
    return [entry.message for entry in broker.logs[topic].entries] if topic in broker.logs else []


@pytest.mark.parametrize("size", [0, 10])
def test_positions(size: int) -> None:
    @fake_time
    async def test() -> None:
        _, publisher = await opened(size)
        assert await publisher.publish("a", "1") == Position("e1", 1)
        assert await publisher.publish("a", b"2") == Position("e1", 2)
        assert await publisher.publish("\0a", "3") is None
        assert (publisher.published, publisher.unpublished, publisher.uncertain) == (3, 0, 0)
        await publisher.close()

    test()


@fake_time
async def test_without_queue_fails_at_once() -> None:
    broker, publisher = await opened()
    now = asyncio.get_running_loop().time()
    broker.go_away()
    with pytest.raises(BusUnavailable, match="no connection"):
        await publisher.publish("a", "1")
    assert asyncio.get_running_loop().time() == now
    broker.come_back()
    assert await publisher.publish("a", "2") == Position("e1", 1)
    assert (publisher.published, publisher.unpublished) == (1, 1)


@fake_time
async def test_silence_fails_at_once() -> None:
    broker, publisher = await opened()
    publisher.silent("no answer for long")
    with pytest.raises(BusUnavailable, match="no answer for long"):
        await publisher.publish("a", "1")
    assert broker.calls == []
    publisher.resumed()
    await publisher.publish("a", "1")


@pytest.mark.parametrize("size", [0, 10])
def test_no_answer(size: int) -> None:
    @fake_time
    async def test() -> None:
        broker, publisher = await opened(size, timeout=3)
        broker.answers = False
        loop = asyncio.get_running_loop()
        before = loop.time()
        with pytest.raises(PublishUncertain, match="within 3 seconds"):
            await publisher.publish("a", "1")
        assert loop.time() == pytest.approx(before + 3)
        assert publisher.uncertain == 1
        await publisher.close()

    test()


@pytest.mark.parametrize("size", [0, 10])
def test_lost_answer_is_not_tried_again(size: int) -> None:
    @fake_time
    async def test() -> None:
        broker, publisher = await opened(size)
        broker.lost_answers = 1
        with pytest.raises(PublishUncertain):
            await publisher.publish("a", "1")
        assert await publisher.publish("a", "2") == Position("e1", 2)
        assert messages(broker, "a") == ["1", "2"]

    test()


@fake_time
async def test_queue_keeps_order() -> None:
    broker, publisher = await opened(10)
    # These are on their way when the broker goes.
    tasks = [start(publisher.publish("a", f"{number}")) for number in range(3)]
    await turns(1)
    broker.go_away()
    await turns(3)
    assert publisher.waiting == 3
    tasks += [start(publisher.publish("a", f"{number}")) for number in range(3, 6)]
    await turns(1)
    assert publisher.waiting == 6
    await asyncio.sleep(5)
    broker.come_back()
    tasks += [start(publisher.publish("a", f"{number}")) for number in range(6, 9)]
    assert await outcomes(*tasks) == [Position("e1", number) for number in range(1, 10)]
    assert messages(broker, "a") == [f"{number}" for number in range(9)]
    assert (publisher.published, publisher.unpublished, publisher.waiting) == (9, 0, 0)


@fake_time
async def test_back_is_heeded_at_once() -> None:
    broker, publisher = await opened(10)
    broker.go_away()
    task = start(publisher.publish("a", "1"))
    await asyncio.sleep(5)
    broker.come_back()
    now = asyncio.get_running_loop().time()
    publisher.resumed()
    assert await task == Position("e1", 1)
    assert asyncio.get_running_loop().time() == now


@fake_time
async def test_queue_is_bounded() -> None:
    broker, publisher = await opened(2)
    broker.go_away()
    tasks = [start(publisher.publish("a", f"{number}")) for number in range(2)]
    await turns(5)
    with pytest.raises(BusUnavailable, match="2 messages wait already"):
        await publisher.publish("a", "2")
    broker.come_back()
    assert await outcomes(*tasks) == [Position("e1", 1), Position("e1", 2)]


@fake_time
async def test_newest_on_their_way_have_no_place() -> None:
    broker, publisher = await opened(2)
    tasks = [start(publisher.publish("a", f"{number}")) for number in range(5)]
    await turns(1)
    broker.go_away()
    await turns(5)
    assert publisher.waiting == 2
    broker.come_back()
    results = await outcomes(*tasks)
    assert results[:2] == [Position("e1", 1), Position("e1", 2)]
    assert [type(result) for result in results[2:]] == [BusUnavailable] * 3


@fake_time
async def test_waiting_ends() -> None:
    broker, publisher = await opened(2, timeout=4)
    broker.go_away()
    loop = asyncio.get_running_loop()
    before = loop.time()
    with pytest.raises(BusUnavailable, match="away for 4 seconds"):
        await publisher.publish("a", "1")
    assert loop.time() == pytest.approx(before + 4)
    assert publisher.waiting == 0
    broker.come_back()
    await publisher.publish("a", "2")
    assert messages(broker, "a") == ["2"]


@fake_time
async def test_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_publishing, "MAX_PUBLISHING_BYTES", 1000)
    broker, publisher = await opened(10)
    broker.go_away()
    task = start(publisher.publish("a", b"x" * 800))
    await turns(2)
    with pytest.raises(BusUnavailable, match="1000 bytes"):
        await publisher.publish("a", b"x" * 800)
    broker.come_back()
    await task
    await publisher.publish("a", b"x" * 800)


@pytest.mark.parametrize("away", [False, True])
def test_cancelled(away: bool) -> None:
    """Whoever gives up a message that waits gives up no other, and it isn't published."""

    @fake_time
    async def test() -> None:
        broker, publisher = await opened(10)
        broker.answers = away
        if away:
            broker.go_away()
        tasks = [start(publisher.publish("a", f"{number}")) for number in range(3)]
        await turns(3)
        tasks[1].cancel()
        await turns(3)
        broker.answers = True
        broker.come_back()
        results = await outcomes(*tasks)
        assert results[0] == Position("e1", 1)
        assert isinstance(results[1], asyncio.CancelledError)
        assert results[2] == Position("e1", 2)
        assert messages(broker, "a") == ["0", "2"]

    test()


@fake_time
async def test_cancelled_before_it_began() -> None:
    broker, publisher = await opened(10)
    task = start(publisher.publish("a", "1"))
    await asyncio.sleep(0)
    task.cancel()
    await turns(3)
    broker.go_away()
    again = start(publisher.publish("a", "2"))
    await turns(3)
    broker.come_back()
    # Nothing that seems to be on its way holds this up.
    await again


class Refusing(MemoryBus):
    """Refuses some messages, when told, and takes others meanwhile."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker, None)
        self.refused: dict[Message, asyncio.Future[None]] = {}

    async def publish(self, topic: str, message: Message) -> Position | None:
        if message in self.refused:
            await self.refused.pop(message)
            raise BusUnavailable("no room for this one")
        return await super().publish(topic, message)


@fake_time
async def test_overtaken_messages_are_not_tried_again() -> None:
    broker = MemoryBroker()
    bus = Refusing(broker)
    await bus.open(Receiver())
    publisher = Publisher(bus, 10, 10)
    loop = asyncio.get_running_loop()
    refusals = [loop.create_future() for _ in range(2)]
    bus.refused = {"a1": refusals[0], "b1": refusals[1]}
    tasks = [
        start(publisher.publish(topic, message))
        for topic, message in [("a", "a1"), ("b", "b1"), ("a", "a2")]
    ]
    await turns(5)
    assert tasks[2].result() == Position("e1", 1)
    for refusal in refusals:
        refusal.set_result(None)
    results = await outcomes(*tasks)
    assert isinstance(results[0], BusUnavailable)
    assert results[1] == Position("e2", 1)
    assert messages(broker, "a") == ["a2"]
    assert messages(broker, "b") == ["b1"]


@fake_time
async def test_message_is_overtaken_by_the_last_one_on_its_way() -> None:
    broker = MemoryBroker()
    loop = asyncio.get_running_loop()
    refusal, answer = loop.create_future(), loop.create_future()

    class Late(Refusing):
        async def publish(self, topic: str, message: Message) -> Position | None:
            position = await super().publish(topic, message)
            await answer
            return position

    bus = Late(broker)
    await bus.open(Receiver())
    publisher = Publisher(bus, 10, 10)
    bus.refused = {"1": refusal}
    tasks = [start(publisher.publish("a", message)) for message in ("1", "2")]
    await turns(5)
    refusal.set_result(None)
    await turns(5)
    answer.set_result(None)
    results = await outcomes(*tasks)
    assert isinstance(results[0], BusUnavailable)
    assert results[1] == Position("e1", 1)
    assert messages(broker, "a") == ["2"]


@fake_time
async def test_nothing_overtakes_what_has_waited() -> None:
    """Not even what is published just when the bus is back."""
    broker, publisher = await opened(10)
    broker.go_away()
    tasks = [start(publisher.publish("a", f"{number}")) for number in range(3)]
    await turns(3)

    async def publish_then() -> None:
        while not publisher._flowing:
            await asyncio.sleep(0)
        await publisher.publish("a", "3")

    last = asyncio.ensure_future(publish_then())
    broker.come_back()
    publisher.resumed()
    await asyncio.gather(last, *tasks)
    assert messages(broker, "a") == [f"{number}" for number in range(4)]


@fake_time
async def test_topics_that_are_refused_do_not_keep_others() -> None:
    """The bus isn't away then: those of other topics are published soon."""
    broker = MemoryBroker()

    class Bus(MemoryBus):
        async def publish(self, topic: str, message: Message) -> Position | None:
            if topic == "foreign":
                raise BusUnavailable("the broker refuses")
            return await super().publish(topic, message)

    bus = Bus(broker, 5)
    await bus.open(Receiver())
    publisher = Publisher(bus, 10, 10)
    loop = asyncio.get_running_loop()
    refused = [start(publisher.publish("foreign", str(number))) for number in range(2)]
    for number in range(3):
        await asyncio.sleep(1)
        refused.append(start(publisher.publish("foreign", "another")))
        before = loop.time()
        await asyncio.gather(*(publisher.publish("a", f"{number}{letter}") for letter in "xyz"))
        assert loop.time() <= before + 3 * _publishing.MAX_DELAY
    assert messages(broker, "a") == [f"{number}{letter}" for number in range(3) for letter in "xyz"]
    assert all(isinstance(result, BusUnavailable) for result in await outcomes(*refused))
    await publisher.close()


@fake_time
async def test_silence_with_queue() -> None:
    broker, publisher = await opened(10, timeout=60)
    broker.answers = False
    first = start(publisher.publish("a", "1"))
    await turns(3)
    publisher.silent("no answer")
    second = start(publisher.publish("a", "2"))
    await asyncio.sleep(20)
    assert publisher.waiting == 2  # the bus's own deadline was over for the first one
    assert [call for call, _ in broker.calls] == ["publish"]
    broker.answers = True
    publisher.resumed()
    assert await outcomes(first, second) == [Position("e1", 1), Position("e1", 2)]


@fake_time
async def test_deadlines_are_each_ones_own() -> None:
    broker, publisher = await opened(10, timeout=4)
    broker.go_away()
    tasks = []
    for number in range(3):
        tasks.append(start(publisher.publish("a", f"{number}")))
        await asyncio.sleep(1)
    loop = asyncio.get_running_loop()
    before = loop.time()
    for number, task in enumerate(tasks):
        with pytest.raises(BusUnavailable, match="away for 4 seconds"):
            await task
        assert loop.time() == pytest.approx(before + 1 + number)


@fake_time
async def test_cancelled_by_its_own_deadline_and_by_others() -> None:
    """Whoever cancels the publisher isn't kept waiting, whatever the deadline."""
    broker, publisher = await opened(0, timeout=3)
    broker.answers = False
    task = start(publisher.publish("a", "1"))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async def publish_and_go_on() -> str:
        with pytest.raises(PublishUncertain):
            await publisher.publish("a", "2")
        await asyncio.sleep(1)
        return "went on"

    assert await asyncio.ensure_future(publish_and_go_on()) == "went on"
    both = start(publisher.publish("a", "3"))
    await turns(1)
    asyncio.get_running_loop().call_later(3, both.cancel)
    with pytest.raises(asyncio.CancelledError):
        await both


@fake_time
async def test_answer_to_the_first_one_that_waited_is_lost() -> None:
    """It isn't tried again; the others are published after it."""
    broker, publisher = await opened(10)
    broker.go_away()
    tasks = [start(publisher.publish("a", f"{number}")) for number in range(3)]
    await turns(5)
    broker.lost_answers = 1
    broker.come_back()
    results = await outcomes(*tasks)
    assert isinstance(results[0], PublishUncertain)
    assert results[1:] == [Position("e1", 2), Position("e1", 3)]
    assert messages(broker, "a") == ["0", "1", "2"]


@fake_time
async def test_close_while_the_first_one_that_waited_is_on_its_way() -> None:
    broker = MemoryBroker()
    bus = broker.bus(timeout=None)
    await bus.open(Receiver())
    publisher = Publisher(bus, 10, 10)
    broker.go_away()
    tasks = [start(publisher.publish("a", f"{number}")) for number in range(3)]
    await turns(5)
    broker.answers = False
    broker.come_back()
    publisher.resumed()
    await asyncio.sleep(1)
    await publisher.close()
    results = await outcomes(*tasks)
    assert [type(result) for result in results] == [
        PublishUncertain,
        BusUnavailable,
        BusUnavailable,
    ]


class Reluctant(MemoryBus):
    """Takes its time when it is cancelled."""

    async def publish(self, topic: str, message: Message) -> Position | None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(5)
        raise AssertionError("nobody waits for so long")


@pytest.mark.parametrize("size", [0, 10])
def test_deadline_cancels_once(size: int) -> None:
    """Another one's deadline must not cancel what is ending: that would reach the application."""

    @fake_time
    async def test() -> None:
        bus = Reluctant(MemoryBroker(), None)
        await bus.open(Receiver())
        publisher = Publisher(bus, size, 3)
        tasks = []
        for number in range(4):
            tasks.append(start(publisher.publish("a", f"{number}")))
            await asyncio.sleep(1)
        for result in await outcomes(*tasks):
            assert isinstance(result, PublishUncertain)
        await publisher.close()

    test()


@pytest.mark.parametrize("answers", [False, True])
@pytest.mark.parametrize("size", [0, 10])
def test_close(answers: bool, size: int) -> None:
    @fake_time
    async def test() -> None:
        broker, publisher = await opened(size)
        broker.answers = answers
        if answers:
            broker.go_away()
        tasks = [start(publisher.publish("a", f"{number}")) for number in range(3)]
        await turns(5)
        loop = asyncio.get_running_loop()
        before = loop.time()
        await publisher.close()
        assert loop.time() == before
        results = await outcomes(*tasks)
        # Without a queue, those that can't be published have failed already.
        expected: type[BusError] = BusUnavailable if answers else PublishUncertain
        assert [type(result) for result in results] == [expected] * 3
        with pytest.raises(BusUnavailable, match="closed"):
            await publisher.publish("a", "1")

    test()


@fake_time
async def test_back_is_told_more_than_once() -> None:
    broker, publisher = await opened(10)
    publisher.resumed()
    broker.go_away()
    task = start(publisher.publish("a", "1"))
    await turns(5)
    broker.come_back()
    for _ in range(3):
        publisher.resumed()
    assert await task == Position("e1", 1)
    await publisher.close()
    publisher.resumed()
    with pytest.raises(BusUnavailable, match="closed"):
        await publisher.publish("a", "2")


@fake_time
async def test_what_comes_while_the_first_one_that_waited_is_on_its_way() -> None:
    """It waits for that one, however long it takes."""
    broker = MemoryBroker()
    bus = broker.bus(timeout=None)
    await bus.open(Receiver())
    publisher = Publisher(bus, 10, 100)
    broker.go_away()
    first = start(publisher.publish("a", "1"))
    await turns(5)
    broker.answers = False
    broker.come_back()
    publisher.resumed()
    await turns(5)
    second = start(publisher.publish("a", "2"))
    await asyncio.sleep(20)
    assert broker.calls == [("publish", "a")] * 2
    assert publisher.waiting == 1
    broker.answers = True
    assert await outcomes(first, second) == [Position("e1", 1), Position("e1", 2)]


@fake_time
async def test_nothing_that_waits_finds_out() -> None:
    """When all have given up, the next one is tried at once, and finds out for itself."""
    broker, publisher = await opened(10, timeout=4)
    broker.go_away()
    with pytest.raises(BusUnavailable, match="away for 4 seconds"):
        await publisher.publish("a", "1")
    await asyncio.sleep(2 * _publishing.MAX_DELAY)
    tried = len(broker.calls)
    broker.come_back()
    now = asyncio.get_running_loop().time()
    assert await publisher.publish("a", "2") == Position("e1", 1)
    assert asyncio.get_running_loop().time() == now
    assert len(broker.calls) == tried + 1


class Answering(MemoryBus):
    """Answers when told, in any order."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker, None)
        self.answers: dict[Message, asyncio.Future[None]] = {}

    async def publish(self, topic: str, message: Message) -> Position | None:
        if message in self.answers:
            await self.answers.pop(message)
        return self.broker.publish(topic, message)


@fake_time
async def test_what_overtook_others_is_forgotten() -> None:
    broker = MemoryBroker()
    bus = Answering(broker)
    await bus.open(Receiver())
    publisher = Publisher(bus, 10, 10)
    answer = bus.answers["1"] = asyncio.get_running_loop().create_future()
    tasks = [start(publisher.publish("a", message)) for message in ("1", "2")]
    await turns(5)
    assert tasks[1].done()
    assert publisher._overtaking == {"a": 2}
    answer.set_result(None)
    await tasks[0]
    assert publisher._overtaking == {}


@fake_time
async def test_cancelled_just_when_it_is_published() -> None:
    broker = MemoryBroker()
    bus = Answering(broker)
    await bus.open(Receiver())
    publisher = Publisher(bus, 10, 10)
    refusal = bus.answers["1"] = asyncio.get_running_loop().create_future()
    refusal.set_exception(BusUnavailable("no room"))
    task = start(publisher.publish("a", "1"))
    await turns(3)
    assert publisher.waiting == 1
    answer = bus.answers["1"] = asyncio.get_running_loop().create_future()
    publisher.resumed()
    await asyncio.sleep(0.001)
    answer.set_result(None)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert messages(broker, "a") == ["1"]
    # It isn't on its way any more: others aren't held up.
    assert await publisher.publish("a", "2") == Position("e1", 2)
