"""Tortures topics, and says what came of it: one row for each broker.

Usage: python -m tests.topics_torture [--broker valkey] [--minutes 30] [--seed 1] [--round 7]

Four server processes with topics on one bus; publishers in all of them; WebSocket clients that come
and go on any of them, and come back with the position of their last message; meanwhile the broker,
its connections and the servers are harmed. ``judge.py`` says what must be true.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.topics_torture.parties import PARTIES, missing
from tests.topics_torture.planted import PLANTED
from tests.topics_torture.run import ACTS, Options, Report, run

COLUMNS = {
    "published": "acknowledged",
    "uncertain": "uncertain",
    "refused": "refused",
    "deliveries": "deliveries",
    "connections": "connections",
    "recovered": "recovered",
    "told: lost": "lost",
    "told: gaps": "gaps",
    "told late": "told late",
    "closed 1012": "code 1012",
    "closed 1013": "code 1013",
    "filled": "topics: filled",
    "resumed": "topics: resumed",
    "deaf": "topics: deaf",
    "cuts": "cuts",
    "overflows": "overflows",
    "servers killed": "kill server",
    "plain published": "plain published",
    "plain lost": "plain lost",
}


def show(reports: list[Report]) -> None:
    """Print the table."""
    rows: list[tuple[str, list[str]]] = [
        ("broker", [report.version or report.broker for report in reports]),
        ("rounds", [str(report.rounds) for report in reports]),
        ("seconds", [f"{report.seconds:.0f}" for report in reports]),
    ]
    for title, key in COLUMNS.items():
        rows.append((title, [str(report.counts[key]) for report in reports]))
    for act in ACTS:
        rows.append((f"chaos: {act}", [str(report.counts[act]) for report in reports]))
    memory = [
        f"{report.memory[0] // 1024}..{report.memory[-1] // 1024} MiB" if report.memory else "-"
        for report in reports
    ]
    rows.append(("memory", memory))
    rows.append(("settled within", [f"{report.longest_settling:.1f} s" for report in reports]))
    rows.append(("failures", [str(len(report.failures)) for report in reports]))
    width = max(16, *(len(cell) for _, cells in rows for cell in cells))
    for title, cells in rows:
        print(f"{title:<20}" + "".join(f" {cell:>{width}}" for cell in cells))


def main(arguments: list[str] | None = None) -> int:
    """Run with each broker in turn."""
    parser = argparse.ArgumentParser(prog="python -m tests.topics_torture")
    minutes = float(os.environ.get("TORTURE_MINUTES", "30"))
    parser.add_argument("--broker", action="append", choices=list(PARTIES), default=None)
    parser.add_argument("--minutes", type=float, default=minutes, help="of all brokers together")
    parser.add_argument("--seed", default=str(int(time.time()) % 10**6))
    parser.add_argument("--round", type=int, help="run one round, as it is planned")
    parser.add_argument("--chaos", type=float, default=15.0, help="seconds of it in a round")
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument("--rate", type=float, default=20.0, help="messages per second, of each")
    parser.add_argument("--plant", choices=list(PLANTED), help="a mistake, to be found")
    parser.add_argument("--only", action="append", choices=list(ACTS), help="kinds of chaos")
    parser.add_argument("--folder", type=Path, help="where logs stay")
    parser.add_argument("--require", action="store_true", help="fail if a broker isn't installed")
    parser.add_argument("--verbose", action="store_true")
    options: Any = parser.parse_args(arguments)
    reports: list[Report] = []
    brokers, absent = [], 0
    for broker in options.broker or PARTIES:
        if why := missing(broker):
            print(f"{broker} is left out: {why}", file=sys.stderr)
            absent += 1
        else:
            brokers.append(broker)
    with tempfile.TemporaryDirectory() as temporary:
        for broker in brokers:
            report = run(
                Options(
                    broker=broker,
                    seconds=options.minutes * 60 / len(brokers),
                    seed=options.seed,
                    folder=(options.folder or Path(temporary)) / broker,
                    chaos=options.chaos,
                    first_round=options.round or 0,
                    rounds=None if options.round is None else 1,
                    clients=options.clients,
                    rate=options.rate,
                    plant=options.plant,
                    kinds=None if options.only is None else frozenset(options.only),
                    verbose=options.verbose,
                )
            )
            reports.append(report)
            for failure in report.failures[:30]:
                print(f"{broker}: {failure}", file=sys.stderr)
            if report.failures:
                number = (options.round or 0) + report.rounds - 1
                words = ["--broker", broker, "--seed", options.seed, "--round", str(number)]
                print(f"again: python -m tests.topics_torture {shlex.join(words)}", file=sys.stderr)
    if reports:
        show(reports)
        print(f"seed {options.seed}")
    failed = any(report.failures for report in reports)
    return bool(failed or not reports or (options.require and absent))


if __name__ == "__main__":
    sys.exit(main())
