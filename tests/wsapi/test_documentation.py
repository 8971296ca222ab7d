"""Public signatures and docstrings: complete, and in agreement with the table of options."""

import ast
import enum
import importlib
import inspect
import pkgutil
import re
import textwrap
import warnings
from asyncio import BufferedProtocol
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jedi
import pytest

import wsapi
import wsproto_fast
from wsapi._shared import options
from wsapi._shared.options import CLIENT_OPTIONS, CONNECTION_OPTIONS, SERVER_OPTIONS, Option
from wsproto_fast._loading import MODULES as COMPILED_MODULES

FRONT_ENDS = ["asyncio", "sync", "trio"]
MODULES = [
    f"wsapi.{front_end}.{name}"
    for front_end in FRONT_ENDS
    for name in ("client", "connection", "router", "server", "typed")
] + ["wsapi.codecs"]
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


# ---------------------------------------------------------------------- all that is public

PACKAGES = (wsapi, wsproto_fast)
PARAMETERS_OF = re.compile(r"[Pp]arameters (?:are those of|(?:and exceptions )?as in) ``(\w+)``")
MADE_BY = re.compile(r"``[\w.()]+`` makes (?:it|them)|Made by ``")
UNTOLD = {"AssertionError", "AttributeError", "NotImplementedError", "StopIteration"}


def public_modules() -> Iterator[str]:
    names = set(COMPILED_MODULES)  # in one file, where pkgutil doesn't look
    for package in PACKAGES:
        names.add(package.__name__)
        found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        names.update(module.name for module in found)
    yield from sorted(
        name for name in names if not any(part.startswith("_") for part in name.split("."))
    )


def public_names(module: str) -> list[str]:
    """Return the names of a module: those of ``__all__``, or else what it defines."""
    home = importlib.import_module(module)
    own = [
        name
        for name, thing in vars(home).items()
        if not name.startswith("_") and getattr(thing, "__module__", None) == module
    ]
    return list(getattr(home, "__all__", own))


@pytest.fixture(scope="module")
def public_objects() -> dict[str, tuple[Any, type | None]]:
    """Return functions, classes, and their public methods and properties, each under one name."""
    seen: set[int] = set()
    found: dict[str, tuple[Any, type | None]] = {}

    def add(name: str, thing: Any, home: type | None) -> None:
        if id(thing) not in seen:
            seen.add(id(thing))
            found[name] = thing, home

    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        for module in public_modules():
            for name in public_names(module):
                thing = getattr(importlib.import_module(module), name)
                if inspect.isroutine(thing):
                    add(f"{module}.{name}", thing, None)
                elif inspect.isclass(thing):
                    add(f"{module}.{name}", thing, None)
                    for home in thing.__mro__:
                        if not home.__module__.startswith(("wsapi", "wsproto_fast")):
                            continue
                        for attribute, member in vars(home).items():
                            if attribute.startswith("_") or hasattr(BufferedProtocol, attribute):
                                continue
                            if inspect.isroutine(member) or inspect.isdatadescriptor(member):
                                add(f"{module}.{name}.{attribute}", member, thing)
    return found


def described_parameters(doc: str) -> set[str]:
    """Return the parameters and attributes that a docstring describes."""
    names: set[str] = set()
    for section in re.findall(r"(?:Args|Attributes):\n((?:    .*\n|\n(?=    ))+)", f"{doc}\n"):
        names.update(re.findall(r"(?m)^\*{0,2}(\w+): ", textwrap.dedent(section)))
    return names


def docstring(thing: Any, home: type | None) -> str:
    """Return a docstring, with those that it refers to for parameters."""
    doc = inspect.getdoc(thing) or ""
    if inspect.isclass(thing):
        # The constructor may be that of a base class; fields of data classes may be.
        bases = [base for base in thing.__mro__[1:] if base.__module__.startswith("ws")]
        if "__init__" not in vars(thing) or PARAMETERS_OF.search(doc) or "__slots__" in vars(thing):
            doc = "\n\n".join([doc, *(inspect.getdoc(base) or "" for base in bases)])
    elif home is not None and (other := PARAMETERS_OF.search(doc)):
        doc += f"\n\n{inspect.getdoc(getattr(home, other[1]))}"
    return doc


def raised(thing: Any) -> set[str]:
    """Return the exceptions that a function itself raises, as far as its source tells."""
    try:
        source = textwrap.dedent(inspect.getsource(thing))
        [function] = ast.parse(source).body
    except (OSError, TypeError, SyntaxError):
        return set()  # compiled

    def walk(node: ast.AST, caught: frozenset[str]) -> Iterator[str]:
        if isinstance(node, ast.Raise) and node.exc is not None:
            exc = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if isinstance(exc, ast.Name) and exc.id[0].isupper() and exc.id not in caught:
                yield exc.id
        for field, value in ast.iter_fields(node):
            inside = caught
            if isinstance(node, ast.Try) and field == "body":
                types = [handler.type for handler in node.handlers if handler.type is not None]
                inside |= {
                    name.id
                    for each in types
                    for name in ast.walk(each)
                    if isinstance(name, ast.Name)
                }
            for child in value if isinstance(value, list) else [value]:
                if isinstance(
                    child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef
                ):
                    continue
                if isinstance(child, ast.AST):
                    yield from walk(child, inside)

    return set(walk(function, frozenset())) - UNTOLD


def lacking(name: str, thing: Any, home: type | None) -> str | None:
    """Return what the documentation of something public lacks; None if nothing."""
    if isinstance(thing, staticmethod | classmethod):
        thing = thing.__func__
    doc = docstring(thing, home)
    if not inspect.isclass(thing) and not inspect.isroutine(thing):  # properties, attributes
        classes = home.__mro__ if home is not None else ()
        attributes = [described_parameters(inspect.cleandoc(cls.__doc__ or "")) for cls in classes]
        if doc.strip() or name.rpartition(".")[2] in set().union(*attributes):
            return None
        return "a docstring"
    if not doc.strip():
        return "a docstring"
    if inspect.isclass(thing) and (
        issubclass(thing, enum.Enum) or getattr(thing, "_is_protocol", False) or MADE_BY.search(doc)
    ):
        return None  # nobody calls it
    try:
        parameters = set(inspect.signature(thing).parameters)
    except ValueError:  # compiled, without one
        parameters = set()
    parameters = {each for each in parameters if not each.startswith("_")}
    missing = parameters - {"self", "cls", "args", "kwargs"} - described_parameters(doc)
    if missing and "that aren't listed here" not in doc:
        return f"parameters {sorted(missing)}"
    function = vars(thing).get("__init__") if inspect.isclass(thing) else thing
    listed = " ".join(re.findall(r"Raises:\n((?:    .*\n|\n(?=    ))+)", f"{doc}\n"))
    missing = raised(function) - set(re.findall(r"\w+", listed))
    return f"exceptions {sorted(missing)}" if missing else None


def test_public_names_are_documented(
    public_objects: dict[str, tuple[Any, type | None]],
) -> None:
    """They have a docstring, with all parameters, and with the exceptions that they raise."""
    assert len(public_objects) > 600
    found = {name: lacking(name, *public_objects[name]) for name in public_objects}
    assert not [f"{name} lacks {missing}" for name, missing in found.items() if missing]


def test_what_is_missing_shows() -> None:
    def function(size: int) -> None:
        """Do something.

        Args:
            other: Another one.
        """
        try:
            raise KeyError
        except KeyError:
            raise ValueError from None

    assert described_parameters(inspect.getdoc(function) or "") == {"other"}
    assert raised(function) == {"ValueError"}
