"""The direction of dependencies, read from the imports: a lower layer never knows a higher one."""

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
ENGINE = SRC / "wsproto_fast"
PURE = sorted(ENGINE.rglob("*.py"))
# A face on top of the engine, with a compiled part of its own.
FACE = ENGINE / "wsproto"
COMPILED = sorted([*ENGINE.rglob("*.pyx"), *ENGINE.rglob("*.pxd")])
FRONT_ENDS = ["asyncio", "sync", "trio"]
MOST_REPEATED_LINES = 15
COMPILED_FRONT_ENDS = sorted([*(SRC / "wsapi").rglob("*.pyx"), *(SRC / "wsapi").rglob("*.pxd")])
# What functions of pure modules import when they are called. Request.parse and Response.parse are a
# face of the compiled parsers, which need these classes when they are imported.
CALLED = {
    "http11.py": {
        "wsproto_fast._http11.RequestParser",
        "wsproto_fast._http11_response.ResponseParser",
    },
}
NO_IO = {"wsapi", "asyncio", "threading", "trio", "socket", "selectors", "ssl"}
# A compiled module cimports only those that stand before it.
ORDER = [
    "_settings",
    "_output",
    "_frames",
    "_listener",
    "_queue",
    "_compressor",
    "_deflate",
    "_http11",
    "_http11_response",
    "_sender",
    "_parser",
    "_receiver",
    "_protocol",
    "_handshake",
    "_client",
    "_server",
    "__init__",
    "_events",
    "_core",
]

pytestmark = pytest.mark.skipif(not PURE, reason="the sources are not beside the tests")


def imported(path: Path, *, by_functions: bool = True) -> Iterator[str]:
    """Yield the absolute dotted names that a Python file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    late = {inner for function in functions for inner in ast.walk(function)}
    for node in ast.walk(tree):
        if node in late and not by_functions:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(SRC).parts[: -node.level] if node.level else ()
            module = ".".join([*package, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def cython_imported(path: Path, verb: str) -> Iterator[str]:
    """Yield the modules that a Cython file imports; ``verb`` is a regular expression."""
    text = re.sub("#.*", "", path.read_text(encoding="utf-8"))
    statement = rf"(?m)^[ \t]*from\s+(\S+)\s+{verb}\s+(\([^)]*\)|.*)"
    for module, names in re.findall(statement, text):
        name = module.lstrip(".")
        level = len(module) - len(name)
        package = path.relative_to(SRC).parts[:-level] if level else ()
        found = [name] if name else re.findall(r"\w+", names)
        yield from (".".join([*package, last]) for last in found)
    yield from re.findall(rf"(?m)^[ \t]*{verb}\s+([\w.]+)", text)


def any_imported(path: Path) -> Iterator[str]:
    return imported(path) if path.suffix == ".py" else cython_imported(path, "c?import")


@pytest.mark.parametrize("path", PURE + COMPILED, ids=lambda path: path.name)
def test_engine_does_no_io(path: Path) -> None:
    assert not {name.split(".")[0] for name in any_imported(path)} & NO_IO


@pytest.mark.parametrize("path", PURE, ids=lambda path: path.name)
def test_pure_modules_do_not_import_compiled_ones(path: Path) -> None:
    if path != ENGINE / "__init__.py" and FACE not in path.parents:
        called = set(imported(path)) - set(imported(path, by_functions=False))
        names = set(imported(path)) - (called & CALLED.get(path.name, set()))
        assert not {part for name in names for part in name.split(".")} & set(ORDER)
        assert not [name for name in names if name.startswith("wsproto_fast.wsproto")]


@pytest.mark.parametrize("path", COMPILED, ids=lambda path: path.name)
def test_compiled_modules_cimport_downwards(path: Path) -> None:
    names = {name.removeprefix("wsproto_fast.") for name in cython_imported(path, "cimport")}
    assert path.stem in ORDER, "a new layer: give it its place in ORDER"
    assert names & set(ORDER) <= set(ORDER[: ORDER.index(path.stem) + 1])


@pytest.mark.parametrize("path", COMPILED_FRONT_ENDS, ids=lambda path: path.name)
def test_compiled_front_ends_cimport_the_engine(path: Path) -> None:
    own = f"wsapi.{path.parent.name}."
    names = [name for name in cython_imported(path, "cimport") if not name.startswith(own)]
    packages = {name.split(".")[0] for name in names}
    assert packages <= {"cpython", "cython", "libc", "wsproto_fast"}


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_front_ends_do_not_import_each_other(front_end: str) -> None:
    others = tuple(f"wsapi.{other}" for other in FRONT_ENDS if other != front_end)
    for path in (SRC / "wsapi" / front_end).rglob("*.py*"):
        if path.suffix not in (".py", ".pyx"):
            continue
        assert not [name for name in any_imported(path) if name.startswith(others)]


@pytest.mark.parametrize(
    "path", sorted((SRC / "wsapi" / "_shared").glob("*.py")), ids=lambda path: path.name
)
def test_shared_modules_import_no_front_end(path: Path) -> None:
    front_ends = tuple(f"wsapi.{front_end}" for front_end in FRONT_ENDS)
    assert not [name for name in imported(path) if name.startswith((*front_ends, *FRONT_ENDS))]


def without_interface(text: str) -> str:
    """Remove signatures and docstrings: for readers' sake they repeat each other on purpose."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            first = node.body[0]
            is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            last = first.end_lineno if is_docstring else first.lineno - 1
            if isinstance(node, ast.ClassDef) and not is_docstring:
                continue
            for number in range(node.lineno, (last or node.lineno) + 1):
                lines[number - 1] = ""
    return "\n".join(lines)


def lines_of(front_end: str) -> Iterator[tuple[str, list[str]]]:
    """Yield lines of code, the same whether they are of coroutines or not."""
    for path in sorted((SRC / "wsapi" / front_end).rglob("*.py*")):
        if path.suffix in (".py", ".pyx"):
            text = path.read_text(encoding="utf-8")
            text = without_interface(text) if path.suffix == ".py" else text
            text = re.sub(r"\b(async|await) |#.*", "", text)
            text = re.sub(r"(?m)^(from|import) .*(\n    .*)*(\n\))?", "", text)
            yield path.name, [line.strip() for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("pair", list(itertools.combinations(FRONT_ENDS, 2)), ids="-".join)
def test_front_ends_do_not_repeat_each_other(pair: tuple[str, str]) -> None:
    size = MOST_REPEATED_LINES + 1
    runs: list[dict[str, str]] = [
        {
            "\n".join(lines[start : start + size]): name
            for name, lines in lines_of(front_end)
            for start in range(len(lines) - size + 1)
        }
        for front_end in pair
    ]
    repeated = [f"{runs[0][run]} and {runs[1][run]}:\n{run}" for run in runs[0] if run in runs[1]]
    assert not repeated, "write it once, beside the front-ends:\n\n" + "\n\n".join(repeated)
