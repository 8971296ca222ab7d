"""Who is on a topic, over all processes."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter
from typing import Any

import pytest

from tests.wsapi.helpers import logged_errors, until
from tests.wsapi.topics.clock import fake_time
from tests.wsapi.topics.memory_bus import MemoryBroker, MemoryBus
from tests.wsapi.topics.processes import Process
from wsapi.topics import presence
from wsapi.topics._publishing import CLOSING_TIME
from wsapi.topics.bus import Message
from wsapi.topics.exceptions import BusUnavailable, TopicLimitExceeded
from wsapi.topics.positions import Position
from wsapi.topics.presence import (
    ALL,
    FORGET_INTERVALS,
    REFRESH_INTERVAL,
    SETTLING_TIME,
    TELL_INTERVAL,
    Presence,
    PresenceEvent,
    Roll,
)

# Seconds after which others know what is told, what was lost on its way, and who was killed.
SOON = TELL_INTERVAL * 2
REFRESHED = REFRESH_INTERVAL + SOON
FORGOTTEN = (FORGET_INTERVALS + 1) * REFRESH_INTERVAL + SOON


class Home(Process):
    """A process that knows who is there."""

    def __init__(self, broker: MemoryBroker, **options: Any) -> None:
        self.roll = Roll()
        super().__init__(broker, roll=self.roll, **options)
        self.told: list[PresenceEvent] = []

    def handle_events(self) -> None:
        super().handle_events()
        while self.roll.events:
            self.told.append(self.roll.events.popleft())

    def join(self, topic: str, *members: str) -> None:
        for member in members:
            self.roll.join(topic, member, self.time())
        self.look()

    def leave(self, topic: str, *members: str) -> None:
        for member in members:
            self.roll.leave(topic, member, self.time())
        self.look()

    def presence(self, topic: str, *, names: bool = False) -> Presence:
        return self.roll.presence(topic, self.time(), names=names)

    def names(self, topic: str) -> str:
        return "".join(self.presence(topic, names=True).names or ())


# ---------------------------------------------------------------------- one process


def alone() -> Roll:
    return Roll(alone=True)


def test_counts() -> None:
    roll = alone()
    assert roll.presence("a", 0) == Presence(0, 0, True, None)
    assert roll.presence("a", 0, names=True) == Presence(0, 0, True, ())
    for member in ["kim", "ann", "kim"]:
        roll.join("a", member, 0)
    roll.join("b", "kim", 0)
    assert roll.presence("a", 0) == Presence(3, 2, True, None)
    assert roll.presence("a", 0, names=True).names == ("ann", "kim")
    roll.leave("a", "kim", 0)
    assert roll.presence("a", 0) == Presence(2, 2, True)
    roll.leave("a", "kim", 0)
    roll.leave("a", "ann", 0)
    assert roll.presence("a", 0) == Presence(0, 0, True)
    assert roll.presence("b", 0) == Presence(1, 1, True)
    assert roll.next_timeout() is None
    assert not roll.outbox
    assert roll.close() is None
    roll.resumed(0)
    assert not roll.outbox


def test_events_of_topics_that_are_watched() -> None:
    roll = alone()
    roll.watch("a")
    roll.watch("a")
    for member in ["kim", "ann", "kim"]:
        roll.join("a", member, 0)
        roll.join("b", member, 0)
    roll.leave("a", "kim", 0)
    roll.unwatch("a")
    roll.leave("a", "kim", 0)
    roll.unwatch("a")
    roll.leave("a", "ann", 0)
    assert list(roll.events) == [
        PresenceEvent("a", "kim", True),
        PresenceEvent("a", "ann", True),
        PresenceEvent("a", "kim", False),
    ]


@pytest.mark.parametrize("member", ["", "x" * 256, "é" * 128, "a\n", "\0", "\ud800", 3, None, b"a"])
def test_names_that_are_refused(member: Any) -> None:
    roll = alone()
    with pytest.raises((TypeError, ValueError), match="a member"):
        roll.join("a", member, 0)
    assert roll.presence("a", 0) == Presence(0, 0, True)


def test_members_of_a_topic_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "MAX_MEMBERS", 2)
    roll = alone()
    roll.join("a", "ann", 0)
    roll.join("a", "kim", 0)
    with pytest.raises(TopicLimitExceeded, match="2 members"):
        roll.join("a", "zoe", 0)
    roll.join("a", "kim", 0)
    roll.join("b", "zoe", 0)
    assert roll.presence("a", 0) == Presence(3, 2, True)


# ---------------------------------------------------------------------- several processes


@fake_time
async def test_processes_tell_each_other() -> None:
    broker = MemoryBroker()
    async with Home(broker) as one, Home(broker) as two:
        one.roll.watch("room")
        one.join("room", "a", "b")
        two.join("room", "b", "c", "c")
        two.join("other", "z")
        assert one.presence("room") == Presence(2, 2, False)
        await asyncio.sleep(SETTLING_TIME + SOON)
        expected = Presence(5, 3, True, ("a", "b", "c"))
        assert one.presence("room", names=True) == two.presence("room", names=True) == expected
        assert one.presence("other") == Presence(1, 1, True)
        two.leave("room", "b", "c", "c")
        await asyncio.sleep(SOON)
        assert one.presence("room") == two.presence("room") == Presence(2, 2, True)
        assert one.told == [
            PresenceEvent("room", "a", True),
            PresenceEvent("room", "b", True),
            PresenceEvent("room", "c", True),
            PresenceEvent("room", "c", False),
        ]


@fake_time
async def test_whoever_comes_later_knows_all() -> None:
    broker = MemoryBroker()
    async with Home(broker) as one, Home(broker) as two:
        one.join("room", "a", "b")
        await asyncio.sleep(1)
        one.leave("room", "b")
        two.join("room", "c")
        await asyncio.sleep(1)
        async with Home(broker) as three:
            assert not three.presence("room").settled
            await asyncio.sleep(SETTLING_TIME)
            assert three.presence("room", names=True) == Presence(2, 2, True, ("a", "c"))
            three.join("room", "d")
            await asyncio.sleep(SOON)
            assert one.names("room") == two.names("room") == "acd"
        # It has said that it leaves.
        await asyncio.sleep(SOON)
        assert one.names("room") == two.names("room") == "ac"


@fake_time
async def test_many_members_are_told_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "MAX_TOLD", 7)
    broker = MemoryBroker()
    async with Home(broker) as one:
        names = [f"{number:03}" for number in range(100)]
        one.join("room", *names)
        one.join("other", *names[:5])
        await asyncio.sleep(1)
        async with Home(broker) as two, Home(broker) as three:
            await asyncio.sleep(1)
            for home in (two, three):
                assert home.presence("room", names=True).names == tuple(names)
                assert home.presence("other") == Presence(5, 5, True)
            one.leave("room", *names[:50])
            await asyncio.sleep(SOON)
            assert three.presence("room").members == 50


@fake_time
async def test_killed_process_is_forgotten() -> None:
    broker = MemoryBroker()
    async with Home(broker) as one:
        one.roll.watch("room")
        killed = Home(broker)
        await killed.runner.open()
        killed.join("room", "a")
        await asyncio.sleep(1)
        assert one.names("room") == "a"
        killed.runner._take_leave = nothing
        await killed.runner.close()
        await asyncio.sleep(REFRESH_INTERVAL * (FORGET_INTERVALS - 1))
        # It might only be slow.
        assert one.names("room") == "a"
        await asyncio.sleep(FORGOTTEN - REFRESH_INTERVAL * (FORGET_INTERVALS - 1))
        assert one.presence("room") == Presence(0, 0, True)
        assert one.told[-1] == PresenceEvent("room", "a", False)


@fake_time
async def test_process_that_ends_while_the_broker_takes_nothing() -> None:
    """It can't say so, which is no trouble of whoever closes."""
    broker = MemoryBroker()
    one = Home(broker)
    await one.runner.open()
    one.join("room", "a")
    await asyncio.sleep(1)
    broker.answers = False
    before = one.time()
    await one.runner.close()
    assert one.time() - before <= 3 * CLOSING_TIME


@fake_time
async def test_process_that_ends_while_the_broker_is_away_is_forgotten() -> None:
    """It can't say so, and doesn't wait for that."""
    broker = MemoryBroker()
    async with Home(broker) as one:
        other = Home(broker)
        await other.runner.open()
        other.join("room", "a")
        await asyncio.sleep(1)
        assert one.names("room") == "a"
        broker.go_away()
        before = one.time()
        await other.runner.close()
        assert one.time() == before
        broker.come_back()
        await asyncio.sleep(FORGOTTEN)
        assert one.presence("room") == Presence(0, 0, True)


@fake_time
async def test_what_topics_have_to_do_comes_in_time() -> None:
    """However long it is until presence is told again."""
    broker = MemoryBroker()
    async with Home(broker, core_options={"unfollow_delay": REFRESH_INTERVAL / 4}) as home:
        await asyncio.sleep(SOON)
        reader = await home.subscribed("a")
        reader.leave()
        assert "a" in home.bus.followed
        await asyncio.sleep(REFRESH_INTERVAL / 2)
        assert "a" not in home.bus.followed


async def nothing() -> None:
    """Say nothing at the end, as processes that are killed."""


@fake_time
async def test_lost_messages_are_asked_for() -> None:
    broker = MemoryBroker()
    async with Home(broker) as one, Home(broker) as two:
        await asyncio.sleep(1)
        one.join("room", "a", "b")
        await asyncio.sleep(1)
        broker.drops = lambda notice: notice.topic == ALL
        one.leave("room", "a")
        one.join("room", "c")
        await asyncio.sleep(SOON)
        broker.drops = lambda notice: False
        assert two.names("room") == "ab"
        await asyncio.sleep(REFRESHED)
        assert two.presence("room", names=True) == Presence(2, 2, True, ("b", "c"))
        # What comes next shows it earlier.
        broker.drops = lambda notice: notice.topic == ALL
        one.leave("room", "b")
        await asyncio.sleep(SOON)
        broker.drops = lambda notice: False
        one.join("room", "d")
        await asyncio.sleep(SOON)
        assert two.names("room") == "cd"


@fake_time
async def test_answers_that_get_lost_are_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "MAX_TOLD", 2)
    broker = MemoryBroker()
    async with Home(broker) as one:
        one.join("room", *"abcdef")
        await asyncio.sleep(1)
        answers = itertools.count()
        broker.drops = lambda notice: '"part"' in str(notice.message) and next(answers) == 1
        async with Home(broker) as two:
            await asyncio.sleep(SETTLING_TIME)
            assert not two.presence("room").settled
            one.leave("room", "a")
            one.join("room", "z")
            await asyncio.sleep(REFRESHED)
            assert two.names("room") == "bcdefz"
            assert two.presence("room").settled


@fake_time
async def test_nobody_is_forgotten_while_the_bus_is_away() -> None:
    broker = MemoryBroker()
    async with Home(broker) as one, Home(broker) as two:
        one.roll.watch("room")
        one.join("room", "a")
        two.join("room", "b", "c")
        await asyncio.sleep(2)
        broker.go_away()
        await asyncio.sleep(2 * FORGOTTEN)
        assert one.presence("room", names=True) == Presence(3, 3, False, ("a", "b", "c"))
        two.leave("room", "b")
        two.join("room", "d")
        await asyncio.sleep(1)
        broker.come_back()
        await asyncio.sleep(SETTLING_TIME + SOON)
        assert one.presence("room", names=True) == Presence(3, 3, True, ("a", "c", "d"))
        assert two.names("room") == "acd"
        assert one.told[3:] == [
            PresenceEvent("room", "b", False),
            PresenceEvent("room", "d", True),
        ]


@fake_time
async def test_deaf_process_is_heard() -> None:
    broker = MemoryBroker()
    async with Home(broker) as one, Home(broker) as two:
        two.join("room", "b")
        await asyncio.sleep(2)
        two.bus.deaf = two.bus.deaf_for_good = True
        await asyncio.sleep(3 * FORGOTTEN)
        assert not two.runner.healthy
        assert one.names("room") == "b"
        one.join("room", "a")
        two.bus.deaf_for_good = False
        await two.runner.wait_healthy(20)
        await asyncio.sleep(SETTLING_TIME + SOON)
        assert two.presence("room", names=True) == Presence(2, 2, True, ("a", "b"))


@fake_time
async def test_process_that_stood_still_forgets_nobody() -> None:
    """Its timers are late, and the words of others wait in its socket."""
    broker = MemoryBroker()
    async with Home(broker) as one, Home(broker) as two:
        two.join("room", "b")
        await asyncio.sleep(2)
        for _ in range(5):
            asyncio.get_running_loop()._fake.now += 2 * FORGOTTEN
            await asyncio.sleep(1)
            assert one.names("room") == "b"


@fake_time
async def test_so_many_changes_that_they_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "MAX_CHANGED", 10)
    broker = MemoryBroker()
    async with Home(broker) as one, Home(broker) as two:
        await asyncio.sleep(1)
        one.join("room", *(f"{number}" for number in range(100)))
        one.leave("room", *(f"{number}" for number in range(90)))
        await asyncio.sleep(3 * SOON)
        assert two.presence("room") == Presence(10, 10, True)


@fake_time
async def test_what_can_not_be_published_is_asked_for() -> None:
    class Refusing(MemoryBus):
        refuses = False

        async def publish(self, topic: str, message: Message) -> Position | None:
            if self.refuses and topic.startswith(ALL):
                raise BusUnavailable("no")
            return await super().publish(topic, message)

    broker = MemoryBroker()
    bus = Refusing(broker, 5)
    async with Home(broker, bus=bus) as one, Home(broker) as two:
        await asyncio.sleep(1)
        bus.refuses = True
        one.join("room", "a")
        await asyncio.sleep(1)
        assert two.names("room") == ""
        bus.refuses = False
        await asyncio.sleep(REFRESHED)
        assert two.names("room") == "a"


@fake_time
async def test_bus_with_a_mistake() -> None:
    class Wrong(MemoryBus):
        wrong = False

        async def publish(self, topic: str, message: Message) -> Position | None:
            if self.wrong and topic.startswith(ALL):
                raise ZeroDivisionError("oh")
            return await super().publish(topic, message)

    broker = MemoryBroker()
    bus = Wrong(broker, 5)
    async with Home(broker, bus=bus) as one, Home(broker) as two:
        bus.wrong = True
        one.join("room", "a")
        await asyncio.sleep(SOON)
        logged_errors("topics: no presence told")
        bus.wrong = False
        await asyncio.sleep(REFRESHED)
        assert two.names("room") == "a"


@fake_time
async def test_telling_is_bounded_while_the_broker_does_not_answer() -> None:
    broker = MemoryBroker()
    async with Home(broker, bus=broker.bus(timeout=None)) as one:
        broker.answers = False
        for number in range(3000):
            one.join("room", f"{number}")
            await asyncio.sleep(TELL_INTERVAL)
        assert len(one.runner._to_tell) <= 1000
        assert one.runner.stats()["requests"] == 0
        broker.answers = True
        async with Home(broker) as two:
            await asyncio.sleep(2)
            assert two.presence("room").members == 3000


STRANGE = [
    "",
    "x",
    "[]",
    "3",
    "null",
    '"from"',
    "{}",
    '{"from":1,"version":1}',
    '{"from":"x"}',
    '{"from":"x","version":"1"}',
    '{"from":"x","version":1,"members":[]}',
    '{"from":"x","version":1,"members":{"a":[]}}',
    '{"from":"x","version":1,"members":{"a":{"b":-1}}}',
    '{"from":"x","version":1,"members":{"a":{"b":"1"}}}',
    '{"from":"x","version":1,"members":{"a":{"":1}}}',
    '{"from":"x","version":1,"members":{"a":{"b\\u0000":1}}}',
    '{"from":"x","version":1,"members":{"a":{"b":1}},"part":7,"parts":9}',
    '{"from":"x","version":1,"members":{"a":{"b":1}},"part":"0","parts":null}',
    b"\xff",
    "[" * 100_000,
]


@pytest.mark.parametrize("message", STRANGE)
def test_strange_messages_are_ignored(message: Message) -> None:
    roll = Roll()
    roll.resumed(0)
    roll.receive(message, 0)
    assert roll.presence("a", 10).subscriptions == 0


def told(name: str, version: int, **content: Any) -> str:
    return json.dumps({"from": name, "version": version, **content})


def test_processes_and_members_of_others_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "MAX_PROCESSES", 3)
    monkeypatch.setattr(presence, "MAX_KNOWN", 5)
    roll = Roll()
    roll.resumed(0)
    for number in range(5):
        roll.receive(told(f"{number}", 1, members={"a": {f"{number}": 1}}), 0)
    assert roll.presence("a", 10).members == 3
    assert roll.left_out == 2
    roll.receive(told("1", 2, members={"b": {f"{number}": 1 for number in range(5)}}), 0)
    assert roll.presence("b", 10).members == 2
    assert roll.left_out == 5
    # What wasn't counted isn't counted off.
    roll.receive(told("1", 3, members={"b": {f"{number}": 0 for number in range(5)}}), 0)
    assert roll.presence("b", 10) == Presence(0, 0, True)


def test_messages_of_before() -> None:
    roll = Roll()
    roll.resumed(0)
    roll.receive(told("x", 1, members={"a": {"m": 1}}), 0)
    roll.receive(told("x", 2, members={"a": {"m": 0}}), 0)
    roll.receive(told("x", 1, members={"a": {"m": 1}}), 0)
    assert roll.presence("a", 10) == Presence(0, 0, True)
    roll.receive(told("x", 2), 0)
    assert roll.presence("a", 10).settled
    roll.receive(told("x", 3), 0)
    assert not roll.presence("a", 10).settled
    # An answer from before doesn't help.
    roll.receive(told("x", 1, part=0, parts=1, members={"a": {"m": 1}}), 0)
    assert not roll.presence("a", 10).settled
    roll.receive(told("x", 3, part=0, parts=1, members={"a": {"m": 2}}), 0)
    assert roll.presence("a", 10) == Presence(2, 1, True)


def test_messages_held_during_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    roll = Roll()
    roll.resumed(0)
    for version in (7, 9, 6):
        roll.receive(told("x", version, members={"a": {f"{version}": 1}}), 0)
    assert [topic for topic, _ in roll.outbox] == [ALL, f"{ALL}.x"]
    roll.receive(told("x", 5, part=0, parts=2, members={"a": {"1": 1}}), 0)
    assert roll.presence("a", 10).members == 0
    roll.receive(told("x", 5, part=1, parts=2, members={"a": {"2": 1}}), 0)
    # 8 is missing.
    assert roll.presence("a", 10, names=True) == Presence(4, 4, False, ("1", "2", "6", "7"))
    assert [topic for topic, _ in roll.outbox] == [ALL, f"{ALL}.x", f"{ALL}.x"]
    roll.receive(told("x", 9, part=0, parts=1, members={"a": {"9": 1}}), 0)
    assert roll.presence("a", 10, names=True) == Presence(1, 1, True, ("9",))


def test_those_who_ask_are_answered_one_after_the_other() -> None:
    """Each when what was told before is published: however many ask, no more than that waits."""
    roll = Roll()
    roll.join("a", "m", 0)
    roll.resumed(0)
    for name in "xy":
        roll.receive(told(name, 0, all=True), 0)
    for expected in (ALL, f"{ALL}.x", f"{ALL}.y"):
        assert [topic for topic, _ in roll.outbox] == [expected]
        roll.outbox.clear()
        roll.drained(0)
    assert not roll.outbox
    # With nothing before it, it is answered at once.
    roll.receive(told("x", 0, all=True), 0)
    assert [topic for topic, _ in roll.outbox] == [f"{ALL}.x"]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the end, and within the bounds that are told, all know the same."""
    monkeypatch.setattr(presence, "MAX_TOLD", 3)
    monkeypatch.setattr(presence, "MAX_CHANGED", 12)
    chance = random.Random(seed)

    @fake_time
    async def test() -> None:
        broker = MemoryBroker()
        homes: list[Home] = []
        present: dict[Home, Counter[tuple[str, str]]] = {}

        async def begin() -> None:
            home = Home(broker)
            await home.runner.open()
            homes.append(home)
            present[home] = Counter()

        async def end() -> None:
            home = homes.pop(chance.randrange(len(homes)))
            del present[home]
            if chance.random() < 0.5:
                home.runner._take_leave = nothing
            await home.runner.close()

        for _ in range(3):
            await begin()
        for _ in range(150):
            home = chance.choice(homes)
            match chance.randrange(12):
                case 0 if len(homes) < 5 and broker.available:
                    broker.drops = lambda notice: False
                    await begin()
                case 1 if len(homes) > 2:
                    await end()
                case 2:
                    share = chance.choice([0, 0.3, 1])
                    broker.drops = lambda notice, share=share: chance.random() < share
                case 3:
                    home.bus.lose(ConnectionResetError())
                    home.bus.regain()
                case 4:
                    await asyncio.sleep(chance.choice([0.05, 0.2, 3, 20]))
                case number:
                    topic, member = chance.choice("ab"), chance.choice("klmnop")
                    if number < 9:
                        home.join(topic, member)
                        present[home][topic, member] += 1
                    elif present[home][topic, member]:
                        home.leave(topic, member)
                        present[home][topic, member] -= 1
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() * 0.2)
        broker.drops = lambda notice: False
        await until(lambda: all(home.runner.healthy for home in homes))
        await asyncio.sleep(FORGOTTEN + REFRESHED)
        for topic in "ab":
            total: Counter[str] = Counter()
            for counts in present.values():
                for (other, member), count in counts.items():
                    total[member] += count * (other == topic)
            total = +total
            expected = Presence(total.total(), len(total), True, tuple(sorted(total)))
            for home in homes:
                assert home.presence(topic, names=True) == expected
        for home in homes:
            await home.runner.close()

    test()
