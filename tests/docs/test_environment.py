"""docs/environment.md has the variables that the sources read, with their defaults."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "environment.md"

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the documents are not beside the tests")

# What environment.getenv() and its kin read has a prefix.
_READERS = {"getenv", "getenv_int", "getenv_float", "_getenv_product"}

# What everybody knows, and what one test tells its own processes.
_ELSEWHERE = {"CC", "PATH", "PYTHONPATH", "TOPICS_BUS"}


def _calls(tree: ast.Module) -> Iterator[tuple[str, str, ast.expr | None]]:
    """Yield what reads the environment: function, variable, default."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = ast.unparse(node.func).rpartition(".")[2]
            default = node.args[1] if len(node.args) > 1 else None
            if function in _READERS or ast.unparse(node.func) in ("os.environ.get", "get"):
                yield function, str(node.args[0].value), default
        elif (
            isinstance(node, ast.Subscript)
            and ast.unparse(node.value) == "os.environ"
            and isinstance(node.slice, ast.Constant)
        ):
            yield "get", str(node.slice.value), None


def _read(*folders: str) -> dict[str, ast.expr | None]:
    found = {}
    for folder in folders:
        for file in (ROOT / folder).rglob("*.py") if (ROOT / folder).is_dir() else [ROOT / folder]:
            text = file.read_text()
            if "environ" in text or "getenv" in text:
                for function, name, default in _calls(ast.parse(text)):
                    found[f"WSAPI_{name}" if function in _READERS else name] = default
    return {name: default for name, default in found.items() if name.isupper()}


def _rows() -> dict[str, list[str]]:
    """Return the cells behind each variable of the page."""
    rows = {}
    for line in PAGE.read_text().splitlines():
        if line.startswith("| `"):
            first, *cells = (cell.strip() for cell in line.strip("|").split(" | "))
            for name in re.findall(r"`([A-Z_]+)`", first):
                rows[name] = cells
    return rows


def test_every_variable_of_the_packages_is_on_the_page() -> None:
    read = set(_read("src")) - _ELSEWHERE
    assert {"WSAPI_MAX_LOG_SIZE", "WSAPI_SERVER", "WSAPI_RUN_AS"} <= read
    rows = set(_rows())
    assert read - rows == set(), "docs/environment.md doesn't have them"
    own = {name for name in rows if name.startswith("WSAPI_")}
    assert own - read - set(_read("tests")) == set(), "nothing reads it"


def test_cython_reads_none_by_itself() -> None:
    for file in (ROOT / "src").rglob("*.pyx"):
        assert not re.search(r"os\.environ|getenv\w*\(", file.read_text()), file


def test_every_variable_of_builds_and_tests_is_on_the_page() -> None:
    prefixes = ("WSAPI_", "WSPROTO_FAST_", "FAULTS_", "SOAK_", "TORTURE_")
    read = {name for name in _read("setup.py", "tests") if name.startswith(prefixes)}
    assert "WSPROTO_FAST_SANITIZE" in read
    assert read - set(_rows()) == set()


def test_defaults() -> None:
    rows, compared = _rows(), 0
    for name, default in _read("src").items():
        if default is not None and name.startswith("WSAPI_"):
            assert float(rows[name][0]) == eval(ast.unparse(default)), name
            compared += 1
    assert compared > 10
