"""docs/migration/: programs print the same on the library that they leave and on ours."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs import blocks, programs
from wsapi.asyncio.client import connect
from wsapi.asyncio.server import serve

pytestmark = pytest.mark.skipif(
    not (blocks.DOCS / "migration").exists(), reason="the documents are not beside the tests"
)


def output(folder: Path, text: str, *arguments: str, deprecated: bool = False) -> str:
    """Run a program; return what it prints, of which nothing may be an error."""
    if not deprecated:
        return programs.output(folder, "program.py", text, *arguments)
    # -W error would end it.
    (folder / "program.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "program.py", *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=programs.DEADLINE
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def printed(page: str) -> str:
    """Return what the page says that its programs print."""
    found = [block.text for block in blocks.blocks(page) if block.language == "text"]
    assert len(found) == 1
    return found[0]


def test_websockets(tmp_path: Path) -> None:
    before = blocks.program("migration/websockets.md", "before.py")
    after = blocks.program("migration/websockets.md", "after.py")
    assert before.replace("from websockets", "from wsapi") == after
    expected = printed("migration/websockets.md")
    # There, the body is a bytearray; the page says so.
    assert output(tmp_path, before) == expected
    assert output(tmp_path, after) == expected
    alias = blocks.program("migration/websockets.md", "alias.py")
    assert output(tmp_path, alias) == "wsapi.asyncio.client\n"


def test_websockets_legacy(tmp_path: Path) -> None:
    before = blocks.program("migration/websockets-legacy.md", "before.py")
    between = blocks.program("migration/websockets-legacy.md", "between.py")
    after = blocks.program("migration/websockets-legacy.md", "after.py")
    assert before.replace("from websockets.", "from wsapi.") == between
    expected = printed("migration/websockets-legacy.md")
    assert output(tmp_path, before, deprecated=True) == expected
    assert output(tmp_path, between, deprecated=True) == expected
    assert output(tmp_path, after) == expected


def test_picows(tmp_path: Path) -> None:
    before = blocks.program("migration/picows.md", "before.py")
    after = blocks.program("migration/picows.md", "after.py")
    expected = printed("migration/picows.md")
    assert output(tmp_path, before) == expected
    assert output(tmp_path, after) == expected


def test_aiohttp(tmp_path: Path) -> None:
    before = blocks.program("migration/aiohttp.md", "before.py")
    after = blocks.program("migration/aiohttp.md", "after.py")
    expected = printed("migration/aiohttp.md")
    assert output(tmp_path, before, deprecated=True) == expected
    assert output(tmp_path, after) == expected


def test_websocket_client(tmp_path: Path) -> None:
    before = blocks.program("migration/websocket-client.md", "before.py")
    after = blocks.program("migration/websocket-client.md", "after.py")
    expected = printed("migration/websocket-client.md")
    with blocks.echo_server() as uri:
        assert output(tmp_path, before, uri) == expected
        assert output(tmp_path, after, uri) == expected


def test_wsproto(tmp_path: Path) -> None:
    before = blocks.program("migration/wsproto.md", "before.py")
    after = blocks.program("migration/wsproto.md", "after.py")
    assert before.replace("from wsproto", "from wsproto_fast.wsproto") == after
    expected = printed("migration/wsproto.md")
    with blocks.echo_server() as uri:
        assert output(tmp_path, before, uri) == expected
        assert output(tmp_path, after, uri) == expected
    alias = blocks.program("migration/wsproto.md", "alias.py")
    assert output(tmp_path, alias) == "wsproto_fast.wsproto\n"


# ---------------------------------------------------------------------- tables


def test_names_of_tables_exist() -> None:
    """Modules of ours that tables name are there, and options of connect and serve."""
    options = {*inspect.signature(connect).parameters, *inspect.signature(serve).parameters}
    options |= {"text", "timeout", "decode", "sock", "on_frame", "listener", "legacy", "max_size"}
    for page in sorted((blocks.DOCS / "migration").glob("*.md")):
        for line in page.read_text(encoding="utf-8").splitlines():
            if not line.startswith("| ") or line.count(" | ") != 1:
                continue
            ours = line.split(" | ")[1]
            for name in re.findall(r"`((?:wsapi|wsproto_fast)\.[\w.]+)", ours):
                module, _, rest = name.rpartition(".")
                try:
                    importlib.import_module(name)
                except ImportError:
                    assert hasattr(importlib.import_module(module), rest), (page.name, name)
            for name in re.findall(r"`(\w+)=[`)(\"a-z]", ours):
                assert name in options, (page.name, line)
