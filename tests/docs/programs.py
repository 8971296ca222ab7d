"""Programs of the documents, in processes of their own."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

DEADLINE = 30.0


@contextlib.contextmanager
def running(folder: Path, name: str, text: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Write a program into a folder, and run it there; it is killed in the end, if it still runs.

    Args:
        folder: Where it is written.
        name: Of its file.
        text: As ``blocks.program()`` returns it, maybe with another port.
        arguments: Of the program.
    """
    (folder / name).write_text(text, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-u", "-W", "error", name, *arguments],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def output(folder: Path, name: str, text: str, *arguments: str) -> str:
    """Run a program to its end; return what it prints, of which nothing may be an error."""
    with running(folder, name, text, *arguments) as process:
        printed, errors = process.communicate(timeout=DEADLINE)
    assert errors == ""
    assert process.returncode == 0
    return printed


def wait_for(port: int, process: subprocess.Popen[str], host: str = "localhost") -> None:
    """Wait until a program listens on a port."""
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            with socket.create_connection((host, port), timeout=DEADLINE):
                return
        except OSError:
            if process.poll() is not None:
                raise AssertionError(process.communicate()[1]) from None
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
