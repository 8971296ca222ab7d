"""The count of instructions runs and writes results; no figure is looked at but for being there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import instructions, load

pytestmark = [
    pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind isn't installed"),
    pytest.mark.timeout(300),  # valgrind makes starting a server as slow as everything else
]

ARGUMENTS = ["--quick", "--front-end", "asyncio", "--load", "in-flight-64"]


def test_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    assert instructions.main([*ARGUMENTS, "--json", str(file)]) == 0
    (figure,) = json.loads(file.read_text()).values()
    assert figure > 0
    assert "in-flight-64" in capsys.readouterr().out


def test_wrong_echoes_end_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(load.Target, "reply_frame", lambda *_: b"something else")
    assert instructions.main(ARGUMENTS) == 1
    assert "benchmark aborted" in capsys.readouterr().err
