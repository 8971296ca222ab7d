"""What the tests of the core of topics share: sinks and clients, notices, and pages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from wsapi.topics._core import Core
from wsapi.topics._history import History
from wsapi.topics._requests import Follow
from wsapi.topics._subscribers import Subscriber
from wsapi.topics.bus import Message, Notice, Page
from wsapi.topics.positions import Position
from wsproto_fast import Backpressure, PreparedMessage

TERMS = Backpressure()
EPOCH = "x"


class Sink:
    """Keeps what it is given."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.messages: list[Message] = []
        self.result: bool | Exception = True

    def broadcast(
        self, message: PreparedMessage, compress: bool | None, terms: Backpressure
    ) -> bool:
        assert isinstance(message, PreparedMessage)
        assert terms is TERMS
        if isinstance(self.result, Exception):
            raise self.result
        if self.result:
            assert self.core.payload is not None
            self.messages.append(self.core.payload)
        return self.result


class Client(Subscriber):
    """A subscriber that is advanced as far as possible, and tells what came of it."""

    __slots__ = ("core", "steps")

    def __init__(self, core: Core) -> None:
        super().__init__(Sink(core), None, TERMS)
        self.core = core
        self.steps: list[str] = []

    @property
    def messages(self) -> list[Message]:
        assert isinstance(self.sink, Sink)
        return self.sink.messages

    def go(self, now: float = 0.0) -> str:
        """Advance it until it waits or is live; return its steps, shortly."""
        steps = []
        while not steps or steps[-1] not in ("wait", "live"):
            step = self.core.advance(self, now)
            if isinstance(step, list):
                self.messages.extend(entry.message for entry in step)
                steps.append(str(len(step)))
            else:
                steps.append(step.name.lower())
        return " ".join(steps)


def at(offset: int, epoch: str = EPOCH) -> Position:
    return Position(epoch, offset)


def note(offset: int, previous: int | None = None, epoch: str = EPOCH, mark: str = "") -> Notice:
    before = offset - 1 if previous is None else previous
    return Notice("t", f"m{offset}", at(offset, epoch), before, (mark or f"{offset}").encode())


def notes(first: int, last: int) -> list[Notice]:
    return [note(offset) for offset in range(first, last + 1)]


def names(first: int, last: int) -> list[Message]:
    return [f"m{offset}" for offset in range(first, last + 1)]


def page(first: int, last: int, latest: int | None = None) -> Page:
    """Return a page with these messages, which are all if ``latest`` isn't said."""
    return Page(notes(first, last), True, at(last if latest is None else latest))


LOST = Page([], False, at(50))


def make(bus: bool = True, messages: int = 100, **options: Any) -> Core:
    return Core(bus=bus, history=History(messages), epoch="e", **options)


def join(core: Core, since: Position | None = None, now: float = 0.0, name: str = "t") -> Client:
    client = Client(core)
    core.subscribe(name, client, since, now)
    return client


def following(core: Core, offset: int | None = 4) -> Client:
    """Return a client that is live on a topic that is followed."""
    client = join(core)
    assert client.go() == "wait"
    core.followed(pop(core, Follow), None if offset is None else at(offset), 0.0)
    told(core, "READY")
    assert client.go() == "known live"
    return client


def pop(core: Core, kind: type[Any]) -> Any:
    """Take the only request to the bus, of this kind."""
    (request,) = core.outbox
    core.outbox.clear()
    assert type(request) is kind
    assert repr(request) == f"<{kind.__name__} 't'>"
    return request


def told(core: Core, *happenings: str) -> None:
    """Check what the front-end is told, and forget it."""
    assert [event.happening.name for event in core.events] == list(happenings)
    core.events.clear()


def bring(core: Core, notices: Iterable[Notice], now: float = 0.0) -> None:
    for notice in notices:
        core.notice(notice, now)
