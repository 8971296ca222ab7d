"""Each test with an argument ``driver`` runs on every front-end, unless a mark says why not."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
from typing import Any

import pytest

from tests.wsapi.helpers import LOOPS

# Where the drivers are, and what has to be installed for each.
DRIVERS = {
    "asyncio": ("on_asyncio", "AsyncioDriver", "asyncio"),
    "uvloop": ("on_asyncio", "UvloopDriver", "uvloop"),
    "trio": ("on_trio", "TrioDriver", "trio"),
    "sync": ("on_threads", "ThreadsDriver", "threading"),
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "not_on(name, ..., reason): the case can't exist on these front-ends"
    )
    config.addinivalue_line(
        "markers", "fake_time: time stands still; not on uvloop, which keeps its own"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "driver" not in metafunc.fixturenames:
        assert not inspect.iscoroutinefunction(metafunc.function), "who should run it?"
        return
    excluded: set[str] = set()
    for mark in metafunc.definition.iter_markers("not_on"):
        assert mark.kwargs["reason"]
        excluded.update(mark.args)
    if "asyncio" in excluded or metafunc.definition.get_closest_marker("fake_time"):
        excluded.add("uvloop")
    names = [name for name in DRIVERS if name not in excluded]
    metafunc.parametrize("driver", names, indirect=True)


@pytest.fixture
def driver(request: pytest.FixtureRequest) -> Any:
    module, name, needed = DRIVERS[request.param]
    if importlib.util.find_spec(needed) is None or (needed == "uvloop" and needed not in LOOPS):
        pytest.skip(f"{needed} isn't installed")
    chosen = getattr(importlib.import_module(f"tests.wsapi.conformance.{module}"), name)()
    chosen.fake_time = request.node.get_closest_marker("fake_time") is not None
    return chosen


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    arguments["driver"].run(pyfuncitem.obj(**arguments))
    return True
