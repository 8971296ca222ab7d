"""Compare peers: ``python -m benchmarks.compare``; README.md says what the figures mean."""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import command_line, load, peers
from .plot import QUIET
from .process import Probe, cores, machine
from .scenarios import SCENARIOS, Case, Figure, Settings


@dataclass
class Row:
    """All rounds of one peer in one scenario on one front-end."""

    scenario: str
    front_end: str
    peer: str
    version: str = ""
    rounds: list[Figure] = field(default_factory=list)

    @property
    def best(self) -> Figure | None:
        """The lowest round; of memory, where noise doesn't only add, the middle one."""
        rounds = sorted(self.rounds, key=lambda figure: figure.value)
        if not rounds:
            return None
        return rounds[0 if rounds[0].noise_adds else (len(rounds) - 1) // 2]


def run_case(row: Row, case: Case, settings: Settings) -> None:
    """Run one round of one peer; a wrong echo ends everything."""
    gc.collect()
    gc.disable()
    try:
        figure, row.version = SCENARIOS[row.scenario].run(case, settings)
        row.rounds.append(figure)
    except (load.WrongEcho, OSError) as exc:
        raise load.WrongEcho(f"{row.scenario}, {row.peer}, {row.front_end}: {exc}") from exc
    finally:
        gc.enable()


def ratio(value: float, base: float | None) -> str:
    """Format how many times `base` a value is."""
    return f"{value / base:.2f}" if base else "-"


def table(rows: list[Row], front_end: str) -> str:
    """Format the results on one front-end."""
    lines = [
        front_end,
        f"{'':28} {'best':>8} {'worst':>8} {'x ours':>7} {'x raw':>7} {'busy':>5} {'queued':>6} "
        f"{'waits':>6} {'wire':>6}  version",
    ]
    for name, scenario in SCENARIOS.items():
        found = [row for row in rows if row.front_end == front_end and row.scenario == name]
        best = {row.peer: row.best.value for row in found if row.best}
        if not best:
            continue
        ours = next((best[peer] for peer in peers.OURS if peer in best), None)
        raw = min((best[peer] for peer in best if peer.startswith("raw")), default=None)
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
                f"  {row.peer:26} {value:8.2f} {worst:8.2f} {ratio(value, ours):>7} "
                f"{ratio(value, raw):>7} {busy:>5} {queued:>6} {waits:>6} {wire:>6}  {row.version}"
            )
    probes = [figure.probe for row in rows if row.front_end == front_end for figure in row.rounds]
    if probes:
        lines += ["", f"probe of the machine: {min(probes):.2f} to {max(probes):.2f} ms"]
    shares = [
        row.best.queued
        for row in rows
        if row.front_end == front_end and row.best and row.best.queued is not None
    ]
    if shares and (worst_share := max(shares)) > QUIET:
        lines.append(
            f"NOT A QUIET MACHINE: others had the server's core for up to {worst_share:.0%} of a "
            "window, which makes figures too high"
        )
    return "\n".join(lines)


def compare(
    scenarios: list[str],
    names: dict[str, list[str]],
    settings: Settings,
    report: Callable[[str], None],
) -> list[Row]:
    """Run every case `settings.rounds` times, the peers taking turns, and return the rows.

    Args:
        scenarios: Names of scenarios.
        names: Front-ends, and names of peers on each.
        settings: How long and how often.
        report: Gets lines that tell how far it is.

    """
    cpu, load_cpu = cores()
    before = os.sched_getaffinity(0)
    if load_cpu >= 0:
        os.sched_setaffinity(0, {load_cpu})
    rows: list[Row] = []
    probe = Probe(cpu, settings.patience)
    try:
        for front_end, wanted in names.items():
            for scenario in scenarios:
                found = [name for name in SCENARIOS[scenario].names(front_end) if name in wanted]
                turn = [Row(scenario, front_end, name) for name in found]
                rows += turn
                for number in range(settings.rounds if turn else 0):
                    for row in turn:
                        run_case(row, Case(front_end, row.peer, probe, load_cpu), settings)
                    done = ", ".join(f"{row.peer} {row.rounds[-1].value:.2f}" for row in turn)
                    speeds = [row.rounds[-1].probe for row in turn]
                    report(
                        f"{front_end} {scenario} round {number + 1}: {done} "
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
    parser.add_argument(
        "--front-end",
        action="append",
        choices=peers.FRONT_ENDS,
        help=f"default: {', '.join(peers.LOOPS)}",
    )
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
    names: dict[str, list[str]] = {}
    for front_end in options.front_end or peers.LOOPS:
        if front_end in ("uvloop", "trio") and importlib.util.find_spec(front_end) is None:
            if options.front_end:
                parser.error(f"{front_end} not installed")
            print(f"left out: {front_end} (not installed)", file=sys.stderr)
            continue
        found = names[front_end] = []
        for name, spec in peers.PEERS[front_end].items():
            if name not in (options.peer or peers.NAMES):
                continue
            if spec.missing is None:
                found.append(name)
            elif options.peer:
                parser.error(f"{name}: {spec.missing}")
            else:
                print(f"left out: {front_end} {name} ({spec.missing})", file=sys.stderr)

    try:
        rows = compare(
            options.scenario or list(SCENARIOS),
            names,
            settings,
            command_line.say,
        )
    except load.WrongEcho as exc:
        print(f"benchmark aborted: {exc}", file=sys.stderr)
        return 1
    for front_end in names:
        print(table(rows, front_end), end="\n\n")
    if options.json:
        options.json.write_text(json.dumps(as_json(rows, settings), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
