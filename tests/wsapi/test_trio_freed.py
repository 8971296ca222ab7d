"""Connections of trio are freed without the cyclic collector, however they ended."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from tests.wsapi.endings import ENDINGS, HANDSHAKE, Peer, fail, refuse
from tests.wsapi.helpers import collecting, logged_errors
from tests.wsapi.trio_helpers import serving, trio_test
from wsapi.http11 import Request
from wsapi.trio.client import ClientConnection, connect
from wsapi.trio.server import Server, ServerConnection

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


async def leave_nothing(use: Callable[[], Awaitable[object]], server: Server) -> None:
    """Check that nothing is left for the collector."""

    async def settle() -> None:
        while server._connections:
            await trio.sleep(0.001)
        await trio.testing.wait_all_tasks_blocked(0.002)

    await use()  # what is made once is there now
    await settle()
    with collecting() as found:
        for _ in range(2):
            await use()
        await settle()
    assert found == []


def port_of(uri: str) -> int:
    return int(uri.rstrip("/").rpartition(":")[2])


async def handler(ws: ServerConnection) -> None:
    """Use all there is, then end with the exception of the connection."""
    await (await ws.ping(ack_on_close=True)).wait()
    async for _ in ws:
        await ws.send("y")
    await ws.recv()


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
@trio_test
async def test_server(tls: Contexts, ending: str, secure: bool) -> None:
    data, how = ENDINGS[ending]

    def use(port: int) -> None:
        getattr(Peer(port, tls[1] if secure else None, data), how)()

    options: dict[str, Any] = {"ssl": tls[0]} if secure else {}
    async with serving(handler, close_timeout=0.2, **options) as (server, uri):
        port = port_of(uri)
        await leave_nothing(lambda: trio.to_thread.run_sync(use, port), server)


async def fails(ws: ServerConnection) -> None:
    raise ZeroDivisionError


async def aborts(ws: ServerConnection) -> None:
    await trio.aclose_forcefully(ws.stream)
    await ws.send("x")


async def is_cancelled(ws: ServerConnection) -> None:
    with trio.move_on_after(0.001):
        await ws.recv()
        await ws.recv()


async def drops_fragments(ws: ServerConnection) -> None:
    async for _ in ws.recv_streaming():
        break
    await ws.send(["a", "b"])


@pytest.mark.parametrize("handle", [handler, fails, aborts, is_cancelled, drops_fragments])
@trio_test
async def test_handlers(handle: Any) -> None:
    async with serving(handle, close_timeout=0.2) as (server, uri):

        async def use() -> None:
            with contextlib.suppress(Exception):
                async with connect(uri, compression=None) as ws:
                    await ws.send("x")
                    await ws.recv()

        await leave_nothing(use, server)
    with contextlib.suppress(AssertionError):
        logged_errors()  # some of them fail


async def take_too_long(ws: ServerConnection, _request: Request) -> None:
    await trio.sleep(0.05)


@pytest.mark.parametrize("process_request", [refuse, fail, take_too_long])
@trio_test
async def test_opening_handshakes_of_servers(process_request: Any) -> None:
    options: dict[str, Any] = {"process_request": process_request, "open_timeout": 0.02}
    async with serving(handler, **options) as (server, uri):
        port = port_of(uri)

        async def use() -> None:
            def block() -> None:
                Peer(port, None, HANDSHAKE).read_to_end()

            await trio.to_thread.run_sync(block)

        await leave_nothing(use, server)
    with contextlib.suppress(AssertionError):
        logged_errors()  # some of them fail


async def use_after_the_end(ws: ClientConnection) -> None:
    for use in (ws.recv, lambda: ws.send("x"), ws.ping, ws.pong, ws.aclose):
        with contextlib.suppress(Exception):
            await use()


@pytest.mark.parametrize("ending", ["close", "cancelled", "closed by the server"])
@trio_test
async def test_client(ending: str) -> None:
    async def handle(ws: ServerConnection) -> None:
        assert await ws.recv() == "x"
        if ending == "closed by the server":
            await ws.aclose(4000)
        await ws.wait_closed()

    async with serving(handle) as (server, uri):

        async def use() -> None:
            async with connect(uri, compression=None) as ws:
                await ws.send("x")
                with trio.move_on_after(0.001 if ending == "cancelled" else 10):
                    if ending == "close":
                        await ws.aclose()
                    with contextlib.suppress(Exception):
                        await ws.recv()
            await use_after_the_end(ws)

        await leave_nothing(use, server)
