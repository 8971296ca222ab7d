"""WebSocket clients for threads.

Owns the way from a URI to an open connection: socket, proxy, TLS, opening handshake. What to
request after a redirect or a challenge, which proxy to use, and when to try again is decided by
modules that all front-ends share.
"""

from __future__ import annotations

import socket
import ssl as ssl_module
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

from wsproto_fast.aliases import fallback
from wsproto_fast.datastructures import HeadersLike
from wsproto_fast.http11 import USER_AGENT
from wsproto_fast.rates import RateLike
from wsproto_fast.typing import LoggerLike, Origin, PathLike, Subprotocol

from .._shared.client import ClientSide, TransportNames, unix_arguments
from .._shared.connection import FAILURE
from .._shared.options import Limits, OnDrop, arguments
from .._shared.reconnection import backoff, process_exception
from .._shared.target import MAX_REDIRECTS
from ..limits import MAX_BACKLOG, Slow
from ._channel import Deadline
from ._opening import ConnectionOpener, warn_unentered
from .connection import Connection

__all__ = [
    "ClientConnection",
    "backoff",
    "connect",
    "process_exception",
    "reconnect",
    "unix_connect",
    "unix_reconnect",
]


class TransportOptions(TypedDict, total=False):
    """Options of ``connect`` and ``reconnect`` that say where to connect and how."""

    address: tuple[str, int]
    source_address: tuple[str, int] | None
    timeout: float | None
    all_errors: bool


class _TransportOptions(TransportOptions, total=False):
    path: PathLike | None
    ssl_context: ssl_module.SSLContext | None


class ClientConnection(ClientSide, Connection):
    """A connection made by ``connect``; parameters are those of ``Connection``."""

    _opening = True

    def handshake(
        self,
        additional_headers: HeadersLike | None = None,
        user_agent_header: str | None = USER_AGENT,
        timeout: float | None = None,
    ) -> None:
        """Perform the opening handshake.

        Args:
            additional_headers: Headers to add to the request.
            user_agent_header: Value of the User-Agent header, unless it is among the additional
                ones; None for none.
            timeout: Seconds that it may last, None for no limit.

        Raises:
            InvalidHandshake: If the server doesn't accept it.
            TimeoutError: If there is no answer in time.
        """
        driver = self._driver
        deadline = driver.deadline(timeout)
        driver.call(self._send_request, additional_headers, user_agent_header, monotonic())
        while not driver.call(self._receive_response):
            if driver.progress(deadline):
                raise TimeoutError("timed out while waiting for handshake response")
        if self.protocol.handshake_exc is not None:
            try:
                raise self.protocol.handshake_exc
            finally:
                del self, driver  # the traceback mustn't hold what holds the exception
        driver.watch()


class reconnect(ConnectionOpener[ClientConnection]):
    """Connect to a WebSocket server, once or again and again.

    Entered as a context manager, this connects, and closes the connection at the end of the block:
    with code 1000, or 1011 if an exception ends the block.

    ``for websocket in reconnect(...)`` connects each time the body ends, and when connecting fails
    as often as the policy wants it. The previous connection is closed before. Exceptions in the
    body aren't caught; leaving the loop closes the connection with 1000.

    Args:
        uri: WebSocket URI. Its credentials go to its origin only: in a Basic authorization, and in
            a Digest one (RFC 7616) if the server then asks for that.
        sock: Connected socket, to be used instead of a new one.
        ssl: TLS configuration, for a ``wss://`` URI; None for a default one.
        server_hostname: Name that the server's certificate must have; that in the URI by default.
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
        proxy_ssl: TLS configuration for an ``https://`` proxy; None for a default one.
        proxy_server_hostname: Name that such a proxy's certificate must have; its own by default.
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
        **kwargs: ``address``, a pair of host and port, changes where to connect, not what the
            handshake says. Others are those of ``socket.create_connection``.

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
        places=("address",),
        tls=("ssl", "server_hostname"),
        tcp=frozenset({"source_address", "timeout", "all_errors"}),
    )
    _foreign_methods = frozenset({"connect", "enable_tls", "open_connection", "open_socket"})
    _foreign_settings = frozenset(
        {
            "connection_kwargs",
            "create_connection",
            "open_socket_kwargs",
            "protocol_kwargs",
            "proxy_server_hostname",
            "proxy_ssl",
            "server_hostname",
            "sock",
            "ssl",
        }
    )

    def __init__(
        self,
        uri: str,
        *,
        sock: socket.socket | None = None,
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
        options = arguments(locals())
        if "ssl_context" in kwargs:
            warnings.warn("ssl_context was renamed to ssl", DeprecationWarning, stacklevel=2)
            options["ssl"] = ssl or options.pop("ssl_context")
        if isinstance(sock, ssl_module.SSLSocket):
            # A thread can't read from it while another one writes to it.
            raise TypeError("sock must be a plain socket; ssl=SSLContext puts TLS on top of it")
        super().__init__(uri, options, ClientConnection)
        self._connection: ClientConnection | None = None

    # ------------------------------------------------------------------ shapes

    def __enter__(self) -> ClientConnection:
        if self._connection is not None:
            raise RuntimeError("connect() isn't reentrant")
        self._connection, entered = self._enter()
        return entered

    def _enter(self) -> tuple[ClientConnection, ClientConnection]:
        """Connect; return the connection, and what its context gives to its body."""
        connection = self._connect()
        try:
            return connection, connection.__enter__()
        except BaseException:
            connection.close(FAILURE)
            raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None
        return connection.__exit__(exc_type, exc_value, traceback)

    def __iter__(self) -> Generator[ClientConnection, None, None]:
        """Yield connections, one after the other.

        Raises:
            Exception: What connecting raises and ``process_exception`` doesn't want tried again.
        """
        reconnection = self._reconnection()
        while True:
            try:
                connection, entered = self._enter()
            except Exception as exc:
                self._sleep(self._failed(reconnection, exc))
                continue
            reconnection.succeeded()
            try:
                yield entered
            except GeneratorExit:  # the loop was left
                connection.__exit__(None, None, None)
                raise
            except BaseException as exc:
                connection.__exit__(type(exc), exc, exc.__traceback__)
                raise
            connection.__exit__(None, None, None)
            if delay := self._ended(reconnection, connection):
                self._sleep(delay)

    def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def _connect(self) -> ClientConnection:
        deadline = Deadline(self.open_timeout)
        self._target.begin()
        while True:
            try:
                return self._open(deadline)
            except Exception as exc:
                if not self._goes_on(exc, MAX_REDIRECTS):
                    raise


@overload
def connect(
    uri: str,
    *,
    legacy: Literal[True] | None = None,
    sock: socket.socket | None = None,
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
) -> ClientConnection: ...
@overload
def connect(uri: str, *, legacy: bool | None, **kwargs: Any) -> ClientConnection | reconnect: ...


def connect(
    uri: str,
    *,
    legacy: bool | None = None,
    sock: socket.socket | None = None,
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
    **kwargs: Any,
) -> ClientConnection | reconnect:
    """Connect to a WebSocket server.

    Returns a connection, to be entered as a context manager, which closes it at the end of the
    block: with code 1000, or 1011 if an exception ends the block.

    Args:
        uri: WebSocket URI. Its credentials go to its origin only: in a Basic authorization, and in
            a Digest one (RFC 7616) if the server then asks for that.
        legacy: True if the connection isn't going to be used as a context manager; None warns when
            it isn't. False to return a ``reconnect``, which connects when it is entered or iterated
            over.
        sock: Connected socket, to be used instead of a new one.
        ssl: TLS configuration, for a ``wss://`` URI; None for a default one.
        server_hostname: Name that the server's certificate must have; that in the URI by default.
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
        proxy_ssl: TLS configuration for an ``https://`` proxy; None for a default one.
        proxy_server_hostname: Name that such a proxy's certificate must have; its own by default.
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
        **kwargs: As for ``reconnect``.

    Raises:
        InvalidURI: If the URI isn't valid.
        InvalidProxy: If the URL of the proxy isn't valid.
        TypeError, ValueError: If another argument isn't acceptable.
        OSError: If the TCP connection or TLS fails.
        ProxyError: If the proxy fails or refuses.
        InvalidHandshake: If the opening handshake fails.
        TimeoutError: If opening takes longer than ``open_timeout``.
    """
    options = arguments(locals())
    del options["legacy"]
    connector = reconnect(uri, **options)
    if legacy is False:
        return connector
    connection = connector._connect()
    if legacy is None:
        connection._driver.before_use = warn_unentered
    return connection


@overload
def unix_connect(
    path: PathLike | None = None,
    uri: str | None = None,
    *,
    legacy: Literal[True] | None = None,
    sock: socket.socket | None = None,
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
) -> ClientConnection: ...
@overload
def unix_connect(
    path: PathLike | None = None, uri: str | None = None, *, legacy: bool | None, **kwargs: Any
) -> ClientConnection | reconnect: ...


def unix_connect(
    path: PathLike | None = None,
    uri: str | None = None,
    *,
    legacy: bool | None = None,
    sock: socket.socket | None = None,
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
    **kwargs: Any,
) -> ClientConnection | reconnect:
    """Connect to a WebSocket server that listens on a Unix socket.

    Args:
        path: Path of the socket.
        uri: WebSocket URI for the handshake; ``ws://localhost/`` by default, ``wss://localhost/``
            with ``ssl``.
        legacy: As for ``connect``.
        **kwargs: As for ``connect``, as are those that aren't listed here.

    Raises:
        ValueError: Unless there is either a path or a connection that is there already.
    """
    options = arguments(locals())
    result: ClientConnection | reconnect = connect(unix_arguments(path, uri, options), **options)
    return result


def unix_reconnect(
    path: PathLike | None = None,
    uri: str | None = None,
    *,
    sock: socket.socket | None = None,
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
) -> reconnect:
    """Connect to a WebSocket server that listens on a Unix socket, once or again and again.

    Args:
        path: Path of the socket.
        uri: WebSocket URI for the handshake; ``ws://localhost/`` by default, ``wss://localhost/``
            with ``ssl``.
        **kwargs: As for ``connect``, as are those that aren't listed here.

    Raises:
        ValueError: Unless there is either a path or a connection that is there already.
    """
    options = arguments(locals())
    return reconnect(unix_arguments(path, uri, options), **options)


if not TYPE_CHECKING:
    __getattr__ = fallback(__name__, "wsapi._names")
