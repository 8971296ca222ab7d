"""The table of mutants is about the code as it is. ``make mutants`` makes the mistakes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutants import ROOT, Mutant, mutants

MUTANTS = mutants()

pytestmark = pytest.mark.skipif(
    not (ROOT / "src" / "wsproto_fast" / "_protocol.pyx").exists(),
    reason="the sources are not beside the tests",
)


def names_in(path: Path) -> set[str]:
    """Return the tests of a file as pytest calls them, without parameters."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        for function in inner:
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(f"{prefix}{function.name}")
    return found


def test_there_are_many() -> None:
    """Of the engine's parts that decide something, none is left out."""
    files = {Path(mutant.file).name for mutant in MUTANTS}
    assert len(MUTANTS) > 170
    assert files >= {
        *("_backlog.pyx", "_client.pyx", "_deflate.pyx", "_frames.pyx", "_handshake.pyx"),
        *("_http11.pyx", "_http11_response.pyx", "_keepalive.pyx", "_pacing.pyx", "_parser.pyx"),
        *("_protocol.pyx", "_queue.pyx", "_rates.pyx", "_receiver.pyx", "_sender.pyx"),
        "_server.pyx",
    }


def test_no_two_are_the_same() -> None:
    assert len({mutant[:4] for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.place)
def test_can_be_made(mutant: Mutant) -> None:
    """Its original text is in the source once, and its tests exist."""
    path = ROOT / "src" / mutant.file
    text = path.read_text(encoding="utf-8")
    mutated = mutant.apply(text)
    assert mutated != text
    if path.suffix == ".py":
        ast.parse(mutated)
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert name in names_in(ROOT / "tests" / file), test
