"""docs/guides/sanic.md: Sanic on this engine, from outside and in a program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import free_port, program
from tests.docs.deployment import TIMEOUT, Running, changed, get, needs, running, talk, write
from wsapi.exceptions import ConnectionClosedError
from wsapi.sync.client import connect

PAGE = "guides/sanic.md"
pytestmark = needs("sanic")

ENGINE = """
@app.websocket("/engine")
async def engine(request, ws):
    from sanic.server.websockets import impl

    await ws.send(impl.ServerProtocol.__module__)
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write(tmp_path, "app.py", program(PAGE, "app.py") + ENGINE)
    return tmp_path


def check(port: int, server: Running) -> None:
    url = f"ws://127.0.0.1:{port}"
    assert get(port, "/healthz") == (200, b"ready\n")
    assert talk(f"{url}/echo", "hello") == ["hello"]
    with connect(f"{url}/engine", proxy=None) as connection:
        assert connection.recv(TIMEOUT) == "wsproto_fast._server"
    with connect(f"{url}/echo", proxy=None) as connection:
        assert connection.response is not None
        assert "Sec-WebSocket-Extensions" not in connection.response.headers
        connection.send("x" * (2**20 + 1))
        with pytest.raises(ConnectionClosedError):
            connection.recv(TIMEOUT)
        assert connection.close_code == 1009


def test_from_outside(directory: Path) -> None:
    port = free_port()
    command = ["-m", "wsapi", "run", "--as", "websockets", "--", sys.executable, "-m", "sanic"]
    options = ["app:app", "--host", "127.0.0.1", "--port", str(port), "--workers", "2"]
    # Sanic with several workers sometimes takes long to stop.
    with running(["python", *command, *options], directory, port, patience=1) as server:
        check(port, server)


@pytest.mark.parametrize("single", [True, False])
def test_in_a_program(directory: Path, single: bool) -> None:
    port = free_port()
    changes = {"8000": str(port)}
    if not single:
        changes[", single_process=True"] = ", workers=2"
    write(directory, "main.py", changed(program(PAGE, "main.py"), changes))
    with running(["main.py"], directory, port, patience=1) as server:
        check(port, server)


def test_rooms(directory: Path) -> None:
    port = free_port()
    write(directory, "main.py", changed(program(PAGE, "main.py"), {"8000": str(port)}))
    with running(["main.py"], directory, port):
        url = f"ws://127.0.0.1:{port}/rooms/tea"
        with connect(url, proxy=None) as one, connect(url, proxy=None) as two:
            for each in (one, two):
                each.send("hello")
            assert [two.recv(TIMEOUT) for _ in range(1)] == ["hello"]
            assert one.recv(TIMEOUT) == "hello"


def test_too_late(directory: Path) -> None:
    command = [sys.executable, "-c", "import sanic, wsapi; wsapi.install_as_websockets()"]
    output = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=TIMEOUT)
    assert output.returncode == 1
    assert "RuntimeError: websockets was imported before: " in output.stderr
