"""How messages get to the bus, and where they wait while it is away.

Owns no connection, and knows nothing of subscriptions. All methods are called in the bus's loop.
"""

from __future__ import annotations

import asyncio
import functools
import random
from typing import Any, Final

from .bus import Bus, Message
from .exceptions import BusUnavailable, PublishUncertain
from .positions import Position

__all__ = ["CLOSING_TIME", "MAX_PUBLISHING_BYTES", "Publisher"]

MAX_PUBLISHING_BYTES: Final = 2**26
"""Bytes of messages of a process that aren't answered for by the broker yet, waiting or sent."""

# Seconds between attempts to publish the first message that waits, at first and at most.
FIRST_DELAY: Final = 0.05
MAX_DELAY: Final = 1.0

# Bytes that a message counts besides its payload.
ENTRY_OVERHEAD: Final = 160

CLOSING_TIME: Final = 1.0
"""Seconds in which what is given up has to end."""


class _Entry:
    """A message on its way.

    Attributes:
        ticket: Its place in the order of all messages of the process.
        deadline: When it is given up.
        task: What publishes it at the moment: that of its publisher, or one of its own if it has
            waited.
        future: What its publisher waits for if it waits in the queue, or has.
        error: Why it wasn't published the last time.
        verdict: What its publisher is told because of which it was given up.
    """

    __slots__ = ("deadline", "error", "future", "message", "task", "ticket", "topic", "verdict")

    def __init__(self, ticket: int, topic: str, message: Message, deadline: float) -> None:
        self.ticket = ticket
        self.topic = topic
        self.message = message
        self.deadline = deadline
        self.task: asyncio.Task[Any] | None = None
        self.future: asyncio.Future[Position | None] | None = None
        self.error: BusUnavailable | None = None
        self.verdict: Exception | None = None

    def fail(self, error: Exception) -> None:
        """Fail a message that waits, or has."""
        if self.future is not None and not self.future.done():
            self.future.set_exception(error)

    def give_up(self, verdict: Exception) -> None:
        """Wait no more for the answer to a message that is on its way."""
        # Once is enough: what is cancelled twice counts as cancelled by others, too.
        if self.task is not None and self.verdict is None:
            self.verdict = verdict
            self.task.cancel()
            self.fail(verdict)


class Publisher:
    """Publishes messages, or says why not; none of them is ever published twice.

    Without a queue, a message fails at once while the bus is away. With one, messages that surely
    weren't published wait there until the bus takes them or their time is over; what is published
    of a topic is in the order of the calls. One at a time finds out whether the bus is back: each
    time one of another topic, since the bus may refuse those of one alone.

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
        # All messages, by ticket, in the order of their deadlines; one timer looks after them.
        self._tickets = 0
        self._entries: dict[int, _Entry] = {}
        self._watch: asyncio.TimerHandle | None = None
        # Those on their way.
        self._flying: dict[int, _Entry] = {}
        # The rest is of use with a queue only. Whether messages are sent when they come:
        self._flowing = True
        # Tasks of messages that have waited, and that haven't begun perhaps.
        self._beginning = 0
        self._waiting: dict[int, _Entry] = {}
        # Those that weren't published; they wait again when nothing is on its way any more.
        self._failed: dict[int, _Entry] = {}
        # The last ticket of each topic that was published while an earlier one was on its way.
        self._overtaking: dict[str, int] = {}
        self._delay = FIRST_DELAY
        self._probing: asyncio.TimerHandle | None = None

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
        size = len(message) + ENTRY_OVERHEAD
        if not (self._flowing or self._has_place()) or self._bytes + size > MAX_PUBLISHING_BYTES:
            self.unpublished += 1
            raise self._refusal()
        loop = asyncio.get_running_loop()
        self._tickets += 1
        entry = _Entry(self._tickets, topic, message, loop.time() + self._timeout)
        self._bytes += size
        self._entries[entry.ticket] = entry
        if self._watch is None:
            self._watch = loop.call_at(entry.deadline, self._expire)
        try:
            if self._flowing and not self._beginning:
                position = await self._send_now(entry)
            else:
                entry.future = loop.create_future()
                if self._flowing:
                    self._fly(entry)
                else:
                    self._queue(entry)
                position = await self._wait(entry)
        except PublishUncertain:
            self.uncertain += 1
            raise
        except Exception:
            self.unpublished += 1
            raise
        finally:
            self._bytes -= size
            del self._entries[entry.ticket]
        self.published += 1
        return position

    def silent(self, reason: str) -> None:
        """Try no more until ``resumed``: the broker takes messages, but doesn't answer."""
        self._silence = reason
        self._flowing = False

    def resumed(self) -> None:
        """Note that the bus may be back; calling it more often than that does no harm."""
        self._silence = None
        if self._flowing or self._closed:
            return
        if self._size:
            self._probe_in(0)
        else:
            self._flowing = True  # each one finds out for itself

    async def close(self) -> None:
        """Fail what waits, and give up what is on its way."""
        self._closed = True
        self._flowing = False
        for timer in (self._watch, self._probing):
            if timer is not None:
                timer.cancel()
        for entry in [*self._failed.values(), *self._waiting.values()]:
            entry.fail(BusUnavailable("topics are closed"))
        tasks = [entry.task for entry in self._flying.values() if entry.future is not None]
        for entry in self._flying.values():
            entry.give_up(PublishUncertain("topics were closed before the broker answered"))
        if tasks:
            await asyncio.wait([task for task in tasks if task], timeout=CLOSING_TIME)

    # ------------------------------------------------------------------ one message

    def _has_place(self) -> bool:
        return len(self._flying) + self.waiting < self._size and not self._closed

    def _refusal(self) -> BusUnavailable:
        """Return why a message isn't even tried."""
        if self._closed:
            return BusUnavailable("topics are closed")
        if self._flowing or self._has_place():
            return BusUnavailable(f"more than {MAX_PUBLISHING_BYTES} bytes wait for the broker")
        if not self._size and self._silence is not None:
            return BusUnavailable(self._silence)
        return BusUnavailable(f"the bus is away, and {self._size} messages wait already")

    async def _send_now(self, entry: _Entry) -> Position | None:
        """Publish a message in its publisher's task; let it wait if the bus is away."""
        task = entry.task = asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()
        self._flying[entry.ticket] = entry
        published = False
        try:
            position = await self._bus.publish(entry.topic, entry.message)
            published = True
            return position
        except BusUnavailable as exc:
            if not self._size:
                raise
            entry.error = exc
            entry.future = asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            if entry.verdict is not None and task.uncancel() <= cancelling:
                raise entry.verdict from None
            raise
        finally:
            self._landed(entry, published)
        return await self._wait(entry)

    async def _wait(self, entry: _Entry) -> Position | None:
        """Wait in the queue."""
        assert entry.future is not None
        try:
            return await entry.future
        finally:
            self._waiting.pop(entry.ticket, None)
            self._failed.pop(entry.ticket, None)
            if entry.task is not None:
                entry.task.cancel()

    def _expire(self) -> None:
        """Give up messages whose time is over."""
        self._watch = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for entry in self._entries.values():
            if entry.deadline > now:
                self._watch = loop.call_at(entry.deadline, self._expire)
                break
            if entry.task is not None:
                entry.give_up(
                    PublishUncertain(f"the broker didn't answer within {self._timeout:g} seconds")
                )
            else:
                error = BusUnavailable(f"the bus was away for {self._timeout:g} seconds")
                error.__cause__ = entry.error
                entry.fail(error)

    # ------------------------------------------------------------------ the queue

    def _queue(self, entry: _Entry) -> None:
        self._waiting[entry.ticket] = entry
        if self._probing is None and self._silence is None:
            self._probe_in(self._delay)

    def _fly(self, entry: _Entry) -> None:
        """Publish a message that has waited."""
        loop = asyncio.get_running_loop()
        self._flying[entry.ticket] = entry
        entry.task = loop.create_task(self._send(entry))
        # Whoever publishes before that task has begun mustn't overtake it.
        self._beginning += 1
        loop.call_soon(self._begun)
        # Called, too, if the task is cancelled before it begins.
        entry.task.add_done_callback(functools.partial(self._sent, entry))

    def _begun(self) -> None:
        self._beginning -= 1

    async def _send(self, entry: _Entry) -> bool:
        """Have the bus publish a message; return whether it did."""
        assert entry.future is not None
        try:
            position = await self._bus.publish(entry.topic, entry.message)
        except BusUnavailable as exc:
            entry.error = exc
            return False
        except Exception as exc:
            entry.fail(exc)
            return False
        if not entry.future.done():
            entry.future.set_result(position)
        return True

    def _sent(self, entry: _Entry, task: asyncio.Task[bool]) -> None:
        self._landed(entry, not task.cancelled() and task.result())

    def _landed(self, entry: _Entry, published: bool) -> None:
        """Note that a message isn't on its way any more."""
        entry.task = None
        del self._flying[entry.ticket]
        if entry.error is not None and not published:
            self._flowing = False
            if entry.future is not None and not entry.future.done():
                self._failed[entry.ticket] = entry
        if published and (
            not self._flowing or (self._flying and next(iter(self._flying)) < entry.ticket)
        ):
            last = self._overtaking.get(entry.topic, 0)
            self._overtaking[entry.topic] = max(last, entry.ticket)
        if self._flying:
            return
        if not self._flowing:
            self._settle(published)
        elif self._overtaking:
            self._overtaking.clear()

    def _settle(self, published: bool) -> None:
        """Decide how to go on now that nothing is on its way.

        Args:
            published: Whether the last message was.
        """
        again: dict[int, _Entry] = {}
        for ticket in sorted(self._failed):
            entry = self._failed[ticket]
            assert entry.error is not None
            overtaken = self._overtaking.get(entry.topic, 0) > ticket
            if self._closed or overtaken or len(again) == self._size:
                entry.fail(entry.error)
            else:
                again[ticket] = entry
        failed = bool(self._failed)
        self._failed.clear()
        self._overtaking.clear()
        # The next one that finds out is of another topic. Of each topic, the order stays.
        refused = {entry.topic for entry in again.values()}
        waiting = self._waiting
        self._waiting = {t: entry for t, entry in waiting.items() if entry.topic not in refused}
        self._waiting |= again
        self._waiting |= waiting
        if self._closed:
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
        for ticket in sorted(waiting):  # whoever was overtaken is known by this order
            self._fly(waiting[ticket])

    def _probe_in(self, seconds: float) -> None:
        if self._probing is not None:
            self._probing.cancel()
        self._probing = asyncio.get_running_loop().call_later(seconds, self._probe)

    def _probe(self) -> None:
        """Send the first message that waits."""
        self._probing = None
        # What is on its way finds out, too.
        if not self._flying and not self._flowing and self._silence is None:
            if self._waiting:
                self._fly(self._waiting.pop(next(iter(self._waiting))))
            else:
                self._flow()
