"""Clients and servers for tests on trio, connected in memory.

Time is that of the run: with ``trio.testing.MockClock``, it passes when a test says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

import trio
import trio.testing

from wsproto_fast.uri import WebSocketURI

from ..trio.client import ClientConnection, connect
from ..trio.server import Handler, Server, ServerConnection, serve

__all__ = ["MemoryConnect", "Pair", "Serving", "pair", "serving"]

URI = "ws://localhost/"

_USELESS = {"host", "port", "listeners", "ssl", "backlog", "task_status"}


class _Listener(trio.abc.Listener[trio.abc.Stream]):
    """Gives a server the streams that clients bring."""

    def __init__(self) -> None:
        self.streams, self._arrivals = trio.open_memory_channel[trio.abc.Stream](math.inf)

    async def accept(self) -> trio.abc.Stream:
        return await self._arrivals.receive()

    async def aclose(self) -> None:
        self._arrivals.close()
        await trio.lowlevel.checkpoint()


class MemoryConnect(connect):
    """What connects to a server in memory. Made by ``Serving.connect``.

    It is used as ``wsapi.trio.client.connect`` is: ``async with`` or ``async for``.
    """

    _listener: _Listener

    def _gate_key(self, uri: WebSocketURI) -> str | None:
        return uri.host

    async def _open_stream(self, uri: WebSocketURI) -> trio.abc.Stream:
        left, right = trio.testing.memory_stream_pair()
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
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        try:
            self.server = await self._nursery.start(self._serve)
        except BaseException:
            await self._manager.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._nursery.start_soon(self.server.aclose)
            await trio.testing.wait_all_tasks_blocked()
        finally:
            self._nursery.cancel_scope.cancel()
            await self._manager.__aexit__(None, None, None)

    def connect(self, uri: str = URI, **options: Any) -> MemoryConnect:
        """Connect a client, as ``wsapi.trio.client.connect`` does: ``async with``, ``async for``.

        Args:
            uri: URI of the request; whatever its host, there is no other server. TLS is left out
                of ``wss://``.
            **options: Those of ``wsapi.trio.client.connect``, but for those of sockets and TLS.

        Raises:
            TypeError, ValueError: If an option isn't acceptable.
            ConnectionRefusedError: From the result, if the server is closed.
        """
        connecting = MemoryConnect(uri, **options)
        if connecting._options:
            raise ValueError(f"in memory there is no use for {', '.join(connecting._options)}")
        connecting._listener = self._listener
        return connecting


def serving(handler: Handler, **options: Any) -> Serving:
    """Serve in memory, without sockets: ``async with serving(handler) as place:``.

    ``place.connect(...)`` connects clients: real connections, with their opening handshake. At the
    end of the block they are closed with 1001. What hasn't ended when all tasks wait is cancelled.

    Args:
        handler: Handler of a server.
        **options: Those of ``wsapi.trio.server.serve``, but for those of sockets and TLS.

    Raises:
        ValueError: If an option has no use in memory.
    """
    if useless := _USELESS & options.keys():
        raise ValueError(f"in memory there is no use for {', '.join(sorted(useless))}")
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
            client = await self._client.__aenter__()
        except BaseException:
            await self._serving.__aexit__(None, None, None)
            raise
        self._connected = client
        await self._arrived.wait()
        return client, self._connection

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        closed = trio.CancelScope()
        self._left.set()
        try:
            self._serving._nursery.start_soon(self._give_up, closed)
            await self._client.__aexit__(None, None, None)
        finally:
            closed.cancel()
            await self._serving.__aexit__(None, None, None)

    async def _give_up(self, closed: trio.CancelScope) -> None:
        """Abort the client when its closing would have to wait for time to pass."""
        with closed:
            await trio.testing.wait_all_tasks_blocked()
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
        client: Options of ``wsapi.trio.client.connect``.
        server: Options of ``wsapi.trio.server.serve``.
        **options: Options of both.

    Raises:
        ValueError: If an option of the server has no use in memory.
    """
    return Pair(uri, {**options, **(client or {})}, {**options, **(server or {})})
