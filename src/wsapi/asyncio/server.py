"""WebSocket servers on an asyncio event loop."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from functools import partial
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypedDict, Unpack

from wsproto_fast import ServerProtocol
from wsproto_fast.aliases import fallback
from wsproto_fast.drivers.coroutines import handling
from wsproto_fast.http11 import SERVER, Request, Response
from wsproto_fast.rates import RateLike
from wsproto_fast.typing import LoggerLike, Origin, PathLike, Subprotocol

from .._shared import checks
from .._shared.basic_auth import basic_auth
from .._shared.budget import BufferBudget
from .._shared.connection import FAILURE, BaseConnection
from .._shared.door import Door
from .._shared.options import AnswerLater, Limits, OnDrop, arguments
from .._shared.server import ServerSettings, ServerSide, check_listening
from .._shared.tls import keep_errors_apart
from ..limits import MAX_BACKLOG, Slow
from ._leaving import LeavingServer
from ._link import Link
from ._reception import Reception
from ._stand_in import StandIn
from ._timer import Timer
from .connection import Connection, broadcast

__all__ = ["Server", "ServerConnection", "basic_auth", "broadcast", "serve", "unix_serve"]

# Programs know it by this module, although it works for connections of clients, too.
broadcast.__module__ = __name__

Handler: TypeAlias = "Callable[[ServerConnection], Awaitable[None]]"


class TransportOptions(TypedDict, total=False):
    """Options of ``serve`` that say where to listen and how."""

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


class _TransportOptions(TransportOptions, total=False):
    path: PathLike | None


class AcceptedConnection(ServerSide, Connection):
    """A connection that begins with a request; parameters are those of ``Connection``."""

    _opening = True

    def _update_opening(self) -> None:
        if self.protocol.take_request():
            self._start()

    def _start(self) -> None:
        """Have the request answered; each kind of server overrides it."""
        raise NotImplementedError

    async def _answer_in_time(self, settings: ServerSettings, open_timeout: float | None) -> None:
        """Answer the request, unless callbacks take too long: they are cancelled then.

        Args:
            settings: How the server answers.
            open_timeout: Seconds that the opening handshake may last; None for no limit.
        """
        try:
            async with asyncio.timeout(self._time_to_answer(open_timeout)):
                response = await self._answer(settings)
        except TimeoutError:
            return  # the engine ends the connection
        self._respond(response)

    def _respond(self, response: Response) -> bool:
        driver = self._driver
        driver.opening = False
        # Somebody else may have closed the transport.
        if driver.is_gone() or not ServerSide._respond(self, response):
            return False
        driver.update()
        return True

    def _open(self) -> Response | None:
        """Open the connection; return the response if the request isn't right."""
        driver = self._driver
        driver.opening = False
        if driver.is_gone():
            return None  # somebody else has closed the transport
        response = self.protocol.answer(monotonic())
        if response is None:
            driver.update()
        return response


class ServerConnection(AcceptedConnection):
    """A connection accepted by a server.

    Args:
        protocol: Engine of the connection.
        server: Server that accepted the connection.
        ping_interval: Seconds between keepalive pings; None for none.
        ping_timeout: Seconds after a keepalive ping in which something must be received, and in
            four times as many its answer, unless it is all one frame; None for no limit. While
            reading is paused, it is enough that the peer's host acknowledges what is sent, which
            Linux tells; elsewhere nothing is expected then.
        close_timeout: Seconds that closing may last; None for no limit.
        max_queue: Number of received frames in the queue above which reading pauses, or a pair of
            this and of the number at which it resumes; None for no limit.
        slow: What becomes of messages while the peer doesn't read as fast as they come; by default,
            who sends waits.
        max_backlog: Bytes of messages that may wait then, unless ``slow`` is ``Slow.WAIT``; None
            for no limit.
        write_deadline: Seconds for which the peer may take nothing of what waits to be sent; None
            for no limit.
        on_drop: Called with the connection and a number of messages when ``slow`` has them dropped.
        write_limit: Size of the write buffer in bytes above which ``send`` waits, or a pair of this
            and of the size at which it goes on.
    """

    server: Server
    task: asyncio.Task[None]
    _mixed = False  # a subclass has another class between this one and Connection

    def __init__(
        self,
        protocol: ServerProtocol,
        server: Server,
        *,
        ping_interval: float | None = 20,
        ping_timeout: float | None = 20,
        close_timeout: float | None = 10,
        max_queue: Limits = 16,
        slow: Slow = Slow.WAIT,
        max_backlog: int | None = MAX_BACKLOG,
        write_deadline: float | None = None,
        on_drop: OnDrop | None = None,
        write_limit: int | tuple[int, int | None] = 2**15,
    ) -> None:
        if self._mixed:
            super().__init__(
                protocol,
                ping_interval=ping_interval,
                ping_timeout=ping_timeout,
                close_timeout=close_timeout,
                max_queue=max_queue,
                slow=slow,
                max_backlog=max_backlog,
                write_deadline=write_deadline,
                on_drop=on_drop,
                write_limit=write_limit,
            )
        else:
            # Without a look at names this takes a third of the time.
            BaseConnection.__init__(
                self,
                protocol,
                ping_interval,
                ping_timeout,
                close_timeout,
                max_queue,
                slow,
                max_backlog,
                write_deadline,
                on_drop,
            )
            self._make_driver(protocol, write_limit)
        self.server = server

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        order = cls.__mro__
        between = order[order.index(ServerConnection) + 1 : order.index(Connection)]
        cls._mixed = between != (AcceptedConnection, ServerSide)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._mixed:
            super().connection_made(transport)
        else:
            Link.connection_made(self, transport)
        server = self.server
        server._statistics.accepted(self)
        open_timeout = server._settings.open_timeout
        if server._settings.door is not None and self._visit is not None:
            open_timeout = self._visit.bounded(open_timeout)
        self.protocol.set_timeouts(
            open_timeout=open_timeout,
            ping_interval=self._ping_interval,
            ping_timeout=self._ping_timeout,
            close_timeout=self._close_timeout,
            now=monotonic(),
        )
        self._driver.update_timer()
        if server._closing:
            self._refuse()  # its TLS handshake ended after the server was closed

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        server = self.server
        server._statistics.ended(self)
        if server._settings.door is not None and self._visit is not None:
            self._visit.leave()
        if server._changed is not None:
            server._notify()

    def _update_opening(self) -> None:
        if self.protocol.take_request():
            self.loop.create_task(handling(self))

    async def handshake(self) -> None:
        """Answer the opening handshake."""
        settings = self.server._settings
        if self._is_answered_alone(settings):
            response = self._open()
            if response is not None:
                self._respond(response)
        else:
            await self._answer_in_time(settings, settings.open_timeout)


# As they are without programs that replace them.
_handshake = ServerConnection.handshake
_aenter = Connection.__aenter__


class Server(LeavingServer[ServerConnection]):
    """A WebSocket server; what ``serve`` returns.

    Awaiting it or entering it as a context manager starts it; leaving the context closes it.

    Args:
        create_server: Coroutine function that is called with this object and returns an
            ``asyncio.Server``.
        handler: Coroutine function that is called with each open connection.
        logger: Logger; ``wsapi.server`` by default.

    Attributes:
        draining: Event that is set when the server begins to drain or to close, for handlers.
    """

    def __init__(
        self,
        create_server: Callable[[Server], Coroutine[Any, Any, asyncio.Server]],
        handler: Handler,
        logger: LoggerLike | None = None,
    ) -> None:
        super().__init__(handler, logger)
        self._create_server = create_server
        self._settings: ServerSettings  # set by serve()

    # ------------------------------------------------------------------ life cycle

    def __await__(self) -> Generator[Any, None, Self]:
        return self._start().__await__()

    async def _start(self) -> Self:
        if self._server is None and not self._closing:
            self._loop = asyncio.get_running_loop()
            self._server = await self._create_server(self)
            for sock in self._server.sockets:
                self._log_listening(sock)
            if self._sweep is not None:
                self._timer = Timer(self._loop, self._sweep)
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

    @property
    def server(self) -> asyncio.Server:
        """Server of the event loop.

        Raises:
            RuntimeError: Unless it is started.
        """
        return self._started()

    def is_serving(self) -> bool:
        """Tell whether the server accepts connections."""
        return self._server is not None and not self._closing and self._server.is_serving()

    async def start_serving(self) -> None:
        """Start accepting connections, after ``serve(..., start_serving=False)``."""
        await self._started().start_serving()

    async def serve_forever(self) -> None:
        """Accept connections until the server is closed; cancelling this closes it."""
        try:
            if not self._closing and not self._started().is_serving():
                await self._started().start_serving()
            await self.wait_closed()
        except asyncio.CancelledError:
            self.close()
            await self.wait_closed()
            raise

    # ------------------------------------------------------------------ connections

    # What the coroutine of a connection calls: see `handling`.

    def _begin(
        self, connection: ServerConnection, task: asyncio.Task[Any]
    ) -> Coroutine[Any, Any, bool] | None:
        """Open a connection.

        Returns:
            None if it is open; otherwise a coroutine that goes on, and tells whether it is open
            then. If not, it has ended.
        """
        connection.task = task
        self._handlers.add(task)  # here, since it may have started eagerly
        handshake = None
        try:
            if (
                # Programs override these in subclasses, or replace them.
                getattr(connection.handshake, "__func__", None) is _handshake
                # `async with` would keep a bound method for as long as the handler runs. What
                # Connection has does nothing.
                and type(connection).__aenter__ is _aenter
                and connection._is_answered_alone(self._settings)
            ):
                response = connection._open()
                if connection.protocol.response_status == 101:
                    return None
                if response is not None:
                    connection._respond(response)
            else:
                handshake = connection.handshake()
        except BaseException as exc:
            return self._finish(connection, task, exc, False)
        return self._go_on(connection, task, handshake)

    async def _run_awaitable(self, awaitable: Awaitable[None]) -> None:
        """Wait for what a handler has returned that isn't a coroutine of Python."""
        try:
            await awaitable
        finally:
            del awaitable  # one that has failed may hold this frame

    async def _go_on(
        self,
        connection: ServerConnection,
        task: asyncio.Task[Any],
        handshake: Awaitable[None] | None,
    ) -> bool:
        """Go on with the opening handshake; return whether the connection is open then."""
        failure = None
        try:
            if handshake is not None:
                await handshake
            if connection.protocol.response_status == 101:
                await connection.__aenter__()
                return True
            await connection.wait_closed()
        except BaseException as exc:
            failure = exc
        try:
            return await self._finish(connection, task, failure, False)
        finally:
            del failure, handshake  # they may hold this frame

    async def _finish(
        self,
        connection: ServerConnection,
        task: asyncio.Task[Any],
        exc: BaseException | None,
        entered: bool,
    ) -> bool:
        """Close a connection; return False.

        Args:
            connection: The connection.
            task: Who runs this.
            exc: What has failed; None if nothing has.
            entered: Whether that was the handler.
        """
        try:
            if exc is not None:
                try:
                    raise exc
                except BaseException:
                    if entered:
                        await connection.__aexit__(type(exc), exc, exc.__traceback__)
                    raise
            elif entered:
                await connection.__aexit__(None, None, None)
        except Exception as failure:
            connection._log_failure(failure)
        finally:
            try:
                if entered:
                    pass
                elif connection.response is None:
                    # Cancelled before the opening handshake was answered.
                    connection._transport.abort()
                elif not connection._lost:
                    await connection.close(FAILURE)
            finally:
                self._handlers.end(task)
                if self._changed is not None:
                    self._notify()
                # A program may have an attribute of this name.
                if getattr(connection, "task", None) is task:
                    del connection.task
                del task, exc  # what ends it may hold this frame
        return False


def serve(
    handler: Handler,
    host: str | Sequence[str] | None = None,
    port: int | None = None,
    *,
    sock: socket.socket | None = None,
    ssl: ssl_module.SSLContext | None = None,
    origins: Sequence[Origin | re.Pattern[str] | None] | None = None,
    extensions: Sequence[Any] | None = None,
    subprotocols: Sequence[Subprotocol] | None = None,
    select_subprotocol: Callable[[ServerConnection, Sequence[Subprotocol]], Subprotocol | None]
    | None = None,
    compression: str | None = "deflate",
    process_request: Callable[[ServerConnection, Request], AnswerLater] | None = None,
    process_response: Callable[[ServerConnection, Request, Response], AnswerLater] | None = None,
    server_header: str | None = SERVER,
    check_host: bool = True,
    door: Door | None = None,
    buffer_budget: BufferBudget | None = None,
    open_timeout: float | None = 10,
    ping_interval: float | None = 20,
    ping_timeout: float | None = 20,
    close_timeout: float | None = 10,
    max_size: Limits = 2**20,
    message_rate: RateLike = None,
    byte_rate: RateLike = None,
    max_queue: Limits = 16,
    slow: Slow = Slow.WAIT,
    max_backlog: int | None = MAX_BACKLOG,
    write_deadline: float | None = None,
    on_drop: OnDrop | None = None,
    write_limit: int | tuple[int, int | None] = 2**15,
    logger: LoggerLike | None = None,
    log_connections: bool = False,
    create_connection: Callable[..., ServerConnection] | None = None,
    **kwargs: Unpack[_TransportOptions],
) -> Server:
    """Create a WebSocket server, to be awaited or entered as a context manager.

    ``handler``, ``process_request`` and ``process_response`` may be coroutine functions.

    Args:
        handler: Called with each open connection; when it returns, the connection is closed with
            1000, when it raises, with 1011.
        host: Addresses to listen on; None for all.
        port: TCP port.
        sock: Listening socket, to be used instead of a new one.
        ssl: TLS configuration.
        origins: Acceptable values of the Origin header: strings, compiled regular expressions (full
            match), or None for requests without one. None instead of a sequence: don't check.
        extensions: Extension factories, in order of preference.
        subprotocols: Subprotocols, in order of preference.
        select_subprotocol: Called with the connection and the offered subprotocols; returns the one
            to use.
        compression: "deflate" or None.
        process_request: Called with the connection and the request; may return a response to be
            sent instead of accepting the connection.
        process_response: Called with the connection, the request and the response; may change the
            response or return another one.
        server_header: Value of the Server header; None for none.
        check_host: Refuse requests whose Host header is missing, repeated or malformed.
        door: Limits on the number of connections, and where their clients' addresses come from: a
            ``Door`` of ``wsapi.limits``; None for none.
        buffer_budget: Limit on what connections hold in memory together, above which those with
            most are closed: a ``BufferBudget`` of ``wsapi.limits``; None for no limit.
        open_timeout: Seconds that the opening handshake may last; None for no limit.
        ping_interval: Seconds between keepalive pings; None for none.
        ping_timeout: Seconds after a keepalive ping in which something must be received, and in
            four times as many its answer, unless it is all one frame; None for no limit. While
            reading is paused, it is enough that the peer's host acknowledges what is sent, which
            Linux tells; elsewhere nothing is expected then.
        close_timeout: Seconds that closing may last; None for no limit.
        max_size: Limit on incoming messages in bytes, or a pair of limits on messages and on
            fragments; None for no limit.
        message_rate: Limit on what the peer sends, in messages and Pings: a ``Rate`` of
            ``wsapi.limits``, or a number per second, above which it waits; None for no limit.
        byte_rate: Limit on the bytes of their payloads, as they are received, in the same form.
        max_queue: Number of received frames in the queue above which reading pauses, or a pair of
            this and of the number at which it resumes; None for no limit.
        slow: What becomes of messages while the peer doesn't read as fast as they come; by default,
            who sends waits.
        max_backlog: Bytes of messages that may wait then, unless ``slow`` is ``Slow.WAIT``; None
            for no limit.
        write_deadline: Seconds for which the peer may take nothing of what waits to be sent; None
            for no limit.
        on_drop: Called with the connection and a number of messages when ``slow`` has them dropped.
        write_limit: Size of the write buffer in bytes above which ``send`` waits, or a pair of this
            and of the size at which it goes on.
        logger: Logger; ``wsapi.server`` by default.
        log_connections: Log a line with level INFO at the end of each connection: address, path,
            code, reason, duration, messages and bytes.
        create_connection: Class of connections, or factory called like it.
        **kwargs: Passed on to ``loop.create_server``; a ``path`` to ``loop.create_unix_server``.

    Raises:
        TypeError, ValueError: If an argument isn't acceptable.
    """
    settings = ServerSettings(handler, locals())
    checks.check_write_limit(write_limit)
    settings.connection_options["write_limit"] = write_limit
    transport: dict[str, Any] = checks.check_names(
        "serve", kwargs, _TransportOptions.__annotations__
    )
    transport |= {"sock": sock, "ssl": ssl}
    port = checks.port_number(port)
    check_listening(host, port, transport)
    if ssl is not None:
        keep_errors_apart(ssl)
        if settings.open_timeout:
            transport.setdefault("ssl_handshake_timeout", settings.open_timeout)
        if settings.close_timeout:
            transport.setdefault("ssl_shutdown_timeout", settings.close_timeout)

    door = settings.door
    tls: dict[str, Any] | None = None
    if door is not None and door.proxy_protocol and transport.get("ssl") is not None:
        # TLS begins behind the header of the PROXY protocol.
        tls = {"sslcontext": transport.pop("ssl")}
        for name in ("ssl_handshake_timeout", "ssl_shutdown_timeout"):
            tls[name] = transport.pop(name, None)

    async def create_server(server: Server) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        factory = protocol_factory(server, tls, secure=transport.get("ssl") is not None)
        if "path" in transport or _is_unix(transport.get("sock")):
            return await loop.create_unix_server(factory, **transport)
        return await loop.create_server(factory, host, port, **transport)

    server = Server(create_server, handler, settings.logger)
    server._settings = settings
    server._statistics.log_connections = settings.log_connections
    server._keep(settings.buffer_budget)
    return server


def protocol_factory(
    server: Server, tls: dict[str, Any] | None = None, *, secure: bool = False
) -> Callable[[], asyncio.BaseProtocol]:
    """Return what makes protocols for transports that a server has accepted.

    Args:
        server: The server.
        tls: Arguments of ``loop.start_tls`` for TLS behind a header of the PROXY protocol.
        secure: Whether the event loop does TLS before there is a transport.
    """
    settings = server._settings
    create = settings.create_connection or ServerConnection

    def plain() -> ServerConnection | StandIn:
        try:
            connection: ServerConnection = create(
                settings.new_protocol(), server, **settings.connection_options
            )
        except Exception:
            server._creation_failed()
            return StandIn(_nobody)
        return connection

    def new() -> ServerConnection | None:
        connection = plain()
        return None if isinstance(connection, StandIn) else connection

    if settings.door is not None:
        return partial(Reception, server, settings.door, new, tls)
    return partial(StandIn, new) if secure else plain


def _nobody() -> None:
    """Return the connection of a transport for which there is none."""


def _is_unix(sock: socket.socket | None) -> bool:
    return sock is not None and sock.family == getattr(socket, "AF_UNIX", None)


def unix_serve(
    handler: Handler,
    path: PathLike | None = None,
    *,
    sock: socket.socket | None = None,
    ssl: ssl_module.SSLContext | None = None,
    origins: Sequence[Origin | re.Pattern[str] | None] | None = None,
    extensions: Sequence[Any] | None = None,
    subprotocols: Sequence[Subprotocol] | None = None,
    select_subprotocol: Callable[[ServerConnection, Sequence[Subprotocol]], Subprotocol | None]
    | None = None,
    compression: str | None = "deflate",
    process_request: Callable[[ServerConnection, Request], AnswerLater] | None = None,
    process_response: Callable[[ServerConnection, Request, Response], AnswerLater] | None = None,
    server_header: str | None = SERVER,
    check_host: bool = True,
    door: Door | None = None,
    buffer_budget: BufferBudget | None = None,
    open_timeout: float | None = 10,
    ping_interval: float | None = 20,
    ping_timeout: float | None = 20,
    close_timeout: float | None = 10,
    max_size: Limits = 2**20,
    message_rate: RateLike = None,
    byte_rate: RateLike = None,
    max_queue: Limits = 16,
    slow: Slow = Slow.WAIT,
    max_backlog: int | None = MAX_BACKLOG,
    write_deadline: float | None = None,
    on_drop: OnDrop | None = None,
    write_limit: int | tuple[int, int | None] = 2**15,
    logger: LoggerLike | None = None,
    log_connections: bool = False,
    create_connection: Callable[..., ServerConnection] | None = None,
    **kwargs: Unpack[TransportOptions],
) -> Server:
    """Create a WebSocket server that listens on a Unix socket.

    Args:
        handler: As for ``serve``.
        path: Path of the socket.
        **kwargs: Those of ``loop.create_unix_server``. Those that aren't listed here are as for
            ``serve``.
    """
    return serve(**arguments(locals()))


if not TYPE_CHECKING:
    __getattr__ = fallback(__name__, "wsapi._names")
