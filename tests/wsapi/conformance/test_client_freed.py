"""What is left of an opening handshake of a client that fails: nothing in cycles."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import pytest

from tests.wsapi.conformance.driver import HOST, Driver
from tests.wsapi.conformance.raw import RawPeer
from tests.wsapi.helpers import collecting

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


async def fail(driver: Driver, uri: str, **options: Any) -> None:
    """Fail to connect; keep nothing of it."""
    for _ in range(3):
        try:
            await driver.attempt(uri, **options)
        except Exception:
            pass
        else:
            raise AssertionError("it didn't fail")
        await driver.settle()


ANSWERS = {
    "refused": b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n",
    "redirected": b"HTTP/1.1 302 There\r\nLocation: http://h/\r\nContent-Length: 0\r\n\r\n",
    "no HTTP": b"SSH-2.0\r\n\r\n",
    "no WebSocket": b"HTTP/1.1 101 Other\r\n\r\n",
    "cut off": b"HTTP/1.1 ",
    "closed": b"",
    "reset": None,
}


@pytest.mark.parametrize("way", ["direct", "tls", "http", "socks5h"])
@pytest.mark.parametrize("name", ANSWERS)
async def test_answers(driver: Driver, tls: Contexts, name: str, way: str) -> None:
    answer = ANSWERS[name]

    async def behave(peer: RawPeer) -> None:
        await peer.read_exactly(3)
        await driver.settle()
        if answer is None:
            peer.reset()
        else:
            await peer.send(answer)

    server: dict[str, Any] = {"tls": tls[0]} if way == "tls" else {}
    async with driver.raw_server(behave, handshake=False, **server) as raw:
        uri, options = f"ws://{HOST}:{raw.port}/", {}
        if way == "tls":
            uri, options = f"wss://localhost:{raw.port}/", {"ssl": tls[1]}
        elif way != "direct":
            uri, options = "ws://h.test/", {"proxy": f"{way}://{HOST}:{raw.port}"}
        await fail(driver, uri, **options)  # what is made once is there now
        with collecting() as found:
            await fail(driver, uri, **options)
        assert found == []


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_silence(driver: Driver, scheme: str) -> None:
    with socket.create_server((HOST, 0)) as sock:
        uri = f"{scheme}://{HOST}:{sock.getsockname()[1]}/"
        await fail(driver, uri, open_timeout=0.01)
        with collecting() as found:
            await fail(driver, uri, open_timeout=0.01)
    # uvloop's TLS and the timer of its handshake refer to each other, and to this: all that
    # they know of ours.
    assert [thing for thing in found if "StandIn" not in thing] == []


async def test_untrusted(driver: Driver, tls: Contexts) -> None:
    async def behave(peer: RawPeer) -> None:
        raise AssertionError

    async with driver.raw_server(behave, tls=tls[0]) as server:
        uri = server.uri(host="localhost", tls=True)
        await fail(driver, uri)
        with collecting() as found:
            await fail(driver, uri)
    assert found == []


async def test_policy_of_iterator(driver: Driver) -> None:
    async def behave(peer: RawPeer) -> None:
        await peer.read_head()
        await peer.send(ANSWERS["refused"] or b"")

    async def iterate(target: Any) -> None:
        try:
            async with driver.reconnecting(target) as connections:
                async for _ in connections:
                    raise AssertionError
        except Exception:
            pass
        await driver.settle()

    async with driver.raw_server(behave, handshake=False) as raw:
        await iterate(raw)
        with collecting() as found:
            await iterate(raw)
        assert found == []
