"""The comparison under uvicorn runs, checks echoes, writes results; no figure is looked at."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import frameworks, load

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads clocks of other processes")


@pytest.mark.parametrize("name", frameworks.IMPLEMENTATIONS)
def test_implementation(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results.json"
    arguments = ["--quick", "--loop", "asyncio", "--implementation", name]
    arguments += ["--scenario", "echo-100x64", "--scenario", "pipeline-64", "--json", str(file)]
    assert frameworks.main(arguments) == 0
    assert name in capsys.readouterr().out
    results = json.loads(file.read_text())["results"]
    assert {scenario: list(found) for scenario, found in results.items()} == {
        "echo-100x64": [name],
        "pipeline-64": [name],
    }


def test_wrong_echoes_end_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(load.Target, "reply_frame", lambda *_: b"something else")
    arguments = ["--quick", "--implementation", "class", "--scenario", "pipeline-64"]
    assert frameworks.main([*arguments, "--loop", "asyncio"]) == 1
    assert "benchmark aborted" in capsys.readouterr().err
