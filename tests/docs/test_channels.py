"""docs/guides/channels.md: Channels under uvicorn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import free_port, program
from tests.docs.deployment import TIMEOUT, Running, changed, get, needs, running, write
from wsapi.exceptions import ConnectionClosedError, InvalidStatus
from wsapi.sync.client import ClientConnection, connect

PAGE = "guides/channels.md"
CLASS = "wsapi.uvicorn:WebSocketProtocol"
pytestmark = needs("channels", "uvicorn")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[int, Running]]:
    port = free_port()
    write(tmp_path, "asgi.py", program(PAGE, "asgi.py"))
    words = ["-m", "uvicorn", "--port", str(port), "--ws", CLASS, "asgi:application"]
    with running(["python", *words], tmp_path, port) as program_:
        yield port, program_


def enter(
    port: int, origin: str | None = "http://localhost", path: str = "/rooms/tea"
) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{port}{path}", proxy=None, origin=origin)  # type: ignore[arg-type]


def check(port: int) -> None:
    with enter(port) as one, enter(port) as two, enter(port, path="/rooms/other") as other:
        one.send(json.dumps({"text": "hello"}))
        for each in (one, two):
            answer = each.recv(TIMEOUT)
            assert json.loads(answer) == {"text": "hello"}
        other.send("[1]")
        assert other.recv(TIMEOUT) == "[1]"
    assert get(port, "/healthz") == (200, b"ready\n")


def test_rooms(server: tuple[int, Running]) -> None:
    check(server[0])


def test_origin(server: tuple[int, Running]) -> None:
    port, _ = server
    with enter(port, "https://example.com"):
        pass
    for origin in ("https://example.org", None):
        with pytest.raises(InvalidStatus) as raised:
            enter(port, origin)
        assert raised.value.response.status_code == 403


def test_no_route(server: tuple[int, Running]) -> None:
    port, program_ = server
    with pytest.raises((InvalidStatus, ConnectionClosedError)) as raised:
        enter(port, path="/nothing")
    assert isinstance(raised.value, InvalidStatus)
    assert raised.value.response.status_code == 500
    program_.wait_for("ValueError: No route found for path 'nothing'")


def test_from_python(tmp_path: Path) -> None:
    port = free_port()
    write(tmp_path, "asgi.py", changed(program(PAGE, "asgi.py"), {"8000": str(port)}))
    with running(["asgi.py"], tmp_path, port):
        check(port)
