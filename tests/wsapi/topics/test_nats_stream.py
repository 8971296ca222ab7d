"""The stream of the bus on NATS: made, found, changed, deleted, and another's."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

pytest.importorskip("nats", reason="nats-py isn't installed")


from tests.wsapi.helpers import until
from tests.wsapi.topics.nats_broker import NatsServer, nats, start_nats
from tests.wsapi.topics.nats_helpers import (
    admin,
    api,
    opened,
    own,
    stream_config,
)
from wsapi.topics.exceptions import BusUnavailable

__all__ = ["nats", "start_nats"]


async def test_stream_that_is_deleted(nats: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsapi.topics._nats_keeper.BEAT_INTERVAL", 0.1)
    options = own()
    async with (
        opened(nats, **options) as (bus, receiver),
        opened(nats, **options) as (other, got),
        admin(nats) as client,
    ):
        cursor = await bus.follow("a")
        await other.follow("a")
        assert "error" not in await api(client, f"STREAM.DELETE.{options['stream']}", {})
        again = await asyncio.gather(*[bus.publish("a", str(i)) for i in range(10)])
        assert {position.epoch for position in again} != {cursor.epoch}
        assert len({position.epoch for position in again}) == 1
        # Whoever didn't publish is told, too.
        await until(lambda: receiver.resumptions and got.resumptions)
        for one in (bus, other):
            assert await one.read("a", cursor, 10) == ([], False, again[-1])
        await bus.publish("a", "after")
        for one in (receiver, got):
            await until(lambda: one.messages()[-1:] == ["after"])  # noqa: B023
            assert one.notices[-1].previous == again[-1].offset


async def test_stream_that_is_deleted_while_nobody_publishes(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsapi.topics._nats_keeper.BEAT_INTERVAL", 0.1)
    options = own()
    async with opened(nats, **options) as (bus, receiver), admin(nats) as client:
        cursor = await bus.follow("a")
        await api(client, f"STREAM.DELETE.{options['stream']}", {})
        await until(lambda: receiver.resumptions)
        assert (await bus.position("a")).epoch != cursor.epoch


async def test_stream_that_repeats_nothing_any_more(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that would be deaf notices, and repairs it."""
    monkeypatch.setattr("wsapi.topics._nats_keeper.BEAT_INTERVAL", 0.1)
    options = {**own(), "timeout": 0.5}
    async with opened(nats, **options) as (bus, receiver), admin(nats) as client:
        await bus.follow("a")
        config = await stream_config(client, options["stream"])
        del config["republish"]
        assert "error" not in await api(client, f"STREAM.UPDATE.{options['stream']}", config)
        await until(lambda: receiver.resumptions)
        await bus.publish("a", "1")
        await until(lambda: receiver.messages() == ["1"])


async def test_limits_grow_and_never_shrink(nats: NatsServer) -> None:
    options = own()
    async with admin(nats) as client:
        for limits, history, seconds, size in (
            ({"history": 10, "history_seconds": 60, "history_bytes": 2**20}, 10, 60, 2**20),
            ({"history": 20, "history_seconds": 30, "history_bytes": 2**21}, 20, 60, 2**21),
            ({"history": 5, "history_seconds": 90, "history_bytes": 2**19}, 20, 90, 2**21),
        ):
            async with opened(nats, **options, **limits):
                config = await stream_config(client, options["stream"])
                assert config["max_msgs_per_subject"] == history + 1
                assert config["max_age"] == seconds * 10**9
                assert config["max_bytes"] == size


async def test_history_that_has_grown_hides_no_gap(nats: NatsServer) -> None:
    options = own()
    async with opened(nats, history=3, **options) as (bus, _):
        positions = [await bus.publish("a", str(i)) for i in range(10)]
    async with opened(nats, history=100, **options) as (bus, _):
        assert not (await bus.read("a", positions[2], 100)).reaches
        positions.append(await bus.publish("a", "10"))
        assert not (await bus.read("a", positions[2], 100)).reaches
        assert (await bus.read("a", positions[6], 100)).reaches


@pytest.mark.parametrize(
    "config, match",
    [
        ({"subjects": ["theirs"]}, "its subjects are"),
        ({"storage": "memory"}, "storage is 'memory', not 'file'"),
        ({"retention": "workqueue"}, 'retention is "workqueue"'),
        ({"allow_rollup_hdrs": True}, "allow_rollup_hdrs is true"),
    ],
)
async def test_stream_of_somebody_else(
    nats: NatsServer, config: dict[str, Any], match: str
) -> None:
    options = own()
    stream, prefix = options["stream"], options["prefix"]
    subjects = [f"{prefix}.p.{'0' * 16}n101.*"]
    async with admin(nats) as client:
        made = await api(
            client, f"STREAM.CREATE.{stream}", {"name": stream, "subjects": subjects, **config}
        )
        assert "error" not in made
        with pytest.raises(BusUnavailable, match=match) as caught:
            async with opened(nats, **options):
                pass
        assert f"nats stream rm {stream}" in str(caught.value)
        assert (await stream_config(client, stream))["subjects"] == made["config"]["subjects"]
        await api(client, f"STREAM.DELETE.{stream}", {})


async def test_subjects_of_another_stream(nats: NatsServer) -> None:
    options = own()
    async with admin(nats) as client:
        other = f"O{uuid4().hex}"
        await api(
            client,
            f"STREAM.CREATE.{other}",
            {"name": other, "subjects": [options["prefix"] + ".>"]},
        )
        with pytest.raises(BusUnavailable, match=r"can't make stream .*overlap"):
            async with opened(nats, **options):
                pass
        await api(client, f"STREAM.DELETE.{other}", {})
