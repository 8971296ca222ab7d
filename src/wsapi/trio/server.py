"""WebSocket servers on trio."""

from __future__ import annotations

import os
import ssl as ssl_module
import stat
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Annotated, Any, TypeAlias, Unpack

import trio

from wsproto_fast import ServerProtocol
from wsproto_fast.frames import CloseCode, State
from wsproto_fast.http11 import Response
from wsproto_fast.typing import LoggerLike, PathLike

from .._basic_auth import basic_auth
from .._connection import ServerSide
from .._options import (
    AnswerLater,
    ConnectionOptions,
    Option,
    ServerOptions,
    complete,
    documented,
)
from .._server import BaseServer, ServerSettings, check_close, check_listening
from ._transports import start_tls
from .connection import Connection, broadcast

__all__ = ["Server", "ServerConnection", "basic_auth", "broadcast", "serve", "unix_serve"]

# Programs know it by this module, although it works for connections of clients, too.
broadcast.__module__ = __name__

Handler: TypeAlias = "Callable[[ServerConnection], Awaitable[None]]"


class ServeOptions(ServerOptions["ServerConnection", AnswerLater], total=False):
    """Options of ``serve``."""

    host: Annotated[
        str | bytes | None, Option(None, "Address or name to listen on; None for all addresses.")
    ]
    backlog: Annotated[
        int | None, Option(None, "Number of connections that may wait to be accepted.")
    ]
    listeners: Annotated[
        Sequence[trio.abc.Listener[Any]] | None,
        Option(None, "Listeners to use instead of new ones, which the server closes."),
    ]
    ssl: Annotated[
        ssl_module.SSLContext | None, Option(None, "Configuration of TLS; None for no TLS.")
    ]


@documented(ConnectionOptions)
class ServerConnection(ServerSide, Connection):
    """A connection accepted by a server.

    Args:
        nursery: Nursery for tasks that the connection needs now and then.
        stream: Stream to the peer.
        {connection_args}
        server: Server that accepted the connection.
    """

    server: Server
    _opening = True

    def __init__(
        self,
        nursery: trio.Nursery,
        stream: trio.abc.Stream,
        protocol: ServerProtocol,
        server: Server,
        **options: Unpack[ConnectionOptions],
    ) -> None:
        super().__init__(nursery, stream, protocol, **options)
        self.server = server

    async def handshake(self, open_timeout: float | None = None) -> None:
        """Answer the opening handshake.

        Args:
            open_timeout: Seconds that this may last; None for no limit.
        """
        server, protocol = self.server, self.protocol
        self._set_timeouts(trio.current_time(), open_timeout)
        self._update()
        if server._closing:
            # It was accepted just before the server was closed.
            self._respond(self._shutting_down())
        while not self._receive_request():
            if (
                protocol.state is not State.CONNECTING
                or protocol.handshake_exc is not None
                or self.response is not None
            ):
                return
            await self._wait()
        self._respond(await self._answer(server._settings, server._is_closing))

    def _respond(self, response: Response) -> None:
        if self._send_response(response):
            self._update()

    def _lose(self) -> None:
        super()._lose()
        self.server._connections.discard(self)


@documented()
class Server(BaseServer[ServerConnection], trio.abc.AsyncResource):
    """A WebSocket server; what ``nursery.start(serve, ...)`` returns.

    Leaving it as a context manager closes it.

    Args:
        listeners: Listeners, which the server closes.
        handler: Coroutine function that is called with each open connection.
        logger: Logger; ``wsapi.server`` by default.
    """

    def __init__(
        self,
        listeners: Sequence[trio.abc.Listener[Any]],
        handler: Handler,
        logger: LoggerLike | None = None,
    ) -> None:
        super().__init__(handler, logger)
        self.listeners = list(listeners)
        self._settings: ServerSettings[ServerConnection] = ServerSettings(
            handler, complete(ServeOptions, ServeOptions()), ServerConnection
        )
        self._ssl: ssl_module.SSLContext | None = None
        self._nursery: trio.Nursery | None = None  # of connections, and what serves them
        self._accepting = trio.CancelScope()
        self._closing = False
        self._tasks: set[trio.lowlevel.Task] = set()
        self._tls_handshakes: set[trio.CancelScope] = set()
        self._idle = trio.lowlevel.ParkingLot()  # for the end of tasks
        self._closed = trio.Event()

    async def serve_forever(
        self, task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Accept connections until the server is closed; cancelling this closes it at once.

        Args:
            task_status: Is told when connections are accepted.

        Raises:
            RuntimeError: If this is running already.
        """
        if self._nursery is not None:
            raise RuntimeError("server is running already")
        try:
            async with trio.open_nursery() as self._nursery:
                for listener in self.listeners:
                    if isinstance(listener, trio.SocketListener):
                        self._log_listening(listener.socket)
                task_status.started(self)
                with self._accepting:
                    await trio.serve_listeners(
                        self._serve_stream, self.listeners, handler_nursery=self._nursery
                    )
        finally:
            self._closing = True
            self._closed.set()
            self.logger.info("server closed")

    # ------------------------------------------------------------------ connections

    def _is_closing(self) -> bool:
        return self._closing

    async def _serve_stream(self, stream: trio.abc.Stream) -> None:
        """Serve a connection, in a task of its own."""
        task = trio.lowlevel.current_task()
        self._tasks.add(task)
        try:
            await self._serve(stream)
        finally:
            self._tasks.discard(task)
            self._idle.unpark_all()

    async def _serve(self, stream: trio.abc.Stream) -> None:
        settings, nursery = self._settings, self._nursery
        open_timeout = settings.open_timeout
        if self._ssl is not None:
            deadline = trio.current_time() + (inf if open_timeout is None else open_timeout)
            with trio.CancelScope(deadline=deadline) as handshake:
                self._tls_handshakes.add(handshake)
                if self._closing:
                    handshake.cancel()
                try:
                    stream = await start_tls(stream, self._ssl, server_side=True)
                except OSError:
                    self.logger.debug("TLS handshake failed", exc_info=True)
                    return
                finally:
                    self._tls_handshakes.discard(handshake)
            if handshake.cancelled_caught:
                self.logger.debug("TLS handshake given up")
                return
            if open_timeout is not None:
                open_timeout = max(0.0, deadline - trio.current_time())

        def make(protocol: ServerProtocol) -> ServerConnection:
            return settings.connection_class(
                nursery, stream, protocol, self, **settings.connection_options
            )

        connection = settings.new_connection(make)
        self._connections.add(connection)
        await self._handle(connection, open_timeout)

    async def _handle(self, connection: ServerConnection, open_timeout: float | None) -> None:
        """Answer the opening handshake, then run the handler."""
        code: int = CloseCode.INTERNAL_ERROR
        try:
            await connection.handshake(open_timeout)
            if connection.response is None or connection.response.status_code != 101:
                await connection.wait_closed()
                return
            await self.handler(connection)
            code = CloseCode.NORMAL_CLOSURE
        except Exception as exc:
            connection._log_failure(exc)
        except BaseException:
            # There is no time for a closing handshake.
            connection._drop(code)
            raise
        await connection.aclose(code)

    # ------------------------------------------------------------------ closing

    async def aclose(
        self,
        close_connections: bool = True,
        code: int = CloseCode.GOING_AWAY,
        reason: str = "",
    ) -> None:
        """Close the server.

        A handler may call this: it isn't waited for, then. Cancelling this closes all at once.

        {close_server}
        """
        check_close(code, reason)
        try:
            if not self._closing:
                self._closing = True
                await self._close(close_connections, code, reason)
            task = trio.lowlevel.current_task()
            if task in self._tasks:
                while len(self._tasks) > 1:
                    await self._idle.park()
            elif self._nursery is not None:
                await self._closed.wait()
        except BaseException:
            for connection in list(self._connections):
                connection._drop(code)
            if self._nursery is not None:
                self._nursery.cancel_scope.cancel()
            raise

    async def _close(self, close_connections: bool, code: int, reason: str) -> None:
        self.logger.info("server closing")
        self._accepting.cancel()
        for listener in self.listeners:
            await listener.aclose()
        for handshake in self._tls_handshakes:
            handshake.cancel()
        for connection in list(self._connections):
            if connection.request is None:
                idle = connection.protocol.timeout_response() is None
                connection._respond(connection._shutting_down())
                if idle:
                    # Browsers connect in advance: such a client asks for nothing, and may not look
                    # at the end of the stream for long. Nothing that it sent can be lost, either.
                    connection._end_with_output()
        if close_connections and self._nursery is not None:
            for connection in self.connections:
                self._nursery.start_soon(connection.aclose, code, reason)


@documented(ServeOptions)
async def serve(
    handler: Handler,
    port: int | None = None,
    *,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **kwargs: Unpack[ServeOptions],
) -> None:
    """Run a WebSocket server, until it is closed.

    ``await nursery.start(serve, handler, port)`` returns the `Server` when it accepts connections.
    Cancelling this cancels the handlers, and closes their connections with 1011.

    ``handler`` is a coroutine function; ``process_request`` and ``process_response`` may be.

    Args:
        {serve_args}
        port: TCP port; 0 for a free one.
        task_status: Is told when connections are accepted.

    Raises:
        TypeError, ValueError: If an argument isn't acceptable.
        OSError: If it isn't possible to listen there.
    """
    options = complete(ServeOptions, kwargs, "serve")
    settings = ServerSettings(handler, options, ServerConnection)
    host, backlog, listeners = options["host"], options["backlog"], options["listeners"]
    check_listening(host, port, {"ssl": options["ssl"]})
    if listeners is None:
        if port is None:
            raise ValueError("port is required, unless there are listeners")
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=backlog)
    elif port is not None or host is not None or backlog is not None:
        raise ValueError("port, host and backlog must be None when there are listeners")
    server = Server(listeners, handler, settings.logger)
    server._settings = settings
    server._ssl = options["ssl"]
    await server.serve_forever(task_status)


async def unix_serve(
    handler: Handler,
    path: PathLike | None = None,
    *,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **kwargs: Unpack[ServeOptions],
) -> None:
    """Run a WebSocket server that listens on a Unix socket, until it is closed.

    A socket that another server has left there is replaced; this one is removed at the end.

    Args:
        handler: As for ``serve``.
        path: Path of the socket.
        task_status: Is told when connections are accepted.
        **kwargs: As for ``serve``.

    Raises:
        TypeError, ValueError: If an argument isn't acceptable.
        OSError: If it isn't possible to listen there.
    """
    if path is None:
        return await serve(handler, task_status=task_status, **kwargs)
    if kwargs.get("listeners") is not None:
        raise ValueError("exactly one of path and listeners must be given")
    options: dict[str, Any] = {"path": path}
    check_listening(kwargs.get("host"), None, options)
    backlog = kwargs.pop("backlog", None)
    listener = await _listen(options["path"], 128 if backlog is None else backlog)
    inode = _inode(options["path"])
    try:
        kwargs["listeners"] = [listener]
        await serve(handler, task_status=task_status, **kwargs)
    finally:
        listener.socket.close()
        if inode is not None and _inode(options["path"]) == inode:
            os.unlink(options["path"])


async def _listen(path: str | bytes, backlog: int) -> trio.SocketListener:
    if _inode(path) is not None:
        os.unlink(path)
    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        await sock.bind(path)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return trio.SocketListener(sock)


def _inode(path: str | bytes) -> int | None:
    """Return the number of the file if it is a socket; one in the abstract namespace has none."""
    if path[:1] in ("\0", b"\0"):
        return None
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_ino if stat.S_ISSOCK(status.st_mode) else None
