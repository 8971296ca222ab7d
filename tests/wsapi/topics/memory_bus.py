"""A broker in memory that several processes share, and that fails as brokers do, when it is told.

Each ``MemoryBus`` is what a process has of it. Faults are states or single acts, so that tests need
no clock: the broker goes ``away`` and comes ``back``, maybe with an older state; it never answers;
it holds notices back, drops them in silence, forgets history. Buses of one broker may run on event
loops of several threads.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from wsapi.topics.bus import Bus, BusReceiver, Message, Notice, Page, is_transient
from wsapi.topics.exceptions import BusUnavailable, PublishUncertain
from wsapi.topics.positions import Position

State: TypeAlias = "dict[str, _Log]"


class _Log:
    """What the broker knows of a topic."""

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.offset = 0
        self.entries: deque[Notice] = deque()

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.offset)


class MemoryBroker:
    """What all processes share.

    Args:
        history: Messages that are kept of each topic; None: topics have no positions either.
        step: How much offsets grow from one message to the next.
    """

    def __init__(self, history: int | None = 1000, *, step: int = 1) -> None:
        self.history = history
        self.step = step
        self.logs: State = {}
        self.buses: list[MemoryBus] = []
        self.available = True
        # Whether calls are answered; those that aren't wait as long as their bus has patience.
        self.answers = True
        # Whether notices wait here for release().
        self.holding = False
        self.held: deque[tuple[MemoryBus, Notice]] = deque()
        # Which notices never arrive, though nobody is told.
        self.drops: Callable[[Notice], bool] = lambda notice: False
        # Of how many next publishes the answer gets lost.
        self.lost_answers = 0
        # Names of the calls that came, in order, transient topics left out.
        self.calls: list[tuple[str, str]] = []
        self.lock = threading.RLock()
        self._epochs = itertools.count(1)
        self._marks = itertools.count(1)

    def bus(self, *, timeout: float | None = 5.0) -> MemoryBus:
        """Return a bus for another process.

        Args:
            timeout: Seconds until a call that isn't answered raises; None: never.
        """
        return MemoryBus(self, timeout)

    # ------------------------------------------------------------------ faults

    def go_away(self) -> None:
        """End all connections; refuse new ones until ``come_back``."""
        with self.lock:
            self.available = False
            for bus in self.buses:
                bus.lose(ConnectionResetError("the broker went away"))

    def come_back(self, state: State | None = None, *, new_epochs: bool = False) -> None:
        """Accept connections again.

        Args:
            state: What ``state()`` returned at a time: messages published since then are lost,
                and their offsets will be used again.
            new_epochs: Whether that is seen, and epochs begin.
        """
        with self.lock:
            if state is not None:
                self.logs = copy.deepcopy(state)
            if new_epochs:
                for log in self.logs.values():
                    log.epoch = f"e{next(self._epochs)}"
                    log.entries.clear()
            self.available = True
            for bus in self.buses:
                bus.regain()

    def state(self) -> State:
        """Return what would be on its disk now."""
        with self.lock:
            return copy.deepcopy(self.logs)

    def trim(self, topic: str, keep: int = 0) -> None:
        """Forget all messages of a topic but the last ones; offsets go on."""
        with self.lock:
            entries = self._log(topic).entries
            while len(entries) > keep:
                entries.popleft()

    def forget(self, topic: str) -> None:
        """Forget a topic with its epoch, as brokers do when they evict."""
        with self.lock:
            self.logs.pop(topic, None)

    def release(self) -> None:
        """Send the notices that were held back, and hold no more of them back."""
        with self.lock:
            self.holding = False
            while self.held:
                bus, notice = self.held.popleft()
                bus.bring(notice)

    # ------------------------------------------------------------------ what buses call

    def _log(self, topic: str) -> _Log:
        log = self.logs.get(topic)
        if log is None:
            log = self.logs[topic] = _Log(f"e{next(self._epochs)}")
        return log

    def position(self, topic: str) -> Position | None:
        with self.lock:
            if self.history is None or is_transient(topic):
                return None
            return self._log(topic).position

    def publish(self, topic: str, message: Message) -> Position | None:
        with self.lock:
            notice = Notice(topic, message)
            if self.history is not None and not is_transient(topic):
                log = self._log(topic)
                previous = log.offset
                log.offset += self.step
                mark = b"%d" % next(self._marks)
                notice = Notice(topic, message, log.position, previous, mark)
                log.entries.append(notice)
                while len(log.entries) > self.history:
                    log.entries.popleft()
            for bus in self.buses:
                if topic in bus.followed and bus.connected and not self.drops(notice):
                    if self.holding:
                        self.held.append((bus, notice))
                    else:
                        bus.bring(notice)
            if self.lost_answers and not is_transient(topic):
                self.lost_answers -= 1
                raise PublishUncertain("the answer was lost")
            return notice.position

    def read(self, topic: str, since: Position, limit: int) -> Page:
        with self.lock:
            log = self._log(topic)
            latest = log.position
            after = [
                notice
                for notice in log.entries
                if notice.position is not None and notice.position.offset > since.offset
            ]
            reaches = since.epoch == log.epoch and since.offset <= log.offset
            if reaches and since.offset < log.offset:
                reaches = bool(after) and after[0].previous <= since.offset
            return Page(after[:limit] if reaches else [], reaches, latest)


class MemoryBus(Bus):
    """What one process has of the broker; made by ``MemoryBroker.bus``."""

    def __init__(self, broker: MemoryBroker, timeout: float | None) -> None:
        self.broker = broker
        self.timeout = timeout
        self.followed: set[str] = set()
        self.connected = False
        # Whether notices vanish on their way to this process, in silence; another connection cures
        # it unless it is "for good".
        self.deaf = False
        self.deaf_for_good = False
        self.reconnections = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._receiver: BusReceiver | None = None

    # ------------------------------------------------------------------ faults

    def lose(self, reason: Exception) -> None:
        """End the connection of this process; it isn't there until ``regain``."""
        if self.connected:
            self.connected = False
            self._tell(lambda receiver: receiver.interrupted(reason))

    def regain(self) -> None:
        """Connect again, follow what was followed, and tell the receiver."""
        if self._receiver is not None and not self.connected:
            self.connected = True
            self.deaf = self.deaf_for_good
            self._tell(lambda receiver: receiver.resumed())

    def bring(self, notice: Notice) -> None:
        """Have the process take a notice."""
        if self.connected and not self.deaf:
            self._tell(lambda receiver: receiver.notice(notice))

    def suspect(self, topic: str) -> None:
        """Say that messages of a topic may be missing."""
        self._tell(lambda receiver: receiver.suspect(topic))

    def _tell(self, tell: Callable[[BusReceiver], None]) -> None:
        receiver = self._receiver

        def told() -> None:
            if receiver is not None and receiver is self._receiver:
                tell(receiver)

        if self._loop is not None:
            self._loop.call_soon_threadsafe(told)

    # ------------------------------------------------------------------ the bus

    async def _round_trip(self, call: str, topic: str) -> None:
        """Go to the broker: what follows is done there, unless this raises."""
        if not is_transient(topic):
            self.broker.calls.append((call, topic))
        await asyncio.sleep(0)
        if not self.broker.answers:
            try:
                async with asyncio.timeout(self.timeout):
                    while not self.broker.answers:
                        await asyncio.sleep(0.01)
            except TimeoutError:
                raise BusUnavailable("the broker doesn't answer") from None
        if not (self.broker.available and self.connected):
            raise BusUnavailable("no connection to the broker")

    async def open(self, receiver: BusReceiver) -> None:
        await asyncio.sleep(0)
        if self._receiver is not None:
            raise RuntimeError("the bus is open")
        with self.broker.lock:
            if not self.broker.available:
                raise BusUnavailable("no connection to the broker")
            self._loop = asyncio.get_running_loop()
            self._receiver = receiver
            self.connected = True
            if self not in self.broker.buses:
                self.broker.buses.append(self)

    async def close(self) -> None:
        self._receiver = None  # it can be opened again, however this ends
        if not self.broker.answers and self.timeout is None:
            await asyncio.get_running_loop().create_future()
        with self.broker.lock:
            self.connected = False
            self.followed.clear()
            if self in self.broker.buses:
                self.broker.buses.remove(self)

    async def publish(self, topic: str, message: Message) -> Position | None:
        await self._round_trip("publish", topic)
        position = self.broker.publish(topic, message)
        await asyncio.sleep(0)
        return position

    async def follow(self, topic: str) -> Position | None:
        # Followed again after a reconnection even if this call isn't answered.
        await self._round_trip("follow", topic)
        with self.broker.lock:
            self.followed.add(topic)
            position = self.broker.position(topic)
        await asyncio.sleep(0)
        return position

    async def unfollow(self, topic: str) -> None:
        await self._round_trip("unfollow", topic)
        with self.broker.lock:
            self.followed.discard(topic)

    async def position(self, topic: str) -> Position | None:
        await self._round_trip("position", topic)
        return self.broker.position(topic)

    async def read(self, topic: str, since: Position, limit: int) -> Page:
        await self._round_trip("read", topic)
        page = self.broker.read(topic, since, limit)
        await asyncio.sleep(0)
        return page

    def reconnect(self) -> None:
        self.reconnections += 1
        if self.connected:
            self.lose(ConnectionResetError("given up"))
            if self.broker.available:
                self.regain()
