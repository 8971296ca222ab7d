"""Connections of an event loop in memory: two transports, with a wire for each direction."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from ._clock import time_of
from ._wires import End, Wire, addresses, join

__all__ = ["MemoryTransport", "connected"]


class MemoryTransport(asyncio.Transport, End):
    """One end of a connection in memory.

    Args:
        loop: Event loop.
        protocol: What is called with the bytes that arrive.
        addresses: Addresses of this end and of the other one.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: asyncio.BaseProtocol,
        addresses: tuple[Any, Any],
    ) -> None:
        super().__init__({"sockname": addresses[0], "peername": addresses[1]})
        self._loop = loop
        self._protocol = protocol
        self._timer: asyncio.Handle | None = None  # for what arrives next
        self._reading_paused = False
        self._writing_paused = False
        self._eof_written = False
        self._closing = False
        self._losing = False  # connection_lost() is called soon, or was
        self._limits = (2**16, 2**14)

    # ------------------------------------------------------------------ the interface of transports

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._write_end()
            self._wrote()

    def abort(self) -> None:
        self._closing = True
        self._outgoing._forget_what_waits()
        self._write_end()
        self._lose_soon(None)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_reading(self) -> bool:
        return not self._reading_paused and not self._closing

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        self._reading_paused = False
        self._schedule()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = 2**16 if low is None else 4 * low
        self._limits = high, high // 4 if low is None else low
        self._update_writing()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        high, low = self._limits
        return low, high

    def get_write_buffer_size(self) -> int:
        return max(-self._outgoing._room, 0)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data must be bytes-like, not {type(data).__name__}")
        if self._eof_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not self._closing and data:
            self._outgoing._write(bytes(data))
            self._peer._schedule()
            self._update_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._closing and not self._eof_written:
            self._eof_written = True
            self._write_end()

    def _write_end(self) -> None:
        self._outgoing._write_eof()
        self._peer._schedule()

    # ------------------------------------------------------------------ what arrives

    def _reads(self) -> bool:
        return self.is_reading() and not self._losing

    def _schedule(self) -> None:
        """Have what arrives next delivered at its time, unless that is to be done already."""
        if self._timer is not None or not self._reads():
            return
        due = self._incoming._next()
        if due <= self._loop.time():
            self._timer = self._loop.call_soon(self._deliver)
        elif due < math.inf:
            self._timer = self._loop.call_at(due, self._deliver)

    def _deliver(self) -> None:
        self._timer = None
        if not self._reads():
            return
        incoming = self._incoming
        if data := incoming._take():
            incoming._give_back(self._receive(data))
        elif incoming._take_end():
            incoming._end = None
            self._receive_eof()
        self._peer._wrote()
        self._schedule()

    def _receive(self, data: memoryview) -> memoryview:
        """Hand bytes to the protocol; return those that it doesn't want before it reads again."""
        try:
            while data and self._reads():
                protocol = self._protocol
                if isinstance(protocol, asyncio.BufferedProtocol):
                    room = memoryview(protocol.get_buffer(len(data)))
                    size = min(len(room), len(data))
                    room[:size] = data[:size]
                    data = data[size:]
                    protocol.buffer_updated(size)
                else:
                    received, data = bytes(data), data[len(data) :]
                    protocol.data_received(received)  # type: ignore[attr-defined] # a Protocol
        except Exception as exc:
            self._fail(exc)
        return data

    def _receive_eof(self) -> None:
        try:
            keeps_open = self._protocol.eof_received()  # type: ignore[attr-defined] # of both kinds
        except Exception as exc:
            self._fail(exc)
        else:
            if not keeps_open:
                self.close()

    def _fail(self, exc: Exception) -> None:
        self._loop.call_exception_handler(
            {
                "message": "protocol failed to receive",
                "exception": exc,
                "transport": self,
                "protocol": self._protocol,
            }
        )
        self._closing = True
        self._write_end()
        self._lose_soon(exc)

    # ------------------------------------------------------------------ what was written

    def _wrote(self) -> None:
        """Take note that bytes have arrived at the other end."""
        if self._losing:
            return
        self._update_writing()
        if self._closing and not self.get_write_buffer_size():
            self._lose_soon(None)

    def _update_writing(self) -> None:
        """Tell the protocol to pause or to go on."""
        size = self.get_write_buffer_size()
        high, low = self._limits
        if not self._writing_paused and size > high:
            self._writing_paused = True
            self._protocol.pause_writing()
        elif self._writing_paused and size <= low:
            self._writing_paused = False
            self._protocol.resume_writing()

    # ------------------------------------------------------------------ the end

    def _reset(self) -> None:
        self._closing = True
        self._outgoing._forget(0)
        self._lose_soon(ConnectionResetError("connection reset by peer"))

    def _lose_soon(self, exc: Exception | None) -> None:
        if not self._losing:
            self._losing = True
            self._loop.call_soon(self._lose, exc)

    def _lose(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)
        self._incoming._close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._peer._wrote()  # nothing keeps the other end from writing


def connected(
    client: asyncio.BaseProtocol,
    server: asyncio.BaseProtocol,
    to_server: Wire,
    to_client: Wire,
) -> tuple[MemoryTransport, MemoryTransport]:
    """Connect two protocols, and return the transports of a client and of a server.

    Args:
        client: Protocol of the client.
        server: Protocol of the server.
        to_server: Wire from client to server.
        to_client: Wire from server to client.

    Raises:
        ValueError: If a wire is in use.
    """
    loop = asyncio.get_running_loop()
    here, there = addresses()
    left = MemoryTransport(loop, client, (here, there))
    right = MemoryTransport(loop, server, (there, here))
    join(left, right, to_server, to_client)
    to_server._attach(time_of(loop), right._schedule)
    to_client._attach(time_of(loop), left._schedule)
    server.connection_made(right)
    client.connection_made(left)
    return left, right
