"""The direction of dependencies, read from the imports: a lower layer never knows a higher one."""

import ast
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
ENGINE = SRC / "wsproto_fast"
WSAPI = SRC / "wsapi"
# The only place in the engine's package that knows sockets, loops, or locks.
DRIVERS = ENGINE / "drivers"
PURE = sorted(path for path in ENGINE.rglob("*.py") if DRIVERS not in path.parents)
# A face on top of the engine, with a compiled part of its own.
FACE = ENGINE / "wsproto"
COMPILED = sorted(
    path for path in [*ENGINE.rglob("*.pyx"), *ENGINE.rglob("*.pxd")] if DRIVERS not in path.parents
)
DRIVING = sorted(path for path in DRIVERS.rglob("*") if path.suffix in (".py", ".pyx", ".pxd"))
# Code of the drivers that is a front-end's.
DRIVER_OF = {
    "asyncio": ["asyncio.pyx"],
    "sync": ["threads.pyx", "_wire.pyx", "_sharing.pyx", "_housekeeper.py"],
}
FRONT_ENDS = ["asyncio", "sync", "trio"]
MOST_REPEATED_LINES = 15
# What functions of pure modules import when they are called. Request.parse and Response.parse are a
# face of the compiled parsers, which need these classes when they are imported.
CALLED = {
    "http11.py": {
        "wsproto_fast._http11.RequestParser",
        "wsproto_fast._http11_response.ResponseParser",
    },
}
# Above the front-ends; what is here knows neither loops nor threads.
TOPICS = WSAPI / "topics"
TOPICS_WITHOUT_IO = [
    "_base.py",
    "_core.py",
    "_history.py",
    "_names.py",
    "_nats_known.py",
    "_nats_stream.py",
    "_requests.py",
    "_subscribers.py",
    "_url.py",
    "bus.py",
    "exceptions.py",
    "positions.py",
    "presence.py",
]
NO_IO = {"wsapi", "asyncio", "threading", "trio", "socket", "selectors", "ssl"}
# What compiled modules say to the compiler, and nothing of the engine.
IDIOMS = ["_flag", "_free_threading"]
# A compiled module cimports only those that stand before it.
ORDER = [
    *IDIOMS,
    "_settings",
    "_output",
    "_backlog",
    "_frames",
    "_listener",
    "_queue",
    "_rates",
    "_compressor",
    "_inflater",
    "_deflate",
    "_http11",
    "_http11_response",
    "_endpoint",
    "_sender",
    "_parser",
    "_receiver",
    "_keepalive",
    "_pacing",
    "_statistics",
    "_protocol",
    "_handshake",
    "_client",
    "_server",
    "__init__",
    "_events",
    "_frame_events",
    "_connection",
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


def imported_by_string(text: str) -> list[str]:
    """Return the names in ``text`` that look as if something was imported by them."""
    text = re.sub(r"#.*", "", text)
    found = re.findall(r"""(?:import_module|__import__)\(\s*f?["']([\w.]+)""", text)
    return found + re.findall(
        r"""["']((?:wsapi|(?:wsproto_fast)?\.drivers)(?:\.[\w.]+)?)["']""", text
    )


def private_members(text: str) -> list[str]:
    """Return the private members of an engine that ``text`` uses."""
    engine = r"\b_?(?:protocol|engine)"
    found = re.findall(rf"{engine}\.(_(?!_)\w+)", text)
    return found + re.findall(rf"""attr\([\w.]*{engine},\s*["'](_(?!_)\w+)""", text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('import_module("wsapi.sync")', {"wsapi.sync"}),
        ('importlib.import_module("socket")', {"socket"}),
        ("__import__('asyncio')", {"asyncio"}),
        ('names = ("wsproto_fast.drivers.tls", "wsproto_fast.uri")', {"wsproto_fast.drivers.tls"}),
        ('import_module(".drivers", __package__)', {".drivers"}),
        ('# see "wsapi"', set()),
    ],
)
def test_imports_by_strings_are_seen(text: str, found: set[str]) -> None:
    assert set(imported_by_string(text)) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("self._protocol._queue.frames", ["_queue"]),
        (
            "if protocol._kept is not None and connection.protocol._output.size:",
            ["_kept", "_output"],
        ),
        ("self._engine._now", ["_now"]),
        ('getattr(self.protocol, "_state")', ["_state"]),
        ("self._protocol.pop_output() and protocol.__class__", []),
        ("from wsproto_fast._protocol cimport Protocol", []),
    ],
)
def test_private_members_are_seen(text: str, found: list[str]) -> None:
    assert private_members(text) == found


@pytest.mark.parametrize("path", PURE + COMPILED, ids=lambda path: path.name)
def test_engine_does_no_io(path: Path) -> None:
    names = [*any_imported(path), *imported_by_string(path.read_text(encoding="utf-8"))]
    assert not {name.split(".")[0] for name in names} & NO_IO
    assert not [name for name in names if "drivers" in name.split(".")]


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


@pytest.mark.parametrize("path", DRIVING, ids=lambda path: path.name)
def test_drivers_know_the_engine_by_its_public_names(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not private_members(text)
    names = [*any_imported(path), *imported_by_string(text)]
    assert not [name for name in names if name.split(".")[0] in ("wsapi", "trio")]
    inner = [name.split(".") for name in names if name.startswith("wsproto_fast.")]
    assert not [name for name in inner if name[1].startswith("_") and name[1] not in IDIOMS]
    if path.suffix != ".py":
        for name in cython_imported(path, "cimport"):
            package = name.split(".")[0]
            assert (
                package in ("cpython", "cython", "libc")
                or name == "wsproto_fast"
                or name.removeprefix("wsproto_fast.") in IDIOMS
                or (name.startswith("wsproto_fast.drivers."))
            )


def test_front_ends_are_not_compiled() -> None:
    assert not [path for path in WSAPI.rglob("*") if path.suffix in (".pyx", ".pxd", ".h")]


@pytest.mark.parametrize("path", sorted(WSAPI.rglob("*.py")), ids=lambda path: path.name)
def test_front_ends_know_the_engine_by_its_public_names(path: Path) -> None:
    assert not private_members(path.read_text(encoding="utf-8"))
    names = [name.split(".") for name in imported(path) if name.startswith("wsproto_fast.")]
    assert not [part for name in names for part in name[1:-1] if part.startswith("_")]


@pytest.mark.parametrize(
    "path",
    sorted(
        path for path in ENGINE.rglob("*") if path.suffix in (".py", ".pyi", ".pyx", ".pxd", ".h")
    ),
    ids=lambda path: path.name,
)
def test_engine_does_not_know_what_uses_it(path: Path) -> None:
    assert "wsapi" not in path.read_text(encoding="utf-8").lower()


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_front_ends_do_not_import_each_other(front_end: str) -> None:
    others = tuple(f"wsapi.{other}" for other in FRONT_ENDS if other != front_end)
    for path in (WSAPI / front_end).rglob("*.py"):
        names = [*imported(path), *imported_by_string(path.read_text(encoding="utf-8"))]
        assert not [name for name in names if name.startswith(others)]


@pytest.mark.parametrize(
    "path", sorted((SRC / "wsapi" / "_shared").glob("*.py")), ids=lambda path: path.name
)
def test_shared_modules_import_no_front_end(path: Path) -> None:
    front_ends = tuple(f"wsapi.{front_end}" for front_end in FRONT_ENDS)
    assert not [name for name in imported(path) if name.startswith((*front_ends, *FRONT_ENDS))]


@pytest.mark.parametrize("name", TOPICS_WITHOUT_IO)
def test_the_core_of_topics_does_no_io(name: str) -> None:
    names = list(imported(TOPICS / name))
    assert not {name.split(".")[0] for name in names} & (NO_IO - {"wsapi"})
    front_ends = tuple(f"wsapi.{front_end}" for front_end in FRONT_ENDS)
    assert not [name for name in names if name.startswith(front_ends)]
    inner = {
        name.removeprefix("wsapi.topics.").split(".")[0] for name in names if ".topics." in name
    }
    assert inner <= {name.removesuffix(".py") for name in TOPICS_WITHOUT_IO}


@pytest.mark.parametrize(
    "path",
    # Hooks of PyInstaller are no part of the program.
    sorted(
        path
        for path in WSAPI.rglob("*.py")
        if TOPICS not in path.parents and not path.name.startswith("hook-")
    ),
    ids=lambda path: path.name,
)
def test_what_is_below_topics_does_not_know_them(path: Path) -> None:
    names = [*imported(path), *imported_by_string(path.read_text(encoding="utf-8"))]
    assert not [name for name in names if name.startswith("wsapi.topics")]


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("wsapi", ["wsapi.topics", "asyncio"]),
        ("wsapi.topics", ["wsapi.asyncio", "asyncio", "trio", "redis", "nats"]),
        ("wsapi.topics._asyncio", ["trio", "redis", "nats", "wsapi.trio", "wsapi.sync"]),
    ],
)
def test_what_is_not_imported_before_it_is_needed(module: str, absent: list[str]) -> None:
    program = f"import sys, {module}; print(*(set({absent!r}) & set(sys.modules)))"
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "\n"


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
    driver = [DRIVERS / name for name in DRIVER_OF.get(front_end, [])]
    for path in [*sorted((WSAPI / front_end).rglob("*.py")), *driver]:
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


# What runs code that it is given, or makes objects of any class.
EXECUTING = {"dill", "marshal", "pickle", "shelve", "yaml"}
# What does so with what the program itself has made, or the user has named.
OWN = {"cli/_bench_processes.py": {"pickle"}}


def test_nothing_that_arrives_is_executed() -> None:
    for package in (ENGINE, WSAPI):
        for path in sorted(package.rglob("*.py*")):
            if path.suffix not in (".py", ".pyx"):
                continue
            modules = {name.partition(".")[0] for name in any_imported(path)}
            own = OWN.get(path.relative_to(package).as_posix(), set())
            assert (modules & EXECUTING) == own, path
            text = re.sub("#.*", "", path.read_text(encoding="utf-8"))
            assert not re.search(r"(?<![.\w])(?:eval|exec|compile)\(", text), path
