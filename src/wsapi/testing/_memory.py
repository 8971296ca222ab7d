"""Connections of an event loop in memory: two transports, with a wire for each direction."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from typing import Any

__all__ = ["Link", "MemoryTransport", "Wire", "connected"]

# Bytes under way that a writer needs not wait for, as if they were in buffers of operating systems.
WINDOW = 2**16

# Bytes that arrive at once, where nothing splits them.
MOST_AT_ONCE = 2**18

# The address of servers; those of clients differ by their port.
SERVER_ADDRESS = ("127.0.0.1", 80)
_client_ports = itertools.count()


class Wire:
    """One direction of a connection in memory, whose faults may be changed at any time.

    Args:
        delay: Seconds that bytes are under way.
        split: Number of bytes that arrive at once, at most; None for no limit.
        hold: Whether bytes wait on their way, and arrive when this is over.
        drop: Whether bytes get lost, and who writes isn't told, as if the cable was cut.

    Attributes:
        delay: As above; for what is written from now on.
        split: As above.
        drop: As above; for what is written from now on.
        bytes_written: Number of bytes that were written so far, with those that got lost.

    Raises:
        ValueError: If ``delay`` is negative, or ``split`` isn't positive.
    """

    def __init__(
        self,
        *,
        delay: float = 0.0,
        split: int | None = None,
        hold: bool = False,
        drop: bool = False,
    ) -> None:
        if not delay >= 0:
            raise ValueError(f"delay must be 0 or more; got {delay}")
        if split is not None and split < 1:
            raise ValueError(f"split must be positive or None; got {split}")
        self.delay = delay
        self.split = split
        self.drop = drop
        self.bytes_written = 0
        self._hold = hold
        self._pieces: deque[tuple[float, memoryview]] = deque()  # with the times when they arrive
        self._end: float | None = None  # when the end of the stream arrives
        self._last = 0.0
        self._size = 0
        self._timer: asyncio.Handle | None = None
        self._loop: asyncio.AbstractEventLoop
        self._sender: MemoryTransport | None = None
        self._receiver: MemoryTransport | None = None

    @property
    def hold(self) -> bool:
        """Whether bytes wait on their way."""
        return self._hold

    @hold.setter
    def hold(self, hold: bool) -> None:
        self._hold = hold
        self._schedule()

    @property
    def bytes_under_way(self) -> int:
        """Number of bytes that were written and haven't arrived."""
        return self._size

    def _attach(
        self,
        loop: asyncio.AbstractEventLoop,
        sender: MemoryTransport,
        receiver: MemoryTransport,
    ) -> None:
        self._loop = loop
        self._sender = sender
        self._receiver = receiver

    def _arrival(self) -> float:
        """Return when what is written now arrives: nothing overtakes what was written before."""
        self._last = max(self._last, self._loop.time() + self.delay)
        return self._last

    def _write(self, data: bytes) -> None:
        self.bytes_written += len(data)
        if self.drop or self._receiver is None:
            return
        self._pieces.append((self._arrival(), memoryview(data)))
        self._size += len(data)
        self._schedule()

    def _write_eof(self) -> None:
        if self._end is None and not self.drop:
            self._end = self._arrival()
            self._schedule()

    def _forget(self, kept: int) -> None:
        """Forget what is under way behind a number of bytes."""
        while self._pieces and self._size > kept:
            when, piece = self._pieces.pop()
            left = max(len(piece) - (self._size - kept), 0)
            self._size -= len(piece) - left
            if left:
                self._pieces.append((when, piece[:left]))

    def _close(self) -> None:
        """Take note that nobody receives any more."""
        self._receiver = None
        self._forget(0)
        self._end = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        """Have what arrives next delivered at its time, unless that is to be done already."""
        receiver = self._receiver
        if self._timer is not None or self._hold or receiver is None or not receiver._reads():
            return
        due = self._pieces[0][0] if self._pieces else self._end
        if due is None:
            return
        if due <= self._loop.time():
            self._timer = self._loop.call_soon(self._deliver)
        else:
            self._timer = self._loop.call_at(due, self._deliver)

    def _deliver(self) -> None:
        self._timer = None
        receiver = self._receiver
        if self._hold or receiver is None or not receiver._reads():
            return
        now = self._loop.time()
        left = MOST_AT_ONCE if self.split is None else self.split
        arrived = []
        while left and self._pieces and self._pieces[0][0] <= now:
            when, piece = self._pieces.popleft()
            if len(piece) > left:
                self._pieces.appendleft((when, piece[left:]))
            arrived.append(piece[:left])
            left -= len(arrived[-1])
        if arrived:
            data = arrived[0] if len(arrived) == 1 else memoryview(b"".join(arrived))
            self._size -= len(data)
            rest = receiver._receive(data)
            if rest and self._receiver is not None:
                self._pieces.appendleft((now, rest))
                self._size += len(rest)
        elif not self._pieces and self._end is not None and self._end <= now:
            self._end = None
            receiver._receive_eof()
        if self._sender is not None:
            self._sender._wrote()
        self._schedule()


class Link:
    """The network of a connection in memory, as one end sees it; ``link`` returns it.

    Args:
        transport: Transport of that end.
    """

    def __init__(self, transport: MemoryTransport) -> None:
        self._transport = transport

    @property
    def outgoing(self) -> Wire:
        """What carries bytes from this end to the other one."""
        return self._transport._outgoing

    @property
    def incoming(self) -> Wire:
        """What carries bytes from the other end to this one."""
        return self._transport._incoming

    def cut(self) -> None:
        """Have everything lost from now on, in both directions; neither end is told."""
        self.outgoing.drop = self.incoming.drop = True

    def reset(self) -> None:
        """Reset the connection: both ends get a ``ConnectionResetError``, and what is under way is
        lost."""
        for transport in (self._transport, self._transport._peer):
            transport._reset()


class MemoryTransport(asyncio.Transport):
    """One end of a connection in memory.

    Args:
        loop: Event loop.
        protocol: What is called with the bytes that arrive.
        incoming: Wire from the other end.
        outgoing: Wire to the other end.
        addresses: Addresses of this end and of the other one.
    """

    _peer: MemoryTransport

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: asyncio.BaseProtocol,
        incoming: Wire,
        outgoing: Wire,
        addresses: tuple[Any, Any],
    ) -> None:
        super().__init__({"sockname": addresses[0], "peername": addresses[1]})
        self._loop = loop
        self._protocol = protocol
        self._incoming = incoming
        self._outgoing = outgoing
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
            self._outgoing._write_eof()
            self._wrote()

    def abort(self) -> None:
        self._closing = True
        self._outgoing._forget(WINDOW)
        self._outgoing._write_eof()
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
        self._incoming._schedule()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = 2**16 if low is None else 4 * low
        self._limits = high, high // 4 if low is None else low
        self._update_writing()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        high, low = self._limits
        return low, high

    def get_write_buffer_size(self) -> int:
        return max(self._outgoing._size - WINDOW, 0)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data must be bytes-like, not {type(data).__name__}")
        if self._eof_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not self._closing and data:
            self._outgoing._write(bytes(data))
            self._update_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._closing and not self._eof_written:
            self._eof_written = True
            self._outgoing._write_eof()

    # ------------------------------------------------------------------ from the wires

    def _reads(self) -> bool:
        return self.is_reading() and not self._losing

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
        self._outgoing._write_eof()
        self._lose_soon(exc)

    def _wrote(self) -> None:
        """Take note that bytes have arrived at the other end."""
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
            if not self._losing:
                self._protocol.resume_writing()

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
        if self._incoming._sender is not None:
            self._incoming._sender._wrote()  # nothing keeps the other end from writing
        self._outgoing._sender = None


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
    if to_server is to_client or hasattr(to_server, "_loop") or hasattr(to_client, "_loop"):
        raise ValueError("each direction of a connection needs a Wire of its own")
    loop = asyncio.get_running_loop()
    address = ("127.0.0.1", 49152 + next(_client_ports) % 16384)
    left = MemoryTransport(loop, client, to_client, to_server, (address, SERVER_ADDRESS))
    right = MemoryTransport(loop, server, to_server, to_client, (SERVER_ADDRESS, address))
    left._peer, right._peer = right, left
    to_server._attach(loop, left, right)
    to_client._attach(loop, right, left)
    server.connection_made(right)
    client.connection_made(left)
    return left, right
