"""The steps from the bare loop to a message run, and are written down; no figure is looked at."""

from __future__ import annotations

import ctypes
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks import large, process
from benchmarks.peers import raw

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and other processes' clocks"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler"),
    pytest.mark.timeout(120),
]


@pytest.mark.parametrize("option", ["--tls", "--no-tls"])
def test_tables(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "large.md"
    peers = ["--peer=raw_buffered", "--peer=raw_whole", "--peer=raw_unmasked", "--peer=wsapi"]
    arguments = ["--quick", "--loop=asyncio", "--size=64 KiB", *peers, option]
    assert large.main([*arguments, f"--markdown={file}"]) == 0
    text = file.read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    assert text.startswith(f"64 KiB{' over TLS' if option == '--tls' else ''}:")
    assert text.count("\n| ") == 5


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind isn't installed")
def test_instructions(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--quick", "--loop=asyncio", "--size=64 KiB", "--no-tls", "--instructions"]
    assert large.main([*arguments, "--peer=raw"]) == 0
    assert "| instructions |" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["raw_whole", "raw_unmasked"])
@pytest.mark.parametrize("size", [1 << 16, (1 << 20) + 1024])
def test_bare_loop_that_waits(name: str, size: int) -> None:
    with process.server("asyncio", name, "echo-large", -1) as server:
        echo = large.conversation(server.target, size)
        assert [echo.turn() for _ in range(3)] == [1, 1, 1]


def test_unmasking() -> None:
    memory = raw.Memory(2000)
    address, size = ctypes.c_void_p(memory.address), ctypes.c_size_t(2000)
    raw.unmasking().unmask(address, size, b"\1\2\3\4", ctypes.c_size_t(0))
    assert bytes(memory.view) == b"\1\2\3\4" * 500
