"""The look at the connections of a server, in slices."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from wsapi import limits
from wsapi._shared.budget import BufferBudget
from wsapi._shared.statistics import Statistics
from wsapi._shared.sweep import PAUSE, SLICE, Sweep
from wsproto_fast import Protocol, Side
from wsproto_fast.frames import State

logger = logging.getLogger("wsapi.server")


class FakeConnection:
    """A connection that holds some bytes."""

    _shed = False
    _refusal: str | None = None
    fails = False

    def __init__(self, size: int) -> None:
        self.size = size
        self.looks = 0
        self.protocol = Protocol(Side.SERVER)
        self.logger = logger.getChild("connection")

    def _buffered_bytes(self) -> int:
        self.looks += 1
        return self.size

    def _waiting_bytes(self) -> int:
        return 0

    def _now(self) -> float:
        return 0.0

    def _change(self, function: Callable[[], None]) -> None:
        if self.fails:
            raise ZeroDivisionError
        function()
        self.size = 0


@pytest.fixture(autouse=True)
def fresh_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits.over_budget, "next_line", 0.0)
    monkeypatch.setattr(limits.over_budget, "unlogged", 0)


def sweeping(*connections: Any, max_bytes: int = 100, interval: float = 1.0) -> Any:
    statistics: Statistics[Any] = Statistics(set())
    budget = BufferBudget(max_bytes, interval=interval)
    return Sweep(budget, set(connections), statistics, logger), statistics


def test_slices() -> None:
    connections = [FakeConnection(1) for _ in range(2 * SLICE + 1)]
    sweep, _ = sweeping(*connections, max_bytes=2 * SLICE, interval=7.0)
    for turn in range(2):
        looks = []
        for _ in range(3):
            before = sum(connection.looks for connection in connections)
            looks.append(sweep.step())
            # One is closed in the end, and looked at once more.
            assert sum(connection.looks for connection in connections) <= before + SLICE + 1
        assert looks == [PAUSE, PAUSE, 7.0]
        assert sweep.budget.buffered_bytes == 2 * SLICE
        assert not sweep._left
        assert not sweep._seen
        assert sum(connection.size == 0 for connection in connections) == 1, turn


def test_who_holds_less_by_now_is_spared() -> None:
    large, small = FakeConnection(200), FakeConnection(90)
    sweep, statistics = sweeping(large, small)
    looks = large._buffered_bytes
    large._buffered_bytes = lambda: looks() // large.looks**2  # type: ignore[method-assign]
    sweep.step()
    assert large.protocol.state is small.protocol.state is State.OPEN
    assert statistics.read().given_up == {}


def test_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    connections = [FakeConnection(60) for _ in range(4)]
    sweep, statistics = sweeping(*connections)
    sweep.step()
    assert statistics.read().given_up == {"buffer_budget": 3}
    (record,) = caplog.records
    assert record.getMessage().startswith("closed 3 connections: ")
    assert record.levelno == logging.WARNING
    for connection in connections:
        connection.size = 200 if connection._shed else 1
    sweep.step()
    assert statistics.read().given_up == {"buffer_budget": 3}
    assert len(caplog.records) == 1


def test_a_failure_spares_nobody(caplog: pytest.LogCaptureFixture) -> None:
    connections = [FakeConnection(200), FakeConnection(199)]
    connections[0].fails = True
    sweep, statistics = sweeping(*connections)
    sweep.step()
    assert connections[1].protocol.state is State.CLOSING
    assert statistics.read().given_up == {"buffer_budget": 2}
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage() == "closing a connection failed"


def test_opening() -> None:
    connection = FakeConnection(200)
    connection.protocol = Protocol(Side.SERVER, state=State.CONNECTING)
    sweep, statistics = sweeping(connection)
    sweep.step()
    assert connection._refusal == "buffer_budget"
    assert statistics.read().given_up == {}


def test_end() -> None:
    sweep, _ = sweeping(*(FakeConnection(1) for _ in range(SLICE + 1)), max_bytes=1000)
    sweep.step()
    sweep.step()
    sweep.step()
    assert sweep.budget.buffered_bytes == SLICE + 1
    sweep.end()
    assert sweep.budget.buffered_bytes == 0
    assert not sweep._left
    assert not sweep._seen
