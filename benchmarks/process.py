"""Processes of peers, the cores that they run on, and the machine.

Knows how a peer is started and looked at from outside, not what is done to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from . import certificate, load, peers

ROOT: Final = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Process:
    """A server process and the way to it."""

    popen: subprocess.Popen[bytes]
    hello: dict[str, Any]
    target: load.Target

    def release_memory(self) -> None:
        """Have it collect garbage."""
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.write(b"g")
        self.popen.stdin.flush()
        if self.popen.stdout.readline() != b"done\n":
            raise load.WrongEcho("the server process ended early")

    def pauses(self) -> list[tuple[int, float]]:
        """Return generation and seconds of each garbage collection since the last call."""
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.write(b"p")
        self.popen.stdin.flush()
        line = self.popen.stdout.readline()
        if not line:
            raise load.WrongEcho("the server process ended early")
        return [(generation, seconds) for generation, seconds in json.loads(line)["pauses"]]

    def memory(self) -> float:
        """Return the KiB of memory that it has written to and that no other process shares."""
        return self._memory("Anonymous")

    def resident(self) -> float:
        """Return the KiB of its memory that are in memory, those that others share included."""
        return self._memory("Rss")

    def _memory(self, kind: str) -> float:
        text = Path(f"/proc/{self.popen.pid}/smaps_rollup").read_text()
        for line in text.splitlines():
            if line.startswith(f"{kind}:"):
                return float(line.split()[1])
        raise OSError(f"no {kind} in smaps_rollup")


def cores() -> tuple[int, int]:
    """Return the cores for the server and for the load; (-1, -1) where they can't be separate."""
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[1]) if len(allowed) > 1 else (-1, -1)


def command(front_end: str, peer: str, service: str, cpu: int) -> list[str]:
    """Return the command line of a peer."""
    return [sys.executable, "-m", "benchmarks.server", front_end, peer, service, str(cpu)]


@contextlib.contextmanager
def server(front_end: str, peer: str, service: str, cpu: int) -> Iterator[Process]:
    """Run a server in a process of its own for as long as the context lasts."""
    popen = subprocess.Popen(
        command(front_end, peer, service, cpu),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    target = None
    try:
        assert popen.stdout is not None
        line = popen.stdout.readline()
        if not line:
            raise load.WrongEcho(f"{peer}: the server process did not start")
        hello = json.loads(line)
        websocket = "raw" not in peers.PEERS[front_end][peer].takes
        tls = certificate.client_context() if "tls" in service.split("-") else None
        target = load.Target(hello["port"], websocket, load.Clock(popen.pid), tls=tls)
        yield Process(popen, hello, target)
    finally:
        popen.kill()
        popen.communicate()
        if target is not None:
            target.close_all()


def client(
    front_end: str, peer: str, port: int, what: str, seconds: float, cpu: int
) -> dict[str, Any]:
    """Run a client to its end, and return what it says."""
    service = f"client:{port}:{what}"
    try:
        said: dict[str, Any] = json.loads(
            subprocess.check_output(
                command(front_end, peer, service, cpu), cwd=ROOT, timeout=seconds + 30
            )
        )
    except subprocess.SubprocessError as exc:
        raise load.WrongEcho(f"the client failed: {exc}") from exc
    return said


class Probe:
    """A fixed piece of work on the server's core, that tells how fast the machine is just now.

    On shared machines that changes by a factor of two within a second.
    """

    def __init__(self, cpu: int, patience: float) -> None:
        self.cpu = cpu
        self.patience = patience
        self.best = float("inf")

    def once(self) -> float:
        """Return the ms that the work takes."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self.cpu} if self.cpu >= 0 else before)
        best = float("inf")
        for _ in range(5):
            begin = time.process_time()
            for _ in range(100_000):
                pass
            best = min(best, time.process_time() - begin)
        os.sched_setaffinity(0, before)
        self.best = min(self.best, best * 1e3)
        return best * 1e3

    def quiet(self) -> float:
        """Wait, but not for ever, until the machine is near its best; return the last reading."""
        end = time.perf_counter() + self.patience
        while (reading := self.once()) > 1.2 * self.best and time.perf_counter() < end:
            pass
        return reading


def machine() -> dict[str, Any]:
    """Describe where the figures come from."""
    model = ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    versions = {}
    names = ("wsproto-fast", "websockets", "picows", "aiohttp", "uvicorn", "trio", "uvloop")
    for name in (*names, "aiofastnet", "zlib-ng", "isal"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "system": platform.platform(),
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "implementation": platform.python_implementation(),
        "load_average": os.getloadavg(),
        "versions": versions,
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
