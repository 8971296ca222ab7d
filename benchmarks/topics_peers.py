"""What `benchmarks.topics_bus` compares: each peer publishes, and follows, through one broker.

Each follower has one subscriber of each topic in its process, which counts what it gets: what
servers do beyond that, for each of their connections, isn't the bus's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar, Final, Protocol

__all__ = ["PEERS", "SHARES", "Peer"]

Got = Callable[[str], None]


class Peer(Protocol):
    """One end of a bus.

    Attributes:
        packages: Packages whose versions matter.
    """

    packages: tuple[str, ...]

    async def open(self, url: str, topics: list[str], got: Got | None) -> None:
        """Connect; follow the topics if ``got`` is to be called with their messages."""

    async def publish(self, topic: str, message: str) -> object:
        """Publish a message."""


class _Counting:
    """A connection, as far as topics are concerned."""

    def __init__(self, got: Got) -> None:
        self._got = got

    async def send(self, message: str) -> None:
        self._got(message)


class Wsapi:
    """Ours, with the history that the bus has by default."""

    packages: tuple[str, ...] = ("wsproto-fast", "redis", "hiredis")
    options: ClassVar[dict[str, Any]] = {}

    def bus(self, url: str) -> Any:
        from wsapi.topics.redis import RedisBus

        return RedisBus(url, **self.options)

    async def open(self, url: str, topics: list[str], got: Got | None) -> None:
        from wsapi.topics import Topics

        self._topics = Topics(self.bus(url))
        await self._topics.__aenter__()
        self.publish = self._topics.publish  # type: ignore[method-assign]
        for topic in topics if got is not None else ():
            assert got is not None
            await self._topics.subscribe(_Counting(got), topic)

    async def publish(self, topic: str, message: str) -> object:
        raise AssertionError("it isn't open")


class WsapiWithoutHistory(Wsapi):
    """Ours, with no more than the others give: nothing is kept in the broker."""

    options: ClassVar[dict[str, Any]] = {"history": 0, "prefix": "plain"}


class WsapiNats(Wsapi):
    """Ours on NATS, with JetStream."""

    packages: tuple[str, ...] = ("wsproto-fast", "nats-py")

    def bus(self, url: str) -> Any:
        from wsapi.topics.nats import NatsBus

        return NatsBus(url, **self.options)


class WsapiNatsWithoutHistory(WsapiNats):
    """Ours on NATS, with core subjects."""

    options: ClassVar[dict[str, Any]] = {"history": 0, "prefix": "plain"}


class SocketIO:
    """Rooms of python-socketio, with its manager for Redis."""

    packages: tuple[str, ...] = ("python-socketio", "redis", "hiredis")

    async def open(self, url: str, topics: list[str], got: Got | None) -> None:
        import socketio

        self._manager: Any = socketio.AsyncRedisManager(url, write_only=got is None)
        if got is None:
            return
        server: Any = socketio.AsyncServer(client_manager=self._manager, async_mode="asgi")

        async def send(eio_sid: str, packet: Any) -> None:
            got(packet.data)

        server._send_eio_packet = send
        self._manager.initialize()
        for topic in topics:
            sid = await self._manager.connect(f"eio-{topic}", "/")
            await self._manager.enter_room(sid, "/", topic)
        await asyncio.sleep(0.5)  # it subscribes in the background

    async def publish(self, topic: str, message: str) -> object:
        return await self._manager.emit("message", message, namespace="/", room=topic)


class Broadcaster:
    """broadcaster, on Pub/Sub."""

    packages: tuple[str, ...] = ("broadcaster", "redis", "hiredis")

    async def open(self, url: str, topics: list[str], got: Got | None) -> None:
        from broadcaster import Broadcast

        self._broadcast: Any = Broadcast(url)
        await self._broadcast.connect()
        self._tasks = []
        # Its first subscription may begin to listen before it is there, and then never does.
        for topic in ["first", *topics] if got is not None else ():
            ready = asyncio.Event()
            self._tasks.append(asyncio.create_task(self._follow(topic, got, ready)))
            await ready.wait()

    async def _follow(self, topic: str, got: Any, ready: asyncio.Event) -> None:
        async with self._broadcast.subscribe(channel=topic) as subscriber:
            ready.set()
            async for event in subscriber:
                got(event.message)

    async def publish(self, topic: str, message: str) -> object:
        return await self._broadcast.publish(channel=topic, message=message)


class Channels:
    """Groups of channels_redis, in its layer that keeps messages in lists."""

    packages: tuple[str, ...] = ("channels_redis", "channels", "redis", "hiredis")

    def layer(self, url: str) -> Any:
        from channels_redis.core import RedisChannelLayer

        # It waits for 5 seconds at a time, which is where newer versions of redis-py give up.
        host = {"address": url, "socket_timeout": 60}
        return RedisChannelLayer(hosts=[host], capacity=10**6)

    async def open(self, url: str, topics: list[str], got: Got | None) -> None:
        self._layer = self.layer(url)
        self._tasks = []
        for topic in topics if got is not None else ():
            channel = await self._layer.new_channel()
            await self._layer.group_add(topic, channel)
            self._tasks.append(asyncio.create_task(self._follow(channel, got)))

    async def _follow(self, channel: str, got: Any) -> None:
        while True:
            message = await self._layer.receive(channel)
            got(message["text"])

    async def publish(self, topic: str, message: str) -> object:
        return await self._layer.group_send(topic, {"type": "message", "text": message})


class ChannelsPubSub(Channels):
    """The same, in its layer on Pub/Sub."""

    def layer(self, url: str) -> Any:
        from channels_redis.pubsub import RedisPubSubChannelLayer

        return RedisPubSubChannelLayer(hosts=[url])


PEERS: Final[dict[str, Callable[[], Any]]] = {
    "wsapi": Wsapi,
    "wsapi_no_history": WsapiWithoutHistory,
    "socketio": SocketIO,
    "broadcaster": Broadcaster,
    "channels": Channels,
    "channels_pubsub": ChannelsPubSub,
    "wsapi_nats": WsapiNats,
    "wsapi_nats_no_history": WsapiNatsWithoutHistory,
}

# Those that take so long for a message that they get a share of them: one of so many.
SHARES: Final[dict[str, int]] = {"channels": 8}
