"""What topics cost in one process: ``python -m benchmarks.topics``; see README.md.

``publish``: instructions per receiver of ``Topics.publish`` and of ``broadcast``, counted by
callgrind in processes of their own; what a run with twice as many messages takes more. The peers
read nothing: what they are sent fits in the buffers of their sockets.

``memory``: bytes that a subscription takes, and whether subscribing again and again takes more.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any, Final

from . import process
from .server import run_loop

LOOPS: Final = ("asyncio", "uvloop")
WAYS: Final = ("broadcast", "publish", "publish-history")
MESSAGE: Final = "x" * 64
RECEIVERS: Final = 1000
MESSAGES: Final = 20
PATIENCE: Final = 300  # seconds for a process, which valgrind makes 50 times as slow


async def connections(number: int) -> tuple[list[Any], list[socket.socket]]:
    """Return open connections of a server, and the sockets of their peers."""
    from wsapi.asyncio.connection import Connection
    from wsapi.protocol import Protocol, Side

    loop = asyncio.get_running_loop()
    made, others = [], []
    for _ in range(number):
        ours, theirs = socket.socketpair()
        _, connection = await loop.create_connection(
            lambda: Connection(Protocol(Side.SERVER), ping_interval=None), sock=ours
        )
        made.append(connection)
        others.append(theirs)
    return made, others


# ---------------------------------------------------------------------- instructions


async def send(way: str, receivers: int, messages: int) -> None:
    """Send messages to all receivers, one way or the other."""
    from wsapi.asyncio.server import broadcast
    from wsapi.topics import History, Topics

    open_connections, _others = await connections(receivers)
    topics = Topics(history=History(messages=100 if way == "publish-history" else 0))
    for connection in open_connections:
        await topics.subscribe(connection, "topic")
    # As a program that doesn't run for long: the collector's turns are no part of either.
    gc.disable()
    for _ in range(messages):
        if way == "broadcast":
            broadcast(open_connections, MESSAGE)
        else:
            await topics.publish("topic", MESSAGE)
        await asyncio.sleep(0)
    os._exit(0)


def count(loop: str, way: str, receivers: int, messages: int) -> int:
    """Return the instructions of a process that sends messages."""
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder, "callgrind.out")
        command = [
            *("valgrind", "--tool=callgrind", "-q", f"--callgrind-out-file={profile}"),
            *(sys.executable, "-m", "benchmarks.topics", "send", loop, way),
            *(str(receivers), str(messages)),
        ]
        # The same hashes, and so the same collisions, in every run.
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        subprocess.run(command, cwd=process.ROOT, env=environment, check=True, timeout=PATIENCE)
        found = re.search(r"^(?:summary|totals): (\d+)", profile.read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit("valgrind wrote no total")
    return int(found[1])


def publishing(options: argparse.Namespace) -> dict[str, float]:
    """Count, and print a table."""
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind isn't installed")
    receivers, messages = (50, 4) if options.quick else (RECEIVERS, MESSAGES)
    figures: dict[str, float] = {}
    for loop in LOOPS:
        for way in WAYS:
            once, twice = (count(loop, way, receivers, n) for n in (messages, 2 * messages))
            value = (twice - once) / messages / receivers
            figures[f"{loop} {way}"] = round(value)
            ratio = value / figures[f"{loop} broadcast"]
            print(f"{loop:8}  {way:16} {value:>8,.0f}  {ratio:.3f} x broadcast", flush=True)
    return figures


# ---------------------------------------------------------------------- memory


async def subscribe(subscriptions: int, names: int, rounds: int) -> dict[str, float]:
    """Subscribe connections to topics and unsubscribe them, again and again."""
    from wsapi.topics import Topics

    wanted = min(subscriptions, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 100) // 2)
    open_connections, others = await connections(wanted)
    topics = Topics()
    tracemalloc.start()
    used = []
    for _ in range(rounds):
        made = []
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(subscriptions):
            connection = open_connections[number % wanted]
            made.append(await topics.subscribe(connection, f"topic {number % names}"))
        gc.collect()
        used.append((tracemalloc.get_traced_memory()[0] - before) / subscriptions)
        assert topics.stats().subscriptions == subscriptions
        for subscription in made:
            subscription.unsubscribe()
        await asyncio.sleep(0)
        assert topics.stats().topics == 0
        del made, subscription
    gc.collect()
    first = before - tracemalloc.get_traced_memory()[0]
    print(f"{subscriptions} subscriptions of {wanted} connections on {names} topics")
    print("bytes per subscription:", ", ".join(f"{value:.0f}" for value in used))
    print("bytes less at the end than before the last round:", first)
    tracemalloc.stop()
    for connection, other in zip(open_connections, others, strict=True):
        connection.transport.abort()
        other.close()
    await asyncio.sleep(0)
    return {"bytes per subscription": round(used[-1]), "growth": round(used[-1] - used[1])}


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print."""
    if arguments is None and sys.argv[1:2] == ["send"]:
        loop, way, receivers, messages = sys.argv[2:]
        run_loop(loop, send(way, int(receivers), int(messages)))
    parser = argparse.ArgumentParser(description="Measure topics.")
    parser.add_argument("what", nargs="*", choices=["publish", "memory"], default="publish")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--quick", action="store_true", help="shows that it runs")
    options = parser.parse_args(arguments)
    what = [options.what] if isinstance(options.what, str) else options.what
    figures: dict[str, Any] = {}
    if "publish" in what:
        figures["publish"] = publishing(options)
    if "memory" in what:
        size, names = (500, 50) if options.quick else (10_000, 1_000)
        figures["memory"] = asyncio.run(subscribe(size, names, rounds=5))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
