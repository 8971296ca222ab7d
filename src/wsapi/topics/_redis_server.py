"""One Redis server, for ``RedisBus``: two connections, and what keeps them up."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import hiredis
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.credentials import UsernamePasswordCredentialProvider

from ._redis_wires import CHUNK, Argument, Call, Ear, Link, Reply, Script, Topic, Wire, refusal
from .exceptions import BusError, BusUnavailable

__all__ = ["Deadline", "Options", "Owner", "Server", "text_of"]

logger = logging.getLogger("wsapi.topics")

_FIRST_DELAY: Final = 0.05
_LAST_DELAY: Final = 5.0


@dataclass(frozen=True, slots=True)
class Options:
    """What all connections of a bus share.

    Args:
        publishing: Script for messages.
        reading: Script for positions and history.
        token: What new epochs begin with.
        marks: Numbers that tell messages from others with their positions.
        sharded: Whether to use sharded Pub/Sub.
        timeout: Seconds in which the server must connect, or answer.
        max_pending_bytes: Bytes that may wait for it.
    """

    publishing: Script
    reading: Script
    token: bytes
    marks: Iterator[int]
    sharded: bool
    timeout: float
    max_pending_bytes: int


class Owner(Protocol):
    """Whom a server tells."""

    def hear(self, channel: bytes, payload: bytes) -> None:
        """Take what was published on a channel."""

    def seen(self, server: Server) -> list[Topic]:
        """Return the topics of a server of which offsets were seen."""

    def gone(self, server: Server, reason: str) -> None:
        """Note that a connection is lost, or isn't made."""

    def connected(self, server: Server) -> None:
        """Note that a connection is made, and all is followed that was."""

    def moved(self) -> None:
        """Note that a topic, or all, may be at another server of the cluster."""


class Server:
    """A server, with a connection for commands and one for what is published.

    Args:
        settings: A connection of redis-py. It never connects: it knows what its options are, and
            makes the context for TLS of them.
        options: What all connections share.
        owner: Whom to tell.
    """

    def __init__(
        self,
        settings: Connection | UnixDomainSocketConnection,
        options: Options,
        owner: Owner,
    ) -> None:
        self._settings = settings
        self._options = options
        self._owner = owner
        self.link: Link | None = None
        self.ear: Ear | None = None
        self.why = "the bus isn't open"
        self.clustered = False
        self.channels: dict[bytes, Topic] = {}  # that are followed here
        self._ear_ready = False
        self._run = b""
        self._fence: tuple[bytes, int] | None = None
        self._logged: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def __str__(self) -> str:
        # The URL may have a password.
        settings = self._settings
        if isinstance(settings, UnixDomainSocketConnection):
            return str(settings.path)
        return f"{settings.host}:{settings.port}"

    @property
    def host(self) -> str:
        """Its host, for nodes of a cluster that don't tell theirs."""
        return "" if isinstance(self._settings, UnixDomainSocketConnection) else self._settings.host

    @property
    def ready(self) -> bool:
        """Whether both connections are up, and all is followed."""
        wires = (self.link, self.ear)
        return self._ear_ready and all(wire is not None and not wire.lost.done() for wire in wires)

    async def open(self) -> None:
        """Connect, or raise; keep the connections from now on."""
        link = self.link or await self.open_link()
        self.start(link, await self._open_ear())

    def start(self, link: Link | None = None, ear: Ear | None = None) -> None:
        """Keep the connections, of which there may be some, from now on."""
        self._tasks = [
            asyncio.create_task(self._keep_link(link), name=f"commands of {self}"),
            asyncio.create_task(self._keep_ear(ear), name=f"notices of {self}"),
        ]

    async def close(self, why: str) -> None:
        """End both connections, and what keeps them."""
        self.why = why
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        wires = [wire for wire in (self.link, self.ear) if wire is not None]
        self.link = self.ear = None
        self._ear_ready = False
        for wire in wires:
            wire.abort(why)
        for wire in wires:
            await wire.ended.wait()

    def listener(self) -> Ear:
        """Return the connection for what is published, or raise ``BusUnavailable``."""
        if self.ear is None:
            raise BusUnavailable(self.why)
        return self.ear

    def commands(self) -> Link:
        """Return the connection for commands, or raise ``BusUnavailable``."""
        if self.link is None:
            raise BusUnavailable(self.why)
        return self.link

    def leave(self, topic: Topic) -> None:
        """Unsubscribe, if the topic is followed here."""
        if self.channels.pop(topic.channel, None) is None:
            return
        if self.ear is not None and not self.ear.lost.done():
            self.ear.want(False, topic.channel)

    def publish_transient(self, channel: bytes, payload: bytes) -> asyncio.Future[Any]:
        """Publish without offset and history."""
        link = self.commands()
        future: asyncio.Future[Any] = link.loop.create_future()
        verb = b"SPUBLISH" if self._options.sharded else b"PUBLISH"
        link.call(Call(future, (verb, channel, payload), uncertain=True))
        return future

    def command(self, *words: Argument) -> asyncio.Future[Any]:
        """Send a command that changes nothing; return what is done with the reply."""
        link = self.commands()
        future: asyncio.Future[Any] = link.loop.create_future()
        link.call(Call(future, words))
        return future

    async def look(
        self, topic: Topic, epoch: str, offset: int, count: int
    ) -> tuple[str, int, list[Any] | None]:
        """Return the epoch of a topic, its last offset, and entries after a position.

        There are none if that is of another epoch. If the topic proves to have lost messages, its
        epoch ends.
        """
        reply = await self._ask(self.commands(), topic, epoch, offset, count)
        topic.saw(reply[0], reply[1])
        return reply[0].decode("ascii", "replace"), reply[1], reply[2] if len(reply) > 2 else None

    def _ask(
        self, link: Link, topic: Topic, epoch: str, offset: int, count: int
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = link.loop.create_future()
        arguments = (
            topic.meta,
            topic.channel,
            link.run,
            self._options.token,
            b"%d" % next(self._options.marks),
            epoch,
            b"%d" % (offset + 1),
            b"%d" % count,
            topic.epoch,
            b"%d" % topic.offset,
        )
        link.call(Call(future, arguments, script=self._options.reading))
        return future

    async def check(self, link: Link, topics: list[Topic]) -> None:
        """Ask for the positions of many topics: those that lost messages begin new epochs."""
        for start in range(0, len(topics), CHUNK):
            chunk = topics[start : start + CHUNK]
            futures = [self._ask(link, topic, "", 0, 0) for topic in chunk]
            replies = await asyncio.gather(*futures, return_exceptions=True)
            for topic, reply in zip(chunk, replies, strict=True):
                if isinstance(reply, BaseException):
                    # A key of a foreign type is the trouble of one topic, not of the bus.
                    if link.lost.done():
                        raise reply
                    if not self.clustered:
                        logger.warning("can't look after topic %r: %s", topic.name, reply)
                else:
                    topic.saw(reply[0], reply[1])

    # Connections.

    async def _connect(self, wire: Wire, more: list[tuple[Argument, ...]]) -> list[Reply]:
        """Connect, introduce ourselves, and return the replies to some commands more."""
        settings = self._settings
        loop = wire.loop
        if isinstance(settings, UnixDomainSocketConnection):
            await loop.create_unix_connection(lambda: wire, settings.path)
        else:
            context = settings.ssl_context.get() if isinstance(settings, SSLConnection) else None
            await loop.create_connection(
                lambda: wire, settings.host, int(settings.port), ssl=context
            )
            _keep_alive(wire.transport, settings)
        credentials: Iterable[str] = ()
        provider = settings.credential_provider
        if provider is None and (settings.username or settings.password):
            provider = UsernamePasswordCredentialProvider(settings.username, settings.password)
        if provider is not None:
            credentials = await provider.get_credentials_async()
        hello: list[tuple[Argument, ...]] = []
        if int(settings.protocol) == 3:
            names = tuple(credentials)
            if len(names) == 1:
                names = ("default", *names)
            hello.append(("HELLO", "3", "AUTH", *names) if names else ("HELLO", "3"))
        elif credentials:
            hello.append(("AUTH", *credentials))
        if settings.client_name:
            hello.append(("CLIENT", "SETNAME", settings.client_name))
        if settings.db:
            hello.append(("SELECT", str(settings.db)))
        replies = await wire.ask([*hello, *more])
        for reply in replies[: len(hello)]:
            if isinstance(reply, hiredis.ReplyError):
                raise refusal(reply)
        return replies[len(hello) :]

    async def open_link(self) -> Link:
        """Connect for commands."""
        loop = asyncio.get_running_loop()
        link = Link(
            loop,
            self._options.publishing,
            self._options.token,
            self._options.marks,
            self._options.timeout,
            self._options.max_pending_bytes,
        )
        try:
            async with self._deadline():
                number, info, replication, *scripts = await self._connect(
                    link,
                    [
                        ("CLIENT", "ID"),
                        ("INFO", "server"),
                        ("INFO", "replication"),
                        ("SCRIPT", "LOAD", self._options.publishing.text),
                        ("SCRIPT", "LOAD", self._options.reading.text),
                    ],
                )
                for reply in (number, info, replication, *scripts):
                    # Whoever may not load scripts may run them.
                    if isinstance(reply, hiredis.ReplyError) and (
                        reply not in scripts or not str(reply).startswith("NOPERM")
                    ):
                        raise refusal(reply)
                facts = _facts(info)
                self.clustered = "cluster" in (facts.get("redis_mode"), facts.get("server_mode"))
                if not self.clustered and _facts(replication).get("slave_read_only") == "1":
                    raise BusUnavailable("the broker is a replica, and takes no messages")
                link.run, link.id = facts.get("run_id", "").encode(), number
                if not link.run:
                    raise BusUnavailable("the broker doesn't tell its run_id in INFO")
                if self._fence is not None and self._fence[0] == link.run:
                    # What is still in the connection that was given up must not come after what is
                    # published next. That it is gone already, or that we may not, is fine.
                    await link.ask([("CLIENT", "KILL", "ID", str(self._fence[1]))])
            self._fence = link.run, link.id
            link.start()
            link.moved = self._owner.moved
            if self._run != link.run:
                # The broker began anew: before anything is published, let it prove what it has.
                await self.check(link, self._owner.seen(self))
            self._run = link.run
        except BaseException:
            _give_up(link)
            raise
        self.link = link
        return link

    async def _open_ear(self) -> Ear:
        ear = Ear(asyncio.get_running_loop(), self._owner.hear, sharded=self._options.sharded)
        try:
            async with self._deadline():
                await self._connect(ear, [])
            ear.start()
            if self.clustered:
                ear.moved = self._owner.moved
                if self._options.sharded:
                    ear.chunk = 1  # those that one command names must be of one slot
            self.ear = ear
            channels = list(self.channels)
            confirmed = []
            for start in range(0, len(channels), ear.chunk):
                chunk = channels[start : start + ear.chunk]
                future: asyncio.Future[None] = ear.loop.create_future()
                # The first one that fails is raised; the others aren't asked then.
                future.add_done_callback(_retrieve)
                ear.send(True, chunk, [future])
                confirmed.append(future)
            for future in confirmed:
                async with self._deadline():
                    await future
        except BaseException:
            self.ear = None
            _give_up(ear)
            raise
        self._ear_ready = True
        return ear

    async def _keep_link(self, link: Link | None) -> None:
        delay = _FIRST_DELAY
        while True:
            if link is None:
                await asyncio.sleep(random.uniform(0.0, delay))
                try:
                    link = await self.open_link()
                except Exception as error:
                    self._failed("commands", error)
                    delay = min(2 * delay, _LAST_DELAY)
                    continue
                self._connected("commands")
            delay = _FIRST_DELAY
            reason = await asyncio.shield(link.lost)
            link = self.link = None
            self._gone(reason)

    async def _keep_ear(self, ear: Ear | None) -> None:
        delay = _FIRST_DELAY
        while True:
            if ear is None:
                await asyncio.sleep(random.uniform(0.0, delay))
                try:
                    ear = await self._open_ear()
                except Exception as error:
                    self._failed("notices", error)
                    delay = min(2 * delay, _LAST_DELAY)
                    continue
                self._connected("notices")
            delay = _FIRST_DELAY
            reason = await asyncio.shield(ear.lost)
            ear = self.ear = None
            self._ear_ready = False
            self._gone(reason)

    def _deadline(self) -> Deadline:
        return Deadline(self._options.timeout)

    def _gone(self, reason: str) -> None:
        self.why = reason
        self._owner.gone(self, reason)

    def _failed(self, connection: str, error: Exception) -> None:
        """Tell why there is no connection: once, as long as it is for the same reason."""
        self.why = text_of(error)
        if isinstance(error, (BusError, OSError)):
            level = logging.DEBUG if self._logged.get(connection) == self.why else logging.WARNING
            logger.log(level, "no connection to %s for %s: %s", self, connection, self.why)
        else:
            logger.error("no connection to %s for %s", self, connection, exc_info=error)
        self._logged[connection] = self.why
        self._owner.gone(self, self.why)

    def _connected(self, connection: str) -> None:
        self._logged.pop(connection, None)
        self._owner.connected(self)


class Deadline:
    """A block that raises ``BusUnavailable`` if it takes too long."""

    __slots__ = ("_seconds", "_timeout")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, kind: Any, error: Any, traceback: Any) -> None:
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            raise BusUnavailable(
                f"the broker didn't answer within {self._seconds} seconds"
            ) from None


def text_of(error: BaseException) -> str:
    """Return what an exception says, or its name."""
    return str(error) or type(error).__name__


def _facts(info: str | bytes) -> dict[str, str]:
    """Return what INFO tells."""
    text = info.decode("utf-8", "replace") if isinstance(info, bytes) else info
    return {name: value for name, _, value in (line.partition(":") for line in text.splitlines())}


def _retrieve(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()


def _give_up(wire: Wire) -> None:
    if hasattr(wire, "transport"):
        wire.abort("given up")


def _keep_alive(transport: asyncio.Transport, settings: Connection) -> None:
    """Have the operating system find out that the broker is gone."""
    sock = transport.get_extra_info("socket")
    if settings.socket_keepalive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        options = cast("dict[int, int]", settings.socket_keepalive_options)
        for option, value in options.items():
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
