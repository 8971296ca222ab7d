"""docs/guides/debugging.md: its program."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import blocks, programs

pytestmark = pytest.mark.skipif(not blocks.pages(), reason="the documents are not beside the tests")


def test_keys(tmp_path: Path) -> None:
    text = blocks.program("guides/debugging.md", "keys.py")
    tls = blocks.TLS(tmp_path)
    with blocks.echo_server(0, tls.server) as uri:
        assert programs.output(tmp_path, "keys.py", text, uri, str(tls.ca)) == "Hello!\n"
    assert "CLIENT_HANDSHAKE_TRAFFIC_SECRET" in (tmp_path / "keys.log").read_text()
