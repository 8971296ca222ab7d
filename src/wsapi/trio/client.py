"""WebSocket clients on trio.

Owns the way from a URI to an open connection: stream, proxy, TLS, opening handshake. What to
request after a redirect or a challenge, which proxy to use, and when to try again is decided by
modules that all front-ends share.
"""

from __future__ import annotations

import contextlib
import ssl as ssl_module
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from math import inf
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, Unpack

import trio

from wsproto_fast.aliases import fallback
from wsproto_fast.datastructures import HeadersLike
from wsproto_fast.frames import CloseCode
from wsproto_fast.http11 import USER_AGENT
from wsproto_fast.rates import RateLike
from wsproto_fast.typing import LoggerLike, Origin, PathLike, Subprotocol
from wsproto_fast.uri import WebSocketURI

from .._shared.client import BaseConnect, ClientSide, TransportNames, unix_arguments
from .._shared.connection import FAILURE
from .._shared.gate import gate
from .._shared.options import Limits, OnDrop, arguments
from .._shared.reconnection import backoff, process_exception
from .._shared.target import MAX_REDIRECTS
from ..limits import MAX_BACKLOG, Slow
from ..proxy import ConnectProtocol, Proxy, socks_errors, socks_proxy
from ._transports import start_tls, tls_errors
from .connection import Connection

__all__ = ["ClientConnection", "connect", "process_exception", "unix_connect"]

# python-socks takes None for a limit of its own. This is one that isn't reached.
_NO_TIMEOUT = 1_000_000


class TransportOptions(TypedDict, total=False):
    """Options of ``connect`` that say where to connect and how."""

    host: str | None
    port: int | None
    local_address: str | None
    happy_eyeballs_delay: float | None


class _TransportOptions(TransportOptions, total=False):
    path: PathLike | None


class ClientConnection(ClientSide, Connection):
    """A connection made by ``connect``; parameters are those of ``Connection``."""

    _opening = True

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
        self._send_request(additional_headers, user_agent_header, trio.current_time())
        self._update()
        while not self._receive_response():
            await self._wait()
        if self.protocol.handshake_exc is not None:
            try:
                raise self.protocol.handshake_exc
            finally:
                del self  # the traceback mustn't hold what holds the exception


@asynccontextmanager
async def _turn(key: str) -> AsyncIterator[None]:
    """Wait for one's turn at the gate; leave it at the end of the context."""
    turn = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def proceed() -> None:
        token.run_sync_soon(turn.set)

    if not gate.enter(key, proceed):
        try:
            await turn.wait()
        except BaseException:
            gate.give_up(key, proceed)
            raise
    try:
        yield
    finally:
        gate.leave(key)


class connect(BaseConnect[ClientConnection]):
    """Connect to a WebSocket server, once or again and again.

    ``async with`` closes the connection at the end of the block: with code 1000, or 1011 if an
    exception ends the block.

    ``async for websocket in connect(...)`` connects each time the body ends, and when connecting
    fails as often as the policy wants it. The previous connection is closed before. Exceptions in
    the body aren't caught; leaving the loop closes the connection with 1000, which is done in the
    background; ``contextlib.aclosing(aiter(connect(...)))`` waits for it.

    Args:
        uri: WebSocket URI. Its credentials go to its origin only: in a Basic authorization, and in
            a Digest one (RFC 7616) if the server then asks for that.
        stream: Stream to use instead of a new one; TLS is added to it for a wss:// URI.
        ssl: Configuration of TLS with the server; None for the default one.
        server_hostname: Name in the server's certificate; None for the URI's host.
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
        proxy_ssl: Configuration of TLS with an HTTPS proxy; None for the default one.
        proxy_server_hostname: Name in the proxy's certificate; None for its host.
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
        logger: Logger; ``wsapi.client`` by default.
        create_connection: Class of connections, or factory called like it.
        one_connecting: Wait while another connection of this process, made with this option too, is
            in its opening handshake with the same IP address (RFC 6455 section 4.1).
        **kwargs: ``host`` and ``port``, or the ``path`` of a Unix socket change where to connect,
            not what the handshake says. Others are those of ``trio.open_tcp_stream``.

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
        ready="stream",
        places=("host", "port"),
        tls=("ssl", "server_hostname"),
        tcp=frozenset({"local_address", "happy_eyeballs_delay"}),
    )
    _foreign_methods = frozenset({"connect", "enable_tls", "open_connection", "open_tcp_stream"})
    _foreign_settings = frozenset(
        {
            "connection_kwargs",
            "create_connection",
            "open_tcp_stream_kwargs",
            "protocol_kwargs",
            "proxy_server_hostname",
            "proxy_ssl",
            "server_hostname",
            "ssl",
            "stream",
        }
    )

    def __init__(
        self,
        uri: str,
        *,
        stream: trio.abc.Stream | None = None,
        ssl: ssl_module.SSLContext | Literal[True] | None = None,
        server_hostname: str | None = None,
        origin: Origin | None = None,
        extensions: Sequence[Any] | None = None,
        subprotocols: Sequence[Subprotocol] | None = None,
        compression: str | None = "deflate",
        additional_headers: HeadersLike | None = None,
        user_agent_header: str | None = USER_AGENT,
        proxy: str | bool | None = True,
        proxy_ssl: ssl_module.SSLContext | Literal[True] | None = None,
        proxy_server_hostname: str | None = None,
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
        logger: LoggerLike | None = None,
        create_connection: Callable[..., ClientConnection] | None = None,
        one_connecting: bool = False,
        **kwargs: Unpack[_TransportOptions],
    ) -> None:
        super().__init__(uri, arguments(locals()), ClientConnection)
        self._connection: ClientConnection | None = None
        self._manager: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._nursery: trio.Nursery
        self._stream_taken = False

    # ------------------------------------------------------------------ shapes

    async def __aenter__(self) -> ClientConnection:
        if self._manager is not None:
            raise RuntimeError("connect() isn't reentrant")
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        try:
            self._connection, entered = await self._enter(self._nursery)
        except BaseException:
            await self._leave()
            raise
        return entered

    async def _enter(self, nursery: trio.Nursery) -> tuple[ClientConnection, ClientConnection]:
        """Connect; return the connection, and what its context gives to its body."""
        connection = await self._connect(nursery)
        try:
            return connection, await connection.__aenter__()
        except BaseException:
            await connection.aclose(FAILURE)
            raise

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None
        try:
            return await connection.__aexit__(exc_type, exc_value, traceback)
        finally:
            await self._leave()

    async def _leave(self) -> None:
        """Leave the nursery, in which nothing is left that matters.

        It isn't told of an exception: what the body of a context raises stays as it is.
        """
        manager, self._manager = self._manager, None
        assert manager is not None
        self._nursery.cancel_scope.shield = True
        self._nursery.cancel_scope.cancel()
        await manager.__aexit__(None, None, None)

    def __aiter__(self) -> AsyncIterator[ClientConnection]:
        """Iterate over connections, one after the other.

        Raises:
            Exception: What connecting raises and ``process_exception`` doesn't want tried again.
        """
        return _Connections(self)

    # ------------------------------------------------------------------ opening

    async def _connect(self, nursery: trio.Nursery) -> ClientConnection:
        self._target.begin()
        with trio.move_on_after(inf if self.open_timeout is None else self.open_timeout):
            while True:
                try:
                    return await self._open(nursery)
                except Exception as exc:
                    if not self._goes_on(exc, MAX_REDIRECTS):
                        raise
        raise TimeoutError("timed out during opening handshake")

    async def _open(self, nursery: trio.Nursery) -> ClientConnection:
        """Open a connection for one request."""
        uri, additional_headers = self._target.request()
        if self.one_connecting:
            async with _turn(await self._ip_address(uri)):
                return await self._open_connection(nursery, uri, additional_headers)
        return await self._open_connection(nursery, uri, additional_headers)

    async def _ip_address(self, uri: WebSocketURI) -> str:
        """Return the IP address to connect to, or the name if the host isn't for us to look up."""
        host = self._gate_key(uri)
        if host is not None:
            return host
        host, port = self._address(uri)
        infos = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
        return str(infos[0][4][0])

    async def _open_connection(
        self, nursery: trio.Nursery, uri: WebSocketURI, additional_headers: HeadersLike | None
    ) -> ClientConnection:
        stream = await self._open_stream(uri)
        connection: ClientConnection | None = None
        try:
            connection = self._new_connection(uri, nursery, stream)
            await connection.handshake(additional_headers, self.user_agent_header)
            return connection
        except BaseException:
            if connection is not None:
                connection._abort()
            await trio.aclose_forcefully(stream)
            raise
        finally:
            del connection  # the traceback mustn't hold what holds the exception

    async def _open_stream(self, uri: WebSocketURI) -> trio.abc.Stream:
        """Connect to the server, through a proxy or not."""
        options = self._options
        tls = self._tls(uri)
        stream: trio.abc.Stream
        if self._is_ready():
            if self._stream_taken:
                raise ValueError("stream is closed; it is good for one connection only")
            self._stream_taken = True
            stream = options["stream"]
        elif self._is_unix():
            stream = await trio.open_unix_socket(options["path"])
        else:
            stream = await self._open_tcp_stream(uri)
        return stream if tls is None else await start_tls(stream, **tls)

    async def _open_tcp_stream(self, uri: WebSocketURI) -> trio.abc.Stream:
        host, port = self._address(uri)
        tcp = self._tcp()
        proxy = self._select_proxy(uri)
        if proxy is None:
            return await trio.open_tcp_stream(host, port, **tcp)
        if not proxy.is_socks:
            return await self._open_tunnel(proxy, host, port, tcp)
        socks = socks_proxy("async_.trio", proxy)
        with socks_errors():
            # There is one timeout for all.
            sock = await socks.connect(
                host,
                port,
                timeout=_NO_TIMEOUT,
                local_addr=(tcp["local_address"], 0) if "local_address" in tcp else None,
            )
        return trio.SocketStream(sock)

    async def _open_tunnel(
        self, proxy: Proxy, host: str, port: int, tcp: dict[str, Any]
    ) -> trio.abc.Stream:
        """Connect to an HTTP proxy and have it connect to the server."""
        tls = self._proxy_tls(proxy)
        stream: trio.abc.Stream = await trio.open_tcp_stream(proxy.host, proxy.port, **tcp)
        if tls is not None:
            stream = await start_tls(stream, **tls)
        tunnel = ConnectProtocol(proxy, host, port, self.user_agent_header)
        try:
            try:
                with tls_errors():
                    await stream.send_all(tunnel.request)
                    while data := await stream.receive_some():
                        if tunnel.receive_data(bytes(data)):
                            return stream
            except OSError as exc:
                tunnel.receive_eof(exc)
            tunnel.receive_eof()
            raise AssertionError("an answer that isn't complete was accepted")
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise


class _Connections:
    """Iterator that connects again and again.

    Who iterates may stop without a word, so the connections' nursery can't be part of the task that
    iterates: a system task holds it, until this iterator is gone.
    """

    def __init__(self, factory: connect) -> None:
        self._factory = factory
        self._reconnection = factory._reconnection()
        self._host: _Host | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ClientConnection:
        if self._host is None:
            self._host = _Host()
        host = self._host
        if host.connection is not None:
            await host.connection.__aexit__(None, None, None)
            delay = self._factory._ended(self._reconnection, host.connection)
            host.connection = None
            await trio.sleep(delay)
        while True:
            try:
                connection, entered = await self._factory._enter(await host.nursery())
            except Exception as exc:
                await trio.sleep(self._factory._failed(self._reconnection, exc))
                continue
            self._reconnection.succeeded()
            host.connection = connection
            return entered

    async def aclose(self) -> None:
        """Close the connection, if there is one."""
        if self._host is not None:
            await self._host.aclose()
            self._host = None

    def __del__(self) -> None:
        if self._host is not None:
            self._host.leave()


class _Host:
    """A system task with a nursery for connections."""

    def __init__(self) -> None:
        self.connection: ClientConnection | None = None
        self._token = trio.lowlevel.current_trio_token()
        self._nursery: trio.Nursery | None = None
        self._ready = trio.Event()
        self._left = trio.Event()
        self._done = trio.Event()
        trio.lowlevel.spawn_system_task(self._run)

    async def nursery(self) -> trio.Nursery:
        """Return the nursery."""
        await self._ready.wait()
        assert self._nursery is not None
        return self._nursery

    def leave(self) -> None:
        """Have the connection closed in the background; any thread may call this, at any time."""
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._left.set)

    async def aclose(self) -> None:
        """Close the connection."""
        self._left.set()
        try:
            await self._done.wait()
        except BaseException:
            if self.connection is not None:
                self.connection._drop(CloseCode.NORMAL_CLOSURE)
            raise

    async def _run(self) -> None:
        async with trio.open_nursery() as self._nursery:
            self._ready.set()
            try:
                await self._left.wait()
                if self.connection is not None:
                    await self.connection.__aexit__(None, None, None)
            except Exception:
                assert self.connection is not None
                self.connection.logger.error("closing failed", exc_info=True)
            finally:
                # When the run of trio ends, there is no time for a closing handshake.
                if self.connection is not None:
                    self.connection._drop(CloseCode.NORMAL_CLOSURE)
                self._nursery.cancel_scope.cancel()
                self._done.set()


def unix_connect(
    path: PathLike | None = None,
    uri: str | None = None,
    *,
    stream: trio.abc.Stream | None = None,
    ssl: ssl_module.SSLContext | Literal[True] | None = None,
    server_hostname: str | None = None,
    origin: Origin | None = None,
    extensions: Sequence[Any] | None = None,
    subprotocols: Sequence[Subprotocol] | None = None,
    compression: str | None = "deflate",
    additional_headers: HeadersLike | None = None,
    user_agent_header: str | None = USER_AGENT,
    proxy: str | bool | None = True,
    proxy_ssl: ssl_module.SSLContext | Literal[True] | None = None,
    proxy_server_hostname: str | None = None,
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
    uri = unix_arguments(path, uri, options, "stream")
    if path is None:
        del options["path"]
    return connect(uri, **options)


if not TYPE_CHECKING:
    __getattr__ = fallback(__name__, "wsapi._names")
