"""The fault matrix as a program: a table of subjects, roles and faults, or one case again.

Usage: python -m tests.faults [--subject NAME] [--minutes 30 | --cases 200] [--replay NUMBER]
"""

from __future__ import annotations

import argparse
import dataclasses
import faulthandler
import json
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from typing import Any

from tests.faults.cases import SUBJECTS, make, numbers

AT_ONCE = 150
WRONGS = ("lost", "reordered", "hang", "left over", "wrong")


def work(options: argparse.Namespace) -> None:
    """Run cases of one subject; print a line of JSON about each."""
    from tests.faults import matrix

    def report(verdict: matrix.Verdict) -> None:
        print(json.dumps([verdict.case.seed, verdict.fired, verdict.wrong]), flush=True)
        if verdict.fatal:
            faulthandler.dump_traceback(all_threads=True)

    until = time.monotonic() + options.minutes * 60
    seeds = numbers(options.first, options.cases)
    matrix.run(options.subject, seeds, at_once=options.at_once, until=until, report=report)
    sys.stdout.flush()
    # Whatever hangs here shan't keep the process.
    os._exit(0)


@dataclasses.dataclass
class Table:
    """What came out of all cases."""

    rows: dict[tuple[str, str, str], Counter[str]] = dataclasses.field(
        default_factory=lambda: defaultdict(Counter)
    )
    failures: list[str] = dataclasses.field(default_factory=list)

    def add(self, subject: str, seed: int, fired: bool, wrong: list[tuple[str, str]]) -> None:
        case = make(subject, seed)
        row = self.rows[subject, case.role, case.kind]
        row["runs"] += 1
        row["fired"] += fired
        for kind, text in wrong:
            row[kind] += 1
            self.fail(f"{kind}: {text}\n  {case}\n  {case.command}")

    def fail(self, text: str) -> None:
        self.failures.append(text)
        print(text, file=sys.stderr, flush=True)

    def show(self) -> None:
        columns = ("runs", "fired", *WRONGS)
        titles = ("runs", "faults", "lost in silence", "reordered", "hangs", "left over", "wrong")
        line = "{:<9} {:<7} {:<11}" + "".join(f" {{:>{max(len(t), 7)}}}" for t in titles)
        print(line.format("subject", "role", "fault", *titles))
        total: Counter[str] = Counter()
        for key, row in sorted(self.rows.items()):
            print(line.format(*key, *(row[column] for column in columns)))
            total += row
        print(line.format("all", "", "", *(total[column] for column in columns)))


class Worker:
    """A process that runs cases of one subject."""

    def __init__(self, subject: str, first: int, arguments: list[str], flags: list[str]) -> None:
        self.subject = subject
        self.next = first
        command = [sys.executable, *flags, "-m", "tests.faults", "--work", "--subject", subject]
        command += ["--first", str(first), *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def read(self, table: Table) -> None:
        """Read to the end what it reports."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            seed, fired, wrong = json.loads(line)
            table.add(self.subject, seed, fired, wrong)
            self.next = max(self.next, seed + 1)
        self.process.stdout.close()
        if status := self.process.wait():
            table.fail(f"wrong: the process of {self.subject} ended with status {status}")


def run_all(options: argparse.Namespace) -> int:
    """Run all subjects in turn, some processes at a time; print the table."""
    from concurrent.futures import ThreadPoolExecutor

    subjects = [options.subject] if options.subject else list(SUBJECTS)
    table = Table()
    end = time.monotonic() + options.minutes * 60
    first = options.first

    def one(subject: str) -> None:
        start, stop = first, None if options.cases is None else first + options.cases
        share = options.minutes * options.processes / max(len(subjects), options.processes)
        until = min(end, time.monotonic() + share * 60)
        while time.monotonic() < until and (stop is None or start < stop):
            arguments = ["--minutes", str((until - time.monotonic()) / 60)]
            arguments += ["--at-once", str(options.at_once)]
            if stop is not None:
                arguments += ["--cases", str(stop - start)]
            worker = Worker(subject, start, arguments, options.flag)
            worker.read(table)
            if worker.next == start:
                return
            start = worker.next

    with ThreadPoolExecutor(options.processes) as pool:
        for future in [pool.submit(one, subject) for subject in subjects]:
            future.result()
    table.show()
    if table.failures:
        print(f"{len(table.failures)} failures")
    return bool(table.failures)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    minutes = float(os.environ.get("FAULTS_MINUTES", "30"))
    parser.add_argument("--subject", help="one of " + ", ".join(SUBJECTS))
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--cases", type=int, help="number of cases of each subject")
    parser.add_argument("--first", type=int, default=int(time.time()) % 10**6 * 1000)
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--flag", action="append", default=[], help="of the interpreter: -X=dev")
    parser.add_argument("--replay", type=int, help="run one case; with the environment as it is")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options: Any = parser.parse_args(arguments)
    if options.replay is not None:
        options.first, options.cases, options.at_once = options.replay, 1, 1
        print(make(options.subject, options.replay))
    if options.work:
        work(options)
    return run_all(options)


if __name__ == "__main__":
    sys.exit(main())
