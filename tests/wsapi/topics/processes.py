"""Processes of a test, each with topics and a bus, without connections and front-ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.wsapi.topics.memory_bus import MemoryBroker, MemoryBus
from wsapi.topics._core import Core
from wsapi.topics._history import History
from wsapi.topics._runner import Runner
from wsapi.topics._subscribers import Event, Happening, Step, Subscriber
from wsapi.topics.bus import Message
from wsapi.topics.positions import Position
from wsproto_fast import Backpressure, PreparedMessage

TERMS = Backpressure()


class Reader:
    """Somebody who subscribes, and what came of it: messages, and words for what isn't one.

    Attributes:
        got: Messages in order, and ``...`` in the place of those that were lost.
        known: Set when it is known where it begins.
        closed: Whether it was closed because there was trouble.
        error: Why subscribing failed.
    """

    def __init__(self, process: Process, topic: str, since: Position | None) -> None:
        self.process = process
        self.got: list[Any] = []
        self.known = asyncio.Event()
        self.closed = False
        self.error: Exception | None = None
        self.subscriber = Subscriber(self, None, TERMS)
        process.readers[self.subscriber] = self
        process.core.subscribe(topic, self.subscriber, since, process.time())
        self.advance()
        process.look()

    def broadcast(
        self, message: PreparedMessage, compress: bool | None, terms: Backpressure
    ) -> bool:
        self.got.append(self.process.wrapped)
        return True

    def advance(self) -> None:
        while True:
            try:
                step = self.process.core.advance(self.subscriber, self.process.time())
            except Exception as exc:
                self.error = exc
                self.known.set()
                return
            if isinstance(step, list):
                self.got.extend(entry.message for entry in step)
            elif step is Step.GAP:
                self.got.append(...)
            elif step is Step.KNOWN:
                self.known.set()
            else:
                return

    def leave(self) -> None:
        self.process.core.unsubscribe(self.subscriber, self.process.time())
        self.process.look()


class Process:
    """The topics of one process.

    Args:
        broker: The broker.
        bus: A bus of it; None for a new one.
        core_options: Options of the core.
        options: Those of the runner.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        *,
        bus: MemoryBus | None = None,
        core_options: dict[str, Any] | None = None,
        call: Callable[..., object] | None = None,
        **options: Any,
    ) -> None:
        self.broker = broker
        self.bus = bus or broker.bus()
        self.health: list[tuple[bool, str]] = []
        self.readers: dict[Subscriber, Reader] = {}
        self.wrapped: Message = ""
        self.core = Core(
            bus=True,
            epoch="x",
            wrap=self._wrap,
            **({"history": History(messages=100)} | (core_options or {})),
        )
        self.runner = Runner(
            self.bus,
            self.core,
            on_health=lambda *args: self.health.append(args),
            handle_events=self.handle_events,
            call=call,
            **options,
        )

    def time(self) -> float:
        return asyncio.get_running_loop().time()

    def _wrap(self, topic: str, position: Position | None, message: Message) -> Message:
        self.wrapped = message
        return message

    async def __aenter__(self) -> Process:
        await self.runner.open()
        return self

    async def __aexit__(self, *args: object) -> None:
        await self.runner.close()

    def read(self, topic: str, since: Position | None = None) -> Reader:
        """Subscribe."""
        return Reader(self, topic, since)

    async def subscribed(self, topic: str, since: Position | None = None) -> Reader:
        """Subscribe, and wait until that is done."""
        reader = self.read(topic, since)
        await reader.known.wait()
        assert reader.error is None
        return reader

    def look(self) -> None:
        self.runner.flush()
        self.handle_events()

    def handle_events(self) -> None:
        events = self.core.events
        while events:
            event: Event = events.popleft()
            assert event.happening is not Happening.ENVELOPE
            if event.subscriber is None:
                continue
            reader = self.readers[event.subscriber]
            match event.happening:
                case Happening.GAP:
                    reader.got.append(...)
                    reader.advance()
                case Happening.CLOSE:
                    reader.closed = True
                case _:
                    reader.advance()
        if self.core.outbox:
            self.runner.flush()
