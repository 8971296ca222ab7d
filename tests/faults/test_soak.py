"""Whether the soak test runs, and sees what grows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.soak import MAX_BYTES, Sample, what_grows


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_soak() -> None:
    arguments = ["--subject", "asyncio", "--connections", "240", "--messages", "2000"]
    result = subprocess.run(
        [sys.executable, "-m", "tests.faults.soak", *arguments],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert result.stderr == ""
    name, _, *rows, verdict = result.stdout.splitlines()
    assert name == "asyncio"
    assert verdict.startswith("asyncio: ")
    connections, messages, _, _, left, _ = map(int, rows[-1].split())
    assert (connections, left) == (240, 0)
    assert messages >= 2000


def samples(**last: Any) -> list[Sample]:
    """Return samples of which only the first ones and the last one differ from the others."""
    flat: dict[str, Any] = {"rss": 10**8, "objects": 10_000, "left": {"tasks": 3}}
    first = [Sample(n * 100, n, rss=n, objects=n, left={}, seconds=n) for n in range(4)]
    later = [Sample(n * 100, n, seconds=n, **flat) for n in range(4, 19)]
    return [*first, *later, Sample(1900, 19, seconds=19, **(flat | last))]


@pytest.mark.parametrize(
    "last, wrong",
    [
        ({}, []),
        ({"rss": 10**8 + 1499 * MAX_BYTES}, []),
        ({"rss": 10**8 + 1500 * MAX_BYTES}, ["100 bytes per connection"]),
        ({"rss": 10**7}, []),
        ({"objects": 10_014}, []),
        ({"objects": 10_300}, ["0.20 objects per connection"]),
        ({"left": {"tasks": 4}}, ["4 tasks, not 3"]),
        ({"left": {"tasks": 3, "engines": 1}}, ["1 engines, not 0"]),
    ],
)
def test_what_grows(last: dict[str, Any], wrong: list[str]) -> None:
    assert what_grows(samples(**last)) == wrong
