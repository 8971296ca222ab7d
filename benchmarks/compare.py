"""Compare servers: ``python -m benchmarks.compare``; README.md says what the figures mean."""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from . import data, load, peers

ROOT: Final = Path(__file__).resolve().parent.parent
LOOPS: Final = ("asyncio", "uvloop")
QUIET: Final = 0.05  # share of a window that others may have the server's core
IDLE_BEFORE: Final = 100  # connections open before the memory of the others is counted


@dataclass(frozen=True)
class Settings:
    """How long and how often."""

    rounds: int
    seconds: float
    warmup: float
    patience: float  # seconds to wait, before each case, for the machine to be at its best
    scale: float = 1.0  # of the number of connections, for quick runs
    idle: float = 7.0  # seconds for a server to free what it keeps for connections in use


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

    def memory(self) -> float:
        """Return the KiB of memory that it has written to and that no other process shares."""
        text = Path(f"/proc/{self.popen.pid}/smaps_rollup").read_text()
        for line in text.splitlines():
            if line.startswith("Anonymous:"):
                return float(line.split()[1])
        raise OSError("no Anonymous in smaps_rollup")


@dataclass(frozen=True)
class Figure:
    """One measurement: the figure itself and what helps to judge it."""

    value: float
    busy: float | None = None  # share of the time that the server had its core
    queued: float | None = None  # share of the time that others had it, though the server was ready
    sleeps: float | None = None  # of the server, per message
    wire: float | None = None  # bytes sent by the server per byte of text, where compressed
    probe: float = 0.0  # ms for a fixed piece of work on the server's core, just before


@dataclass(frozen=True)
class Scenario:
    """What is done to a server."""

    name: str
    unit: str
    title: str
    service: str
    run: Callable[[Process, Settings], Figure]
    peers: tuple[str, ...] = peers.PLAIN

    @property
    def deflate(self) -> bool:
        """Whether messages are compressed."""
        return self.peers == peers.DEFLATE


@dataclass
class Row:
    """All rounds of one peer in one scenario on one loop."""

    scenario: str
    loop: str
    peer: str
    label: str = ""
    version: str = ""
    rounds: list[Figure] = field(default_factory=list)

    @property
    def best(self) -> Figure | None:
        """The lowest round; of memory, where noise doesn't only add, the middle one."""
        rounds = sorted(self.rounds, key=lambda figure: figure.value)
        if not rounds:
            return None
        return rounds[0 if rounds[0].busy is not None else (len(rounds) - 1) // 2]


def scaled(count: int, settings: Settings) -> int:
    """Return how many connections to use instead of `count`."""
    return max(2, round(count * settings.scale))


def figure(window: load.Window) -> Figure:
    """Turn a window into a figure."""
    return Figure(
        window.cpu_us,
        window.busy,
        window.queued / window.wall,
        window.sleeps / window.messages,
        window.wire,
    )


def run_echo(connections: int, in_flight: int, size: int) -> Callable[[Process, Settings], Figure]:
    """Make an echo scenario."""

    def run(process: Process, settings: Settings) -> Figure:
        count = connections if connections == 1 else scaled(connections, settings)
        return figure(
            load.echo(process.target, count, in_flight, size, settings.warmup, settings.seconds)
        )

    return run


def run_echo_compressed(size: int) -> Callable[[Process, Settings], Figure]:
    """Make a scenario of compressed echoes on 50 connections."""

    def run(process: Process, settings: Settings) -> Figure:
        return figure(
            load.echo_compressed(
                process.target, scaled(50, settings), size, settings.warmup, settings.seconds
            )
        )

    return run


def run_broadcast(messages: Callable[[], list[bytes]]) -> Callable[[Process, Settings], Figure]:
    """Make a scenario of broadcasts to 500 connections."""

    def run(process: Process, settings: Settings) -> Figure:
        return figure(
            load.broadcast(
                process.target,
                scaled(500, settings),
                messages(),
                settings.warmup,
                settings.seconds,
            )
        )

    return run


def run_broadcast_compressed(process: Process, settings: Settings) -> Figure:
    """Broadcast 1 KiB of compressed JSON to 500 connections."""
    count = scaled(500, settings)
    return figure(
        load.broadcast_compressed(process.target, count, 1024, settings.warmup, settings.seconds)
    )


def run_handshake(process: Process, settings: Settings) -> Figure:
    """Open and close connections, 8 at a time."""
    return figure(load.handshakes(process.target, 8, True, settings.warmup, settings.seconds))


def run_opening(process: Process, settings: Settings) -> Figure:
    """Open connections that stay open, 8 at a time."""
    return figure(load.openings(process.target, 8, scaled(300, settings)))


def run_accept(process: Process, settings: Settings) -> Figure:
    """Open and close TCP connections without a byte, 8 at a time."""
    return figure(load.handshakes(process.target, 8, False, settings.warmup, settings.seconds))


def growth(process: Process, settings: Settings, use: Callable[[int], None], idle: float) -> Figure:
    """Divide the growth of memory over 1,000 more connections that are opened and used by `use`."""
    more = scaled(1000, settings)

    def settled(count: int) -> float:
        use(count)
        time.sleep(idle)
        process.release_memory()
        return process.memory()

    before = settled(scaled(IDLE_BEFORE, settings))
    return Figure((settled(more) - before) / more)


def run_idle(process: Process, settings: Settings) -> Figure:
    """Measure connections that idle after one echo of 64 bytes."""
    payload, key = data.payloads(1, 64)[0], data.masking_keys(1)[0]

    def use(count: int) -> None:
        for sock in load.connect_many(process.target, count):
            load.exchange_once(process.target, sock, payload, key)

    return growth(process, settings, use, load.SETTLE)


def run_idle_plain(process: Process, settings: Settings) -> Figure:
    """Measure connections that idle for a while after one echo of 1 KiB of JSON."""
    payload, key = load.texts(1, 1024)[0][0], data.masking_keys(1)[0]

    def use(count: int) -> None:
        for sock in load.connect_many(process.target, count):
            load.exchange_once(process.target, sock, payload, key, data.TEXT)

    return growth(process, settings, use, settings.idle)


def run_idle_compressed(process: Process, settings: Settings) -> Figure:
    """Measure the same, compressed both ways."""

    def use(count: int) -> None:
        sockets, deflate = load.connect_compressed(process.target, count)
        (stream,) = load.streams(1, 1024, deflate)
        judge = load.Judge(stream, deflate)
        for sock in sockets:
            load.exchange_once_compressed(sock, stream, judge)

    return growth(process, settings, use, settings.idle)


MESSAGE = "CPU µs per message"
SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "echo-100x64",
            MESSAGE,
            "echo, 100 connections, one message of 64 B outstanding on each",
            "echo",
            run_echo(100, 1, 64),
        ),
        Scenario(
            "pipeline-64",
            MESSAGE,
            "echo, 1 connection, 64 messages of 64 B in flight",
            "echo",
            run_echo(1, 64, 64),
        ),
        Scenario(
            "pipeline-16x4k",
            MESSAGE,
            "echo, 1 connection, 16 messages of 4 KiB in flight",
            "echo",
            run_echo(1, 16, 4096),
        ),
        Scenario(
            "broadcast-500",
            "CPU µs per receiver",
            "broadcast of 64 B of text to 500 connections",
            "broadcast",
            run_broadcast(lambda: data.payloads(load.VARIETY, 64)),
        ),
        Scenario(
            "idle-1000",
            "KiB per connection",
            "memory of an idle connection, over 1,000 of them",
            "echo",
            run_idle,
        ),
        Scenario(
            "opening",
            "CPU µs per connection",
            "connect, opening handshake (raw: the same request echoed); connections stay open",
            "echo",
            run_opening,
        ),
        Scenario(
            "handshake",
            "CPU µs per connection",
            "connect, opening handshake, closing handshake (raw: the same request echoed)",
            "echo",
            run_handshake,
        ),
        Scenario(
            "accept",
            "CPU µs per connection",
            "connect and close TCP, no bytes: the part of a handshake that is the loop's",
            "echo",
            run_accept,
            peers.RAW,
        ),
        Scenario(
            "deflate-1k",
            MESSAGE,
            "echo, 50 connections, one compressed message of 1 KiB of JSON outstanding on each",
            "echo",
            run_echo_compressed(1024),
            peers.DEFLATE,
        ),
        Scenario(
            "deflate-16k",
            MESSAGE,
            "echo, 50 connections, one compressed message of 16 KiB of JSON outstanding on each",
            "echo",
            run_echo_compressed(16384),
            peers.DEFLATE,
        ),
        Scenario(
            "broadcast-1k",
            "CPU µs per receiver",
            "broadcast of 1 KiB of JSON to 500 connections, not compressed",
            "broadcast",
            run_broadcast(lambda: load.texts(1, 1024)[0]),
        ),
        Scenario(
            "broadcast-1k-deflate",
            "CPU µs per receiver",
            "broadcast of 1 KiB of JSON to 500 connections, compressed",
            "broadcast",
            run_broadcast_compressed,
            peers.DEFLATE,
        ),
        Scenario(
            "idle-plain",
            "KiB per connection",
            "memory of a connection that idles for a while after 1 KiB of JSON, not compressed",
            "echo",
            run_idle_plain,
        ),
        Scenario(
            "idle-deflate",
            "KiB per connection",
            "memory of a connection that idles for a while after 1 KiB of JSON, compressed",
            "echo",
            run_idle_compressed,
            peers.DEFLATE,
        ),
    )
}


def cores() -> tuple[int, int]:
    """Return the cores for the server and for the load; (-1, -1) where they can't be separate."""
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[1]) if len(allowed) > 1 else (-1, -1)


@contextlib.contextmanager
def server(peer: str, scenario: Scenario, loop: str, cpu: int) -> Iterator[Process]:
    """Run a peer in a process of its own for as long as the context lasts."""
    deflate = "on" if scenario.deflate else "off"
    arguments = [peer, scenario.service, deflate, loop, str(cpu)]
    command = [sys.executable, "-m", "benchmarks.server", *arguments]
    popen = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    target = None
    try:
        assert popen.stdout is not None
        line = popen.stdout.readline()
        if not line:
            raise load.WrongEcho(f"{peer}: the server process did not start")
        hello = json.loads(line)
        websocket = peer not in peers.RAW
        target = load.Target(hello["port"], websocket, load.Clock(popen.pid))
        yield Process(popen, hello, target)
    finally:
        popen.kill()
        popen.communicate()
        if target is not None:
            target.close_all()


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


def run_case(row: Row, scenario: Scenario, settings: Settings, probe: Probe) -> None:
    """Run one round of one peer; a wrong echo ends everything."""
    with server(row.peer, scenario, row.loop, probe.cpu) as process:
        row.label, row.version = process.hello["label"], process.hello["version"]
        gc.collect()
        gc.disable()
        try:
            speed = probe.quiet()
            row.rounds.append(replace(scenario.run(process, settings), probe=speed))
        except (load.WrongEcho, OSError) as exc:
            raise load.WrongEcho(
                f"{scenario.name}, {row.label} {row.version}, {row.loop}: {exc}"
            ) from exc
        finally:
            gc.enable()


def machine() -> dict[str, Any]:
    """Describe where the figures come from."""
    model = ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    versions = {}
    names = ("wsproto-fast", "websockets", "picows", "aiohttp", "uvloop", "aiofastnet", "zlib-ng")
    for name in (*names, "isal"):
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


def installed(peer: str) -> str | None:
    """Return why a peer can't run here, or None."""
    needs = {
        "websockets": ("websockets",),
        "picows": ("picows",),
        "picows_websockets": ("picows",),
        "aiohttp": ("aiohttp",),
        "wsapi": ("wsapi", "wsproto_fast"),
        "wsapi_aiofastnet": ("wsapi", "wsproto_fast", "aiofastnet"),
        "wsapi_stdlib": ("wsapi", "wsproto_fast"),
        "wsapi_zlib": ("wsapi", "wsproto_fast"),
        "wsapi_zlib_ng": ("wsapi", "wsproto_fast", "zlib_ng"),
        "wsapi_isal": ("wsapi", "wsproto_fast", "isal"),
    }
    missing = [name for name in needs.get(peer, ()) if importlib.util.find_spec(name) is None]
    return f"{', '.join(missing)} not installed" if missing else None


def ratio(value: float, base: float | None) -> str:
    """Format how many times `base` a value is."""
    return f"{value / base:.2f}" if base else "-"


def table(rows: list[Row], loop: str) -> str:
    """Format the results on one loop."""
    lines = [
        f"{loop}",
        f"{'':24} {'best':>8} {'worst':>8} {'x ours':>7} {'x raw':>7} {'busy':>5} {'queued':>6} "
        f"{'waits':>6} {'wire':>6}  version",
    ]
    for name, scenario in SCENARIOS.items():
        found = [row for row in rows if row.loop == loop and row.scenario == name]
        best = {row.peer: row.best.value for row in found if row.best}
        if not best:
            continue
        ours = best.get(peers.OURS)
        raw = min((best[peer] for peer in peers.RAW if peer in best), default=None)
        lines += ["", f"{name}: {scenario.title}; {scenario.unit}"]
        for row in found:
            if row.best is None:
                continue
            value = row.best.value
            worst = max(figure.value for figure in row.rounds)
            busy = "" if row.best.busy is None else f"{row.best.busy:.0%}"
            queued = "" if row.best.queued is None else f"{row.best.queued:.0%}"
            waits = "" if row.best.sleeps is None else f"{row.best.sleeps * 1000:.1f}"
            wire = "" if row.best.wire is None else f"{row.best.wire:.3f}"
            lines.append(
                f"  {row.label:22} {value:8.2f} {worst:8.2f} {ratio(value, ours):>7} "
                f"{ratio(value, raw):>7} {busy:>5} {queued:>6} {waits:>6} {wire:>6}  {row.version}"
            )
    probes = [figure.probe for row in rows if row.loop == loop for figure in row.rounds]
    if probes:
        lines += ["", f"probe of the machine: {min(probes):.2f} to {max(probes):.2f} ms"]
    shares = [
        row.best.queued
        for row in rows
        if row.loop == loop and row.best and row.best.queued is not None
    ]
    if shares and (worst_share := max(shares)) > QUIET:
        lines.append(
            f"NOT A QUIET MACHINE: others had the server's core for up to {worst_share:.0%} of a "
            "window, which makes figures too high"
        )
    return "\n".join(lines)


def compare(
    scenarios: list[str],
    names: list[str],
    loops: list[str],
    settings: Settings,
    report: Callable[[str], None],
) -> list[Row]:
    """Run every case `settings.rounds` times, the peers taking turns, and return the rows."""
    server_cpu, load_cpu = cores()
    before = os.sched_getaffinity(0)
    if load_cpu >= 0:
        os.sched_setaffinity(0, {load_cpu})
    rows: list[Row] = []
    probe = Probe(server_cpu, settings.patience)
    try:
        for loop in loops:
            for name in scenarios:
                scenario = SCENARIOS[name]
                case = [Row(name, loop, peer) for peer in names if peer in scenario.peers]
                if not case:
                    continue
                rows += case
                for number in range(settings.rounds):
                    for row in case:
                        run_case(row, scenario, settings, probe)
                    done = ", ".join(f"{row.peer} {row.rounds[-1].value:.2f}" for row in case)
                    speeds = [row.rounds[-1].probe for row in case]
                    report(
                        f"{loop} {name} round {number + 1}: {done} "
                        f"(probe {min(speeds):.1f} to {max(speeds):.1f} ms)"
                    )
    finally:
        os.sched_setaffinity(0, before)
    return rows


def as_json(rows: list[Row], settings: Settings) -> dict[str, Any]:
    """Return everything that is known about a run."""
    return {
        "machine": machine(),
        "settings": asdict(settings),
        "scenarios": {
            name: {"title": scenario.title, "unit": scenario.unit}
            for name, scenario in SCENARIOS.items()
        },
        "results": [{**asdict(row), "best": row.best.value if row.best else None} for row in rows],
    }


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run, print the tables, and write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="default: all")
    parser.add_argument("--peer", action="append", choices=peers.NAMES, help="default: all here")
    parser.add_argument("--loop", choices=(*LOOPS, "both"), default="both")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a measured window")
    parser.add_argument(
        "--patience",
        type=float,
        default=2.0,
        help="seconds to wait, before each case, for the machine to be near its best speed",
    )
    parser.add_argument(
        "--idle",
        type=float,
        default=7.0,
        help="seconds that the connections of idle-plain and idle-deflate idle",
    )
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument(
        "--quick", action="store_true", help="one short round with few connections: a smoke test"
    )
    options = parser.parse_args(arguments)

    settings = Settings(
        options.rounds,
        options.seconds,
        options.seconds / 2,
        options.patience,
        idle=options.idle,
    )
    if options.quick:
        settings = Settings(1, min(options.seconds, 0.1), 0.02, 0.0, 0.05, 0.1)
    names = []
    for peer in options.peer or peers.NAMES:
        reason = installed(peer)
        if reason and options.peer:
            parser.error(f"{peer}: {reason}")
        elif reason:
            print(f"left out: {peer} ({reason})", file=sys.stderr)
        else:
            names.append(peer)
    loops = list(LOOPS) if options.loop == "both" else [options.loop]
    if "uvloop" in loops and importlib.util.find_spec("uvloop") is None:
        if options.loop == "uvloop":
            parser.error("uvloop not installed")
        print("left out: uvloop (not installed)", file=sys.stderr)
        loops.remove("uvloop")

    try:
        rows = compare(
            options.scenario or list(SCENARIOS),
            names,
            loops,
            settings,
            lambda line: print(line, file=sys.stderr, flush=True),
        )
    except load.WrongEcho as exc:
        print(f"benchmark aborted: {exc}", file=sys.stderr)
        return 1
    for loop in loops:
        print(table(rows, loop), end="\n\n")
    if options.json:
        options.json.write_text(json.dumps(as_json(rows, settings), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
