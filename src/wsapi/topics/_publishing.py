"""How messages get to the bus, and where they wait while it is away.

Owns no connection, and knows nothing of subscriptions. All methods are called in the bus's loop.
"""

from __future__ import annotations

import asyncio
import functools
import random
from typing import Final

from .bus import Bus, Message
from .exceptions import BusUnavailable, PublishUncertain
from .positions import Position

__all__ = ["MAX_PUBLISHING_BYTES", "Publisher", "size_of"]

MAX_PUBLISHING_BYTES: Final = 2**26
"""Bytes of messages of a process that aren't answered for by the broker yet, waiting or sent."""

# Seconds between attempts to publish the first message that waits, at first and at most.
FIRST_DELAY: Final = 0.05
MAX_DELAY: Final = 1.0

CLOSING_TIME: Final = 1.0
"""Seconds in which what is given up has to end."""


def size_of(message: Message) -> int:
    """Return about how many bytes a message takes, without encoding it."""
    return len(message) + 64


class _Entry:
    """A message on its way.

    Attributes:
        ticket: Its place in the order of all messages of the process.
        task: What publishes it at the moment.
        error: Why it wasn't published the last time.
    """

    __slots__ = ("error", "future", "message", "task", "ticket", "topic")

    def __init__(
        self, ticket: int, topic: str, message: Message, future: asyncio.Future[Position | None]
    ) -> None:
        self.ticket = ticket
        self.topic = topic
        self.message = message
        self.future = future
        self.task: asyncio.Task[bool] | None = None
        self.error: Exception | None = None

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Publisher:
    """Publishes messages, or says why not; none of them is ever published twice.

    Without a queue, a message fails at once while the bus is away. With one, messages that surely
    weren't published wait there until the bus takes them or their time is over; what is published
    of a topic is in the order of the calls. The first one alone finds out whether the bus is back.

    Args:
        bus: The bus.
        size: Messages that may wait; 0 for no queue.
        timeout: Seconds that a message may take, waiting and on its way.

    Attributes:
        published: Messages that the broker has.
        unpublished: Messages that it hasn't, as their publishers were told.
        uncertain: Messages of which that isn't known.
    """

    def __init__(self, bus: Bus, size: int, timeout: float) -> None:
        self.published = 0
        self.unpublished = 0
        self.uncertain = 0
        self._bus = bus
        self._size = size
        self._timeout = timeout
        self._bytes = 0
        self._closed = False
        # Why nothing is tried at present.
        self._silence: str | None = None
        # The rest is of use with a queue only. Messages are in order in all of these.
        self._tickets = 0
        self._flying: dict[int, _Entry] = {}
        self._waiting: dict[int, _Entry] = {}
        # Those that weren't published; they wait again when nothing is on its way any more.
        self._failed: dict[int, _Entry] = {}
        # The last ticket of each topic that was published while an earlier one was on its way.
        self._overtaking: dict[str, int] = {}
        # Whether messages are sent when they come.
        self._flowing = True
        self._delay = FIRST_DELAY
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many messages wait until the bus is back."""
        return len(self._waiting) + len(self._failed)

    async def publish(self, topic: str, message: Message) -> Position | None:
        """Publish a message.

        Args:
            topic: Name of the topic.
            message: The message.

        Raises:
            BusUnavailable: If it wasn't published: the bus is away, the queue is full, or the
                message waited in it for too long.
            PublishUncertain: If that isn't known.
        """
        size = size_of(message)
        try:
            if self._closed:
                raise BusUnavailable("topics are closed")
            if self._bytes + size > MAX_PUBLISHING_BYTES:
                raise BusUnavailable(f"more than {MAX_PUBLISHING_BYTES} bytes wait for the broker")
            self._bytes += size
            try:
                if self._size:
                    position = await self._publish_in_order(topic, message)
                else:
                    position = await self._publish_now(topic, message)
            finally:
                self._bytes -= size
        except PublishUncertain:
            self.uncertain += 1
            raise
        except Exception:
            self.unpublished += 1
            raise
        self.published += 1
        return position

    def silent(self, reason: str) -> None:
        """Try no more until ``resumed``: the broker takes messages, but doesn't answer."""
        self._silence = reason
        self._flowing = False

    def resumed(self) -> None:
        """Note that the bus may be back; calling it more often than that does no harm."""
        self._silence = None
        if not self._flowing:
            self._probe_in(0)

    async def close(self) -> None:
        """Fail what waits, and give up what is on its way."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for entry in [*self._failed.values(), *self._waiting.values()]:
            entry.fail(BusUnavailable("topics are closed"))
        tasks = []
        for entry in self._flying.values():
            entry.fail(PublishUncertain("topics were closed before the broker answered"))
            if entry.task is not None:
                entry.task.cancel()
                tasks.append(entry.task)
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSING_TIME)

    # ------------------------------------------------------------------ without a queue

    async def _publish_now(self, topic: str, message: Message) -> Position | None:
        if self._silence is not None:
            raise BusUnavailable(self._silence)
        try:
            async with asyncio.timeout(self._timeout):
                return await self._bus.publish(topic, message)
        except TimeoutError:
            raise self._unanswered() from None

    def _unanswered(self) -> PublishUncertain:
        return PublishUncertain(f"the broker didn't answer within {self._timeout:g} seconds")

    # ------------------------------------------------------------------ with a queue

    async def _publish_in_order(self, topic: str, message: Message) -> Position | None:
        future: asyncio.Future[Position | None] = asyncio.get_running_loop().create_future()
        entry = _Entry(self._tickets, topic, message, future)
        if self._flowing:
            self._fly(entry)
        elif len(self._flying) + self.waiting < self._size:
            self._waiting[entry.ticket] = entry
            if self._timer is None and self._silence is None:
                self._probe_in(self._delay)
        else:
            raise BusUnavailable(f"the bus is away, and {self._size} messages wait already")
        self._tickets += 1
        try:
            async with asyncio.timeout(self._timeout):
                return await future
        except TimeoutError:
            if entry.task is not None:
                raise self._unanswered() from None
            raise BusUnavailable(f"the bus was away for {self._timeout:g} seconds") from entry.error
        finally:
            self._waiting.pop(entry.ticket, None)
            self._failed.pop(entry.ticket, None)
            if entry.task is not None:
                entry.task.cancel()

    def _fly(self, entry: _Entry) -> None:
        self._flying[entry.ticket] = entry
        entry.task = asyncio.get_running_loop().create_task(self._send(entry))
        # Called, too, if the task is cancelled before it begins.
        entry.task.add_done_callback(functools.partial(self._landed, entry))

    async def _send(self, entry: _Entry) -> bool:
        """Have the bus publish a message; return whether it did."""
        try:
            position = await self._bus.publish(entry.topic, entry.message)
        except BusUnavailable as exc:
            entry.error = exc
            self._flowing = False
            if not entry.future.done():
                self._failed[entry.ticket] = entry
            return False
        except Exception as exc:
            entry.fail(exc)
            return False
        if not entry.future.done():
            entry.future.set_result(position)
        self._note_overtaking(entry)
        return True

    def _landed(self, entry: _Entry, task: asyncio.Task[bool]) -> None:
        """Note that a message isn't on its way any more."""
        entry.task = None
        del self._flying[entry.ticket]
        if not self._flying:
            self._settle(not task.cancelled() and task.result())

    def _note_overtaking(self, entry: _Entry) -> None:
        """Remember that a message was published before an earlier one, as long as that matters."""
        oldest = next(iter(self._flying))
        if oldest < entry.ticket or self._failed:
            last = self._overtaking.get(entry.topic, 0)
            self._overtaking[entry.topic] = max(last, entry.ticket)

    def _settle(self, published: bool) -> None:
        """Decide how to go on now that nothing is on its way.

        Args:
            published: Whether the last message was.
        """
        again: dict[int, _Entry] = {}
        for ticket in sorted(self._failed):
            entry = self._failed[ticket]
            assert entry.error is not None
            overtaken = self._overtaking.get(entry.topic, -1) > ticket
            if self._closed or overtaken or len(again) == self._size:
                entry.fail(entry.error)
            else:
                again[ticket] = entry
        failed = bool(self._failed)
        self._failed.clear()
        self._overtaking.clear()
        self._waiting = again | self._waiting
        if self._flowing or self._closed:
            return
        if published and not failed:
            self._flow()
        elif self._silence is None:
            self._delay = min(2 * self._delay, MAX_DELAY)
            self._probe_in(random.uniform(0.5, 1) * self._delay)

    def _flow(self) -> None:
        """Send all that waits, and what comes from now on."""
        self._silence = None
        self._flowing = True
        self._delay = FIRST_DELAY
        waiting, self._waiting = self._waiting, {}
        for entry in waiting.values():
            self._fly(entry)

    def _probe_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._probe)

    def _probe(self) -> None:
        """Send the first message that waits."""
        self._timer = None
        # What is on its way finds out, too.
        if not self._flying and not self._flowing and self._silence is None:
            if self._waiting:
                self._fly(self._waiting.pop(next(iter(self._waiting))))
            else:
                self._flow()
