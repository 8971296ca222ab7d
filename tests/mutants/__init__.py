"""Small mistakes in rules and limits, each of which a named test must find; see CONTRIBUTING.md.

The tables beside this are text. A line that begins with ``@`` names the file under ``src/`` that
the following ones are about. A mutant has a line that says which rule it breaks, the original text
in lines that begin with ``-``, what stands in its place in lines that begin with ``+``, and after
``>`` the tests that must fail, under ``tests/``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["ROOT", "Mutant", "mutants"]

ROOT = Path(__file__).parents[2]
TABLES = Path(__file__).parent


class Mutant(NamedTuple):
    """A mistake.

    Args:
        rule: What it breaks.
        file: File that has it, under ``src/``.
        original: Text, once in that file.
        mutated: What stands in its place.
        tests: Tests that must fail, under ``tests/``.
        place: Table and line that has it.
    """

    rule: str
    file: str
    original: str
    mutated: str
    tests: tuple[str, ...]
    place: str

    @property
    def compiled(self) -> bool:
        """Whether the package is to be compiled again."""
        return not self.file.endswith(".py")

    def apply(self, text: str) -> str:
        """Return the text of the file with the mistake.

        Args:
            text: Text of the file.

        Raises:
            ValueError: If the original text isn't in it exactly once.
        """
        count = text.count(self.original)
        if count != 1:
            raise ValueError(f"{self.place}: the original text is {count} times in {self.file}")
        return text.replace(self.original, self.mutated)


def _table(path: Path) -> Iterator[Mutant]:
    file = ""
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    blocks: list[list[tuple[int, str]]] = [[]]
    for number, line in lines:
        if line:
            blocks[-1].append((number, line))
        else:
            blocks.append([])
    for block in filter(None, blocks):
        place = f"{path.name}:{block[0][0]}"
        marked: dict[str, list[str]] = {"-": [], "+": [], ">": []}
        for _, line in block[1:]:
            if line[0] not in marked or line[1:2] not in ("", " "):
                raise ValueError(f"{place}: unexpected line: {line}")
            marked[line[0]].append(line[2:])
        rule = block[0][1]
        if rule.startswith("@"):
            file = rule[1:].strip()
            continue
        if not all(marked.values()):
            raise ValueError(f"{place}: a mutant needs lines with -, + and >")
        original, mutated = ("\n".join(marked[mark]) for mark in "-+")
        yield Mutant(rule, file, original, mutated, tuple(marked[">"]), place)


def mutants() -> list[Mutant]:
    """Return the mutants of all tables."""
    return [mutant for path in sorted(TABLES.glob("*.txt")) for mutant in _table(path)]
