"""The root package: every documented name, seen by programs and by type checkers alike."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import wsapi
from wsapi._names import DEPRECATED

HOMES = {
    "asyncio.client": ["ClientConnection", "connect", "unix_connect"],
    "asyncio.router": ["Router", "route", "unix_route"],
    "asyncio.server": [
        "Server",
        "ServerConnection",
        "basic_auth",
        "broadcast",
        "serve",
        "unix_serve",
    ],
    "client": ["ClientProtocol"],
    "datastructures": ["Headers", "HeadersLike", "MultipleValuesError"],
    "exceptions": [
        "ConcurrencyError",
        "ConnectionClosed",
        "ConnectionClosedError",
        "ConnectionClosedOK",
        "DuplicateParameter",
        "HeaderLineTooLong",
        "InvalidHandshake",
        "InvalidHeader",
        "InvalidHeaderFormat",
        "InvalidHeaderValue",
        "InvalidMessage",
        "InvalidMethod",
        "InvalidOrigin",
        "InvalidParameterName",
        "InvalidParameterValue",
        "InvalidProtocol",
        "InvalidProxy",
        "InvalidProxyMessage",
        "InvalidProxyStatus",
        "InvalidState",
        "InvalidStatus",
        "InvalidURI",
        "InvalidUpgrade",
        "NegotiationError",
        "PayloadTooBig",
        "ProtocolError",
        "ProxyError",
        "RateExceeded",
        "RequestLineTooLong",
        "SecurityError",
        "StatusLineTooLong",
        "TooManyFragments",
        "TooManyHeaders",
        "WebSocketException",
    ],
    "frames": ["Close", "CloseCode", "Frame", "Opcode"],
    "http11": ["Request", "Response"],
    "protocol": ["Protocol", "Side", "State"],
    "server": ["ServerProtocol"],
    "typing": [
        "Data",
        "ExtensionName",
        "ExtensionParameter",
        "LoggerLike",
        "Origin",
        "StatusLike",
        "Subprotocol",
    ],
}
NAMES = [(module, name) for module, names in HOMES.items() for name in names]
HEAVY = {
    "aiofastnet",
    "asyncio",
    "python_socks",
    "ssl",
    "trio",
    "uvloop",
    "werkzeug",
    "wsapi.asyncio",
    "wsapi.sync",
    "wsapi.trio",
}


def python(code: str, *options: str) -> str:
    """Run a program in an interpreter that imported nothing before."""
    result = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=50
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("module, name", NAMES)
def test_names_are_those_of_their_homes(module: str, name: str) -> None:
    home = importlib.import_module(f"wsapi.{module}")
    assert getattr(wsapi, name) is getattr(home, name)
    assert name in home.__all__


def test_all_and_dir_are_complete() -> None:
    names = {name for _, name in NAMES} | {"__version__"}
    assert set(wsapi.__all__) == names
    assert len(wsapi.__all__) == len(names)
    assert names <= set(dir(wsapi))
    namespace: dict[str, object] = {}
    exec("from wsapi import *", namespace)
    assert names <= set(namespace)


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="module 'wsapi' has no attribute 'conect'"):
        wsapi.conect  # type: ignore[attr-defined] # noqa: B018 # it raises
    with pytest.raises(ImportError, match="conect"):
        exec("from wsapi import conect")


def test_dir_lists_what_was_not_imported_yet() -> None:
    assert "True" in python("import wsapi; print({'serve', 'route'} <= set(dir(wsapi)))")


def test_import_is_light() -> None:
    # In an isolated interpreter: an editable installation runs code of its own at startup.
    code = f"""
import sys
before = set(sys.modules)
import wsapi
print(*sorted(({HEAVY!r} - before) & set(sys.modules)))
wsapi.ConnectionClosed, wsapi.ServerProtocol
print(*sorted(({HEAVY!r} - before) & set(sys.modules)))
wsapi.serve
print("wsapi.asyncio" in sys.modules)
"""
    assert python(code).split() == ["True"]


def test_import_takes_few_modules() -> None:
    code = f"""
import sys
before = set(sys.modules)
import wsapi
print(*sorted(name for name in sys.modules if name.startswith("wsapi.")))
imported = set(sys.modules)
wsapi.install_as_websockets()
print(*sorted(set(sys.modules) - imported))
imported = set(sys.modules)
import websockets
print(*sorted(set(sys.modules) - imported))
websockets.exceptions.ConnectionClosed, websockets.Headers
print(*sorted(({HEAVY!r} - before) & set(sys.modules)))
print("end")
"""
    imported, installed, again, heavy, _ = python(code, "-I").split("\n")
    assert imported.split() == [
        f"wsapi.{name}"
        for name in (
            "_identity",
            "_shared",
            "_shared.basic_auth",
            "_shared.reconnection",
            "client",
            "datastructures",
            "exceptions",
            "frames",
            "http11",
            "protocol",
            "server",
            "typing",
        )
    ]
    assert installed.split() == ["websockets", "wsapi._install", "wsapi._names", "wsapi.version"]
    assert again == heavy == ""


@pytest.mark.parametrize("name", ["route", "basic_auth"])
def test_optional_packages_are_imported_when_they_are_used(name: str) -> None:
    code = (
        f"import sys; from wsapi import {name}; "
        "print(*{'werkzeug', 'trio', 'python_socks', 'uvloop'} & set(sys.modules))"
    )
    assert python(code) == ""


def test_import_warns_of_nothing() -> None:
    pytest.importorskip("hiredis")  # one of the modules is for it
    code = """
import importlib, pkgutil, warnings, wsapi
# What is deprecated as a whole warns; looking for modules in it imports it.
warnings.filterwarnings("ignore", "wsapi.(auth|connection|legacy)", DeprecationWarning)
for module in pkgutil.walk_packages(wsapi.__path__, "wsapi."):
    if not module.name.startswith(("wsapi.trio", "wsapi.__main__")):
        importlib.import_module(module.name)
from wsapi import *
"""
    assert python(code, "-W", "error", "-X", "dev") == ""


def test_type_checkers_and_the_interpreter_see_the_same() -> None:
    """What is imported under TYPE_CHECKING is what is looked up at run time."""
    assert wsapi.__file__ is not None
    (branch,) = [
        node
        for node in ast.parse(Path(wsapi.__file__).read_text(encoding="utf-8")).body
        if isinstance(node, ast.If)
    ]
    seen = {
        alias.name: node.module
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname in (None, alias.name)
    }
    deprecated = {name: home for home, names in DEPRECATED[""].items() for name in names}
    assert seen == wsapi._LAZY | deprecated  # type: ignore[attr-defined] # it isn't in the stub


def test_mypy_sees_every_name(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy isn't installed")
    program = tmp_path / "program.py"
    lines = ["import wsapi", "from typing import assert_type"]
    for index, (module, name) in enumerate(NAMES):
        lines.append(f"from wsapi import {name}")
        lines.append(f"from wsapi.{module} import {name} as home_{index}")
    values = ["connect", "serve", "unix_serve", "route", "broadcast", "basic_auth"]
    for name in values:
        lines.append(f"reveal_type(wsapi.{name})")
    lines.append("assert_type(wsapi.__version__, str)")
    lines.append("async def program() -> None:")
    lines.append("    async with connect('ws://localhost') as client:")
    lines.append("        assert_type(client, ClientConnection)")
    lines.append("        assert_type(await client.recv(), Data)")
    lines.append("    async def handler(connection: ServerConnection) -> None: ...")
    lines.append("    assert_type(await serve(handler, port=80), Server)")
    lines.append("wsapi.conect")
    program.write_text("\n".join(lines) + "\n")
    # mypy finds installed packages by itself, those of a source tree when it is told.
    sources = Path(wsapi.__file__ or "").parents[1]
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = True\n"
        + (f"mypy_path = {sources}\n" if sources.name == "src" else "")
        + "[mypy-werkzeug.*]\nignore_missing_imports = True\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", "program.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=55,
        env=os.environ | {"MYPY_CACHE_DIR": str(tmp_path / "cache"), "NO_COLOR": "1"},
    )
    errors = [line for line in result.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1, result.stdout + result.stderr
    assert 'Module has no attribute "conect"' in errors[0]
    notes = [line for line in result.stdout.splitlines() if "Revealed type" in line]
    assert len(notes) == len(values)
    assert not [line for line in notes if '"Any"' in line or "builtins.object" in line]
