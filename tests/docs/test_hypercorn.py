"""docs/guides/hypercorn.md: Hypercorn on this engine, from outside and in a program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import free_port, program
from tests.docs.deployment import TIMEOUT, changed, get, needs, running, talk, write
from wsapi.exceptions import ConnectionClosedError
from wsapi.sync.client import connect

PAGE = "guides/hypercorn.md"
pytestmark = needs("hypercorn", "starlette")

ENGINE = """
import wsproto

async def engine(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(wsproto.__file__)

app.routes.append(WebSocketRoute("/engine", engine))
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write(tmp_path, "app.py", program(PAGE, "app.py") + ENGINE)
    return tmp_path


def check(port: int) -> None:
    url = f"ws://127.0.0.1:{port}"
    assert get(port, "/healthz") == (200, b"ready\n")
    assert talk(url, "hello") == ["HTTP/1.1: hello"]
    with connect(f"{url}/engine", proxy=None) as connection:
        answer = connection.recv(TIMEOUT)
        assert isinstance(answer, str)
        assert Path(answer).parts[-3:-1] == ("wsproto_fast", "wsproto")


def test_from_outside(directory: Path) -> None:
    port = free_port()
    command = ["-m", "wsapi", "run", "--as", "wsproto", "--", sys.executable, "-m", "hypercorn"]
    options = ["--bind", f"127.0.0.1:{port}", "--websocket-ping-interval", "20", "app:app"]
    with running(["python", *command, *options], directory, port):
        check(port)


def test_in_a_program(directory: Path) -> None:
    port = free_port()
    changes = {"8000": str(port)}
    write(directory, "main.py", changed(program(PAGE, "main.py"), changes))
    with running(["main.py"], directory, port):
        check(port)
        with connect(f"ws://127.0.0.1:{port}", proxy=None, compression=None) as connection:
            connection.send("x" * (2**20 + 1))
            with pytest.raises(ConnectionClosedError):
                connection.recv(TIMEOUT)
            assert connection.close_code == 1009


def test_too_late(directory: Path) -> None:
    text = "import hypercorn.asyncio, wsproto_fast; wsproto_fast.install_as_wsproto()"
    output = subprocess.run(
        [sys.executable, "-c", text], cwd=directory, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert output.returncode == 1, output
    assert "RuntimeError: wsproto was imported before: " in output.stderr
