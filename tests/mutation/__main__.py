"""Change Python modules, one place at a time, and see that their own tests fail: ``make mutation``.

Cosmic Ray says what can be changed: operators, comparisons, numbers, conditions, loops, and so on.
Each change goes into a copy of the tree in ``build/mutation/tree``; then the tests that belong to
the module (``tests/reach/modules.txt``) run until one fails. A change that survives is a rule that
no test of the module knows, unless ``equivalents.txt`` says why it is none.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from tests.reach import ROOT, TABLE, line_of, modules, own_tests, table

from . import EQUIVALENTS, Change, difference, equivalents, matching, meaning

COPIED = ("src", "tests", "examples", "docs", "pyproject.toml")
# What says little about rules: a decorator that is left out fails everywhere or nowhere.
LEFT_OUT = ("core/RemoveDecorator", "core/ExceptionReplacer")
# What takes this much longer than without a change doesn't end. Other load mustn't look like that.
TIMES, SECONDS = 10, 60.0


class Place(NamedTuple):
    """What may be changed, by which operator of Cosmic Ray, where."""

    module: str
    operator: str
    occurrence: int


def places(module: str, code: str) -> Iterator[Place]:
    """Yield what may be changed in a module."""
    nodes = list(ast_nodes(get_ast(code)))
    for name in operator_names():
        operator = get_operator(name)
        # Those with arguments want to be told what to change.
        if name in LEFT_OUT or operator.arguments():
            continue
        found = sum(len(list(operator().mutation_positions(node))) for node in nodes)
        for occurrence in range(found):
            yield Place(module, name, occurrence)


class Changes:
    """Changes of modules, each once; none that means what the original does."""

    def __init__(self) -> None:
        self._codes: dict[str, str] = {}
        self._seen: dict[str, set[str | None]] = {}

    def at(self, place: Place) -> Change | None:
        """Return a change, None if it is no other one."""
        module = place.module
        if module not in self._codes:
            code = (ROOT / "src" / module).read_text("utf-8")
            self._codes[module] = code
            self._seen[module] = {meaning(code), None}
        code = self._codes[module]
        changed = mutate_code(code, get_operator(place.operator)(), place.occurrence)
        means = None if changed is None else meaning(changed)
        if means in self._seen[module]:
            return None
        self._seen[module].add(means)
        assert changed is not None
        return difference(module, code, changed)


class Tree:
    """A copy that changes are made in.

    Args:
        path: Where it is.
        python: Interpreter that has what tests need.
    """

    def __init__(self, path: Path, python: str) -> None:
        self.path = path
        self.python = python
        self.environment = {
            **os.environ,
            "CI": "1",  # the same examples every time
            "PYTHONPATH": str(path / "src"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # which takes longer than most tests
        }

    def update(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        for name in COPIED:
            if (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", ".cache", "*.pyx", "*.c")
                shutil.copytree(ROOT / name, self.path / name, ignore=ignored)
            else:
                shutil.copy(ROOT / name, self.path / name)

    def run(self, tests: list[str], timeout: float | None) -> tuple[str, str]:
        """Run tests; return ``passed``, ``failed``, or ``timeout``, and what they said."""
        command = [self.python, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        command += ["-p", "pytest_timeout", *(f"tests/{test}" for test in tests)]
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                command,
                cwd=self.path,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                status = process.wait(timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # with what tests have started
                process.wait()
                return "timeout", ""
            output.seek(0)
            said = output.read().decode(errors="replace")
        return ("failed" if status else "passed"), said


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m tests.mutation", description=__doc__)
    parser.add_argument("words", nargs="+", help="modules whose paths have one of these")
    parser.add_argument("--python", default=sys.executable, help="interpreter for the tests")
    parser.add_argument("--minutes", type=float, default=30.0, help="in which changes begin")
    parser.add_argument("--seed", type=int, default=1, help="of the order of changes")
    parser.add_argument("--list", action="store_true", help="only say what would be changed")
    options = parser.parse_args(arguments)
    until = time.monotonic() + 60 * options.minutes
    lines = table(TABLE.read_text("utf-8"))
    known = equivalents(EQUIVALENTS.read_text("utf-8"))
    chosen = [module for module in modules(ROOT) if any(word in module for word in options.words)]
    if not chosen:
        parser.error("no such module")
    todo = [
        place
        for module in chosen
        for place in places(module, (ROOT / "src" / module).read_text("utf-8"))
    ]
    random.Random(options.seed).shuffle(todo)
    print(f"{len(chosen)} modules, {len(todo)} places, of which some are the same", flush=True)
    changes = Changes()
    if options.list:
        for place in todo:
            if (change := changes.at(place)) is not None:
                show(change, "")
        return 0

    tree = Tree(ROOT / "build" / "mutation" / "tree", options.python)
    tree.update()
    limits: dict[str, float] = {}
    counts: dict[str, Counter[str]] = {module: Counter() for module in chosen}
    failures = 0
    for module in chosen:
        began = time.monotonic()
        status, said = tree.run(own_tests(ROOT, line_of(lines, module)), 1800)
        limits[module] = TIMES * (time.monotonic() - began) + SECONDS
        if status != "passed":
            print(f"src/{module}: its tests {status} without a change\n{said[-2000:]}")
            return 2
    for place in todo:
        count = counts[place.module]
        if time.monotonic() > until:
            count["not tried"] += 1
            continue
        if (change := changes.at(place)) is None:
            continue
        if matching(known, *change[:3]) is not None:
            count["equivalent"] += 1
            continue
        path = tree.path / "src" / change.module
        original = path.read_bytes()
        path.write_text(change.code, "utf-8")
        try:
            tests = own_tests(ROOT, line_of(lines, change.module))
            outcome, _ = tree.run(tests, limits[change.module])
        finally:
            path.write_bytes(original)
        count[{"failed": "killed", "passed": "survived"}.get(outcome, outcome)] += 1
        if outcome == "passed":
            failures += 1
            show(change, "survived: ")
    heads = ("killed", "timeout", "survived", "equivalent", "not tried")
    print(f"{'module':40}" + "".join(f"{head:>12}" for head in heads))
    for module, count in counts.items():
        print(f"{module:40}" + "".join(f"{count[head]:12}" for head in heads))
    return 1 if failures else 0


def show(change: Change, what: str) -> None:
    print(f"{what}src/{change.module}:{change.line}")
    print("".join(f"- {line}\n" for line in change.original), end="")
    print("".join(f"+ {line}\n" for line in change.changed), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
