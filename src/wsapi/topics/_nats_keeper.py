"""Keeps the stream of topics on a NATS server: that it is there, and whose messages are known.

With each new connection, what is followed is followed again, and the stream is found, or made.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from ._nats_connection import Connection, NoResponders
from ._nats_jetstream import JetStream, Refused, StreamAway, refusal
from ._nats_known import Known, Topic
from ._nats_link import Link
from ._nats_stream import Stream, StreamSettings, new_epoch, parse_stored
from .exceptions import BusError, BusUnavailable

__all__ = ["Keeper"]

BEAT_INTERVAL: Final = 5.0
"""Seconds between looks whether the server still answers, at most."""

DOUBT_INTERVAL: Final = 1.0
"""Seconds between looks at the stream because of messages that seem to be of another one."""

OLDEST_SERVER: Final = (2, 10)
"""Version of the server that a history needs: earlier ones don't say when messages were stored."""

logger = logging.getLogger("wsapi.topics")


class Keeper(Link):
    """Keeps a connection, what is followed with it, and the stream.

    Args:
        servers: URIs of the servers.
        settings: Which stream, and how it shall be; without a history, there is none.
        timeout: How long each call waits for the server, in seconds.
        max_pending_bytes: Bytes of messages that may wait for answers.
        options: How to connect.

    Attributes:
        history: Whether there is a stream.
        known: What is known of it, and of what is followed.
        jetstream: What it is asked for.
    """

    def __init__(
        self,
        servers: list[str],
        settings: StreamSettings,
        timeout: float,
        max_pending_bytes: int,
        options: dict[str, Any],
    ) -> None:
        super().__init__(servers, settings.prefix, timeout, max_pending_bytes, options)
        self.history = settings.history > 0
        self.known = Known(settings.prefix, self.doubt_stream)
        self.jetstream = JetStream(settings, timeout)
        self._settings = settings
        self._interval = min(BEAT_INTERVAL, settings.seconds / 4)
        self._identity = secrets.token_hex(8)
        self._refreshing: asyncio.Task[None] | None = None
        self._beat: asyncio.Future[None] | None = None
        self._next_doubt = 0.0

    async def close(self) -> None:
        """End the connection and all tasks, whatever the server does."""
        self.known.topics.clear()
        await super().close()

    @asynccontextmanager
    async def deadline(self) -> AsyncIterator[None]:
        """Limit how long the server is waited for, and look at the stream if it is away."""
        try:
            async with asyncio.timeout(self.timeout):
                yield
        except StreamAway:
            self.doubt_stream()
            raise
        except TimeoutError:
            raise BusUnavailable(
                f"the NATS server hasn't answered within {self.timeout} seconds"
            ) from None

    # ------------------------------------------------------------------------------- connections

    async def listen(self, connection: Connection, topic: Topic) -> None:
        """Have a connection follow a topic."""
        topic.sid = await connection.listen(topic.live, partial(self._take, topic))
        topic.unlisten = connection.unlisten

    async def unlisten(self, topic: Topic) -> None:
        """Have it followed no more, be it by a connection that is still being prepared."""
        if topic.unlisten is not None:
            await topic.unlisten(topic.sid)

    def _take(self, topic: Topic, data: bytes, headers: bytes | None) -> None:
        receiver = self.receiver
        if receiver is not None:
            notice = self.known.take(topic, data, headers)
            if notice is not None:
                receiver.notice(notice)

    async def _prepare(self, connection: Connection) -> None:
        """Follow with a new connection what was followed with the last one, and find the stream."""
        known = self.known
        known.connected()
        for topic in list(known.topics.values()):
            await self.listen(connection, topic)
            if known.topics.get(topic.name) is not topic:
                await self.unlisten(topic)
        beats, _ = known.beats(self._identity)
        if self.history:
            await connection.listen(beats, self._take_beat)
        await connection.echo(self.timeout)
        for topic in known.topics.values():
            connection.check("subscription", topic.live)
        if self.history:
            connection.check("subscription", beats)
            await self._find_stream(connection)
            try:
                await self._send_beat(connection)
            except NoResponders:
                raise BusUnavailable(f"stream {self._settings.name!r} takes no messages") from None

    def _note_loss(self) -> None:
        self.known.lost()

    # --------------------------------------------------------------------------------------- stream

    async def _find_stream(self, connection: Connection) -> None:
        """Find the stream, make it if there is none, and take its epoch."""
        settings, jetstream = self._settings, self.jetstream
        version = connection.server_version
        if version < OLDEST_SERVER:
            needed, found = (".".join(map(str, numbers)) for numbers in (OLDEST_SERVER, version))
            raise BusUnavailable(
                f"a history needs a NATS server of version {needed} or later; this one has {found}"
            )
        seen, seen_time = self.known.seen, self.known.seen_time
        stream = await jetstream.stream(connection)
        if stream is None:
            stream = await jetstream.make(connection)
        try:
            changes = settings.changes(stream)
        except ValueError as exc:
            raise BusUnavailable(str(exc)) from exc
        if stream.epoch == self.known.epoch and (
            stream.last < seen or await self._has_another(connection, stream, seen_time)
        ):
            # It is an older state of what it was, as after a crash.
            logger.warning(
                "stream %s of the NATS server has lost messages: its history begins anew",
                settings.name,
            )
            changes |= settings.begin(new_epoch(stream.per_subject))
        if changes:
            stream = await jetstream.change(connection, stream, changes)
        self.known.adopt(stream, connection.server_name)

    async def _has_another(
        self, connection: Connection, stream: Stream, seen: tuple[int, bytes] | None
    ) -> bool:
        """Tell whether a number belongs to another message than the one that was seen."""
        if seen is None or seen[0] < stream.first:
            return False
        time = await self.jetstream.time_of(connection, seen[0])
        return time is not None and time != seen[1]

    def began_anew(self) -> BusUnavailable:
        """Return the error that says so."""
        return BusUnavailable(f"stream {self._settings.name!r} of the NATS server began anew")

    async def refresh(self) -> None:
        """Find the stream again, once for all who want that at the same time."""
        if self._refreshing is None:
            self._refreshing = self.start(self._look_for_stream(self.current()))
            self._refreshing.add_done_callback(self._refreshed)
        await asyncio.shield(self._refreshing)

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._refreshing = None
        if not task.cancelled():
            task.exception()  # whoever waited may be gone

    async def _look_for_stream(self, connection: Connection) -> None:
        epoch = self.known.epoch
        async with asyncio.timeout(2 * self.timeout):
            await self._find_stream(connection)
        if (
            self.known.epoch != epoch
            and self.receiver is not None
            and self.connection is connection
        ):
            self.receiver.interrupted(
                BusError(f"stream {self._settings.name!r} of the NATS server began anew")
            )
            self.receiver.resumed()

    def doubt_stream(self) -> None:
        """Look at the stream again, now and then: something seems to be of another one."""
        now = asyncio.get_running_loop().time()
        if self.connection is not None and self._refreshing is None and now >= self._next_doubt:
            self._next_doubt = now + DOUBT_INTERVAL
            self.start(self._refresh_quietly())

    async def _refresh_quietly(self) -> None:
        try:
            await self.refresh()
        except BusUnavailable as exc:
            logger.debug("can't look at the stream", exc_info=exc)

    # ------------------------------------------------------------------------------------- liveness

    async def _look_after(self) -> None:
        """See again and again whether the connection and the stream are there.

        With a history, a message of one's own goes through the stream: when it comes back, all
        notices before it have come, too, and the topics that were silent are known up to it.
        """
        while True:
            await asyncio.sleep(self._interval)
            connection = self.connection
            if connection is None:
                continue
            try:
                if self.history:
                    await self._send_beat(connection)
                else:
                    await connection.echo(self.timeout)
            except NoResponders:
                await self._refresh_quietly()
            except Refused as exc:
                # So it is for publishers, who are told.
                logger.debug("JetStream takes no message", exc_info=exc)
            except Exception as exc:
                connection.abandon(exc)

    async def _send_beat(self, connection: Connection) -> None:
        _, subject = self.known.beats(self._identity)
        beat = self._beat = asyncio.get_running_loop().create_future()
        answer, _ = await connection.ask(subject, b"", self.timeout)
        if b'"error"' in answer:
            raise refusal(answer)
        try:
            async with asyncio.timeout(self.timeout):
                await beat
        except TimeoutError:
            raise BusUnavailable(
                "what the stream repeats doesn't come: this process would be deaf"
            ) from None

    def _take_beat(self, data: bytes, headers: bytes | None) -> None:
        stored = parse_stored(headers)
        _, subject = self.known.beats(self._identity)
        if stored is None or stored.subject != subject.encode():
            return
        self.known.hear(stored)
        if self._beat is not None and not self._beat.done():
            self._beat.set_result(None)
