"""docs/guides/uvicorn.md: the class under uvicorn and gunicorn, and what it makes of settings."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import free_port, program
from tests.docs.deployment import (
    TIMEOUT,
    Running,
    changed,
    get,
    needs,
    running,
    talk,
    talk_unix,
    write,
)
from wsapi.exceptions import ConnectionClosedError, InvalidStatus
from wsapi.sync.client import connect

PAGE = "guides/uvicorn.md"
CLASS = "wsapi.uvicorn:WebSocketProtocol"
pytestmark = needs("uvicorn")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write(tmp_path, "app.py", program(PAGE, "app.py"))
    write(tmp_path, "settings.py", program(PAGE, "settings.py"))
    return tmp_path


@contextlib.contextmanager
def uvicorn(directory: Path, *options: str, ws: str = CLASS) -> Iterator[tuple[str, Running]]:
    port = free_port()
    words = ["python", "-m", "uvicorn", "--port", str(port), "--ws", ws, *options, "app:app"]
    with running(words, directory, port) as server:
        yield f"ws://127.0.0.1:{port}", server


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def test_command(directory: Path) -> None:
    with uvicorn(directory) as (url, server):
        assert talk(url, "hello") == ["127.0.0.1: hello"]
        assert get(port_of(url), "/") == (200, b"ready\n")
        server.wait_for(r'INFO: .* "WebSocket /" \[accepted\]')
        with connect(url, proxy=None) as connection:
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosedError):
                connection.recv(TIMEOUT)
            assert connection.close_code == 1012
        server.ends()


def test_from_python(directory: Path) -> None:
    port = free_port()
    text = changed(program(PAGE, "run.py"), {"port=8000": f"port={port}"})
    write(directory, "run.py", text)
    with running(["run.py"], directory, port):
        assert talk(f"ws://127.0.0.1:{port}", "hello") == ["127.0.0.1: hello"]


ASKED = """
async def app(scope, receive, send):
    assert scope["type"] == "websocket"
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": repr("wsapi" in scope["extensions"])})
    await send({"type": "websocket.close"})
"""


@pytest.mark.parametrize("ws, used", [(CLASS, "True"), ("auto", "False")])
def test_application_sees_the_class(directory: Path, ws: str, used: str) -> None:
    write(directory, "app.py", ASKED)
    with uvicorn(directory, "--lifespan", "off", ws=ws) as (url, _):
        with connect(url, proxy=None) as connection:
            assert connection.recv(TIMEOUT) == used


class TestSettings:
    def test_websockets(self, directory: Path) -> None:
        options = "--ws-max-size 10 --ws-per-message-deflate false --header X-A:b --root-path /x"
        with uvicorn(directory, *options.split()) as (url, _):
            with connect(url, proxy=None) as connection:
                assert connection.response is not None
                headers = connection.response.headers
                assert (headers["X-A"], headers["Server"]) == ("b", "uvicorn")
                assert "Sec-WebSocket-Extensions" not in headers
                connection.send("more than ten")
                with pytest.raises(ConnectionClosedError):
                    connection.recv(TIMEOUT)
                assert connection.close_code == 1009

    def test_silent_clients(self, directory: Path) -> None:
        options = "--ws-ping-interval 0.1 --ws-ping-timeout 0.2"
        with uvicorn(directory, *options.split()) as (url, _):
            with socket.create_connection(("127.0.0.1", port_of(url)), TIMEOUT) as sock:
                sock.sendall(
                    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                    b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                    b"Sec-WebSocket-Version: 13\r\n\r\n"
                )
                data = b""
                while piece := sock.recv(1000):
                    data += piece
            assert data.endswith(b"\x03\xf3keepalive ping timeout")

    def test_addresses_that_a_proxy_tells(self, directory: Path) -> None:
        headers = {"X-Forwarded-For": "192.0.2.1"}
        with uvicorn(directory) as (url, _):
            assert talk(url, "hello", additional_headers=headers) == ["192.0.2.1: hello"]
        with uvicorn(directory, "--forwarded-allow-ips", "127.0.0.2") as (url, _):
            assert talk(url, "hello", additional_headers=headers) == ["127.0.0.1: hello"]

    def test_unix_socket(self, directory: Path) -> None:
        path = directory / "socket"
        headers = {"X-Forwarded-For": "192.0.2.1"}
        for options, host in (([], "a Unix socket"), (["--forwarded-allow-ips", "*"], "192.0.2.1")):
            words = ["-m", "uvicorn", "--uds", str(path), "--ws", CLASS, *options, "app:app"]
            with running(["python", *words], directory, "Uvicorn running"):
                answers = talk_unix(path, "hello", additional_headers=headers)
                assert answers == [f"{host}: hello"]

    def test_descriptor(self, directory: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port, number = sock.getsockname()[1], sock.fileno()
            words = ["-m", "uvicorn", "--fd", str(number), "--ws", CLASS, "app:app"]
            with running(["python", *words], directory, "Uvicorn running", pass_fds=[number]):
                assert talk(f"ws://127.0.0.1:{port}", "hello") == ["127.0.0.1: hello"]

    def test_concurrency(self, directory: Path) -> None:
        with uvicorn(directory, "--limit-concurrency", "2") as (url, _):
            with connect(url, proxy=None), connect(url, proxy=None):
                assert get(port_of(url), "/")[0] == 503
                assert talk(url, "hello") == ["127.0.0.1: hello"]

    def test_no_websockets(self, directory: Path) -> None:
        with uvicorn(directory, ws="none") as (url, server):
            with pytest.raises(InvalidStatus):
                connect(url, proxy=None)
            server.wait_for("WARNING: +Unsupported upgrade request.")


class TestAttributes:
    def test_door(self, directory: Path) -> None:
        text = changed(program(PAGE, "settings.py"), {"max_per_address=20": "max_per_address=1"})
        write(directory, "settings.py", text)
        headers = {"X-Forwarded-For": "192.0.2.1"}
        with uvicorn(directory, ws="settings:WebSocketProtocol") as (url, _):
            with connect(url, proxy=None, additional_headers=headers):
                with pytest.raises(InvalidStatus) as raised:
                    connect(url, proxy=None, additional_headers=headers)
                assert raised.value.response.status_code == 429
                assert raised.value.response.headers["Retry-After"] == "10"
                others = {"X-Forwarded-For": "192.0.2.2"}
                assert talk(url, "hello", additional_headers=others) == ["192.0.2.2: hello"]

    def test_leaving(self, directory: Path) -> None:
        text = changed(program(PAGE, "settings.py"), {"drain_spread = 5": "drain_spread = 0.5"})
        write(directory, "settings.py", text)
        with uvicorn(directory, ws="settings:WebSocketProtocol") as (url, server):
            with connect(url, proxy=None) as connection:
                server.process.send_signal(signal.SIGTERM)
                with pytest.raises(ConnectionClosedError):
                    connection.recv(TIMEOUT)
                assert connection.close_code == 1012
            server.ends()

    def test_mistakes(self, directory: Path) -> None:
        write(
            directory, "settings.py", changed(program(PAGE, "settings.py"), {"2**20  #": "-1  #"})
        )
        words = ["-m", "uvicorn", "--ws", "settings:WebSocketProtocol", "app:app"]
        with running(["python", *words], directory) as server:
            assert server.ends() == 1
            assert "max_backlog" in server.text()


@needs("gunicorn", "uvicorn_worker")[-1]
def test_gunicorn(directory: Path) -> None:
    port = free_port()
    write(directory, "worker.py", program(PAGE, "worker.py"))
    changes = {"127.0.0.1:8000": f"127.0.0.1:{port}", "workers = 4": "workers = 2"}
    text = changed(program(PAGE, "gunicorn.conf.py"), changes)
    write(directory, "gunicorn.conf.py", text)
    environment = {"PYTHONWARNINGS": "default"}
    with running(["python", "-m", "gunicorn", "app:app"], directory, port, environment) as server:
        for _ in range(4):
            assert talk(f"ws://127.0.0.1:{port}", "hello") == ["127.0.0.1: hello"]
        with connect(f"ws://127.0.0.1:{port}", proxy=None) as connection:
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosedError):
                connection.recv(TIMEOUT)
            assert connection.close_code == 1012
        assert server.ends() == 0
        assert "Deprecat" not in server.text()
