"""Clients and servers for tests on trio, connected in memory.

Time is that of the run: with ``trio.testing.MockClock``, it passes when a test says so, also for
what is under way on a ``Wire``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self

import trio
import trio.testing

from wsproto_fast.uri import WebSocketURI

from ..trio.client import ClientConnection, connect
from ..trio.server import Handler, Server, ServerConnection, serve
from . import _common
from ._common import URI, MemoryClient, prepared, refuse
from ._streams import connected
from ._wires import Link, Wire, link

__all__ = ["Link", "MemoryConnect", "Pair", "Serving", "Wire", "advance", "link", "pair", "serving"]

_USELESS = {"host", "port", "listeners", "ssl", "backlog", "task_status"}


class _Listener(trio.abc.Listener[trio.abc.Stream]):
    """Gives a server the streams that clients bring."""

    served = False

    def __init__(self) -> None:
        self.streams, self._arrivals = trio.open_memory_channel[trio.abc.Stream](math.inf)

    async def accept(self) -> trio.abc.Stream:
        return await self._arrivals.receive()

    async def aclose(self) -> None:
        self._arrivals.close()
        await trio.lowlevel.checkpoint()


async def advance(seconds: float) -> None:
    """Let time pass on a ``MockClock``: what is due happens in its order, each at its time.

    ``MockClock.jump`` has all of it happen at the end. When this returns, all tasks wait.

    Args:
        seconds: How much time passes; 0 or more.

    Raises:
        ValueError: If that is negative, or not finite.
        RuntimeError: If the run has another clock.
    """
    if not 0 <= seconds < math.inf:
        raise ValueError(f"seconds must be 0 or more, and finite; got {seconds}")
    clock = trio.lowlevel.current_clock()
    if not isinstance(clock, trio.testing.MockClock):
        raise RuntimeError("advance() needs trio.run(..., clock=trio.testing.MockClock())")
    end = trio.current_time() + seconds
    await trio.testing.wait_all_tasks_blocked()
    while (step := trio.lowlevel.current_statistics().seconds_to_next_deadline) <= (
        left := end - trio.current_time()
    ):
        clock.jump(max(step, 0))
        await trio.testing.wait_all_tasks_blocked()
    clock.jump(max(left, 0))
    await trio.testing.wait_all_tasks_blocked()


async def _gracefully(done: trio.Event) -> None:
    """Wait for an end as long as it may take; on a clock that stands still, while anything runs."""
    if isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock):
        await trio.testing.wait_all_tasks_blocked()
    else:
        with trio.move_on_after(_common.GRACE):
            await done.wait()


class MemoryConnect(MemoryClient, connect):
    """What connects to a server in memory. Made by ``Serving.connect``.

    It is used as ``wsapi.trio.client.connect`` is: ``async with`` or ``async for``.
    """

    _listener: _Listener

    async def _open_stream(self, uri: WebSocketURI) -> trio.abc.Stream:
        if not self._listener.served:
            raise ConnectionRefusedError("the server isn't served: enter it by `async with`")
        left, right = connected(*self._take_wires())
        try:
            self._listener.streams.send_nowait(right)
        except trio.BrokenResourceError:
            raise ConnectionRefusedError("the server is closed") from None
        await trio.lowlevel.checkpoint()
        return left


class Serving:
    """A server in memory. Made by ``serving``.

    Attributes:
        server: The server, as ``nursery.start(serve, ...)`` returns it.
    """

    server: Server

    def __init__(self, handler: Handler, options: Mapping[str, Any]) -> None:
        self._listener = _Listener()
        self._serve = partial(serve, handler, listeners=[self._listener], **options)

    async def __aenter__(self) -> Self:
        if self._listener.served:
            raise RuntimeError("a server can be entered once: make another one")
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        try:
            self.server = await self._nursery.start(self._serve)
        except BaseException:
            await self._manager.__aexit__(None, None, None)
            raise
        self._listener.served = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            closed = trio.Event()
            self._nursery.start_soon(self._close, closed)
            await _gracefully(closed)
        finally:
            self._nursery.cancel_scope.cancel()
            await self._manager.__aexit__(None, None, None)

    async def _close(self, closed: trio.Event) -> None:
        await self.server.aclose()
        closed.set()

    def connect(
        self,
        uri: str = URI,
        *,
        outgoing: Wire | None = None,
        incoming: Wire | None = None,
        **options: Any,
    ) -> MemoryConnect:
        """Connect a client, as ``wsapi.trio.client.connect`` does: ``async with``, ``async for``.

        Args:
            uri: URI of the request; whatever its host, there is no other server. TLS is left out
                of ``wss://``.
            outgoing: Wire from the client to the server; a new one by default. With
                ``async for``, it is that of the first connection.
            incoming: Wire from the server to the client.
            **options: Those of ``wsapi.trio.client.connect``, but for those of sockets and TLS.

        Raises:
            TypeError, ValueError: If an option isn't acceptable.
            ConnectionRefusedError: From the result, if the server is closed.
        """
        connecting = prepared(MemoryConnect(uri, **options), outgoing, incoming)
        connecting._listener = self._listener
        return connecting


def serving(handler: Handler, **options: Any) -> Serving:
    """Serve in memory, without sockets: ``async with serving(handler) as place:``.

    ``place.connect(...)`` connects clients: real connections, with their opening handshake. At the
    end of the block they are closed with 1001. What hasn't ended a second later is cancelled; with
    a ``MockClock``, what hasn't when all tasks wait.

    Args:
        handler: Handler of a server.
        **options: Those of ``wsapi.trio.server.serve``, but for those of sockets and TLS.

    Raises:
        ValueError: If an option has no use in memory.
    """
    refuse(_USELESS & options.keys())
    return Serving(handler, options)


class Pair:
    """A client and a server. Made by ``pair``."""

    def __init__(self, uri: str, client: Mapping[str, Any], server: Mapping[str, Any]) -> None:
        self._uri = uri
        self._options = client
        self._arrived = trio.Event()
        self._left = trio.Event()
        self._serving = serving(self._handle, **server)

    async def _handle(self, connection: ServerConnection) -> None:
        self._connection = connection
        self._arrived.set()
        await self._left.wait()

    async def __aenter__(self) -> tuple[ClientConnection, ServerConnection]:
        place = await self._serving.__aenter__()
        try:
            self._client = place.connect(self._uri, **self._options)
            self._connected = await self._client.__aenter__()
            async with AsyncExitStack() as stack:
                stack.push_async_exit(self._client)
                await self._arrived.wait()
                stack.pop_all()
        except BaseException:
            self._left.set()  # the server may have accepted what the client doesn't take
            await self._serving.__aexit__(None, None, None)
            raise
        return self._connected, self._connection

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        closed = trio.Event()
        self._left.set()
        try:
            self._serving._nursery.start_soon(self._give_up, closed)
            await self._client.__aexit__(None, None, None)
        finally:
            closed.set()
            await self._serving.__aexit__(None, None, None)

    async def _give_up(self, closed: trio.Event) -> None:
        """Abort the client when its closing takes too long."""
        await _gracefully(closed)
        if not closed.is_set():
            self._connected._abort()


def pair(
    uri: str = URI,
    *,
    client: Mapping[str, Any] | None = None,
    server: Mapping[str, Any] | None = None,
    **options: Any,
) -> Pair:
    """Connect a client and a server: ``async with pair() as (client, server):``.

    Both are real connections, after their opening handshake. At the end of the block they are
    closed, or else aborted.

    Args:
        uri: URI of the request.
        client: Options of ``wsapi.trio.client.connect``, and ``outgoing`` and ``incoming`` as for
            ``Serving.connect``.
        server: Options of ``wsapi.trio.server.serve``.
        **options: Options of both.

    Raises:
        ValueError: If an option of the server has no use in memory.
    """
    return Pair(uri, {**options, **(client or {})}, {**options, **(server or {})})
