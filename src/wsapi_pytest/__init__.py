"""The pytest plugin: fixtures that connect clients and servers in memory.

pytest imports it whenever it runs. Hence it is a package of its own: ``wsapi`` isn't imported
before a test asks for a fixture.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

__all__ = ["ws_clock", "ws_pair", "ws_server"]


@pytest.fixture
def ws_server(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Serve a handler: ``serving`` of the testing kit for asyncio, trio, or threads.

    A test that is a coroutine function enters what it returns: ``async with ws_server(handler) as
    server:``. For any other test, the server is there at once, ``server = ws_server(handler)``, for
    threads, and ends with the test.
    """
    yield from _of(request, "serving")


@pytest.fixture
def ws_pair(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Connect a client and a server: ``pair`` of the testing kit for asyncio, trio, or threads.

    A test that is a coroutine function enters what it returns: ``async with ws_pair() as (client,
    server):``. Any other test gets both at once, for threads: ``client, server = ws_pair()``.
    """
    yield from _of(request, "pair")


@pytest.fixture
def ws_clock(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Have time stand still: ``Clock`` of the testing kit for asyncio, or threads.

    A test that is a coroutine function enters what it returns: ``async with ws_clock() as clock:``.
    Any other test calls it before it has connections, ``clock = ws_clock()``. On trio, run the test
    with a ``trio.testing.MockClock``.
    """
    yield from _of(request, "Clock")


def _of(request: pytest.FixtureRequest, name: str) -> Iterator[Any]:
    """Yield a function of the kit, for the kind of test that wants it, or of who calls it.

    A test that Hypothesis has wrapped is no coroutine function, nor is one that only has coroutines
    as fixtures.
    """
    coroutine = inspect.iscoroutinefunction(inspect.unwrap(request.function))
    with ExitStack() as stack:

        def call(*args: Any, **options: Any) -> Any:
            if coroutine or _runs_on_trio() or _runs_on_asyncio():
                return _call(name, *args, **options)
            function = getattr(importlib.import_module("wsapi.testing.sync"), name)
            return stack.enter_context(function(*args, **options))

        yield call


def _call(name: str, *args: Any, **options: Any) -> Any:
    """Call a function of the kit for what runs the calling coroutine."""
    if not _runs_on_trio():
        return getattr(importlib.import_module("wsapi.testing"), name)(*args, **options)
    if name == "Clock":
        raise TypeError("on trio, time is that of the run: give it a trio.testing.MockClock")
    return getattr(importlib.import_module("wsapi.testing.trio"), name)(*args, **options)


def _runs_on_trio() -> bool:
    trio: Any = sys.modules.get("trio")
    try:
        trio.lowlevel.current_task()
    except (AttributeError, RuntimeError):
        return False  # it isn't imported, or doesn't run
    return True


def _runs_on_asyncio() -> bool:
    asyncio: Any = sys.modules.get("asyncio")
    try:
        asyncio.get_running_loop()
    except (AttributeError, RuntimeError):
        return False  # the same
    return True
