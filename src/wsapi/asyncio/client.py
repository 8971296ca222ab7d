"""WebSocket clients on an asyncio event loop.

Owns the way from a URI to an open connection: transport, proxy, TLS, opening handshake. What to
request after a redirect or a challenge, which proxy to use, and when to try again is decided by
modules that all front-ends share.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl as ssl_module
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, cast

from wsproto_fast import ClientProtocol
from wsproto_fast.datastructures import HeadersLike
from wsproto_fast.exceptions import InvalidStatus
from wsproto_fast.extensions.permessage_deflate import (
    enable_client_permessage_deflate,
)
from wsproto_fast.frames import CloseCode, State
from wsproto_fast.http11 import USER_AGENT, Response
from wsproto_fast.typing import LoggerLike, Origin, PathLike, Subprotocol
from wsproto_fast.uri import WebSocketURI

from .. import _options
from .._gate import gate
from .._reconnection import Reconnection, backoff, one_line, process_exception
from .._target import Target
from ..proxy import ConnectProtocol, Proxy, parse_proxy, select_proxy, socks_errors, socks_proxy
from .connection import Connection, check_options

__all__ = ["ClientConnection", "connect", "process_exception", "unix_connect"]

# What is passed on to the event loop.
_TCP_OPTIONS = frozenset(
    {"all_errors", "family", "flags", "happy_eyeballs_delay", "interleave", "local_addr", "proto"}
)
_TLS_OPTIONS = ("ssl", "server_hostname", "ssl_handshake_timeout", "ssl_shutdown_timeout")
_PROXY_TLS_OPTIONS = tuple(f"proxy_{name}" for name in _TLS_OPTIONS)
_PLACES = ("host", "port", "sock", "path")
_ALL_OPTIONS = _TCP_OPTIONS.union(_TLS_OPTIONS, _PROXY_TLS_OPTIONS, _PLACES)

# python-socks takes None for a limit of its own. This is one that isn't reached.
_NO_TIMEOUT = 1_000_000

ProcessException = Callable[[Exception], Exception | None]


class ClientConnection(Connection):
    """A connection made by ``connect``; parameters are those of ``Connection``."""

    _opening = True
    _response_waiter: asyncio.Future[None] | None = None

    def __init__(
        self,
        protocol: ClientProtocol,
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
        self.protocol: ClientProtocol

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
        request = self.protocol.connect()
        if additional_headers is not None:
            request.headers.update(additional_headers)
        if user_agent_header and "User-Agent" not in request.headers:
            request.headers["User-Agent"] = user_agent_header
        self.request = request
        self._set_timeouts()
        self.protocol.send_request(request)
        self._response_waiter = self.loop.create_future()
        self._pump.update()
        await self._response_waiter
        if self.protocol.handshake_exc is not None:
            raise self.protocol.handshake_exc

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._update_opening()

    def _update_opening(self) -> None:
        for event in self.protocol.events_received():
            if isinstance(event, Response):
                self.response = event
        if self.protocol.state is not State.CONNECTING or self.protocol.handshake_exc is not None:
            self._pump.opening = False
            if self._response_waiter is not None and not self._response_waiter.done():
                self._response_waiter.set_result(None)


class _Tunnel(asyncio.BufferedProtocol):
    """A connection to an HTTP proxy until there is a tunnel through it.

    It is a buffered protocol, like those that follow on the same transport.

    Args:
        protocol: The exchange with the proxy.
    """

    transport: asyncio.Transport | None = None

    def __init__(self, protocol: ConnectProtocol) -> None:
        self.protocol = protocol
        loop = asyncio.get_running_loop()
        self.established: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.failure: Exception | None = None  # even if there was a tunnel
        self.held = False  # the transport is open, and has this protocol
        self.buffer = memoryview(bytearray(8192))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self.protocol.request)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.failure is None:
            try:
                if self.protocol.receive_data(self.buffer[:nbytes]):
                    self.finish(None)
            except Exception as exc:
                self.finish(exc)

    def eof_received(self) -> None:
        if self.failure is None:
            try:
                self.protocol.receive_eof()
            except Exception as exc:
                self.finish(exc)
            else:
                self.finish(ConnectionResetError("connection closed by proxy"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.finish(exc or ConnectionResetError("connection closed by proxy"))
        self.lost.set_result(None)

    def finish(self, exc: Exception | None) -> None:
        """Have the coroutine go on that waits for the tunnel, or fail when it leaves it."""
        if self.failure is None:
            self.failure = exc
        if self.established.done():
            return
        if exc is None:
            self.established.set_result(None)
        else:
            self.established.set_exception(exc)
            self.established.exception()  # nobody looks at it after a cancellation


@asynccontextmanager
async def _turn(key: str) -> AsyncIterator[None]:
    """Wait for one's turn at the gate; leave it at the end of the context."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def proceed() -> None:
        loop.call_soon_threadsafe(wake)

    if not gate.enter(key, proceed):
        try:
            await waiter
        except asyncio.CancelledError:
            gate.give_up(key, proceed)
            raise
    try:
        yield
    finally:
        gate.leave(key)


def _check_tls(options: dict[str, Any], name: str, what: str) -> None:
    """Check one ``ssl`` argument of a connection that uses TLS."""
    ssl = options.get(name, True)
    if ssl is None:
        raise ValueError(f"{name}=None is incompatible with {what}")
    if ssl is not True and not isinstance(ssl, ssl_module.SSLContext):
        raise TypeError(f"{name} must be an SSLContext or True, not {type(ssl).__name__}")


def _check_transport(options: dict[str, Any], secure: bool) -> None:
    """Check the arguments that say where to connect and how."""
    unknown = options.keys() - _ALL_OPTIONS
    if unknown:
        raise TypeError(f"connect() got unexpected keyword arguments: {sorted(unknown)}")
    _options.check_port(options.get("port"))
    if options.get("sock") is not None and any(
        options.get(name) is not None for name in ("host", "port", "path")
    ):
        raise ValueError("sock is incompatible with host, port and path")
    if secure:
        _check_tls(options, "ssl", "a wss:// URI")
    else:
        for name in _TLS_OPTIONS:
            if options.get(name) is not None:
                raise ValueError(f"{name} argument is incompatible with a ws:// URI")
    if options.get("proxy_ssl") is not None:
        _check_tls(options, "proxy_ssl", "an https:// proxy")
    for name in (*_TLS_OPTIONS, *_PROXY_TLS_OPTIONS):
        value = options.get(name)
        if name.endswith("_hostname"):
            _options.check_instance(name, value, str, "a str")
        elif name.endswith("_timeout"):
            _options.check_instance(name, value, (int, float), "a number of seconds")
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive or None; got {value}")


class connect:
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
            this URI; None for none. A ``sock`` or ``path`` is used without proxy.
        process_exception: Policy of the reconnecting iterator: takes what connecting raised,
            returns None to try again or else what to raise.
        open_timeout: Seconds that opening the connection may last in all; None for no limit.
        ping_interval: Seconds between keepalive pings; None for none.
        ping_timeout: Seconds after a keepalive ping in which something must be received; None for
            no limit.
        close_timeout: Seconds that closing may last; None for no limit.
        reconnect_delays: Callable that returns a generator of the seconds to wait after failures;
            called anew after each success. When it ends, the last failure is raised.
        max_size: Limit on incoming messages in bytes, or a pair of limits on messages and on
            fragments; None for no limit.
        max_queue: Number of received frames in the queue above which reading pauses, or a pair of
            this and of the number at which it resumes; None for no limit.
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
        process_exception: ProcessException = process_exception,
        open_timeout: float | None = 10,
        ping_interval: float | None = 20,
        ping_timeout: float | None = 20,
        close_timeout: float | None = 10,
        reconnect_delays: Callable[[], Iterator[float]] = backoff,
        max_size: int | tuple[int | None, int | None] | None = 2**20,
        max_queue: int | tuple[int | None, int | None] | None = 16,
        write_limit: int | tuple[int, int | None] = 2**15,
        logger: LoggerLike | None = None,
        create_connection: Callable[..., ClientConnection] | None = None,
        one_connecting: bool = False,
        **kwargs: Any,
    ) -> None:
        if not isinstance(uri, str):
            raise TypeError(f"uri must be a str, not {type(uri).__name__}")
        self._target = Target(
            uri,
            additional_headers,
            socket=kwargs.get("sock") is not None,
            fixed=(
                "a Unix socket"
                if "path" in kwargs
                else "an explicit host or port"
                if kwargs.get("host") is not None or kwargs.get("port") is not None
                else None
            ),
        )
        _check_transport(kwargs, self._target.parsed.secure)
        _options.check_header("origin", origin)
        _options.check_extensions(extensions, ["get_request_params", "process_response_params"])
        _options.check_subprotocols(subprotocols)
        if compression == "deflate":
            extensions = enable_client_permessage_deflate(extensions)
        elif compression is not None:
            raise ValueError(f"unsupported compression: {compression}; use 'deflate' or None")
        _options.check_header("user_agent_header", user_agent_header)
        if isinstance(proxy, str):
            self._check_proxy_tls(parse_proxy(proxy), kwargs)
        elif proxy is not True and proxy is not None:
            raise TypeError(f"proxy must be a URL, True or None, not {proxy!r}")
        _options.check_callable("process_exception", process_exception, optional=False)
        _options.check_callable("reconnect_delays", reconnect_delays, optional=False)
        _options.check_pair("max_size", max_size)
        _options.check_pair("max_queue", max_queue)
        check_options(max_size, max_queue, open_timeout, ping_interval, ping_timeout, close_timeout)
        _options.check_write_limit(write_limit)
        _options.check_instance(
            "logger", logger, (logging.Logger, logging.LoggerAdapter), "a Logger, a LoggerAdapter"
        )
        _options.check_callable("create_connection", create_connection)
        if not isinstance(one_connecting, bool):
            raise TypeError(f"one_connecting must be a bool, not {type(one_connecting).__name__}")
        self.open_timeout = open_timeout
        self.user_agent_header = user_agent_header
        self.proxy = proxy
        self.process_exception = process_exception
        self.reconnect_delays = reconnect_delays
        self.one_connecting = one_connecting
        self.logger = logging.getLogger("wsapi.client") if logger is None else logger
        self._options = kwargs
        connection_class = ClientConnection if create_connection is None else create_connection

        def factory(uri: WebSocketURI) -> ClientConnection:
            return connection_class(
                ClientProtocol(
                    uri,
                    origin=origin,
                    extensions=extensions,
                    subprotocols=subprotocols,
                    max_size=max_size,
                    logger=self.logger,
                ),
                ping_interval=ping_interval,
                ping_timeout=ping_timeout,
                close_timeout=close_timeout,
                max_queue=max_queue,
                write_limit=write_limit,
            )

        self._factory = factory
        self._connection: ClientConnection | None = None
        self._default_context: ssl_module.SSLContext | None = None

    # ------------------------------------------------------------------ shapes

    def __await__(self) -> Generator[Any, None, ClientConnection]:
        return self._connect().__await__()

    async def __aenter__(self) -> ClientConnection:
        if self._connection is not None:
            raise RuntimeError("connect() isn't reentrant")
        self._connection = await self
        return self._connection

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None
        await connection.close(
            CloseCode.NORMAL_CLOSURE if exc_type is None else CloseCode.INTERNAL_ERROR
        )

    async def __aiter__(self) -> AsyncGenerator[ClientConnection, None]:
        """Yield connections, one after the other.

        Raises:
            Exception: What connecting raises and ``process_exception`` doesn't want tried again.
        """
        reconnection = Reconnection(self.process_exception, self.reconnect_delays)
        while True:
            try:
                connection = await self
            except Exception as exc:
                delay = reconnection.failed(exc)
                self.logger.info(
                    "connect failed; reconnecting in %.1f seconds: %s", delay, one_line(exc)
                )
                await asyncio.sleep(delay)
                continue
            reconnection.succeeded()
            code = CloseCode.NORMAL_CLOSURE
            try:
                yield connection
            except (GeneratorExit, asyncio.CancelledError):
                # The loop was left. The latter is thrown in when the event loop ends at once.
                raise
            except BaseException:
                code = CloseCode.INTERNAL_ERROR
                raise
            finally:
                await connection.close(code)

    # ------------------------------------------------------------------ opening

    async def _connect(self) -> ClientConnection:
        target = self._target
        target.begin()
        try:
            async with asyncio.timeout(self.open_timeout) as timeout:
                while True:
                    try:
                        return await self._open()
                    except InvalidStatus as exc:
                        target.process_response(exc)
        except TimeoutError as exc:
            if timeout.expired():
                raise TimeoutError("timed out during opening handshake") from exc
            raise

    async def _open(self) -> ClientConnection:
        """Open a connection for one request."""
        uri, additional_headers = self._target.request()
        connection = self._factory(uri)
        if self.one_connecting:
            async with _turn(await self._address(uri)):
                return await self._open_connection(uri, connection, additional_headers)
        return await self._open_connection(uri, connection, additional_headers)

    async def _address(self, uri: WebSocketURI) -> str:
        """Return the IP address to connect to, or the name if the host isn't for us to look up."""
        options = self._options
        if "path" in options or options.get("sock") is not None:
            return uri.host
        if options.get("host") is None and select_proxy(self.proxy, uri) is not None:
            return uri.host
        host = uri.host if options.get("host") is None else options["host"]
        port = uri.port if options.get("port") is None else options["port"]
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return str(infos[0][4][0])

    async def _open_connection(
        self,
        uri: WebSocketURI,
        connection: ClientConnection,
        additional_headers: HeadersLike | None,
    ) -> ClientConnection:
        try:
            await self._open_transport(uri, connection)
        except BaseException:
            # What the event loop has aborted is closed in its next turn.
            await asyncio.sleep(0)
            raise
        try:
            await connection.handshake(additional_headers, self.user_agent_header)
        except BaseException:
            connection.transport.abort()
            await connection.wait_closed()
            raise
        return connection

    async def _open_transport(self, uri: WebSocketURI, connection: ClientConnection) -> None:
        """Connect to the server, through a proxy or not."""
        loop = asyncio.get_running_loop()
        options = self._options
        tcp = {name: value for name, value in options.items() if name in _TCP_OPTIONS}
        tls: dict[str, Any] = {}
        if uri.secure:
            _check_tls(options, "ssl", "a wss:// URI")
            tls = {name: options[name] for name in _TLS_OPTIONS if name in options}
            tls["ssl"] = self._context(tls.get("ssl", True))
            if tls.get("server_hostname") is None:
                tls["server_hostname"] = uri.host
        if "path" in options:
            await loop.create_unix_connection(
                lambda: connection, options["path"], sock=options.get("sock"), **tls
            )
            return
        if options.get("sock") is not None:
            if options["sock"].fileno() == -1:
                raise ValueError("sock is closed; it is good for one connection only")
            await loop.create_connection(lambda: connection, sock=options["sock"], **tls)
            return
        host = uri.host if options.get("host") is None else options["host"]
        port = uri.port if options.get("port") is None else options["port"]
        proxy = select_proxy(self.proxy, uri)
        if proxy is None:
            await loop.create_connection(lambda: connection, host, port, **tcp, **tls)
        elif proxy.is_socks:
            self._check_proxy_tls(proxy, options)
            socks = socks_proxy("async_.asyncio", proxy)
            with socks_errors():
                # There is one timeout for all.
                sock = await socks.connect(
                    host, port, timeout=_NO_TIMEOUT, local_addr=tcp.get("local_addr")
                )
            await loop.create_connection(lambda: connection, sock=sock, **tls)
        else:
            self._check_proxy_tls(proxy, options)
            tunnel = _Tunnel(ConnectProtocol(proxy, host, port, self.user_agent_header))
            try:
                await self._open_tunnel(proxy, tunnel, tcp)
                await self._leave_tunnel(tunnel, connection, tls)
            except BaseException:
                if tunnel.transport is not None:
                    tunnel.transport.abort()
                if tunnel.held:
                    await tunnel.lost
                raise

    def _context(self, ssl: Any) -> Any:
        """Return an SSLContext for an ``ssl`` argument; loading authorities takes a while."""
        if ssl is not True:
            return ssl
        if self._default_context is None:
            self._default_context = ssl_module.create_default_context()
        return self._default_context

    @staticmethod
    def _check_proxy_tls(proxy: Proxy, options: dict[str, Any]) -> None:
        """Check that TLS options for a proxy go with its scheme."""
        if proxy.scheme == "https":
            _check_tls(options, "proxy_ssl", "an https:// proxy")
            return
        for name in _PROXY_TLS_OPTIONS:
            if options.get(name) is not None:
                article = "an" if proxy.scheme == "http" else "a"
                raise ValueError(
                    f"{name} argument is incompatible with {article} {proxy.scheme}:// proxy"
                )

    async def _open_tunnel(self, proxy: Proxy, tunnel: _Tunnel, tcp: dict[str, Any]) -> None:
        """Connect to an HTTP proxy and have it connect to the server."""
        tls: dict[str, Any] = {}
        if proxy.scheme == "https":
            tls = {
                name.removeprefix("proxy_"): self._options[name]
                for name in _PROXY_TLS_OPTIONS
                if name in self._options
            }
            tls["ssl"] = self._context(tls.get("ssl", True))
            if tls.get("server_hostname") is None:
                tls["server_hostname"] = proxy.host
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: tunnel, proxy.host, proxy.port, **tcp, **tls)
        tunnel.held = True
        await tunnel.established

    @staticmethod
    async def _leave_tunnel(
        tunnel: _Tunnel, connection: ClientConnection, tls: dict[str, Any]
    ) -> None:
        """Have the connection take over the transport, with TLS on top if there are options."""
        assert tunnel.transport is not None
        if tunnel.failure is not None:
            raise tunnel.failure
        transport = tunnel.transport
        tunnel.held = False
        if tls:
            if sys.version_info < (3, 12, 2) and transport.get_extra_info("sslcontext"):
                # gh-113214: there, a failure of TLS inside TLS ends in a TypeError.
                if hasattr(transport, "__dict__"):
                    transport._force_close = lambda exc: transport.abort()  # type: ignore[attr-defined]
            loop = asyncio.get_running_loop()
            ssl = tls.pop("ssl")
            inner = await loop.start_tls(transport, connection, ssl, **tls)
            if inner is None or connection.state is State.CLOSED:
                raise ConnectionResetError("connection lost during TLS handshake")
            transport = inner
        else:
            transport.set_protocol(connection)
        connection.connection_made(transport)


def unix_connect(path: PathLike | None = None, uri: str | None = None, **kwargs: Any) -> connect:
    """Connect to a WebSocket server that listens on a Unix socket.

    Args:
        path: Path of the socket.
        uri: WebSocket URI for the handshake; ``ws://localhost/`` by default, ``wss://localhost/``
            with ``ssl``.
        **kwargs: As for ``connect``, and those of ``loop.create_unix_connection``.

    Raises:
        ValueError: If there is neither a path nor a ``sock``.
    """
    if path is None and kwargs.get("sock") is None:
        raise ValueError("missing path argument")
    if uri is None:
        uri = "ws://localhost/" if kwargs.get("ssl") is None else "wss://localhost/"
    return connect(uri=uri, path=path, **kwargs)
