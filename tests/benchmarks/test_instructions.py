"""The count of instructions runs and writes results; no figure is looked at but for being there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import client_loads, engine_loads, instructions, load

pytestmark = [
    pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind isn't installed"),
    pytest.mark.timeout(300),  # valgrind makes starting a server as slow as everything else
]

ARGUMENTS = ["--quick", "--front-end", "asyncio", "--load", "in-flight-64"]


def test_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    names = ["in-flight-64", "echo-1x64", "opening", "opening-and-closing", "opening-and-reset"]
    loads = [argument for name in names for argument in ("--load", name)]
    arguments = ["--quick", "--front-end", "engine", "--front-end", "trio", *loads]
    arguments += ["--load", "handshake", "--json", str(file)]
    assert instructions.main(arguments) == 0
    figures = json.loads(file.read_text())
    assert set(figures) == {"engine wsapi handshake", *(f"trio wsapi {name}" for name in names)}
    assert all(figure > 0 for figure in figures.values())
    assert "in-flight-64" in capsys.readouterr().out


def test_clients_and_tls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    names = ["client-32x64", "tls-echo-10x64"]
    loads = [argument for name in names for argument in ("--load", name)]
    arguments = ["--quick", "--front-end", "asyncio", *loads, "--functions", "3"]
    assert instructions.main([*arguments, "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert set(figures) == {f"asyncio wsapi {name}" for name in names}
    assert all(figure > 0 for figure in figures.values())
    assert "_PyEval_EvalFrameDefault" in capsys.readouterr().out


def test_a_client_that_fails_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(client_loads, "SIZE", client_loads.SIZE + 1)  # than the server expects
    arguments = ["--quick", "--front-end", "asyncio", "--load", "client-1x64"]
    assert instructions.main(arguments) == 1
    assert "benchmark aborted: asyncio, wsapi" in capsys.readouterr().err


def test_peers_take_part_in_what_they_can() -> None:
    assert set(instructions.loads_of("uvloop", "wsapi")) == {
        *instructions.LOADS,
        *client_loads.LOADS,
    }
    assert "opening" not in instructions.loads_of("asyncio", "raw")
    assert "client-1x64" not in instructions.loads_of("trio", "wsapi")
    assert "tls-echo-10x64" not in instructions.loads_of("threads", "wsapi")
    assert instructions.loads_of("trio", "picows") == []


def test_wrong_echoes_end_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(load.Target, "reply_frame", lambda *_: b"something else")
    assert instructions.main(ARGUMENTS) == 1
    assert "benchmark aborted" in capsys.readouterr().err


def test_an_engine_that_fails_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(engine_loads.LOADS, "unknown", engine_loads.LOADS["handshake"])
    assert instructions.main(["--quick", "--front-end", "engine"]) == 1
    assert "benchmark aborted: engine, wsapi" in capsys.readouterr().err


@pytest.mark.parametrize("name", engine_loads.LOADS)
def test_loads_of_the_engine(name: str) -> None:
    run = engine_loads.LOADS[name].make()
    for _ in range(3):
        run()


def test_spread() -> None:
    assert instructions.spread([110.0, 100.0, 150.0]) == pytest.approx(0.1)
