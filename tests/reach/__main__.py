"""Measure lines and branches of each pure-Python module with the tests that belong to it.

``make coverage-python``. Each file of tests runs once, in a process of its own, with data of its
own in ``build/reach``; of a module counts what its tests have reached, and what processes that
they started have. Fails where anything is left, or where a test fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import coverage

from . import ROOT, TABLE, line_of, modules, own_tests, table

# What is traced is slow.
TEST_TIMEOUT = 300
FILE_TIMEOUT = 1800


class Measuring:
    """What was measured of a tree.

    Args:
        root: The tree, with ``src/``, ``tests/``, and settings in ``pyproject.toml``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings = root / "pyproject.toml"
        self.data = root / "build" / "reach"

    def data_of(self, test: str) -> Path:
        return self.data / test.replace("/", ".")

    def run(self, test: str) -> str:
        """Run a file of tests; return what is wrong, or nothing."""
        folder = self.data_of(test)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        # No option says to processes of multiprocessing where the data goes, but a variable does.
        environment = {**os.environ, "COVERAGE_FILE": str(folder / "part")}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        measured = ["-m", "coverage", "run", f"--rcfile={self.settings}"]
        tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", f"timeout={TEST_TIMEOUT}"]
        with tempfile.TemporaryFile() as output:  # no pipe: processes that are left would hold it
            try:
                status = subprocess.run(
                    [sys.executable, *measured, *tests, str(self.root / "tests" / test)],
                    cwd=self.root,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    timeout=FILE_TIMEOUT,
                ).returncode
            except subprocess.TimeoutExpired:
                status = -1
            output.seek(0)
            said = output.read().decode(errors="replace")
        parts = list(folder.glob("part.*"))
        if parts:
            whole = coverage.Coverage(str(folder / "whole"), config_file=str(self.settings))
            whole.combine([str(path) for path in parts], strict=True)
            whole.save()
        if status == 0:
            return ""
        return f"tests/{test} failed with {status}:\n" + "\n".join(said.splitlines()[-40:])

    def reached(self, tests: list[str], of: list[str]) -> dict[str, dict[str, object]]:
        """Return what tests reach of modules, as coverage's JSON has it; nothing without data."""
        parts = [str(path) for test in tests for path in self.data_of(test).glob("whole*")]
        if not parts:
            return {}
        whole = coverage.Coverage(None, config_file=str(self.settings))
        whole.combine(parts, keep=True)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "reached.json")
            # A module that no test imports is in no data: it is measured as it stands.
            whole.json_report([str(self.root / "src" / module) for module in of], str(file))
            files = json.loads(file.read_text())["files"]
        by_path = {Path(name).resolve(): found for name, found in files.items()}
        source = (self.root / "src").resolve()
        return {module: by_path[source / module] for module in of}


def lines_of(numbers: list[int]) -> list[str]:
    """Return numbers of lines as ranges."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return [f"{first}-{last}" if last > first else str(first) for first, last in ranges]


def left(found: dict[str, object]) -> str:
    """Return the lines and branches that nothing has reached."""
    missing: list[int] = found["missing_lines"]  # type: ignore[assignment]
    branches: list[list[int]] = found["missing_branches"]  # type: ignore[assignment]
    jumps = [
        f"{line}->{to if to > 0 else 'exit'}"
        for line, to in branches
        if line not in missing and to not in missing
    ]
    return ", ".join([*lines_of(missing), *jumps])


def main(arguments: list[str], root: Path = ROOT, text: str | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.reach", description=__doc__)
    parser.add_argument("words", nargs="*", help="only modules whose paths have one of these")
    parser.add_argument("--jobs", type=int, default=2, help="files of tests at a time")
    parser.add_argument("--report", action="store_true", help="only show what was measured before")
    options = parser.parse_args(arguments)

    measuring = Measuring(root)
    lines = table(TABLE.read_text("utf-8") if text is None else text)
    chosen = [
        module
        for module in modules(root)
        if not options.words or any(word in module for word in options.words)
    ]
    line = {module: line_of(lines, module) for module in chosen}
    tests_of = {module: own_tests(root, line[module]) for module in chosen}
    needed = sorted({test for tests in tests_of.values() for test in tests})
    wrong = [f"src/{module}: no tests belong to it" for module in chosen if not tests_of[module]]
    if not chosen:
        wrong.append("no such module")
    if not options.report:
        print(f"{len(chosen)} modules, {len(needed)} files of tests", flush=True)
        with ThreadPoolExecutor(options.jobs) as pool:
            for test, failure in zip(needed, pool.map(measuring.run, needed), strict=True):
                print("failed" if failure else "ran", test, flush=True)
                wrong += [failure] if failure else []

    groups: dict[tuple[str, ...], list[str]] = {}
    for module, tests in tests_of.items():
        groups.setdefault(tuple(tests), []).append(module)
    found: dict[str, dict[str, object]] = {}
    for group, members in groups.items():
        found |= measuring.reached(list(group), members)
    sums, unreached = [0, 0, 0, 0], list[str]()
    print(f"{'module':44} {'lines':>6} {'left':>5} {'branches':>8} {'left':>5} {'%':>7}")
    for module in chosen:
        if "num_branches" not in found.get(module, {}).get("summary", {}):
            print(f"{module:44} not measured")
            wrong.append(f"src/{module}: not measured")
            continue
        summary: dict[str, int] = found[module]["summary"]  # type: ignore[assignment]
        counted = (
            *(summary["num_statements"], summary["missing_lines"]),
            *(summary["num_branches"], summary["missing_branches"]),
        )
        sums = [a + b for a, b in zip(sums, counted, strict=True)]
        print(row(module, *counted), left(found[module]))
        if counted[1] or counted[3]:
            unreached.append(module)
        if module in unreached and line[module].whole:
            wrong.append(f"src/{module}: its own tests don't reach {left(found[module])}")
    print(row(f"{len(chosen)} modules", *sums))
    if known := [module for module in unreached if not line[module].whole]:
        print(f"not whole, as modules.txt says: {len(known)}")
    for module in chosen:
        if module not in unreached and not line[module].whole and module in found:
            print(f"whole, though modules.txt says that it isn't: {module}")
    for failure in wrong:
        print(failure, file=sys.stderr)
    return 1 if wrong else 0


def row(name: str, lines: int, lines_left: int, branches: int, branches_left: int) -> str:
    whole = lines + branches
    share = 100 * (whole - lines_left - branches_left) / whole if whole else 100.0
    return f"{name:44} {lines:6} {lines_left:5} {branches:8} {branches_left:5} {share:7.2f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
