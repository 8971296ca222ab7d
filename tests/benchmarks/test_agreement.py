"""Whether wsapi bench and the other load generator can be compared; not whether they agree."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="benchmarks need Linux")


def test_both_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import agreement

    path = tmp_path / "agreement.json"
    options = ["--case", "pipeline-64", "--rounds", "1", "--seconds", "0.5", "--json", str(path)]
    status = agreement.main(options)
    [found] = json.loads(path.read_text())["results"]
    assert found["rate_load"] > 0
    assert found["rate_bench"] > 0
    assert found["rate_ratio"] == found["rate_bench"] / found["rate_load"]
    output = capsys.readouterr().out
    assert "pipeline-64" in output
    assert ("they agree" in output) is (status == 0)
