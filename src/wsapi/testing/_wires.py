"""What carries bytes between the two ends of a connection in memory, on any front-end."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["WINDOW", "End", "Link", "Wire", "addresses", "join", "link"]

# Bytes under way that a writer needs not wait for, as if they were in buffers of operating systems.
WINDOW = 2**16

# Bytes that arrive at once, where nothing splits them.
MOST_AT_ONCE = 2**18

# With a bandwidth, what is written arrives in pieces: of so many seconds, but of no fewer bytes.
PIECE_TIME = 0.02
LEAST_PIECE = 64

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
        bandwidth: Bytes per second that it takes, one after the other; None for no limit.

    Attributes:
        drop: As above; for what is written from now on.
        bytes_written: Number of bytes that were written so far, with those that got lost.

    Raises:
        ValueError: If ``delay`` is negative or not finite, or ``split`` or ``bandwidth`` isn't
            positive.
    """

    def __init__(
        self,
        *,
        delay: float = 0.0,
        split: int | None = None,
        hold: bool = False,
        drop: bool = False,
        bandwidth: float | None = None,
    ) -> None:
        self.delay = delay
        self.split = split
        self.bandwidth = bandwidth
        self.drop = drop
        self.bytes_written = 0
        self._hold = hold
        self._pieces: deque[tuple[float, memoryview]] = deque()  # with the times when they arrive
        self._end: float | None = None  # when the end of the stream arrives
        self._last = 0.0  # when what was written last arrives
        self._free = 0.0  # when it has taken all that was written
        self._size = 0
        self._sender: End | None = None
        self._received = True  # there is somebody to receive
        self._time: Callable[[], float] | None = None
        self._changed: Callable[[], object] = _do_nothing

    # ------------------------------------------------------------------ what tests change

    @property
    def delay(self) -> float:
        """Seconds that bytes are under way; for what is written from now on."""
        return self._delay

    @delay.setter
    def delay(self, delay: float) -> None:
        if not 0 <= delay < math.inf:
            raise ValueError(f"delay must be 0 or more, and finite; got {delay}")
        self._delay = delay

    @property
    def split(self) -> int | None:
        """Number of bytes that arrive at once, at most."""
        return self._split

    @split.setter
    def split(self, split: int | None) -> None:
        number: object = split  # tests needn't be typed
        if number is not None and not (isinstance(number, int) and number > 0):
            raise ValueError(f"split must be a positive integer or None; got {split!r}")
        self._split = split

    @property
    def bandwidth(self) -> float | None:
        """Bytes per second that it takes; for what is written from now on."""
        return self._bandwidth

    @bandwidth.setter
    def bandwidth(self, bandwidth: float | None) -> None:
        if bandwidth is not None and not bandwidth > 0:
            raise ValueError(f"bandwidth must be positive or None; got {bandwidth}")
        self._bandwidth = bandwidth

    @property
    def hold(self) -> bool:
        """Whether bytes wait on their way."""
        return self._hold

    @hold.setter
    def hold(self, hold: bool) -> None:
        self._hold = hold
        self._changed()

    @property
    def bytes_under_way(self) -> int:
        """Number of bytes that were written and haven't arrived."""
        return self._size

    # ------------------------------------------------------------------ what its ends call

    def _attach(self, time: Callable[[], float], changed: Callable[[], object]) -> None:
        """Begin to carry bytes.

        Args:
            time: Returns the current time.
            changed: Called when what has been held arrives.
        """
        self._time, self._changed = time, changed

    @property
    def _room(self) -> int:
        """Number of bytes that may be written before the writer has to wait; negative if it has."""
        return WINDOW - self._size

    def _write(self, data: bytes) -> None:
        assert self._time is not None
        self.bytes_written += len(data)
        if self.drop or not self._received:
            return
        self._size += len(data)
        now, view = self._time(), memoryview(data)
        if self._bandwidth is None:
            self._add(now, view)
            return
        size = max(LEAST_PIECE, int(self._bandwidth * PIECE_TIME))
        for start in range(0, len(view), size):
            piece = view[start : start + size]
            self._free = max(self._free, now) + len(piece) / self._bandwidth
            self._add(self._free, piece)

    def _add(self, time: float, piece: memoryview) -> None:
        self._pieces.append((self._arrival(time), piece))

    def _arrival(self, time: float) -> float:
        """Return when what is sent at a time arrives: nothing overtakes what was sent before."""
        self._last = max(self._last, time + self._delay)
        return self._last

    def _write_eof(self) -> None:
        assert self._time is not None
        if self._end is None and not self.drop:
            self._end = self._arrival(max(self._free, self._time()))

    def _forget_what_waits(self) -> None:
        """Forget what a writer would have to wait for."""
        self._forget(WINDOW)

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
        self._received = False
        self._forget(0)
        self._end = None

    def _next(self) -> float:
        """Return when something arrives; infinite if nothing does."""
        if self._hold or not self._received:
            return math.inf
        if self._pieces:
            return self._pieces[0][0]
        return math.inf if self._end is None else self._end

    def _take(self, most: int = MOST_AT_ONCE) -> memoryview:
        """Return what has arrived, at most so many bytes; nothing if nothing has."""
        assert self._time is not None
        now = self._time()
        left = min(most, MOST_AT_ONCE if self._split is None else self._split)
        arrived: list[memoryview] = []
        while left and self._pieces and not self._hold and self._pieces[0][0] <= now:
            when, piece = self._pieces.popleft()
            if len(piece) > left:
                self._pieces.appendleft((when, piece[left:]))
            arrived.append(piece[:left])
            left -= len(arrived[-1])
        data = arrived[0] if len(arrived) == 1 else memoryview(b"".join(arrived))
        self._size -= len(data)
        return data

    def _give_back(self, data: memoryview) -> None:
        """Have what was taken arrive once more."""
        if data and self._received:
            self._pieces.appendleft((0.0, data))
            self._size += len(data)

    def _take_end(self) -> bool:
        """Tell whether the end of the stream has arrived."""
        assert self._time is not None
        return not self._pieces and self._next() <= self._time()


def _do_nothing() -> None:
    """Nobody wants to know."""


class End:
    """One end of a connection in memory: what front-ends take for a transport, stream, or socket.

    Attributes:
        _outgoing: What carries bytes to the other end.
        _incoming: What carries bytes from there.
        _peer: The other end.
    """

    _outgoing: Wire
    _incoming: Wire
    _peer: Any

    def _reset(self) -> None:
        """Have the connection broken at this end, and what this end has sent lost."""
        raise NotImplementedError


class Link:
    """The network of a connection in memory, as one end sees it; ``link`` returns it.

    Args:
        end: That end.
    """

    def __init__(self, end: End) -> None:
        self._end = end

    @property
    def outgoing(self) -> Wire:
        """What carries bytes from this end to the other one."""
        return self._end._outgoing

    @property
    def incoming(self) -> Wire:
        """What carries bytes from the other end to this one."""
        return self._end._incoming

    def cut(self) -> None:
        """Have everything lost from now on, in both directions; neither end is told."""
        self.outgoing.drop = self.incoming.drop = True

    def reset(self) -> None:
        """Reset the connection: both ends get an error, ``ConnectionResetError`` or, on trio, a
        ``trio.BrokenResourceError``, and what is under way is lost."""
        for end in (self._end, self._end._peer):
            end._reset()


def link(connection: Any) -> Link:
    """Return the network of a connection in memory, to do it harm.

    Args:
        connection: Connection of a client or of a server, on any front-end.

    Raises:
        TypeError: If it isn't in memory.
    """
    for name in ("_transport", "stream", "socket"):
        end = getattr(connection, name, None)
        if isinstance(end, End):
            return Link(end)
    raise TypeError(f"{connection!r} isn't a connection in memory")


def join(client: End, server: End, to_server: Wire, to_client: Wire) -> None:
    """Connect two ends.

    Args:
        client: One of them.
        server: The other one.
        to_server: Wire from client to server.
        to_client: Wire from server to client.

    Raises:
        ValueError: If a wire is in use.
    """
    if to_server is to_client or to_server._time is not None or to_client._time is not None:
        raise ValueError("each direction of a connection needs a Wire of its own")
    client._peer, client._outgoing, client._incoming = server, to_server, to_client
    server._peer, server._outgoing, server._incoming = client, to_client, to_server
    to_server._sender, to_client._sender = client, server


def addresses() -> tuple[tuple[str, int], tuple[str, int]]:
    """Return the addresses of a client and of its server, for a new connection."""
    return ("127.0.0.1", 49152 + next(_client_ports) % 16384), SERVER_ADDRESS
