"""How cost grows with connections, sizes, fragments, receivers: ``python -m benchmarks.growth``.

README.md says what the figures mean. Each point is measured in a fresh process; the peers take
turns within a round.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from . import command_line, crowd, data, load, peers, process
from .plot import QUIET

DEFAULT_PEERS: Final = ("raw", "wsapi", "picows", "picows_websockets", "aiohttp", "websockets")
PARTS: Final = 16  # fragments of a message
SIZE: Final = 64  # bytes of a message, where that isn't what grows

Run: TypeAlias = "Callable[[load.Target, int, float], load.Window]"


@dataclass(frozen=True)
class Sweep:
    """One thing that grows.

    Args:
        title: What is done.
        grows: What grows, and its unit.
        unit: Unit of the figures.
        points: How far it grows.
        service: What servers do.
        run: Measures a point, for so many seconds.
        parts: What a message is divided by, for the figure.
        without: Peers that don't take part.
    """

    title: str
    grows: str
    unit: str
    points: tuple[int, ...]
    service: str
    run: Run
    parts: int = 1
    without: tuple[str, ...] = ()


def of_connections(target: load.Target, count: int, seconds: float) -> load.Window:
    """Echo small messages on so many connections, one outstanding on each."""
    return load.echo(target, count, 1, SIZE, seconds / 2, seconds)


def of_receivers(target: load.Target, count: int, seconds: float) -> load.Window:
    """Broadcast small messages to so many connections."""
    messages = data.payloads(load.VARIETY, SIZE)
    return load.broadcast(target, count, messages, seconds / 2, seconds)


def of_sizes(target: load.Target, size: int, seconds: float) -> load.Window:
    """Echo messages of so many bytes, one outstanding."""
    (payload,), (key,) = data.binary_payloads(1, size, 1.0), data.masking_keys(1)
    request = target.request_frame(data.BINARY, payload, key)
    reply = target.reply_frame(data.BINARY, payload, key)
    (sock,) = load.connect_many(target, 1)
    turn = load.LargeEcho(sock, request, reply).turn
    return load.measure(target.clock, turn, seconds / 2, seconds)


def fragmented(payload: bytes, size: int, keys: Iterable[bytes]) -> bytes:
    """Return the frames of a client for a binary message in fragments of so many bytes."""
    starts = range(0, len(payload), size)
    frames = []
    for start, key in zip(starts, keys, strict=True):
        frame = bytearray(
            data.frame(0 if start else data.BINARY, payload[start : start + size], key)
        )
        if start != starts[-1]:
            frame[0] &= 0x7F  # not the last one (RFC 6455 §5.4)
        frames.append(bytes(frame))
    return b"".join(frames)


def of_fragments(target: load.Target, size: int, seconds: float) -> load.Window:
    """Echo messages in fragments of so many bytes, one message outstanding."""
    (payload,) = data.binary_payloads(1, PARTS * size, 1.0)
    request = fragmented(payload, size, data.masking_keys(PARTS))
    reply = data.frame(data.BINARY, payload) if target.websocket else request
    (sock,) = load.connect_many(target, 1)
    turn = load.LargeEcho(sock, request, reply).turn
    return load.measure(target.clock, turn, seconds / 2, seconds)


SWEEPS: Final = {
    "connections": Sweep(
        f"Echo of {SIZE} B, one outstanding on each connection",
        "connections",
        "µs per echo",
        (1, 10, 100, 1000, 10_000),
        "echo",
        of_connections,
    ),
    "sizes": Sweep(
        "Echo of a message, one outstanding",
        "bytes",
        "µs per echo",
        (16, 256, 1 << 12, 1 << 16, 1 << 20, 1 << 24),
        "echo-large",
        of_sizes,
    ),
    "fragments": Sweep(
        f"Echo of a message in {PARTS} fragments",
        "bytes of a fragment",
        "µs per fragment",
        (1, 16, 256, 1 << 12, 1 << 16),
        "echo-large",
        of_fragments,
        PARTS,
        ("picows",),
    ),
    "receivers": Sweep(
        f"Broadcast of {SIZE} B",
        "receivers",
        "µs per receiver",
        (10, 100, 1000, 10_000),
        "broadcast",
        of_receivers,
    ),
}


@dataclass
class Curve:
    """What one peer costs in a sweep: figures of all rounds, by what has grown."""

    sweep: str
    peer: str
    version: str = ""
    points: dict[int, list[float]] = field(default_factory=dict)
    queued: float = 0.0  # highest share of a window for which others had the server's core

    def best(self) -> list[tuple[int, float]]:
        """Return the lowest figure of each point."""
        return [(point, min(figures)) for point, figures in sorted(self.points.items())]


def measure(curve: Curve, loop: str, point: int, seconds: float, cpu: int) -> None:
    """Measure a point once, and add it to a curve."""
    sweep = SWEEPS[curve.sweep]
    with process.server(loop, curve.peer, sweep.service, cpu) as server:
        curve.version = server.hello["version"]
        sources = tuple(f"127.0.0.{2 + n}" for n in range(point // crowd.PER_SOURCE + 1))
        target = server.target
        if sweep.grows in ("connections", "receivers"):
            target = replace(target, sources=sources, per_source=crowd.PER_SOURCE)
        window = sweep.run(target, point, seconds)
    curve.points.setdefault(point, []).append(round(window.cpu_us / sweep.parts, 4))
    curve.queued = max(curve.queued, round(window.queued / window.wall, 4))


def grow(
    names: list[str],
    sweeps: list[str],
    points: Callable[[Sweep], tuple[int, ...]],
    loop: str,
    rounds: int,
    seconds: float,
    report: Callable[[str], None],
) -> tuple[list[Curve], bool]:
    """Measure all peers, which take turns; return the curves, and whether none is torn.

    Args:
        names: Names of peers.
        sweeps: Names of what grows.
        points: Tells how far.
        loop: Event loop.
        rounds: How often each point is measured.
        seconds: How long.
        report: Gets lines that tell how far it is.
    """
    most = max((p for name in sweeps for p in points(SWEEPS[name])), default=0)
    crowd.raise_descriptors(min(most, max(SWEEPS["connections"].points)) + crowd.SPARE)
    cpu, load_cpu = process.cores()
    before = os.sched_getaffinity(0)
    if load_cpu >= 0:
        os.sched_setaffinity(0, {load_cpu})
    whole = True
    curves = {
        (sweep, peer): Curve(sweep, peer)
        for sweep in sweeps
        for peer in names
        if peer not in SWEEPS[sweep].without
    }
    try:
        for number in range(rounds):
            for sweep in sweeps:
                for point in points(SWEEPS[sweep]):
                    for (of, peer), curve in curves.items():
                        if of != sweep:
                            continue
                        gc.collect()
                        gc.disable()
                        try:
                            measure(curve, loop, point, seconds, cpu)
                        except (load.WrongEcho, OSError) as exc:
                            whole = False
                            report(f"{sweep} {point}, {peer}: LEFT OUT: {exc}")
                        finally:
                            gc.enable()
                    done = ", ".join(
                        f"{peer} {curve.points[point][-1]:.3g}"
                        for (of, peer), curve in curves.items()
                        if of == sweep and point in curve.points
                    )
                    report(f"round {number + 1}, {sweep} {point}: {done}")
    finally:
        os.sched_setaffinity(0, before)
    return list(curves.values()), whole


def table(document: dict[str, Any]) -> str:
    """Format what was found."""
    lines = []
    for name, about in document["sweeps"].items():
        found = [curve for curve in document["curves"] if curve["sweep"] == name]
        points = sorted({point for curve in found for point, _ in curve["best"]})
        lines += ["", f"{about['title']}; {about['unit']}, by {about['grows']}"]
        lines += [f"{'':20}" + "".join(f"{point:>12,}" for point in points)]
        for curve in found:
            best = dict(map(tuple, curve["best"]))
            cells = (f"{best[point]:12.4g}" if point in best else f"{'-':>12}" for point in points)
            lines.append(f"{curve['peer']:20}" + "".join(cells))
    worst = max((curve["queued"] for curve in document["curves"]), default=0.0)
    if worst > QUIET:
        lines += ["", f"NOT A QUIET MACHINE: others had the server's core for up to {worst:.0%}"]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run, print the table, write the file."""
    parser = command_line.parser("benchmarks.growth", __doc__, DEFAULT_PEERS)
    parser.add_argument("--sweep", action="append", choices=SWEEPS, help="default: all")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a measured window")
    parser.add_argument("--quick", action="store_true", help="the first points, for a moment each")
    options = parser.parse_args(arguments)
    names = command_line.chosen_peers(parser, options, DEFAULT_PEERS)
    rounds, seconds = (1, 0.05) if options.quick else (options.rounds, options.seconds)
    # To open 10,000 connections takes longer than until the first Ping.
    os.environ[peers.PING_INTERVAL] = "3600"
    try:
        curves, whole = grow(
            names,
            options.sweep or list(SWEEPS),
            lambda sweep: sweep.points[:2] if options.quick else sweep.points,
            options.loop,
            rounds,
            seconds,
            command_line.say,
        )
    finally:
        del os.environ[peers.PING_INTERVAL]
    document = {
        "machine": process.machine(),
        "settings": {"loop": options.loop, "rounds": rounds, "seconds": seconds},
        "sweeps": {
            name: {
                "title": SWEEPS[name].title,
                "grows": SWEEPS[name].grows,
                "unit": SWEEPS[name].unit,
            }
            for name in options.sweep or SWEEPS
        },
        "curves": [
            {
                "sweep": curve.sweep,
                "peer": curve.peer,
                "version": curve.version,
                "queued": curve.queued,
                "best": curve.best(),
                "rounds": curve.points,
            }
            for curve in curves
        ],
    }
    print(table(document))
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
