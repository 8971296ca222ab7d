"""WebSocket clients for threads.

Owns the way from a URI to an open connection: socket, proxy, TLS, opening handshake. What to
request after a redirect or a challenge, which proxy to use, and when to try again is decided by
modules that all front-ends share.
"""

from __future__ import annotations

import os
import socket
import ssl as ssl_module
import threading
import time
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from time import monotonic
from types import TracebackType
from typing import Annotated, Literal, Unpack, overload

from wsproto_fast.datastructures import HeadersLike
from wsproto_fast.frames import CloseCode
from wsproto_fast.http11 import USER_AGENT
from wsproto_fast.typing import PathLike
from wsproto_fast.uri import WebSocketURI

from .._client import BaseConnect, TransportNames, unix_arguments
from .._connection import ClientSide, forget_frames
from .._gate import gate
from .._options import ClientOptions, Option, complete, documented
from .._reconnection import backoff, process_exception
from .._target import MAX_REDIRECTS
from ..proxy import ConnectProtocol, Proxy, socks_errors, socks_proxy
from ._channel import Channel, Deadline
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

# python-socks takes None for a limit of its own. This is one that isn't reached.
_NO_TIMEOUT = 1_000_000


class ConnectOptions(ClientOptions["ClientConnection"], total=False):
    """Options of ``connect`` and ``reconnect``."""

    sock: Annotated[
        socket.socket | None,
        Option(None, "Connected socket, to be used instead of a new one."),
    ]
    ssl: Annotated[
        ssl_module.SSLContext | Literal[True] | None,
        Option(None, "TLS configuration, for a ``wss://`` URI; None for a default one."),
    ]
    server_hostname: Annotated[
        str | None,
        Option(None, "Name that the server's certificate must have; that in the URI by default."),
    ]
    proxy_ssl: Annotated[
        ssl_module.SSLContext | Literal[True] | None,
        Option(None, "TLS configuration for an ``https://`` proxy; None for a default one."),
    ]
    proxy_server_hostname: Annotated[
        str | None,
        Option(None, "Name that such a proxy's certificate must have; its own by default."),
    ]
    address: tuple[str, int]
    source_address: tuple[str, int] | None
    timeout: float | None
    all_errors: bool


class _Options(ConnectOptions, total=False):
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
        deadline = Deadline(timeout).time
        pump = self._pump
        pump.call(self._send_request, additional_headers, user_agent_header, monotonic())
        while not pump.call(self._receive_response):
            if pump.progress(deadline):
                raise TimeoutError("timed out while waiting for handshake response")
        if self.protocol.handshake_exc is not None:
            try:
                raise self.protocol.handshake_exc
            finally:
                del self, pump  # the traceback mustn't hold what holds the exception
        pump.watch()


@contextmanager
def _turn(key: str, deadline: Deadline) -> Iterator[None]:
    """Wait for one's turn at the gate; leave it at the end of the context."""
    turn = threading.Event()
    if not gate.enter(key, turn.set):
        try:
            if not turn.wait(deadline.time_left()):
                raise TimeoutError("timed out while waiting for another opening handshake")
        except BaseException:
            gate.give_up(key, turn.set)
            raise
    try:
        yield
    finally:
        gate.leave(key)


@documented(_Options)
class reconnect(BaseConnect[ClientConnection]):
    """Connect to a WebSocket server, once or again and again.

    Entered as a context manager, this connects, and closes the connection at the end of the block:
    with code 1000, or 1011 if an exception ends the block.

    ``for websocket in reconnect(...)`` connects each time the body ends, and when connecting fails
    as often as the policy wants it. The previous connection is closed before. Exceptions in the
    body aren't caught; leaving the loop closes the connection with 1000.

    Args:
        {connect_args}
        **kwargs: ``address``, a pair of host and port, changes where to connect, not what the
            handshake says. Others are those of ``socket.create_connection``.

    Raises:
        {connect_raises}
    """

    names = TransportNames(
        ready="sock",
        places=("address",),
        tls=("ssl", "server_hostname"),
        tcp=frozenset({"source_address", "timeout", "all_errors"}),
    )

    def __init__(self, uri: str, **kwargs: Unpack[_Options]) -> None:
        if "ssl_context" in kwargs:
            warnings.warn("ssl_context was renamed to ssl", DeprecationWarning, stacklevel=2)
            kwargs.setdefault("ssl", kwargs.pop("ssl_context"))
        if isinstance(kwargs.get("sock"), ssl_module.SSLSocket):
            # A thread can't read from it while another one writes to it.
            raise TypeError("sock must be a plain socket; ssl=SSLContext puts TLS on top of it")
        super().__init__(uri, complete(_Options, kwargs), ClientConnection)
        self._connection: ClientConnection | None = None

    # ------------------------------------------------------------------ shapes

    def __enter__(self) -> ClientConnection:
        if self._connection is not None:
            raise RuntimeError("connect() isn't reentrant")
        self._connection = self._connect()
        return self._connection

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None
        connection.close(CloseCode.NORMAL_CLOSURE if exc_type is None else CloseCode.INTERNAL_ERROR)

    def __iter__(self) -> Generator[ClientConnection, None, None]:
        """Yield connections, one after the other.

        Raises:
            Exception: What connecting raises and ``process_exception`` doesn't want tried again.
        """
        reconnection = self._reconnection()
        while True:
            try:
                connection = self._connect()
            except Exception as exc:
                time.sleep(self._failed(reconnection, exc))
                continue
            reconnection.succeeded()
            code = CloseCode.NORMAL_CLOSURE
            try:
                yield connection
            except GeneratorExit:
                raise  # the loop was left
            except BaseException:
                code = CloseCode.INTERNAL_ERROR
                raise
            finally:
                connection.close(code)

    # ------------------------------------------------------------------ opening

    def _connect(self) -> ClientConnection:
        deadline = Deadline(self.open_timeout)
        self._target.begin()
        while True:
            try:
                return self._open(deadline)
            except Exception as exc:
                if not self._goes_on(exc, MAX_REDIRECTS):
                    raise

    def _open(self, deadline: Deadline) -> ClientConnection:
        """Open a connection for one request."""
        uri, additional_headers = self._target.request()
        if self.one_connecting:
            with _turn(self._ip_address(uri), deadline):
                return self._open_connection(uri, additional_headers, deadline)
        return self._open_connection(uri, additional_headers, deadline)

    def _ip_address(self, uri: WebSocketURI) -> str:
        """Return the IP address to connect to, or the name if the host isn't for us to look up."""
        host = self._gate_key(uri)
        if host is not None:
            return host
        host, port = self._address(uri)
        return str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])

    def _open_connection(
        self,
        uri: WebSocketURI,
        additional_headers: HeadersLike | None,
        deadline: Deadline,
    ) -> ClientConnection:
        channel = self._open_channel(uri, deadline)
        try:
            connection = self._connection_class(
                channel.secured(), self._new_protocol(uri), **self._connection_options
            )
        except BaseException:
            channel.sock.close()
            raise
        try:
            connection.handshake(additional_headers, self.user_agent_header, deadline.time_left())
            return connection
        except BaseException as exc:
            connection._pump.abort()
            if connection.protocol.handshake_exc is not exc:
                forget_frames(connection.protocol.handshake_exc)
            raise
        finally:
            del connection  # the traceback mustn't hold what holds the exception

    def _open_channel(self, uri: WebSocketURI, deadline: Deadline) -> Channel:
        """Connect to the server, through a proxy or not."""
        tls = self._tls(uri)
        if self._is_ready():
            sock: socket.socket = self._options["sock"]
            if sock.fileno() == -1:
                raise ValueError("sock is closed; it is good for one connection only")
            channel = Channel(sock, deadline)
        elif self._is_unix():
            channel = self._open_unix(deadline)
        else:
            address = self._address(uri)
            proxy = self._select_proxy(uri)
            if proxy is None:
                channel = self._open_tcp(address, deadline)
            elif proxy.is_socks:
                channel = self._open_socks(proxy, address, deadline)
            else:
                channel = self._open_tunnel(proxy, address, deadline)
        try:
            if tls is not None:
                channel.start_tls(tls["ssl"], server_hostname=tls["server_hostname"])
        except BaseException:
            channel.sock.close()
            raise
        return channel

    def _open_unix(self, deadline: Deadline) -> Channel:
        channel = Channel(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), deadline)
        try:
            channel.sock.settimeout(deadline.time_left())
            channel.sock.connect(os.fspath(self._options["path"]))
        except BaseException:
            channel.sock.close()
            raise
        return channel

    def _open_tcp(self, address: tuple[str, int], deadline: Deadline) -> Channel:
        options = self._tcp()
        timeout = deadline.time_left()
        if options.get("timeout") is not None and timeout is not None:
            timeout = min(timeout, options["timeout"])
        options["timeout"] = timeout
        sock = socket.create_connection(address, **options)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        return Channel(sock, deadline)

    def _open_socks(self, proxy: Proxy, address: tuple[str, int], deadline: Deadline) -> Channel:
        """Connect to a SOCKS proxy and have it connect to the server."""
        socks = socks_proxy("sync", proxy)
        timeout = deadline.time_left()
        with socks_errors():
            sock: socket.socket = socks.connect(
                *address,
                timeout=_NO_TIMEOUT if timeout is None else timeout,
                local_addr=self._tcp().get("source_address"),
            )
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        return Channel(sock, deadline)

    def _open_tunnel(self, proxy: Proxy, address: tuple[str, int], deadline: Deadline) -> Channel:
        """Connect to an HTTP proxy and have it connect to the server."""
        tls = self._proxy_tls(proxy)
        channel = self._open_tcp((proxy.host, proxy.port), deadline)
        try:
            if tls is not None:
                channel.start_tls(tls["ssl"], server_hostname=tls["server_hostname"])
            protocol = ConnectProtocol(proxy, *address, self.user_agent_header)
            try:
                channel.send(protocol.request)
                while data := channel.recv():
                    if protocol.receive_data(data):
                        return channel
            except TimeoutError:
                raise
            except OSError as exc:
                protocol.receive_eof(exc)
            protocol.receive_eof()
            raise AssertionError("an answer that isn't complete was accepted")
        except BaseException:
            channel.sock.close()
            raise


def _warn_unentered() -> None:
    warnings.warn(
        "a connection made by connect() should be used as a context manager; "
        "connect(..., legacy=True) says that it isn't going to be",
        DeprecationWarning,
        stacklevel=3,
    )


@overload
def connect(
    uri: str, *, legacy: Literal[True] | None = None, **kwargs: Unpack[_Options]
) -> ClientConnection: ...
@overload
def connect(uri: str, *, legacy: Literal[False], **kwargs: Unpack[_Options]) -> reconnect: ...
@overload
def connect(
    uri: str, *, legacy: bool | None, **kwargs: Unpack[_Options]
) -> ClientConnection | reconnect: ...


@documented(_Options)
def connect(
    uri: str, *, legacy: bool | None = None, **kwargs: Unpack[_Options]
) -> ClientConnection | reconnect:
    """Connect to a WebSocket server.

    Returns a connection, to be entered as a context manager, which closes it at the end of the
    block: with code 1000, or 1011 if an exception ends the block.

    Args:
        {connect_args}
        legacy: True if the connection isn't going to be used as a context manager; None warns when
            it isn't. False to return a ``reconnect``, which connects when it is entered or iterated
            over.
        **kwargs: As for ``reconnect``.

    Raises:
        {connect_raises}
    """
    connector = reconnect(uri, **kwargs)
    if legacy is False:
        return connector
    connection = connector._connect()
    if legacy is None:
        connection._pump.before_use = _warn_unentered
    return connection


@overload
def unix_connect(
    path: PathLike | None = None,
    uri: str | None = None,
    *,
    legacy: Literal[True] | None = None,
    **kwargs: Unpack[ConnectOptions],
) -> ClientConnection: ...
@overload
def unix_connect(
    path: PathLike | None = None,
    uri: str | None = None,
    *,
    legacy: Literal[False],
    **kwargs: Unpack[ConnectOptions],
) -> reconnect: ...


@documented()
def unix_connect(
    path: PathLike | None = None,
    uri: str | None = None,
    *,
    legacy: bool | None = None,
    **kwargs: Unpack[ConnectOptions],
) -> ClientConnection | reconnect:
    """Connect to a WebSocket server that listens on a Unix socket.

    Args:
        {unix_connect_args}
        legacy: As for ``connect``.

    Raises:
        {unix_connect_raises}
    """
    uri = unix_arguments(path, uri, kwargs)
    return connect(uri, legacy=legacy, path=path, **kwargs)


@documented()
def unix_reconnect(
    path: PathLike | None = None, uri: str | None = None, **kwargs: Unpack[ConnectOptions]
) -> reconnect:
    """Connect to a WebSocket server that listens on a Unix socket, once or again and again.

    {unix_connect}
    """
    return reconnect(unix_arguments(path, uri, kwargs), path=path, **kwargs)
