"""Whether ``wsapi bench`` agrees with `load`: ``python -m benchmarks.agreement``.

Both put the same load on the same server process, one after the other, again and again: echoes of
binary messages, closed loop. They have no code in common: `load` writes and compares bytes on plain
sockets, ``wsapi bench`` is a client of ours. Compared are the messages per second, and the
processor time of the server per message, each the middle of all rounds. Server and load have a core
each, where there are two; on a machine that others use, the ratios are the machine's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from . import load, peers, process

AGREED: Final = 0.1
CASES: Final = {
    "echo-100x64": (100, 1, 64),
    "echo-10x64": (10, 1, 64),
    "pipeline-64": (1, 64, 64),
    "pipeline-16x4k": (1, 16, 4096),
    "echo-20x64k": (20, 1, 65536),
}
"""Connections, messages in flight on each, and their size, by name."""
LEFT: Final = 30.0  # seconds for `wsapi bench` to begin and to end


@dataclass(frozen=True)
class Reading:
    """One measurement."""

    rate: float  # messages per second
    cpu: float  # µs of the server's processor time per message
    client: float | None = None  # share of a core that the load took


def by_load(server: process.Process, case: tuple[int, int, int], seconds: float) -> Reading:
    """Measure with `load`."""
    window = load.echo(server.target, *case, seconds / 4, seconds, slices=1)
    server.target.close_all()
    return Reading(window.messages / window.wall, window.cpu_us)


def bench(
    server: process.Process, case: tuple[int, int, int], seconds: float, *options: str
) -> tuple[dict[str, Any], float]:
    """Run ``wsapi bench`` in a process of its own; return what it says, and the server's time."""
    connections, in_flight, size = case
    command = [sys.executable, "-m", "wsapi", "bench", f"ws://{load.HOST}:{server.target.port}/"]
    command += ["--no-proxy", "--json", "--warmup", "0", *options]
    command += ["-c", str(connections), "-w", str(in_flight), "-s", str(size)]
    before = server.target.clock.cpu()
    output = subprocess.check_output(command, cwd=process.ROOT, timeout=seconds + LEFT)
    said: dict[str, Any] = json.loads(output)
    return said, server.target.clock.cpu() - before


def by_command(server: process.Process, case: tuple[int, int, int], seconds: float) -> Reading:
    """Measure with ``wsapi bench``."""
    # What opening and closing connections costs the server isn't that of messages.
    _, other = bench(server, case, seconds, "--messages", "1")
    said, cpu = bench(server, case, seconds, "--duration", str(seconds))
    if not said["messages"]:
        raise load.WrongEcho(f"wsapi bench measured nothing: {said}")
    cpu_us = (cpu - other) / said["messages"] * 1e6
    return Reading(said["messages_per_second"], cpu_us, said["cpu_share"])


def middle(readings: list[Reading], of: Callable[[Reading], float]) -> float:
    """Return the median of a figure."""
    return statistics.median(map(of, readings))


def compare(front_end: str, peer: str, name: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure one case both ways, and return the figures."""
    cpu, load_cpu = process.cores()
    before = os.sched_getaffinity(0)
    if load_cpu >= 0:
        os.sched_setaffinity(0, {load_cpu})
    try:
        with process.server(front_end, peer, "echo", cpu) as server:
            ours, theirs = [], []
            for _ in range(rounds):
                theirs.append(by_load(server, CASES[name], seconds))
                ours.append(by_command(server, CASES[name], seconds))
    finally:
        os.sched_setaffinity(0, before)
    rates = middle(ours, lambda r: r.rate), middle(theirs, lambda r: r.rate)
    cpus = middle(ours, lambda r: r.cpu), middle(theirs, lambda r: r.cpu)
    return {
        "case": name,
        "front_end": front_end,
        "peer": peer,
        "rate_load": rates[1],
        "rate_bench": rates[0],
        "rate_ratio": rates[0] / rates[1],
        "cpu_us_load": cpus[1],
        "cpu_us_bench": cpus[0],
        "cpu_ratio": cpus[0] / cpus[1],
        "client": middle(ours, lambda r: r.client or 0.0),
        "rounds": [
            {"load": vars(one), "bench": vars(other)}
            for one, other in zip(theirs, ours, strict=True)
        ],
    }


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agreement", description=__doc__)
    parser.add_argument("--case", action="append", choices=CASES, help="default: all")
    parser.add_argument("--front-end", choices=peers.LOOPS, default="asyncio")
    parser.add_argument("--peer", default="wsapi", help="server (wsapi)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args(arguments)

    print(
        f"{'':16} {'msg/s: load':>12} {'bench':>10} {'ratio':>6}   "
        f"{'µs/msg: load':>12} {'bench':>7} {'ratio':>6}  busy"
    )
    results = []
    for name in options.case or CASES:
        found = compare(options.front_end, options.peer, name, options.rounds, options.seconds)
        results.append(found)
        print(
            f"{name:16} {found['rate_load']:12,.0f} {found['rate_bench']:10,.0f} "
            f"{found['rate_ratio']:6.2f}   {found['cpu_us_load']:12.2f} "
            f"{found['cpu_us_bench']:7.2f} {found['cpu_ratio']:6.2f}  {found['client']:4.0%}",
            flush=True,
        )
    if options.json:
        text = json.dumps({"machine": process.machine(), "results": results}, indent=1)
        options.json.write_text(text + "\n")
    apart = [r["case"] for r in results if abs(r["rate_ratio"] - 1) > AGREED]
    print(f"apart by more than {AGREED:.0%}: {', '.join(apart)}" if apart else "they agree")
    return 1 if apart else 0


if __name__ == "__main__":
    raise SystemExit(main())
