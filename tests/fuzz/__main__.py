"""Fuzzes targets in turns, each for some minutes, and says what was done.

Usage: python -m tests.fuzz [--minutes 5] [--target NAME]... [--jobs 1] [--pack]
       python -m tests.fuzz --report [LEDGER]...
       python -m tests.fuzz --keep

It wants the engine compiled for that by `.ci/fuzz-build`: `make fuzz` does so. What is found is in
build/fuzz/findings/, and `python -m tests.fuzz.run NAME FILE` runs it again. Each process of
libFuzzer leaves a line in build/fuzz/ledger.jsonl; `--report` adds up what was done in all runs,
with what the repository keeps of earlier ones in tests/fuzz/fuzzed.jsonl, to which `--keep` adds.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz import corpora, ledger

BUILD = Path("build/fuzz").absolute()
FINDINGS = BUILD / "findings"
SLOW = 10  # seconds of processor time that an input may take, as libFuzzer's report_slow_units
LEDGER = BUILD / "ledger.jsonl"
REVISION = BUILD / "revision"
MAX_FINDINGS = 10  # of a target; then its turn is over
STATUS = re.compile(r"^#(\d+)\s.*cov: (\d+) ft: (\d+) corp: (\d+)/(\w+)", re.MULTILINE)
FOUND = re.compile(r"Test unit written to .*/(.+)$", re.MULTILINE)
OPTIONS = ["-timeout=25", "-rss_limit_mb=2500", "-print_final_stats=1", "-reload=0"]
COLUMNS = (
    "target", "inputs", "seconds", "CPU min", "edges", "features", "corpus", "findings",
)  # fmt: skip


@dataclass
class Turn:
    """What was done with a target."""

    name: str
    inputs: int = 0
    seconds: float = 0
    cpu: float = 0
    edges: int = 0
    features: int = 0
    findings: list[str] = field(default_factory=list)
    broken: bool = False

    def row(self) -> str:
        corpus = len(list((BUILD / "corpus" / self.name).iterdir()))
        spent = (round(self.seconds), f"{self.cpu / 60:.1f}")
        values = (self.inputs, *spent, self.edges, self.features, corpus)
        return row(self.name, *values, "broken" if self.broken else len(self.findings))

    def add(self, entry: ledger.Entry) -> None:
        """Add what one process did."""
        self.inputs += entry.inputs
        self.seconds += entry.wall
        self.cpu += entry.cpu
        self.edges = max(self.edges, entry.edges)
        self.features = max(self.features, entry.features)
        self.findings += entry.findings
        self.broken = bool(entry.status and not entry.findings)


def row(name: str, *values: object) -> str:
    return f"{name:16}" + "".join(f"{value:>11}" for value in values)


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(BUILD / "src"), os.getcwd()])
    return {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}


def command(name: str) -> list[str]:
    return [sys.executable, "-m", "tests.fuzz.run", name]


def fuzz(name: str, seconds: float) -> Turn:
    """Fuzz one target; go on after what is found."""
    turn = Turn(name)
    corpus = BUILD / "corpus" / name
    corpora.unpack(name, corpus)
    FINDINGS.mkdir(exist_ok=True)
    options = [*OPTIONS, f"-artifact_prefix={FINDINGS}/{name}-"]
    if corpora.dictionary_path(name).exists():
        options.append(f"-dict={corpora.dictionary_path(name)}")
    options += getattr(corpora.load_target(name), "OPTIONS", [])
    end = time.monotonic() + seconds
    log = BUILD / f"{name}.log"
    while len(turn.findings) < MAX_FINDINGS and not turn.broken:
        left = round(end - time.monotonic())
        if left <= 0:
            break
        entry = run(name, [*options, f"-max_total_time={left}", str(corpus)], log)
        ledger.append(LEDGER, entry)
        turn.add(entry)
        text = log.read_text(errors="replace")
        for path in entry.findings:
            print(f"{name}: build/fuzz/findings/{path}\n{excerpt(text)}", flush=True)
        if turn.broken:
            print(f"{name}: ended with status {entry.status}\n{text[-2000:]}", flush=True)
    return turn


def run(name: str, arguments: list[str], log: Path) -> ledger.Entry:
    """Run libFuzzer once; return what it did, with the processor time that it used."""
    revision, began, started = ledger.revision(REVISION), ledger.now(), time.monotonic()
    with open(log, "w") as file:
        process = subprocess.Popen(
            [*command(name), *arguments], env=environment(), stdout=file, stderr=file
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    text = log.read_text(errors="replace")
    inputs, edges, features = counted(text)
    return ledger.Entry(
        target=name,
        revision=revision,
        began=began,
        inputs=inputs,
        wall=round(time.monotonic() - started, 1),
        cpu=round(usage.ru_utime + usage.ru_stime, 1),
        edges=edges,
        features=features,
        findings=[each for each in FOUND.findall(text) if not only_busy(name, FINDINGS / each)],
        status=process.returncode,
    )


def only_busy(name: str, path: Path) -> bool:
    """Tell whether an input was slow only since the machine was busy; then it is no finding."""
    if f"{name}-slow-unit-" not in path.name:
        return False
    process = subprocess.Popen([*command(name), str(path)], env=environment())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    spent = usage.ru_utime + usage.ru_stime
    if process.returncode or spent >= SLOW:
        return False
    print(f"{path.name}: {spent:.1f} s of processor time; the machine was busy", flush=True)
    path.unlink()
    return True


def counted(text: str) -> tuple[int, int, int]:
    """Return inputs, edges, and features that libFuzzer told of."""
    inputs = edges = features = 0
    for done, reached, had, *_ in STATUS.findall(text):
        inputs = int(done)
        edges, features = max(edges, int(reached)), max(features, int(had))
    final = re.search(r"number_of_executed_units: (\d+)", text)
    return int(final[1]) if final else inputs, edges, features


def excerpt(text: str) -> str:
    """Return the traceback in a log, or its end."""
    start = text.rfind("Uncaught Python exception")
    return text[start : start + 3000] if start >= 0 else text[-2000:]


def pack(name: str) -> str:
    """Keep what of the corpus reaches something, in the repository."""
    small = BUILD / "small" / name
    subprocess.run(["rm", "-rf", str(small)], check=True)
    small.mkdir(parents=True)
    merge = ["-merge=1", "-use_value_profile=0", str(small), str(BUILD / "corpus" / name)]
    script = BUILD / f"run-{name}"
    script.write_text(f'#!/bin/sh\nexec {" ".join(command(name))} "$@"\n')
    script.chmod(0o755)
    with open(BUILD / f"{name}-merge.log", "w") as log:
        subprocess.run(
            [*command(name), *merge],
            env=environment() | {"FUZZ_COMMAND": str(script)}, stdout=log, stderr=log, check=True,
        )  # fmt: skip
    found = [path.read_bytes() for path in small.iterdir()]
    kept = corpora.pack(name, found)
    return (
        f"{name}: {kept} of {len(found)} inputs, {corpora.corpus_path(name).stat().st_size} bytes"
    )


def main() -> int:
    names = corpora.target_names()
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    get = os.environ.get
    parser.add_argument("--minutes", type=float, default=float(get("FUZZ_MINUTES", "5")))
    parser.add_argument("--target", action="append", choices=names)
    parser.add_argument("--jobs", type=int, default=int(get("FUZZ_JOBS", "1")), help="at a time")
    parser.add_argument("--pack", action="store_true", help="keep the corpora in the repository")
    parser.add_argument(
        "--report", nargs="*", type=Path, metavar="LEDGER",
        help="only add up what was done so far: of these files, or all that is known here",
    )  # fmt: skip
    parser.add_argument("--keep", action="store_true", help="only keep sums in the repository")
    options = parser.parse_args()
    if options.report is not None:
        paths = options.report or [ledger.KEPT, LEDGER]
        entries = [entry for path in paths for entry in ledger.read(path)]
        print(ledger.report(entries))
        return 0
    if options.keep:
        ledger.keep(LEDGER, ledger.KEPT)
        return 0
    chosen = options.target or get("FUZZ_TARGETS", "").replace(",", " ").split() or names
    if unknown := set(chosen) - set(names):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if options.jobs < 1:
        parser.error("--jobs must be positive")
    turns = []
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            for turn in pool.map(lambda name: fuzz(name, options.minutes * 60), chosen):
                turns.append(turn)
                print(row(*COLUMNS) if len(turns) == 1 else "", turn.row(), sep="\n", flush=True)
                if options.pack:
                    print(pack(turn.name), flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    print("", row(*COLUMNS), *(turn.row() for turn in turns), sep="\n")
    return int(any(turn.findings or turn.broken for turn in turns))


if __name__ == "__main__":
    sys.exit(main())
