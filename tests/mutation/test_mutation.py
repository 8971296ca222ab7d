"""Which changes of modules are tried: what means the same isn't, nor what is known to."""

from __future__ import annotations

import pytest

from tests.mutation import EQUIVALENTS, Equivalent, difference, equivalents, matching, meaning
from tests.reach import ROOT

KNOWN = equivalents(EQUIVALENTS.read_text("utf-8"))


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: f"{known.module}: {known.original}")
def test_equivalents_are_of_lines_that_are_there(known: Equivalent) -> None:
    path = ROOT / "src" / known.module
    if not path.exists():
        pytest.skip("the sources are not beside the tests")
    lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    assert all(line in lines for line in known.original)
    assert known.original != known.changed
    assert known.reason


@pytest.mark.parametrize(
    "code, other, same",
    [
        ("def f(a: int | None) -> str: ...", "def f(a: int & None) -> bytes: ...", True),
        ("x: int | None = 1", "x: int + None = 1", True),
        ("if a is not b: pass", "if not a is b: pass", True),
        ("if not a in b: pass", "if a not in b: pass", True),
        ("if a: pass", "if not not a: pass", True),
        ("if a < b: pass", "if not a < b: pass", False),
        ("if a < b: pass", "if a <= b: pass", False),
        ("def f(a=1): ...", "def f(a=2): ...", False),
    ],
)
def test_meaning(code: str, other: str, same: bool) -> None:
    assert (meaning(code) == meaning(other)) is same


def test_no_code() -> None:
    assert meaning("if") is None


def test_equivalent_of_a_change() -> None:
    text = """
@ module.py
- if a < b:
+ if a <= b:
= They are never equal.
"""
    known = equivalents(text)
    reason = "They are never equal."
    assert known == [Equivalent("module.py", ("if a < b:",), ("if a <= b:",), reason)]
    code = "def f(a, b):\n    if a < b:\n        return 1\n"
    change = difference("module.py", code, code.replace("<", "<="))
    assert change[:4] == ("module.py", ("if a < b:",), ("if a <= b:",), 2)
    assert matching(known, *change[:3]) is known[0]
    assert matching(known, "other.py", *change[1:3]) is None
