"""The core of topics against a model: a broker that fails, and clients that come and go."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wsapi.topics.core_helpers import TERMS
from wsapi.topics._core import Core
from wsapi.topics._history import History
from wsapi.topics._requests import Follow, Read, Request, Unfollow
from wsapi.topics._subscribers import Happening, Step, Subscriber
from wsapi.topics.bus import Message, Notice, Page
from wsapi.topics.exceptions import BusUnavailable
from wsapi.topics.positions import Position
from wsproto_fast import Backpressure, PreparedMessage


class Broker:
    """A bus's broker: one topic, a history, and what is on its way to the process."""

    def __init__(self) -> None:
        self.epochs = 0
        self.published = 0  # in all
        self.numbers: dict[Position, int] = {}  # of the last message at a position
        self.begin()

    def begin(self) -> None:
        """Lose all."""
        self.epochs += 1
        self.offset = 0
        self.history: list[Notice] = []
        self.numbers[self.position] = self.published

    @property
    def position(self) -> Position:
        return Position(f"e{self.epochs}", self.offset)

    def publish(self) -> Notice:
        self.published += 1
        previous = self.offset
        # Offsets have steps, as those of NATS.
        self.offset += 1 + self.published % 3 // 2
        self.numbers[self.position] = self.published
        mark = self.published.to_bytes(4, "big")
        notice = Notice("t", str(self.published), self.position, previous, mark)
        self.history.append(notice)
        return notice

    def read(self, since: Position, limit: int) -> Page:
        after = [n for n in self.history if n.position and n.position.offset > since.offset]
        known = since.epoch == self.position.epoch and since.offset <= self.offset
        reaches = known and (
            since.offset == self.offset or bool(after and after[0].previous <= since.offset)
        )
        return Page(after[:limit] if reaches else [], reaches, self.position)


class Follower:
    """A client, its account of what it got, and the rules for that."""

    def __init__(self, core: Core, since: Position | None, last: int | None) -> None:
        self.sink = ModelSink(self)
        self.subscriber = Subscriber(self.sink, None, TERMS)
        self.core = core
        self.since = since
        self.last = last  # number of the last message that it has, or needs not have
        self.seen: set[int] = set()
        self.position = since

    def take(self, payload: Message) -> None:
        assert isinstance(payload, str)
        number, position = payload.split("|")
        found = int(number)
        assert found not in self.seen, "twice"
        assert not self.seen or found > max(self.seen), "out of order"
        assert self.last is not None
        assert found == self.last + 1, "lost, or too early"
        self.seen.add(found)
        self.last = found
        self.position = Position.parse(position)

    def begin(self, broker: Broker) -> None:
        """Begin where the topic is, since what is before that isn't wanted, or is lost."""
        assert self.subscriber.position is not None
        self.last = broker.numbers[self.subscriber.position]


class ModelSink:
    def __init__(self, follower: Follower) -> None:
        self.follower = follower

    def broadcast(
        self, message: PreparedMessage, compress: bool | None, terms: Backpressure
    ) -> bool:
        payload = self.follower.core.payload
        assert payload is not None
        self.follower.take(payload)
        return True


class Process:
    """A process, what is on its way to it, and what it has asked for."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.followed = False  # the broker sends notices
        self.wire: deque[Notice] = deque()
        self.old: list[Notice] = []
        self.answers: deque[tuple[Request, Any]] = deque()


class World:
    """Two processes, a broker that fails in all ways, and clients that come and go, by chance.

    Args:
        seed: What chance begins with.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        choose = self.random.choice
        self.now = 0.0
        self.page_size = choose([2, 5, 256])
        self.broker = Broker()
        self.processes = [
            Process(
                Core(
                    bus=True,
                    history=History(choose([0, 3, 50]), seconds=None),
                    epoch="",
                    wrap=lambda topic, position, message: f"{message!s}|{position}",
                    unfollow_delay=choose([0.1, 1.0]),
                )
            )
            for _ in range(2)
        ]
        self.clients: list[Follower] = []
        self.gone: list[Follower] = []
        self.catching_up: list[Follower] = []
        self.caught_up = 0
        # What happens often, and what doesn't, differs from one world to another.
        rare = choose([0.0, 0.05, 0.3])
        self.acts: dict[Callable[[Process], None], float] = {
            self.publish: choose([1, 4]),
            self.arrive: choose([1, 4]),
            self.carry_out: choose([1, 4]),
            self.answer: choose([1, 4]),
            self.advance: choose([1, 4]),
            self.come: 0.3,
            self.come_back: choose([0.3, 1]),
            self.leave: choose([0.3, 1]),
            self.wait: choose([0.1, 1]),
            self.drop: rare,
            self.repeat: rare,
            self.reconnect: rare,
            self.suspect: rare,
            self.audit: rare,
            self.fail: rare,
            self.trim: choose([0.0, 0.05, 0.5]),
            self.restart: rare / 3,
        }

    def run(self, steps: int) -> None:
        """Have things happen, then come to rest."""
        for act in self.random.choices(list(self.acts), list(self.acts.values()), k=steps):
            act(self.random.choice(self.processes))
            self.look()
        self.settle()

    # -------------------------------------------------- the broker

    def publish(self, _: Process) -> None:
        for _ in range(self.random.randint(1, 3)):
            notice = self.broker.publish()
            for process in self.processes:
                if process.followed:
                    process.wire.append(notice)

    def arrive(self, process: Process) -> None:
        for _ in range(min(self.random.randint(1, 4), len(process.wire))):
            notice = process.wire.popleft()
            process.old.append(notice)
            process.core.notice(notice, self.now)

    def drop(self, process: Process) -> None:
        """Lose a notice in silence; what follows it shows that, or an audit."""
        if process.wire:
            process.old.append(process.wire.popleft())

    def repeat(self, process: Process) -> None:
        if process.old:
            back = self.random.randint(1, min(6, len(process.old)))
            process.core.notice(process.old[-back], self.now)

    def reconnect(self, process: Process) -> None:
        process.old.extend(process.wire)
        process.wire.clear()
        process.core.interrupted(self.now)
        process.core.resumed(self.now)

    def suspect(self, process: Process) -> None:
        process.core.suspect("t", self.now)

    def audit(self, process: Process) -> None:
        for name, cursor in process.core.audit(10):
            process.core.audited(name, cursor, self.broker.position, self.now)

    def trim(self, _: Process) -> None:
        del self.broker.history[: max(len(self.broker.history) - self.random.randint(0, 5), 0)]

    def restart(self, _: Process) -> None:
        """Lose all data; the connections are lost, too."""
        self.broker.begin()
        for process in self.processes:
            process.wire.clear()
            process.core.interrupted(self.now)
            process.core.resumed(self.now)

    # -------------------------------------------------- requests

    def carry_out(self, process: Process) -> None:
        """Have the broker do what was asked for; the answer takes its time."""
        if not process.core.outbox:
            return
        request = process.core.outbox.popleft()
        if isinstance(request, Read):
            limit = min(request.limit, self.page_size)
            process.answers.append((request, self.broker.read(request.since, limit)))
        elif isinstance(request, Follow):
            process.followed = True
            process.answers.append((request, self.broker.position))
        else:
            process.followed = False
            process.answers.append((request, None))

    def answer(self, process: Process) -> None:
        if not process.answers:
            return
        request, result = process.answers.popleft()
        if isinstance(request, Read):
            process.core.page(request, result, self.now)
        elif isinstance(request, Follow):
            process.core.followed(request, result, self.now)
        else:
            assert isinstance(request, Unfollow)
            process.core.unfollowed(request, self.now)

    def fail(self, process: Process) -> None:
        if process.core.outbox:
            process.core.failed(process.core.outbox.popleft(), BusUnavailable("no"), self.now)

    def wait(self, _: Process) -> None:
        self.now += self.random.choice([0.01, 0.1, 2.0])
        for process in self.processes:
            process.core.handle_timeout(self.now)

    # -------------------------------------------------- clients

    def _subscribe(self, follower: Follower, since: Position | None) -> None:
        follower.core.subscribe("t", follower.subscriber, since, self.now)
        self.catching_up.append(follower)

    def come(self, process: Process) -> None:
        if len(self.clients) + len(self.catching_up) < 5:
            self._subscribe(Follower(process.core, None, None), None)

    def come_back(self, process: Process) -> None:
        if not self.gone:
            return
        before = self.gone.pop(self.random.randrange(len(self.gone)))
        if before.position is None:
            return
        follower = Follower(process.core, before.position, before.last)
        follower.seen = before.seen
        self._subscribe(follower, before.position)

    def leave(self, _: Process) -> None:
        both = [*self.clients, *self.catching_up]
        if not both:
            return
        follower = self.random.choice(both)
        self._remove(follower)
        follower.core.unsubscribe(follower.subscriber, self.now)
        # After a gap, or without messages, it knows its place by the subscription.
        follower.position = follower.subscriber.position
        self.gone.append(follower)

    def _remove(self, follower: Follower) -> None:
        for others in (self.clients, self.catching_up):
            if follower in others:
                others.remove(follower)

    def advance(self, _: Process) -> None:
        """Take a step, though nothing may say that it is time for it."""
        if self.catching_up:
            self._advance(self.random.choice(self.catching_up))

    def _advance(self, follower: Follower) -> Step | None:
        try:
            step = follower.core.advance(follower.subscriber, self.now)
        except BusUnavailable:
            self._remove(follower)
            self.gone.append(follower)
            return Step.WAIT
        if isinstance(step, list):
            for entry in step:
                follower.take(entry.message)
                self.caught_up += 1
            return None
        if step is Step.KNOWN:
            assert follower.subscriber.recovered is not None or follower.since is None
            if not follower.subscriber.recovered:
                follower.begin(self.broker)
        elif step is Step.GAP:
            follower.begin(self.broker)
        elif step is Step.LIVE:
            self.catching_up.remove(follower)
            self.clients.append(follower)
        return step

    def look(self) -> None:
        """Do what the core says, at once, as a front-end does."""
        events = [event for process in self.processes for event in process.core.events]
        for process in self.processes:
            process.core.events.clear()
        for event in events:
            assert event.happening in (Happening.READY, Happening.GAP)
            if event.happening is Happening.GAP:
                for follower in list(self.clients):
                    if follower.subscriber is event.subscriber:
                        follower.begin(self.broker)
                        self.clients.remove(follower)
                        self.catching_up.append(follower)

    def settle(self) -> None:
        """Let all come to rest, by one means or the other: then everybody has everything."""
        self.publish(self.processes[0])
        audited = []
        for process in self.processes:
            if self.random.random() < 0.5:
                self.reconnect(process)
                continue
            audited.append(process)
            if process.wire:
                process.wire.pop()  # what nothing shows but an audit
        for _ in range(1000):
            for process in self.processes:
                self._finish(process)
            for follower in list(self.catching_up):
                while follower in self.catching_up:
                    if self._advance(follower) is Step.WAIT:
                        break
            self.look()
            self.now += 0.01
            cores = [process.core for process in self.processes]
            for process in self.processes:
                process.core.handle_timeout(self.now)
            for process in audited:
                self.audit(process)
            # While anybody subscribes, nothing has a time but what couldn't be read.
            if not (
                self.catching_up
                or any(core.outbox for core in cores)
                or any(core.subscribers("t") and core.next_timeout() for core in cores)
            ):
                break
        assert not self.catching_up
        for follower in self.clients:
            assert follower.subscriber.position == self.broker.position
            assert follower.last == self.broker.published

    def _finish(self, process: Process) -> None:
        while process.core.outbox or process.answers or process.wire:
            self.carry_out(process)
            self.answer(process)
            self.arrive(process)
            self.look()


@given(seed=st.integers(0, 2**64))
@settings(max_examples=1000, deadline=None)
def test_everybody_has_every_message_once_or_is_told(seed: int) -> None:
    World(seed).run(300)


def test_what_the_model_reaches() -> None:
    """Chance has to bring about all that the test above is for."""
    worlds = [World(seed) for seed in range(60)]
    for world in worlds:
        world.run(300)
    counters = [process.core.counters for world in worlds for process in world.processes]
    for name in ("delivered", "filled", "caught_up", "gaps", "duplicates", "resumed"):
        assert sum(getattr(c, name) for c in counters) > 20, name
    assert sum(c.caught_up for c in counters) == sum(world.caught_up for world in worlds)
