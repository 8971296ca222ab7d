"""The bus on Redis and Valkey, whose connections are cut and whose servers stand still."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.wsapi.helpers import until
from tests.wsapi.topics.redis_bus.helpers import (
    Receiver,
    everything,
    following,
    opened,
    position_of,
    prefixes,
)
from tests.wsapi.topics.valkey_broker import Broker, free_port
from wsapi.topics.exceptions import BusUnavailable, PublishUncertain
from wsapi.topics.redis import RedisBus


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
