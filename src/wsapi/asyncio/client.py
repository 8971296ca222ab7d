"""WebSocket clients on an asyncio event loop.

Owns the way from a URI to an open connection: transport, proxy, TLS, opening handshake. What to
request after a redirect or a challenge, which proxy to use, and when to try again is decided by
modules that all front-ends share.
"""

from __future__ import annotations

import asyncio
import socket
import ssl as ssl_module
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from wsproto_fast.aliases import fallback
from wsproto_fast.datastructures import HeadersLike
from wsproto_fast.exceptions import InvalidHandshake, ProxyError
from wsproto_fast.http11 import USER_AGENT
from wsproto_fast.rates import RateLike
from wsproto_fast.typing import LoggerLike, Origin, PathLike, Subprotocol
from wsproto_fast.uri import WebSocketURI

from .._shared import checks
from .._shared.client import ClientSide, TransportNames, unix_arguments
from .._shared.connection import FAILURE, forget_frames
from .._shared.options import Limits, OnDrop, arguments
from .._shared.reconnection import backoff, process_exception
from .._shared.target import MAX_REDIRECTS
from ..limits import MAX_BACKLOG, Slow
from ._opening import TransportOpener, turn
from .connection import Connection

__all__ = ["ClientConnection", "connect", "process_exception", "unix_connect"]


class TransportOptions(TypedDict, total=False):
    """Options of ``connect`` that say where to connect and how."""

    host: str | None
    port: int | None
    sock: socket.socket | None
    ssl: ssl_module.SSLContext | Literal[True] | None
    server_hostname: str | None
    ssl_handshake_timeout: float | None
    ssl_shutdown_timeout: float | None
    proxy_ssl: ssl_module.SSLContext | Literal[True] | None
    proxy_server_hostname: str | None
    proxy_ssl_handshake_timeout: float | None
    proxy_ssl_shutdown_timeout: float | None
    all_errors: bool
    family: int
    flags: int
    happy_eyeballs_delay: float | None
    interleave: int | None
    local_addr: tuple[str, int] | None
    proto: int


class _TransportOptions(TransportOptions, total=False):
    path: PathLike | None


class ClientConnection(ClientSide, Connection):
    """A connection made by ``connect``; parameters are those of ``Connection``."""

    _opening = True
    _response_waiter: asyncio.Future[None] | None = None

    async def handshake(
        self,
        additional_headers: HeadersLike | None = None,
        user_agent_header: str | None = USER_AGENT,
    ) -> None:
        """Perform the opening handshake.

        Args:
            additional_headers: Headers to add to the request.
            user_agent_header: Value of the User-Agent header, unless it is among the additional
                ones; None for none.

        Raises:
            InvalidHandshake: If the server doesn't accept it.
        """
        self._send_request(additional_headers, user_agent_header, monotonic())
        self._response_waiter = self.loop.create_future()
        self._driver.update()
        await self._response_waiter
        if self.protocol.handshake_exc is not None:
            try:
                raise self.protocol.handshake_exc
            finally:
                del self  # the traceback mustn't hold what holds the exception

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._lost:
            super().connection_lost(exc)
            self._update_opening()

    def _update_opening(self) -> None:
        if self._receive_response():
            self._driver.opening = False
            if self._response_waiter is not None and not self._response_waiter.done():
                self._response_waiter.set_result(None)


class connect(TransportOpener[ClientConnection]):
    """Connect to a WebSocket server, once or again and again.

    ``await connect(...)`` returns a connection, which the caller closes. ``async with`` closes it
    at the end of the block: with code 1000, or 1011 if an exception ends the block.

    ``async for websocket in connect(...)`` connects each time the body ends, and when connecting
    fails as often as the policy wants it. The previous connection is closed before. Exceptions in
    the body aren't caught; leaving the loop closes the connection with 1000, which the event loop
    does in the background; ``contextlib.aclosing(aiter(connect(...)))`` does it at once.

    Args:
        uri: WebSocket URI. Its credentials go to its origin only: in a Basic authorization, and in
            a Digest one (RFC 7616) if the server then asks for that.
        origin: Value of the Origin header.
        extensions: Extension factories, in order of preference.
        subprotocols: Subprotocols, in order of preference.
        compression: "deflate" or None.
        additional_headers: Headers to add to the opening handshake. A redirect to another origin
            drops those that hold credentials, for good.
        user_agent_header: Value of the User-Agent header; None for none.
        proxy: URL of an HTTP or SOCKS proxy; True for the one that environment or system have for
            this URI; None for none. A connection that is there already, and a Unix socket, are used
            without proxy.
        process_exception: Policy of the reconnecting iterator: takes what connecting raised,
            returns None to try again or else what to raise.
        reconnect_delays: Callable that returns a generator of the seconds to wait after failures;
            called anew after each success. When it ends, the last failure is raised.
        open_timeout: Seconds that opening the connection may last in all; None for no limit.
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
        logger: Logger; ``wsapi.client`` by default.
        create_connection: Class of connections, or factory called like it.
        one_connecting: Wait while another connection of this process, made with this option too, is
            in its opening handshake with the same IP address (RFC 6455 section 4.1).
        **kwargs: ``host`` and ``port``, a connected ``sock``, or the ``path`` of a Unix socket
            change where to connect, not what the handshake says. ``ssl`` (an SSLContext),
            ``server_hostname``, ``ssl_handshake_timeout`` and ``ssl_shutdown_timeout`` are for TLS
            with the server, the same with prefix ``proxy_`` for TLS with an HTTPS proxy. Others are
            those of ``loop.create_connection``.

    Raises:
        InvalidURI: If the URI isn't valid.
        InvalidProxy: If the URL of the proxy isn't valid.
        TypeError, ValueError: If another argument isn't acceptable.
        OSError: If the TCP connection or TLS fails.
        ProxyError: If the proxy fails or refuses.
        InvalidHandshake: If the opening handshake fails.
        TimeoutError: If opening takes longer than ``open_timeout``.
    """

    names = TransportNames(
        ready="sock",
        places=("host", "port"),
        tls=("ssl", "server_hostname", "ssl_handshake_timeout", "ssl_shutdown_timeout"),
        tcp=frozenset(
            {
                "all_errors",
                "family",
                "flags",
                "happy_eyeballs_delay",
                "interleave",
                "local_addr",
                "proto",
            }
        ),
    )
    _foreign_methods = frozenset({"connect", "open_tcp_connection"})
    _foreign_settings = frozenset({"create_connection_kwargs", "factory"})
    ssl_optional = False
    own_options = ("write_limit",)

    def __init__(
        self,
        uri: str,
        *,
        origin: Origin | None = None,
        extensions: Sequence[Any] | None = None,
        subprotocols: Sequence[Subprotocol] | None = None,
        compression: str | None = "deflate",
        additional_headers: HeadersLike | None = None,
        user_agent_header: str | None = USER_AGENT,
        proxy: str | bool | None = True,
        process_exception: Callable[[Exception], Exception | None] = process_exception,
        reconnect_delays: Callable[[], Iterator[float]] = backoff,
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
        create_connection: Callable[..., ClientConnection] | None = None,
        one_connecting: bool = False,
        **kwargs: Unpack[_TransportOptions],
    ) -> None:
        options = arguments(locals())
        if "port" in options:
            options["port"] = checks.port_number(options["port"])
        super().__init__(uri, options, ClientConnection)
        checks.check_write_limit(write_limit)
        self._connection_options["write_limit"] = write_limit
        self._connection: ClientConnection | None = None

    # ------------------------------------------------------------------ shapes

    def __await__(self) -> Generator[Any, None, ClientConnection]:
        return self._connect().__await__()

    async def __aenter__(self) -> ClientConnection:
        if self._connection is not None:
            raise RuntimeError("connect() isn't reentrant")
        self._connection, entered = await self._enter()
        return entered

    async def _enter(self) -> tuple[ClientConnection, ClientConnection]:
        """Connect; return the connection, and what its context gives to its body."""
        connection = await self
        try:
            return connection, await connection.__aenter__()
        except BaseException:
            await connection.close(FAILURE)
            raise

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None
        return await connection.__aexit__(exc_type, exc_value, traceback)

    async def __aiter__(self) -> AsyncGenerator[ClientConnection, None]:
        """Yield connections, one after the other.

        Raises:
            Exception: What connecting raises and ``process_exception`` doesn't want tried again.
        """
        reconnection = self._reconnection()
        while True:
            try:
                connection, entered = await self._enter()
            except Exception as exc:
                await asyncio.sleep(self._failed(reconnection, exc))
                continue
            reconnection.succeeded()
            try:
                yield entered
            except (GeneratorExit, asyncio.CancelledError):
                # The loop was left. The latter is thrown in when the event loop ends at once.
                await connection.__aexit__(None, None, None)
                raise
            except BaseException as exc:
                await connection.__aexit__(type(exc), exc, exc.__traceback__)
                raise
            await connection.__aexit__(None, None, None)
            if delay := self._ended(reconnection, connection):
                await asyncio.sleep(delay)

    # ------------------------------------------------------------------ opening

    async def _connect(self) -> ClientConnection:
        self._target.begin()
        timeout = asyncio.timeout(self.open_timeout)
        try:
            async with timeout:
                while True:
                    try:
                        return await self._open()
                    except ProxyError:
                        raise
                    except InvalidHandshake as exc:
                        if not self._goes_on(exc, MAX_REDIRECTS):
                            raise
        except TimeoutError as exc:
            if timeout.expired():
                raise TimeoutError("timed out during opening handshake") from exc
            raise
        finally:
            del timeout  # it holds the task, and that its exception, and that this frame

    async def _open(self) -> ClientConnection:
        """Open a connection for one request."""
        uri, additional_headers = self._target.request()
        if self.one_connecting:
            async with turn(await self._ip_address(uri)):
                return await self._open_connection(uri, additional_headers)
        return await self._open_connection(uri, additional_headers)

    async def _open_connection(
        self,
        uri: WebSocketURI,
        additional_headers: HeadersLike | None,
    ) -> ClientConnection:
        opened = connection = self._new_connection(uri)
        try:
            try:
                opened = await self._open_transport(uri, connection)
            except BaseException as exc:
                # What the event loop has aborted is closed in its next turn.
                await asyncio.sleep(0)
                if isinstance(exc, OSError):
                    forget_frames(exc)  # those of the event loop hold it
                if not hasattr(connection, "_transport"):
                    # It frees what refers to itself. After start_tls(), the loop does so later.
                    connection.connection_lost(None)
                    forget_frames(connection.protocol.handshake_exc)
                raise
            if opened is not connection:
                connection.connection_lost(None)  # frees what refers to itself
                await opened.handshake(additional_headers, self.user_agent_header)
                return opened
            try:
                await connection.handshake(additional_headers, self.user_agent_header)
            except BaseException:
                connection._transport.abort()
                await connection.wait_closed()
                raise
            return connection
        finally:
            del connection, opened  # the traceback mustn't hold what holds the exception


def unix_connect(
    path: PathLike | None = None,
    uri: str | None = None,
    *,
    origin: Origin | None = None,
    extensions: Sequence[Any] | None = None,
    subprotocols: Sequence[Subprotocol] | None = None,
    compression: str | None = "deflate",
    additional_headers: HeadersLike | None = None,
    user_agent_header: str | None = USER_AGENT,
    proxy: str | bool | None = True,
    process_exception: Callable[[Exception], Exception | None] = process_exception,
    reconnect_delays: Callable[[], Iterator[float]] = backoff,
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
    create_connection: Callable[..., ClientConnection] | None = None,
    one_connecting: bool = False,
    **kwargs: Unpack[TransportOptions],
) -> connect:
    """Connect to a WebSocket server that listens on a Unix socket.

    Args:
        path: Path of the socket.
        uri: WebSocket URI for the handshake; ``ws://localhost/`` by default, ``wss://localhost/``
            with ``ssl``.
        **kwargs: As for ``connect``, as are those that aren't listed here.

    Raises:
        ValueError: Unless there is either a path or a connection that is there already.
    """
    options = arguments(locals())
    return connect(unix_arguments(path, uri, options), **options)


if not TYPE_CHECKING:
    __getattr__ = fallback(__name__, "wsapi._names")
