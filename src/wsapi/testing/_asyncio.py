"""Clients and servers on an asyncio event loop that are connected in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, cast

from wsproto_fast import ClientProtocol, ServerProtocol
from wsproto_fast.drivers.clocked import ClockedClientProtocol, ClockedServerProtocol
from wsproto_fast.extensions.permessage_deflate import enable_server_permessage_deflate
from wsproto_fast.uri import WebSocketURI

from ..asgi import ASGIApplication, ASGIConnection
from ..asyncio.client import ClientConnection, connect
from ..asyncio.connection import Connection
from ..asyncio.server import (
    Handler,
    Server,
    ServerConnection,
    TransportOptions,
    protocol_factory,
    serve,
)
from . import _common
from ._clock import clock_of, takes_clock, time_of
from ._common import URI, MemoryClient, prepared, refuse
from ._lifespan import Lifespan
from ._memory import MemoryTransport, connected
from ._wires import Wire

__all__ = ["MemoryConnect", "Serving", "ServingASGI", "pair", "serving", "serving_asgi"]

# How long connections and handlers may take to end properly, in turns of an event loop whose clock
# stands still. Then connections are aborted, and handlers cancelled.
GRACE_TURNS = 1000

_logger = logging.getLogger("wsapi.testing")


async def _gracefully(future: asyncio.Future[Any]) -> bool:
    """Wait a little; return whether it is done."""
    clock = clock_of(future.get_loop())
    if clock is None:
        await asyncio.wait([future], timeout=_common.GRACE)
        return future.done()
    while True:
        for _ in range(GRACE_TURNS):
            if future.done():
                return True
            await asyncio.sleep(0)
        if not clock.wait_for_threads():
            return False


# ---------------------------------------------------------------------- clients


class MemoryConnect(MemoryClient, connect):
    """What connects to a server in memory; ``Serving.connect`` makes it.

    It is used as ``wsapi.connect`` is: ``await``, ``async with``, or ``async for``.
    """

    _accept: Callable[[asyncio.BaseProtocol, Wire, Wire], None]

    def _engine_class(self, uri: WebSocketURI, **options: Any) -> ClientProtocol:
        loop = asyncio.get_running_loop()
        if not takes_clock(loop):
            return ClientProtocol(uri, **options)
        protocol = ClockedClientProtocol(uri, **options)
        protocol.clock = time_of(loop)
        return protocol

    def _new_connection(self, uri: WebSocketURI, *carrier: object) -> ClientConnection:
        connection = super()._new_connection(uri, *carrier)
        _follow_loop(connection)
        return connection

    async def _open_transport(
        self, uri: WebSocketURI, connection: ClientConnection
    ) -> ClientConnection:
        self._accept(connection, *self._take_wires())
        return connection


def _follow_loop(connection: Connection) -> None:
    """Have a connection go by the time of its event loop, whether that has a clock or not."""
    if takes_clock(connection.loop):
        connection._now = time_of(connection.loop)  # type: ignore[method-assign] # of this one


# ---------------------------------------------------------------------- servers


class _Place:
    """Where clients connect to in memory."""

    def __init__(self) -> None:
        self._transports: list[MemoryTransport] = []

    def connect(
        self,
        uri: str = URI,
        *,
        outgoing: Wire | None = None,
        incoming: Wire | None = None,
        **options: Any,
    ) -> MemoryConnect:
        """Connect a client, as ``wsapi.connect`` does: ``await``, ``async with``, ``async for``.

        Args:
            uri: URI of the request; whatever its host, there is no other server. TLS is left out
                of ``wss://``.
            outgoing: Wire from the client to the server; a new one by default. With
                ``async for``, it is that of the first connection.
            incoming: Wire from the server to the client.
            **options: Those of ``wsapi.connect``, but for those of sockets and TLS.

        Raises:
            TypeError, ValueError: If an option isn't acceptable.
            ConnectionRefusedError: From the result, if the server is closed.
        """
        connecting = prepared(MemoryConnect(uri, **options), outgoing, incoming)
        connecting._accept = self._accept
        return connecting

    def _accept(self, client: asyncio.BaseProtocol, outgoing: Wire, incoming: Wire) -> None:
        transports = connected(client, self._new_protocol(), outgoing, incoming)
        self._transports = [each for each in self._transports if not each._losing]
        self._transports += transports

    def _new_protocol(self) -> asyncio.BaseProtocol:
        """Return the server's protocol for a new connection."""
        raise NotImplementedError

    def _abort(self) -> None:
        for transport in self._transports:
            transport.abort()

    async def _end(
        self, end: Coroutine[Any, Any, None], tasks: Callable[[], Iterable[asyncio.Task[None]]]
    ) -> None:
        """Wait for an end, as long as it may take; at once to the worst, if the test is cancelled.

        Args:
            end: What waits for it.
            tasks: Returns the tasks that it waits for.
        """
        ending = asyncio.ensure_future(end)
        try:
            if not await _gracefully(ending):
                self._abort()
                await _gracefully(ending)
        finally:
            self._abort()
            # More than once: what a handler does at its end may wait, for a time that nobody
            # advances.
            while not ending.done():
                for task in tasks():
                    task.cancel()
                await _gracefully(ending)
            await ending


class _Listener:
    """Stands for the ``asyncio.Server`` of a server in memory."""

    sockets = ()
    _serving = True

    def is_serving(self) -> bool:
        return self._serving

    async def start_serving(self) -> None:
        self._serving = True

    def close(self) -> None:
        self._serving = False

    async def wait_closed(self) -> None:
        """There is nothing to wait for."""


class Serving(_Place):
    """A server in memory. Made by ``serving``.

    Attributes:
        server: The server, as ``wsapi.serve`` returns it: to drain it, to look at its connections.
    """

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server

    async def __aenter__(self) -> Self:
        server = self.server
        server._create_server = self._listen
        settings = server._settings
        settings.engine_class = _new_server_engine
        create = settings.create_connection or ServerConnection

        def create_connection(*args: Any, **options: Any) -> ServerConnection:
            connection: ServerConnection = create(*args, **options)
            _follow_loop(connection)
            return connection

        settings.create_connection = create_connection
        await server
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        server = self.server
        server.close()
        await self._end(server.wait_closed(), server._handlers.waiting)

    @staticmethod
    async def _listen(server: Server) -> asyncio.Server:
        return cast(asyncio.Server, _Listener())

    def _new_protocol(self) -> asyncio.BaseProtocol:
        if not self.server.is_serving():
            raise ConnectionRefusedError("the server is closed")
        return protocol_factory(self.server)()


def _new_server_engine(**options: Any) -> ServerProtocol:
    loop = asyncio.get_running_loop()
    if not takes_clock(loop):
        return ServerProtocol(**options)
    protocol = ClockedServerProtocol(**options)
    protocol.clock = time_of(loop)
    return protocol


def serving(handler: Handler | Server, **options: Any) -> Serving:
    """Serve in memory, without sockets: ``async with serving(handler) as place:``.

    ``place.connect(...)`` connects clients: real connections, with their opening handshake. At the
    end of the block they are closed with 1001. What hasn't ended a second later, or at once if a
    ``Clock`` stands still or the test is cancelled, is aborted; handlers are cancelled, again if
    they don't end.

    Args:
        handler: Handler of a server; or a server that isn't started yet, such as ``wsapi.serve``
            and ``wsapi.route`` return it.
        **options: Those of ``wsapi.serve``, but for those of sockets and TLS; for a handler only.

    Raises:
        TypeError, ValueError: If an argument isn't acceptable.
    """
    if isinstance(handler, Server):
        if options:
            raise TypeError("options are for a handler; the server has its own")
        return Serving(handler)
    useless = {"host", "port", "sock", "ssl", "path", *TransportOptions.__annotations__}
    refuse(useless & options.keys())
    return Serving(serve(handler, **options))


@asynccontextmanager
async def pair(
    uri: str = URI,
    *,
    client: Mapping[str, Any] | None = None,
    server: Mapping[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[tuple[ClientConnection, ServerConnection]]:
    """Connect a client and a server: ``async with pair() as (client, server):``.

    Both are real connections, after their opening handshake. At the end of the block they are
    closed, or else aborted.

    Args:
        uri: URI of the request.
        client: Options of ``wsapi.connect``, and ``outgoing`` and ``incoming`` as for
            ``Serving.connect``.
        server: Options of ``wsapi.serve``.
        **options: Options of both.

    Raises:
        TypeError, ValueError: If an option isn't acceptable.
        InvalidHandshake: If the opening handshake fails.
    """
    arrived: asyncio.Future[ServerConnection] = asyncio.get_running_loop().create_future()

    async def handler(connection: ServerConnection) -> None:
        arrived.set_result(connection)
        await connection.wait_closed()

    async with serving(handler, **{**options, **(server or {})}) as place:
        left = await place.connect(uri, **{**options, **(client or {})})
        try:
            yield left, await arrived
        finally:
            closing = asyncio.ensure_future(left.close())
            if not await _gracefully(closing):
                place._abort()
                await closing


# ---------------------------------------------------------------------- ASGI


class _MemoryASGIConnection(ASGIConnection):
    """A connection of an ASGI application in memory."""

    tasks: set[asyncio.Task[None]]

    def task_started(self, task: asyncio.Task[None]) -> None:
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


class ServingASGI(_Place):
    """An ASGI application in memory. Made by ``serving_asgi``."""

    def __init__(self, app: ASGIApplication, root_path: str, options: Mapping[str, Any]) -> None:
        super().__init__()
        self._app = app
        self._root_path = root_path
        self._options = options
        self._lifespan = Lifespan(app)
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = False

    async def __aenter__(self) -> Self:
        await self._lifespan.start()
        self._open = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open = False
        for transport in self._transports:
            protocol = transport.get_protocol()
            if isinstance(protocol, ASGIConnection):
                protocol.shutdown()
        try:
            await self._end(self._wait_ended(), self._tasks.copy)
        finally:
            await self._lifespan.end()

    async def _wait_ended(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _new_protocol(self) -> asyncio.BaseProtocol:
        if not self._open:
            raise ConnectionRefusedError("the application isn't served")
        connection = _MemoryASGIConnection(
            self._app,
            _new_server_engine(extensions=enable_server_permessage_deflate(None), logger=_logger),
            log=_logger,
            root_path=self._root_path,
            lifespan_state=self._lifespan.state,
            **self._options,
        )
        connection.tasks = self._tasks
        _follow_loop(connection)
        return connection


def serving_asgi(app: ASGIApplication, *, root_path: str = "", **options: Any) -> ServingASGI:
    """Serve the WebSockets of an ASGI application in memory: ``async with serving_asgi(app)``.

    The application gets what ``wsapi.uvicorn.WebSocketProtocol`` gives it, on connections of the
    same kind; HTTP requests are for other tools. Its lifespan begins and ends with the block.

    Args:
        app: ASGI application, version 3, such as one of FastAPI or Starlette.
        root_path: Path at which it is mounted.
        **options: ``ping_interval``, ``ping_timeout``, ``close_timeout``, ``max_queue``, and
            ``write_limit``, as for ``wsapi.serve``.
    """
    return ServingASGI(app, root_path, options)
