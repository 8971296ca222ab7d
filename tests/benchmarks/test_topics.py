"""The benchmark of topics runs, and measures something."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import topics


def test_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    assert topics.main(["memory", "--quick", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())["memory"]
    assert figures["bytes per subscription"] > 0
    # The first round makes room in dictionaries, which the others find.
    assert figures["growth"] < 10
    assert "500 subscriptions of 500 connections on 50 topics" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind isn't installed")
@pytest.mark.timeout(300)  # it makes starting a process as slow as everything else
def test_publishing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(topics, "LOOPS", ("asyncio",))
    monkeypatch.setattr(topics, "WAYS", ("broadcast", "publish"))
    file = tmp_path / "figures.json"
    assert topics.main(["publish", "--quick", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())["publish"]
    assert figures["asyncio publish"] > figures["asyncio broadcast"] > 0
    assert "x broadcast" in capsys.readouterr().out
