"""Topics on a NATS server, with or without a history in JetStream.

The extra ``nats`` installs what it needs: ``pip install wsproto-fast[nats]``.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import secrets
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from ._nats_connection import Connection, NoResponders
from ._nats_jetstream import JetStream, Refused, StreamAway, refusal
from ._nats_options import (
    check_int,
    check_name,
    check_seconds,
    checked_servers,
    discovered,
    is_address,
    shown,
)
from ._nats_stream import Stream, StreamSettings, encode, new_epoch, parse_stored
from .bus import BusReceiver, Message, Notice, Page, is_transient
from .exceptions import BusError, BusUnavailable, PublishUncertain
from .positions import Position

__all__ = ["NatsBus"]

BEAT_INTERVAL: Final = 5.0
"""Seconds between looks whether the server still answers, at most."""

FIRST_DELAY: Final = 0.1
"""Seconds before the first attempt to connect again, at most: any time up to that (full jitter)."""

MAX_DELAY: Final = 5.0
"""Seconds before any further attempt, at most."""

DOUBT_INTERVAL: Final = 1.0
"""Seconds between looks at the stream because of messages that seem to be of another one."""

OLDEST_SERVER: Final = (2, 10)
"""Version of the server that a history needs: earlier ones don't say when messages were stored."""

MAX_DISCOVERED: Final = 64
"""Servers of a cluster that are remembered besides those that were named."""

_SEQUENCE = re.compile(rb'"seq": ?(\d{1,20})')
_logger = logging.getLogger("wsapi.topics")


class _Topic:
    """A topic that is followed, and what is known of its messages.

    Those up to ``upto`` (a number of the stream) are all known: none of them is after ``last``.
    ``last`` is None if nothing is known. What lies between ``last`` and ``garbage`` isn't ours.
    ``before`` is what was known before a notice came that doesn't follow ``last``.
    """

    __slots__ = (
        "before",
        "bus",
        "garbage",
        "generation",
        "kept",
        "last",
        "live",
        "name",
        "plain",
        "sid",
        "upto",
    )

    def __init__(self, bus: NatsBus, name: str, *, plain: bool) -> None:
        self.bus = bus
        self.name = name
        self.plain = plain  # its messages have no positions
        self.live = bus._live(name)
        self.kept = b""
        self.sid = 0
        self.last: int | None = None
        self.upto = 0
        self.before: tuple[int, int] | None = None  # last and upto
        self.garbage = 0
        self.generation = 0
        self.rename()

    def rename(self) -> None:
        """Forget what is known: a new epoch has begun."""
        self.kept = self.bus._kept(self.name).encode()
        self.last = self.before = None
        self.upto = self.garbage = 0

    def know(self, last: int, upto: int) -> None:
        """Note what the server has said since it was connected."""
        if last != self.last:
            self.garbage = 0
        self.last = last
        self.upto = max(last, upto)
        self.generation = self.bus._generation

    def take(self, data: bytes, headers: bytes | None) -> None:
        """Take a message of the topic."""
        self.bus._take(self, data, headers)


class NatsBus:
    """A NATS server, or a cluster of them, as a bus for topics.

    With ``history``, messages go through one stream of JetStream, which stores and numbers them,
    and repeats them for the processes that are there (``republish``). Each brings the number of the
    topic's message before it, so that whatever was missed shows, and is read from the stream. The
    stream is made by the first process that comes; where it exists, its limits are raised to what
    is asked for, never lowered. Nobody can delete single messages from it. If it is deleted, or a
    server that had it in memory starts again, whoever notices makes it anew, with a new epoch.

    Without it, nothing is stored, and nobody can tell whether a message was missed: the messages of
    core NATS are delivered at most once.

    A message may have one byte less than the server's ``max_payload``: by default 1,048,575, while
    ``max_message_size`` of topics is 1,048,576. For a larger one, ``publish`` raises ``ValueError``
    that names both. Where messages are large, set one of them.

    All processes take the same ``prefix`` and ``stream``. They need permission to publish and to
    subscribe to ``PREFIX.>``, and with a history to publish to ``$JS.API.>``. A history needs a
    server of version 2.10 or later; from 2.11 on, it is read much faster.

    A position is a number of the stream. That of a topic without messages is where the stream was
    when one looked. Whether all messages after a position are still there, ``read`` finds out as
    follows. They are, if the message at the position is, also after they were read, since those of
    a topic are dropped in their order. Otherwise they are, if the stream hasn't dropped anything
    after the position for its age or size (its first message isn't after the next number), and the
    topic has fewer messages than it may have, so that none made room for another one. For a
    followed topic, the position counts as the last number up to which this process has seen
    everything, be it long after the topic's last message. In all other cases a gap is told of,
    although there may be none: for who comes back, after ``history_seconds`` of silence, to a
    process that doesn't follow the topic.

    Args:
        servers: URI of a server, or several: ``nats://HOST:PORT``, ``tls://``; ``ws://`` and
            ``wss://`` where aiohttp is installed. With ``tls://`` or ``tls``, a server without TLS
            is refused.
        prefix: What all subjects begin with: one or more tokens of letters, digits, ``-``, ``_``.
        history: How many messages the stream keeps of each topic; None or 0 for core NATS. By
            default fewer than on Redis: all topics share ``history_bytes``, and one with many
            messages takes room from the others' histories.
        history_seconds: How long it keeps them, in seconds.
        history_bytes: Bytes that it keeps of all topics together.
        stream: Its name.
        replicas: How many servers of the cluster hold it.
        storage: Where they hold it: ``"file"`` or ``"memory"``.
        timeout: How long each call waits for the server, in seconds.
        max_pending_bytes: Bytes of messages that may wait for the server's answers. Beyond that,
            ``publish`` raises ``BusUnavailable``.
        name: What the server's monitoring calls this process.
        user: Name of a user.
        password: Their password.
        token: Token, or a callable that returns it.
        user_credentials: File with the JWT and the seed of a user, or two files.
        nkeys_seed: File with the seed of a user.
        nkeys_seed_str: The seed itself.
        tls: TLS context.
        tls_hostname: Name that the server's certificate is checked for.
        tls_handshake_first: Whether TLS begins before the server says anything.

    Raises:
        TypeError, ValueError: If an argument can't be what it is.

    Attributes:
        ignored: How many messages on the subjects of topics were none of ours.
    """

    def __init__(
        self,
        servers: str | Sequence[str] = "nats://127.0.0.1:4222",
        *,
        prefix: str = "wsapi",
        history: int | None = 100,
        history_seconds: float = 300,
        history_bytes: int = 2**28,
        stream: str = "WSAPI_TOPICS",
        replicas: int = 1,
        storage: Literal["file", "memory"] = "file",
        timeout: float = 5.0,
        max_pending_bytes: int = 2**25,
        name: str | None = None,
        user: str | None = None,
        password: str | None = None,
        token: str | Callable[[], str] | None = None,
        user_credentials: Any = None,
        nkeys_seed: str | None = None,
        nkeys_seed_str: str | None = None,
        tls: ssl.SSLContext | None = None,
        tls_hostname: str | None = None,
        tls_handshake_first: bool = False,
    ) -> None:
        self._servers = checked_servers(servers)
        check_name("prefix", prefix, 128, dots=True)
        check_name("stream", stream, 255, dots=False)
        history = history or 0
        check_int("history", history, 0, 10**6)
        check_int("history_bytes", history_bytes, 1, 2**63 - 1)
        check_int("replicas", replicas, 1, 5)
        check_int("max_pending_bytes", max_pending_bytes, 1, None)
        check_seconds("history_seconds", history_seconds, 1)
        check_seconds("timeout", timeout, 0.001)
        if storage not in ("file", "memory"):
            raise ValueError(f"storage is 'file' or 'memory'; got {storage!r:.200}")
        self._settings = StreamSettings(
            stream, prefix, history, history_seconds, history_bytes, replicas, storage
        )
        self._jetstream = JetStream(self._settings, timeout)
        self._history = history
        self._timeout = timeout
        self._max_pending_bytes = max_pending_bytes
        self._options: dict[str, Any] = {
            "name": name,
            "user": user,
            "password": password,
            "token": token,
            "user_credentials": user_credentials,
            "nkeys_seed": nkeys_seed,
            "nkeys_seed_str": nkeys_seed_str,
            "tls": tls,
            "tls_hostname": tls_hostname,
            "tls_handshake_first": tls_handshake_first,
        }
        self._interval = min(BEAT_INTERVAL, history_seconds / 4)
        self.ignored = 0

        self._prefix = prefix
        self._identity = secrets.token_hex(8)
        self._receiver: BusReceiver | None = None
        self._connection: Connection | None = None
        self._reason: Exception = BusUnavailable("the bus isn't open")
        self._discovered: list[str] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._refreshing: asyncio.Task[None] | None = None
        self._topics: dict[str, _Topic] = {}
        self._generation = 0  # which connection this is
        # What is known of the stream.
        self._epoch = ""
        self._kept_prefix = ""
        self._replicas = 1
        self._direct = False  # whether each notice comes in order, or the connection ends
        self._seen = 0  # number of a message that has been stored, as high as is known
        self._seen_time: tuple[int, bytes] | None = None  # number and time of one of the last
        self._noticed = 0  # number of the last notice of this connection
        self._beat: asyncio.Future[None] | None = None
        self._next_doubt = 0.0

    def __repr__(self) -> str:
        servers = ", ".join(shown(server) for server in self._servers)
        return f"<{type(self).__name__} {servers} {self._prefix}>"

    # ------------------------------------------------------------------------------- open and close

    async def open(self, receiver: BusReceiver) -> None:
        """Connect, and see to it that there is a stream; see ``Bus.open``.

        Args:
            receiver: Whom to tell what happens.

        Raises:
            BusUnavailable: If that isn't possible: no server, no permission, no JetStream, a stream
                of that name that is another's.
            RuntimeError: If the bus is open.
        """
        if self._receiver is not None:
            raise RuntimeError("the bus is open")
        self._receiver = receiver
        try:
            async with asyncio.timeout(self._timeout):
                await self._establish()
        except BaseException as exc:
            self._receiver = None
            await self._cancel_tasks()
            if isinstance(exc, BusUnavailable) or not isinstance(exc, Exception):
                raise
            raise BusUnavailable(
                f"can't connect to {', '.join(map(shown, self._servers))}: {exc!r}"
            ) from exc
        self._start(self._look_after())

    async def close(self) -> None:
        """End the connection and all tasks, whatever the server does."""
        self._receiver = None
        connection, self._connection = self._connection, None
        self._reason = BusUnavailable("the bus is closed")
        self._topics.clear()
        await self._cancel_tasks()
        if connection is not None:
            await connection.end(self._timeout)

    def reconnect(self) -> None:
        """Give up the connection, and make another one."""
        if self._connection is not None:
            self._connection.abandon(BusUnavailable("another connection was asked for"))

    def _start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _cancel_tasks(self) -> None:
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=self._timeout)

    async def _establish(self) -> None:
        """Connect to the first server that answers, follow what was followed, find the stream."""
        servers = [*self._servers, *self._discovered]
        random.shuffle(servers)
        error: Exception = BusUnavailable("no server")
        for server in servers:
            connection = Connection(
                f"{self._prefix}.r.{secrets.token_hex(8)}.",
                self._max_pending_bytes,
                self._lost,
            )
            try:
                await connection.open(
                    server, self._timeout / len(servers), self._options_of(server)
                )
                await self._take_over(connection)
                return
            except BaseException as exc:
                if self._connection is connection:
                    self._connection = None
                await connection.end(1)
                if not isinstance(exc, Exception):
                    raise
                error = exc
        if isinstance(error, BusUnavailable):
            raise error
        raise BusUnavailable(
            f"can't connect to {', '.join(map(shown, self._servers))}: {error!r}"
        ) from error

    async def _take_over(self, connection: Connection) -> None:
        """Follow with a new connection what was followed with the last one."""
        self._generation += 1
        self._noticed = 0
        self._direct = False
        for topic in list(self._topics.values()):
            sid = await connection.listen(topic.live, topic.take)
            if self._topics.get(topic.name) is topic:
                topic.sid = sid
            else:
                await connection.unlisten(sid)
        if self._history:
            await connection.listen(f"{self._prefix}.l.~{self._identity}", self._take_beat)
        await connection.echo(self._timeout)
        for topic in self._topics.values():
            connection.check("subscription", topic.live)
        if self._history:
            connection.check("subscription", f"{self._prefix}.l.~{self._identity}")
            await self._find_stream(connection)
            try:
                await self._send_beat(connection)
            except NoResponders:
                raise BusUnavailable(f"stream {self._settings.name!r} takes no messages") from None
        if not connection.alive:
            raise BusUnavailable("the connection was lost at its beginning")
        self._connection = connection
        self._remember_servers(connection)

    def _lost(self, connection: Connection, reason: Exception) -> None:
        if self._connection is not connection:
            return
        self._connection = None
        self._reason = reason
        if self._direct:
            for topic in self._topics.values():
                if topic.generation == self._generation and topic.last is not None:
                    topic.upto = max(topic.upto, self._noticed)
        if self._receiver is not None:
            self._start(connection.end(self._timeout))
            self._start(self._come_back())
            self._receiver.interrupted(reason)

    async def _come_back(self) -> None:
        attempt = 0
        while True:
            limit = min(MAX_DELAY, FIRST_DELAY * 2 ** min(attempt, 16))
            await asyncio.sleep(random.random() * limit)
            attempt += 1
            try:
                async with asyncio.timeout(2 * self._timeout):
                    await self._establish()
            except Exception as exc:
                self._reason = exc
                _logger.debug("no connection to NATS", exc_info=exc)
                continue
            if self._receiver is not None:
                self._receiver.resumed()
            return

    def _options_of(self, server: str) -> dict[str, Any]:
        options = self._options
        if server in self._discovered and options["tls_hostname"] is None:
            # Servers of a cluster tell addresses; their certificates have names.
            host = urlsplit(server).hostname
            if host is not None and is_address(host):
                options = {**options, "tls_hostname": urlsplit(self._servers[0]).hostname}
        return {key: value for key, value in options.items() if value is not None}

    def _remember_servers(self, connection: Connection) -> None:
        addresses = [server.netloc for server in connection.discovered_servers]
        found = dict.fromkeys(discovered(self._servers[0], addresses))
        self._discovered = [server for server in found if server not in self._servers][
            :MAX_DISCOVERED
        ]

    @asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except StreamAway:
            self._doubt_stream()
            raise
        except TimeoutError:
            raise BusUnavailable(
                f"the NATS server hasn't answered within {self._timeout} seconds"
            ) from None

    def _current(self) -> Connection:
        if self._connection is None:
            raise BusUnavailable(f"no connection to a NATS server: {self._reason}")
        return self._connection

    # ------------------------------------------------------------------------------------- subjects

    def _live(self, topic: str) -> str:
        if is_transient(topic):
            return f"{self._prefix}.t.{encode(topic[1:])}"
        return f"{self._prefix}.l.{encode(topic)}"

    def _kept(self, topic: str) -> str:
        return self._kept_prefix + encode(topic)

    # ------------------------------------------------------------------------------------- messages

    async def publish(self, topic: str, message: Message) -> Position | None:
        """Publish a message; see ``Bus.publish``.

        Args:
            topic: Name of the topic.
            message: The message.

        Raises:
            ValueError: If it is larger than the server takes.
            BusUnavailable: If it wasn't published.
            PublishUncertain: If that isn't known.
        """
        connection = self._current()
        payload = b"t" + message.encode() if isinstance(message, str) else b"b" + message
        if len(payload) > connection.max_payload:
            raise ValueError(
                f"the message has {len(payload) - 1} bytes, and the NATS server takes"
                f" {connection.max_payload - 1}: raise its max_payload, or lower max_message_size"
            )
        if not self._history or is_transient(topic):
            subject = self._live(topic)
            await connection.send(subject, payload)
            try:
                await connection.echo(self._timeout)
            except BusUnavailable as exc:
                raise PublishUncertain(
                    f"the NATS server may have published the message, or not: {exc}"
                ) from exc
            connection.check("publish", subject)
            return None
        epoch, subject = self._epoch, self._kept(topic)
        try:
            answer, _ = await connection.ask(subject, payload, self._timeout, publishes=True)
        except NoResponders:
            epoch, answer = await self._publish_again(topic, payload)
        found = _SEQUENCE.search(answer) if b'"error"' not in answer else None
        if found is None:
            raise refusal(answer)
        sequence = int(found[1])
        if epoch == self._epoch and sequence > self._seen:
            self._seen = sequence
        return Position(epoch, sequence)

    async def _publish_again(self, topic: str, payload: bytes) -> tuple[str, bytes]:
        """Publish what nobody took: the stream is gone, or no server leads it."""
        async with self._deadline():
            await self._refresh()
        epoch = self._epoch
        try:
            answer, _ = await self._current().ask(
                self._kept(topic), payload, self._timeout, publishes=True
            )
        except NoResponders:
            raise BusUnavailable(
                f"no NATS server takes messages for stream {self._settings.name!r}"
            ) from None
        return epoch, answer

    def _take(self, topic: _Topic, data: bytes, headers: bytes | None) -> None:
        """Take a message of a followed topic."""
        receiver = self._receiver
        if receiver is None:
            return
        if topic.plain:
            message = _message(data)
            if message is None:
                self._ignore(topic.live)
            else:
                receiver.notice(Notice(topic.name, message))
            return
        stored = parse_stored(headers)
        if stored is None:
            self._ignore(topic.live)
            return
        subject, sequence, time, _, previous = stored
        if subject != topic.kept:
            self._doubt(subject, topic.live)
            return
        if sequence > self._noticed:
            self._noticed = sequence
            if sequence > self._seen:
                self._seen = sequence
            self._seen_time = sequence, time
        last = topic.last
        if (
            last is not None
            and topic.generation == self._generation
            and ((previous == 0 and self._direct) or previous == topic.garbage != 0)
        ):
            # What was before it isn't there any more, or isn't ours: it follows what we know.
            previous = last
        message = _message(data)
        if message is None:
            if previous == last:
                topic.garbage = sequence
            self._ignore(topic.live)
            return
        if last is not None and previous != last and topic.before is None:
            topic.before = last, topic.upto
        topic.last = topic.upto = sequence
        topic.garbage = 0
        topic.generation = self._generation
        receiver.notice(
            Notice(topic.name, message, Position(self._epoch, sequence), previous, time)
        )

    def _ignore(self, subject: str) -> None:
        self.ignored += 1
        if self.ignored == 1:
            _logger.warning(
                "a message on %s isn't one of topics: all such messages are ignored, and counted"
                " (does another program, or one with other settings, use the prefix %r?)",
                subject,
                self._prefix,
            )

    def _doubt(self, subject: bytes, live: str) -> None:
        """Look at the stream again, since a notice comes from one with another epoch."""
        if not subject.startswith(f"{self._prefix}.p.".encode()):
            self._ignore(live)
        else:
            self._doubt_stream()

    def _doubt_stream(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._connection is not None and self._refreshing is None and now >= self._next_doubt:
            self._next_doubt = now + DOUBT_INTERVAL
            self._start(self._refresh_quietly())

    async def _refresh_quietly(self) -> None:
        try:
            await self._refresh()
        except BusUnavailable as exc:
            _logger.debug("can't look at the stream", exc_info=exc)

    # ------------------------------------------------------------------------------------ following

    async def follow(self, topic: str) -> Position | None:
        """Have messages of a topic noticed from now on; see ``Bus.follow``.

        Args:
            topic: Name of the topic.

        Returns:
            Position of the last message before some moment of this call; None without history.

        Raises:
            BusUnavailable: If that isn't possible now.
        """
        connection = self._current()
        if topic in self._topics:
            return await self.position(topic)
        plain = not self._history or is_transient(topic)
        followed = _Topic(self, topic, plain=plain)
        self._topics[topic] = followed
        position = None
        try:
            async with self._deadline():
                followed.sid = await connection.listen(followed.live, followed.take)
                if plain:
                    await connection.echo(self._timeout)
                else:
                    position = await self._look_up(connection, topic, followed)
            connection.check("subscription", followed.live)
            if self._connection is not connection:
                raise BusUnavailable(f"the connection was lost: {self._reason}")
        except BaseException:
            if self._topics.get(topic) is followed:
                del self._topics[topic]
            await connection.unlisten(followed.sid)
            raise
        return position

    async def unfollow(self, topic: str) -> None:
        """Have messages of a topic noticed no more.

        Args:
            topic: Name of the topic.
        """
        followed = self._topics.pop(topic, None)
        if followed is not None and self._connection is not None:
            await self._connection.unlisten(followed.sid)

    # -------------------------------------------------------------------------------------- history

    async def position(self, topic: str) -> Position | None:
        """Return the position of the last message; see ``Bus.position``.

        Args:
            topic: Name of the topic.

        Raises:
            BusUnavailable: If the server can't be asked.
        """
        connection = self._current()
        if not self._history or is_transient(topic):
            return None
        async with self._deadline():
            return await self._look_up(connection, topic, self._topics.get(topic))

    async def read(self, topic: str, since: Position, limit: int) -> Page:
        """Return what the history has after a position; see ``Bus.read``.

        Args:
            topic: Name of the topic.
            since: Position of the last message that is known.
            limit: Most messages to return.

        Raises:
            BusUnavailable: If the server can't be asked.
            ValueError: If the topic has no history.
        """
        connection = self._current()
        if not self._history or is_transient(topic):
            raise ValueError(f"topic {topic!r} has no history")
        async with self._deadline():
            page = await self._read(connection, topic, since, limit)
        if page.latest.epoch != self._epoch:
            raise self._began_anew()
        return page

    async def _read(self, connection: Connection, topic: str, since: Position, limit: int) -> Page:
        followed = self._topics.get(topic)
        epoch, offset = since
        if epoch != self._epoch:
            return Page([], False, await self._look_up(connection, topic, followed))
        last, upto, known = None, 0, offset
        if followed is not None and followed.last is not None:
            last, upto = followed.last, self._known_upto(followed)
            for last_then, upto_then in ((last, upto), followed.before or (last, upto)):
                if offset >= last_then:
                    known = max(known, upto_then)
        seen, leader = self._seen, self._replicas > 1
        found = await self._jetstream.fetch(
            connection, self._kept(topic), offset, limit + 1, leader=leader
        )
        messages = found.messages
        anchored = bool(messages) and messages[0][0].sequence == offset
        if anchored:
            del messages[0]
        if messages and anchored:
            # Those after it may have been dropped while they were read, but not before it.
            anchored = await self._jetstream.has(connection, offset, leader=leader)
        if not anchored:
            # Asked for after the messages: what isn't dropped now wasn't dropped then.
            stream = await self._jetstream.stream(connection, self._kept(topic))
            if stream is None or stream.epoch != epoch or epoch != self._epoch:
                self._doubt_stream()
                raise self._began_anew()
            self._seen = max(self._seen, stream.last)
            if (
                known < stream.first - 1
                or offset > stream.last
                or stream.there >= stream.per_subject
            ):
                return Page([], False, await self._look_up(connection, topic, followed))
        more = found.more or len(messages) > limit
        notices: list[Notice] = []
        previous = offset
        for stored, data in messages[:limit]:
            message = _message(data)
            if message is None:
                self._ignore(self._kept(topic))
                continue
            position = Position(epoch, stored.sequence)
            notices.append(Notice(topic, message, position, previous, stored.time))
            previous = stored.sequence
        if more:
            return Page(notices, True, await self._look_up(connection, topic, None))
        if followed is not None and last is not None and followed.last == last:
            # Nothing was noticed meanwhile.
            followed.before = None
            if notices:
                if previous >= last:
                    followed.know(previous, seen)
            elif offset <= max(last, upto):
                # Nothing is between the position and the one that this process knows as the last
                # one: of a topic without messages, each process has another one.
                previous = last
                followed.know(last, max(upto, seen))
            else:
                # It may be of another process, or its notice is still to come.
                latest = await self._look_up(connection, topic, followed)
                previous = min(offset, latest.offset)
        return Page(notices, True, Position(epoch, previous))

    def _known_upto(self, topic: _Topic) -> int:
        """Return up to which number of the stream all messages of a topic are known."""
        if self._direct and topic.generation == self._generation:
            return max(topic.upto, self._noticed)
        return topic.upto

    async def _look_up(self, connection: Connection, name: str, topic: _Topic | None) -> Position:
        """Return the position of a topic, and note it."""
        epoch, seen = self._epoch, self._seen
        last = await self._jetstream.last(connection, self._kept(name), leader=self._replicas > 1)
        if last is None:
            # Nothing is there, or not any more.
            last = seen
            if topic is not None and topic.last is not None:
                if self._direct and topic.generation == self._generation:
                    # Its notices come in order, or the connection is lost; some may be on the way.
                    if epoch != self._epoch:
                        raise self._began_anew()
                    return Position(epoch, topic.last)
                stream = await self._jetstream.stream(connection)
                if stream is None or stream.epoch != epoch:
                    raise self._began_anew()
                if topic.upto >= stream.first - 1:
                    last = topic.last
        elif topic is not None and topic.last is not None and last == topic.garbage:
            last = topic.last
            seen = max(seen, topic.garbage)
        if epoch != self._epoch:
            raise self._began_anew()
        if last > self._seen:
            self._seen = last
        if topic is not None:
            if topic.last is None or topic.last < last:
                topic.know(last, seen)
            elif topic.last == last:
                topic.upto = max(topic.upto, seen)
                topic.generation = self._generation
            else:
                last = topic.last  # noticed meanwhile
        return Position(epoch, last)

    # --------------------------------------------------------------------------------------- stream

    async def _find_stream(self, connection: Connection) -> None:
        """Find the stream, make it if there is none, and take its epoch."""
        settings, jetstream = self._settings, self._jetstream
        version = connection.server_version
        if version < OLDEST_SERVER:
            needed, found = (".".join(map(str, numbers)) for numbers in (OLDEST_SERVER, version))
            raise BusUnavailable(
                f"a history needs a NATS server of version {needed} or later; this one has {found}"
            )
        seen, seen_time = self._seen, self._seen_time
        stream = await jetstream.stream(connection)
        if stream is None:
            stream = await jetstream.make(connection)
        try:
            changes = settings.changes(stream)
        except ValueError as exc:
            raise BusUnavailable(str(exc)) from exc
        if stream.epoch == self._epoch and (
            stream.last < seen or await self._has_another(connection, stream, seen_time)
        ):
            # It is an older state of what it was, as after a crash.
            _logger.warning(
                "stream %s of the NATS server has lost messages: its history begins anew",
                settings.name,
            )
            changes |= settings.begin(new_epoch(stream.per_subject))
        if changes:
            stream = await jetstream.change(connection, stream, changes)
        self._adopt(connection, stream)

    def _adopt(self, connection: Connection, stream: Stream) -> None:
        self._replicas = stream.replicas
        self._direct = stream.replicas == 1 and stream.leader == connection.server_name
        if stream.epoch != self._epoch:
            self._epoch = stream.epoch
            self._kept_prefix = f"{self._prefix}.p.{stream.epoch}."
            self._seen = self._noticed = 0
            self._seen_time = None
            for topic in self._topics.values():
                topic.rename()
        self._seen = max(self._seen, stream.last)

    async def _has_another(
        self, connection: Connection, stream: Stream, seen: tuple[int, bytes] | None
    ) -> bool:
        """Tell whether a number belongs to another message than the one that was seen."""
        if seen is None or seen[0] < stream.first:
            return False
        time = await self._jetstream.time_of(connection, seen[0])
        return time is not None and time != seen[1]

    def _began_anew(self) -> BusUnavailable:
        return BusUnavailable(f"stream {self._settings.name!r} of the NATS server began anew")

    async def _refresh(self) -> None:
        """Find the stream again, once for all who want that at the same time."""
        if self._refreshing is None:
            self._refreshing = self._start(self._look_for_stream(self._current()))
            self._refreshing.add_done_callback(self._refreshed)
        await asyncio.shield(self._refreshing)

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._refreshing = None
        if not task.cancelled():
            task.exception()  # whoever waited may be gone

    async def _look_for_stream(self, connection: Connection) -> None:
        epoch = self._epoch
        async with asyncio.timeout(2 * self._timeout):
            await self._find_stream(connection)
        if self._epoch != epoch and self._receiver is not None and self._connection is connection:
            self._receiver.interrupted(
                BusError(f"stream {self._settings.name!r} of the NATS server began anew")
            )
            self._receiver.resumed()

    # ------------------------------------------------------------------------------------- liveness

    async def _look_after(self) -> None:
        """See again and again whether the connection and the stream are there.

        With a history, a message of one's own goes through the stream: when it comes back, all
        notices before it have come, too, and the topics that were silent are known up to it.
        """
        while True:
            await asyncio.sleep(self._interval)
            connection = self._connection
            if connection is None:
                continue
            try:
                if self._history:
                    await self._send_beat(connection)
                else:
                    await connection.echo(self._timeout)
            except NoResponders:
                await self._refresh_quietly()
            except Refused as exc:
                # So it is for publishers, who are told.
                _logger.debug("JetStream takes no message", exc_info=exc)
            except Exception as exc:
                connection.abandon(exc)

    async def _send_beat(self, connection: Connection) -> None:
        subject = f"{self._kept_prefix}~{self._identity}"
        beat = self._beat = asyncio.get_running_loop().create_future()
        answer, _ = await connection.ask(subject, b"", self._timeout)
        if b'"error"' in answer:
            raise refusal(answer)
        try:
            async with asyncio.timeout(self._timeout):
                await beat
        except TimeoutError:
            raise BusUnavailable(
                "what the stream repeats doesn't come: this process would be deaf"
            ) from None

    def _take_beat(self, data: bytes, headers: bytes | None) -> None:
        stored = parse_stored(headers)
        if stored is None or stored.subject != f"{self._kept_prefix}~{self._identity}".encode():
            return
        if stored.sequence > self._noticed:
            self._noticed = stored.sequence
            self._seen = max(self._seen, stored.sequence)
            self._seen_time = stored.sequence, stored.time
        if self._beat is not None and not self._beat.done():
            self._beat.set_result(None)


def _message(data: bytes) -> Message | None:
    """Return the message that was published; None if it is none of ours."""
    kind = data[:1]
    if kind == b"b":
        return data[1:]
    if kind == b"t":
        try:
            return data[1:].decode()
        except UnicodeDecodeError:
            pass
    return None
