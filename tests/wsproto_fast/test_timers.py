"""One timer of an event loop for all of its connections, compared with a timer for each."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from collections.abc import Callable
from contextvars import Context, ContextVar
from math import inf
from typing import Any, cast

import pytest

from wsproto_fast.drivers.asyncio import TransportDriver
from wsproto_fast.drivers.clocked import ClockedServerProtocol


class Handle:
    def __init__(self, when: float, call: Callable[[], object]) -> None:
        self.when, self.call, self.cancelled = when, call, False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """As much of an event loop as is needed, whose time passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.handles: list[Handle] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[[], object], *, context: Context) -> Handle:
        self.handles.append(Handle(when, lambda: context.run(call)))
        return self.handles[-1]

    def pending(self) -> list[Handle]:
        self.handles = [handle for handle in self.handles if not handle.cancelled]
        return self.handles

    def advance(self, until: float) -> None:
        while self.pending():
            handle = min(self.handles, key=lambda handle: handle.when)
            if handle.when > until:
                break
            self.now = max(self.now, handle.when)
            self.handles.remove(handle)
            handle.call()
        self.now = max(self.now, until)


class Owner:
    """A connection that notes when it is called."""

    def __init__(self, loop: Loop, then: Callable[[Owner], object] = lambda owner: None) -> None:
        self.calls: list[float] = []
        self.loop, self.then = loop, then
        protocol = ClockedServerProtocol()
        protocol.clock = loop.time
        self.driver = TransportDriver(
            cast(Any, self), protocol, cast(asyncio.AbstractEventLoop, loop)
        )

    def _timer_expired(self) -> None:
        assert self.driver.timer_time == inf
        self.calls.append(self.loop.now)
        self.then(self)


def test_a_driver_of_nothing() -> None:
    with pytest.raises(TypeError):
        TransportDriver.__new__(TransportDriver)
    loop = Loop()
    owner = Owner(loop)
    with pytest.raises(TypeError):
        TransportDriver(cast(Any, owner), cast(Any, None), cast(asyncio.AbstractEventLoop, loop))


def test_as_many_timers_would_do() -> None:
    chance = random.Random(1)
    loop = Loop()
    owners = [Owner(loop) for _ in range(40)]
    due: dict[Owner, float] = {}
    calls: dict[Owner, list[float]] = {owner: [] for owner in owners}
    for _ in range(3000):
        assert len(loop.pending()) <= 1
        assert loop.pending() or not due
        owner = chance.choice(owners)
        act = chance.random()
        if act < 0.6:
            deadline = loop.now + chance.choice([0, 1, 2.5, 20, chance.random() * 20])
            owner.driver.set_timer(deadline)
            due[owner] = min(deadline, due.get(owner, inf))
            assert owner.driver.timer_time == due[owner]
        elif act < 0.7:
            owner.driver.connection_lost()
            due.pop(owner, None)
            owners.remove(owner)
            owners.append(Owner(loop))
            calls[owners[-1]] = []
        else:
            loop.advance(loop.now + chance.random() * 2)
            for other in [other for other, when in due.items() if when <= loop.now]:
                calls[other].append(due.pop(other))
    assert all(other.calls == pytest.approx(times) for other, times in calls.items())
    for owner in owners:
        owner.driver.connection_lost()
    loop.advance(loop.now + 20)
    assert loop.pending() == []


def test_connections_that_come_one_at_a_time_share_the_timer() -> None:
    loop = Loop()
    for _ in range(3):
        owner = Owner(loop)
        owner.driver.set_timer(loop.now + 20)
        [handle] = loop.handles
        assert handle.when == 1020
        loop.advance(loop.now + 1)
        owner.driver.connection_lost()
    later = Owner(loop)
    later.driver.set_timer(loop.now + 20)
    loop.advance(1022)
    assert later.calls == []
    loop.advance(1024)
    assert later.calls == [pytest.approx(1023)]
    assert loop.handles == []


def test_what_is_called_sets_its_timer_again() -> None:
    loop = Loop()
    busy = Owner(loop, lambda owner: owner.driver.set_timer(loop.now))
    other = Owner(loop)
    for owner in (busy, other):
        owner.driver.set_timer(loop.now + 1)
    [handle] = loop.pending()
    loop.now += 1
    loop.handles = []
    handle.call()
    # It had its turn, and the other one too, before it is called again.
    assert len(busy.calls) <= 2
    assert len(busy.calls) + len(other.calls) == 2
    [handle] = loop.pending()
    assert handle.when == loop.now


def test_called_too_early() -> None:
    loop = Loop()
    owner = Owner(loop)
    owner.driver.set_timer(loop.now + 1)
    [handle] = loop.pending()
    loop.handles = []
    handle.call()
    assert owner.calls == []
    [handle] = loop.pending()
    assert handle.when == pytest.approx(loop.now + 1)


def test_what_is_called_ends_others() -> None:
    loop = Loop()
    owners = [Owner(loop, lambda _: [other.driver.connection_lost() for other in owners])]
    owners += [Owner(loop) for _ in range(3)]
    for number, owner in enumerate(owners):
        owner.driver.set_timer(loop.now + 1 + number / 10)
    loop.advance(loop.now + 10)
    assert [len(owner.calls) for owner in owners] == [1, 0, 0, 0]
    assert loop.pending() == []


def test_what_is_called_raises() -> None:
    def fail(owner: Owner) -> None:
        raise ZeroDivisionError

    loop = Loop()
    failing, other = Owner(loop, fail), Owner(loop)
    failing.driver.set_timer(loop.now + 1)
    other.driver.set_timer(loop.now + 2)
    with pytest.raises(ZeroDivisionError):
        loop.advance(loop.now + 10)
    assert other.calls == []
    loop.advance(loop.now + 10)
    assert (len(failing.calls), len(other.calls)) == (1, 1)


def test_variables_of_other_contexts() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="nobody's")
    seen: list[str] = []
    loop = Loop()
    owners = [Owner(loop, lambda owner: seen.append(variable.get())) for _ in range(2)]
    for owner, value in zip(owners, ["first", "second"], strict=True):
        context = Context()
        context.run(variable.set, value)
        context.run(owner.driver.set_timer, 1001.0)
    loop.advance(1002)
    assert seen == ["nobody's"] * 2


def test_event_loops_are_freed() -> None:
    loop = Loop()
    reference = weakref.ref(loop)
    # Its connections are never lost, as when a program ends without closing them.
    for _ in range(3):
        Owner(loop).driver.set_timer(loop.now + 10)
    del loop
    gc.collect()
    assert reference() is None
