"""WebSocket servers on an asyncio event loop."""

from __future__ import annotations

import asyncio
import http
import inspect
import logging
import os
import re
import socket
import ssl as ssl_module
import weakref
from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias, cast

from wsproto_fast import Protocol, ServerProtocol
from wsproto_fast.exceptions import InvalidState
from wsproto_fast.extensions.permessage_deflate import (
    enable_server_permessage_deflate,
)
from wsproto_fast.frames import CloseCode, Side, State
from wsproto_fast.http11 import SERVER, Request, Response
from wsproto_fast.typing import LoggerLike, Origin, PathLike, StatusLike, Subprotocol

from .. import _options
from .._basic_auth import BasicAuth, CheckCredentials, Credentials, Unauthorized
from .connection import Connection, broadcast, check_options

__all__ = ["Server", "ServerConnection", "basic_auth", "broadcast", "serve", "unix_serve"]

# Programs know it by this module, although it works for connections of clients, too.
broadcast.__module__ = __name__

Handler: TypeAlias = "Callable[[ServerConnection], Awaitable[None]]"
ProcessRequest: TypeAlias = (
    "Callable[[ServerConnection, Request], Awaitable[Response | None] | Response | None]"
)
ProcessResponse: TypeAlias = (
    "Callable[[ServerConnection, Request, Response], Awaitable[Response | None] | Response | None]"
)
SelectSubprotocol: TypeAlias = (
    "Callable[[ServerConnection, Sequence[Subprotocol]], Subprotocol | None]"
)

FAILED_TO_OPEN = "Failed to open a WebSocket connection.\nSee server log for more information.\n"


@dataclass(frozen=True)
class _Opening:
    """How a server answers opening handshakes."""

    process_request: ProcessRequest | None = None
    process_response: ProcessResponse | None = None
    server_header: str | None = SERVER
    open_timeout: float | None = 10


class ServerConnection(Connection):
    """A connection accepted by a server.

    Parameters are those of ``Connection``, and:

    Args:
        server: Server that accepted the connection.
    """

    username: str  # set by basic_auth()
    handler: Callable[..., Awaitable[None]]  # these two are set by route()
    handler_kwargs: Mapping[str, Any]
    task: asyncio.Task[None]
    opening = _Opening()
    _opening = True

    def __init__(
        self,
        protocol: ServerProtocol,
        server: Server,
        *,
        ping_interval: float | None = 20,
        ping_timeout: float | None = 20,
        close_timeout: float | None = 10,
        max_queue: int | tuple[int | None, int | None] | None = 16,
        write_limit: int | tuple[int, int | None] = 2**15,
    ) -> None:
        super().__init__(
            protocol,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            close_timeout=close_timeout,
            max_queue=max_queue,
            write_limit=write_limit,
        )
        self.protocol: ServerProtocol
        self.server = server

    def respond(self, status: StatusLike, text: str) -> Response:
        """Return a plain text response, for ``process_request`` and ``process_response``.

        Args:
            status: HTTP status code.
            text: Body.
        """
        return self.protocol.reject(status, text)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.server._connections.add(self)
        self._set_timeouts(self.opening.open_timeout)
        if self.server._closing is not None:
            # Its TLS handshake ended after the server was closed.
            self._respond(self._shutting_down())

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.server._connections.discard(self)

    def _update_opening(self) -> None:
        if self.request is None:
            for event in self.protocol.events_received():
                if isinstance(event, Request):
                    self.request = event
                    self.server._start_handler(self)

    async def handshake(self) -> None:
        """Answer the opening handshake."""
        protocol, request, opening = self.protocol, self.request, self.opening
        assert request is not None
        response: Response | None = None
        if opening.process_request is not None:
            response = await self._process(
                "process_request", opening.process_request, self, request
            )
            if response is not None:
                self._add_server_header(response)
        if response is None:
            if self.server._closing is None:
                response = protocol.accept(request)
            else:
                response = self._shutting_down()
        if opening.process_response is not None:
            replacement = await self._process(
                "process_response", opening.process_response, self, request, response
            )
            if replacement is not None:
                response = replacement
                self._add_server_header(response)
        if response.status_code == 101 and self.server._closing is not None:
            response = self._shutting_down()
        self._respond(response)

    def _shutting_down(self) -> Response:
        return self.protocol.reject(
            http.HTTPStatus.SERVICE_UNAVAILABLE, "Server is shutting down.\n"
        )

    def _respond(self, response: Response) -> None:
        self._pump.opening = False
        protocol = self.protocol
        if protocol.state is not State.CONNECTING or self._lost:
            return
        try:
            protocol.send_response(response)
        except InvalidState:
            return  # too late: the engine gave an answer
        except Exception as exc:
            # The application made a response that can't be sent.
            self.logger.error("opening handshake failed", exc_info=True)
            protocol.handshake_exc = exc
            response = protocol.reject(http.HTTPStatus.INTERNAL_SERVER_ERROR, FAILED_TO_OPEN)
            protocol.send_response(response)
        self.response = response
        self._pump.update()

    async def _process(
        self, name: str, callback: Callable[..., object], *args: object
    ) -> Response | None:
        try:
            response = callback(*args)
            if inspect.isawaitable(response):
                response = await response
            if response is not None and not isinstance(response, Response):
                raise TypeError(
                    f"{name} must return a Response or None, not {type(response).__name__}"
                )
        except Exception as exc:
            self.protocol.handshake_exc = exc
            self.logger.error("%s failed", name, exc_info=True)
            response = self.protocol.reject(http.HTTPStatus.INTERNAL_SERVER_ERROR, FAILED_TO_OPEN)
        return response

    def _add_server_header(self, response: Response) -> None:
        """Complete a response that the application made; the engine's own ones have the header."""
        if self.opening.server_header and "Server" not in response.headers:
            response.headers["Server"] = self.opening.server_header


class Server:
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
        self._create_server = create_server
        self.handler = handler
        self.logger = logging.getLogger("wsapi.server") if logger is None else logger
        self._server: asyncio.Server | None = None
        self._connections: set[ServerConnection] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._close_waiter: asyncio.Future[None] | None = None

    # ------------------------------------------------------------------ life cycle

    def __await__(self) -> Generator[Any, None, Self]:
        return self._start().__await__()

    async def _start(self) -> Self:
        if self._server is None:
            self._server = await self._create_server(self)
            for sock in self._server.sockets:
                self.logger.info("server listening on %s", _format_address(sock))
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
    def connections(self) -> set[ServerConnection]:
        """Connections that are open at the moment."""
        return {
            connection
            for connection in self._connections
            if connection.protocol.state is State.OPEN
        }

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
        except Exception:
            connection.logger.error("connection handler failed", exc_info=True)
        finally:
            try:
                if connection.response is None:
                    # Cancelled before the opening handshake was answered.
                    connection.transport.abort()
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

        Stops listening, refuses connections that are in their opening handshake with 503, closes
        the open ones, and waits for their handlers.

        Args:
            close_connections: Whether to close open connections.
            code: Close code for them.
            reason: Close reason for them.

        Raises:
            ProtocolError: If the code or the reason isn't allowed.
        """
        # Ask an engine, rather than fail later in the background.
        Protocol(Side.SERVER).send_close(code, reason)
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
                    connection.transport.close()
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


def _format_address(sock: socket.socket) -> str:
    name = sock.getsockname()
    if sock.family == socket.AF_INET:
        return f"{name[0]}:{name[1]}"
    if sock.family == socket.AF_INET6:
        return f"[{name[0]}]:{name[1]}"
    return str(name)


def serve(
    handler: Handler,
    host: str | Sequence[str] | None = None,
    port: int | None = None,
    *,
    origins: Sequence[Origin | re.Pattern[str] | None] | None = None,
    extensions: Sequence[Any] | None = None,
    subprotocols: Sequence[Subprotocol] | None = None,
    select_subprotocol: SelectSubprotocol | None = None,
    compression: str | None = "deflate",
    process_request: ProcessRequest | None = None,
    process_response: ProcessResponse | None = None,
    server_header: str | None = SERVER,
    check_host: bool = True,
    open_timeout: float | None = 10,
    ping_interval: float | None = 20,
    ping_timeout: float | None = 20,
    close_timeout: float | None = 10,
    max_size: int | tuple[int | None, int | None] | None = 2**20,
    max_queue: int | tuple[int | None, int | None] | None = 16,
    write_limit: int | tuple[int, int | None] = 2**15,
    logger: LoggerLike | None = None,
    create_connection: Callable[..., ServerConnection] | None = None,
    **kwargs: Any,
) -> Server:
    """Create a WebSocket server, to be awaited or entered as a context manager.

    Args:
        handler: Coroutine function that is called with each open connection; when it returns, the
            connection is closed with 1000, when it raises, with 1011.
        host: Addresses to listen on; None for all.
        port: TCP port.
        origins: Acceptable values of the Origin header: strings, compiled regular expressions (full
            match), or None for requests without one. None instead of a sequence: don't check.
        extensions: Extension factories, in order of preference.
        subprotocols: Subprotocols, in order of preference.
        select_subprotocol: Called with the connection and the offered subprotocols; returns the one
            to use.
        compression: "deflate" or None.
        process_request: Called with the connection and the request; may return a response to be
            sent instead of accepting the connection. May be a coroutine function.
        process_response: Called with the connection, the request and the response; may change the
            response or return another one. May be a coroutine function.
        server_header: Value of the Server header; None for none.
        check_host: Refuse requests whose Host header is missing, repeated or malformed.
        open_timeout: Seconds that the opening handshake may last; None for no limit.
        ping_interval: Seconds between keepalive pings; None for none.
        ping_timeout: Seconds after a keepalive ping in which something must be received; None for
            no limit.
        close_timeout: Seconds that closing may last; None for no limit.
        max_size: Limit on incoming messages in bytes, or a pair of limits on messages and on
            fragments; None for no limit.
        max_queue: Number of received frames in the queue above which reading pauses, or a pair of
            this and of the number at which it resumes; None for no limit.
        write_limit: Size of the write buffer in bytes above which ``send`` waits, or a pair of this
            and of the size at which it goes on.
        logger: Logger; ``wsapi.server`` by default.
        create_connection: Class of connections, or factory called like it.
        **kwargs: Passed on to ``loop.create_server``; a ``path`` to ``loop.create_unix_server``.

    Raises:
        TypeError, ValueError: If an argument isn't acceptable.
    """
    _options.check_callable("handler", handler, optional=False)
    _options.check_origins(origins)
    _options.check_extensions(extensions, ["process_request_params"])
    _options.check_subprotocols(subprotocols)
    _options.check_callable("select_subprotocol", select_subprotocol)
    if compression == "deflate":
        extensions = enable_server_permessage_deflate(extensions)
    elif compression is not None:
        raise ValueError(f"unsupported compression: {compression}; use 'deflate' or None")
    _options.check_callable("process_request", process_request)
    _options.check_callable("process_response", process_response)
    _options.check_header("server_header", server_header)
    _options.check_pair("max_size", max_size)
    _options.check_pair("max_queue", max_queue)
    check_options(max_size, max_queue, open_timeout, ping_interval, ping_timeout, close_timeout)
    _options.check_write_limit(write_limit)
    _options.check_instance(
        "logger", logger, (logging.Logger, logging.LoggerAdapter), "a Logger, a LoggerAdapter"
    )
    _options.check_callable("create_connection", create_connection)
    _check_transport(host, port, kwargs)

    logger = logging.getLogger("wsapi.server") if logger is None else logger
    if kwargs.get("ssl") is not None:
        if open_timeout:
            kwargs.setdefault("ssl_handshake_timeout", open_timeout)
        if close_timeout:
            kwargs.setdefault("ssl_shutdown_timeout", close_timeout)
    opening = _Opening(process_request, process_response, server_header, open_timeout)
    connection_class = ServerConnection if create_connection is None else create_connection

    def factory(server: Server) -> ServerConnection:
        protocol = ServerProtocol(
            origins=origins,
            extensions=extensions,
            subprotocols=subprotocols,
            select_subprotocol=(
                None
                if select_subprotocol is None
                else lambda protocol, offered: _checked(
                    select_subprotocol(cast(ServerConnection, reference()), offered)
                )
            ),
            max_size=max_size,
            logger=logger,
            server_header=server_header or None,
            check_host=check_host,
        )
        connection = connection_class(
            protocol,
            server,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            close_timeout=close_timeout,
            max_queue=max_queue,
            write_limit=write_limit,
        )
        connection.opening = opening
        reference = weakref.ref(connection)
        return connection

    async def create_server(server: Server) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        if "path" in kwargs or _is_unix(kwargs.get("sock")):
            return await loop.create_unix_server(lambda: factory(server), **kwargs)
        return await loop.create_server(lambda: factory(server), host, port, **kwargs)

    return Server(create_server, handler, logger)


def _checked(subprotocol: Subprotocol | None) -> Subprotocol | None:
    if subprotocol is not None:
        _options.check_subprotocols([subprotocol])
    return subprotocol


def _check_transport(
    host: str | Sequence[str] | None, port: int | None, options: dict[str, Any]
) -> None:
    """Check where a server is to listen; the event loop checks what else is in ``options``."""
    _options.check_port(port)
    _options.check_instance("ssl", options.get("ssl"), ssl_module.SSLContext, "an SSLContext")
    sock = options.get("sock")
    _options.check_instance("sock", sock, socket.socket, "a socket")
    if (sock is not None or "path" in options) and (host is not None or port is not None):
        raise ValueError("host and port must be None when sock or path says where to listen")
    if "path" in options:
        path = options["path"]
        _options.check_instance("path", path, (str, bytes, os.PathLike), "a str, bytes, path-like")
        if (path is None) == (sock is None):
            raise ValueError("exactly one of path and sock must be given")
        if path is not None:
            options["path"] = os.fspath(path)


def _is_unix(sock: socket.socket | None) -> bool:
    return sock is not None and sock.family == getattr(socket, "AF_UNIX", None)


def unix_serve(handler: Handler, path: PathLike | None = None, **kwargs: Any) -> Server:
    """Create a WebSocket server that listens on a Unix socket.

    Args:
        handler: As for ``serve``.
        path: Path of the socket.
        **kwargs: As for ``serve``, and those of ``loop.create_unix_server``.
    """
    return serve(handler, path=path, **kwargs)


def basic_auth(
    realm: str = "",
    credentials: Credentials | Iterable[Credentials] | None = None,
    check_credentials: CheckCredentials | None = None,
) -> Callable[[ServerConnection, Request], Awaitable[Response | None]]:
    """Return a ``process_request`` that demands HTTP Basic Authentication (RFC 7617).

    It sets the attribute ``username`` of connections. Exactly one of ``credentials`` and
    ``check_credentials`` must be given.

    Args:
        realm: Name of the protection space, shown by some clients.
        credentials: Pair of user name and password, or iterable of such pairs. They are compared in
            a time that tells nothing about them.
        check_credentials: Function or coroutine function that is given a user name and a password,
            and tells whether they are right.

    Raises:
        TypeError: If an argument isn't of these types.
        ValueError: If both or none are given, a user name has a colon, or the realm has characters
            that a header can't have.
    """
    auth = BasicAuth(realm, credentials, check_credentials)

    async def process_request(connection: ServerConnection, request: Request) -> Response | None:
        try:
            username, password = auth.read(request)
            valid = auth.check_credentials(username, password)
            if inspect.isawaitable(valid):
                valid = await valid
            auth.require(valid)
        except Unauthorized as exc:
            return auth.refuse(connection.protocol, exc)
        connection.username = username
        return None

    return process_request
