"""WebSocket servers on an asyncio event loop."""

from __future__ import annotations

import asyncio
import socket
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeAlias, Unpack

from wsproto_fast import ServerProtocol
from wsproto_fast.frames import CloseCode
from wsproto_fast.http11 import Response
from wsproto_fast.typing import LoggerLike, PathLike

from .. import _checks
from .._basic_auth import basic_auth
from .._connection import ServerSide
from .._options import AnswerLater, ServerOptions, complete, documented, other_options
from .._server import BaseServer, ServerSettings, check_close, check_listening
from .connection import Connection, Options, WriteOptions, broadcast

__all__ = ["Server", "ServerConnection", "basic_auth", "broadcast", "serve", "unix_serve"]

# Programs know it by this module, although it works for connections of clients, too.
broadcast.__module__ = __name__

Handler: TypeAlias = "Callable[[ServerConnection], Awaitable[None]]"


class ServeOptions(ServerOptions["ServerConnection", AnswerLater], WriteOptions, total=False):
    """Options of ``serve``."""

    sock: socket.socket | None
    ssl: ssl_module.SSLContext | None
    ssl_handshake_timeout: float | None
    ssl_shutdown_timeout: float | None
    family: int
    flags: int
    backlog: int
    reuse_address: bool | None
    reuse_port: bool | None
    keep_alive: bool | None
    start_serving: bool
    cleanup_socket: bool


class _Options(ServeOptions, total=False):
    path: PathLike | None


@documented(Options)
class ServerConnection(ServerSide, Connection):
    """A connection accepted by a server.

    Args:
        {connection_args}
        server: Server that accepted the connection.
    """

    server: Server
    task: asyncio.Task[None]
    _opening = True

    def __init__(self, protocol: ServerProtocol, server: Server, **kwargs: Unpack[Options]) -> None:
        super().__init__(protocol, **kwargs)
        self.server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        server = self.server
        server._connections.add(self)
        self._set_timeouts(monotonic(), server._settings.open_timeout)
        self._pump.update()
        if server._closing is not None:
            # Its TLS handshake ended after the server was closed.
            self._respond(self._shutting_down())

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.server._connections.discard(self)

    def _update_opening(self) -> None:
        if self.request is None and self._receive_request():
            self.server._start_handler(self)

    async def handshake(self) -> None:
        """Answer the opening handshake."""
        server = self.server
        self._respond(await self._answer(server._settings, server._is_closing))

    def _respond(self, response: Response) -> None:
        self._pump.opening = False
        # A callback may have closed the transport.
        if not self._pump.is_gone() and self._send_response(response):
            self._pump.update()


@documented()
class Server(BaseServer[ServerConnection]):
    """A WebSocket server; what ``serve`` returns.

    Awaiting it or entering it as a context manager starts it; leaving the context closes it.

    Args:
        create_server: Coroutine function that is called with this object and returns an
            ``asyncio.Server``.
        handler: Coroutine function that is called with each open connection.
        logger: Logger; ``wsapi.server`` by default.
    """

    def __init__(
        self,
        create_server: Callable[[Server], Coroutine[Any, Any, asyncio.Server]],
        handler: Handler,
        logger: LoggerLike | None = None,
    ) -> None:
        super().__init__(handler, logger)
        self._create_server = create_server
        self._server: asyncio.Server | None = None
        self._handlers: set[asyncio.Task[None]] = set()
        self._settings: ServerSettings[ServerConnection]  # set by serve()
        self._closing: asyncio.Task[None] | None = None
        self._close_waiter: asyncio.Future[None] | None = None

    # ------------------------------------------------------------------ life cycle

    def __await__(self) -> Generator[Any, None, Self]:
        return self._start().__await__()

    async def _start(self) -> Self:
        if self._server is None:
            self._server = await self._create_server(self)
            for sock in self._server.sockets:
                self._log_listening(sock)
        return self

    async def __aenter__(self) -> Self:
        return await self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        await self.wait_closed()

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """Listening sockets."""
        return () if self._server is None else tuple(self._server.sockets)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop of the server."""
        return self._started().get_loop()

    def is_serving(self) -> bool:
        """Tell whether the server accepts connections."""
        return self._server is not None and self._closing is None and self._server.is_serving()

    async def start_serving(self) -> None:
        """Start accepting connections, after ``serve(..., start_serving=False)``."""
        await self._started().start_serving()

    async def serve_forever(self) -> None:
        """Accept connections until the server is closed; cancelling this closes it."""
        server = self._started()
        try:
            if self._closing is None and not server.is_serving():
                await server.start_serving()
            await self.wait_closed()
        except asyncio.CancelledError:
            self.close()
            await self.wait_closed()
            raise

    def _started(self) -> asyncio.Server:
        if self._server is None:
            raise RuntimeError("server isn't started: await it first")
        return self._server

    # ------------------------------------------------------------------ connections

    def _is_closing(self) -> bool:
        return self._closing is not None

    def _start_handler(self, connection: ServerConnection) -> None:
        connection.task = connection.loop.create_task(self._handle(connection))
        self._handlers.add(connection.task)

    async def _handle(self, connection: ServerConnection) -> None:
        """Answer the opening handshake, then run the handler."""
        code: int = CloseCode.INTERNAL_ERROR
        try:
            await connection.handshake()
            if connection.response is None or connection.response.status_code != 101:
                await connection.wait_closed()
                return
            await self.handler(connection)
            code = CloseCode.NORMAL_CLOSURE
        except Exception as exc:
            connection._log_failure(exc)
        finally:
            try:
                if connection.response is None:
                    # Cancelled before the opening handshake was answered.
                    connection._transport.abort()
                elif not connection._lost:
                    await connection.close(code)
            finally:
                self._handlers.discard(connection.task)

    # ------------------------------------------------------------------ closing

    def close(
        self,
        close_connections: bool = True,
        code: int = CloseCode.GOING_AWAY,
        reason: str = "",
    ) -> None:
        """Close the server, in the background; ``wait_closed`` waits for it.

        {close_server}
        """
        # Rather than fail later, in the background.
        check_close(code, reason)
        if self._closing is None:
            self._closing = self.get_loop().create_task(
                self._close(close_connections, code, reason)
            )
            if self._close_waiter is not None:
                self._close_waiter.set_result(None)

    async def _close(self, close_connections: bool, code: int, reason: str) -> None:
        server = self._started()
        self.logger.info("server closing")
        server.close()
        # Connections that were accepted in this turn of the loop get their connection_made() first.
        await asyncio.sleep(0)
        for connection in list(self._connections):
            if connection.request is None and not connection._lost:
                idle = connection.protocol.timeout_response() is None
                connection._respond(connection._shutting_down())
                if idle:
                    # Browsers connect in advance: such a client asks for nothing, and may not look
                    # at the end of the stream for long. Nothing that it sent can be lost, either.
                    connection._close_transport()
        if close_connections:
            await asyncio.gather(
                *(connection.close(code, reason) for connection in self.connections),
                return_exceptions=True,
            )
        while waiting := [
            *(connection.wait_closed() for connection in self._connections),
            *(
                asyncio.shield(task)
                for task in self._handlers
                if task is not asyncio.current_task()
            ),
        ]:
            await asyncio.gather(*waiting, return_exceptions=True)
        await server.wait_closed()
        self.logger.info("server closed")

    async def wait_closed(self) -> None:
        """Wait until the server is closed and its handlers have finished."""
        if self._closing is None:
            if self._close_waiter is None:
                self._close_waiter = self.get_loop().create_future()
            await asyncio.shield(self._close_waiter)
            assert self._closing is not None
        await asyncio.shield(self._closing)


@documented(_Options)
def serve(
    handler: Handler,
    host: str | Sequence[str] | None = None,
    port: int | None = None,
    **kwargs: Unpack[_Options],
) -> Server:
    """Create a WebSocket server, to be awaited or entered as a context manager.

    ``handler``, ``process_request`` and ``process_response`` may be coroutine functions.

    Args:
        {serve_args}
        host: Addresses to listen on; None for all.
        port: TCP port.
        **kwargs: Passed on to ``loop.create_server``; a ``path`` to ``loop.create_unix_server``.

    Raises:
        TypeError, ValueError: If an argument isn't acceptable.
    """
    options = complete(_Options, kwargs, "serve")
    settings = ServerSettings(handler, options, ServerConnection)
    _checks.check_write_limit(options["write_limit"])
    settings.connection_options["write_limit"] = options["write_limit"]
    transport = other_options(_Options, kwargs)
    check_listening(host, port, transport)
    if transport.get("ssl") is not None:
        if settings.open_timeout:
            transport.setdefault("ssl_handshake_timeout", settings.open_timeout)
        if settings.close_timeout:
            transport.setdefault("ssl_shutdown_timeout", settings.close_timeout)

    async def create_server(server: Server) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        connection_class, connection_options = (
            settings.connection_class,
            settings.connection_options,
        )

        def make(protocol: ServerProtocol) -> ServerConnection:
            return connection_class(protocol, server, **connection_options)

        def factory() -> ServerConnection:
            return settings.new_connection(make)

        if "path" in transport or _is_unix(transport.get("sock")):
            return await loop.create_unix_server(factory, **transport)
        return await loop.create_server(factory, host, port, **transport)

    server = Server(create_server, handler, settings.logger)
    server._settings = settings
    return server


def _is_unix(sock: socket.socket | None) -> bool:
    return sock is not None and sock.family == getattr(socket, "AF_UNIX", None)


def unix_serve(
    handler: Handler, path: PathLike | None = None, **kwargs: Unpack[ServeOptions]
) -> Server:
    """Create a WebSocket server that listens on a Unix socket.

    Args:
        handler: As for ``serve``.
        path: Path of the socket.
        **kwargs: As for ``serve``, and those of ``loop.create_unix_server``.
    """
    return serve(handler, path=path, **kwargs)
