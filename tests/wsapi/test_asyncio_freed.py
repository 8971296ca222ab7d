"""Connections are freed without the cyclic collector, however they ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.wsapi.endings import ENDINGS, HANDSHAKE, Peer, fail, refuse
from tests.wsapi.helpers import (
    collecting,
    logged_errors,
    port_of,
    serving,
    turns,
    until,
    uri_of,
)
from wsapi.asyncio.client import ClientConnection, connect
from wsapi.asyncio.connection import broadcast
from wsapi.asyncio.server import Server, ServerConnection
from wsapi.http11 import Request, Response

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


async def leave_nothing(use: Callable[[], Awaitable[object]], server: Server) -> None:
    """Check that nothing is left for the collector."""

    async def settle() -> None:
        await until(lambda: not server._connections and not server._handlers)
        await turns(5)

    await use()  # what is made once is there now
    await settle()
    with collecting() as found:
        for _ in range(2):
            await use()
        await settle()
    # What an event loop leaves of a TLS handshake that fails knows no more than this.
    assert [thing for thing in found if "StandIn" not in thing] == []


async def handler(ws: ServerConnection) -> None:
    """Use all there is, then end with the exception of the connection."""
    await (await ws.ping())
    broadcast([ws], "x")
    async for _ in ws:
        await ws.send("y")
    await ws.recv()


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
async def test_server(tls: Contexts, ending: str, secure: bool) -> None:
    data, how = ENDINGS[ending]

    def use(port: int) -> None:
        getattr(Peer(port, tls[1] if secure else None, data), how)()

    async with serving(handler, ssl=tls[0] if secure else None, close_timeout=0.2) as server:
        await leave_nothing(lambda: asyncio.to_thread(use, port_of(server)), server)


async def test_server_whose_client_does_not_do_tls(tls: Contexts) -> None:
    def use(port: int) -> None:
        Peer(port, None, HANDSHAKE).read_to_end()

    async with serving(handler, ssl=tls[0]) as server:
        await leave_nothing(lambda: asyncio.to_thread(use, port_of(server)), server)


class Broken:
    def encode(self, frame: Any) -> Any:
        raise ZeroDivisionError

    decode = encode


async def fails(ws: ServerConnection) -> None:
    raise ZeroDivisionError


async def breaks(ws: ServerConnection) -> None:
    ws.protocol.extensions = [Broken()]
    with contextlib.suppress(ZeroDivisionError):
        await ws.send("x")
    ws.protocol.extensions = []
    broadcast([ws], "x")


async def aborts(ws: ServerConnection) -> None:
    ws.transport.abort()
    await ws.send("x")


async def cancels_itself(ws: ServerConnection) -> None:
    ws.task.cancel()
    await ws.recv()


async def listens(ws: ServerConnection) -> None:
    def fail(message: Any) -> None:
        raise ZeroDivisionError

    ws.listen(fail)
    await ws.wait_closed()


async def drops_fragments(ws: ServerConnection) -> None:
    async for _ in ws.recv_streaming():
        break
    await ws.send(["a", "b"])


def runs_a_task(ws: ServerConnection) -> asyncio.Task[None]:
    return asyncio.ensure_future(handler(ws))


@pytest.mark.parametrize(
    "handle",
    [handler, fails, breaks, aborts, cancels_itself, listens, drops_fragments, runs_a_task],
)
async def test_handlers(handle: Any) -> None:
    async with serving(handle, close_timeout=0.2) as server:

        async def use() -> None:
            with contextlib.suppress(Exception):
                async with connect(uri_of(server), compression=None) as ws:
                    await ws.send("x")
                    await ws.recv()

        await leave_nothing(use, server)
    with contextlib.suppress(AssertionError):
        logged_errors()  # some of them fail


class OpenedByTask(ServerConnection):
    def handshake(self) -> asyncio.Task[None]:  # type: ignore[override]
        async def fail() -> None:
            raise ZeroDivisionError

        return asyncio.ensure_future(fail())


async def test_handshake_by_a_task_that_fails() -> None:
    logger = logging.Logger("quiet")  # a record would keep the exception
    logger.disabled = True
    async with serving(handler, create_connection=OpenedByTask, logger=logger) as server:

        async def use() -> None:
            with contextlib.suppress(Exception):
                await connect(uri_of(server))

        await leave_nothing(use, server)


async def fail_later(ws: ServerConnection, _request: Request) -> None:
    await asyncio.sleep(0)
    raise ExceptionGroup("several", [ZeroDivisionError, KeyError()])


def abort(ws: ServerConnection, _request: Request) -> None:
    ws.transport.abort()


def return_nonsense(ws: ServerConnection, _request: Request) -> Any:
    return 7


def return_what_cannot_be_sent(ws: ServerConnection, _request: Request) -> Response:
    response = ws.respond(403, "no")
    response.body = "no bytes"  # type: ignore[assignment] # wrong on purpose
    return response


async def take_too_long(ws: ServerConnection, _request: Request) -> None:
    await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "process_request",
    [
        refuse,
        fail,
        fail_later,
        abort,
        return_nonsense,
        return_what_cannot_be_sent,
        take_too_long,
    ],
)
async def test_opening_handshakes_of_servers(process_request: Any) -> None:
    async with serving(handler, process_request=process_request, open_timeout=0.02) as server:

        async def use() -> None:
            def block() -> None:
                Peer(port_of(server), None, HANDSHAKE).read_to_end()

            await asyncio.to_thread(block)

        await leave_nothing(use, server)
    with contextlib.suppress(AssertionError):
        logged_errors()  # some of them fail


async def use_after_the_end(ws: ClientConnection) -> None:
    for use in (ws.recv, lambda: ws.send("x"), ws.ping, ws.pong, ws.close, ws.drain):
        with contextlib.suppress(Exception):
            await use()
    with contextlib.suppress(Exception):
        ws.send_nowait("x")
    ws.logger.info("over")


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("ending", ["close", "abort", "cancelled", "closed by the server"])
async def test_client(tls: Contexts, ending: str, secure: bool) -> None:
    async def handle(ws: ServerConnection) -> None:
        assert await ws.recv() == "x"
        if ending == "closed by the server":
            await ws.close(4000)
        await ws.wait_closed()

    logging.getLogger("wsapi").setLevel(logging.INFO)
    async with serving(handle, ssl=tls[0] if secure else None) as server:
        uri = uri_of(server).replace("ws://127.0.0.1", "wss://localhost" if secure else "ws://h")
        options: dict[str, Any] = {"ssl": tls[1]} if secure else {}

        async def use() -> None:
            async with connect(uri, host="127.0.0.1", compression=None, **options) as ws:
                await ws.send("x")
                receiving = asyncio.create_task(ws.recv())
                await asyncio.sleep(0)
                if ending == "abort":
                    ws.transport.abort()
                elif ending == "cancelled":
                    receiving.cancel()
                elif ending == "close":
                    await ws.close()
                await asyncio.gather(receiving, return_exceptions=True)
                del receiving
            await use_after_the_end(ws)

        await leave_nothing(use, server)
    logging.getLogger("wsapi").setLevel(logging.NOTSET)


async def test_cancelled_connect() -> None:
    waiting: list[asyncio.Event] = []

    async def wait(_ws: ServerConnection, _request: Request) -> None:
        waiting.append(asyncio.Event())
        await waiting[0].wait()

    async with serving(handler, process_request=wait, close_timeout=0.2) as server:

        async def use() -> None:
            connecting = asyncio.ensure_future(connect(uri_of(server))._connect())
            await until(lambda: waiting)
            connecting.cancel()
            await asyncio.wait([connecting])
            waiting.pop().set()

        await leave_nothing(use, server)


async def test_server_that_closes() -> None:
    async def use() -> None:
        async with serving(handler) as server:
            async with connect(uri_of(server)) as ws:
                server.close()
                await ws.wait_closed()

    await use()
    await turns(5)
    with collecting() as found:
        await use()
        await turns(5)
    assert found == []
