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
    if inspect.iscoroutinefunction(metafunc.function):
        metafunc.fixturenames.append("event_loop_name")
        metafunc.parametrize("event_loop_name", LOOPS)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    run(pyfuncitem.obj(**arguments), LOOPS[pyfuncitem.callspec.params["event_loop_name"]])
    return True
