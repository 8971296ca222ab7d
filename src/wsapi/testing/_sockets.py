"""What stands for sockets in connections of threads in memory, and who looks after them."""

from __future__ import annotations

import errno
import math
import os
import selectors
import socket
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from wsproto_fast.drivers.endpoints import Endpoint, Inbox, Round

from ._time import Time, Waiter
from ._wires import End, Wire, addresses, join

if TYPE_CHECKING:
    from wsproto_fast.drivers.threads import SocketDriver

__all__ = ["Listener", "MemorySocket", "Network"]


class MemorySocket(Endpoint, End):
    """One end of a connection in memory, with as much of a socket's methods as a connection uses.

    Args:
        network: Where it is.
        here: Address of this end.
        there: Address of the other end.
    """

    family = socket.AF_UNIX

    def __init__(self, network: Network, here: Any, there: Any) -> None:
        super().__init__(network.inbox)
        self._network = network
        self._addresses = here, there
        self._waiters: list[Waiter] = []
        self._reset_by_peer = False
        self._reads_no_more = False
        self._writes_no_more = False
        self._closed = False

    # ------------------------------------------------------------------ of a socket

    def fileno(self) -> int:
        return -1

    def setblocking(self, flag: bool) -> None:
        """Whoever waits says how long."""

    def getsockname(self) -> Any:
        self._check_open()
        return self._addresses[0]

    def getpeername(self) -> Any:
        self._check_open()
        return self._addresses[1]

    def getsockopt(self, *args: object) -> Any:
        raise _error(errno.ENOPROTOOPT)  # there is no TCP

    def _check_open(self) -> None:
        if self._closed:
            raise _error(errno.EBADF)

    def shutdown(self, how: int) -> None:
        with self._network.time.lock:
            self._check_open()
            if how != socket.SHUT_WR:
                self._reads_no_more = True
            if how != socket.SHUT_RD and not self._writes_no_more:
                self._write_end()
            self._look()

    def close(self) -> None:
        with self._network.time.lock:
            if self._closed:
                return
            self._closed = self._reads_no_more = True
            if not self._writes_no_more:
                self._write_end()
            self._incoming._close()
            self._look()
            self._peer._look()

    def _write_end(self) -> None:
        self._writes_no_more = True
        if not self._reset_by_peer:
            self._outgoing._write_eof()
            self._peer._look()

    # ------------------------------------------------------------------ of an Endpoint

    def receive(self, buffer: memoryview, deadline: float) -> int | None:
        time = self._network.time
        with memoryview(buffer) as room:
            while True:
                with time.lock:
                    if self._reset_by_peer:
                        raise _error(errno.ECONNRESET)
                    if self._reads_no_more:
                        return 0
                    if data := self._incoming._take(len(room)):
                        room[: len(data)] = data
                        self._peer._look()
                        return len(data)
                    if self._incoming._take_end():
                        return 0
                    if deadline <= time.time():
                        return None
                    until = min(deadline, self._incoming._next())
                    waiter = self._wait_for_changes()
                self._wait(waiter, until)

    def send_now(self, data: memoryview) -> int:
        with self._network.time.lock:
            self._check_sending()
            size = min(len(data), max(self._outgoing._room, 0))
            if size:
                self._outgoing._write(bytes(data[:size]))
                self._peer._look()
            return size

    def wait_writable(self) -> None:
        with self._network.time.lock:
            if self._is_writable():
                return
            waiter = self._wait_for_changes()
        self._wait(waiter, math.inf)

    def _check_sending(self) -> None:
        if self._reset_by_peer:
            raise _error(errno.ECONNRESET)
        if self._writes_no_more or (self._peer._closed and not self._outgoing.drop):
            raise _error(errno.EPIPE)

    def _wait_for_changes(self) -> Waiter:
        waiter = self._network.time.waiter()
        self._waiters.append(waiter)
        return waiter

    def _wait(self, waiter: Waiter, until: float) -> None:
        try:
            waiter.wait(until)
        finally:
            with self._network.time.lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)

    # ------------------------------------------------------------------ of an End; for the network

    def _look(self) -> None:
        """Have those look again who wait; the lock of the time is held."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.release_locked()
        self._network.look(self)

    def _look_later(self) -> None:
        with self._network.time.lock:
            self._look()

    def _reset(self) -> None:
        with self._network.time.lock:
            self._reset_by_peer = True
            self._outgoing._forget(0)
            self._look()

    def _is_readable(self) -> bool:
        ended = self._reset_by_peer or self._reads_no_more
        return ended or self._incoming._next() <= self._network.time.time()

    def _is_writable(self) -> bool:
        ended = self._reset_by_peer or self._writes_no_more or self._peer._closed
        return ended or self._outgoing._room > 0


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Network:
    """Where connections of threads are in memory, and what looks after those that nobody uses.

    Args:
        time: The time that they go by.
    """

    def __init__(self, time: Time) -> None:
        self.time = time
        self.inbox = Inbox(self._start, time)
        self._watched: dict[MemorySocket, tuple[int, Any]] = {}
        self._sleeper: Waiter | None = None
        self._rung = False
        self._thread: threading.Thread | None = None

    def connected(self, to_server: Wire, to_client: Wire) -> tuple[MemorySocket, MemorySocket]:
        """Return the ends of a new connection: of a client, and of a server.

        Args:
            to_server: Wire from client to server.
            to_client: Wire from server to client.

        Raises:
            ValueError: If a wire is in use.
        """
        here, there = addresses()
        left, right = MemorySocket(self, here, there), MemorySocket(self, there, here)
        join(left, right, to_server, to_client)
        to_server._attach(self.time.time, right._look_later)
        to_client._attach(self.time.time, left._look_later)
        return left, right

    # ------------------------------------------------------------------ the housekeeper

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="wsapi-testing-housekeeper", daemon=True)
        thread.start()
        self._thread = thread

    def join(self, timeout: float) -> None:
        """Wait for the end of the thread, which comes when all connections are closed."""
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        inbox = self.inbox
        inbox.wake = self._ring
        round_ = Round(inbox, self)
        while True:
            until = -math.inf if inbox.live == 0 else round_.work()
            if not inbox.sleep(until):
                round_.work()
                continue
            events = self._select(until)
            inbox.awake()
            if not events and inbox.finish():
                return
            self._tend(round_, events)

    @staticmethod
    def _tend(round_: Round, events: Iterable[tuple[SocketDriver, int]]) -> None:
        # Not in the frame of the thread, which would keep the last connection while it sleeps.
        for driver, mask in events:
            round_.tend(driver, mask)

    def _ring(self, data: bytes) -> None:
        with self.time.lock:
            self._rung = True
            if self._sleeper is not None:
                self._sleeper.release_locked()

    def look(self, sock: MemorySocket) -> None:
        """Have the housekeeper look at a socket, if it watches it; the lock is held."""
        if self._sleeper is not None and sock in self._watched:
            self._sleeper.release_locked()

    def _select(self, until: float) -> list[tuple[Any, int]]:
        """Wait for something to do; return what is watched and ready, and for what."""
        while True:
            with self.time.lock:
                ready = [
                    (data, mask)
                    for sock, (events, data) in self._watched.items()
                    if (mask := events & _ready(sock))
                ]
                if ready or self._rung or until <= self.time.time():
                    self._rung = False
                    self._sleeper = None
                    return ready
                arrivals = [
                    sock._incoming._next()
                    for sock, (events, _) in self._watched.items()
                    if events & selectors.EVENT_READ
                ]
                waiter = self._sleeper = self.time.waiter()
            waiter.wait(min([until, *arrivals]))

    # ------------------------------------------------------------------ of a selector

    def register(self, sock: MemorySocket, events: int, data: Any) -> None:
        """Begin to watch a socket."""
        with self.time.lock:
            self._watched[sock] = events, data

    modify = register

    def unregister(self, sock: MemorySocket) -> None:
        """Watch a socket no more."""
        with self.time.lock:
            del self._watched[sock]


def _ready(sock: MemorySocket) -> int:
    """Return what a socket is ready for."""
    readable = selectors.EVENT_READ if sock._is_readable() else 0
    return readable | (selectors.EVENT_WRITE if sock._is_writable() else 0)


class Listener(socket.socket):
    """What a server in memory has in place of a listening socket: it has no descriptor."""

    def __init__(self) -> None:
        """No socket is opened."""

    def getsockname(self) -> Any:
        return "memory"

    def close(self) -> None:
        """There is nothing to close."""

    def __repr__(self) -> str:
        return "<Listener in memory>"
