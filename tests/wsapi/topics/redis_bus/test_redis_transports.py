"""The bus on Redis and Valkey: clusters, UNIX sockets, TLS, and its arguments."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.helpers import until
from tests.wsapi.topics.redis_bus.helpers import (
    Receiver,
    everything,
    new_broker,
    opened,
    position_of,
)
from tests.wsapi.topics.valkey_broker import Broker, free_port
from wsapi.topics.exceptions import BusError, BusUnavailable
from wsapi.topics.redis import RedisBus


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
