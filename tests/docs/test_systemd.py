"""docs/guides/systemd.md: units that systemd takes, and a socket that is handed over."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import block, free_port, program
from tests.docs.deployment import MARKS, TIMEOUT, changed, get, running, talk, tool, until
from wsapi.exceptions import ConnectionClosedError
from wsapi.sync.client import connect

PAGE = "guides/systemd.md"
pytestmark = MARKS
UNITS = ("websocket.socket", "websocket.service", "websocket@.service")


def verify(directory: Path, *units: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool("systemd-analyze"), "verify", "--man=no", *(f"./{unit}" for unit in units)],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT,
    )


def write_units(directory: Path, **changes: str) -> None:
    for name in UNITS:
        text = block(PAGE, name)
        if name.endswith(".service"):
            # It has to be there.
            text = changed(text, {"/opt/app/venv/bin/python": sys.executable})
        for old, new in changes.items():
            text = text.replace(old, new)
        (directory / name).write_text(text, encoding="utf-8")


def test_units(tmp_path: Path) -> None:
    write_units(tmp_path)
    verified = verify(tmp_path, *UNITS)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_mistakes_are_found(tmp_path: Path) -> None:
    write_units(tmp_path, TimeoutStopSec="TimeoutStopSecs")
    assert "TimeoutStopSecs" in verify(tmp_path, *UNITS).stderr


@pytest.fixture
def activated(tmp_path: Path) -> Path:
    path = tmp_path / "activated.py"
    path.write_text(
        changed(program(PAGE, "activated.py"), {"spread=5": "spread=0.5"}), encoding="utf-8"
    )
    return path


def test_activation(activated: Path) -> None:
    """The program gets the socket of systemd's own tool, which starts it for the first client."""
    port = free_port()
    command = [tool("systemd-socket-activate"), "--listen", f"127.0.0.1:{port}"]
    python = ["-E", "PATH", sys.executable, "-u", str(activated)]
    with running([*command, *python], activated.parent, r"[Ll]istening on .*:\d+") as server:
        # It is our program from now on: the tool executes it.
        assert talk(f"ws://127.0.0.1:{port}", "hello") == ["hello"]
        assert get(port, "/healthz") == (200, b"ready\n")
        with connect(f"ws://127.0.0.1:{port}", proxy=None) as connection:
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosedError):
                connection.recv(TIMEOUT)
            assert connection.close_code == 1012
        assert server.ends() == 0
        assert "INFO wsapi.server: server closed" in server.text()


HANDED_OVER = """
import os, socket, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ["LISTEN_FDS"] = "1"
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-u", "activated.py"])
"""


def test_restart(activated: Path) -> None:
    """Who comes between two processes waits in the socket's queue."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        starter = activated.parent / "starter.py"
        starter.write_text(HANDED_OVER, encoding="utf-8")
        command = [starter, str(sock.fileno())]
        ready = "server listening"
        with running(command, activated.parent, ready, pass_fds=[sock.fileno()]) as server:
            assert talk(f"ws://127.0.0.1:{port}", "hello") == ["hello"]
            server.process.send_signal(signal.SIGTERM)
            assert server.ends() == 0
        waiting = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        with running(command, activated.parent, ready, pass_fds=[sock.fileno()]), waiting:
            waiting.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert waiting.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_without_systemd(activated: Path) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("there is no IPv6")
    port = free_port()
    text = changed(activated.read_text(encoding="utf-8"), {'"port": 8765': f'"port": {port}'})
    activated.write_text(text, encoding="utf-8")
    with running([activated], activated.parent, "server listening"):
        assert talk(f"ws://[::1]:{port}", "hello") == ["hello"]


def test_sockets_of_another_process(activated: Path) -> None:
    port = free_port()
    text = changed(
        activated.read_text(encoding="utf-8"),
        {'"host": "::1", "port": 8765': f'"host": "127.0.0.1", "port": {port}'},
    )
    activated.write_text(text, encoding="utf-8")
    variables = {"LISTEN_FDS": "1", "LISTEN_PID": "1"}
    with running([activated], activated.parent, "server listening", variables):
        until(lambda: talk(f"ws://127.0.0.1:{port}", "hello") == ["hello"])
