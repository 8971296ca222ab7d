"""The pytest plugin: fixtures that connect clients and servers without a network.

pytest imports it whenever it runs. Hence it is a package of its own: ``wsapi`` isn't imported
before a test asks for a fixture.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

__all__ = ["ws_pair", "ws_server"]


@pytest.fixture
def ws_server(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Serve a handler: ``wsapi.testing.serving`` for coroutine functions, threads for others.

    A test that is a coroutine function enters what it returns: ``async with ws_server(handler) as
    server:``. For any other test, the server is there at once, ``server = ws_server(handler)``, and
    ends with the test.
    """
    yield from _of(request, "serving")


@pytest.fixture
def ws_pair(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Connect a client and a server: ``wsapi.testing.pair`` for coroutine functions, or threads.

    A test that is a coroutine function enters what it returns: ``async with ws_pair() as (client,
    server):``. Any other test gets both at once, ``client, server = ws_pair()``.
    """
    yield from _of(request, "pair")


def _of(request: pytest.FixtureRequest, name: str) -> Iterator[Any]:
    """Yield a function of the kit, for the kind of test that wants it."""
    if inspect.iscoroutinefunction(inspect.unwrap(request.function)):
        import wsapi.testing

        yield getattr(wsapi.testing, name)
        return
    import wsapi.testing.sync

    function = getattr(wsapi.testing.sync, name)
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(function(*args, **options))
