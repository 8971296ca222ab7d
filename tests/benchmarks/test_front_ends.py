"""The comparisons of front-ends run; what they measure then doesn't matter."""

import json
from pathlib import Path

import pytest

from benchmarks import tasks, threads
from benchmarks.front_ends import Comparison

CASES = [
    (module.comparison, scenario)
    for module in (threads, tasks)
    for scenario in module.comparison.scenarios
    if scenario != "server-idle"  # hundreds of connections
]


@pytest.mark.parametrize(
    "comparison, scenario", CASES, ids=[f"{case[0].module}-{case[1]}" for case in CASES]
)
def test_scenario(
    comparison: Comparison, scenario: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.json"
    arguments = ["--scenario", scenario, "--peer", "raw", "--peer", "wsapi"]
    comparison.main([*arguments, "--rounds", "1", "--seconds", "0.05", "--json", str(path)])
    results = json.loads(path.read_text())
    assert {peer: len(rounds) for peer, rounds in results[scenario].items()} == {
        "raw": 1,
        "wsapi": 1,
    }
    assert "x raw" in capsys.readouterr().out


def test_unknown_peer() -> None:
    with pytest.raises(SystemExit):
        threads.comparison.main(["--peer", "nobody"])
