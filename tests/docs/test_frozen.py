"""The program of the page about frozen programs, as it is, and as PyInstaller freezes it."""

import os
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

from tests.docs.blocks import program
from tests.docs.programs import output

PAGE = "guides/frozen.md"
NAME = "app.py"
ECHOED = "asyncio\ntrio\nthreads\n"


def test_not_frozen(tmp_path: Path) -> None:
    assert output(tmp_path, NAME, program(PAGE, NAME)) == f"{ECHOED}not frozen True\n"


# What trio and werkzeug would use if it is there, which in the tests' environment it is.
LEFT_OUT = ("Cython", "aiohttp", "hypothesis", "pydantic", "pytest", "setuptools", "tkinter")


def frozen(folder: Path) -> subprocess.CompletedProcess[str]:
    """Freeze the program, and run it without what this process has in its environment."""
    pytest.importorskip("PyInstaller")
    if sys.platform == "linux" and not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        pytest.skip("PyInstaller needs a Python with a shared library")
    (folder / NAME).write_text(program(PAGE, NAME), encoding="utf-8")
    left_out = [f"--exclude-module={name}" for name in LEFT_OUT]
    built = subprocess.run(
        [sys.executable, "-m", "PyInstaller", "--log-level", "WARN", *left_out, NAME],
        cwd=folder,
        env={**os.environ, "PYINSTALLER_CONFIG_DIR": str(folder / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert built.returncode == 0, built.stdout
    return subprocess.run(
        [folder / "dist" / "app" / "app"],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name == "SYSTEMROOT"},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.timeout(600)
def test_frozen(tmp_path: Path) -> None:
    run = frozen(tmp_path)
    assert run.stderr == ""
    assert run.stdout == f"{ECHOED}frozen True\n"


def test_pyinstaller_finds_the_hooks() -> None:
    entries = metadata.distribution("wsproto-fast").entry_points
    [entry] = entries.select(group="pyinstaller40", name="hook-dirs")
    folders = entry.load()()
    assert [path.name for folder in folders for path in sorted(Path(folder).glob("hook-*.py"))] == [
        "hook-wsapi.cli.py",
        "hook-wsapi.py",
        "hook-wsapi.topics.py",
        "hook-wsproto_fast.py",
    ]
