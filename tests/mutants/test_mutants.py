"""The table of mutants is about the code as it is. ``make mutants`` makes the mistakes."""

from __future__ import annotations

import ast
import importlib
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mutants import ROOT, TABLES, Mutant, mutants

MUTANTS = mutants()
RFCS = tomllib.loads((TABLES / "rfcs.toml").read_text(encoding="utf-8"))
COMPILED = ROOT / "build" / f"cython-{sys.implementation.cache_tag}"

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
    assert len(MUTANTS) > 450
    assert files >= {
        *("_backlog.pyx", "_client.pyx", "_deflate.pyx", "_frames.pyx", "_handshake.pyx"),
        *("_http11.pyx", "_http11_response.pyx", "_keepalive.pyx", "_pacing.pyx", "_parser.pyx"),
        *("_protocol.pyx", "_queue.pyx", "_rates.pyx", "_receiver.pyx", "_sender.pyx"),
        *("_server.pyx", "_settings.pyx"),
    }


SECTIONS = {
    "RFC 6455 section": "3 4.1 4.2.1 4.2.2 4.3 4.4 5.1 5.2 5.3 5.4 5.5 5.5.1 5.5.2 5.5.3 5.6 6.1 "
    "6.2 7.1.1 7.1.2 7.1.3 7.1.4 7.1.5 7.1.6 7.1.7 7.4.1 7.4.2 8.1 9 9.1 10 "
    "11.1 11.3",
    "RFC 7692 section": "5 6 6.1 6.2 7 7.1.1 7.1.2 7.2.1 7.2.2 7.2.3 7.3",
}


def test_every_section_is_there() -> None:
    """Of those that demand something of an endpoint."""
    wanted = {f"{rfc} {number}" for rfc, numbers in SECTIONS.items() for number in numbers.split()}
    assert set(RFCS) - {"elsewhere"} == wanted
    assert all(RFCS["elsewhere"].values())


@pytest.mark.parametrize("section", [section for section in RFCS if section != "elsewhere"])
def test_every_demand_has_a_mutant(section: str) -> None:
    rules = {mutant.rule for mutant in MUTANTS}
    assert RFCS[section]
    for demand, broken in RFCS[section].items():
        assert broken, demand
        assert set(broken) <= rules, demand


def test_every_rule_of_an_rfc_is_a_demand() -> None:
    """A mutant that names one of both RFCs is listed with what it breaks."""
    listed = {
        rule
        for section, demands in RFCS.items()
        if section != "elsewhere"
        for rules in demands.values()
        for rule in rules
    }
    named = {
        mutant.rule
        for mutant in MUTANTS
        if mutant.rule.startswith(("RFC 6455", "RFC 7692", "Section"))
    }
    assert named <= listed


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


@pytest.mark.skipif(sys.platform != "linux", reason="it forks")
class TestMaking:
    @pytest.mark.skipif(
        "WSPROTO_FAST_COVERAGE" in os.environ
        or "WSPROTO_FAST_SANITIZE" in os.environ
        or not (COMPILED.exists() and list((ROOT / "build").glob("temp.*"))),
        reason="what was compiled in place isn't there",
    )
    @pytest.mark.timeout(600)  # a compiler runs
    def test_some(self) -> None:
        """A few are made; all of them take minutes."""
        command = [sys.executable, "-m", "tests.mutants", "--jobs=1", "--sample=4", "--seed=2"]
        done = subprocess.run(
            command, cwd=ROOT, timeout=570, check=False, capture_output=True, text=True
        )
        last = done.stdout.splitlines()[-1]
        assert last.startswith("4 mutants, 4 caught, 0 survived, 0 stale, 0 failed"), done

    @pytest.mark.parametrize(
        ("statuses", "result"),
        [
            ([1], "caught"),
            ([-signal.SIGSEGV], "caught"),
            ([None], "caught"),
            ([3], "caught"),
            ([0], "survived"),
            ([1, 0], "survived"),
            ([4], "stale"),
            ([1, 5], "stale"),
            ([70], "failed"),
        ],
    )
    def test_judging(self, statuses: list[int | None], result: str) -> None:
        """Each test has to fail, by crashing or never ending if need be, but it has to exist."""
        making = importlib.import_module("tests.mutants.__main__")
        given = iter(statuses)

        class Tree:
            @contextmanager
            def mistake(self, mutant: Mutant) -> Iterator[str]:
                yield ""

            def test(self, tests: Iterable[str], *options: str) -> tuple[int | None, str]:
                return next(given), ""

        tests = tuple(f"test_{number}" for number in range(len(statuses)))
        mutant = MUTANTS[0]._replace(tests=tests)
        assert making.judge(Tree(), mutant, search=False)[0] == result

    def test_mutant_that_is_not_compiled(self) -> None:
        making = importlib.import_module("tests.mutants.__main__")

        class Tree:
            @contextmanager
            def mistake(self, mutant: Mutant) -> Iterator[str]:
                yield "undeclared name"

        result, said = making.judge(Tree(), MUTANTS[0], search=False)
        assert result == "failed"
        assert "undeclared name" in said

    def test_processes(self) -> None:
        """A call has a result, was ended by a signal, or takes too long."""
        making = importlib.import_module("tests.mutants.__main__")

        def shout() -> int:
            os.write(1, b"here\n")
            return 5

        assert making.apart(shout, timeout=30) == (5, "here\n")
        crash = making.apart(lambda: os.kill(os.getpid(), signal.SIGKILL), timeout=30)
        assert crash == (-signal.SIGKILL, "")
        assert making.apart(time.sleep, 30, timeout=0.1) == (None, "")
        status, said = making.apart(lambda: 1 // 0, timeout=30)
        assert status == making.FAILED
        assert "ZeroDivisionError" in said
