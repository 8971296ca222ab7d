"""Count instructions of servers: ``python -m benchmarks.instructions``; see README.md.

Each server runs twice under ``valgrind --tool=callgrind``, for N and for 2 N messages or
connections; what the second run takes more, divided by N, is the figure. It counts the instructions
of the process alone, without the kernel's, and hardly depends on the machine or on what else that
does.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Final, TypeAlias

from . import data, load, peers, process

SIZE: Final = 64
PAYLOAD: Final = b"x" * SIZE
KEY: Final = b"\x12\x34\x56\x78"
CONNECTIONS: Final = 10
IN_FLIGHT: Final = 64
PATIENCE: Final = (
    120  # seconds for the whole run of a server, which valgrind makes 50 times as slow
)

Load: TypeAlias = "Callable[[load.Target, int], object]"


def exchange(
    target: load.Target, sockets: list[socket.socket], in_flight: int, rounds: int
) -> None:
    """Send the same frames on all connections, await all echoes, and so on."""
    sent = target.request_frame(data.BINARY, PAYLOAD, KEY) * in_flight
    echo = target.reply_frame(data.BINARY, PAYLOAD, KEY) * in_flight
    for sock in sockets:
        sock.settimeout(load.TIMEOUT)
    for _ in range(rounds):
        for sock in sockets:
            sock.sendall(sent)
        for sock in sockets:
            received = b""
            while received != echo:
                piece = sock.recv(len(echo))
                received += piece
                if not piece or not echo.startswith(received):
                    raise load.mismatch(received if piece else b"", echo)


def one_outstanding(target: load.Target, count: int) -> None:
    """Echo messages, one at a time on each connection."""
    exchange(target, load.connect_many(target, CONNECTIONS), 1, count // CONNECTIONS)


def many_outstanding(target: load.Target, count: int) -> None:
    """Echo messages that arrive together on one connection."""
    exchange(target, load.connect_many(target, 1), IN_FLIGHT, count // IN_FLIGHT)


def opening(target: load.Target, count: int) -> None:
    """Open connections, one after the other, that stay open."""
    load.connect_many(target, count)


def ending(target: load.Target, count: int) -> None:
    """Open connections, one after the other, and close each."""
    for number in range(count):
        sock = load.connect(target, number.to_bytes(16, "big"))
        sock.settimeout(load.TIMEOUT)
        sock.sendall(data.frame(data.CLOSE, load.CLOSE_FRAME, KEY))
        while sock.recv(4096):
            pass
        target.close(sock)


# For each load what it is, and N.
LOADS: Final[dict[str, tuple[Load, int]]] = {
    f"echo-{CONNECTIONS}x{SIZE}": (one_outstanding, 2000),
    f"in-flight-{IN_FLIGHT}": (many_outstanding, 6400),
    "opening": (opening, 200),
    "opening-and-closing": (ending, 200),
}


def instructions(front_end: str, peer: str, run: Load, count: int) -> int:
    """Return the instructions of a server for a load."""
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder, "callgrind.out")
        command = [
            *("valgrind", "--tool=callgrind", "-q", f"--callgrind-out-file={profile}"),
            *process.command(front_end, peer, "echo", -1),
        ]
        # The same hashes, and so the same collisions, in every run. And no Ping: valgrind is slow.
        environment = {**os.environ, "PYTHONHASHSEED": "0", peers.PING_INTERVAL: "3600"}
        with subprocess.Popen(
            command,
            cwd=process.ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as server:
            try:
                return _measured(server, profile, run, count)
            finally:
                server.kill()


def _measured(server: subprocess.Popen[bytes], profile: Path, run: Load, count: int) -> int:
    assert server.stdout is not None
    line = server.stdout.readline()
    if not line:
        raise load.WrongEcho("the server process did not start")
    target = load.Target(json.loads(line)["port"], True, load.Clock(server.pid))
    try:
        run(target, count)
        server.communicate(timeout=PATIENCE)  # it ends with its standard input
    finally:
        target.close_all()
    found = re.search(r"^(?:summary|totals): (\d+)", profile.read_text(), re.MULTILINE)
    if found is None:
        raise load.WrongEcho("valgrind wrote no total")
    return int(found[1])


def main(arguments: list[str] | None = None) -> int:
    """Count, and print a table."""
    parser = argparse.ArgumentParser(description="Count instructions per message and connection.")
    parser.add_argument("--peer", action="append", help="default: wsapi")
    parser.add_argument("--front-end", action="append", choices=peers.FRONT_ENDS)
    parser.add_argument("--load", action="append", choices=LOADS)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--quick", action="store_true", help="shows that it runs")
    options = parser.parse_args(arguments)
    if shutil.which("valgrind") is None:
        parser.error("valgrind isn't installed")
    figures: dict[str, float] = {}
    for front_end in options.front_end or peers.FRONT_ENDS:
        for peer in options.peer or ["wsapi"]:
            for name in options.load or LOADS:
                run, count = LOADS[name]
                if options.quick:
                    count //= 20
                try:
                    once, twice = (
                        instructions(front_end, peer, run, n) for n in (count, 2 * count)
                    )
                except (
                    load.WrongEcho,
                    OSError,
                    PackageNotFoundError,
                    subprocess.SubprocessError,
                ) as exc:
                    print(f"benchmark aborted: {front_end}, {peer}, {name}: {exc}", file=sys.stderr)
                    return 1
                figures[f"{front_end} {peer} {name}"] = value = round((twice - once) / count)
                print(f"{front_end:8}  {peer:18}  {name:20} {value:>12,}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
