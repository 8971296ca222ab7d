"""Peers that are gone without a word, while nothing is read from them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Ws, until_closed
from tests.wsapi.conformance.raw import RawPeer
from tests.wsapi.helpers import PING, TEXT
from wsapi.protocol import State
from wsproto_fast.drivers import liveness

IN_NAMESPACE = "WSAPI_TEST_OWN_NETWORK"

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


class FakeInfo:
    """What stands for what Linux tells about a socket."""

    size = 60

    def __init__(self, *fields: int) -> None:
        self.fields = fields

    def unpack(self, info: bytes) -> tuple[int, ...]:
        assert len(info) == self.size
        return self.fields


@contextlib.asynccontextmanager
async def paused(
    driver: Driver, tls: Any = None, **options: Any
) -> AsyncIterator[tuple[Ws, RawPeer]]:
    """Connect a raw client with a server whose handler doesn't receive what it sent."""
    if tls is not None:
        options["ssl"] = tls[0]
    async with driver.serve(
        until_closed,
        max_queue=0,
        ping_interval=0.02,
        ping_timeout=0.02,
        close_timeout=0.02,
        **options,
    ) as server:
        async with driver.raw_client(server, tls=None if tls is None else tls[1]) as peer:
            ws = await server.connection()
            await peer.write(TEXT, b"x")
            await driver.until(lambda: ws.paused)
            yield ws, peer


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_peer_that_is_there(driver: Driver, tls: Any, secure: bool) -> None:
    async with paused(driver, tls if secure else None) as (ws, peer):
        # It isn't asked just once.
        for _ in range(8):
            assert (await peer.read_message())[0] == PING
        assert ws.state is State.OPEN
        assert await ws.recv() == "x"
        await ws.close()


@linux_only
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_peer_that_is_gone(
    driver: Driver, tls: Any, secure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "_INFO", FakeInfo(1, 0, 1, 30_000))
    async with paused(driver, tls if secure else None) as (ws, _):
        await ws.wait_closed()
        assert ws.close_code == 1006
        assert ws.protocol.close_sent is not None
        assert ws.protocol.close_sent.reason == "keepalive ping timeout"


async def test_peer_of_which_nothing_is_known(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "sys", SimpleNamespace(platform="elsewhere"))
    async with paused(driver) as (ws, peer):
        for _ in range(8):
            assert (await peer.read_message())[0] == PING
        assert ws.state is State.OPEN


def _in_a_network_of_its_own(*command: str) -> list[str]:
    return ["unshare", "--map-root-user", "--net", *command]


def _set_up(up: bool) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up" if up else "down"], check=True)


@linux_only
async def test_network_that_is_gone(driver: Driver) -> None:
    """The real thing, in a process that has a network of its own."""
    try:
        subprocess.run(
            _in_a_network_of_its_own("ip", "link", "set", "lo", "up"),
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError) as exc:
        pytest.skip(f"no network namespaces here: {exc}")
    test = f"{__file__}::test_in_a_network_of_its_own[{driver.name}]"
    done = await driver.in_thread(
        lambda: subprocess.run(
            _in_a_network_of_its_own(
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test)
            ),
            cwd=Path(__file__).parents[3],
            env=os.environ | {IN_NAMESPACE: "1"},
            capture_output=True,
            text=True,
        )
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.skipif(IN_NAMESPACE not in os.environ, reason="what test_network_that_is_gone runs")
async def test_in_a_network_of_its_own(driver: Driver) -> None:
    _set_up(True)
    async with paused(driver) as (ws, peer):
        for _ in range(8):
            assert (await peer.read_message())[0] == PING
        assert ws.state is State.OPEN
        _set_up(False)
        await ws.wait_closed()
        assert ws.protocol.close_sent.reason == "keepalive ping timeout"
        _set_up(True)
