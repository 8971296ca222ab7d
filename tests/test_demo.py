"""The demo does what the README promises: a transcript, and success only if all of it was right."""

import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[1] / "demo" / "run.py"


@pytest.mark.timeout(120)
def test_demo() -> None:
    pytest.importorskip("aiohttp")
    pytest.importorskip("websockets")
    done = subprocess.run(
        [sys.executable, str(DEMO)], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for client in ("wsapi", "websockets", "aiohttp"):
        assert f"\n{client} " in done.stdout
    assert "WRONG" not in done.stdout
    assert "of server CPU each" in done.stdout
