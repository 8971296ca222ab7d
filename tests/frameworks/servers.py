"""Servers of others on our engine, each in a process of its own."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_TIMEOUT = 30.0

CLASS = "wsapi.uvicorn:WebSocketProtocol"
UVICORN = "-m uvicorn --host 127.0.0.1 --port {port} --lifespan off --ws-max-size 1000000"


@dataclass(frozen=True)
class Framework:
    """A framework and the server that it runs on.

    Attributes:
        name: Name for people.
        command: Arguments of Python, with a place for the port.
        engine: What the server says that it speaks WebSocket with.
        aliases: Packages that are replaced by ours.
        asgi: Whether it can answer opening handshakes as ASGI applications can.
        says_why: Whether it sends the Close frame that an error calls for; some servers drop it.
        knows_codes: Whether it passes the client's close code on.
        lets_read: Whether it leaves the client the time to read what it sent before it closed.
    """

    name: str
    command: str
    engine: str
    aliases: str = ""
    asgi: bool = True
    says_why: bool = True
    knows_codes: bool = True
    lets_read: bool = True


STARLETTE = "tests.frameworks.app_starlette:app"
FASTAPI = "tests.frameworks.app_fastapi:app"
SANSIO = "wsproto_fast._server"

FRAMEWORKS = {
    framework.name: framework
    for framework in [
        Framework(
            "uvicorn-class-starlette",
            f"{UVICORN} --http h11 --loop asyncio --ws {CLASS} {STARLETTE}",
            "wsapi.uvicorn",
        ),
        Framework(
            "uvicorn-class-fastapi",
            f"{UVICORN} --http httptools --loop auto --ws {CLASS} {FASTAPI}",
            "wsapi.uvicorn",
        ),
        Framework(
            "uvicorn-websockets-starlette",
            f"{UVICORN} --loop auto --ws websockets-sansio {STARLETTE}",
            SANSIO,
            "websockets",
        ),
        Framework(
            "uvicorn-legacy-starlette",
            f"{UVICORN} --loop auto --ws websockets {STARLETTE}",
            "wsapi.legacy.server",
            "websockets",
        ),
        Framework(
            "uvicorn-auto-fastapi",
            f"{UVICORN} --loop asyncio --ws auto {FASTAPI}",
            SANSIO,
            "websockets,wsproto",
        ),
        Framework(
            "uvicorn-wsproto-starlette",
            f"{UVICORN} --loop auto --ws wsproto {STARLETTE}",
            "wsproto_fast.wsproto",
            "wsproto",
            says_why=False,
        ),
        Framework(
            "hypercorn-starlette",
            f"-m hypercorn --bind 127.0.0.1:{{port}} --websocket-ping-interval 20 {STARLETTE}",
            "wsproto_fast.wsproto._connection",
            "wsproto",
            says_why=False,
            knows_codes=False,
            lets_read=False,
        ),
        Framework(
            "sanic",
            "-m tests.frameworks.app_sanic {port}",
            SANSIO,
            "websockets",
            asgi=False,
        ),
    ]
}


@dataclass(frozen=True)
class Server:
    """A running server."""

    framework: Framework
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def uri(self, path: str) -> str:
        return f"ws://127.0.0.1:{self.port}{path}"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def running(framework: Framework, *more: str) -> Iterator[Server]:
    """Run a server for as long as the context lasts."""
    port = free_port()
    command = [sys.executable]
    if framework.aliases:
        command += ["-m", "wsapi", "run", "--as", framework.aliases, "--"]
    command += [*framework.command.format(port=port).split(), *more]
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        try:
            wait_for(port, process, log)
            yield Server(framework, port, process, log)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server accepts connections."""
    end = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.05)
    raise AssertionError(f"{process.args!r} didn't start:\n{log.read_text()}")
