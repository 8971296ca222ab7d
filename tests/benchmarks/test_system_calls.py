"""System calls are counted: an echo reads once and writes once, here as in a bare loop."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from benchmarks import load, system_calls


def traceable() -> bool:
    """Return whether strace is there, and may trace."""
    if shutil.which("strace") is None:
        return False
    return (
        subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True).returncode == 0
    )


pytestmark = pytest.mark.skipif(not traceable(), reason="strace isn't installed, or may not trace")


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_an_echo_reads_once_and_writes_once(tls: bool) -> None:
    found = system_calls.of_server("asyncio", "wsapi", 5, 4, tls)
    assert found.pop("epoll_wait") <= 1
    assert sum(found.values()) == 2
    assert set(found) <= {"read", "recvfrom", "write", "sendto"}


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--front-end", "asyncio", "--peer", "raw_buffered", "--connections", "2"]
    assert system_calls.main([*arguments, "--rounds", "2"]) == 0
    assert "recvfrom 1.000" in capsys.readouterr().out


def test_a_server_that_fails_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(load.Target, "reply_frame", lambda *_: b"something else")
    assert system_calls.main(["--front-end", "asyncio", "--peer", "wsapi"]) == 1
    assert "benchmark aborted" in capsys.readouterr().err
