"""The bus on Redis and Valkey: what its calls do, in order and within bounds."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from tests.wsapi.helpers import until
from tests.wsapi.topics.redis_bus.helpers import everything, opened, position_of
from tests.wsapi.topics.valkey_broker import Broker
from wsapi.topics.bus import Notice
from wsapi.topics.exceptions import BusUnavailable
from wsapi.topics.positions import Position
from wsapi.topics.redis import RedisBus


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
