"""Programs of README.md."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.docs import blocks
from tests.docs.programs import output, running, wait_for
from tests.wsapi.topics import valkey_broker
from wsapi.exceptions import ConnectionClosed
from wsapi.sync.client import connect

pytestmark = [
    pytest.mark.skipif(not blocks.pages(), reason="the documents are not beside the tests"),
    pytest.mark.skipif(sys.platform == "win32", reason="no broker runs there"),
]


def at(port: int, text: str) -> str:
    assert blocks.PORT in text
    return text.replace(blocks.PORT, str(port))


def test_server_and_client(tmp_path: Path) -> None:
    port = blocks.free_port()
    server = at(port, blocks.program("README.md", "server.py"))
    client = at(port, blocks.program("README.md", "client.py"))
    with running(tmp_path, "server.py", server) as process:
        wait_for(port, process)
        assert output(tmp_path, "client.py", client) == "Hello!\n"


def test_limits(tmp_path: Path) -> None:
    port = blocks.free_port()
    text = at(port, blocks.program("README.md", "limited.py"))
    with running(tmp_path, "limited.py", text) as process:
        wait_for(port, process)
        with connect(f"ws://localhost:{port}", proxy=None) as connection:
            connection.send("Hello!")
            assert connection.recv(timeout=30) == "Hello!"
            process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed):
                connection.recv(timeout=30)
            assert connection.close_code == 1012
        assert process.communicate(timeout=30) == ("", "")
        assert process.returncode == 0


def test_other_names(tmp_path: Path) -> None:
    text = blocks.program("README.md", "alias.py")
    assert output(tmp_path, "alias.py", text) == "wsapi.asyncio.client wsproto_fast.wsproto\n"


def test_board(tmp_path: Path) -> None:
    broker = valkey_broker.Broker(tmp_path / "valkey")
    broker.folder.mkdir()
    broker.start()
    try:
        port = blocks.free_port()
        text = at(port, blocks.program("README.md", "board.py"))
        assert text.count("redis://127.0.0.1:6379") == 1
        text = text.replace("redis://127.0.0.1:6379", broker.url)
        with running(tmp_path, "board.py", text) as process:
            wait_for(port, process)
            with connect(f"ws://localhost:{port}", proxy=None) as connection:
                connection.send("Hello!")
                assert connection.recv(timeout=30) == "Hello!"
    finally:
        broker.stop()
