"""Programs that use topics, type-checked by ``mypy --strict`` and never run."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, assert_type

import wsapi.sync.server
import wsapi.topics.sync
import wsapi.topics.trio
import wsapi.trio.server
from wsapi.asyncio.server import ServerConnection
from wsapi.topics import (
    BusUnavailable,
    History,
    Message,
    Position,
    Slow,
    Subscription,
    TopicLimitExceeded,
    Topics,
)


def envelope(topic: str, position: Position | None, message: Message) -> Message:
    return f"{topic} {position} {message!r}"


def authorize(connection: Any, topic: str, action: str) -> bool:
    return action == "subscribe"


async def ask(connection: Any, topic: str, action: str) -> bool:
    return not topic.startswith("private")


def announce(subscription: Subscription) -> Message | None:
    return None if subscription.recovered else f"reload {subscription.position}"


topics = Topics(
    history=History(messages=100, seconds=60),
    slow=Slow.LATEST,
    on_gap="close",
    envelope=envelope,
    authorize=authorize,
)
Topics("redis://127.0.0.1", authorize=ask)


async def handler(connection: ServerConnection) -> None:
    async with topics.subscribe(connection, "a", since="e:1", announce=announce) as subscription:
        assert_type(subscription, Subscription)
        assert_type(subscription.recovered, bool | None)
        assert_type(subscription.position, Position | None)
        try:
            position = await topics.publish("a", bytearray(b"x"), connection=connection)
        except BusUnavailable:
            return
        assert_type(position, Position | None)
    try:
        kept = await topics.subscribe(connection, "b", since=position, slow=Slow.DROP_OLDEST)
    except TopicLimitExceeded:
        return
    kept.unsubscribe()
    assert_type(topics.publish_threadsafe("a", memoryview(b"x")), Future[Position | None])
    assert_type(topics.stats().counters.delivered, int)
    assert_type(topics.presence("a", names=True).names, tuple[str, ...] | None)


def thread_handler(connection: wsapi.sync.server.ServerConnection) -> None:
    with wsapi.topics.sync.Topics() as here:
        with here.subscribe(connection, "a"):
            assert_type(here.publish("a", b"x"), Position | None)


async def trio_handler(connection: wsapi.trio.server.ServerConnection) -> None:
    async with wsapi.topics.trio.Topics() as here:
        async with here.subscribe(connection, "a") as subscription:
            assert_type(subscription, Subscription)
            assert_type(await here.publish("a", "x"), Position | None)
