"""docs/guides/starlette.md: its application under uvicorn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import free_port, program
from tests.docs.deployment import TIMEOUT, Running, get, needs, running, talk, write
from wsapi.exceptions import ConnectionClosedError, InvalidStatus
from wsapi.sync.client import connect

PAGE = "guides/starlette.md"
CLASS = "wsapi.uvicorn:WebSocketProtocol"
pytestmark = needs("starlette", "uvicorn")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Running]]:
    port = free_port()
    write(tmp_path, "app.py", program(PAGE, "app.py"))
    words = ["-m", "uvicorn", "--port", str(port), "--ws", CLASS, "app:app"]
    with running(["python", *words], tmp_path, port) as program_:
        yield f"ws://127.0.0.1:{port}", program_


def test_function(server: tuple[str, Running]) -> None:
    url, program_ = server
    assert get(int(url.rpartition(":")[2]), "/healthz") == (200, b"ready\n")
    with connect(f"{url}/echo", proxy=None, subprotocols=["other", "echo"]) as connection:  # type: ignore[list-item]
        assert connection.subprotocol == "echo"
        connection.send("hello")
        assert connection.recv(TIMEOUT) == "hello"
        connection.close(3001, "enough")
    program_.wait_for("^closed with 3001 enough$")


def test_class(server: tuple[str, Running]) -> None:
    url, _ = server
    assert talk(f"{url}/sum", "[1, 2, 3.5]") == ["6.5"]
    with connect(f"{url}/sum", proxy=None) as connection:
        connection.send("no JSON")
        with pytest.raises(ConnectionClosedError):
            connection.recv(TIMEOUT)
        assert connection.close_code == 1003


def test_answers(server: tuple[str, Running]) -> None:
    url, _ = server
    with pytest.raises(InvalidStatus) as raised:
        connect(f"{url}/guarded", proxy=None, origin="https://example.org")  # type: ignore[arg-type]
    assert raised.value.response.status_code == 403
    assert raised.value.response.body == b"wrong Origin\n"
    with connect(f"{url}/guarded", proxy=None, origin="https://example.com") as connection:  # type: ignore[arg-type]
        assert connection.response is not None
        assert connection.response.headers["X-Guarded"] == "yes"
        with pytest.raises(ConnectionClosedError):
            connection.recv(TIMEOUT)
        assert (connection.close_code, connection.close_reason) == (4000, "that was all")
    with pytest.raises(InvalidStatus) as raised:
        connect(f"{url}/nothing", proxy=None)
    assert raised.value.response.status_code == 403


FAILING = """
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute


async def early(websocket):
    raise ValueError


async def late(websocket):
    await websocket.accept()
    raise ValueError


async def returns(websocket):
    await websocket.accept()


app = Starlette(routes=[WebSocketRoute(f"/{f.__name__}", f) for f in (early, late, returns)])
"""


def test_what_failures_send(tmp_path: Path) -> None:
    port = free_port()
    write(tmp_path, "app.py", FAILING)
    words = ["-m", "uvicorn", "--port", str(port), "--ws", CLASS, "app:app"]
    with running(["python", *words], tmp_path, port):
        with pytest.raises(InvalidStatus) as raised:
            connect(f"ws://127.0.0.1:{port}/early", proxy=None)
        assert raised.value.response.status_code == 500
        for path, code in (("late", 1011), ("returns", 1000)):
            with connect(f"ws://127.0.0.1:{port}/{path}", proxy=None) as connection:
                assert list(connection) == [] if code == 1000 else True
                with pytest.raises(Exception, match=str(code)):
                    connection.recv(TIMEOUT)
                assert connection.close_code == code
