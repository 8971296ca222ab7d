"""The end, while there is something to write that the peer doesn't read.

However a connection ends, and whoever begins: it is gone within ``close_timeout``, and with it who
waits for it.
"""

from __future__ import annotations

import contextlib
import gc
import ssl
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Ws, until_closed
from tests.wsapi.conformance.raw import RawPeer, SecurePeer
from tests.wsapi.helpers import CLOSE, close_payload, frame, request
from wsapi.exceptions import ConnectionClosed
from wsapi.http11 import Request, Response
from wsapi.protocol import State

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]

# More than the operating system takes while the peer doesn't read.
MUCH = bytes(2**24)

CLOSE_FRAME = close_payload(1000)


async def stay(peer: RawPeer) -> None:
    """Do nothing."""


async def half_close(peer: RawPeer) -> None:
    if isinstance(peer, SecurePeer):
        await peer.say_goodbye()
    peer.write_eof()


async def half_close_tcp(peer: RawPeer) -> None:
    peer.write_eof()


async def close(peer: RawPeer) -> None:
    await peer.write(CLOSE, CLOSE_FRAME)


async def close_and_half_close(peer: RawPeer) -> None:
    await peer.write(CLOSE, CLOSE_FRAME)
    await half_close(peer)


async def be_wrong_and_half_close(peer: RawPeer) -> None:
    await peer.send(b"\xff\xff")
    await half_close(peer)


async def half_close_in_a_frame(peer: RawPeer) -> None:
    await peer.send(frame(2, bytes(100), masked=peer.masked)[:50])
    await half_close(peer)


async def reset(peer: RawPeer) -> None:
    peer.reset()


ENDINGS: list[Callable[[RawPeer], Awaitable[None]]] = [
    stay,
    half_close,
    half_close_tcp,
    close,
    close_and_half_close,
    be_wrong_and_half_close,
    half_close_in_a_frame,
    reset,
]

each_ending = pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.__name__)
plain_and_tls = pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])


async def perform(ending: Callable[[RawPeer], Awaitable[None]], peer: RawPeer) -> None:
    with contextlib.suppress(OSError):  # the connection may be gone already
        await ending(peer)


async def send_on(ws: Ws) -> None:
    while True:
        await ws.send(MUCH)


async def expect_the_end(
    driver: Driver, ws: Ws, peer: RawPeer, ending: Callable[[RawPeer], Awaitable[None]], first: str
) -> None:
    """End a connection from both sides while there is much to write."""
    sending = driver.spawn(send_on(ws))
    assert not await sending.ended(0.03)
    if first == "theirs":
        await perform(ending, peer)
        await driver.settle()
        await ws.close()
    else:
        closing = driver.spawn(ws.close())
        await driver.settle()
        await perform(ending, peer)
        await closing
    with pytest.raises(ConnectionClosed):
        await sending
    assert ws.state is State.CLOSED
    await ws.wait_closed()
    await ws.close()
    assert ws.protocol.next_timeout() is None


@each_ending
@plain_and_tls
@pytest.mark.parametrize("first", ["ours", "theirs"])
class TestUnsent:
    async def test_server(
        self,
        driver: Driver,
        tls: Contexts,
        ending: Callable[[RawPeer], Awaitable[None]],
        secure: bool,
        first: str,
    ) -> None:
        options = {"ssl": tls[0]} if secure else {}
        async with driver.serve(until_closed, close_timeout=0.03, **options) as server:
            async with driver.raw_client(server, tls=tls[1] if secure else None) as peer:
                ws = await server.connection()
                await expect_the_end(driver, ws, peer, ending, first)
                await server.close()

    async def test_client(
        self,
        driver: Driver,
        tls: Contexts,
        ending: Callable[[RawPeer], Awaitable[None]],
        secure: bool,
        first: str,
    ) -> None:
        peers: list[RawPeer] = []

        async def behave(peer: RawPeer) -> None:
            peers.append(peer)
            await peer.over.wait()

        async with driver.raw_server(behave, tls=tls[0] if secure else None) as server:
            options = {"ssl": tls[1]} if secure else {}
            uri = server.uri(host="localhost", tls=secure)
            ws = await driver.open(uri, close_timeout=0.03, **options)
            await driver.until(lambda: peers)
            await expect_the_end(driver, ws, peers[0], ending, first)


@each_ending
@plain_and_tls
async def test_server_closes(
    driver: Driver, tls: Contexts, ending: Callable[[RawPeer], Awaitable[None]], secure: bool
) -> None:
    """Nobody but the server closes the connection, and a handler is held up in sending."""
    handling = driver.event()

    async def handler(ws: Ws) -> None:
        handling.set()
        with contextlib.suppress(ConnectionClosed):
            await send_on(ws)

    options = {"ssl": tls[0]} if secure else {}
    async with driver.serve(handler, close_timeout=0.03, **options) as server:
        async with driver.raw_client(server, tls=tls[1] if secure else None) as peer:
            await handling.wait()
            await driver.sleep(0.03)
            await perform(ending, peer)
            await driver.settle()
            await server.close()
            assert not server.accepted


@plain_and_tls
@pytest.mark.parametrize(
    "ending", [stay, half_close, half_close_tcp, reset], ids=lambda ending: ending.__name__
)
async def test_refusal_that_is_not_read(
    driver: Driver, tls: Contexts, ending: Callable[[RawPeer], Awaitable[None]], secure: bool
) -> None:
    def refuse(ws: Ws, request: Request) -> Response:
        response: Response = ws.raw.respond(403, "")
        response.body = MUCH
        response.headers["Content-Length"] = str(len(MUCH))
        return response

    options: dict[str, Any] = {"ssl": tls[0]} if secure else {}
    options |= {"process_request": refuse, "close_timeout": 0.03}
    async with driver.serve(until_closed, **options) as server:
        async with driver.raw_client(server, b"", tls=tls[1] if secure else None) as peer:
            await peer.send(request())
            await driver.sleep(0.03)
            await perform(ending, peer)
            await driver.until(lambda: not server.accepted)
        async with driver.raw_client(server, b"", tls=tls[1] if secure else None) as peer:
            await peer.send(request())
            await driver.sleep(0.03)
            await perform(ending, peer)
            await server.close()
            assert not server.accepted


async def test_closed_by_process_request(driver: Driver) -> None:
    """The request isn't answered, and nobody waits for the end of ``open_timeout``."""

    async def process_request(ws: Ws, request: Request) -> None:
        await ws.close()
        await ws.close()
        assert ws.state is State.CLOSED

    async def handler(ws: Ws) -> None:
        raise AssertionError("there is no connection")

    async with driver.serve(handler, process_request=process_request, open_timeout=None) as server:
        assert await server.ask_bytes(request()) == b""
        await driver.until(lambda: not server.accepted)


async def test_closed_by_process_request_for_a_client_that_sends_on(driver: Driver) -> None:
    async def process_request(ws: Ws, request: Request) -> None:
        await ws.close()

    async with driver.serve(
        until_closed, process_request=process_request, open_timeout=None
    ) as server:
        assert await server.ask_bytes(request() + frame(2, bytes(1000), masked=True)) == b""
        await server.close()
        assert not server.accepted


async def test_nothing_is_due_after_the_end(driver: Driver) -> None:
    """No timer, alarm or entry of a schedule keeps a connection that is lost."""
    gone = []

    async def handler(ws: Ws) -> None:
        gone.append(weakref.ref(ws.raw))
        await ws.wait_closed()

    async with driver.serve(handler, ping_interval=3600, ping_timeout=3600) as server:
        for ending in (close, half_close, reset):
            async with driver.raw_client(server) as peer:
                await server.connection()
                await perform(ending, peer)
            await driver.until(lambda: not server.accepted)
        gc.collect()
        await driver.until(lambda: not any(reference() for reference in gone))
        assert len(gone) == 3
