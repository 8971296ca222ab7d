"""What is counted about limits."""

from __future__ import annotations

import logging

import pytest

from wsapi import limits


def test_counting_in_a_signal_handler() -> None:
    """It may have interrupted its own thread in the middle of the same."""
    count = limits._Count("%d thing%s")
    with count.lock:
        count.add(2, logging.getLogger("test_limits"), logging.DEBUG)
    assert count.total == 2


def test_no_more_than_a_line_per_second(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(limits, "monotonic", lambda: now[0])
    count, logger = limits._Count("%d thing%s"), logging.getLogger("test_limits")
    for passed, number in [(0, 1), (0.5, 2), (0.25, 3), (0.25, 4), (0.999, 5), (0.001, 1)]:
        now[0] += passed
        count.add(number, logger)
    assert caplog.messages == ["1 thing", "9 things", "6 things"]
    assert count.total == 16


def test_what_is_told_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for counted in (limits.given_up, limits.dropped):
        monkeypatch.setattr(counted, "total", 0)
    logger = logging.getLogger("test_limits")
    limits.given_up.add(2, logger, logging.DEBUG)
    limits.dropped.add(3, logger, logging.DEBUG)
    assert (limits.connections_given_up(), limits.messages_dropped()) == (2, 3)
