"""Whether wsapi bench and the other load generator can be compared; not whether they agree."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import agreement
from benchmarks.agreement import Pair, Reading, middle

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="benchmarks need Linux")


def test_both_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "agreement.json"
    options = ["--case", "pipeline-64", "--rounds", "1", "--seconds", "0.5", "--json", str(path)]
    status = agreement.main(options)
    [found] = json.loads(path.read_text())["results"]
    for how in ("load", "bench"):
        assert found[how]["rate"] > 0
        assert found[how]["cpu_us"] > 0
    assert found["cpu_ratio"] == found["bench"]["cpu_us"] / found["load"]["cpu_us"]
    output = capsys.readouterr().out
    assert "pipeline-64" in output
    assert ("they agree" in output) is (status == 0)


@pytest.mark.parametrize(
    "bench, agrees",
    [
        (Reading(100.0, 10.0, 1.0), True),
        (Reading(92.0, 10.5, 1.0), True),
        (Reading(80.0, 10.0, 1.0), False),
        (Reading(80.0, 10.0, 0.8), True),  # the server had pauses
        (Reading(100.0, 11.5, 0.8), False),
        (Reading(80.0, 11.5, 0.8, 0.97), True),  # the load had none
    ],
)
def test_agreement(bench: Reading, agrees: bool) -> None:
    pair = Pair("a", Reading(100.0, 10.0, 1.0), bench)
    assert pair.agrees is agrees
    assert ("*" in str(pair)) is (bench.busy < 0.9 and bench.client is None)
    assert ("!" in str(pair)) is (bench.client is not None)
    assert middle([bench, bench, Reading(0.0, 0.0, 0.0)]) == replace(
        bench, client=bench.client or 0.0
    )
