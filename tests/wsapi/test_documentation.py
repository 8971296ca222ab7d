"""Public signatures and docstrings: they repeat the table of options, and agree with it."""

import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jedi
import pytest

from wsapi._shared import options
from wsapi._shared.options import CLIENT_OPTIONS, CONNECTION_OPTIONS, SERVER_OPTIONS, Option

FRONT_ENDS = ["asyncio", "sync", "trio"]
MODULES = [
    f"wsapi.{front_end}.{name}"
    for front_end in FRONT_ENDS
    for name in ("client", "connection", "router", "server")
]
TABLES: dict[str, Mapping[str, Option]] = {
    "client.connect": CLIENT_OPTIONS,
    "client.unix_connect": CLIENT_OPTIONS,
    "client.reconnect": CLIENT_OPTIONS,
    "client.unix_reconnect": CLIENT_OPTIONS,
    "server.serve": SERVER_OPTIONS,
    "server.unix_serve": SERVER_OPTIONS,
    "router.route": SERVER_OPTIONS,
    "router.unix_route": SERVER_OPTIONS,
    "connection.Connection": CONNECTION_OPTIONS,
    "server.ServerConnection": CONNECTION_OPTIONS,
}
OPTION_TAKERS = [
    pytest.param(getattr(importlib.import_module(module), name), table, id=f"{front_end}.{taker}")
    for front_end in FRONT_ENDS
    for taker, table in TABLES.items()
    for module, name in [f"wsapi.{front_end}.{taker}".rsplit(".", 1)]
    if hasattr(importlib.import_module(module), name)
]


def described(thing: object) -> dict[str, str]:
    """Return what a docstring says of parameters, by name, in its order, each in one line."""
    arguments = re.search(r"Args:\n((?:    .*\n)+)", f"{inspect.getdoc(thing)}\n")
    if arguments is None:
        return {}
    entries = re.findall(r"(?m)^(\*{0,2}\w+): (.*(?:\n    .*)*)", textwrap.dedent(arguments[1]))
    return {name.lstrip("*"): " ".join(text.split()) for name, text in entries}


@pytest.mark.parametrize("taker, table", OPTION_TAKERS)
def test_signatures_agree_with_the_table(
    taker: Callable[..., Any], table: Mapping[str, Option]
) -> None:
    parameters = inspect.signature(taker).parameters
    assert {
        name: parameters[name].default for name in parameters.keys() & table.keys()
    } == options.defaults(table)
    assert {parameters[name].kind for name in table} == {inspect.Parameter.KEYWORD_ONLY}
    assert all(parameters[name].annotation is not inspect.Parameter.empty for name in parameters)


@pytest.mark.parametrize("taker, table", OPTION_TAKERS)
def test_docstrings_agree_with_the_table(
    taker: Callable[..., Any], table: Mapping[str, Option]
) -> None:
    texts = described(taker)
    if any("that aren't listed here" in text for text in texts.values()):
        texts = {name: texts.get(name, option.doc) for name, option in table.items()}
        texts["process_request"] = (
            table["process_request"].doc if "process_request" in table else ""
        )
    for name, option in table.items():
        assert texts[name] == option.doc, name


def documented_objects(module: str) -> Iterator[tuple[str, Any]]:
    home = importlib.import_module(module)
    for name, thing in vars(home).items():
        if not name.startswith("_") and getattr(thing, "__module__", None) == module:
            yield name, thing
            if inspect.isclass(thing):
                for attribute, method in vars(thing).items():
                    if not attribute.startswith("_") and inspect.isfunction(method):
                        yield f"{name}.{attribute}", method


@pytest.mark.parametrize("module", MODULES)
def test_parameters_are_documented(module: str) -> None:
    """What a docstring says of parameters, it says of all, in their order, and of no others."""
    for name, thing in documented_objects(module):
        texts = described(thing)
        if not texts:
            continue
        parameters = [name for name in inspect.signature(thing).parameters if name != "self"]
        if any("that aren't listed here" in text for text in texts.values()):
            parameters = [name for name in parameters if name in texts]
        assert list(texts) == parameters, name


def test_arguments() -> None:
    def paint(uri: str, *, size: int = 1, **kwargs: Any) -> dict[str, Any]:
        return options.arguments(locals())

    assert paint("it", size=2, colour="blue") == {"size": 2, "colour": "blue"}
    assert paint("it") == {"size": 1}


@pytest.mark.parametrize("taker, table", OPTION_TAKERS)
def test_what_editors_show(taker: Any, table: Mapping[str, Option]) -> None:
    """An editor that reads the source, and runs nothing, shows parameters, defaults, and text."""
    program = f"from {taker.__module__} import {taker.__name__}\n{taker.__name__}("
    signatures = jedi.Script(program).get_signatures(2, len(taker.__name__) + 1)
    assert signatures
    shown = {
        parameter.name: parameter.description
        for signature in signatures
        for parameter in signature.params
    }
    for name, option in table.items():
        assert re.fullmatch(rf"param {name}: .+=.+", shown[name], re.DOTALL), name
        if option.default is None or isinstance(option.default, bool):
            assert shown[name].endswith(f"={option.default}"), name
    source = Path(inspect.getsourcefile(taker) or "").read_text(encoding="utf-8")
    first_line = (inspect.getdoc(taker) or "").splitlines()[0]
    assert first_line in source
    names = jedi.Script(program).infer(1, len(f"from {taker.__module__} import {taker.__name__}"))
    assert any(first_line in name.docstring() for name in names)
