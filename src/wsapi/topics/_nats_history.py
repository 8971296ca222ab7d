"""Reads the history of topics from a NATS stream: what a topic has after a position."""

from __future__ import annotations

from ._nats_connection import Connection
from ._nats_keeper import Keeper
from ._nats_known import Topic, message_of
from .bus import Notice, Page
from .positions import Position

__all__ = ["History"]


class History:
    """What topics have in the stream, and what that says of what is known.

    Args:
        keeper: Keeps the stream.
    """

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    async def read(self, connection: Connection, topic: str, since: Position, limit: int) -> Page:
        """Return what there is after a position; see ``Bus.read``.

        Args:
            connection: Whom to ask.
            topic: Name of the topic.
            since: The position.
            limit: Most messages to return.

        Raises:
            BusUnavailable: If the server can't be asked, or the stream began anew meanwhile.
        """
        known, jetstream = self._keeper.known, self._keeper.jetstream
        followed = known.topics.get(topic)
        epoch, offset = since
        if epoch != known.epoch:
            return Page([], False, await self.position(connection, topic, followed))
        last, upto, complete = None, 0, offset
        if followed is not None and followed.last is not None:
            last, upto = followed.last, known.upto(followed)
            for last_then, upto_then in ((last, upto), followed.before or (last, upto)):
                if offset >= last_then:
                    complete = max(complete, upto_then)
        seen, leader = known.seen, known.replicas > 1
        found = await jetstream.fetch(
            connection, known.kept(topic), offset, limit + 1, leader=leader
        )
        messages = found.messages
        anchored = bool(messages) and messages[0][0].sequence == offset
        if anchored:
            del messages[0]
        if messages and anchored:
            # Those after it may have been dropped while they were read, but not before it.
            anchored = await jetstream.has(connection, offset, leader=leader)
        if not anchored:
            # Asked for after the messages: what isn't dropped now wasn't dropped then.
            stream = await jetstream.stream(connection, known.kept(topic))
            if stream is None or stream.epoch != epoch or epoch != known.epoch:
                self._keeper.doubt_stream()
                raise self._keeper.began_anew()
            known.seen = max(known.seen, stream.last)
            if (
                complete < stream.first - 1
                or offset > stream.last
                or stream.there >= stream.per_subject
            ):
                return Page([], False, await self.position(connection, topic, followed))
        more = found.more or len(messages) > limit
        notices: list[Notice] = []
        previous = offset
        for stored, data in messages[:limit]:
            message = message_of(data)
            if message is None:
                known.ignore(known.kept(topic))
                continue
            position = Position(epoch, stored.sequence)
            notices.append(Notice(topic, message, position, previous, stored.time))
            previous = stored.sequence
        if more:
            return Page(notices, True, await self.position(connection, topic, None))
        if followed is not None and last is not None and followed.last == last:
            # Nothing was noticed meanwhile.
            followed.before = None
            if notices:
                if previous >= last:
                    followed.know(previous, seen, known.generation)
            elif offset <= max(last, upto):
                # Nothing is between the position and the one that this process knows as the last
                # one: of a topic without messages, each process has another one.
                previous = last
                followed.know(last, max(upto, seen), known.generation)
            else:
                # It may be of another process, or its notice is still to come.
                latest = await self.position(connection, topic, followed)
                previous = min(offset, latest.offset)
        return Page(notices, True, Position(epoch, previous))

    async def position(self, connection: Connection, name: str, topic: Topic | None) -> Position:
        """Return the position of a topic, and note it.

        Args:
            connection: Whom to ask.
            name: Name of the topic.
            topic: What is known of it; None if it isn't followed, or that isn't to be noted.

        Raises:
            BusUnavailable: If the server can't be asked, or the stream began anew meanwhile.
        """
        known, jetstream = self._keeper.known, self._keeper.jetstream
        epoch, seen = known.epoch, known.seen
        last = await jetstream.last(connection, known.kept(name), leader=known.replicas > 1)
        if last is None:
            # Nothing is there, or not any more.
            last = seen
            if topic is not None and topic.last is not None:
                if known.is_in_order(topic):
                    # Its notices come in order, or the connection is lost; some may be on the way.
                    if epoch != known.epoch:
                        raise self._keeper.began_anew()
                    return Position(epoch, topic.last)
                stream = await jetstream.stream(connection)
                if stream is None or stream.epoch != epoch:
                    raise self._keeper.began_anew()
                if topic.upto >= stream.first - 1:
                    last = topic.last
        elif topic is not None and topic.last is not None and last == topic.garbage:
            last = topic.last
            seen = max(seen, topic.garbage)
        if epoch != known.epoch:
            raise self._keeper.began_anew()
        if last > known.seen:
            known.seen = last
        if topic is not None:
            if topic.last is None or topic.last < last:
                topic.know(last, seen, known.generation)
            elif topic.last == last:
                topic.upto = max(topic.upto, seen)
                topic.generation = known.generation
            else:
                last = topic.last  # noticed meanwhile
        return Position(epoch, last)
