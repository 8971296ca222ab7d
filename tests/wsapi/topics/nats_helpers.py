"""What tests of the bus on NATS share."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

import nats as nats_py

from tests.wsapi.topics.nats_broker import NatsServer
from wsapi.topics.bus import Message, Notice
from wsapi.topics.exceptions import BusUnavailable
from wsapi.topics.nats import NatsBus
from wsapi.topics.positions import Position


class Receiver:
    """What a bus has told."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.reasons: list[Exception] = []
        self.resumptions = 0
        self.suspects: list[str] = []

    def notice(self, notice: Notice) -> None:
        self.notices.append(notice)

    def interrupted(self, reason: Exception) -> None:
        self.reasons.append(reason)

    def resumed(self) -> None:
        self.resumptions += 1
        assert self.resumptions == len(self.reasons)

    def suspect(self, topic: str) -> None:
        self.suspects.append(topic)

    def messages(self, topic: str | None = None) -> list[Message]:
        return [notice.message for notice in self.notices if topic in (None, notice.topic)]


def own() -> dict[str, Any]:
    """Return options that no other test has."""
    unique = uuid4().hex
    return {"prefix": f"t{unique}", "stream": f"S{unique}"}


@contextlib.asynccontextmanager
async def opened(
    server: NatsServer | str | list[str], **options: Any
) -> AsyncIterator[tuple[NatsBus, Receiver]]:
    bus = NatsBus(server.uri if isinstance(server, NatsServer) else server, **options)
    receiver = Receiver()
    await bus.open(receiver)
    try:
        yield bus, receiver
    finally:
        await bus.close()


@contextlib.asynccontextmanager
async def admin(server: NatsServer) -> AsyncIterator[Any]:
    """Give a client of NATS that knows nothing of us."""
    client = await nats_py.connect(server.uri)
    try:
        yield client
    finally:
        await client.close()


async def stream_config(client: Any, stream: str) -> dict[str, Any]:
    answer = await client.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=5)
    return json.loads(answer.data)["config"]


async def api(client: Any, what: str, request: object) -> dict[str, Any]:
    answer = await client.request(f"$JS.API.{what}", json.dumps(request).encode(), timeout=5)
    return json.loads(answer.data)


async def publish_until(bus: NatsBus, topic: str, message: Message) -> Position | None:
    """Publish as soon as the bus is there again."""
    while True:
        try:
            return await bus.publish(topic, message)
        except BusUnavailable:
            await asyncio.sleep(0.01)


def chained(notices: Sequence[Notice], first: int) -> bool:
    """Tell whether each notice follows the one before it."""
    for notice in notices:
        assert notice.position is not None
        if notice.previous != first:
            return False
        first = notice.position.offset
    return True


@contextlib.asynccontextmanager
async def held(bus: NatsBus) -> AsyncIterator[None]:
    """Have all attempts of a bus to connect fail for a while."""
    connect = bus._keeper.establish

    async def refuse() -> None:
        raise OSError

    bus._keeper.establish = refuse  # type: ignore[method-assign]
    try:
        yield
    finally:
        bus._keeper.establish = connect  # type: ignore[method-assign]
