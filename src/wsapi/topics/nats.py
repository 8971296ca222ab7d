"""Topics on a NATS server, with or without a history in JetStream.

The extra ``nats`` installs what it needs: ``pip install wsproto-fast[nats]``.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Literal

from ._nats_connection import NoResponders
from ._nats_history import History
from ._nats_jetstream import refusal
from ._nats_keeper import Keeper
from ._nats_options import check_int, check_name, check_seconds, checked_servers, shown
from ._nats_stream import StreamSettings
from .bus import BusReceiver, Message, Page, is_transient
from .exceptions import BusUnavailable, PublishUncertain
from .positions import Position

__all__ = ["NatsBus"]

_SEQUENCE = re.compile(rb'"seq": ?(\d{1,20})')


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
        uris = checked_servers(servers)
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
        options: dict[str, Any] = {
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
        self._keeper = Keeper(uris, self._settings, timeout, max_pending_bytes, options)
        self._known = self._keeper.known
        self._history = History(self._keeper)
        self._timeout = timeout

    def __repr__(self) -> str:
        servers = ", ".join(shown(server) for server in self._keeper.servers)
        return f"<{type(self).__name__} {servers} {self._settings.prefix}>"

    @property
    def ignored(self) -> int:
        """How many messages on the subjects of topics were none of ours."""
        return self._known.ignored

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
        await self._keeper.open(receiver)

    async def close(self) -> None:
        """End the connection and all tasks, whatever the server does."""
        await self._keeper.close()

    def reconnect(self) -> None:
        """Give up the connection, and make another one."""
        self._keeper.reconnect()

    def _has_history(self, topic: str) -> bool:
        return self._keeper.history and not is_transient(topic)

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
        connection = self._keeper.current()
        payload = b"t" + message.encode() if isinstance(message, str) else b"b" + message
        if len(payload) > connection.max_payload:
            raise ValueError(
                f"the message has {len(payload) - 1} bytes, and the NATS server takes"
                f" {connection.max_payload - 1}: raise its max_payload, or lower max_message_size"
            )
        if not self._has_history(topic):
            subject = self._known.live(topic)
            await connection.send(subject, payload)
            try:
                await connection.echo(self._timeout)
            except BusUnavailable as exc:
                raise PublishUncertain(
                    f"the NATS server may have published the message, or not: {exc}"
                ) from exc
            connection.check("publish", subject)
            return None
        epoch, subject = self._known.epoch, self._known.kept(topic)
        try:
            answer, _ = await connection.ask(subject, payload, self._timeout, publishes=True)
        except NoResponders:
            epoch, answer = await self._publish_again(topic, payload)
        found = _SEQUENCE.search(answer) if b'"error"' not in answer else None
        if found is None:
            raise refusal(answer)
        sequence = int(found[1])
        if epoch == self._known.epoch and sequence > self._known.seen:
            self._known.seen = sequence
        return Position(epoch, sequence)

    async def _publish_again(self, topic: str, payload: bytes) -> tuple[str, bytes]:
        """Publish what nobody took: the stream is gone, or no server leads it."""
        async with self._keeper.deadline():
            await self._keeper.refresh()
        epoch = self._known.epoch
        try:
            answer, _ = await self._keeper.current().ask(
                self._known.kept(topic), payload, self._timeout, publishes=True
            )
        except NoResponders:
            raise BusUnavailable(
                f"no NATS server takes messages for stream {self._settings.name!r}"
            ) from None
        return epoch, answer

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
        connection = self._keeper.current()
        if topic in self._known.topics:
            return await self.position(topic)
        plain = not self._has_history(topic)
        followed = self._known.topic(topic, plain=plain)
        self._known.topics[topic] = followed
        position = None
        try:
            async with self._keeper.deadline():
                await self._keeper.listen(connection, followed)
                if plain:
                    await connection.echo(self._timeout)
                else:
                    position = await self._history.position(connection, topic, followed)
            connection.check("subscription", followed.live)
            self._keeper.check_current(connection)
        except BaseException:
            if self._known.topics.get(topic) is followed:
                del self._known.topics[topic]
            await self._keeper.unlisten(followed)
            raise
        return position

    async def unfollow(self, topic: str) -> None:
        """Have messages of a topic noticed no more.

        Args:
            topic: Name of the topic.
        """
        followed = self._known.topics.pop(topic, None)
        if followed is not None:
            await self._keeper.unlisten(followed)

    # -------------------------------------------------------------------------------------- history

    async def position(self, topic: str) -> Position | None:
        """Return the position of the last message; see ``Bus.position``.

        Args:
            topic: Name of the topic.

        Raises:
            BusUnavailable: If the server can't be asked.
        """
        connection = self._keeper.current()
        if not self._has_history(topic):
            return None
        async with self._keeper.deadline():
            return await self._history.position(connection, topic, self._known.topics.get(topic))

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
        connection = self._keeper.current()
        if not self._has_history(topic):
            raise ValueError(f"topic {topic!r} has no history")
        async with self._keeper.deadline():
            page = await self._history.read(connection, topic, since, limit)
        if page.latest.epoch != self._known.epoch:
            raise self._keeper.began_anew()
        return page
