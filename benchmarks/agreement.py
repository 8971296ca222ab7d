"""Whether ``wsapi bench`` agrees with `load`: ``python -m benchmarks.agreement``.

Both put the same load on the same server process, one after the other, again and again: echoes of
binary messages, closed loop. They have no code in common: `load` writes and compares bytes on plain
sockets, ``wsapi bench`` is a client of ours. Compared are the processor time of the server per
message, and messages per second where the server has no pause: elsewhere the time that a load
generator takes for itself is a part of the round trip, so that the rate isn't the server's alone.
Figures are the middle of all rounds. Server and load have a core each, where there are two.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from wsapi.cli._bench import BUSY

from . import load, peers, process

AGREED: Final = 0.1
SATURATED: Final = 0.95  # share of the time that a server without a pause has its core
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
    cpu_us: float  # µs of the server's processor time per message
    busy: float  # share of the time that the server had its core
    client: float | None = None  # share of a core that the load took


def by_load(server: process.Process, case: tuple[int, int, int], seconds: float) -> Reading:
    """Measure with `load`."""
    window = load.echo(server.target, *case, seconds / 2, seconds, slices=1)
    server.target.close_all()
    return Reading(window.messages / window.wall, window.cpu_us, window.busy)


def by_command(server: process.Process, case: tuple[int, int, int], seconds: float) -> Reading:
    """Measure with ``wsapi bench``, in a process of its own."""
    connections, in_flight, size = case
    command = [sys.executable, "-m", "wsapi", "bench", f"ws://{load.HOST}:{server.target.port}/"]
    command += ["--no-proxy", "--json", "--pid", str(server.popen.pid)]
    command += ["--warmup", str(seconds / 2), "--duration", str(seconds)]
    command += ["-c", str(connections), "-w", str(in_flight), "-s", str(size)]
    output = subprocess.check_output(command, cwd=process.ROOT, timeout=2 * seconds + LEFT)
    said: dict[str, Any] = json.loads(output)
    return Reading(
        said["messages_per_second"],
        said["server_cpu_seconds_per_message"] * 1e6,
        said["server_cpu_share"],
        said["cpu_share"],
    )


def middle(readings: list[Reading]) -> Reading:
    """Return the medians of all figures."""
    return Reading(
        *(
            statistics.median(getattr(reading, field.name) or 0.0 for reading in readings)
            for field in fields(Reading)
        )
    )


@dataclass(frozen=True)
class Pair:
    """What came of one case."""

    case: str
    load: Reading
    bench: Reading

    @property
    def rates(self) -> float:
        """Messages per second of `wsapi bench`, to those of `load`."""
        return self.bench.rate / self.load.rate

    @property
    def costs(self) -> float:
        """The same of the server's processor time per message."""
        return self.bench.cpu_us / self.load.cpu_us

    @property
    def saturated(self) -> bool:
        """Whether the server had no pause in either."""
        return min(self.load.busy, self.bench.busy) >= SATURATED

    @property
    def exhausted(self) -> bool:
        """Whether `wsapi bench` had no pause, so that it is what it measured, which it says."""
        return (self.bench.client or 0.0) >= BUSY

    @property
    def agrees(self) -> bool:
        """Whether what can be compared is nearly the same."""
        rates = abs(self.rates - 1) <= AGREED or not self.saturated
        return self.exhausted or (rates and abs(self.costs - 1) <= AGREED)

    def __str__(self) -> str:
        mark = "!" if self.exhausted else " " if self.saturated else "*"
        return (
            f"{self.case:16} {self.load.cpu_us:12.2f} {self.bench.cpu_us:7.2f} {self.costs:6.2f}   "
            f"{self.load.rate:12,.0f} {self.bench.rate:10,.0f} {self.rates:6.2f}{mark}  "
            f"{self.load.busy:5.0%} {self.bench.busy:5.0%}  {self.bench.client or 0:5.0%}"
        )


def compare(front_end: str, peer: str, name: str, rounds: int, seconds: float) -> Pair:
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
    return Pair(name, middle(theirs), middle(ours))


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
        f"{'':16} {'µs/msg: load':>12} {'bench':>7} {'ratio':>6}   {'msg/s: load':>12} "
        f"{'bench':>10} {'ratio':>6}   {'server':>11}  client"
    )
    pairs = []
    for name in options.case or CASES:
        pair = compare(options.front_end, options.peer, name, options.rounds, options.seconds)
        pairs.append(pair)
        print(pair, flush=True)
    if not all(pair.saturated or pair.exhausted for pair in pairs):
        print(f"* rate not compared: the server was busy for less than {SATURATED:.0%} of the time")
    if any(pair.exhausted for pair in pairs):
        print(f"! not compared: wsapi bench was busy for more than {BUSY:.0%} of the time")
    if options.json:
        results = [
            asdict(pair) | {"cpu_ratio": pair.costs, "rate_ratio": pair.rates} for pair in pairs
        ]
        text = json.dumps({"machine": process.machine(), "results": results}, indent=1)
        options.json.write_text(text + "\n")
    apart = [pair.case for pair in pairs if not pair.agrees]
    print(f"apart by more than {AGREED:.0%}: {', '.join(apart)}" if apart else "they agree")
    return 1 if apart else 0


if __name__ == "__main__":
    raise SystemExit(main())
