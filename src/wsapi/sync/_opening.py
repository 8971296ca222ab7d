"""How a client opens a connection: on TCP connections and Unix sockets, through proxies and TLS."""

from __future__ import annotations

import os
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar

from wsproto_fast.datastructures import HeadersLike
from wsproto_fast.uri import WebSocketURI

from .._shared.client import BaseConnect
from .._shared.connection import forget_frames
from .._shared.gate import gate
from ..proxy import ConnectProtocol, Proxy, socks_errors, socks_proxy, unreachable_proxy
from ._channel import Channel, Deadline

__all__ = ["ConnectionOpener", "warn_unentered"]

if TYPE_CHECKING:
    from .client import ClientConnection

ConnectionT = TypeVar("ConnectionT", bound="ClientConnection")


def warn_unentered() -> None:
    """Warn of a connection that is used although nobody has entered it."""
    warnings.warn(
        "connect() must be used as a context manager: with legacy=True, it needn't be",
        DeprecationWarning,
        stacklevel=3,
    )


@contextmanager
def turn(key: str, deadline: Deadline) -> Iterator[None]:
    """Wait for one's turn at the gate; leave it at the end of the context."""
    came = threading.Event()
    if not gate.enter(key, came.set):
        try:
            if not came.wait(deadline.time_left()):
                raise TimeoutError("timed out while waiting for another opening handshake")
        except BaseException:
            gate.give_up(key, came.set)
            raise
    try:
        yield
    finally:
        gate.leave(key)


def _named(address: tuple[Any, ...]) -> tuple[str, int]:
    """Return an address as one that can be looked up, with the scope of a link-local one."""
    host, port, *more = address
    scope = more[1] if more else 0
    return (f"{host}%{scope}" if scope else host), port


class _Hop:
    """A connection to a SOCKS proxy, as python-socks uses it: no step lasts beyond the deadline.

    That has a limit for each read only, so that a proxy could answer byte by byte for as long as it
    likes. It takes this for a proxy on the way to the proxy, and for the socket which that gives.

    Args:
        connect: Callable that makes the connection.
    """

    channel: Channel

    def __init__(self, connect: Callable[[], Channel]) -> None:
        self._connect = connect

    def connect(self, **_where: object) -> Self:
        self.channel = self._connect()
        return self

    def sendall(self, data: bytes) -> None:
        self.channel.send(data)

    def recv(self, size: int) -> bytes:
        return self.channel.receive_some(size)

    def close(self) -> None:
        self.channel.sock.close()


class ConnectionOpener(BaseConnect[ConnectionT]):
    """Opens connections to where the settings say; arguments are those of ``BaseConnect``."""

    def _open(self, deadline: Deadline) -> ConnectionT:
        """Open a connection for one request."""
        uri, additional_headers = self._target.request()
        if self.one_connecting:
            with turn(self._ip_address(uri), deadline):
                return self._open_connection(uri, additional_headers, deadline)
        return self._open_connection(uri, additional_headers, deadline)

    def _open_connection(
        self,
        uri: WebSocketURI,
        additional_headers: HeadersLike | None,
        deadline: Deadline,
    ) -> ConnectionT:
        channel = self._open_channel(uri, deadline)
        try:
            connection = self._new_connection(uri, channel.secured())
        except BaseException:
            channel.sock.close()
            raise
        try:
            connection.handshake(additional_headers, self.user_agent_header, deadline.time_left())
            return connection
        except BaseException as exc:
            connection._driver.abort()
            if connection.protocol.handshake_exc is not exc:
                forget_frames(connection.protocol.handshake_exc)
            raise
        finally:
            del connection  # the traceback mustn't hold what holds the exception

    def _ip_address(self, uri: WebSocketURI) -> str:
        """Return the IP address to connect to, or the name if the host isn't for us to look up."""
        host = self._gate_key(uri)
        if host is not None:
            return host
        host, port = self._address(uri)
        return str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])

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
        """Connect to the first address of a host that answers; all have the same time together."""
        options = self._tcp()
        limit, all_errors = options.pop("timeout", None), options.pop("all_errors", False)
        failures: list[OSError] = []
        try:
            infos: list[Any] = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
            for *_, where in infos:
                timeout = deadline.time_left()
                if limit is not None:
                    timeout = limit if timeout is None else min(timeout, limit)
                try:
                    # It has one limit for each address.
                    sock = socket.create_connection(_named(where), timeout=timeout, **options)
                except OSError as exc:
                    failures.append(exc)
                    continue
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
                return Channel(sock, deadline)
            if all_errors:
                raise ExceptionGroup("create_connection failed", failures)
            raise failures[-1]
        finally:
            failures.clear()  # their tracebacks hold this frame

    def _open_socks(self, proxy: Proxy, address: tuple[str, int], deadline: Deadline) -> Channel:
        """Connect to a SOCKS proxy and have it connect to the server."""

        def connect() -> Channel:
            try:
                return self._open_tcp((proxy.host, proxy.port), deadline)
            except TimeoutError:
                raise
            except OSError as exc:
                raise unreachable_proxy(proxy, exc) from exc

        hop = _Hop(connect)
        socks = socks_proxy("sync", proxy, forward=hop)
        with socks_errors():
            socks.connect(*address, timeout=self.open_timeout)  # for the text of an error
        return hop.channel

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
