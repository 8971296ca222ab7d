"""Coroutine functions are tests, too: each runs on every event loop there is."""

from __future__ import annotations

import inspect
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wsapi.foreign import node_with_ws
from tests.wsapi.helpers import LOOPS, run
from tests.wsapi.sync_helpers import PATIENCE, RawPeer
from wsapi.protocol import Protocol, Side
from wsapi.sync.connection import Connection


@pytest.fixture(scope="session")
def node() -> Path:
    """Give a directory where Node finds ``ws``."""
    return node_with_ws()


@pytest.fixture(scope="session")
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a server called localhost and 127.0.0.1, and of clients that trust it."""
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


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


@pytest.fixture
def both_ends() -> Iterator[tuple[Connection, RawPeer]]:
    """Return a connection, as servers have them, and its peer."""
    ours, theirs = socket.socketpair()
    connection = Connection(ours, Protocol(Side.SERVER), close_timeout=PATIENCE)
    with theirs:
        yield connection, RawPeer(theirs, masked=True)
        theirs.close()
        assert connection.wait_closed(PATIENCE)
