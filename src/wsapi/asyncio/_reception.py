"""What comes before the opening handshake where a server has a door: who may come in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from wsproto_fast.exceptions import InvalidMessage
from wsproto_fast.proxy_protocol import ProxyHeaderParser

from .._shared.door import Door, Refusal, Visit

if TYPE_CHECKING:
    from .server import Server, ServerConnection

__all__ = ["Reception"]

# Bytes that may come behind the TLS handshake before the connection takes over, in the same turn
# of the loop.
MAX_HELD = 2**16


class Reception(asyncio.BufferedProtocol):
    """Takes the transport of a connection until that is let in, and its first bytes are there.

    Args:
        server: The server.
        door: Its door.
        create: Callable that returns a connection; None if it can't.
        tls: Arguments of ``loop.start_tls``, among them ``sslcontext``, for TLS behind a header of
            the PROXY protocol; None if there is no TLS, or if the event loop has done it.
    """

    _transport: asyncio.Transport
    _visit: Visit
    _parser: ProxyHeaderParser | None = None  # while there is a header to be read
    _timer: asyncio.TimerHandle | None = None  # it is given up then
    _buffer = bytearray()
    _held = 0  # bytes of it that are the connection's
    _lost = False  # the TCP connection is gone

    def __init__(
        self,
        server: Server,
        door: Door,
        create: Callable[[], ServerConnection | None],
        tls: dict[str, Any] | None,
    ) -> None:
        self._server = server
        self._door = door
        self._create = create
        self._tls = tls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        visit = self._door.arrive(transport.get_extra_info("peername"))
        if isinstance(visit, Refusal):
            self._server._statistics.refused(visit.reason)
            self._transport.abort()
            return
        self._visit = visit
        if not self._door.proxy_protocol:
            self._admit(self._transport)
            return
        self._parser = ProxyHeaderParser()
        if self._server._closing:
            self.abort()
            return
        self._server._receptions.add(self)
        timeout = visit.bounded(self._server._settings.open_timeout)
        if timeout is not None:
            self._timer = self._server.get_loop().call_later(timeout, self.abort)

    def abort(self) -> None:
        """Give the connection up."""
        self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._parser is not None:
            self._buffer = bytearray(self._parser.wanted)
            return memoryview(self._buffer)
        return memoryview(self._buffer)[self._held :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._parser is None:
            self._held += nbytes
            if self._held == MAX_HELD:
                self.abort()
        else:
            self._receive_header(memoryview(self._buffer)[:nbytes])

    def eof_received(self) -> None:
        if self._parser is not None:
            self._receive_header(memoryview(b""))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._parser is not None:
            self._server._statistics.refused("proxy_protocol")
            self._parser = None
        self._stop()
        if hasattr(self, "_visit"):
            self._visit.leave()

    def _stop(self) -> None:
        self._server._receptions.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _receive_header(self, data: memoryview) -> None:
        parser = self._parser
        assert parser is not None
        try:
            parser.receive(data)
        except InvalidMessage as exc:
            self._server.logger.debug("opening handshake failed", exc_info=exc)
            self.abort()
            return
        if parser.header is not None:
            self._parser = None
            self._visit.identify_header(parser.header)
            if self._tls is None:
                self._admit(self._transport)
                return
            self._buffer = bytearray(MAX_HELD)
            self._transport.pause_reading()  # what follows isn't for this object
            task = self._server.get_loop().create_task(self._start_tls(self._tls))
            self._server._handlers.add(task)
            task.add_done_callback(self._server._end_handler)

    async def _start_tls(self, tls: dict[str, Any]) -> None:
        loop = self._server.get_loop()
        transport = None
        try:
            transport = await loop.start_tls(self._transport, self, server_side=True, **tls)
        except OSError as exc:
            self._server.logger.debug("opening handshake failed", exc_info=exc)
        finally:
            # uvloop returns a transport, too, when the connection has been lost meanwhile.
            if transport is None or self._lost or transport.is_closing():
                self._server._statistics.refused("tls")
                self.abort()
                self.connection_lost(None)
            else:
                self._admit(transport)

    def _admit(self, transport: asyncio.Transport) -> None:
        """Hand the transport to a connection, with what came for it."""
        self._stop()
        connection = self._create()
        if connection is None:
            self.abort()
            return
        connection._visit = self._visit
        transport.set_protocol(connection)
        connection.connection_made(transport)
        held = memoryview(self._buffer)[: self._held]
        while held and not connection._lost:
            room = connection.get_buffer(len(held))
            size = min(len(room), len(held))
            room[:size] = held[:size]
            connection.buffer_updated(size)
            held = held[size:]
