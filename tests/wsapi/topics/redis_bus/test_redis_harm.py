"""The bus on Redis and Valkey: data that is harmed or foreign, and servers that refuse."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.wsapi.helpers import until
from tests.wsapi.topics.redis_bus.helpers import Receiver, everything, opened, position_of
from tests.wsapi.topics.valkey_broker import Broker
from wsapi.topics.exceptions import BusUnavailable
from wsapi.topics.positions import Position
from wsapi.topics.redis import RedisBus


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


@pytest.mark.parametrize("history", [1000, 0])
async def test_out_of_memory(own: Broker, history: int) -> None:
    """What isn't published is heard by nobody, and has no position."""
    own.start()
    async with opened(own, history=history) as (bus, receiver):
        start = position_of(await bus.follow("room"))
        own.command("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(BusUnavailable, match="OOM"):
            await bus.publish("room", "refused")
        own.command("CONFIG", "SET", "maxmemory", 0)
        assert await bus.publish("room", "fine") == Position(start.epoch, 1)
        await until(lambda: receiver.messages == ["fine"])
        assert not receiver.interruptions


async def test_a_replica_that_is_read_only(own: Broker, tmp_path: Path) -> None:
    """Nothing can be published there: it is no broker, nor stays one."""
    own.start()
    replica = Broker(tmp_path / "replica", own.binary, replicaof=f"127.0.0.1 {own.port}").start()
    try:
        with pytest.raises(BusUnavailable, match="a replica"):
            async with opened(replica):
                pass
        replica.command("REPLICAOF", "NO", "ONE")
        async with opened(replica) as (bus, receiver):
            start = position_of(await bus.follow("room"))
            assert await bus.publish("room", "first") == Position(start.epoch, 1)
            replica.command("REPLICAOF", "127.0.0.1", own.port)
            with pytest.raises(BusUnavailable, match=r"READONLY|read only"):
                await bus.publish("room", "refused")
            await until(lambda: receiver.interruptions)
            assert "read only" in str(receiver.interruptions[0])
            await until(lambda: "a replica" in bus._seed.why)
            with pytest.raises(BusUnavailable, match="a replica"):
                await bus.publish("room", "refused")
            replica.command("REPLICAOF", "NO", "ONE")
            await until(lambda: receiver.resumptions)
            await bus.publish("room", "last")
            await until(lambda: receiver.messages[-1] == "last")
            assert receiver.messages == ["first", "last"]
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


@pytest.mark.parametrize("history", [1000, 0])
async def test_the_rights_that_the_documentation_names(own: Broker, history: int) -> None:
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
    async with opened(own, history=history, **options) as (bus, receiver):
        start = position_of(await bus.follow("room"))
        await bus.publish("room", "hello")
        await bus.follow("\0alive")
        await bus.publish("\0alive", "hello")
        await until(lambda: len(receiver.notices) == 2)
        latest = Position(start.epoch, 1)
        assert (await bus.read("room", start, 10)).latest == latest
        assert bus._seed.link is not None
        bus._seed.link.abort("test")
        await until(lambda: receiver.resumptions)
        # What may not be published is not in the history, either, and has no position.
        own.command("ACL", "SETUSER", "app", "resetchannels")
        with pytest.raises(BusUnavailable, match=r"NOPERM|ermission|can't publish"):
            await bus.publish("room", "refused")
        assert await bus.position("room") == latest
        assert len(own.command("XRANGE", "app:{room}", "-", "+")) == min(history, 1)
