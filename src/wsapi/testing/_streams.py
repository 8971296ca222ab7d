"""Streams of trio in memory, with a wire for each direction."""

from __future__ import annotations

import trio

from ._wires import End, Wire, join

__all__ = ["MemoryStream", "connected"]


class MemoryStream(trio.abc.HalfCloseableStream, End):
    """One end of a connection in memory; its time is that of the run."""

    def __init__(self) -> None:
        self._arrivals = trio.lowlevel.ParkingLot()  # for what arrives
        self._departures = trio.lowlevel.ParkingLot()  # for room
        self._sending = False
        self._receiving = False
        self._eof_sent = False
        self._closed = False
        self._broken = False

    # ------------------------------------------------------------------ sending

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint()
            with memoryview(data) as view:
                sent = 0
                while True:
                    self._check_sending()
                    size = min(max(self._outgoing._room, 0), len(view) - sent)
                    if size:
                        self._outgoing._write(bytes(view[sent : sent + size]))
                        self._peer._look()
                    sent += size
                    if sent == len(view):
                        return
                    await self._departures.park()
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint()
            while True:
                self._check_sending()
                if self._outgoing._room > 0:
                    return
                await self._departures.park()
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint()
            if self._closed:
                raise trio.ClosedResourceError("this end was closed")
            if not self._eof_sent:
                self._eof_sent = True
                self._outgoing._write_eof()
                self._peer._look()
        finally:
            self._sending = False

    def _begin_sending(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending")
        self._sending = True

    def _check_sending(self) -> None:
        if self._closed or self._eof_sent:
            raise trio.ClosedResourceError("nothing can be sent any more")
        if self._broken:
            raise trio.BrokenResourceError("connection reset by peer")
        if self._peer._closed and not self._outgoing.drop:
            raise trio.BrokenResourceError("the other end was closed")

    # ------------------------------------------------------------------ receiving

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None:
            if not isinstance(max_bytes, int):
                raise TypeError(f"max_bytes must be an int, not {type(max_bytes).__name__}")
            if max_bytes < 1:
                raise ValueError(f"max_bytes must be positive; got {max_bytes}")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
            incoming = self._incoming
            while True:
                if self._closed:
                    raise trio.ClosedResourceError("this end was closed")
                if self._broken:
                    raise trio.BrokenResourceError("connection reset by peer")
                data = incoming._take() if max_bytes is None else incoming._take(max_bytes)
                if data:
                    self._peer._departures.unpark_all()
                    return bytes(data)
                if incoming._take_end():
                    return b""
                with trio.CancelScope(deadline=incoming._next()):
                    await self._arrivals.park()
        finally:
            self._receiving = False

    def _look(self) -> None:
        """Have who receives look again."""
        self._arrivals.unpark_all()

    # ------------------------------------------------------------------ the end

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            if not self._broken:
                self._outgoing._write_eof()
            self._incoming._close()
            for end in (self, self._peer):
                end._look()
                end._departures.unpark_all()
        await trio.lowlevel.checkpoint()

    def _reset(self) -> None:
        self._broken = True
        self._outgoing._forget(0)
        self._look()
        self._departures.unpark_all()


def connected(to_server: Wire, to_client: Wire) -> tuple[MemoryStream, MemoryStream]:
    """Return the streams of a client and of a server.

    Args:
        to_server: Wire from client to server.
        to_client: Wire from server to client.

    Raises:
        ValueError: If a wire is in use.
    """
    left, right = MemoryStream(), MemoryStream()
    join(left, right, to_server, to_client)
    to_server._attach(trio.current_time, right._look)
    to_client._attach(trio.current_time, left._look)
    return left, right
