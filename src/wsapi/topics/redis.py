"""A bus on Redis or Valkey: ``RedisBus``, with the extra ``redis``."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import secrets
import socket
from collections.abc import Iterable
from typing import Any, Final, cast

from ._redis_scripts import EMPTY_SECONDS, publishing, reading
from .bus import TRANSIENT, BusReceiver, Message, Notice, Page, is_transient
from .exceptions import BusError, BusUnavailable
from .positions import Position

try:
    import hiredis
    from redis.asyncio.connection import (
        Connection,
        SSLConnection,
        UnixDomainSocketConnection,
        parse_url,
    )
    from redis.credentials import UsernamePasswordCredentialProvider

    from ._redis_wires import CHUNK, Argument, Call, Ear, Link, Reply, Script, Topic, Wire, refusal
except ImportError as error:  # pragma: no cover: installed with the extra
    raise ImportError(
        "wsapi.topics.redis needs redis and hiredis: pip install 'wsproto-fast[redis]'"
    ) from error

__all__ = ["RedisBus"]

logger = logging.getLogger("wsapi.topics")

_new: Final[Any] = tuple.__new__

_FIRST_DELAY: Final = 0.05
_LAST_DELAY: Final = 5.0
# Topics that are remembered without being followed: where their history ended.
_REMEMBERED: Final = 10_000
# Entries that one call of the reading script returns, and bytes after which a page ends.
_PART: Final = 512
_PAGE_BYTES: Final = 2**23
_TEXT: Final = ord("t")
_BINARY: Final = ord("b")
_MOST_BYTES_OF_ONE: Final = 2**29 - 2**16  # proto-max-bulk-len, less our header


class RedisBus:
    """Topics on Redis (from 6.2 on) or Valkey.

    A message is published by one script: it gets the next offset, is put into a stream of bounded
    length, and goes to all who follow the topic by Pub/Sub. What they miss, they read from the
    stream. A process has two connections: for commands and for what is published.

    What is published while an answer is awaited goes with the next round trip: messages of one
    topic in order, by one call of the script, which publishes all or none. The order of messages
    of different topics isn't kept.

    When the broker begins anew (a restart, a failover), offsets leap, so that none is given twice.
    If it then proves to have lost messages that it had acknowledged (processes remember the offsets
    that they saw, of topics that they follow and of the last 10,000 others), the topic's epoch
    ends.

    A user of an ACL needs, on keys and channels ``<prefix>:*``: ``hmget hset del type time xadd
    xdel xrange pexpire publish subscribe unsubscribe`` (or ``spublish ssubscribe sunsubscribe``),
    and ``evalsha eval script|load client|id info select``. With ``client|kill`` the bus ends a
    connection that it has given up at the broker, too, so that nothing that is still in it is
    published late.

    Redis Cluster: keys and channels of a topic share a hash tag, but this bus talks to one server;
    ``open()`` refuses a node of a cluster.

    Args:
        url: ``redis://``, ``rediss://`` (TLS) or ``unix://``, with credentials and number of the
            database, as `redis.from_url` takes it.
        prefix: What keys and channels begin with, before a colon: applications with different ones
            don't meet.
        history: Messages that the broker keeps of each topic; 0 for none: then a gap is seen, but
            can't be filled. All processes must say the same.
        history_seconds: Seconds for which they are kept after the last one. (Epoch and offset are
            kept for a day after the last message, and as long as the topic is followed.)
        exact: Whether no message more is kept. By default the broker drops them in blocks of up to
            a hundred, which costs it less.
        sharded: Whether to use sharded Pub/Sub (Redis from 7.0 on, Valkey). All processes must say
            the same.
        timeout: Seconds in which the broker must connect, or answer.
        max_pending_bytes: Bytes of messages that may wait for it; beyond, publishing raises
            ``BusUnavailable`` at once.
        options: What connections of redis-py take for TLS, credentials, and sockets:
            ``username``, ``password``, ``credential_provider``, ``ssl_ca_certs``, ``client_name``,
            ``protocol`` (2 or 3), ``socket_keepalive``, ...

    Attributes:
        ignored: How many messages came on channels of topics that this class hasn't published.

    Raises:
        TypeError, ValueError: If an argument isn't acceptable.
    """

    def __init__(
        self,
        url: str = "redis://127.0.0.1:6379/0",
        *,
        prefix: str = "wsapi",
        history: int = 1000,
        history_seconds: float = 300.0,
        exact: bool = False,
        sharded: bool = False,
        timeout: float = 5.0,
        max_pending_bytes: int = 2**26,
        **options: Any,
    ) -> None:
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a str, not {type(prefix).__name__}")
        if not (0 < len(prefix) <= 255 and prefix.isprintable() and not set(prefix) & set("{} ")):
            raise ValueError(f"prefix must be printable, without braces and spaces; got {prefix!r}")
        for name, value in (("history", history), ("max_pending_bytes", max_pending_bytes)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an int, not {type(value).__name__}")
            if value < 0:
                raise ValueError(f"{name} must not be negative; got {value}")
        for name, seconds in (("history_seconds", history_seconds), ("timeout", timeout)):
            if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
                raise TypeError(f"{name} must be a float, not {type(seconds).__name__}")
            if not 0.001 <= seconds <= 1e9:
                raise ValueError(f"{name} must be between 0.001 and 1e9; got {seconds}")
        settings: dict[str, Any] = {**parse_url(url), **options}
        kind = settings.pop("connection_class", Connection)
        # It never connects: it knows what the options are, and makes the context for TLS of them.
        self._settings: Connection | UnixDomainSocketConnection = kind(**settings)
        self._prefix = prefix
        self._sharded = sharded
        self._timeout = timeout
        self._max_pending_bytes = max_pending_bytes
        self._publishing = Script(
            publishing(
                history=history,
                history_seconds=history_seconds,
                exact=exact,
                publish="SPUBLISH" if sharded else "PUBLISH",
            )
        )
        self._reading = Script(reading(history_seconds=history_seconds))
        self._publish_verb = b"SPUBLISH" if sharded else b"PUBLISH"
        # Of this process: begins new epochs, and tells messages from others with their position.
        self._token = secrets.token_hex(8).encode()
        self._marks = itertools.count(secrets.randbelow(2**32))
        self.ignored = 0
        self._receiver: BusReceiver | None = None
        self._link: Link | None = None
        self._ear: Ear | None = None
        self._ear_ready = False
        self._run = b""
        self._fence: tuple[bytes, int] | None = None
        self._interrupted = False
        self._why = "the bus isn't open"
        self._logged: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._side_tasks: set[asyncio.Future[Any]] = set()
        self._topics: dict[str, Topic] = {}
        self._channels: dict[bytes, Topic] = {}  # of those that are followed

    def __repr__(self) -> str:
        # The URL may have a password.
        where = getattr(self._settings, "path", None)
        if where is None:
            where = f"{self._settings.host}:{self._settings.port}"  # type: ignore[union-attr]
        return f"<{type(self).__name__} {where} {self._prefix}>"

    # The five calls.

    async def open(self, receiver: BusReceiver) -> None:
        """Connect, and say from now on what happens.

        Raises:
            BusUnavailable: If that isn't possible; ``open`` may be called again.
            RuntimeError: If the bus is open.
        """
        if self._receiver is not None:
            raise RuntimeError("the bus is open already")
        self._receiver = receiver
        try:
            link = await self._open_link()
            ear = await self._open_ear()
        except BaseException as error:
            await self.close()
            if isinstance(error, Exception) and not isinstance(error, BusError):
                raise BusUnavailable(_text(error)) from error
            raise
        self._tasks = [
            asyncio.create_task(self._keep_link(link), name=f"{self!r} commands"),
            asyncio.create_task(self._keep_ear(ear), name=f"{self!r} notices"),
            asyncio.create_task(self._keep_topics(), name=f"{self!r} topics"),
        ]

    async def close(self) -> None:
        """End all connections and tasks; nothing is told any more.

        What isn't published yet raises ``BusUnavailable``, what isn't answered yet
        ``PublishUncertain``.
        """
        self._receiver = None
        self._why = "the bus is closed"
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        wires = [wire for wire in (self._link, self._ear) if wire is not None]
        self._link = self._ear = None
        self._ear_ready = self._interrupted = False
        for wire in wires:
            wire.abort(self._why)
        for wire in wires:
            await wire.ended.wait()
        await asyncio.gather(*self._side_tasks, return_exceptions=True)
        for topic in self._channels.values():
            topic.followed = False
        self._channels.clear()

    async def publish(self, topic: str, message: Message) -> Position | None:
        """Publish a message; return its position.

        Raises:
            BusUnavailable: If it wasn't published.
            PublishUncertain: If that isn't known.
        """
        if isinstance(message, str):
            kind, data = b"t", message.encode()
        elif isinstance(message, (bytes, bytearray, memoryview)):
            kind, data = b"b", bytes(message)
        else:
            raise TypeError(f"a message is a str or bytes, not {type(message).__name__}")
        link = self._link
        if link is None:
            raise BusUnavailable(self._why)
        known = self._topics.get(topic) or self._remember(topic)
        if len(data) > min(self._max_pending_bytes, _MOST_BYTES_OF_ONE):
            raise ValueError(f"a message of {len(data)} bytes is more than the bus takes")
        if not is_transient(topic):
            return await link.publish(known, kind, data)
        future: asyncio.Future[Any] = link.loop.create_future()
        command = (self._publish_verb, known.channel, kind + data)
        link.call(Call(future, command, uncertain=True))
        await future
        return None

    async def follow(self, topic: str) -> Position | None:
        """Have messages of a topic noticed from now on.

        Returns:
            Position of the last message before some moment of this call: all messages after it are
            noticed, and some before it may be.
        """
        known = self._topics.get(topic) or self._remember(topic)
        ear = self._ear
        if ear is None:
            raise BusUnavailable(self._why)
        future = ear.want(True, known.channel)
        known.followed = True
        self._channels[known.channel] = known
        try:
            async with asyncio.timeout(self._timeout):
                await cast("asyncio.Future[None]", future)
                if is_transient(topic):
                    return None
                return await self._position(known)
        except BaseException as error:
            if isinstance(error, TimeoutError):
                ear.abort(f"the broker didn't confirm within {self._timeout} seconds")
            self._leave(known)
            if isinstance(error, TimeoutError):
                raise BusUnavailable(ear.lost.result()) from None
            raise

    async def unfollow(self, topic: str) -> None:
        """Have them noticed no more."""
        known = self._topics.get(topic)
        if known is not None and known.followed:
            self._leave(known)

    async def position(self, topic: str) -> Position | None:
        """Return the position of the last message.

        A topic without messages has one, too: offset 0 of an epoch that stays.
        """
        if is_transient(topic):
            return None
        async with self._deadline():
            return await self._position(self._topics.get(topic) or self._remember(topic))

    async def read(self, topic: str, since: Position, limit: int) -> Page:
        """Return what the history has after a position.

        Args:
            topic: Name of the topic.
            since: Position of the last message that is known.
            limit: Most messages to return; there may be fewer, though ``latest`` is further, if
                they have several MiB.
        """
        if is_transient(topic):
            raise ValueError("a transient topic has no history")
        if limit < 1:
            raise ValueError(f"limit must be positive; got {limit}")
        known = self._topics.get(topic) or self._remember(topic)
        notices: list[Notice] = []
        at, size, reaches = since.offset, 0, False
        async with self._deadline():
            while True:
                count = min(_PART, limit - len(notices))
                epoch, last, entries = await self._look(known, since.epoch, at, count)
                latest = Position(epoch, last)
                if entries is None:  # another epoch
                    break
                if at == last:
                    reaches = True
                    break
                reached = self._take_entries(known, latest.epoch, at, entries, notices)
                if reached == at:  # a gap
                    break
                reaches, at = True, reached
                size += sum(len(data) for _, (_, data, *_) in entries)
                if at >= last or len(notices) >= limit or size >= _PAGE_BYTES:
                    break
        if at != last and not notices:  # nothing of ours before the gap
            reaches = False
        return Page(notices, reaches, latest)

    def reconnect(self) -> None:
        """Give up the connection that brings notices, and make another one: it seems to be deaf."""
        if self._ear is not None:
            self._ear.abort("the connection is given up: it seems to be deaf")

    # Topics.

    def _remember(self, name: str) -> Topic:
        if len(self._topics) - len(self._channels) >= _REMEMBERED:
            # Forget the oldest that nothing is under way for; those in use go to the end.
            for old in list(itertools.islice(self._topics, 8)):
                topic = self._topics.pop(old)
                if topic.followed or topic.flying or topic.group is not None:
                    self._topics[old] = topic
        topic = self._topics[name] = Topic(name, self._prefix)
        return topic

    def _leave(self, topic: Topic) -> None:
        topic.followed = False
        if self._channels.pop(topic.channel, None) is None:
            return
        if self._ear is not None and not self._ear.lost.done():
            self._ear.want(False, topic.channel)

    def _deadline(self) -> _Deadline:
        return _Deadline(self._timeout)

    async def _position(self, topic: Topic) -> Position:
        epoch, last, _ = await self._look(topic, "", 0, 0)
        return Position(epoch, last)

    async def _look(
        self, topic: Topic, epoch: str, offset: int, count: int
    ) -> tuple[str, int, list[Any] | None]:
        """Return the epoch of a topic, its last offset, and entries after a position.

        There are none if that is of another epoch. If the topic proves to have lost messages, its
        epoch ends.
        """
        link = self._link
        if link is None:
            raise BusUnavailable(self._why)
        future = self._ask(link, topic, epoch, offset, count)
        reply = await future
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
            self._token,
            b"%d" % next(self._marks),
            epoch,
            b"%d" % (offset + 1),
            b"%d" % count,
            topic.epoch,
            b"%d" % topic.offset,
        )
        link.call(Call(future, arguments, script=self._reading))
        return future

    async def _check(self, link: Link, topics: list[Topic]) -> None:
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
                    logger.warning("can't look after topic %r: %s", topic.name, reply)
                else:
                    topic.saw(reply[0], reply[1])

    def _prove(self, topic: Topic) -> None:
        """Have the broker compare what we saw with what it has, soon."""
        if self._link is not None and not self._link.lost.done():
            task = asyncio.ensure_future(self._check(self._link, [topic]))
            self._side_tasks.add(task)
            task.add_done_callback(self._proved)

    def _proved(self, task: asyncio.Future[Any]) -> None:
        self._side_tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.debug("a check of a topic wasn't answered: %s", error)

    # What is published.

    def _hear(self, channel: bytes, payload: bytes) -> None:
        topic = self._channels.get(channel)
        receiver = self._receiver
        if topic is None or receiver is None:
            return
        try:
            if topic.name[0] == TRANSIENT:
                message = _message(payload[0], payload[1:])
                receiver.notice(Notice(topic.name, message))
                return
            head, _, body = payload.partition(b"\n")
            fields = head.split(b" ")
            epoch = fields[0]
            offset = int(fields[1])
            if len(fields) == 3:
                previous, mark = offset - 1, fields[2]
            else:
                previous, mark = int(fields[2]), fields[3]
            if epoch == topic.epoch:
                name = topic.epoch_name
                if previous == topic.offset:
                    topic.offset = offset
                elif previous < topic.offset < offset and len(fields) > 3:
                    self._prove(topic)
            else:
                # Whose it is shows when the topic is read.
                name = Position.parse((epoch.decode("ascii"), offset)).epoch
            kind = mark[-1]
            message = body.decode() if kind == _TEXT else _message(kind, body)
            # The constructors of named tuples are functions in Python: this is a third cheaper.
            position = _new(Position, (name, offset))
            notice = _new(Notice, (topic.name, message, position, previous, mark))
        except (ValueError, IndexError) as error:
            self._ignore(topic, error)
            return
        receiver.notice(notice)

    def _ignore(self, topic: Topic, error: Exception) -> None:
        if not self.ignored:
            logger.warning(
                "somebody else publishes on the channel of topic %r: ignored, and counted from now "
                "on (%s)",
                topic.name,
                error,
            )
        self.ignored += 1

    def _take_entries(
        self, topic: Topic, epoch: str, at: int, entries: list[Any], notices: list[Notice]
    ) -> int:
        """Append what follows an offset to notices, up to a gap; return the last offset."""
        previous = at
        for identity, fields in entries:
            number, _, mark = identity.partition(b"-")
            offset = int(number)
            if (int(fields[3]) if len(fields) > 3 else offset - 1) != at:
                break
            at = offset
            try:
                message = _message(ord(fields[0]), fields[1])
            except (ValueError, TypeError) as error:
                self._ignore(topic, error)
                continue
            notices.append(
                Notice(topic.name, message, Position(epoch, offset), previous, mark + fields[0])
            )
            previous = offset
        return at

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

    async def _open_link(self) -> Link:
        loop = asyncio.get_running_loop()
        link = Link(
            loop,
            self._publishing,
            self._token,
            self._marks,
            self._timeout,
            self._max_pending_bytes,
        )
        try:
            async with self._deadline():
                number, info, *scripts = await self._connect(
                    link,
                    [
                        ("CLIENT", "ID"),
                        ("INFO", "server"),
                        ("SCRIPT", "LOAD", self._publishing.text),
                        ("SCRIPT", "LOAD", self._reading.text),
                    ],
                )
                for reply in (number, info, *scripts):
                    # Whoever may not load scripts may run them.
                    if isinstance(reply, hiredis.ReplyError) and (
                        reply not in scripts or not str(reply).startswith("NOPERM")
                    ):
                        raise refusal(reply)
                facts = _facts(info)
                if "cluster" in (facts.get("redis_mode"), facts.get("server_mode")):
                    raise BusUnavailable("the broker is a node of a cluster, which isn't supported")
                link.run, link.id = facts.get("run_id", "").encode(), number
                if not link.run:
                    raise BusUnavailable("the broker doesn't tell its run_id in INFO")
                if self._fence is not None and self._fence[0] == link.run:
                    # What is still in the connection that was given up must not come after what is
                    # published next. That it is gone already, or that we may not, is fine.
                    await link.ask([("CLIENT", "KILL", "ID", str(self._fence[1]))])
            self._fence = link.run, link.id
            link.start()
            if self._run not in (b"", link.run):
                # The broker began anew: before anything is published, let it prove what it has.
                await self._check(link, [topic for topic in self._topics.values() if topic.offset])
            self._run = link.run
        except BaseException:
            _give_up(link)
            raise
        self._link = link
        return link

    async def _open_ear(self) -> Ear:
        ear = Ear(asyncio.get_running_loop(), self._hear, sharded=self._sharded)
        try:
            async with self._deadline():
                await self._connect(ear, [])
            ear.start()
            self._ear = ear
            channels = list(self._channels)
            confirmed = []
            for start in range(0, len(channels), CHUNK):
                chunk = channels[start : start + CHUNK]
                future: asyncio.Future[None] = ear.loop.create_future()
                ear.send(True, chunk, [future])
                confirmed.append(future)
            for future in confirmed:
                async with self._deadline():
                    await future
        except BaseException:
            self._ear = None
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
                    link = await self._open_link()
                except Exception as error:
                    self._failed("commands", error)
                    delay = min(2 * delay, _LAST_DELAY)
                    continue
                self._connected("commands")
            delay = _FIRST_DELAY
            reason = await asyncio.shield(link.lost)
            link = self._link = None
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
            ear = self._ear = None
            self._ear_ready = False
            self._gone(reason)

    async def _keep_topics(self) -> None:
        # What is followed stays known, however long nothing is published.
        while True:
            await asyncio.sleep(EMPTY_SECONDS / 4)
            followed = [topic for topic in self._channels.values() if not is_transient(topic.name)]
            try:
                if self._link is not None:
                    await self._check(self._link, followed)
            except BusError as error:
                logger.debug("topics weren't looked after: %s", error)

    def _gone(self, reason: str) -> None:
        self._why = reason
        if not self._interrupted and self._receiver is not None:
            self._interrupted = True
            self._receiver.interrupted(BusUnavailable(reason))

    def _failed(self, connection: str, error: Exception) -> None:
        """Tell why there is no connection: once, as long as it is for the same reason."""
        self._why = _text(error)
        if isinstance(error, (BusError, OSError)):
            level = logging.DEBUG if self._logged.get(connection) == self._why else logging.WARNING
            logger.log(level, "no connection to the broker for %s: %s", connection, self._why)
        else:
            logger.error("no connection to the broker for %s", connection, exc_info=error)
        self._logged[connection] = self._why

    def _connected(self, connection: str) -> None:
        self._logged.pop(connection, None)
        if self._interrupted and self._ear_ready and self._link is not None:
            self._interrupted = False
            if self._receiver is not None:
                self._receiver.resumed()


class _Deadline:
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


def _message(kind: int, data: bytes) -> Message:
    """Return a message, by the letter of its kind.

    Raises:
        ValueError: If it is none, or isn't UTF-8.
    """
    if kind == _TEXT:
        return data.decode()
    if kind == _BINARY:
        return data
    raise ValueError(f"no kind of message: {kind}")


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _facts(info: str | bytes) -> dict[str, str]:
    """Return what INFO tells."""
    text = info.decode("utf-8", "replace") if isinstance(info, bytes) else info
    return {name: value for name, _, value in (line.partition(":") for line in text.splitlines())}


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
