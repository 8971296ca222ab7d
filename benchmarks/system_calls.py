"""Count system calls of servers per echo: ``python -m benchmarks.system_calls``.

Each server runs under ``strace``, and calls ``getpgrp()`` before and after the messages that count.
Needs strace, and the permission to trace.
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from . import certificate, instructions, load, peers, process

CONNECTIONS: Final = 100
ROUNDS: Final = 20
LINE: Final = re.compile(r"^(?:\d+ +)?(\w+)\(")
MARK: Final = "getpgrp"
PEERS: Final = ("raw_buffered", "wsapi", "wsapi_callbacks", "picows", "picows_websockets")


def of_server(
    front_end: str, peer: str, connections: int, rounds: int, tls: bool
) -> dict[str, float]:
    """Return how often a server makes each system call per echo of 64 B, one outstanding on each.

    Args:
        front_end: Name of the front-end.
        peer: Name of the peer.
        connections: Number of connections; a message is sent on each before echoes are awaited.
        rounds: How often that is done.
        tls: Whether over TLS.
    """
    websocket = "raw" not in peers.PEERS[front_end][peer].takes
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace")
        command = ["strace", "-f", "-qq", "-e", "signal=none", "-o", str(trace)]
        with subprocess.Popen(
            [*command, *process.command(front_end, peer, "echo-tls" if tls else "echo", -1)],
            cwd=process.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as popen:
            assert popen.stdin is not None
            assert popen.stdout is not None
            line = popen.stdout.readline()
            if not line:
                raise load.WrongEcho(f"{peer}: the server process did not start")
            target = load.Target(
                json.loads(line)["port"],
                websocket,
                load.Clock(popen.pid),
                tls=certificate.client_context() if tls else None,
            )
            try:
                sockets = [instructions.connect(target, int) for _ in range(connections)]
                for count in (2, rounds):  # those that don't count, then those that do
                    instructions.exchange(target, sockets, 1, count)
                    popen.stdin.write(b"c")
                    popen.stdin.flush()
                    popen.stdout.readline()
                popen.stdin.close()  # so it ends
                popen.wait(load.TIMEOUT)
            finally:
                popen.kill()
                target.close_all()
        calls = [match[1] for text in trace.read_text().splitlines() if (match := LINE.match(text))]
    marks = [position for position, name in enumerate(calls) if name == MARK]
    counted = collections.Counter(calls[marks[0] + 1 : marks[1]])
    # What the marks take: the first one is answered, in two pieces; the other one is read.
    counted.subtract({"read": 1, "write": 2})
    return {name: count / connections / rounds for name, count in counted.most_common() if count}


def main(arguments: list[str] | None = None) -> int:
    """Count, and print a line for each server."""
    parser = argparse.ArgumentParser(description="Count system calls per echo.")
    parser.add_argument("--peer", action="append", help=f"default: {', '.join(PEERS)}")
    parser.add_argument("--front-end", action="append", choices=peers.LOOPS)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--tls", action="store_true", help="over TLS")
    options = parser.parse_args(arguments)
    if shutil.which("strace") is None:
        parser.error("strace isn't installed")
    for front_end in options.front_end or peers.LOOPS:
        for peer in options.peer or PEERS:
            try:
                found = of_server(front_end, peer, options.connections, options.rounds, options.tls)
            except instructions.FAILURES as exc:
                print(f"benchmark aborted: {front_end}, {peer}: {exc}", file=sys.stderr)
                return 1
            calls = ", ".join(f"{name} {count:.3f}" for name, count in found.items())
            print(f"{front_end:8}  {peer:18}  {sum(found.values()):6.3f}   {calls}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
