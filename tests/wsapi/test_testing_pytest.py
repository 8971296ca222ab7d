"""The pytest plugin, in runs of pytest of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ECHO = """

async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def test_server(ws_server):
    async with ws_server(echo, max_size=10) as server, server.connect() as connection:
        await connection.send("message")
        assert await connection.recv() == "message"
"""

ASYNCIO = """
import pytest

from wsapi.testing import Clock

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


async def test_pair(ws_pair):
    async with Clock() as clock, ws_pair(ping_interval=1) as (client, server):
        await clock.advance(1.5)
        assert client.stats().pings_sent == server.stats().pings_sent == 1


async def test_clock(ws_clock, ws_pair):
    async with ws_clock() as clock, ws_pair(ping_interval=1) as (client, server):
        await clock.advance(1.5)
        assert client.stats().pings_sent == 1
"""

# What asks for the fixtures is no coroutine function in these; what calls them is a coroutine.
GENERATED = """
import pytest
from hypothesis import HealthCheck, given, settings, strategies


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(strategies.binary())
async def test_generated(ws_pair, message):
    async with ws_pair() as (client, server):
        await client.send(message)
        assert await server.recv() == message


@pytest.fixture
async def served(anyio_backend, ws_server):
    async with ws_server(echo) as server:
        yield server


def test_fixture(served):
    assert served.server.is_serving() if hasattr(served.server, "is_serving") else served.server
"""

TRIO = """
import pytest
import trio.testing

from wsapi.testing.trio import advance

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "trio", {"clock": trio.testing.MockClock()}


async def test_pair(ws_pair):
    async with ws_pair(ping_interval=1) as (client, server):
        await advance(1.5)
        assert client.stats().pings_sent == server.stats().pings_sent == 1


async def test_clock(ws_clock):
    with pytest.raises(TypeError, match="MockClock"):
        ws_clock()
"""

THREADS = """
def echo(connection):
    for message in connection:
        connection.send(message)


connections = []


def test_server(ws_server):
    server = ws_server(echo)
    other = ws_server(echo, compression=None)
    with server.connect() as connection, other.connect():
        connection.send("message")
        assert connection.recv() == "message"


def test_pair(ws_pair):
    client, server = ws_pair()
    connections.extend((client, server))
    client.send("message")
    assert server.recv() == "message"


def test_clock(ws_clock, ws_pair):
    clock = ws_clock()
    client, server = ws_pair(ping_interval=1)
    clock.advance(1.5)
    assert client.stats().pings_sent == server.stats().pings_sent == 1
    connections.extend((client, server))


def test_pairs_end_with_their_test():
    assert [each.state.name for each in connections] == ["CLOSED"] * 4
"""

UNUSED = """
import sys


def test_nothing_is_imported():
    assert not {"wsapi", "wsproto_fast"} & set(sys.modules)
"""


def run(folder: Path, text: str, *words: str) -> str:
    (folder / "test_it.py").write_text(text, encoding="utf-8")
    arguments = ["-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *words]
    process = subprocess.run(
        [sys.executable, *arguments, "test_it.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_fixtures_on_asyncio(tmp_path: Path) -> None:
    pytest.importorskip("anyio", reason="pytest itself runs no coroutine functions")
    assert "3 passed" in run(tmp_path, ASYNCIO + ECHO)


def test_fixtures_for_what_is_no_coroutine_function(tmp_path: Path) -> None:
    for name in ("anyio", "trio"):
        pytest.importorskip(name, reason="pytest itself runs no coroutine functions")
    assert "5 passed" in run(tmp_path, ASYNCIO + ECHO + GENERATED)
    assert "5 passed" in run(tmp_path, TRIO + ECHO + GENERATED)


def test_fixtures_on_trio(tmp_path: Path) -> None:
    for name in ("anyio", "trio"):
        pytest.importorskip(name, reason="pytest itself runs no coroutine functions")
    assert "3 passed" in run(tmp_path, TRIO + ECHO)


def test_fixtures_for_threads(tmp_path: Path) -> None:
    assert "4 passed" in run(tmp_path, THREADS)


def test_unused_fixtures_import_nothing(tmp_path: Path) -> None:
    assert "1 passed" in run(tmp_path, UNUSED)


def test_fixtures_are_listed_with_their_documentation(tmp_path: Path) -> None:
    output = run(tmp_path, UNUSED, "--fixtures")
    for name in ("ws_server", "ws_pair", "ws_clock"):
        assert name in output
    assert "Serve a handler" in output
