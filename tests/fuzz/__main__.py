"""Fuzzes targets in turns, each for some minutes, and says what was done.

Usage: python -m tests.fuzz [--minutes 5] [--target NAME]... [--jobs 1] [--pack]

It wants the engine compiled for that by `.ci/fuzz-build`: `make fuzz` does so. What is found is in
build/fuzz/findings/, and `python -m tests.fuzz.run NAME FILE` runs it again.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz import corpora

BUILD = Path("build/fuzz").absolute()
FINDINGS = BUILD / "findings"
MAX_FINDINGS = 10  # of a target; then its turn is over
STATUS = re.compile(r"^#(\d+)\s.*cov: (\d+) ft: (\d+) corp: (\d+)/(\w+)", re.MULTILINE)
OPTIONS = ["-timeout=25", "-rss_limit_mb=2500", "-print_final_stats=1", "-reload=0"]
COLUMNS = ("target", "inputs", "seconds", "edges", "features", "corpus", "findings")


@dataclass
class Turn:
    """What was done with a target."""

    name: str
    inputs: int = 0
    seconds: float = 0
    edges: int = 0
    features: int = 0
    findings: list[str] = field(default_factory=list)
    broken: bool = False

    def row(self) -> str:
        corpus = len(list((BUILD / "corpus" / self.name).iterdir()))
        values = (self.inputs, round(self.seconds), self.edges, self.features, corpus)
        return row(self.name, *values, "broken" if self.broken else len(self.findings))


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
    started = time.monotonic()
    log = BUILD / f"{name}.log"
    while len(turn.findings) < MAX_FINDINGS and not turn.broken:
        left = round(started + seconds - time.monotonic())
        if left <= 0:
            break
        before = set(FINDINGS.glob(f"{name}-*"))
        with open(log, "w") as file:
            status = subprocess.run(
                [*command(name), *options, f"-max_total_time={left}", str(corpus)],
                env=environment(), stdout=file, stderr=file, check=False,
            ).returncode  # fmt: skip
        text = log.read_text(errors="replace")
        for inputs, edges, features, *_ in STATUS.findall(text):
            turn.edges = max(turn.edges, int(edges))
            turn.features = max(turn.features, int(features))
            done = int(inputs)
        final = re.search(r"number_of_executed_units: (\d+)", text)
        turn.inputs += int(final[1]) if final else done if STATUS.search(text) else 0
        found = sorted(path.name for path in set(FINDINGS.glob(f"{name}-*")) - before)
        turn.findings += found
        turn.broken = bool(status and not found)
        for path in found:
            print(f"{name}: build/fuzz/findings/{path}\n{excerpt(text)}", flush=True)
        if turn.broken:
            print(f"{name}: ended with status {status}\n{text[-2000:]}", flush=True)
    turn.seconds = time.monotonic() - started
    return turn


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
    parser.add_argument("--pack", action="store_true", help="keep the corpora in the repository")
    options = parser.parse_args()
    chosen = options.target or get("FUZZ_TARGETS", "").replace(",", " ").split() or names
    if unknown := set(chosen) - set(names):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    turns = []
    for name in chosen:
        turns.append(fuzz(name, options.minutes * 60))
        print(row(*COLUMNS) if len(turns) == 1 else "", turns[-1].row(), sep="\n", flush=True)
        if options.pack:
            print(pack(name), flush=True)
    print("", row(*COLUMNS), *(turn.row() for turn in turns), sep="\n")
    return int(any(turn.findings or turn.broken for turn in turns))


if __name__ == "__main__":
    sys.exit(main())
