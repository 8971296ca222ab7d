"""What a connection of a client is opened on: transports, through proxies and TLS."""

from __future__ import annotations

import asyncio
import socket
import sys
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

from wsproto_fast.frames import State
from wsproto_fast.uri import WebSocketURI

from .._shared.client import BaseConnect
from .._shared.connection import forget_frames
from .._shared.gate import gate
from ..proxy import ConnectProtocol, Proxy, socks_errors, socks_proxy
from ._stand_in import StandIn

if TYPE_CHECKING:
    from .client import ClientConnection

__all__ = ["TransportOpener", "turn"]

ConnectionT = TypeVar("ConnectionT", bound="ClientConnection")

# python-socks takes None for a limit of its own. This is one that isn't reached.
_NO_TIMEOUT = 1_000_000


@asynccontextmanager
async def turn(key: str) -> AsyncIterator[None]:
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
        self.end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(exc)
        self.lost.set_result(None)

    def end(self, exc: Exception | None) -> None:
        """Fail, since the connection has ended; there may have been a tunnel."""
        if self.failure is None:
            try:
                self.protocol.receive_eof(exc)
            except Exception as failure:
                self.finish(failure)
            else:
                self.finish(exc or ConnectionResetError("connection closed by proxy"))

    def finish(self, exc: Exception | None) -> None:
        """Have the coroutine go on that waits for the tunnel, or fail when it leaves it."""
        forget_frames(exc)
        self.failure = exc
        if self.established.done():
            return
        if exc is None:
            self.established.set_result(None)
        else:
            self.established.set_exception(exc)
            self.established.exception()  # nobody looks at it after a cancellation


class TransportOpener(BaseConnect[ConnectionT]):
    """Opens transports to where the settings say; arguments are those of ``BaseConnect``."""

    async def _ip_address(self, uri: WebSocketURI) -> str:
        """Return the IP address to connect to, or the name if the host isn't for us to look up."""
        host = self._gate_key(uri)
        if host is not None:
            return host
        host, port = self._address(uri)
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return str(infos[0][4][0])

    async def _open_transport(self, uri: WebSocketURI, connection: ConnectionT) -> ConnectionT:
        """Connect to the server, through a proxy or not.

        Returns:
            The connection, or what an event loop that programs have changed, such as for their
            tests, gives in its place.
        """
        loop = asyncio.get_running_loop()
        options = self._options
        tls = self._bounded(self._tls(uri))
        protocol = StandIn(weakref.ref(connection)) if tls else connection
        if "path" in options:
            await loop.create_unix_connection(
                lambda: protocol, options["path"], sock=options.get("sock"), **tls
            )
            return connection
        if self._is_ready():
            if options["sock"].fileno() == -1:
                raise ValueError("sock is closed; it is good for one connection only")
            await loop.create_connection(lambda: protocol, sock=options["sock"], **tls)
            return connection
        host, port = self._address(uri)
        tcp = self._tcp()
        proxy = self._select_proxy(uri)
        if proxy is None:
            _, taken = await loop.create_connection(
                lambda: protocol, host=host, port=port, **tcp, **tls
            )
            return connection if taken is protocol else cast(ConnectionT, taken)
        if proxy.is_socks:
            socks = socks_proxy("async_.asyncio", proxy)
            with socks_errors():
                # There is one timeout for all.
                sock = await socks.connect(
                    host, port, timeout=_NO_TIMEOUT, local_addr=tcp.get("local_addr")
                )
            await loop.create_connection(lambda: protocol, sock=sock, **tls)
            return connection
        tunnel = _Tunnel(ConnectProtocol(proxy, host, port, self.user_agent_header))
        try:
            await self._open_tunnel(proxy, tunnel, tcp)
            await tunnel.established
            await self._leave_tunnel(tunnel, connection, tls)
            return connection
        except BaseException:
            if tunnel.transport is not None:
                tunnel.transport.abort()
            if tunnel.held:
                await tunnel.lost
            raise
        finally:
            del tunnel, connection  # the traceback mustn't hold what holds the exception

    def _bounded(self, tls: dict[str, Any] | None) -> dict[str, Any]:
        """Complete the options for TLS: opening and closing it last no longer than they may in all.

        uvloop's timer of a TLS handshake can outlive the connection, which it keeps alive.
        """
        if tls is None:
            return {}
        limits = {
            "ssl_handshake_timeout": self.open_timeout,
            "ssl_shutdown_timeout": self._connection_options["close_timeout"],
        }
        return {name: limit for name, limit in limits.items() if limit} | tls

    async def _open_tunnel(self, proxy: Proxy, tunnel: _Tunnel, tcp: dict[str, Any]) -> None:
        """Connect to an HTTP proxy and ask it to connect to the server."""
        tls = self._bounded(self._proxy_tls(proxy))
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: tunnel, proxy.host, proxy.port, **tcp, **tls)
        tunnel.held = True

    @staticmethod
    async def _leave_tunnel(tunnel: _Tunnel, connection: ConnectionT, tls: dict[str, Any]) -> None:
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
                    transport._force_close = lambda exc: transport.abort()  # type: ignore[attr-defined] # see above
            loop = asyncio.get_running_loop()
            ssl = tls.pop("ssl")
            inner = await loop.start_tls(transport, connection, ssl, **tls)
            if inner is None or connection.state is State.CLOSED:
                raise ConnectionResetError("connection lost during TLS handshake")
            transport = inner
        else:
            transport.set_protocol(connection)
        connection.connection_made(transport)
