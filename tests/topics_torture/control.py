"""The control: plain Pub/Sub through the same broker, as most applications have it.

What is published there and answered by the broker, and what a subscriber gets that connects again
at once whenever it loses its connection: the difference is what Pub/Sub alone loses.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Control", "connect"]

CHANNEL = "plain"
TIMEOUT = 2.0
PAUSE = 0.05

ERRORS = (Exception,)  # whatever a client of others raises: the control goes on


class Control(Protocol):
    """A client of a broker."""

    async def publish(self, name: str) -> bool:
        """Publish a message; return whether the broker answered."""

    async def listen(self, got: Callable[[str], object]) -> None:
        """Subscribe, and call back with each message, until it is cancelled."""

    async def close(self) -> None:
        """End it."""


class RedisControl:
    """A client of redis-py."""

    def __init__(self, url: str) -> None:
        import redis.asyncio

        self._redis: Any = redis.asyncio.Redis.from_url(
            url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT
        )

    async def publish(self, name: str) -> bool:
        try:
            await self._redis.publish(CHANNEL, name)
        except ERRORS:
            return False
        return True

    async def listen(self, got: Callable[[str], object]) -> None:
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    await pubsub.subscribe(CHANNEL)
                    while True:
                        message = await pubsub.get_message(
                            ignore_subscribe_messages=True, timeout=None
                        )
                        if message is not None:
                            got(message["data"].decode())
            except ERRORS:
                await asyncio.sleep(PAUSE)

    async def close(self) -> None:
        with contextlib.suppress(*ERRORS):
            await self._redis.aclose()


class NatsControl:
    """A client of nats-py, with core subjects."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Any = None

    async def _connected(self, *, reconnects: bool) -> Any:
        import nats

        async def ignore(exc: Exception) -> None:
            pass

        if self._client is None or self._client.is_closed:
            self._client = await nats.connect(
                self._url,
                connect_timeout=2,
                reconnect_time_wait=PAUSE,
                allow_reconnect=reconnects,
                max_reconnect_attempts=-1,
                error_cb=ignore,
            )
        return self._client

    async def publish(self, name: str) -> bool:
        try:
            # Its own reconnecting may complain in the log, which is read.
            client = await self._connected(reconnects=False)
            await client.publish(CHANNEL, name.encode())
            await client.flush(timeout=2)
        except ERRORS:
            # After a flush that isn't answered in time, the answer would end its reading.
            await self.close()
            self._client = None
            await asyncio.sleep(PAUSE)
            return False
        return True

    async def listen(self, got: Callable[[str], object]) -> None:
        while True:
            try:
                client = await self._connected(reconnects=True)
                subscription = await client.subscribe(CHANNEL)
                async for message in subscription.messages:
                    got(message.data.decode())
            except ERRORS:
                pass
            await asyncio.sleep(PAUSE)

    async def close(self) -> None:
        with contextlib.suppress(*ERRORS):
            if self._client is not None:
                await asyncio.wait_for(self._client.close(), 2)


def connect(url: str) -> Control:
    """Return a client of the broker with this URL."""
    return NatsControl(url) if url.startswith("nats:") else RedisControl(url)
