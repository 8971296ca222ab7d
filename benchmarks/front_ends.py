"""What ``benchmarks.threads`` and ``benchmarks.tasks`` have in common: they compare front-ends.

Servers are loaded as in ``benchmarks.compare``; clients talk to our server, or to a bare echo. Each
peer runs in a fresh process pinned to one core, all else on another; rounds are interleaved, and
the best counts. Figures are µs of processor time of that process per message, or KiB per
connection. ``raw`` does with bare sockets what the others do with WebSocket.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import TypeAlias

from . import load
from .compare import ROOT, Process, cores

HOST = "127.0.0.1"
SIZE = 64
BARE = b"x" * (SIZE + 6)  # as long as a masked frame
SERVER_CPU, LOAD_CPU = cores()  # before this process is pinned

Run: TypeAlias = "Callable[[str, float], float]"


@dataclass(frozen=True)
class Comparison:
    """Peers, and how they are run.

    Args:
        module: Name of the module that is run, in this process and in those of peers.
        distributions: What each peer is a part of; None for the standard library.
        servers: Peers that are servers; all are clients.
        serve: Runs a server until standard input ends, having printed its port as JSON; the
            letter ``g`` makes it free memory and print a line.
        talk: Runs a client of a port for some seconds, and prints the µs per round trip.
        connections: Number of connections in the scenario with one message each.
        idle: Number of connections whose memory is measured.
    """

    module: str
    distributions: dict[str, str | None]
    servers: tuple[str, ...]
    serve: Callable[[str], object]
    talk: Callable[[str, int, float], object]
    connections: int
    idle: int

    @property
    def scenarios(self) -> dict[str, tuple[str, tuple[str, ...], Run]]:
        """Title, peers, and function of each scenario."""
        count, servers = self.connections, self.servers
        one_each = f"server: {count} connections, one message of {SIZE} B each, µs"
        in_flight = f"server: 64 messages of {SIZE} B in flight, µs"
        return {
            "client-1x64": (
                f"client: one round trip of {SIZE} B, µs",
                tuple(self.distributions),
                self.round_trips,
            ),
            f"server-{count}x64": (one_each, servers, self.echo(count, 1)),
            "server-64-in-flight": (in_flight, servers, self.echo(1, 64)),
            "server-idle": ("server: an idle connection, KiB", servers, self.idle_memory),
        }

    # ------------------------------------------------------------------ measuring

    @contextmanager
    def process(self, peer: str, cpu: int) -> Iterator[Process]:
        """Run a server in a process of its own for as long as the context lasts."""
        command = [sys.executable, "-m", self.module, "--serve", peer, "--cpu", str(cpu)]
        popen = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        target = None
        try:
            assert popen.stdout is not None
            hello = json.loads(popen.stdout.readline())
            target = load.Target(hello["port"], peer != "raw", load.Clock(popen.pid))
            yield Process(popen, hello, target)
        finally:
            popen.kill()
            popen.communicate()
            if target is not None:
                target.close_all()

    def echo(self, connections: int, in_flight: int) -> Run:
        """Make a scenario: a server echoes messages."""

        def run(peer: str, seconds: float) -> float:
            with self.process(peer, SERVER_CPU) as server:
                window = load.echo(server.target, connections, in_flight, SIZE, 0.3, seconds)
            return window.cpu_us

        return run

    def round_trips(self, peer: str, seconds: float) -> float:
        """Measure a client that sends a message and waits for its echo, again and again."""
        # The client takes the place of the server.
        with self.process("raw" if peer == "raw" else "wsapi", LOAD_CPU) as server:
            command = [sys.executable, "-m", self.module, "--talk", peer, "--cpu", str(SERVER_CPU)]
            command += ["--port", str(server.hello["port"]), "--seconds", str(seconds)]
            return float(subprocess.check_output(command, cwd=ROOT, timeout=seconds + 30))

    def idle_memory(self, peer: str, seconds: float) -> float:
        """Measure the memory of a connection on which nothing happens, thread or tasks included."""
        memory = []
        with self.process(peer, SERVER_CPU) as server:
            for count in (20, self.idle):
                load.connect_many(server.target, count)
                time.sleep(seconds)
                server.release_memory()
                memory.append(server.memory())
        return (memory[1] - memory[0]) / self.idle

    # ------------------------------------------------------------------ command line

    def version(self, peer: str) -> str | None:
        """Return the version of a peer, None if it isn't installed."""
        name = self.distributions[peer]
        if name is None:
            return "-"
        try:
            return distribution_version(name)
        except PackageNotFoundError:
            return None

    def main(self, arguments: list[str] | None = None) -> None:
        """Measure, and print a table per scenario."""
        parser = argparse.ArgumentParser(prog=f"python -m {self.module}", description=__doc__)
        parser.add_argument("--scenario", action="append", choices=self.scenarios, help="all")
        parser.add_argument("--peer", action="append", choices=self.distributions, help="all")
        parser.add_argument("--rounds", type=int, default=3)
        parser.add_argument("--seconds", type=float, default=1.0, help="length of a window")
        parser.add_argument("--json", type=Path, help="write the results to this file")
        for name in ("--serve", "--talk"):
            parser.add_argument(name, choices=self.distributions, help=argparse.SUPPRESS)
        for name in ("--port", "--cpu"):
            parser.add_argument(name, type=int, help=argparse.SUPPRESS)
        options = parser.parse_args(arguments)
        if options.cpu is not None and options.cpu >= 0:
            os.sched_setaffinity(0, {options.cpu})
        if options.serve is not None:
            self.serve(options.serve)
        elif options.talk is not None:
            self.talk(options.talk, options.port, options.seconds)
        else:
            before = os.sched_getaffinity(0)
            if LOAD_CPU >= 0:
                os.sched_setaffinity(0, {LOAD_CPU})
            try:
                results = self.compare(options)
            finally:
                os.sched_setaffinity(0, before)
            if options.json is not None:
                options.json.write_text(json.dumps(results, indent=2) + "\n")

    def compare(self, options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
        """Measure; print a table per scenario, return all rounds."""
        results: dict[str, dict[str, list[float]]] = {}
        for name in options.scenario or self.scenarios:
            title, peers, run = self.scenarios[name]
            wanted = [peer for peer in peers if peer in (options.peer or peers)]
            rows = results[name] = {peer: [] for peer in wanted if self.version(peer)}
            for _ in range(options.rounds):
                for peer, values in rows.items():
                    values.append(run(peer, options.seconds))
            print(f"\n{title:56}{'x raw':>8}{'x websockets':>14}")
            for peer, values in rows.items():
                best = min(values)
                ratios = [
                    f"{best / min(rows[base]):.2f}" if rows.get(base) else "-"
                    for base in ("raw", "websockets")
                ]
                version = f"{peer} {self.version(peer)}"
                print(f"  {version:44}{best:10.2f}{ratios[0]:>8}{ratios[1]:>14}", flush=True)
        return results


def measure_round_trips(count: int, begin: float) -> None:
    """Print the µs of processor time per round trip since ``begin``, and end the process."""
    print((time.process_time() - begin) / count * 1e6, flush=True)
    os._exit(0)
