"""docs/threat-model.md: its tests are tests, and each was seen to fail without what it is for."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.docs import blocks
from tests.mutants import ROOT, mutants

pytestmark = pytest.mark.skipif(not blocks.pages(), reason="the documents are not beside the tests")

PAGE = blocks.DOCS / "threat-model.md"
TEST = re.compile(r"`([\w/]+\.py(?:::\w+)+)`")


def rows() -> list[str]:
    """Return the rows of the tables of threats, without their heads."""
    text = PAGE.read_text(encoding="utf-8").partition("\n## Threats\n")[2]
    assert text
    tables = re.findall(r"(?m)^\|.*\n\|[-|]+\n((?:\|.*\n)+)", text)
    return [row for table in tables for row in table.splitlines()]


def named() -> set[str]:
    return {test for row in rows() for test in TEST.findall(row)}


def test_each_threat_has_a_test() -> None:
    assert len(rows()) > 50
    assert [row for row in rows() if not TEST.search(row.rstrip("| ").rpartition("|")[2])] == []


def test_each_test_fails_without_its_defence() -> None:
    """``make mutants`` takes defences away one by one."""
    assert named() <= {test for mutant in mutants() for test in mutant.tests}


@pytest.mark.timeout(200)
def test_each_test_is_collected() -> None:
    files = sorted({f"tests/{test.partition('::')[0]}" for test in named()})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    collected = {line.partition("[")[0] for line in done.stdout.splitlines() if "::" in line}
    assert {f"tests/{test}" for test in named()} <= collected
