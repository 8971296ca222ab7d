"""The comparison of front-ends for threads runs; what it measures then doesn't matter."""

import json
from pathlib import Path

import pytest

from benchmarks import threads


@pytest.mark.parametrize("scenario", ["client-1x64", "server-50x64", "server-64-in-flight"])
def test_scenario(scenario: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.json"
    arguments = ["--scenario", scenario, "--peer", "raw", "--peer", "wsapi"]
    threads.main([*arguments, "--rounds", "1", "--seconds", "0.05", "--json", str(path)])
    results = json.loads(path.read_text())
    assert {peer: len(rounds) for peer, rounds in results[scenario].items()} == {
        "raw": 1,
        "wsapi": 1,
    }
    assert "x raw" in capsys.readouterr().out


def test_unknown_peer() -> None:
    with pytest.raises(SystemExit):
        threads.main(["--peer", "nobody"])
