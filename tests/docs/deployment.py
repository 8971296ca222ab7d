"""Programs and servers of guides, each run as people run them, in processes of their own."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

from tests.docs.blocks import DEADLINE, DOCS
from wsapi.sync.client import ClientConnection, connect, unix_connect

EXAMPLES = Path(__file__).parents[2] / "examples"
DEPLOY = EXAMPLES / "deploy"
TIMEOUT = DEADLINE


def needs(*modules: str) -> list[pytest.MarkDecorator]:
    """Return marks for tests of programs that use modules; these aren't imported here."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return [
        *MARKS,
        pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} isn't installed"),
    ]


MARKS = [
    pytest.mark.skipif(not DOCS.exists(), reason="the documents are not beside the tests"),
    pytest.mark.skipif(os.name != "posix", reason="programs are ended by signals"),
]


def tool(name: str) -> str:
    """Return the path of a program of others; skip the test where it isn't installed."""
    path = shutil.which(name, path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    if path is None:
        pytest.skip(f"{name} isn't installed")
    return path


@dataclass(frozen=True)
class Running:
    """A process that runs, and what it writes."""

    process: subprocess.Popen[bytes]
    log: Path

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until it has written something."""
        return until(lambda: re.search(pattern, self.text(), re.MULTILINE), self)

    def ends(self) -> int:
        """Wait until it has ended; return its status."""
        return self.process.wait(TIMEOUT)


def until(condition: Callable[[], Any], program: Running | None = None) -> Any:
    """Wait for a condition; return what it returned."""
    end = time.monotonic() + TIMEOUT
    while not (value := condition()):
        log = "" if program is None else program.text()
        assert time.monotonic() < end, log
        assert program is None or program.process.poll() is None or condition(), log
        time.sleep(0.02)
    return value


@contextlib.contextmanager
def running(
    command: Sequence[str | Path],
    directory: Path,
    ready: int | str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    patience: float = 10,
) -> Iterator[Running]:
    """Run a program for as long as the context lasts.

    Args:
        command: Program and arguments; a program in Python is run by this interpreter.
        directory: Working directory, where its log is kept, too.
        ready: Port or Unix socket that it listens on when it is ready, or a regular expression
            for what it writes then.
        environment: Variables beside those of this process.
        pass_fds: Descriptors that it inherits.
        patience: Seconds that it has to end in.
    """
    words = [str(word) for word in command]
    if words[0].endswith(".py"):
        words = [sys.executable, "-u", *words]
    elif words[0] == "python":
        words[0] = sys.executable
    number = len(list(directory.glob("log.*")))
    log = directory / f"log.{number}"
    file: IO[bytes]
    with log.open("wb") as file:
        process = subprocess.Popen(
            words,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | (environment or {}),
            pass_fds=pass_fds,
            start_new_session=True,
        )
    program = Running(process, log)
    try:
        if isinstance(ready, str):
            program.wait_for(ready)
        elif ready is not None:
            until(lambda: _listens(ready), program)
        yield program
    finally:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # What it has started and left, such as workers.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _listens(where: int | Path) -> bool:
    family = socket.AF_INET if isinstance(where, int) else socket.AF_UNIX
    with socket.socket(family) as sock:
        try:
            sock.connect(("127.0.0.1", where) if isinstance(where, int) else str(where))
        except OSError:
            return False
    return True


def write(directory: Path, name: str, text: str) -> None:
    """Write a file."""
    (directory / name).write_text(text, encoding="utf-8")


def changed(text: str, changes: Mapping[str, str]) -> str:
    """Replace what a test can't have as it is, such as ports; each must be there."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def talk(url: str, *messages: str, **options: Any) -> list[str | bytes]:
    """Connect, send messages, and return as many answers."""
    with connect(url, proxy=None, open_timeout=TIMEOUT, **options) as connection:
        return talk_on(connection, *messages)


def talk_unix(path: Path, *messages: str, **options: Any) -> list[str | bytes]:
    """Do the same through a Unix socket."""
    with unix_connect(str(path), open_timeout=TIMEOUT, **options) as connection:
        return talk_on(connection, *messages)


def talk_on(connection: ClientConnection, *messages: str) -> list[str | bytes]:
    """Send messages and return as many answers."""
    answers = []
    for message in messages:
        connection.send(message)
        answers.append(connection.recv(TIMEOUT))
    return answers


def get(
    port: int, path: str, context: ssl.SSLContext | None = None, **headers: str
) -> tuple[int, bytes]:
    """Return the status and the body of what is answered over HTTP."""
    if context is None:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    else:
        client = http.client.HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT, context=context)
    with contextlib.closing(client):
        client.request("GET", path, headers=headers)
        response = client.getresponse()
        return response.status, response.read()
