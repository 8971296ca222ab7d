"""The table of modules and their tests, and what is made of what was measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.reach import ROOT, TABLE, Line, __main__, line_of, modules, own_tests, table

LINES = table(TABLE.read_text("utf-8"))
MODULES = modules(ROOT)

pytestmark = pytest.mark.skipif(not MODULES, reason="the sources are not beside the tests")


@pytest.mark.parametrize("module", MODULES)
def test_each_module_has_tests_of_its_own(module: str) -> None:
    assert own_tests(ROOT, line_of(LINES, module))


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.pattern)
def test_each_line_says_something(line: Line) -> None:
    assert any(line_of(LINES, module) is line for module in MODULES)
    for pattern in line.tests:
        assert list((ROOT / "tests").glob(pattern)), pattern


@pytest.mark.parametrize("module", MODULES)
def test_what_is_left_out_has_its_reason(module: str) -> None:
    for line in (ROOT / "src" / module).read_text("utf-8").splitlines():
        if "pragma:" in line:
            assert re.search(r"# pragma: no (cover|branch): \S", line), line


SETTINGS = """
[tool.coverage.run]
branch = true
source = ["src"]
parallel = true
concurrency = ["thread", "multiprocessing"]
patch = ["subprocess"]

[tool.pytest.ini_options]
"""
SIGN = """\
import sys

number = int(sys.argv[1])
if number < 0:
    print("negative")
if number:
    number = 1
print(number)
"""
# What processes reach that tests start counts, too.
TESTS = """\
import subprocess, sys

def test_sign():
    for number in {numbers}:
        subprocess.run([sys.executable, "src/{name}.py", str(number)], check=True)
"""
SPAWNING = """\
import multiprocessing, runpy, sys

def test_sign(monkeypatch):
    for number in {numbers}:
        monkeypatch.setattr(sys, "argv", ["", str(number)])
        process = multiprocessing.get_context("spawn").Process(
            target=runpy.run_path, args=("src/{name}.py",)
        )
        process.start()
        process.join()
        assert process.exitcode == 0
"""
# Names of modules, what their tests try, and what is told of them.
TOLD = {
    "whole": ([-5, 0, 5], " 100.00 "),
    "line": ([0, 5], "src/line.py: its own tests don't reach 5"),
    "branch": ([-5, 5], "src/branch.py: its own tests don't reach 6->8"),
    "failing": ([-5, 0, 5, "x"], "tests/test_failing.py failed with 1"),
    "known": ([0, 5], "not whole, as modules.txt says: 1"),
    "better": ([-5, 0, 5], "whole, though modules.txt says that it isn't: better.py"),
    "spawned": ([-5, 0, 5], "whole, though modules.txt says that it isn't: spawned.py"),
}
TABLE_OF_THEM = """
-known.py   test_known.py
-better.py  test_better.py
-spawned.py test_spawned.py
whole.py    test_whole.py
line.py     test_line.py
branch.py   test_branch.py
failing.py  test_failing.py
"""


@pytest.mark.timeout(300)
def test_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # which takes longer than the tests
    (tmp_path / "pyproject.toml").write_text(SETTINGS)
    for folder in ("src", "tests"):
        (tmp_path / folder).mkdir()
    for name, (numbers, _) in TOLD.items():
        (tmp_path / "src" / f"{name}.py").write_text(SIGN)
        tests = (SPAWNING if name == "spawned" else TESTS).format(numbers=numbers, name=name)
        (tmp_path / "tests" / f"test_{name}.py").write_text(tests)
    assert __main__.main(["--jobs=1"], tmp_path, TABLE_OF_THEM) == 1
    out, err = capsys.readouterr()
    for _, text in TOLD.values():
        assert text in out + err
    assert len(re.findall("^(?:src|tests)/", err, re.MULTILINE)) == 3
    # What isn't to be whole doesn't fail.
    for name, status in [("better", 0), ("known", 0), ("whole", 0), ("line", 1), ("branch", 1)]:
        assert __main__.main(["--report", name], tmp_path, TABLE_OF_THEM) == status, name


def test_module_without_tests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "sign.py").write_text(SIGN)
    assert __main__.main(["--report"], tmp_path, "other.py test_sign.py") == 1
    assert "src/sign.py: no tests belong to it" in capsys.readouterr().err
    assert __main__.main(["--report", "none"], tmp_path, "") == 1
