"""Compare instructions with those in a file: ``make instructions``; README.md says more.

Fails if a figure has risen by more than its tolerance. The file says what versions of Python, of
the compiler, and of others its figures hold for. Those of a machine with other versions can't be
compared with them: there the revision that the file came with is compiled and counted, too, and
its figures take their place.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shlex
import shutil
import ssl
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, TypeAlias

from . import client_loads, engine_loads, instructions, process

FILE: Final = process.ROOT / "benchmarks" / "results" / "instructions.json"
WINDOWS: Final = 5
MESSAGES: Final = ("echo-10x64", "in-flight-64")
TLS: Final = ("tls-echo-10x64",)
CLIENT: Final = tuple(client_loads.LOADS)
CONNECTIONS: Final = ("opening", "opening-and-closing", "opening-and-reset")

Figures: TypeAlias = "dict[str, int]"  # by front-end, peer, and load
Versions: TypeAlias = "dict[str, str]"

# What is counted: front-end, peer, loads; each in a process of its own.
ROWS: Final = (
    (instructions.ENGINE, "wsapi", tuple(engine_loads.LOADS)),
    ("uvloop", "wsapi", (*MESSAGES, *TLS, *CONNECTIONS, *CLIENT)),
    ("uvloop", "wsapi_callbacks", MESSAGES),
    ("asyncio", "wsapi", (*MESSAGES, *CONNECTIONS, *CLIENT)),
    ("asyncio", "wsapi_callbacks", MESSAGES),
    ("threads", "wsapi", ("echo-1x64", "in-flight-64", *CONNECTIONS)),
    ("trio", "wsapi", (*MESSAGES, *CONNECTIONS)),
)

TOLERANCE: Final = 0.02
# Where less can't be told from noise, by the beginning of a figure's name, and why that is so.
TOLERANCES: Final = {
    # The thread that accepts and those of connections meet at the interpreter's lock, not in the
    # same way each time.
    "threads wsapi opening": 0.06,
    # Sets of tasks are in the order of their addresses.
    "trio ": 0.03,
}

# What a version matters to, if not to all: a part of a figure's name.
CONCERNS: Final = {
    "uvloop": "uvloop ",
    "OpenSSL": " tls-",
    "trio": "trio ",
    "zlib-ng": "deflate",
    "isal": "deflate",
}


def tolerance(name: str) -> float:
    """Return by which share a figure may rise."""
    found = (share for begin, share in TOLERANCES.items() if name.startswith(begin))
    return next(found, TOLERANCE)


def _first_line(*command: str) -> str:
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "-"
    return output.partition("\n")[0].strip()


def _processor() -> str:
    """Return what the processor has of what C libraries choose their functions by."""
    flags: set[str] = set()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                flags.update(line.split())
    # valgrind shows no others to a process.
    known = ("ssse3", "sse4_2", "avx", "avx2", "bmi2", "erms")
    return " ".join([platform.machine(), *(name for name in known if name in flags)])


def versions() -> Versions:
    """Return what the figures depend on, beside this project."""
    configured = sysconfig.get_config_var("CONFIG_ARGS") or ""
    options = ("--enable-shared", "--enable-optimizations", "--with-lto", "--disable-gil")
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    compiler = [part for part in compiler if "ccache" not in part]
    found = {
        "python": " ".join(
            [
                platform.python_version(),
                platform.python_compiler(),
                *(option for option in options if option in configured),
            ]
        ),
        "compiler": _first_line(compiler[0], "--version"),
        "flags": os.environ.get("CFLAGS", ""),
        "libc": " ".join(platform.libc_ver()),
        "processor": _processor(),
        "valgrind": _first_line("valgrind", "--version"),
        "OpenSSL": ssl.OPENSSL_VERSION,
    }
    for name in ("Cython", "uvloop", "trio", "zlib-ng", "isal"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "-"
    return found


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return which versions differ: what they are here, and what they are there."""
    names = [*here, *(name for name in there if name not in here)]
    pairs = {name: (here.get(name, "-"), there.get(name, "-")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def concerned(name: str, differing: Iterable[str]) -> bool:
    """Return whether a figure depends on one of the versions that differ."""
    return any(CONCERNS.get(which, "") in name for which in differing)


def wanted(patterns: Iterable[str]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return the rows with figures that have one of the patterns in their names; all if none is."""
    found = []
    for front_end, peer, loads in ROWS:
        names = tuple(
            load
            for load in loads
            if not patterns or any(pattern in f"{front_end} {peer} {load}" for pattern in patterns)
        )
        if names:
            found.append((front_end, peer, names))
    return found


def count(
    rows: Iterable[tuple[str, str, tuple[str, ...]]], jobs: int, source: Path | None = None
) -> Figures:
    """Count rows, so many at a time."""

    def one(row: tuple[str, str, tuple[str, ...]]) -> Figures:
        front_end, peer, names = row
        found = instructions.instructions(front_end, peer, list(names), WINDOWS, source=source)
        return {f"{front_end} {peer} {name}": round(min(found[name])) for name in names}

    with ThreadPoolExecutor(jobs) as pool:
        return {name: figure for found in pool.map(one, rows) for name, figure in found.items()}


@dataclass(frozen=True)
class Verdict:
    """A figure, and what it is compared with."""

    name: str
    before: int | None
    now: int
    same: bool  # whether both hold for the same versions

    @property
    def change(self) -> float:
        """By which share it has risen."""
        return round(self.now / self.before - 1, 9) if self.before else 0.0

    @property
    def rises(self) -> bool:
        """Whether it has risen by more than it may."""
        return self.same and self.change > tolerance(self.name)

    @property
    def falls(self) -> bool:
        """Whether it has fallen so much that the file should know."""
        return self.same and self.change < -tolerance(self.name)

    def __str__(self) -> str:
        before = "-" if self.before is None else f"{self.before:,}"
        change = f"{self.change:+.2%}" if self.before else "new"
        remark = "" if self.same else "other versions: not judged"
        if self.rises:
            remark = f"RISES by more than {tolerance(self.name):.0%}"
        elif self.falls:
            remark = "falls"
        return f"{self.name:42} {before:>10} {self.now:>10,} {change:>8}  {remark}".rstrip()


def judge(now: Figures, before: Figures, unlike: Callable[[str], bool]) -> list[Verdict]:
    """Compare figures.

    Args:
        now: Figures of what is here.
        before: Those that they are compared with.
        unlike: Tells for which figures these hold for other versions.
    """
    return [Verdict(name, before.get(name), now[name], not unlike(name)) for name in now]


def table(verdicts: Iterable[Verdict], origin: str) -> str:
    """Format a comparison."""
    head = f"{'instructions':42} {origin:>10} {'now':>10} {'change':>8}"
    return "\n".join([head, *map(str, verdicts)])


def revision(file: Path) -> str | None:
    """Return the revision that the figures in a file came with; None if that isn't known."""
    relative = file.relative_to(process.ROOT).as_posix()
    command = ["git", "log", "-1", "--format=%H", "--", relative]
    try:
        found = subprocess.run(command, cwd=process.ROOT, capture_output=True, text=True)
    except OSError:
        return None
    shallow = process.ROOT / ".git" / "shallow"  # where the last one isn't the one that changed it
    return None if shallow.exists() else found.stdout.strip() or None


@contextlib.contextmanager
def compiled(of: str) -> Iterator[Path]:
    """Compile a revision in a folder of its own, for as long as the context lasts.

    Raises:
        SubprocessError: That failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        archive = ["git", "archive", "--output", f"{folder}/sources.tar", of]
        subprocess.run(archive, cwd=process.ROOT, check=True)
        subprocess.run(["tar", "-xf", "sources.tar"], cwd=folder, check=True)
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "-j2"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        yield Path(folder, "src")


def write(file: Path, figures: Figures) -> None:
    """Write figures, and what they hold for; others that the file has are kept."""
    kept: Figures = {}
    if file.exists():
        document = json.loads(file.read_text(encoding="utf-8"))
        if document["versions"] == versions():
            kept = document["figures"]
    known = [f"{front_end} {peer} {name}" for front_end, peer, names in ROWS for name in names]
    found = {**kept, **figures}
    document = {
        "versions": versions(),
        "figures": {name: found[name] for name in known if name in found},
    }
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def compare(
    file: Path, rows: list[tuple[str, str, tuple[str, ...]]], jobs: int, base: str | None
) -> list[Verdict]:
    """Count rows, compare them with the file or with a revision, and say what was found.

    Args:
        file: The file of figures.
        rows: What is counted.
        jobs: How many processes count at a time.
        base: A revision to compare with; None for the file, or for the one that it came with.
    """
    document = json.loads(file.read_text(encoding="utf-8"))
    differing = differences(versions(), document["versions"])
    for which, (here, there) in differing.items():
        print(f"other version of {which}: here {here}; the file's {there}")
    now, before = count(rows, jobs), document["figures"]
    unlike = {name for name in now if concerned(name, differing)}
    base = base or (revision(file) if unlike else None)
    if unlike and base is None:
        print(
            "figures that depend on these versions ARE NOT JUDGED: the history that has the "
            "revision of the file isn't here to count that, too"
        )
    if base is not None:
        print(f"compiling and counting revision {base[:12]} to compare with, on this machine")
        names = unlike or set(now)
        again = [
            (front_end, peer, tuple(n for n in loads if f"{front_end} {peer} {n}" in names))
            for front_end, peer, loads in rows
        ]
        with compiled(base) as source:
            before = {**before, **count([row for row in again if row[2]], jobs, source)}
        unlike = set()
    verdicts = judge(now, before, unlike.__contains__)
    rising = [verdict.name for verdict in verdicts if verdict.rises]
    if rising:  # once more, so that no bad moment decides
        more = count([row for row in rows if any(_is_of(name, row) for name in rising)], jobs)
        now = {name: min(figure, more.get(name, figure)) for name, figure in now.items()}
        verdicts = judge(now, before, unlike.__contains__)
    print(table(verdicts, "the file" if base is None else "before"))
    return verdicts


def _is_of(name: str, row: tuple[str, str, tuple[str, ...]]) -> bool:
    return name.startswith(f"{row[0]} {row[1]} ")


def main(arguments: list[str] | None = None) -> int:
    """Count and compare; return 1 if something has risen."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=__doc__)
    parser.add_argument("--update", action="store_true", help="write the file instead")
    parser.add_argument("--base", help="compare with this revision, counted here, not with a file")
    parser.add_argument("--only", action="append", default=[], help="figures with this in the name")
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args(arguments)
    if shutil.which("valgrind") is None:
        parser.error("valgrind isn't installed")
    rows = wanted(options.only)
    if not rows:
        parser.error("--only leaves nothing")
    try:
        if options.update:
            figures = count(rows, options.jobs)
            write(options.file, figures)
            print("\n".join(f"{name:42} {figure:>10,}" for name, figure in figures.items()))
            return 0
        verdicts = compare(options.file, rows, options.jobs, options.base)
    except instructions.FAILURES as exc:
        print(f"benchmark aborted: {exc}", file=sys.stderr)
        return 1
    rising = [verdict for verdict in verdicts if verdict.rises]
    if rising:
        print(f"\n{len(rising)} of {len(verdicts)} figures have risen")
    elif any(verdict.falls for verdict in verdicts):
        print("\nsome have fallen: `make instructions INSTRUCTIONS=--update` keeps them there")
    return 1 if rising else 0


if __name__ == "__main__":
    sys.exit(main())
