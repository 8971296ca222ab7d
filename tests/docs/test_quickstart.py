"""The programs of the quick starts."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import PORT, free_port, pages, program
from tests.docs.programs import DEADLINE, output, running, wait_for

pytestmark = [
    pytest.mark.skipif(not pages(), reason="the documents are not beside the tests"),
    pytest.mark.skipif(sys.platform == "win32", reason="programs are ended by signals"),
]


def check(folder: Path, server: str, *clients: str) -> list[str]:
    """Run a server, then clients; end the server as Ctrl-C does; return what clients print."""
    port = str(free_port())
    printed = []
    with running(folder, "server.py", re.sub(PORT, port, server)) as process:
        wait_for(int(port), process)
        for client in clients:
            uri = f"ws://localhost:{port}"
            printed.append(output(folder, "client.py", re.sub(PORT, port, client), uri))
        process.send_signal(signal.SIGINT)
        told, _ = process.communicate(timeout=DEADLINE)
        assert told in ("", f"listening on ws://localhost:{port}\n")
    return printed


def test_asyncio(tmp_path: Path) -> None:
    server = program("quickstart/asyncio.md", "server.py")
    client = program("quickstart/asyncio.md", "client.py")
    assert check(tmp_path, server, client) == ["Hello!\n"]


def test_threads(tmp_path: Path) -> None:
    server = program("quickstart/threads.md", "server.py")
    client = program("quickstart/threads.md", "client.py")
    assert check(tmp_path, server, client) == ["Hello!\n"]


def test_trio(tmp_path: Path) -> None:
    pytest.importorskip("trio", reason="trio isn't installed")
    server = program("quickstart/trio.md", "server.py")
    client = program("quickstart/trio.md", "client.py")
    patience = program("quickstart/trio.md", "patience.py")
    assert check(tmp_path, server, client, patience) == [
        "Hello!\n",
        "Are you there?\nsent 1000 (OK); then received 1000 (OK)\n",
    ]
