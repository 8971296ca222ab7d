"""WebSocket servers on trio."""

from __future__ import annotations

import os
import re
import ssl as ssl_module
import stat
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, TypeAlias

import trio

from wsproto_fast import ServerProtocol
from wsproto_fast.aliases import fallback
from wsproto_fast.exceptions import InvalidMessage
from wsproto_fast.frames import State
from wsproto_fast.http11 import SERVER, Request, Response
from wsproto_fast.proxy_protocol import ProxyHeader, ProxyHeaderParser
from wsproto_fast.rates import RateLike
from wsproto_fast.typing import LoggerLike, Origin, PathLike, Subprotocol

from .._shared.basic_auth import basic_auth
from .._shared.budget import BufferBudget
from .._shared.connection import FAILURE
from .._shared.door import Door, Refusal, Visit
from .._shared.options import SERVER_OPTIONS, AnswerLater, Limits, OnDrop, arguments, defaults
from .._shared.server import ServerSettings, ServerSide, check_listening
from .._shared.sweep import Sweep
from .._shared.tls import keep_errors_apart
from ..limits import MAX_BACKLOG, Slow
from ._leaving import LeavingServer
from ._transports import start_tls
from .connection import Connection, broadcast

__all__ = ["Server", "ServerConnection", "basic_auth", "broadcast", "serve", "unix_serve"]

# Programs know it by this module, although it works for connections of clients, too.
broadcast.__module__ = __name__

Handler: TypeAlias = "Callable[[ServerConnection], Awaitable[None]]"


class ServerConnection(ServerSide, Connection):
    """A connection accepted by a server.

    Args:
        nursery: Nursery for tasks that the connection needs now and then.
        stream: Stream to the peer.
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
    """

    server: Server
    _opening = True

    def __init__(
        self,
        nursery: trio.Nursery,
        stream: trio.abc.Stream,
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
    ) -> None:
        super().__init__(
            nursery,
            stream,
            protocol,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            close_timeout=close_timeout,
            max_queue=max_queue,
            slow=slow,
            max_backlog=max_backlog,
            write_deadline=write_deadline,
            on_drop=on_drop,
        )
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
            self._refuse()  # it was accepted just before the server was closed
        while not self._receive_request():
            if (
                protocol.state is not State.CONNECTING
                or protocol.handshake_exc is not None
                or self.response is not None
            ):
                return
            await self._wait()
        server._handlers.arriving.discard(trio.lowlevel.current_task())
        settings = server._settings
        if not settings.asks:
            self._respond(await self._answer(settings))  # nobody whom that waits for
            return
        timeout = self._time_to_answer(open_timeout)
        with trio.move_on_after(inf if timeout is None else timeout):
            self._respond(await self._answer(settings))

    def _respond(self, response: Response) -> bool:
        sent = super()._respond(response)
        if sent:
            self._update()
        return sent

    def _lose(self) -> None:
        super()._lose()
        self.server._statistics.ended(self)


class Server(LeavingServer[ServerConnection], trio.abc.AsyncResource):
    """A WebSocket server; what ``nursery.start(serve, ...)`` returns.

    Leaving it as a context manager closes it.

    Args:
        listeners: Listeners, which the server closes.
        handler: Coroutine function that is called with each open connection.
        logger: Logger; ``wsapi.server`` by default.

    Attributes:
        draining: Event that is set when the server begins to drain or to close, for handlers.
    """

    def __init__(
        self,
        listeners: Sequence[trio.abc.Listener[Any]],
        handler: Handler,
        logger: LoggerLike | None = None,
    ) -> None:
        super().__init__(listeners, handler, logger)
        self._settings = ServerSettings(handler, defaults(SERVER_OPTIONS))
        self._ssl: ssl_module.SSLContext | None = None
        self._looking = trio.CancelScope()

    async def serve_forever(
        self, task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Accept connections until the server is closed; cancelling this closes it at once.

        Args:
            task_status: Is told when connections are accepted.

        Raises:
            RuntimeError: If this is running already, or the server is closed.
        """
        if self._closing:
            raise RuntimeError("server is closed")
        if self._nursery is not None:
            raise RuntimeError("server is running already")
        try:
            async with trio.open_nursery() as self._nursery:
                for listener in self.listeners:
                    if isinstance(listener, trio.SocketListener):
                        self._log_listening(listener.socket)
                if self._sweep is not None:
                    self._nursery.start_soon(self._look, self._sweep)
                task_status.started(self)
                with self._accepting:
                    await trio.serve_listeners(
                        self._serve_stream, self.listeners, handler_nursery=self._nursery
                    )
                if self._sweep is not None:
                    while self._handlers:
                        await self._changed.park()
                    self._looking.cancel()
        finally:
            self._closing = True
            self.draining.set()
            self._closed.set()
            self.logger.info("server closed")

    async def _look(self, sweep: Sweep) -> None:
        """Look at what connections hold, from time to time."""
        with self._looking:
            try:
                await trio.sleep(sweep.budget.interval)
                while True:
                    await trio.sleep(sweep.step())
            finally:
                sweep.end()

    # ------------------------------------------------------------------ connections

    @property
    def closing(self) -> bool:
        """Whether the server closes or is closed."""
        return self._closing

    async def _serve_stream(self, stream: trio.abc.Stream) -> None:
        """Serve a connection, in a task of its own."""
        task = trio.lowlevel.current_task()
        visit: Visit | Refusal | None = None
        with trio.CancelScope() as self._scopes[task]:
            self._handlers.add(task)
            self._handlers.arriving.add(task)
            try:
                door = self._settings.door
                if door is not None:
                    visit = door.arrive(_peer_address(stream))
                if isinstance(visit, Refusal):
                    self._statistics.refused(visit.reason)
                else:
                    await self._serve(stream, visit)
            finally:
                if isinstance(visit, Visit):
                    visit.leave()
                self._handlers.end(task)
                del self._scopes[task]
                self._changed.unpark_all()

    async def _serve(self, stream: trio.abc.Stream, visit: Visit | None) -> None:
        settings, nursery = self._settings, self._nursery
        assert nursery is not None
        open_timeout = settings.open_timeout
        if visit is not None:
            open_timeout = visit.bounded(open_timeout)
        if self._ssl is not None or (visit is not None and visit.proxied):
            deadline = trio.current_time() + (inf if open_timeout is None else open_timeout)
            secured = await self._prepare(stream, visit, deadline)
            if secured is None:
                return
            stream = secured
            if open_timeout is not None:
                open_timeout = max(0.0, deadline - trio.current_time())

        create = settings.create_connection or ServerConnection
        try:
            connection: ServerConnection = create(
                nursery, stream, settings.new_protocol(), self, **settings.connection_options
            )
        except Exception:
            self._creation_failed()
            return  # which closes the stream
        if visit is not None:
            connection._visit = visit
        self._statistics.accepted(connection)
        await self._handle(connection, open_timeout)

    async def _prepare(
        self, stream: trio.abc.Stream, visit: Visit | None, deadline: float
    ) -> trio.abc.Stream | None:
        """Return the stream for the opening handshake; None if what comes before it failed."""
        refusal = "tls"
        with trio.CancelScope(deadline=deadline) as scope:
            self._preparing.add(scope)
            if self._closing:
                scope.cancel()
            try:
                if visit is not None and visit.proxied:
                    refusal = "proxy_protocol"
                    visit.identify_header(await _read_proxy_header(stream))
                    refusal = "tls"
                if self._ssl is not None:
                    stream = await start_tls(stream, self._ssl, server_side=True)
                return stream
            except (OSError, InvalidMessage, trio.BrokenResourceError):
                self.logger.debug("opening handshake failed", exc_info=True)
            finally:
                self._preparing.discard(scope)
        if scope.cancelled_caught:
            self.logger.debug("opening handshake given up")
        self._statistics.refused(refusal)
        return None

    async def _handle(self, connection: ServerConnection, open_timeout: float | None) -> None:
        """Answer the opening handshake, then run the handler."""
        entered = False
        try:
            await connection.handshake(open_timeout)
            if connection.response is None or connection.response.status_code != 101:
                await connection.wait_closed()
                return
            async with connection:
                entered = True
                await self._run_handler(connection)
        except Exception as exc:
            connection._log_failure(exc)
        except BaseException:
            connection._drop(FAILURE)
            # The stream is closed when this returns.
            await connection._wait_for_farewell()
            raise
        if not entered:
            await connection.aclose(FAILURE)

    async def _run_handler(self, connection: ServerConnection) -> None:
        try:
            await self.handler(connection)
        except Exception:
            raise
        except BaseException:
            # There is no time for a closing handshake.
            connection._drop(FAILURE)
            raise


def _peer_address(stream: trio.abc.Stream) -> object:
    sock = getattr(stream, "socket", None)
    try:
        return None if sock is None else sock.getpeername()
    except OSError:
        return None  # it is gone already


async def _read_proxy_header(stream: trio.abc.Stream) -> ProxyHeader:
    """Receive a header of the PROXY protocol, and nothing behind it."""
    parser = ProxyHeaderParser()
    while parser.wanted:
        parser.receive(await stream.receive_some(parser.wanted))
    assert parser.header is not None
    return parser.header


async def serve(
    handler: Handler,
    port: int | None = None,
    *,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    host: str | bytes | None = None,
    listeners: Sequence[trio.abc.Listener[Any]] | None = None,
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
    logger: LoggerLike | None = None,
    log_connections: bool = False,
    create_connection: Callable[..., ServerConnection] | None = None,
    backlog: int | None = None,
) -> None:
    """Run a WebSocket server, until it is closed.

    ``await nursery.start(serve, handler, port)`` returns the `Server` when it accepts connections.
    Cancelling this cancels the handlers, and closes their connections with 1011.

    ``handler`` is a coroutine function; ``process_request`` and ``process_response`` may be.

    Args:
        handler: Called with each open connection; when it returns, the connection is closed with
            1000, when it raises, with 1011.
        port: TCP port; 0 for a free one.
        task_status: Is told when connections are accepted.
        host: Address or name to listen on; None for all addresses.
        listeners: Listeners to use instead of new ones, which the server closes.
        ssl: Configuration of TLS; None for no TLS.
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
        logger: Logger; ``wsapi.server`` by default.
        log_connections: Log a line with level INFO at the end of each connection: address, path,
            code, reason, duration, messages and bytes.
        create_connection: Class of connections, or factory called like it.
        backlog: Number of connections that may wait to be accepted.

    Raises:
        TypeError, ValueError: If an argument isn't acceptable.
        OSError: If it isn't possible to listen there.
    """
    settings = ServerSettings(handler, locals())
    check_listening(host, port, {"ssl": ssl})
    if listeners is None:
        if port is None:
            raise ValueError("port is required, unless there are listeners")
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=backlog)
    elif port is not None or host is not None or backlog is not None:
        raise ValueError("port, host and backlog must be None when there are listeners")
    elif not listeners:
        raise ValueError("listeners must be one or more")
    server = Server(listeners, handler, settings.logger)
    server._settings = settings
    server._statistics.log_connections = settings.log_connections
    server._ssl = ssl
    server._keep(settings.buffer_budget)
    if ssl is not None:
        keep_errors_apart(ssl)
    await server.serve_forever(task_status)


async def unix_serve(
    handler: Handler,
    path: PathLike | None = None,
    *,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    host: str | bytes | None = None,
    listeners: Sequence[trio.abc.Listener[Any]] | None = None,
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
    logger: LoggerLike | None = None,
    log_connections: bool = False,
    create_connection: Callable[..., ServerConnection] | None = None,
    backlog: int | None = None,
) -> None:
    """Run a WebSocket server that listens on a Unix socket, until it is closed.

    A socket that another server has left there is replaced; this one is removed at the end.

    Args:
        handler: As for ``serve``.
        path: Path of the socket.
        task_status: As for ``serve``, as are those that aren't listed here.

    Raises:
        TypeError, ValueError: If an argument isn't acceptable.
        OSError: If it isn't possible to listen there.
    """
    options = arguments(locals())
    where: dict[str, Any] = {"path": options.pop("path")}
    if path is None:
        return await serve(**options)
    if listeners is not None:
        raise ValueError("exactly one of path and listeners must be given")
    check_listening(host, None, where)
    del options["backlog"]
    listener = await _listen(where["path"], 128 if backlog is None else backlog)
    inode = _inode(where["path"])
    try:
        options["listeners"] = [listener]
        await serve(**options)
    finally:
        listener.socket.close()
        if inode is not None and _inode(where["path"]) == inode:
            os.unlink(where["path"])


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


if not TYPE_CHECKING:
    __getattr__ = fallback(__name__, "wsapi._names")
