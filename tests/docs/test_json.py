"""The program of docs/guides/json.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import blocks
from tests.docs.programs import running, wait_for
from wsapi.exceptions import ConnectionClosedError
from wsapi.sync.client import connect

pytestmark = pytest.mark.skipif(not blocks.pages(), reason="the documents are not beside the tests")


def test_server(tmp_path: Path) -> None:
    pytest.importorskip("msgspec", reason="msgspec isn't installed")
    port = blocks.free_port()
    text = blocks.program("guides/json.md", "server.py")
    assert text.count(blocks.PORT) == 1
    with running(tmp_path, "server.py", text.replace(blocks.PORT, str(port))) as process:
        wait_for(port, process)
        with connect(f"ws://localhost:{port}", proxy=None) as connection:
            connection.send_json({"item": "tea", "number": 2})
            assert connection.recv_json(30) == {"price": 6}
            connection.send_json({"item": "tea", "number": "two"})
            with pytest.raises(ConnectionClosedError) as caught:
                connection.recv_json(30)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1007
