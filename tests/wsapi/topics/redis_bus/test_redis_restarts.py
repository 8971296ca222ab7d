"""The bus on Redis and Valkey, whose servers begin anew, with or without what they had."""

from __future__ import annotations

import asyncio
import itertools

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
from tests.wsapi.topics.valkey_broker import Broker
from wsapi.topics.exceptions import BusError, BusUnavailable
from wsapi.topics.positions import Position
from wsapi.topics.redis import RedisBus


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
