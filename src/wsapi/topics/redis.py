"""A bus on Redis or Valkey: ``RedisBus``, with the extra ``redis``."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import secrets
from typing import Any, Final, cast

from ._redis_scripts import EMPTY_SECONDS, publishing, reading
from .bus import TRANSIENT, BusReceiver, Message, Notice, Page, is_transient
from .exceptions import BusError, BusUnavailable
from .positions import Position

try:
    from redis.asyncio.connection import Connection, parse_url

    from ._redis_server import Deadline, Options, Server, text_of
    from ._redis_wires import SLOTS, Script, Topic
except ImportError as error:  # pragma: no cover: installed with the extra
    raise ImportError(
        "wsapi.topics.redis needs redis and hiredis: pip install 'wsproto-fast[redis]'"
    ) from error

__all__ = ["RedisBus"]

logger = logging.getLogger("wsapi.topics")

_new: Final[Any] = tuple.__new__

# Seconds in which a cluster is asked, after it said that something moved.
_MAP_DELAY: Final = 0.2
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
    ends. One that became a read-only replica is left, for whatever the URL leads to by then.

    A user of an ACL needs, on keys and channels ``<prefix>:*``: ``hmget hset del type time xadd
    xdel xrange pexpire publish subscribe unsubscribe`` (or ``spublish ssubscribe sunsubscribe``),
    and ``evalsha eval script|load client|id info select``. With ``client|kill`` the bus ends a
    connection that it has given up at the broker, too, so that nothing that is still in it is
    published late.

    Redis Cluster: the URL is one of any node. Keys and channels of a topic share a hash tag: it is
    published and followed at the node that is responsible, with two connections for each. While a
    slot moves to another node, what is published on its topics raises ``BusUnavailable``. Offsets
    leap then, too.

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
        self._connection: dict[str, Any] = {**parse_url(url), **options}
        self._connection_class = self._connection.pop("connection_class", Connection)
        self._prefix = prefix
        self._options = Options(
            publishing=Script(
                publishing(
                    history=history,
                    history_seconds=history_seconds,
                    exact=exact,
                    publish="SPUBLISH" if sharded else "PUBLISH",
                )
            ),
            reading=Script(reading(history_seconds=history_seconds)),
            # Of this process: begins new epochs, tells messages from others with their position.
            token=secrets.token_hex(8).encode(),
            marks=itertools.count(secrets.randbelow(2**32)),
            sharded=sharded,
            timeout=timeout,
            max_pending_bytes=max_pending_bytes,
        )
        self.ignored = 0
        self._receiver: BusReceiver | None = None
        self._seed = self._server()
        self._servers = {"": self._seed}  # by host and port, in a cluster
        self._slots: list[Server | None] | None = None  # of a cluster
        self._interrupted = False
        self._tasks: list[asyncio.Task[None]] = []
        self._side_tasks: set[asyncio.Future[Any]] = set()
        self._mapping: asyncio.Task[None] | None = None
        self._topics: dict[str, Topic] = {}
        self._channels: dict[bytes, Topic] = {}  # of those that are followed

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._seed} {self._prefix}>"

    # The five calls.

    async def open(self, receiver: BusReceiver) -> None:
        """Connect, and say from now on what happens.

        Args:
            receiver: Whom to tell.

        Raises:
            BusUnavailable: If that isn't possible; ``open`` may be called again.
            RuntimeError: If the bus is open.
        """
        if self._receiver is not None:
            raise RuntimeError("the bus is open already")
        self._receiver = receiver
        try:
            await self._seed.open_link()
            if self._seed.clustered:
                nodes = await self._nodes(self._seed)
                await self._seed.close("the nodes of the cluster are known")
                self._servers = {}
                self._slots = self._slots_of(nodes)
            for server in self._servers.values():
                await server.open()
        except BaseException as error:
            await self.close()
            if isinstance(error, Exception) and not isinstance(error, BusError):
                raise BusUnavailable(text_of(error)) from error
            raise
        self._tasks = [asyncio.create_task(self._keep_topics(), name=f"topics of {self!r}")]

    async def close(self) -> None:
        """End all connections and tasks; nothing is told any more.

        What isn't published yet raises ``BusUnavailable``, what isn't answered yet
        ``PublishUncertain``.
        """
        self._receiver = None
        tasks, self._tasks = self._tasks, []
        if self._mapping is not None:
            tasks.append(self._mapping)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in {self._seed, *self._servers.values()}:
            await server.close("the bus is closed")
            server.channels.clear()
        await asyncio.gather(*self._side_tasks, return_exceptions=True)
        self._servers = {"": self._seed}
        self._slots = self._mapping = None
        self._interrupted = False
        for topic in self._channels.values():
            topic.followed = False
        self._channels.clear()

    async def publish(self, topic: str, message: Message) -> Position | None:
        """Publish a message; return its position.

        Args:
            topic: Name of the topic.
            message: The message.

        Raises:
            BusUnavailable: If it wasn't published.
            PublishUncertain: If that isn't known.
            TypeError: If the message is neither str nor bytes.
            ValueError: If it is larger than the bus takes.
        """
        if isinstance(message, str):
            kind, data = b"t", message.encode()
        elif isinstance(message, (bytes, bytearray, memoryview)):
            kind, data = b"b", bytes(message)
        else:
            raise TypeError(f"a message is a str or bytes, not {type(message).__name__}")
        if len(data) > min(self._options.max_pending_bytes, _MOST_BYTES_OF_ONE):
            raise ValueError(f"a message of {len(data)} bytes is more than the bus takes")
        known = self._topics.get(topic) or self._remember(topic)
        server = self._seed if self._slots is None else self._responsible(known)
        if not is_transient(topic):
            return await server.commands().publish(known, kind, data)
        await server.publish_transient(known.channel, kind + data)
        return None

    async def follow(self, topic: str) -> Position | None:
        """Have messages of a topic noticed from now on.

        Args:
            topic: Name of the topic.

        Returns:
            Position of the last message before some moment of this call: all messages after it are
            noticed, and some before it may be.

        Raises:
            BusUnavailable: If that isn't possible now.
        """
        known = self._topics.get(topic) or self._remember(topic)
        server = self._responsible(known)
        ear = server.listener()
        future = ear.want(True, known.channel)
        known.followed = True
        self._channels[known.channel] = server.channels[known.channel] = known
        try:
            async with asyncio.timeout(self._options.timeout):
                await cast("asyncio.Future[None]", future)
                if is_transient(topic):
                    return None
                return await self._position(known)
        except BaseException as error:
            if isinstance(error, TimeoutError):
                ear.abort(f"the broker didn't confirm within {self._options.timeout} seconds")
            self._leave(known)
            if isinstance(error, TimeoutError):
                raise BusUnavailable(ear.lost.result()) from None
            raise

    async def unfollow(self, topic: str) -> None:
        """Have messages of a topic noticed no more.

        Args:
            topic: Name of the topic.
        """
        known = self._topics.get(topic)
        if known is not None and known.followed:
            self._leave(known)

    async def position(self, topic: str) -> Position | None:
        """Return the position of the last message.

        A topic without messages has one, too: offset 0 of an epoch that stays.

        Args:
            topic: Name of the topic.

        Raises:
            BusUnavailable: If the server can't be asked.
        """
        if is_transient(topic):
            return None
        async with Deadline(self._options.timeout):
            return await self._position(self._topics.get(topic) or self._remember(topic))

    async def read(self, topic: str, since: Position, limit: int) -> Page:
        """Return what the history has after a position.

        Args:
            topic: Name of the topic.
            since: Position of the last message that is known.
            limit: Most messages to return; there may be fewer, though ``latest`` is further, if
                they have several MiB.

        Raises:
            BusUnavailable: If the server can't be asked.
            ValueError: If the topic has no history, or the limit isn't positive.
        """
        if is_transient(topic):
            raise ValueError("a transient topic has no history")
        if limit < 1:
            raise ValueError(f"limit must be positive; got {limit}")
        known = self._topics.get(topic) or self._remember(topic)
        notices: list[Notice] = []
        at, size, reaches = since.offset, 0, False
        async with Deadline(self._options.timeout):
            while True:
                count = min(_PART, limit - len(notices))
                epoch, last, entries = await self._responsible(known).look(
                    known, since.epoch, at, count
                )
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
        for server in self._servers.values():
            if server.ear is not None:
                server.ear.abort("the connection is given up: it seems to be deaf")

    # Topics.

    def _remember(self, name: str) -> Topic:
        if len(self._topics) - len(self._channels) >= _REMEMBERED:
            # Forget the oldest that nothing is under way for; those in use go to the end.
            for old in list(itertools.islice(self._topics, 8)):
                topic = self._topics.pop(old)
                if topic.followed or topic.flying is not None or topic.group is not None:
                    self._topics[old] = topic
        topic = self._topics[name] = Topic(name, self._prefix)
        return topic

    def _leave(self, topic: Topic) -> None:
        topic.followed = False
        self._channels.pop(topic.channel, None)
        for server in self._servers.values():
            server.leave(topic)

    async def _position(self, topic: Topic) -> Position:
        epoch, last, _ = await self._responsible(topic).look(topic, "", 0, 0)
        return Position(epoch, last)

    def _prove(self, topic: Topic) -> None:
        """Have the broker compare what we saw with what it has, soon."""
        try:
            server = self._responsible(topic)
            checking = server.check(server.commands(), [topic])
        except BusUnavailable:
            return  # it is done when there is a connection again
        task = asyncio.ensure_future(checking)
        self._side_tasks.add(task)
        task.add_done_callback(self._proved)

    def _proved(self, task: asyncio.Future[Any]) -> None:
        self._side_tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.debug("a check of a topic wasn't answered: %s", error)

    # What is published.

    def hear(self, channel: bytes, payload: bytes) -> None:
        """Take what was published on a channel.

        Args:
            channel: Name of the channel.
            payload: What came.
        """
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

    async def _keep_topics(self) -> None:
        # What is followed stays known, however long nothing is published.
        while True:
            await asyncio.sleep(EMPTY_SECONDS / 4)
            for server in list(self._servers.values()):
                followed = [
                    topic for topic in server.channels.values() if not is_transient(topic.name)
                ]
                try:
                    await server.check(server.commands(), followed)
                except BusError as error:
                    logger.debug("topics weren't looked after: %s", error)

    # Servers.

    def _server(self, **where: Any) -> Server:
        # It never connects: it knows what the options are, and makes the context for TLS of them.
        connection = self._connection_class(**{**self._connection, **where})
        return Server(connection, self._options, self)

    def _responsible(self, topic: Topic) -> Server:
        """Return the server of a topic, or raise ``BusUnavailable``."""
        if self._slots is None:
            return self._seed
        server = self._slots[topic.slot]
        if server is None:
            self.moved()
            raise BusUnavailable(f"no node of the cluster is responsible for slot {topic.slot}")
        return server

    def seen(self, server: Server) -> list[Topic]:
        """Return the topics of a server of which offsets were seen.

        Args:
            server: The server.
        """
        slots = self._slots
        return [
            topic
            for topic in self._topics.values()
            if topic.offset and (slots is None or slots[topic.slot] is server)
        ]

    def gone(self, server: Server, reason: str) -> None:
        """Note that a connection is lost, or isn't made.

        Args:
            server: Whose connection.
            reason: What happened.
        """
        if self._slots is not None:
            self.moved()
        if not self._interrupted and self._receiver is not None:
            self._interrupted = True
            self._receiver.interrupted(BusUnavailable(reason))

    def connected(self, server: Server) -> None:
        """Note that a connection is made, and all is followed that was.

        Args:
            server: Whose connection.
        """
        if self._interrupted and all(server.ready for server in self._servers.values()):
            self._interrupted = False
            if self._receiver is not None:
                self._receiver.resumed()

    # Clusters.

    async def _nodes(self, server: Server) -> list[tuple[int, int, str, int]]:
        """Ask for the slots of the nodes: first, last, host, port."""
        reply = await server.command("CLUSTER", "SLOTS")
        found = []
        for first, last, (host, port, *_), *_ in reply:
            name = (host or b"").decode("utf-8", "replace")
            found.append((first, last, server.host if name in ("", "?") else name, port))
        return found

    async def _nodes_by_url(self) -> list[tuple[int, int, str, int]]:
        """Ask where the URL leads: all nodes may have other addresses by now."""
        try:
            await self._seed.open_link()
            return await self._nodes(self._seed)
        except (BusError, OSError) as error:
            logger.debug("no node of the cluster answers: %s", text_of(error))
            return []
        finally:
            await self._seed.close("the nodes of the cluster are known")

    def _slots_of(self, nodes: list[tuple[int, int, str, int]]) -> list[Server | None]:
        """Return the server of each slot; there are new ones in ``_servers`` then."""
        slots: list[Server | None] = [None] * SLOTS
        for first, last, host, port in nodes:
            where = f"{host}:{port}"
            server = self._servers.get(where)
            if server is None:
                server = self._servers[where] = self._server(host=host, port=port)
                server.clustered = True
            slots[first : last + 1] = [server] * (last + 1 - first)
        return slots

    def moved(self) -> None:
        """Ask soon, once, which node is responsible for what."""
        if self._slots is not None and self._mapping is None and self._receiver is not None:
            self._mapping = asyncio.create_task(self._map(), name=f"nodes of {self!r}")

    async def _map(self) -> None:
        try:
            await asyncio.sleep(random.uniform(0.0, _MAP_DELAY))
            for server in list(self._servers.values()):
                try:
                    nodes = await self._nodes(server)
                except BusError:
                    continue  # another node may know
                if nodes:  # one that began empty knows of none
                    break
            else:
                nodes = await self._nodes_by_url()
            if nodes:
                await self._take_nodes(nodes)
        except Exception:
            logger.exception("the nodes of the cluster aren't known")
        finally:
            self._mapping = None

    async def _take_nodes(self, nodes: list[tuple[int, int, str, int]]) -> None:
        """Follow topics where they are now."""
        before = set(self._servers.values())
        slots = self._slots_of(nodes)
        known, self._slots = self._slots, slots
        assert known is not None
        if slots == known:
            return
        # Whatever comes of it, all is read again when all is followed again.
        self.gone(self._seed, "topics move to other nodes of the cluster")
        moved: dict[Server, list[Topic]] = {}
        for topic in self._topics.values():
            to = slots[topic.slot]
            if to is known[topic.slot]:
                continue
            for server in before:
                server.leave(topic)
            if to is not None:
                moved.setdefault(to, []).append(topic)
                if topic.followed:
                    to.channels[topic.channel] = topic
        for server in set(self._servers.values()) - before:
            server.start()
        for to, topics in moved.items():
            if to in before:
                try:
                    await to.check(to.commands(), [topic for topic in topics if topic.offset])
                except BusError:
                    pass  # it is done when there is a connection
                if to.ear is not None:
                    to.ear.abort("topics moved here")  # the next one follows them, too
        for where, server in list(self._servers.items()):
            if server not in slots:
                # Until it is closed, closing the bus has to end it, too.
                await server.close("the node has no slots any more")
                del self._servers[where]
        self.connected(self._seed)


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
