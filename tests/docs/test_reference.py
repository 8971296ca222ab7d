"""The reference: every public name is on one of its pages."""

from __future__ import annotations

import importlib
import inspect
import re
import warnings

import pytest

from tests.docs import blocks
from tests.wsapi.test_documentation import public_modules, public_names

PAGES = sorted((blocks.DOCS / "reference").rglob("*.md"))
DIRECTIVE = re.compile(r"^::: ([\w.]+)\n((?:    .*\n)*)", re.MULTILINE)

pytestmark = pytest.mark.skipif(not PAGES, reason="the documents are not beside the tests")


@pytest.fixture(autouse=True)
def deprecated_modules_too() -> object:
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        yield


def members(module: str, options: str) -> list[str]:
    """Return the names of a module that a directive shows."""
    if listed := re.search(r"members: \[(.*)\]", options):
        return listed[1].replace(" ", "").split(",")
    if listed := re.search(r"members:\n((?: +- \w+\n)+)", options):
        return re.findall(r"- (\w+)", listed[1])
    return public_names(module)


def shown() -> list[str]:
    """Return all names that the pages show, each with its module."""
    names = []
    for page in PAGES:
        for module, options in DIRECTIVE.findall(page.read_text(encoding="utf-8")):
            assert importlib.import_module(module)
            names += [f"{module}.{name}" for name in members(module, options)]
    return names


def test_pages_show_names_that_there_are() -> None:
    names = shown()
    assert len(set(names)) == len(names)
    assert [name for name in names if not hasattr(*_split(name))] == []


def _split(name: str) -> tuple[object, str]:
    module, _, attribute = name.rpartition(".")
    return importlib.import_module(module), attribute


def test_every_public_name_is_shown() -> None:
    names = set(shown())
    things = {id(getattr(*_split(name))) for name in names}
    missing = []
    for module in public_modules():
        home = importlib.import_module(module)
        for name in public_names(module):
            thing = getattr(home, name)
            # A constant is shown in one module at least under this name.
            elsewhere = any(each.rpartition(".")[2] == name for each in names)
            if f"{module}.{name}" in names or inspect.ismodule(thing):
                continue
            if id(thing) not in things or not (callable(thing) or elsewhere):
                missing.append(f"{module}.{name}")
    assert [name for name in missing if not name.endswith(".__version__")] == []


def test_every_public_module_is_listed() -> None:
    text = (blocks.DOCS / "reference" / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`([\w.]+)`", text))
    packages = {"wsapi.asyncio", "wsapi.sync", "wsapi.trio"}
    assert set(public_modules()) - packages - listed == set()
    assert {name for name in listed if re.match(r"(wsapi|wsproto_fast)\.", name)} <= set(
        public_modules()
    )
