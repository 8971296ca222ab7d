"""docs/guides/fastapi.md: its application under uvicorn, and its client."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import free_port, program
from tests.docs.deployment import TIMEOUT, Running, changed, get, needs, running, talk, write
from wsapi.exceptions import ConnectionClosedError, InvalidStatus
from wsapi.sync.client import connect

PAGE = "guides/fastapi.md"
CLASS = "wsapi.uvicorn:WebSocketProtocol"
pytestmark = needs("fastapi", "uvicorn")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[int, Running]]:
    port = free_port()
    write(tmp_path, "app.py", program(PAGE, "app.py"))
    words = ["-m", "uvicorn", "--port", str(port), "--ws", CLASS, "app:app"]
    with running(["python", *words], tmp_path, port) as program_:
        yield port, program_


def test_routes(server: tuple[int, Running]) -> None:
    port, _ = server
    assert get(port, "/healthz") == (200, b'{"status":"ready"}')
    assert talk(f"ws://127.0.0.1:{port}/echo", "hello") == ["hello"]


def test_client(server: tuple[int, Running], tmp_path: Path) -> None:
    port, _ = server
    write(tmp_path, "client.py", changed(program(PAGE, "client.py"), {"8000": str(port)}))
    output = subprocess.run(
        [sys.executable, "client.py"], cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert (output.stdout, output.stderr) == ("alice: Is there more?\n", "")


@pytest.mark.parametrize("path", ["/rooms/tea", "/rooms/tea?token=0", "/nothing"])
def test_refusals(server: tuple[int, Running], path: str) -> None:
    port, _ = server
    with pytest.raises(InvalidStatus) as raised:
        connect(f"ws://127.0.0.1:{port}{path}", proxy=None)
    assert raised.value.response.status_code == 403


def test_text_is_expected(server: tuple[int, Running]) -> None:
    port, program_ = server
    with connect(f"ws://127.0.0.1:{port}/echo", proxy=None) as connection:
        connection.send(b"binary")
        with pytest.raises(ConnectionClosedError):
            connection.recv(TIMEOUT)
        assert connection.close_code == 1011
    program_.wait_for("KeyError: 'text'")


def test_clients_that_leave_are_no_errors(server: tuple[int, Running]) -> None:
    port, program_ = server
    with connect(f"ws://127.0.0.1:{port}/rooms/tea?token=0f3c7a", proxy=None) as connection:
        connection.send("hello")
        connection.recv(TIMEOUT)
        connection.socket.close()
    assert talk(f"ws://127.0.0.1:{port}/echo", "hello") == ["hello"]
    program_.process.terminate()
    program_.ends()
    assert "Traceback" not in program_.text()
