"""Every name that the reference resolves, deprecated ones included: it is here, or a reason is.

Walks the installed reference: its root and its modules, whether they are documented or not.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import types
import warnings
from collections.abc import Iterator

import pytest

from wsapi import _names

reference = pytest.importorskip("websockets", reason="the reference isn't installed")

# What isn't here, and why. Patterns of names with their modules, which are given without the root.
INTERNAL = "how the reference does it; nothing of this kind is here"
REASONS = {
    r"imports(\..*)?|lazy_import|.*\.lazy_import": "machinery of imports",
    r"exceptions\.(frames|http11)|frames\.extensions": "modules that its modules import",
    r".*\.messages(\..*)?|.*\.Assembler": "messages are assembled in the engine: no connection "
    "would have such an object",
    r".*\.utils\..*|.*\.utils|.*\.(Deadline|race_events)": INTERNAL,
    r"cli\..*": "the command is another one",
    r".*\.(HTTPProxyConnection|SOCKS_PROXY_\w+|connect_(http|socks)_proxy"
    r"|(prepare|read)_connect_\w+)": INTERNAL,
    r".*\.(F|T|SSLSSLSocket|is_credentials)": "types and helpers of the reference's own code",
    r".*\._\w+": "private",
    r"headers\.(parse|build)_\w+|headers\.peek_ahead": "steps of its parsers",
    r"http11\.(parse_headers|parse_line|read_body|d|PYTHON_VERSION|websockets_version)": INTERNAL,
    r"datastructures\.is_valid_header_value|frames\.(is_\w+|apply_mask)|uri\.DELIMS": INTERNAL,
    r"legacy\.(framing|http)(\..*)?": "the other protocol of the reference, which isn't here",
    r"legacy\.(auth|client|exceptions|handshake|protocol|server)\..*": "legacy offers what is in "
    "__all__ there; its other names are of the other protocol",
}


def quietly(name: str) -> types.ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def modules() -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [module.name for module in pkgutil.walk_packages(reference.__path__, "websockets.")]
    names = ["", *(name.removeprefix("websockets.") for name in found)]
    return [name for name in names if not name.endswith("__main__")]


def names_of(module: types.ModuleType) -> Iterator[str]:
    """Yield names that are of the reference: not what it imports from elsewhere."""
    for name in dir(module):
        if name.startswith("__"):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = getattr(module, name)
        if isinstance(value, types.ModuleType):
            if not value.__name__.startswith("websockets"):
                continue
        elif inspect.isclass(value) or inspect.isroutine(value):
            if not (value.__module__ or "").startswith("websockets"):
                continue
        elif (getattr(value, "__module__", None) or "").split(".")[0] in (
            "typing",
            "collections",
            "__future__",
        ):
            continue
        yield name


def resolves(module: str, name: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            home = importlib.import_module(f"wsapi.{module}".rstrip("."))
            if hasattr(home, name):
                return True
            importlib.import_module(f"{home.__name__}.{name}")
    except ImportError:
        return False
    return True


@pytest.mark.parametrize("module", modules())
def test_names_are_here_or_have_a_reason(module: str) -> None:
    theirs = quietly(f"websockets.{module}".rstrip("."))
    unexplained = [
        full
        for name in names_of(theirs)
        if not resolves(module, name)
        and (full := f"{module}.{name}".lstrip("."))
        and not any(re.fullmatch(pattern, full) for pattern in REASONS)
    ]
    assert not unexplained


@pytest.mark.parametrize("pattern", REASONS)
def test_reasons_are_needed(pattern: str) -> None:
    for module in modules():
        for name in names_of(quietly(f"websockets.{module}".rstrip("."))):
            full = f"{module}.{name}".lstrip(".")
            if re.fullmatch(pattern, full) and not resolves(module, name):
                return
    raise AssertionError("everything of it is here")


# Names that the reference deprecates, of the root and of modules.
DEPRECATED = [
    (module, name)
    for module, homes in _names.DEPRECATED.items()
    for names in homes.values()
    for name in names
]


def warnings_of(package: str, module: str, name: str) -> list[str]:
    home = quietly(f"{package}.{module}".rstrip("."))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        getattr(home, name)
    assert all(warning.filename == __file__ for warning in caught)
    assert all(warning.category is DeprecationWarning for warning in caught)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("module, name", DEPRECATED)
def test_deprecated_names_warn_as_there(module: str, name: str) -> None:
    quietly("websockets.legacy")
    expected = warnings_of("websockets", module, name)
    assert len(expected) == 1
    found = warnings_of("wsapi", module, name)
    assert found == [text.replace("websockets.", "wsapi.") for text in expected]


def test_all_deprecated_names_are_known() -> None:
    """What the reference warns of when it is looked at, it warns of here."""
    quietly("websockets.legacy")
    for module in ("", "client", "server", "exceptions", "sync.server"):
        theirs = quietly(f"websockets.{module}".rstrip("."))
        for name in dir(theirs):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                getattr(theirs, name)
            if caught:
                assert warnings_of("wsapi", module, name), (module, name)


@pytest.mark.parametrize(
    "old, new", [("client.ClientConnection", "ClientProtocol"), ("server.ServerConnection", "")]
)
def test_renamed_protocols(old: str, new: str) -> None:
    module, _, name = old.partition(".")
    home = importlib.import_module(f"wsapi.{module}")
    present = new or "ServerProtocol"
    arguments = ()
    if module == "client":
        arguments = (importlib.import_module("wsapi.uri").parse_uri("ws://localhost/"),)
    with pytest.warns(DeprecationWarning, match=f"^{name} was renamed to {present}$"):
        engine = getattr(home, name)(*arguments)
    assert isinstance(engine, getattr(home, present))


@pytest.mark.parametrize("module", ["auth", "connection", "legacy"])
def test_deprecated_modules_warn_as_there(module: str) -> None:
    texts = []
    for package in ("websockets", "wsapi"):
        home = quietly(f"{package}.{module}")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            importlib.reload(home)
        texts.append([str(warning.message).replace("wsapi.", "websockets.") for warning in caught])
    assert texts[0] == texts[1] != []


def test_renamed_class_of_threads() -> None:
    home = importlib.import_module("wsapi.sync.server")
    with pytest.warns(DeprecationWarning, match="^WebSocketServer was renamed to Server$"):
        assert home.WebSocketServer is home.Server


def test_unknown_names() -> None:
    for module in ("", "client", "frames", "asyncio.server"):
        home = importlib.import_module(f"wsapi.{module}".rstrip("."))
        with pytest.raises(AttributeError, match=f"^module '{home.__name__}' has no attribute"):
            home.no_such_name  # noqa: B018 # it raises


def test_names_that_are_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is promised of another module, but gone there, is missing as any other name."""
    monkeypatch.setitem(_names.LENT, "uri", "Gone")
    home = importlib.import_module("wsapi.uri")
    with pytest.raises(AttributeError, match=r"^module 'wsapi.uri' has no attribute 'Gone'$"):
        home.Gone  # noqa: B018 # it raises
