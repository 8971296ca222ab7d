"""The cost of imports is measured and written; no figure is looked at but for being there."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import imports

pytestmark = [
    pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind isn't installed"),
    pytest.mark.timeout(300),
]


def test_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    assert imports.main(["wsproto_fast", "--rounds", "1", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())["wsproto_fast"]
    assert figures["million_instructions"] > 0
    assert figures["milliseconds"] > 0
    assert "wsproto_fast" in capsys.readouterr().out


def test_what_can_not_be_imported_ends_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert imports.main(["no_such_module"]) == 1
    assert "benchmark aborted: no_such_module" in capsys.readouterr().err
