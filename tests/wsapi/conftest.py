"""Coroutine functions are tests, too: each runs on every event loop there is."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from tests.wsapi.foreign import node_with_ws
from tests.wsapi.helpers import LOOPS, run


@pytest.fixture(scope="session")
def node() -> Path:
    """Give a directory where Node finds ``ws``."""
    return node_with_ws()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # The tests of all front-ends have a conftest.py of their own.
    if inspect.iscoroutinefunction(metafunc.function) and "driver" not in metafunc.fixturenames:
        metafunc.fixturenames.append("event_loop_name")
        metafunc.parametrize("event_loop_name", LOOPS)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    # Not in pyfuncitem.fixturenames, from which pytest drops what isn't the name of a fixture.
    if "event_loop_name" not in getattr(getattr(pyfuncitem, "callspec", None), "params", ()):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    run(pyfuncitem.obj(**arguments), LOOPS[pyfuncitem.callspec.params["event_loop_name"]])
    return True
