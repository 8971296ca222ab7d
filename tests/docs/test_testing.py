"""docs/guides/testing.md: its programs and their tests, where nobody can open a socket."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import program
from tests.docs.programs import DEADLINE

PAGE = "guides/testing.md"

# asyncio and trio wake themselves by a pair of sockets: that is none of the kit's.
CONFTEST = """
import socket


def refuse(*args):
    raise AssertionError("a socket is used")


for name in ("bind", "connect", "connect_ex", "listen"):
    setattr(socket.socket, name, refuse)
"""


def check(folder: Path, name: str, text: str, test: str) -> None:
    """Run the tests of a program, as a user does."""
    (folder / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    (folder / f"test_{name}.py").write_text(test, encoding="utf-8")
    words = ["-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", f"test_{name}.py"]
    process = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "passed" in process.stdout


def test_a_handler(tmp_path: Path) -> None:
    check(tmp_path, "chat", program(PAGE, "chat.py"), program(PAGE, "test_chat.py"))


def test_time(tmp_path: Path) -> None:
    check(tmp_path, "idle", program(PAGE, "idle.py"), program(PAGE, "test_idle.py"))


def test_faults(tmp_path: Path) -> None:
    check(tmp_path, "adding", program(PAGE, "adding.py"), program(PAGE, "test_adding.py"))


def test_threads(tmp_path: Path) -> None:
    text, test = program(PAGE, "idle_threads.py"), program(PAGE, "test_idle_threads.py")
    check(tmp_path, "idle_threads", text, test)


def test_trio(tmp_path: Path) -> None:
    text, test = program(PAGE, "idle_trio.py"), program(PAGE, "test_idle_trio.py")
    check(tmp_path, "idle_trio", text, test)


def test_fastapi(tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="the example is an application of FastAPI")
    app = Path(__file__).parents[2] / "examples" / "fastapi" / "app.py"
    check(tmp_path, "app", app.read_text(encoding="utf-8"), program(PAGE, "test_app.py"))
