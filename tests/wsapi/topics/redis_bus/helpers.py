"""Receivers, and buses on servers of Redis and Valkey."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from wsapi.topics.bus import Notice
from wsapi.topics.positions import Position

# Who imports this, and what follows, is skipped.
pytest.importorskip("hiredis", reason="the extra redis isn't installed")
pytest.importorskip("redis", reason="the extra redis isn't installed")

from tests.wsapi.topics.valkey_broker import Broker, binaries
from wsapi.topics.redis import RedisBus

BINARIES = binaries()
prefixes = (f"test{number}" for number in itertools.count())


class Receiver:
    """Keeps what a bus tells."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.interruptions: list[Exception] = []
        self.resumptions = 0

    def notice(self, notice: Notice) -> None:
        self.notices.append(notice)

    def interrupted(self, reason: Exception) -> None:
        assert len(self.interruptions) == self.resumptions
        self.interruptions.append(reason)

    def resumed(self) -> None:
        self.resumptions += 1
        assert len(self.interruptions) == self.resumptions

    def suspect(self, topic: str) -> None:
        raise AssertionError(topic)

    @property
    def messages(self) -> list[str | bytes]:
        return [notice.message for notice in self.notices]


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
