"""Which tests belong to which module: they reach all its lines and branches; see CONTRIBUTING.md.

A line of ``modules.txt`` has a pattern of modules under ``src/``, then patterns of files under
``tests/``. The first line that a module matches is its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

__all__ = ["ROOT", "TABLE", "Line", "line_of", "modules", "own_tests", "table"]

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("modules.txt")


class Line(NamedTuple):
    """What a line says.

    Args:
        pattern: Of modules under ``src/``.
        tests: Patterns of files under ``tests/``.
        whole: Whether they reach all; with ``-`` before the pattern they don't yet.
    """

    pattern: str
    tests: list[str]
    whole: bool


def table(text: str) -> list[Line]:
    """Return what a table says; ``#`` begins a comment."""
    lines = (line.partition("#")[0].split() for line in text.splitlines())
    return [
        Line(words[0].removeprefix("-"), words[1:], whole=not words[0].startswith("-"))
        for words in lines
        if words
    ]


def modules(root: Path) -> list[str]:
    """Return the pure-Python modules under ``src/``, by their paths there."""
    source = root / "src"
    return sorted(path.relative_to(source).as_posix() for path in source.rglob("*.py"))


def line_of(lines: Iterable[Line], module: str) -> Line:
    """Return the line that says which tests belong to a module, without any if none does."""
    return next((line for line in lines if fnmatchcase(module, line.pattern)), Line("", [], True))


def own_tests(root: Path, line: Line) -> list[str]:
    """Return the files under ``tests/`` that a line names."""
    found = {path for test in line.tests for path in (root / "tests").glob(test)}
    return sorted(path.relative_to(root / "tests").as_posix() for path in found)
