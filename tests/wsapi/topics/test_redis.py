"""The bus on Redis and Valkey, with real servers that are killed, paused, emptied, and lied to."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.helpers import until
from tests.wsapi.topics.redis_helpers import Receiver
from wsapi.topics.bus import Notice
from wsapi.topics.exceptions import BusError, BusUnavailable, PublishUncertain
from wsapi.topics.positions import Position

pytest.importorskip("hiredis", reason="the extra redis isn't installed")
pytest.importorskip("redis", reason="the extra redis isn't installed")

from tests.wsapi.topics.valkey_broker import Broker, binaries, free_port
from wsapi.topics.redis import RedisBus

BINARIES = binaries()
prefixes = (f"test{number}" for number in itertools.count())


@contextlib.asynccontextmanager
async def opened(broker: Broker, **options: Any) -> AsyncIterator[tuple[RedisBus, Receiver]]:
    """Give a bus and its receiver."""
    receiver = Receiver()
    options.setdefault("prefix", next(prefixes))
    bus = RedisBus(options.pop("url", broker.url), **options)
    await bus.open(receiver)
    try:
        yield bus, receiver
    finally:
        await bus.close()


async def everything(bus: RedisBus, topic: str, since: Position) -> list[Notice]:
    """Return all that the history has after a position, which it must know."""
    found: list[Notice] = []
    while True:
        page = await bus.read(topic, since, 100)
        assert page.reaches
        found += page.notices
        for notice in page.notices:
            assert notice.previous == since.offset
            assert notice.position is not None
            since = notice.position
        if since == page.latest:
            return found


def position_of(value: Position | None) -> Position:
    assert value is not None
    return value


def new_broker(folder: Path, name: str, **settings: Any) -> Broker:
    if name not in BINARIES:
        pytest.skip(f"no server of {name} is installed")
    return Broker(folder, BINARIES[name], **settings)


@pytest.fixture(scope="module", params=["valkey", "redis"])
def broker(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Broker]:
    """Give a server that stays as it is."""
    started = new_broker(tmp_path_factory.mktemp("broker"), request.param).start()
    yield started
    started.kill()


@pytest.fixture(params=["valkey", "redis"])
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    """Give a server for one test, which starts it."""
    made = new_broker(tmp_path / "own", request.param)
    yield made
    made.kill()


# ----------------------------------------------------------------------------------- the five calls


@pytest.mark.parametrize("options", [{}, {"sharded": True}, {"protocol": 3}, {"exact": True}])
async def test_messages_come_as_they_were_published(
    broker: Broker, options: dict[str, Any]
) -> None:
    messages = [
        "one",
        "",
        "zwei \N{SNOWMAN}\n\0",
        b"",
        b"\xff\n\0",
        "x" * 3_000_000,
        b"y" * 2_000_000,
    ]
    async with opened(broker, **options) as (bus, receiver):
        start = position_of(await bus.follow("room"))
        assert start.offset == 0
        positions = await asyncio.gather(*(bus.publish("room", message) for message in messages))
        assert positions == [Position(start.epoch, n) for n in range(1, len(messages) + 1)]
        await until(lambda: len(receiver.notices) == len(messages))
        assert receiver.messages == messages
        assert [notice.position for notice in receiver.notices] == positions
        assert [notice.previous for notice in receiver.notices] == list(range(len(messages)))
        assert [*await everything(bus, "room", start)] == receiver.notices
        assert await bus.position("room") == positions[-1]


@pytest.mark.parametrize(
    "name",
    ["{}", "}", "a}b{c", "%7D", "a b", "*?[x]", ":", "\N{GREEK SMALL LETTER PI}" * 127, "x" * 255],
)
async def test_names_of_topics_are_just_characters(broker: Broker, name: str) -> None:
    async with opened(broker) as (bus, receiver):
        others = [name + "}", "%" + name, name.replace("}", "%7D"), name + ":meta"]
        for topic in [name, *others]:
            await bus.follow(topic)
        await bus.publish(name, "hello")
        await bus.publish("other", "nobody follows it")
        await bus.publish(others[0], "the last one")
        await until(lambda: len(receiver.notices) == 2)
        assert [notice.topic for notice in receiver.notices] == [name, others[0]]


async def test_a_topic_without_messages_has_a_position_that_stays(broker: Broker) -> None:
    async with opened(broker) as (bus, _), opened(broker, prefix=bus._prefix) as (other, _):
        position = position_of(await bus.position("quiet"))
        assert position.offset == 0
        assert await other.position("quiet") == position
        assert await other.follow("quiet") == position
        page = await bus.read("quiet", position, 10)
        assert page == ([], True, position)
        published = await other.publish("quiet", "first")
        assert published == Position(position.epoch, 1)


async def test_pages(broker: Broker) -> None:
    async with opened(broker, history=200, exact=True) as (bus, _):
        start = position_of(await bus.position("room"))
        for first in range(1, 1001, 250):
            await asyncio.gather(*(bus.publish("room", str(n)) for n in range(first, first + 250)))
        latest = Position(start.epoch, 1000)
        page = await bus.read("room", Position(start.epoch, 800), 50)
        assert page.reaches
        assert page.latest == latest
        assert [notice.message for notice in page.notices] == [str(n) for n in range(801, 851)]
        page = await bus.read("room", Position(start.epoch, 800), 1000)
        assert [notice.message for notice in page.notices] == [str(n) for n in range(801, 1001)]
        assert await bus.read("room", latest, 1) == ([], True, latest)
        for unknown in (
            Position(start.epoch, 799),
            Position(start.epoch, 0),
            Position(start.epoch, 1001),
            Position(start.epoch, 2**53 - 1),
            Position("another", 900),
        ):
            assert await bus.read("room", unknown, 10) == ([], False, latest)
        # Who names a position that never was doesn't end the epoch.
        assert await bus.position("room") == latest


async def test_a_page_of_many_big_messages_ends_early(broker: Broker) -> None:
    async with opened(broker, max_pending_bytes=2**28) as (bus, _):
        start = position_of(await bus.position("room"))
        messages = [bytes([n]) * 2**20 for n in range(24)]
        await asyncio.gather(*(bus.publish("room", message) for message in messages))
        page = await bus.read("room", start, 100)
        assert 8 <= len(page.notices) < 24
        assert page.latest.offset == 24
        found = await everything(bus, "room", start)
        assert [notice.message for notice in found] == messages


async def test_without_history(broker: Broker) -> None:
    async with opened(broker, history=0) as (bus, receiver):
        start = position_of(await bus.follow("room"))
        position = position_of(await bus.publish("room", "one"))
        assert position == Position(start.epoch, 1)
        await until(lambda: receiver.notices)
        assert await bus.read("room", start, 10) == ([], False, position)
        assert await bus.read("room", position, 10) == ([], True, position)


async def test_transient_topics(broker: Broker) -> None:
    async with opened(broker) as (bus, receiver):
        assert await bus.follow("\0alive") is None
        assert await bus.publish("\0alive", "text") is None
        assert await bus.publish("\0alive", b"\xff") is None
        assert await bus.position("\0alive") is None
        await until(lambda: len(receiver.notices) == 2)
        assert receiver.notices == [Notice("\0alive", "text"), Notice("\0alive", b"\xff")]
        with pytest.raises(ValueError, match="no history"):
            await bus.read("\0alive", Position("x", 0), 1)
        assert not broker.command("KEYS", f"{bus._prefix}:*")


async def test_unfollow(broker: Broker) -> None:
    async with opened(broker) as (bus, receiver):
        await asyncio.gather(*(bus.follow(f"room.{n}") for n in range(1200)))
        await bus.publish("room.1199", "heard")
        await until(lambda: receiver.notices)
        await asyncio.gather(*(bus.unfollow(f"room.{n}") for n in range(1100)))
        await bus.unfollow("room.1")
        await bus.unfollow("never followed")
        # Off and on again within one turn.
        await asyncio.gather(bus.unfollow("room.1150"), bus.follow("room.1150"))
        await asyncio.gather(*(bus.publish(f"room.{n}", str(n)) for n in range(1200)))
        await bus.publish("room.1199", "the last one")
        await until(lambda: "the last one" in receiver.messages)
        # A single connection: what isn't here by now doesn't come.
        assert sorted(receiver.messages[1:-1]) == [str(n) for n in range(1100, 1200)]
        await until(lambda: broker.command("PUBSUB", "NUMSUB", f"{bus._prefix}:{{room.1}}")[1] == 0)


async def test_order_of_many_at_once(broker: Broker) -> None:
    """More than one round trip takes, of several topics and buses."""
    async with opened(broker, history=10_000) as (bus, receiver):
        async with opened(broker, history=10_000, prefix=bus._prefix) as (other, _):
            await asyncio.gather(*(bus.follow(f"room.{n}") for n in range(3)))

            async def publish(publisher: RedisBus, name: str) -> None:
                sent = [
                    (n % 3, publisher.publish(f"room.{n % 3}", f"{name} {n}")) for n in range(2000)
                ]
                positions = await asyncio.gather(*(call for _, call in sent))
                for room in range(3):
                    offsets = [
                        position_of(position).offset
                        for (of, _), position in zip(sent, positions, strict=True)
                        if of == room
                    ]
                    assert offsets == sorted(set(offsets))

            await asyncio.gather(publish(bus, "a"), publish(other, "b"))
            await until(lambda: len(receiver.notices) == 4000)
            for room, name in itertools.product(range(3), "ab"):
                numbers = [
                    int(str(notice.message)[2:])
                    for notice in receiver.notices
                    if notice.topic == f"room.{room}" and str(notice.message)[0] == name
                ]
                assert numbers == list(range(room, 2000, 3))


async def test_what_is_cancelled_before_it_is_sent_is_not_published(broker: Broker) -> None:
    async with opened(broker) as (bus, receiver):
        await bus.follow("room")
        await bus.follow("other")
        tasks = [asyncio.create_task(bus.publish("room", str(n))) for n in range(10)]
        alone = asyncio.create_task(bus.publish("other", "nobody waits"))
        await asyncio.sleep(0)
        for task in [*tasks[::2], alone]:
            task.cancel()
        await asyncio.gather(*tasks, alone, return_exceptions=True)
        await bus.publish("room", "the last one")
        await until(lambda: "the last one" in receiver.messages)
        assert receiver.messages == ["1", "3", "5", "7", "9", "the last one"]
        assert position_of(await bus.position("other")).offset == 0
        assert bus._seed.link is not None
        assert bus._seed.link._bytes == 0


async def test_bounds(broker: Broker) -> None:
    async with opened(broker, max_pending_bytes=1000) as (bus, _):
        with pytest.raises(ValueError, match="1001 bytes"):
            await bus.publish("room", b"x" * 1001)
        results = await asyncio.gather(
            *(bus.publish("room", b"x" * 300) for _ in range(5)), return_exceptions=True
        )
        assert [type(result) for result in results] == [Position] * 2 + [BusUnavailable] * 3
        assert isinstance(await bus.publish("room", b"x" * 1000), Position)
        with pytest.raises(TypeError, match="a message is a str or bytes, not int"):
            await bus.publish("room", 5)  # type: ignore[arg-type]
        with pytest.raises(UnicodeEncodeError):
            await bus.publish("room", "\ud800")
        with pytest.raises(ValueError, match="limit"):
            await bus.read("room", Position("x", 0), 0)


async def test_topics_that_nobody_follows_are_forgotten(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsapi.topics.redis._REMEMBERED", 100)
    async with opened(broker) as (bus, receiver):
        await asyncio.gather(*(bus.follow(f"room.{n}") for n in range(50)))
        for n in range(1000):
            await bus.publish(f"other.{n}", "x")
        assert len(bus._topics) <= 150
        await bus.publish("room.0", "hello")
        await until(lambda: receiver.messages == ["hello"])


# --------------------------------------------------------------------------------- lost connections


class Follower(Receiver):
    """Delivers messages of one topic in order, and reads what is missing, as topics do."""

    def __init__(self) -> None:
        super().__init__()
        self.delivered: list[str | bytes] = []
        self.cursor = Position("", 0)
        self.gaps = 0
        self.filled = 0

    def notice(self, notice: Notice) -> None:
        assert notice.position is not None
        if notice.position.epoch == self.cursor.epoch and notice.previous == self.cursor.offset:
            self.cursor = notice.position
            self.delivered.append(notice.message)

    async def fill(self, bus: RedisBus, topic: str) -> None:
        while True:
            page = await bus.read(topic, self.cursor, 100)
            if not page.reaches:
                self.gaps += 1
                self.cursor = page.latest
            for notice in page.notices:
                assert notice.position is not None
                if notice.position.offset > self.cursor.offset:
                    assert notice.previous == self.cursor.offset
                    self.cursor = notice.position
                    self.delivered.append(notice.message)
                    self.filled += 1
            if page.latest == self.cursor:
                return


async def following(bus: RedisBus) -> Follower:
    follower = Follower()
    await bus.open(follower)
    follower.cursor = position_of(await bus.follow("room"))
    return follower


async def test_notices_are_cut_off_again_and_again(broker: Broker) -> None:
    prefix = next(prefixes)
    bus, publisher = (RedisBus(broker.url, prefix=prefix, history=100_000) for _ in range(2))
    follower = await following(bus)
    await publisher.open(Receiver())
    try:
        messages: list[str | bytes] = []
        while follower.resumptions < 8:
            more = [f"{len(messages)}.{n}" for n in range(50)]
            messages += more
            await asyncio.gather(*(publisher.publish("room", message) for message in more))
            broker.kill_clients("pubsub")
            await asyncio.sleep(0.005)
        await publisher.publish("room", "the last one")
        await until(lambda: len(follower.interruptions) == follower.resumptions)
        await follower.fill(bus, "room")
        assert follower.delivered == [*messages, "the last one"]
        assert follower.filled
        assert not follower.gaps
    finally:
        await bus.close()
        await publisher.close()


async def test_commands_are_cut_off_again_and_again(broker: Broker) -> None:
    """What was said to be published is there, once and in order; what wasn't said to be, at most
    once."""
    async with opened(broker, history=10_000) as (bus, receiver):
        start = position_of(await bus.follow("room"))
        results: dict[str, Any] = {}

        async def publish(name: str) -> None:
            for n in range(250):
                message = f"{name} {n}"
                while True:
                    try:
                        results[message] = await bus.publish("room", message)
                    except BusUnavailable:
                        await asyncio.sleep(0.005)  # it may be tried again
                        continue
                    except PublishUncertain as error:
                        results[message] = error
                    break

        publishing = True

        async def kill() -> None:
            while publishing:
                await asyncio.to_thread(broker.kill_clients, "normal")
                await asyncio.sleep(0.01)

        killing = asyncio.create_task(kill())
        await asyncio.gather(*(publish(name) for name in "abcd"))
        publishing = False
        await killing
        await until(lambda: len(receiver.interruptions) == receiver.resumptions > 1)
        found = await everything(bus, "room", start)
        messages = [str(notice.message) for notice in found]
        assert len(set(messages)) == len(messages)
        for notice in found:
            result = results.pop(str(notice.message))
            assert isinstance(result, PublishUncertain) or result == notice.position
        assert all(isinstance(result, PublishUncertain) for result in results.values())
        for name in "abcd":
            numbers = [int(message[2:]) for message in messages if message[0] == name]
            assert numbers == sorted(numbers)


async def test_a_script_that_is_forgotten(broker: Broker) -> None:
    async with opened(broker, history=10_000) as (bus, receiver):
        await bus.follow("room")
        forgetting = True

        async def forget() -> None:
            while forgetting:
                await asyncio.to_thread(broker.command, "SCRIPT", "FLUSH")

        task = asyncio.create_task(forget())
        for first in range(0, 2000, 100):
            await asyncio.gather(*(bus.publish("room", str(n)) for n in range(first, first + 100)))
            assert position_of(await bus.position("room")).offset == first + 100
        forgetting = False
        await task
        await until(lambda: len(receiver.notices) == 2000)
        assert receiver.messages == [str(n) for n in range(2000)]


async def test_many_topics_are_followed_again(broker: Broker) -> None:
    async with opened(broker) as (bus, receiver):
        await asyncio.gather(*(bus.follow(f"room.{n}") for n in range(1234)))
        broker.kill_clients("pubsub")
        await until(lambda: receiver.resumptions)
        await asyncio.gather(*(bus.publish(f"room.{n}", str(n)) for n in range(1234)))
        await until(lambda: len(receiver.notices) == 1234)


async def test_it_is_cut_off_while_many_topics_are_followed_again(broker: Broker) -> None:
    async with opened(broker) as (bus, receiver):
        await asyncio.gather(*(bus.follow(f"room.{n}") for n in range(3000)))
        for _ in range(10):
            before = bus._seed.ear
            broker.kill_clients("pubsub")
            # The next one has begun to follow, and may not be done.
            await until(lambda: bus._seed.ear not in (None, before))  # noqa: B023
        await until(lambda: bus._seed.ready)
        assert receiver.resumptions == len(receiver.interruptions)
        await asyncio.gather(*(bus.publish(f"room.{n}", str(n)) for n in range(3000)))
        await until(lambda: len(receiver.notices) == 3000)


async def test_many_topics_prove_what_they_have_within_small_bounds(own: Broker) -> None:
    own.start(appendonly="yes", appendfsync="always")
    async with opened(own, max_pending_bytes=1000) as (bus, receiver):
        for n in range(600):
            await bus.publish(f"room.{n}", "x")
        own.kill()
        own.start()
        await until(lambda: receiver.resumptions)
        assert position_of(await bus.position("room.599")).offset == 1


async def test_what_is_followed_does_not_expire(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsapi.topics.redis.EMPTY_SECONDS", 0.1)
    async with opened(broker) as (bus, _):
        positions = {}
        for topic in ("followed", "quiet", "\0alive"):
            positions[topic] = await bus.follow(topic)
        positions["followed"] = await bus.publish("followed", "x")
        for topic in ("followed", "quiet"):
            broker.command("PEXPIRE", f"{bus._prefix}:{{{topic}}}:meta", 60_000)
            await until(
                lambda: broker.command("PTTL", f"{bus._prefix}:{{{topic}}}:meta") > 3_000_000  # noqa: B023
            )
            assert await bus.position(topic) == positions[topic]


async def test_reconnect(broker: Broker) -> None:
    async with opened(broker) as (bus, receiver):
        await bus.follow("room")
        bus.reconnect()
        with pytest.raises(BusUnavailable, match="deaf"):
            await bus.follow("another")
        await until(lambda: receiver.resumptions)
        assert "deaf" in str(receiver.interruptions[0])
        await bus.publish("another", "nobody follows it")
        await bus.publish("room", "hello")
        await until(lambda: receiver.notices)
        assert receiver.messages == ["hello"]


async def test_follow_that_is_cut_off_is_undone(broker: Broker) -> None:
    async with opened(broker) as (bus, receiver):
        following = asyncio.create_task(bus.follow("room"))
        await asyncio.sleep(0)
        bus.reconnect()
        with pytest.raises(BusUnavailable):
            await following
        await until(lambda: receiver.resumptions)
        await bus.follow("other")
        await bus.publish("room", "not followed")
        await bus.publish("other", "followed")
        await until(lambda: receiver.notices)
        assert receiver.messages == ["followed"]


async def test_a_broker_that_stands_still(own: Broker) -> None:
    own.start()
    async with opened(own, timeout=0.3) as (bus, receiver):
        start = position_of(await bus.follow("room"))
        await bus.publish("room", "before")
        own.pause()
        try:
            stuck = [asyncio.create_task(bus.publish("room", f"stuck {n}")) for n in range(3)]
            await asyncio.sleep(0.01)
            # These wait for the answer to the others.
            waiting = [asyncio.create_task(bus.publish("room", f"waiting {n}")) for n in range(3)]
            with pytest.raises(BusUnavailable):
                await bus.follow("other")
            for task in stuck:
                with pytest.raises(PublishUncertain, match=r"within 0\.3 seconds"):
                    await task
            for task in waiting:
                with pytest.raises(BusUnavailable):
                    await task
            with pytest.raises(BusUnavailable):
                await bus.position("room")
        finally:
            own.resume()
        await until(lambda: receiver.resumptions == len(receiver.interruptions) > 0)
        await bus.publish("room", "after")
        found = [str(notice.message) for notice in await everything(bus, "room", start)]
        # What is uncertain may be there: once, and not after what came after it.
        assert found[0] == "before"
        assert found[-1] == "after"
        assert found[1:-1] in ([], [f"stuck {n}" for n in range(3)])


async def test_a_broker_that_does_not_answer_when_it_is_opened(own: Broker) -> None:
    own.start()
    own.pause()
    bus = RedisBus(own.url, timeout=0.2)
    try:
        with pytest.raises(BusUnavailable, match=r"within 0\.2 seconds"):
            await bus.open(Receiver())
    finally:
        own.resume()
    await bus.open(Receiver())
    with pytest.raises(RuntimeError, match="open already"):
        await bus.open(Receiver())
    await bus.close()
    with pytest.raises(BusUnavailable, match="closed"):
        await bus.publish("room", "too late")


async def test_no_broker() -> None:
    bus = RedisBus(f"redis://127.0.0.1:{free_port()}")
    with pytest.raises(BusUnavailable):
        await bus.publish("room", "too early")
    with pytest.raises(BusUnavailable):
        await bus.open(Receiver())
    await bus.close()


async def test_close_tells_who_waits(own: Broker) -> None:
    own.start()
    async with opened(own) as (bus, receiver):
        own.pause()
        sent = asyncio.create_task(bus.publish("room", "sent"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting = asyncio.create_task(bus.publish("other", "waiting"))
        await asyncio.sleep(0)
        await bus.close()
        with pytest.raises(PublishUncertain, match="closed"):
            await sent
        with pytest.raises(BusUnavailable, match="closed"):
            await waiting
        assert not receiver.interruptions


# -------------------------------------------------------------------------- brokers that begin anew


async def test_restart_without_data(own: Broker) -> None:
    own.start()
    async with opened(own) as (bus, receiver):
        await bus.follow("room")
        before = position_of(await bus.publish("room", "before"))
        own.kill()
        with pytest.raises(BusError):
            while True:
                await bus.publish("room", "meanwhile")
        own.start()
        await until(lambda: receiver.resumptions)
        after = position_of(await bus.publish("room", "after"))
        assert after.epoch != before.epoch
        assert await bus.read("room", before, 10) == ([], False, after)
        await until(lambda: receiver.messages[-1] == "after")


async def test_restart_with_all_data(own: Broker) -> None:
    own.start(appendonly="yes", appendfsync="always")
    async with opened(own) as (bus, receiver):
        start = position_of(await bus.follow("room"))
        await bus.publish("quiet", "untouched")
        quiet = await bus.position("quiet")
        before = position_of(await bus.publish("room", "before"))
        await until(lambda: receiver.notices)
        own.kill()
        own.start()
        await until(lambda: receiver.resumptions)
        assert await bus.position("quiet") == quiet
        after = [position_of(await bus.publish("room", f"after {n}")) for n in range(2)]
        # No gap, though offsets leapt.
        assert {position.epoch for position in after} == {start.epoch}
        assert after[0].offset > before.offset + 2**32
        assert after[1].offset == after[0].offset + 1
        found = await everything(bus, "room", start)
        assert [notice.message for notice in found] == ["before", "after 0", "after 1"]
        await until(lambda: len(receiver.notices) == 3)
        assert receiver.notices == found
        page = await bus.read("room", Position(start.epoch, before.offset + 1), 10)
        assert page == ([], False, after[1])


async def test_restart_with_an_older_snapshot(own: Broker) -> None:
    own.start()
    async with opened(own) as (bus, receiver):
        start = position_of(await bus.follow("room"))
        await bus.publish("room", "kept")
        own.command("SAVE")
        lost = position_of(await bus.publish("room", "lost"))
        assert lost.epoch == start.epoch
        await until(lambda: len(receiver.notices) == 2)
        own.kill()
        own.start()
        await until(lambda: receiver.resumptions)
        # The process has seen what is lost: the epoch ended before anything was published.
        now = position_of(await bus.position("room"))
        assert now.epoch != start.epoch
        assert now.offset == 0
        for since in (start, lost):
            assert await bus.read("room", since, 10) == ([], False, now)


async def test_restart_with_an_older_snapshot_that_another_one_saw(own: Broker) -> None:
    """Who knows of what is lost comes back later than others, which published already."""
    own.start()
    prefix = next(prefixes)
    async with opened(own, prefix=prefix) as (bus, _):
        start = position_of(await bus.follow("room"))
        await bus.publish("room", "kept")
        own.command("SAVE")
        witness = RedisBus(own.url, prefix=prefix)
        receiver = Receiver()
        await witness.open(receiver)
        lost = position_of(await witness.publish("room", "lost"))
        await bus.close()
        own.kill()
        own.start()
        late = RedisBus(own.url, prefix=prefix)
        if witness._seed.link is not None:
            witness._seed.link.abort("test")
        await late.open(Receiver())
        # Before or after the witness is back: both are fine, and none may be a mixture.
        after = position_of(await late.publish("room", "after"))
        await until(lambda: receiver.resumptions)
        now = position_of(await witness.position("room"))
        assert now.epoch != start.epoch
        assert after.epoch == now.epoch or after.offset > lost.offset + 2**32
        for since in (start, lost):
            assert not (await late.read("room", since, 10)).reaches
        await late.close()
        await witness.close()


async def test_offsets_are_never_given_twice(own: Broker) -> None:
    """A broker that crashes again and again, and begins with the same snapshot each time."""
    own.start()
    prefix = next(prefixes)
    seen = set()
    epoch = None
    for crash in range(3):
        # Each time another process, which knows nothing of what is lost.
        async with opened(own, prefix=prefix) as (bus, _):
            for n in range(3):
                position = position_of(await bus.publish("room", f"{crash} {n}"))
                assert position not in seen
                seen.add(position)
                if crash == n == 0:
                    epoch = position.epoch
                    own.command("SAVE")
                assert position.epoch == epoch
        own.kill()
        own.start()


async def test_loading(own: Broker) -> None:
    own.start(save="", key_load_delay=0)
    for n in range(20):
        own.command("MSET", *itertools.chain(*((f"key {n} {m}", "x" * 100) for m in range(100))))
    own.command("SAVE")
    own.kill()
    own.start(key_load_delay=500, loading_process_events_interval_bytes=1024)
    with pytest.raises(BusUnavailable, match="LOADING"):
        await RedisBus(own.url).open(Receiver())
    own.command("CONFIG", "SET", "key-load-delay", 0)
    await until(lambda: own.command("INFO", "persistence")["loading"] == 0)
    async with opened(own) as (bus, _):
        assert isinstance(await bus.publish("room", "hello"), Position)


async def test_output_buffer_overflows(own: Broker) -> None:
    own.start(client_output_buffer_limit="pubsub 65536 65536 1")
    prefix = next(prefixes)
    bus = RedisBus(own.url, prefix=prefix, history=5000)
    follower = await following(bus)
    try:
        async with opened(own, prefix=prefix, history=5000) as (publisher, _):
            messages = [f"{n} " + "x" * 1000 for n in range(3000)]
            await asyncio.gather(*(publisher.publish("room", message) for message in messages))
            await until(lambda: follower.resumptions)
            await until(lambda: follower.resumptions == len(follower.interruptions))
            await follower.fill(bus, "room")
            assert follower.delivered == messages
            assert not follower.gaps
    finally:
        await bus.close()


# --------------------------------------------------------------------------- harm to data, refusals


async def test_history_that_is_cut(broker: Broker) -> None:
    async with opened(broker) as (bus, _):
        start = position_of(await bus.position("room"))
        for n in range(1, 11):
            await bus.publish("room", str(n))
        stream = f"{bus._prefix}:{{room}}"
        latest = Position(start.epoch, 10)
        broker.command("XTRIM", stream, "MAXLEN", "=", 6)
        assert await bus.read("room", start, 10) == ([], False, latest)
        page = await bus.read("room", Position(start.epoch, 4), 10)
        assert [notice.message for notice in page.notices] == ["5", "6", "7", "8", "9", "10"]
        # A hole: what is before it is told, and nothing across it.
        ((identity, _),) = broker.command("XRANGE", stream, "8", "8")
        broker.command("XDEL", stream, identity)
        page = await bus.read("room", Position(start.epoch, 4), 10)
        assert [notice.message for notice in page.notices] == ["5", "6", "7"]
        assert await bus.read("room", Position(start.epoch, 7), 10) == ([], False, latest)
        broker.command("DEL", stream)
        assert await bus.read("room", Position(start.epoch, 8), 10) == ([], False, latest)
        assert await bus.read("room", latest, 10) == ([], True, latest)
        # The offsets go on.
        assert await bus.publish("room", "11") == Position(start.epoch, 11)
        page = await bus.read("room", latest, 10)
        assert [notice.message for notice in page.notices] == ["11"]
        assert broker.command("PTTL", stream) > 0


@pytest.mark.parametrize("harm", ["FLUSHALL", "DEL", "HDEL"])
async def test_a_topic_that_is_deleted_begins_anew(broker: Broker, harm: str) -> None:
    async with opened(broker) as (bus, receiver):
        before = position_of(await bus.follow("room"))
        await bus.publish("room", "before")
        meta = f"{bus._prefix}:{{room}}:meta"
        broker.command(*{"FLUSHALL": [harm], "DEL": [harm, meta], "HDEL": [harm, meta, "o"]}[harm])
        after = position_of(await bus.publish("room", "after"))
        assert after.epoch != before.epoch
        assert after.offset == 1
        assert await bus.read("room", before, 10) == ([], False, after)
        await until(lambda: len(receiver.notices) == 2)
        assert [notice.position for notice in receiver.notices][1] == after
        assert 0 < broker.command("PTTL", meta) <= 86_400_000


async def test_keys_of_foreign_types(broker: Broker) -> None:
    async with opened(broker) as (bus, receiver):
        for key in ("{meta}:meta", "{stream}"):
            broker.command("SET", f"{bus._prefix}:{key}", "foreign")
        for topic in ("meta", "stream"):
            with pytest.raises(BusUnavailable, match="WRONGTYPE"):
                await bus.publish(topic, "refused")
        with pytest.raises(BusUnavailable, match="WRONGTYPE"):
            await bus.follow("meta")
        with pytest.raises(BusUnavailable, match="WRONGTYPE"):
            await bus.read("meta", Position("x", 0), 1)
        # Nothing was done, to the foreign key either.
        assert position_of(await bus.position("stream")).offset == 0
        assert broker.command("GET", f"{bus._prefix}:{{stream}}") == b"foreign"
        await bus.follow("stream")
        assert isinstance(await bus.publish("fine", "hello"), Position)
        assert not receiver.notices
        assert not receiver.interruptions


@pytest.mark.parametrize("identity", ["*", "18446744073709551615-18446744073709551615"])
async def test_a_stream_that_others_write_to(broker: Broker, identity: str) -> None:
    async with opened(broker) as (bus, receiver):
        before = position_of(await bus.follow("room"))
        await bus.publish("room", "before")
        broker.command("XADD", f"{bus._prefix}:{{room}}", identity, "x", "y")
        assert (await bus.read("room", before, 10)).notices[0].message == "before"
        after = [position_of(await bus.publish("room", f"after {n}")) for n in range(2)]
        assert after[0].epoch != before.epoch
        assert [position.offset for position in after] == [1, 2]
        await until(lambda: len(receiver.notices) == 3)
        assert [notice.position for notice in receiver.notices][1:] == after
        found = await everything(bus, "room", Position(after[0].epoch, 0))
        assert found == receiver.notices[1:]


async def test_foreign_entries(broker: Broker) -> None:
    async with opened(broker) as (bus, _):
        start = position_of(await bus.position("room"))
        await bus.publish("room", "first")
        stream = f"{bus._prefix}:{{room}}"
        for identity, kind, data in (("2-1", "t", b"\xff"), ("3-1", "xyz", "y"), ("4-1", "", "")):
            broker.command("XADD", stream, identity, kind, data)
        broker.command("HSET", f"{stream}:meta", "o", "4")
        await bus.publish("room", "last")
        page = await bus.read("room", start, 10)
        assert [notice.message for notice in page.notices] == ["first", "last"]
        assert [notice.previous for notice in page.notices] == [0, 1]
        assert page.latest.offset == 5
        assert bus.ignored == 3


@pytest.mark.parametrize("sharded", [False, True])
async def test_foreign_messages(
    broker: Broker, sharded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    foreign: list[bytes] = [
        b"",
        b"\n",
        b"\xff\xff",
        b"hello",
        b"epoch 1",
        b"epoch x 5t\nhello",
        b"epoch 1 5x\nhello",
        b"epoch 1 5t\n\xff\xff",
        b"\xff 1 5t\nhello",
        b"ep;och 1 5t\nhello",
        b"x" * 65 + b" 1 5t\nhello",
        b"epoch -1 5t\nhello",
        b"epoch " + b"9" * 5000 + b" 5t\nhello",
        b"epoch 99999999999999999 5t\nhello",
        b"epoch 1 2 3 5t\nhello",
        b"epoch 1 x 5t\nhello",
    ]
    async with opened(broker, sharded=sharded) as (bus, receiver):
        await bus.follow("room")
        await bus.follow("\0alive")
        publish = "SPUBLISH" if sharded else "PUBLISH"
        with caplog.at_level(logging.WARNING):
            for message in foreign:
                broker.command(publish, f"{bus._prefix}:{{room}}", message)
            for message in (b"", b"x", b"t\xff"):
                broker.command(publish, f"{bus._prefix}:{{\0alive}}", message)
            await bus.publish("room", "hello")
            await until(lambda: "hello" in receiver.messages)
        own = [notice for notice in receiver.notices if notice.position != Position("epoch", 1)]
        assert [notice.message for notice in own] == ["hello"]
        assert bus.ignored == len(foreign) - (len(receiver.notices) - 1) + 3
        assert not receiver.interruptions
        assert sum("somebody else" in record.getMessage() for record in caplog.records) == 1


async def test_out_of_memory(own: Broker) -> None:
    own.start()
    async with opened(own) as (bus, receiver):
        start = position_of(await bus.follow("room"))
        own.command("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(BusUnavailable, match="OOM"):
            await bus.publish("room", "refused")
        own.command("CONFIG", "SET", "maxmemory", 0)
        assert await bus.publish("room", "fine") == Position(start.epoch, 1)
        await until(lambda: receiver.messages == ["fine"])
        assert not receiver.interruptions


async def test_a_replica_that_is_read_only(own: Broker, tmp_path: Path) -> None:
    own.start()
    replica = Broker(tmp_path / "replica", own.binary, replicaof=f"127.0.0.1 {own.port}").start()
    try:
        async with opened(own) as (bus, _):
            first = await bus.publish("room", "first")
            await until(
                lambda: replica.command("INFO", "replication")["master_link_status"] == "up"
            )
            async with opened(replica, prefix=bus._prefix) as (other, receiver):
                with pytest.raises(BusUnavailable, match=r"READONLY|read only"):
                    await other.publish("room", "refused")
                assert await bus.position("room") == first
                assert not receiver.interruptions
    finally:
        replica.kill()


async def test_a_replica_that_takes_over(own: Broker, tmp_path: Path) -> None:
    """What it has not got is lost: this shows."""
    own.start()
    replica = Broker(tmp_path / "replica", own.binary, replicaof=f"127.0.0.1 {own.port}").start()
    try:
        async with opened(own) as (bus, _):
            start = position_of(await bus.position("room"))
            await bus.publish("room", "first")
            await until(
                lambda: (
                    b"first"
                    in repr(replica.command("XRANGE", f"{bus._prefix}:{{room}}", "-", "+")).encode()
                )
            )
            replica.command("REPLICAOF", "NO", "ONE")
            lost = position_of(await bus.publish("room", "lost"))
            own.kill()
            replica.settings["port"], own.port = own.port, replica.port
            async with opened(replica, prefix=bus._prefix) as (other, _):
                after = position_of(await other.publish("room", "after"))
                assert after.epoch == start.epoch
                assert after.offset > lost.offset + 2**32
                found = await everything(other, "room", start)
                assert [notice.message for notice in found] == ["first", "after"]
                assert await other.read("room", lost, 10) == ([], False, after)
    finally:
        replica.kill()


async def test_credentials(own: Broker) -> None:
    own.start()
    own.command("CONFIG", "SET", "requirepass", "p@ss")
    own.password = "p@ss"
    for url, options in (
        (own.url, {}),
        (own.url, {"password": "wrong"}),
        (own.url, {"username": "nobody", "password": "p@ss", "protocol": 3}),
    ):
        with pytest.raises(BusUnavailable, match=r"NOAUTH|WRONGPASS"):
            await RedisBus(url, **options).open(Receiver())
    url = own.url.replace("//", "//:p%40ss@")
    assert "ss" not in repr(RedisBus(url))
    for options in ({}, {"protocol": 3}, {"client_name": "wsapi", "db": 1}):
        async with opened(own, url=url, **options) as (bus, receiver):
            await bus.follow("room")
            await bus.publish("room", "hello")
            await until(lambda: receiver.notices)
    # A password that changes: the bus comes back when it is the old one again.
    async with opened(own, url=url) as (bus, receiver):
        await bus.follow("room")
        own.command("CONFIG", "SET", "requirepass", "other")
        own.password = "other"
        own.kill_clients("normal")
        own.kill_clients("pubsub")
        await until(lambda: "WRONGPASS" in bus._seed.why)
        with pytest.raises(BusUnavailable, match="WRONGPASS"):
            await bus.publish("room", "refused")
        own.command("CONFIG", "SET", "requirepass", "p@ss")
        own.password = "p@ss"
        await until(lambda: receiver.resumptions)
        await bus.publish("room", "hello")
        await until(lambda: receiver.notices)


async def test_the_rights_that_the_documentation_names(own: Broker) -> None:
    own.start()
    documented = " ".join((RedisBus.__doc__ or "").split())
    words = documented.partition("``<prefix>:*``: ")[2].partition("With ``client|kill``")[0]
    rights = [
        f"+{name}"
        for name in words.replace("``", "").replace("(or ", "").replace(")", "").split()
        if name not in ("and",)
    ]
    rights = [right.rstrip(",.") for right in rights]
    own.command(
        "ACL", "SETUSER", "app", "on", ">secret", "~app:*", "&app:*", "+client|id",
        *(right.replace("client|id info select", "") for right in rights if right != "+client|id"),
    )  # fmt: skip
    options = {"username": "app", "password": "secret", "prefix": "app"}
    async with opened(own, **options) as (bus, receiver):
        start = position_of(await bus.follow("room"))
        await bus.publish("room", "hello")
        await bus.follow("\0alive")
        await bus.publish("\0alive", "hello")
        await until(lambda: len(receiver.notices) == 2)
        assert len(await everything(bus, "room", start)) == 1
        assert bus._seed.link is not None
        bus._seed.link.abort("test")
        await until(lambda: receiver.resumptions)
        # What may not be published is not in the history, either.
        own.command("ACL", "SETUSER", "app", "resetchannels")
        with pytest.raises(BusUnavailable, match=r"NOPERM|ermission|can't publish"):
            await bus.publish("room", "refused")
        assert len(own.command("XRANGE", "app:{room}", "-", "+")) == 1


# --------------------------------------------------------------------------------------- transports


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[Broker]]:
    """Give three nodes of a cluster, each with a third of the slots."""
    nodes: list[Broker] = []
    try:
        for number in range(3):
            node = new_broker(
                tmp_path / str(number),
                "valkey",
                cluster_enabled="yes",
                cluster_port=free_port(),
                cluster_node_timeout=1000,
            )
            nodes.append(node.start())
        for number, node in enumerate(nodes):
            first, last = (0, 5461, 10923, 16384)[number : number + 2]
            node.command("CLUSTER", "ADDSLOTSRANGE", first, last - 1)
            node.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number:
                meeting = ("127.0.0.1", node.port, node.settings["cluster-port"])
                nodes[0].command("CLUSTER", "MEET", *meeting)
        deadline = time.monotonic() + 15
        while not all(
            b"cluster_state:ok" in node.command("CLUSTER", "INFO")
            and len(node.command("CLUSTER", "SLOTS")) == 3
            for node in nodes
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield nodes
    finally:
        for node in nodes:
            node.kill()


@pytest.mark.parametrize("sharded", [False, True])
async def test_cluster(cluster: list[Broker], sharded: bool) -> None:
    topics = [f"room.{n}" for n in range(60)]
    async with opened(cluster[0], sharded=sharded) as (bus, receiver):
        async with opened(cluster[2], sharded=sharded, prefix=bus._prefix) as (other, _):
            starts = await asyncio.gather(*(bus.follow(topic) for topic in topics))
            await bus.follow("\0alive")
            await other.publish("\0alive", "hello")
            for turn in range(3):
                await asyncio.gather(*(other.publish(topic, f"{turn}") for topic in topics))
                if turn == 1:
                    cluster[1].kill_clients("pubsub")
                    await until(lambda: receiver.resumptions)
            await until(lambda: sum(message == "2" for message in receiver.messages) == 60)
            assert all(node.command("DBSIZE") >= 20 for node in cluster)
            for topic, start in zip(topics, starts, strict=True):
                found = await everything(bus, topic, position_of(start))
                assert [notice.message for notice in found] == ["0", "1", "2"]
                heard = [notice for notice in receiver.notices if notice.topic == topic]
                assert [notice for notice in heard if notice in found] == heard
            with pytest.raises(BusError):
                cluster[2].kill()
                while True:
                    await asyncio.gather(*(other.publish(topic, "killed") for topic in topics[:20]))
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


@pytest.mark.parametrize("sharded", [False, True])
async def test_a_slot_that_moves(cluster: list[Broker], sharded: bool) -> None:
    async with opened(cluster[0], sharded=sharded) as (bus, receiver):
        start = position_of(await bus.follow("room"))
        await bus.publish("room", "before")
        key = f"{bus._prefix}:{{room}}"
        slot = cluster[0].command("CLUSTER", "KEYSLOT", key)
        names = [node.command("CLUSTER", "MYID").decode() for node in cluster]
        source = next(
            n for n, node in enumerate(cluster) if node.command("CLUSTER", "COUNTKEYSINSLOT", slot)
        )
        target = (source + 1) % 3
        cluster[target].command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
        cluster[source].command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
        keys = cluster[source].command("CLUSTER", "GETKEYSINSLOT", slot, 10)
        port = cluster[target].port
        cluster[source].command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *keys)
        for number in (target, source, 3 - target - source):
            cluster[number].command("CLUSTER", "SETSLOT", slot, "NODE", names[target])
        after = None
        while after is None:
            try:
                after = await bus.publish("room", "after")
            except BusUnavailable:
                await asyncio.sleep(0.02)
        await until(lambda: receiver.resumptions == len(receiver.interruptions) > 0)
        assert after.epoch == start.epoch
        await bus.publish("room", "last")
        await until(lambda: "last" in receiver.messages)
        found = await everything(bus, "room", start)
        assert [notice.message for notice in found] == ["before", "after", "last"]


async def test_a_node_that_is_replaced(cluster: list[Broker], tmp_path: Path) -> None:
    """Its replica takes over, without what it had not got yet."""
    async with opened(cluster[0]) as (bus, receiver):
        start = position_of(await bus.follow("room"))
        await bus.follow("elsewhere")
        await bus.publish("room", "kept")
        key = f"{bus._prefix}:{{room}}"
        slot = cluster[0].command("CLUSTER", "KEYSLOT", key)
        node = next(node for node in cluster if node.command("CLUSTER", "COUNTKEYSINSLOT", slot))
        settings = {
            name: node.settings[name] for name in ("cluster-enabled", "cluster-node-timeout")
        }
        replica = Broker(tmp_path / "replica", node.binary, **settings, cluster_port=free_port())
        replica.start()
        try:
            replica.command(
                "CLUSTER", "MEET", "127.0.0.1", node.port, node.settings["cluster-port"]
            )
            name = node.command("CLUSTER", "MYID").decode()
            await until(lambda: name.encode() in replica.command("CLUSTER", "NODES"))
            replica.command("CLUSTER", "REPLICATE", name)
            await until(
                lambda: replica.command("INFO", "replication").get("master_link_status") == "up"
            )
            replica.pause()
            node.kill_clients("slave")
            lost = position_of(await bus.publish("room", "lost"))
            await until(lambda: len(receiver.notices) == 2)
            node.kill()
            replica.resume()
            replica.command("CLUSTER", "FAILOVER", "TAKEOVER")
            await until(lambda: f":{replica.port}" in " ".join(bus._servers))
            await until(lambda: receiver.resumptions == len(receiver.interruptions) > 0)
            now = position_of(await bus.position("room"))
            # What is lost was seen: the epoch ended.
            assert now.epoch != start.epoch
            assert await bus.read("room", lost, 10) == ([], False, now)
            await bus.publish("room", "after")
            await bus.publish("elsewhere", "hello")
            await until(lambda: {"after", "hello"} <= {*receiver.messages})
            assert len(bus._servers) == 3
        finally:
            replica.kill()


async def test_unix_socket(broker: Broker) -> None:
    path = broker.folder / "socket"
    async with opened(broker, url=f"unix://{path}?db=2") as (bus, receiver):
        await bus.follow("room")
        await bus.publish("room", "hello")
        await until(lambda: receiver.notices)
        assert str(path) in repr(bus)


async def test_tls(own: Broker, tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme")
    authority, port = trustme.CA(), free_port()
    certificate = authority.issue_cert("127.0.0.1")
    own.folder.mkdir()
    authority.cert_pem.write_to_path(own.folder / "ca.pem")
    certificate.private_key_pem.write_to_path(own.folder / "key.pem")
    for number, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(own.folder / "cert.pem", append=number > 0)
    try:
        own.start(
            tls_port=port,
            tls_cert_file=own.folder / "cert.pem",
            tls_key_file=own.folder / "key.pem",
            tls_ca_cert_file=own.folder / "ca.pem",
            tls_auth_clients="no",
        )
    except RuntimeError:
        pytest.skip(f"{own.binary} doesn't start with TLS")
    url = f"rediss://127.0.0.1:{port}/0"
    with pytest.raises(BusUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        await RedisBus(url).open(Receiver())
    options = {"url": url, "ssl_ca_certs": str(own.folder / "ca.pem")}
    async with opened(own, **options) as (bus, receiver):
        await bus.follow("room")
        messages = ["hello", "x" * 1_000_000]
        await asyncio.gather(*(bus.publish("room", message) for message in messages))
        own.kill_clients("pubsub")
        await until(lambda: receiver.resumptions)
        await bus.publish("room", "again")
        await until(lambda: "again" in receiver.messages)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"url": "http://127.0.0.1"}, ValueError),
        ({"prefix": "{x}"}, ValueError),
        ({"prefix": ""}, ValueError),
        ({"prefix": b"x"}, TypeError),
        ({"history": -1}, ValueError),
        ({"history": 1.5}, TypeError),
        ({"history_seconds": 0}, ValueError),
        ({"history_seconds": "1"}, TypeError),
        ({"timeout": float("nan")}, ValueError),
        ({"timeout": True}, TypeError),
        ({"max_pending_bytes": -1}, ValueError),
        ({"no_such_option": 1}, TypeError),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        RedisBus(**options)
