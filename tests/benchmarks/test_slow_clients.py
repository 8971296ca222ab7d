"""The benchmark of slow clients runs and tells; no figure is looked at."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import slow_clients

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads memory of other processes")


@pytest.mark.parametrize("front_end", ["asyncio", "threads", "trio"])
@pytest.mark.parametrize("sip", [False, True])
def test_it_runs(front_end: str, sip: bool, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--front-end", front_end, "--clients", "3", "--slow-clients", "2", "--json"]
    arguments += ["--rounds", "1", "--seconds", "0.3", "--warmup", "0.3", "--rate", "100"]
    assert slow_clients.main(arguments + ["--sip"] * sip) == 0
    line, figures = capsys.readouterr().out.splitlines()
    assert line.startswith(front_end)
    found = json.loads(figures)
    assert found["messages without"] > 0
    assert found["messages beside"] > 0


def test_percentiles() -> None:
    ages = [0.001 * number for number in range(1, 101)]
    assert slow_clients.percentile(ages, 50) == pytest.approx(51)
    assert slow_clients.percentile(ages, 99) == pytest.approx(100)
    assert slow_clients.percentile([0.5], 99) == 500
