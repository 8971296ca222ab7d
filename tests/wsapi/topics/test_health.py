"""Who is told of health, and how often the log tells."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.wsapi.helpers import logged_errors, turns
from tests.wsapi.topics.clock import fake_time
from wsapi.topics._health import Health, Lines
from wsapi.topics.exceptions import BusUnavailable

LOGGER = logging.getLogger("wsapi.topics")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def texts(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    found = [(record.levelname, record.getMessage()) for record in caplog.records]
    caplog.clear()
    return found


def test_lines_of_a_kind_are_few(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    lines = Lines(LOGGER, clock)
    with caplog.at_level(logging.INFO, "wsapi.topics"):
        assert lines.write(logging.WARNING, "one", "first")
        assert not lines.write(logging.WARNING, "one", "second")
        assert lines.write(logging.INFO, "other", "different 100 %")
        assert not lines.write(logging.WARNING, "one", "third")
        clock.now += 1
        assert lines.write(logging.WARNING, "one", "fourth")
        clock.now += 1
        assert lines.write(logging.WARNING, "one", "fifth")
    assert texts(caplog) == [
        ("WARNING", "first"),
        ("INFO", "different 100 %"),
        ("WARNING", "fourth (and 2 times before)"),
        ("WARNING", "fifth"),
    ]


def test_changes_are_told(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    told: list[tuple[bool, str]] = []
    health = Health(lambda *args: told.append(args), Lines(LOGGER, clock), clock)
    assert not health.good
    assert health.reason == "topics aren't open"
    # The log says nothing of what is as it should be.
    assert health.become_good() is None
    assert health.become_good() is None
    health.become_bad("the bus is away")
    health.become_bad("the broker doesn't answer")
    assert health.reason == "the bus is away"
    clock.now += 2.5
    assert health.become_good() == 2.5
    assert health.reason == ""
    assert told == [(True, ""), (False, "the bus is away"), (True, "")]
    assert health.changes == 1
    assert texts(caplog) == [("WARNING", "topics: the bus is away")]


def test_long_trouble_is_told_again(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    health = Health(None, Lines(LOGGER, clock), clock)
    health.become_good()
    health.become_bad("away")
    for _ in range(70):
        clock.now += 1
        health.remind()
    assert texts(caplog) == [
        ("WARNING", "topics: away"),
        ("WARNING", "topics: away, for 30.0 seconds now"),
        ("WARNING", "topics: away, for 60.0 seconds now"),
    ]


def test_trouble_without_a_line_is_told_when_it_stays(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    health = Health(None, Lines(LOGGER, clock), clock)
    health.become_good()
    health.become_bad("away")
    health.become_good()
    clock.now += 0.5
    health.become_bad("away again")
    # Short trouble of which the log doesn't tell isn't said to be over there either.
    assert health.become_good() is None
    health.become_bad("away again")
    health.remind()
    clock.now += 1.5
    health.remind()
    assert texts(caplog) == [
        ("WARNING", "topics: away"),
        ("WARNING", "topics: away again, for 1.5 seconds now (and 2 times before)"),
    ]
    assert health.become_good() == 1.5


def test_callback_that_raises() -> None:
    clock = Clock()

    def on_health(good: bool, reason: str) -> None:
        raise ValueError(reason)

    @fake_time
    async def test() -> None:
        health = Health(on_health, Lines(LOGGER, clock), clock)
        health.become_good()
        assert health.good
        (record,) = logged_errors("topics: on_health failed")
        assert record.exc_info is not None
        assert record.exc_info[0] is ValueError

    test()


@fake_time
async def test_wait() -> None:
    loop = asyncio.get_running_loop()
    health = Health(None, Lines(LOGGER, loop.time), loop.time)
    with pytest.raises(TimeoutError, match="topics aren't open"):
        await health.wait(3)
    waiters = [asyncio.ensure_future(health.wait(timeout)) for timeout in (None, 3)]
    await turns(1)
    health.become_good()
    await asyncio.gather(*waiters)
    await health.wait(0)


@fake_time
async def test_end() -> None:
    loop = asyncio.get_running_loop()
    health = Health(None, Lines(LOGGER, loop.time), loop.time)
    waiter = asyncio.ensure_future(health.wait(None))
    await turns(1)
    health.end(BusUnavailable("closed"))
    with pytest.raises(BusUnavailable, match="closed"):
        await waiter
    assert not health.good
    assert health.reason == "closed"


def test_beginning_anew(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    told: list[tuple[bool, str]] = []
    health = Health(lambda *args: told.append(args), Lines(LOGGER, clock), clock)
    health.become_good()
    health.become_bad("the bus is away")
    health.begin()
    assert (health.good, health.reason) == (False, "topics aren't open")
    assert texts(caplog) == [("WARNING", "topics: the bus is away")]
    clock.now += 1e6
    health.remind()  # nothing to remind of
    health.become_bad("the bus is away")  # it isn't good yet: no trouble
    assert (texts(caplog), health.changes) == ([], 1)
    assert told == [(True, ""), (False, "the bus is away")]


async def cancelled_waiter(health: Health) -> asyncio.Task[None]:
    waiter = asyncio.create_task(health.wait(None))
    await asyncio.sleep(0)
    waiter.cancel()  # its future is done, and hasn't left yet
    return waiter


async def test_waiter_that_is_cancelled_at_the_same_time() -> None:
    clock = Clock()
    for end in (False, True):
        health = Health(None, Lines(LOGGER, clock), clock)
        cancelled = await cancelled_waiter(health)
        waiting = asyncio.create_task(health.wait(None))
        other = asyncio.create_task(health.wait(None))
        cancelled_later = await cancelled_waiter(health)
        if end:
            health.end(BusUnavailable("gone"))
        else:
            health.become_good()
        results = await asyncio.gather(
            cancelled, waiting, other, cancelled_later, return_exceptions=True
        )
        kinds = [type(result) for result in results]
        told = BusUnavailable if end else type(None)
        assert kinds == [asyncio.CancelledError, told, told, asyncio.CancelledError]
