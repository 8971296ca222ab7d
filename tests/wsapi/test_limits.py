"""What is counted about limits."""

from __future__ import annotations

import logging

from wsapi import limits


def test_counting_in_a_signal_handler() -> None:
    """It may have interrupted its own thread in the middle of the same."""
    count = limits._Count("%d thing%s")
    with count.lock:
        count.add(2, logging.getLogger("test_limits"), logging.DEBUG)
    assert count.total == 2
