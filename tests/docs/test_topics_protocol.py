"""The program of docs/topics-protocol.md."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from tests.docs import blocks
from tests.docs.programs import running, wait_for
from wsapi.sync.client import connect
from wsapi.topics.gateway import browser_client

pytestmark = pytest.mark.skipif(not blocks.pages(), reason="the documents are not beside the tests")


def test_server(tmp_path: Path) -> None:
    port = blocks.free_port()
    text = blocks.program("topics-protocol.md", "server.py")
    assert text.count(blocks.PORT) == 1
    with running(tmp_path, "server.py", text.replace(blocks.PORT, str(port))) as process:
        wait_for(port, process)
        url = f"http://localhost:{port}/wsapi-topics.js"
        with urllib.request.urlopen(url, timeout=30) as response:
            assert response.read().decode() == browser_client()
            assert response.headers["Content-Type"].startswith("text/javascript")
        with connect(f"ws://localhost:{port}/topics", proxy=None) as connection:
            assert json.loads(connection.recv(timeout=30))["type"] == "hello"
            connection.send(json.dumps({"type": "subscribe", "id": 1, "topic": "a"}))
            assert json.loads(connection.recv(timeout=30))["type"] == "subscribed"
