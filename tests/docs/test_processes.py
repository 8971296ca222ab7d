"""docs/guides/processes.md: several processes on one port, and what subinterpreters do."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs import blocks, programs
from wsapi.sync.client import connect

pytestmark = [
    pytest.mark.skipif(not blocks.pages(), reason="the documents are not beside the tests"),
    pytest.mark.skipif(not hasattr(signal, "sigwait"), reason="no fork, no SO_REUSEPORT here"),
]


def processes_behind(port: int, number: int) -> set[str]:
    """Connect until so many processes have answered; return what they say."""
    said: set[str] = set()
    for _ in range(1000):
        with connect(f"ws://127.0.0.1:{port}/", proxy=None) as connection:
            said.add(str(connection.recv()))
        if len(said) == number:
            break
    return said


def ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=programs.DEADLINE)
    assert errors == ""
    assert process.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="others don't spread connections")
def test_reuse_port(tmp_path: Path) -> None:
    text = blocks.program("guides/processes.md", "worker.py")
    port = blocks.free_port()
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(programs.running(tmp_path, "worker.py", text, str(port)))
            for _ in range(2)
        ]
        for worker in workers:
            ready(worker)
        assert processes_behind(port, 2) == {
            f"You are connected to process {worker.pid}." for worker in workers
        }
        for worker in workers:
            end(worker)


def test_fork(tmp_path: Path) -> None:
    text = blocks.program("guides/processes.md", "prefork.py")
    port = blocks.free_port()
    with programs.running(tmp_path, "prefork.py", text, str(port)) as process:
        ready(process)
        said: set[str] = set()
        try:
            said = processes_behind(port, 2)
            assert len(said) == 2
            assert str(process.pid) not in said
            end(process)
        finally:
            for pid in said:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="their module has another name")
@pytest.mark.parametrize("kind", ["legacy", "isolated"])
def test_subinterpreters(kind: str) -> None:
    code = (
        "import _interpreters as interpreters\n"
        f"number = interpreters.create({kind!r})\n"
        "failure = interpreters.exec(number, 'import wsproto_fast, wsapi.sync.client')\n"
        "print(failure.msg if failure else 'works')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=programs.DEADLINE
    )
    if kind == "legacy":
        assert done.stdout == "works\n", done.stderr
    else:
        assert "does not support loading in subinterpreters" in done.stdout, done.stderr
