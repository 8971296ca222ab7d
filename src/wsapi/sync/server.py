"""WebSocket servers for threads: one per connection, for its handler."""

from __future__ import annotations

import logging
import re
import socket
import ssl as ssl_module
import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from math import inf
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypedDict, Unpack

from wsproto_fast import ServerProtocol
from wsproto_fast.aliases import fallback
from wsproto_fast.exceptions import InvalidMessage, InvalidStatus
from wsproto_fast.frames import State
from wsproto_fast.http11 import SERVER, Request, Response
from wsproto_fast.rates import RateLike
from wsproto_fast.typing import LoggerLike, Origin, PathLike, Subprotocol

from .._shared import checks
from .._shared.basic_auth import basic_auth_sync
from .._shared.budget import BufferBudget
from .._shared.connection import FAILURE
from .._shared.door import Door, Visit
from .._shared.options import SERVER_OPTIONS, Limits, OnDrop, arguments, defaults
from .._shared.server import ServerSettings, ServerSide, check_listening, finish
from ..limits import MAX_BACKLOG, Slow
from ._accepting import AcceptingServer
from ._channel import Channel, Deadline
from .connection import Connection, broadcast

__all__ = ["Server", "ServerConnection", "basic_auth", "broadcast", "serve", "unix_serve"]

# Programs know it by this module, although it works for connections of clients, too.
broadcast.__module__ = __name__
basic_auth = basic_auth_sync

Handler: TypeAlias = "Callable[[ServerConnection], None]"


class TransportOptions(TypedDict, total=False):
    """Options of ``serve`` that say where to listen and how."""

    family: int
    backlog: int
    reuse_port: bool
    dualstack_ipv6: bool
    ssl_context: ssl_module.SSLContext | None


class _TransportOptions(TransportOptions, total=False):
    path: PathLike | None


class ServerConnection(ServerSide, Connection):
    """A connection accepted by a server.

    Args:
        sock: Connected TCP or Unix socket.
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

    _opening = True

    def __init__(
        self,
        sock: Any,
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
            sock,
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

    def handshake(
        self,
        process_request: Callable[[ServerConnection, Request], Response | None] | None = None,
        process_response: Callable[[ServerConnection, Request, Response], Response | None]
        | None = None,
        server_header: str | None = SERVER,
        timeout: float | None = None,
    ) -> None:
        """Perform the opening handshake, of a connection that ``serve`` hasn't made.

        Such a connection belongs to a server of another kind, which has accepted the socket.

        Args:
            process_request: Called with the connection and the request; returns a response to be
                sent instead of the usual one, or None.
            process_response: Called with the connection, the request, and the response; returns a
                response to be sent instead, or None.
            server_header: Value of the Server header of responses; None for none.
            timeout: Seconds that it may last, None for no limit.

        Raises:
            InvalidHandshake: If the request isn't accepted; or what a callback raised.
            TimeoutError: If there is no request in time.
        """
        options = defaults(SERVER_OPTIONS)
        options |= {"process_request": process_request, "process_response": process_response}
        options |= {"server_header": server_header, "compression": None}
        settings = ServerSettings(ServerConnection.handshake, options, awaitables=False)
        self.protocol.server_header = settings.server_header
        self._handshake(settings, Deadline(timeout))
        if self.response is None or self.response.status_code != 101:
            self._driver.finish()
            exc = self.protocol.handshake_exc
            if exc is None:
                assert self.response is not None  # a callback chose it
                exc = InvalidStatus(self.response)
            try:
                raise exc
            finally:
                del self, exc  # the traceback mustn't hold what holds the exception
        self._driver.watch()

    def _handshake(self, settings: ServerSettings, deadline: Deadline) -> None:
        """Receive the request and answer it; the engine does the latter if it isn't a sound one."""
        driver, protocol = self._driver, self.protocol
        now = monotonic()
        # What came before may have taken all the time.
        open_timeout = None if deadline.time == inf else max(0.0, deadline.time - now)
        driver.call(self._set_timeouts, now, open_timeout)
        while not driver.call(self._receive_request):
            if driver.lost or protocol.close_expected():
                return
            driver.progress(inf)
        if isinstance(self.server, Server):  # it may be of another kind
            self.server._handlers.arriving.discard(threading.current_thread())
        departure = None
        driver.enter()
        try:
            response = finish(self._answer(settings))
            # Draining may have begun since it was asked, such as while a subprotocol was selected.
            if response.status_code == 101 and self._is_late():
                response = self._shutting_down()
            if self._respond(response) and protocol.state is State.OPEN:
                # Nor may it know that this connection is open: not even the client does, yet.
                departure = getattr(self.server, "_departure", None)
        finally:
            driver.leave()
        if departure is not None:
            driver.close(departure.code, departure.reason)

    def _invoke(self, callback: Callable[..., Any], *args: object) -> Any:
        self._driver.leave()
        try:
            return super()._invoke(callback, *args)
        finally:
            self._driver.enter()

    def _refuse(self) -> None:
        self._driver.call(super()._refuse)


class Server(AcceptingServer[ServerConnection]):
    """A WebSocket server; what ``serve`` returns.

    It accepts connections while ``serve_forever`` runs. Leaving it as a context manager shuts it
    down.

    Args:
        sock: Listening socket.
        handler: Called in a new thread with the socket and the address of each connection.
        logger: Logger; ``wsapi.server`` by default.

    Attributes:
        draining: Event that is set when the server begins to drain or to close, for handlers.
    """

    _settings: ServerSettings  # of one that `serve` has made

    def __init__(
        self,
        sock: socket.socket,
        handler: Callable[[socket.socket, Any], None],
        logger: LoggerLike | None = None,
    ) -> None:
        super().__init__(sock, handler, logger)

    # ------------------------------------------------------------------ life cycle

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shutdown()

    def fileno(self) -> int:
        """Return the file descriptor of the listening socket."""
        return self.socket.fileno()

    # ------------------------------------------------------------------ connections

    def _handle(
        self,
        settings: ServerSettings,
        handler: Handler,
        ssl: ssl_module.SSLContext | None,
        sock: socket.socket,
        visit: Visit | None,
    ) -> None:
        """Open a connection, run the handler, close the connection.

        Args:
            settings: How the server answers.
            handler: The handler.
            ssl: Configuration of TLS; None for no TLS.
            sock: Socket of the connection.
            visit: What the server's door knows of it.
        """
        open_timeout = settings.open_timeout
        deadline = Deadline(open_timeout if visit is None else visit.bounded(open_timeout))
        connection = self._open(settings, ssl, sock, visit, deadline)
        if connection is None:
            return
        entered = False
        try:
            connection._handshake(settings, deadline)
            if connection.response is None or connection.response.status_code != 101:
                connection._driver.finish()
                return
            connection._driver.watch()
            with connection:
                entered = True
                handler(connection)
        except Exception as exc:
            connection._log_failure(exc)
        finally:
            try:
                if not entered:
                    connection.close(FAILURE)
            finally:
                self._statistics.ended(connection)

    def _open(
        self,
        settings: ServerSettings,
        ssl: ssl_module.SSLContext | None,
        sock: socket.socket,
        visit: Visit | None,
        deadline: Deadline,
    ) -> ServerConnection | None:
        """Return a connection after the TLS handshake, None if there won't be one."""
        channel = Channel(sock, deadline)
        refusal = "tls"
        try:
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            proxied = visit is not None and visit.proxied
            if ssl is not None or proxied:
                with self._lock:
                    self._opening.add(sock)
                try:
                    if visit is not None and proxied:
                        refusal = "proxy_protocol"
                        visit.identify_header(channel.read_proxy_header())
                        refusal = "tls"
                    if ssl is not None:
                        channel.start_tls(ssl, server_side=True)
                finally:
                    with self._lock:
                        self._opening.discard(sock)
            secured = channel.secured()
            create = settings.create_connection or ServerConnection
            try:
                connection: ServerConnection = create(
                    secured, settings.new_protocol(), self, **settings.connection_options
                )
            except ssl_module.SSLError:
                raise  # because of what came behind the TLS handshake
            except Exception:
                self._creation_failed()
                sock.close()
                return None
            if visit is not None:
                connection._visit = visit
        except Exception as exc:
            expected = isinstance(exc, (OSError, InvalidMessage))
            level = logging.DEBUG if expected else logging.ERROR
            self.logger.log(level, "opening handshake failed", exc_info=True)
            self._statistics.refused(refusal if expected else "error")
            sock.close()
            return None
        with self._lock:
            self._statistics.accepted(connection)
        if self._closing:
            connection._refuse()
        return connection


def serve(
    handler: Handler,
    host: str | None = None,
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
    process_request: Callable[[ServerConnection, Request], Response | None] | None = None,
    process_response: Callable[[ServerConnection, Request, Response], Response | None]
    | None = None,
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
    **kwargs: Unpack[_TransportOptions],
) -> Server:
    """Create a WebSocket server, which listens at once.

    Args:
        handler: Called with each open connection; when it returns, the connection is closed with
            1000, when it raises, with 1011.
        host: Address to listen on; None for all.
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
        logger: Logger; ``wsapi.server`` by default.
        log_connections: Log a line with level INFO at the end of each connection: address, path,
            code, reason, duration, messages and bytes.
        create_connection: Class of connections, or factory called like it.
        **kwargs: Passed on to ``socket.create_server``.

    Raises:
        TypeError, ValueError: If an argument isn't acceptable.
        OSError: If it can't listen there.
    """
    settings = ServerSettings(handler, locals(), awaitables=False)
    transport: dict[str, Any] = checks.check_names(
        "serve", kwargs, _TransportOptions.__annotations__
    )
    if "ssl_context" in transport:
        warnings.warn("ssl_context was renamed to ssl", DeprecationWarning, stacklevel=2)
        context = transport.pop("ssl_context")
        ssl = ssl or context
    checked = {**transport, "sock": sock, "ssl": ssl}
    check_listening(host, port, checked)
    if "path" in transport:
        transport["path"] = checked["path"]
    if sock is None:
        sock = _listen(host, port, transport)

    def handle(sock: socket.socket, address: Any, visit: Visit | None = None) -> None:
        server = reference()
        assert server is not None
        if visit is None:
            server._handle(settings, handler, ssl, sock, None)
        else:
            try:
                server._handle(settings, handler, ssl, sock, visit)
            finally:
                visit.leave()

    handle.__qualname__ = getattr(handler, "__qualname__", repr(handler))  # for the log
    server = Server(sock, handle, settings.logger)
    server._settings = settings
    server._statistics.log_connections = settings.log_connections
    server._door = settings.door
    server._keep(settings.buffer_budget)
    reference = weakref.ref(server)  # the server has the function
    server._log_listening(sock)
    return server


def _listen(host: str | None, port: int | None, options: dict[str, Any]) -> socket.socket:
    if options.get("path") is not None:
        path = options.pop("path")
        return socket.create_server(path, family=socket.AF_UNIX, **options)
    if port is None:
        raise ValueError("missing port argument")
    if not host and "family" not in options:
        if socket.has_dualstack_ipv6():
            options.setdefault("dualstack_ipv6", True)
            options["family"] = socket.AF_INET6
    elif "family" not in options:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        options["family"] = infos[0][0]
    return socket.create_server((host or "", port), **options)


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
    process_request: Callable[[ServerConnection, Request], Response | None] | None = None,
    process_response: Callable[[ServerConnection, Request, Response], Response | None]
    | None = None,
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
    **kwargs: Unpack[TransportOptions],
) -> Server:
    """Create a WebSocket server that listens on a Unix socket.

    Args:
        handler: As for ``serve``.
        path: Path of the socket.
        **kwargs: As for ``serve``, as are those that aren't listed here.
    """
    return serve(**arguments(locals()))


if not TYPE_CHECKING:
    __getattr__ = fallback(__name__, "wsapi._names")
