"""A TCP proxy that does something to a connection at a chosen place in its bytes.

One thread serves all connections. Each has a port of its own, so that the proxy knows which fault
it gets, and a `Fault` says what happens where. The proxy never looks into TLS: it cuts ciphertext.
"""

from __future__ import annotations

import abc
import heapq
import os
import random
import selectors
import socket
import struct
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

HOST = "127.0.0.1"

# What can happen; the first four harm nobody.
Kind = Literal[
    "none", "delay", "bytes", "splits", "drop", "reset", "half-close", "stall", "truncate"
]
KINDS: tuple[Kind, ...] = (
    "none",
    "delay",
    "bytes",
    "splits",
    "drop",
    "reset",
    "half-close",
    "stall",
    "truncate",
)
HARMLESS = KINDS[:4]

BUFFER_SIZE = 64 * 1024
SMALL_WINDOW = 8 * 1024  # of a connection that is going to stall, so that buffers fill
SINGLE_BYTES = 700  # after which the rest passes as it comes
PIECES = 400
# Seconds in which what an end sent before it reset the connection must have reached the other end.
GRACE = 1


# ---------------------------------------------------------------------- places


class Place(Protocol):
    """A place in a stream of bytes."""

    def find(self, data: bytes) -> int | None:
        """Look at the next bytes; return how many of them are before the place, None for all."""


class AtByte:
    """After so many bytes."""

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def find(self, data: bytes) -> int | None:
        if self.offset <= len(data):
            return self.offset
        self.offset -= len(data)
        return None


class _InUnit(abc.ABC):
    """In one of the units that a stream consists of, which tell their sizes in their headers."""

    def __init__(self) -> None:
        self.header = bytearray()  # of the current unit, as far as it is known
        self.wait = 0  # bytes until the next header, or the place
        self.hit = False  # the place comes next

    def find(self, data: bytes) -> int | None:
        position = 0
        while True:
            step = min(self.wait, len(data) - position)
            self.wait -= step
            position += step
            if self.hit and not self.wait:
                return position
            if position == len(data):
                return None
            self.header.append(data[position])
            position += 1
            self.look()

    @abc.abstractmethod
    def look(self) -> None:
        """Look at the header, in which there is one byte more than before."""

    def stop(self, after: int) -> None:
        self.hit = True
        self.wait = after


class InFrame(_InUnit):
    """In a WebSocket frame behind the opening handshake.

    Args:
        what: "any", "large" (eight bytes of length), "fragment", "ping", or "close".
        number: Which of these; 0 for the first one.
        part: "header", "length", "mask", "payload", or "end".
    """

    def __init__(self, what: str, number: int, part: str) -> None:
        super().__init__()
        self.what = what
        self.number = number
        self.part = part
        self.opened = False

    def look(self) -> None:
        if not self.opened:
            self.opened = self.header.endswith(b"\r\n\r\n")
            if self.opened:
                self.header.clear()
            return
        first = self.header[0]
        second = self.header[1] if len(self.header) > 1 else 0
        if len(self.header) == 1:
            if self.part == "header" and self.what != "large" and self._is_it(first, 0):
                self.stop(0)
            return
        length = {126: 2, 127: 8}.get(second & 0x7F, 0)
        mask = 4 if second & 0x80 else 0
        within = {"header": 0, "length": length // 2, "mask": length + 2}.get(self.part)
        if within is not None and len(self.header) == 2 and self._is_it(first, second):
            self.stop(within)
            return
        if len(self.header) == 2 + length:
            size = int.from_bytes(self.header[2:], "big") if length else second & 0x7F
            self.wait = mask + size
            if self._is_it(first, second):
                self.stop(mask + (size // 2 if self.part == "payload" else size))
            elif self._matches(first, second):
                self.number -= 1
            self.header.clear()

    def _is_it(self, first: int, second: int) -> bool:
        return self.number == 0 and self._matches(first, second)

    def _matches(self, first: int, second: int) -> bool:
        opcode = first & 0x0F
        match self.what:
            case "large":
                return second & 0x7F == 127
            case "fragment":
                return opcode < 8 and (opcode == 0 or not first & 0x80)
            case "ping":
                return opcode == 9
            case "close":
                return opcode == 8
            case _:
                return True


class InRecord(_InUnit):
    """In a record of TLS.

    Args:
        number: Which of those that are encrypted; 0 for the first one.
        part: "header", "payload", or "end".
    """

    def __init__(self, number: int, part: str) -> None:
        super().__init__()
        self.number = number
        self.part = part

    def look(self) -> None:
        if len(self.header) == 2 and self.header[0] == 23 and self.number == 0:
            if self.part == "header":
                self.stop(0)
        elif len(self.header) == 5:
            kind, _, self.wait = struct.unpack("!BHH", self.header)
            self.header.clear()
            if kind == 23:  # application data
                if self.number == 0:
                    self.stop(self.wait // 2 if self.part == "payload" else self.wait)
                self.number -= 1


# ---------------------------------------------------------------------- faults


@dataclass
class Fault:
    """What happens to a connection.

    Args:
        kind: What.
        upward: Whether it begins in what the client sends, rather than the server.
        place: Where in that stream; None for nowhere.
        seconds: Length of a delay.
        both: Whether both directions are dropped.
        seed: For the sizes of pieces.
    """

    kind: Kind
    upward: bool
    place: Place | None
    seconds: float = 0
    both: bool = False
    seed: int = 0
    fired: bool = False


@dataclass
class Half:
    """One direction of a connection."""

    source: socket.socket
    target: socket.socket
    fault: Fault | None  # until it has happened
    buffer: bytearray = field(default_factory=bytearray)
    held: bytes | None = None  # behind the place, until the fault happens
    pieces: Any = None  # sizes in which the next bytes are passed on
    ended: bool = False  # nothing more is read
    passed_on: bool = False  # the target knows about the end
    broken: bool = False  # the end is a reset
    dropping: bool = False
    stalled: bool = False

    def wants_to_read(self) -> bool:
        return not (
            self.ended or self.stalled or self.held is not None or len(self.buffer) >= BUFFER_SIZE
        )


class Flow:
    """A connection through the proxy.

    Attributes:
        port: Where the client connects to; -1 as soon as it has.
        over: Whether nothing is left of it.
    """

    def __init__(self, proxy: FaultProxy, listener: socket.socket, upstream: int, fault: Fault):
        self.proxy = proxy
        self.listener: socket.socket | None = listener
        self.port: int = listener.getsockname()[1]
        self.upstream = upstream
        self.fault = fault
        self.halves: list[Half] = []
        self.sockets: list[socket.socket] = []
        self.masks: dict[socket.socket, int] = {}
        self.over = False

    def forget(self) -> None:
        """Reset what is left of the connection."""
        self.proxy.call(self.reset)

    # ------------------------------------------------------------------ in the proxy's thread

    def accept(self, _mask: int) -> None:
        assert self.listener is not None
        client, _ = self.listener.accept()
        self._stop_listening()
        self.sockets.append(client)
        server = socket.socket()
        self.sockets.append(server)
        if self.fault.kind == "stall":
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_WINDOW)
        try:
            server.connect((HOST, self.upstream))
        except OSError:
            self.reset()
            return
        for sock in self.sockets:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        up, down = Half(client, server, None), Half(server, client, None)
        if self.fault.place is not None:
            (up if self.fault.upward else down).fault = self.fault
        self.halves = [up, down]
        self.watch()

    def _stop_listening(self) -> None:
        if self.listener is not None:
            self.proxy.selector.unregister(self.listener)
            self.listener.close()
            self.listener = None

    def watch(self) -> None:
        """Tell the selector what is wanted of the sockets."""
        if self.over:
            return
        up, down = self.halves
        for sock, out, into in ((up.source, up, down), (down.source, down, up)):
            if sock not in self.sockets:
                continue
            mask = selectors.EVENT_READ if out.wants_to_read() else 0
            mask |= selectors.EVENT_WRITE if into.buffer else 0
            before = self.masks.get(sock, 0)
            if mask == before:
                continue
            if not before:
                self.proxy.selector.register(sock, mask, lambda m, s=sock: self.ready(s, m))
            elif mask:
                self.proxy.selector.modify(sock, mask, self.proxy.selector.get_key(sock).data)
            else:
                self.proxy.selector.unregister(sock)
            self.masks[sock] = mask

    def ready(self, sock: socket.socket, mask: int) -> None:
        up, down = self.halves
        out, into = (up, down) if sock is up.source else (down, up)
        try:
            if mask & selectors.EVENT_WRITE:
                self._write(into)
            if mask & selectors.EVENT_READ and not self.over and out.wants_to_read():
                self._read(out)
        except BlockingIOError:
            pass
        except OSError:
            self._lose(out, into)
        self._go_on()

    def _lose(self, out: Half, into: Half) -> None:
        """Do what follows when an end has reset the connection.

        Args:
            out: The direction that begins there.
            into: The one that ends there.
        """
        if self.fault.fired and self.fault.kind == "drop":
            # The other end doesn't learn it from a network that has fallen silent. That one is
            # closed when the connection is forgotten.
            self._release(out.source)
            if self.masks.pop(out.target, 0):
                self.proxy.selector.unregister(out.target)
            self.halves = []
            return
        # What was sent before is on its way to the other end; the reset comes behind it.
        try:
            while not (out.ended or out.stalled):
                self._read(out)
        except OSError:  # there is no more
            pass
        out.ended = out.broken = True
        into.ended = into.passed_on = True
        into.buffer.clear()
        into.held = None
        self._release(out.source)
        self.proxy.later(GRACE, self.reset)

    def _release(self, sock: socket.socket) -> None:
        """Close one end only."""
        if self.masks.pop(sock, 0):
            self.proxy.selector.unregister(sock)
        sock.close()
        self.sockets.remove(sock)

    def _go_on(self) -> None:
        if self.over or not self.halves:
            return
        for half in self.halves:
            if half.held is not None and not half.buffer and half.fault is not None:
                self._happen(half, half.fault)
                if self.over:
                    return
        for half in self.halves:
            if half.ended and not half.buffer and half.held is None and not half.passed_on:
                half.passed_on = True
                if not half.dropping and not half.broken:
                    self._shut(half.target)
        if all(half.passed_on for half in self.halves):
            broken = [half for half in self.halves if half.broken]
            if not broken:
                self._close()
            elif unsent(broken[0].target):
                self.watch()
                self.proxy.later(0.01, self._go_on)  # a reset would overtake it
            else:
                self.reset()
            return
        self.watch()

    def _read(self, half: Half) -> None:
        data = half.source.recv(BUFFER_SIZE)
        if not data:
            half.ended = True
        elif half.dropping:
            pass
        elif half.held is not None:
            half.held += data
        elif half.fault is not None and half.fault.place is not None:
            position = half.fault.place.find(data)
            if position is None:
                half.buffer += data
            else:
                half.buffer += data[:position]
                half.held = data[position:]
        else:
            half.buffer += data

    def _write(self, half: Half) -> None:
        if not half.buffer:
            return
        size = len(half.buffer)
        if half.pieces is not None:
            size = next(half.pieces, size)
        with memoryview(half.buffer) as view, view[:size] as piece:
            sent = half.target.send(piece)
        del half.buffer[:sent]

    def _happen(self, half: Half, fault: Fault) -> None:
        fault.fired = True
        half.fault = None
        rest, half.held = half.held or b"", None
        match fault.kind:
            case "delay":
                half.held = rest
                self.proxy.later(fault.seconds, lambda: self._resume(half))
            case "bytes":
                half.pieces = iter([1] * SINGLE_BYTES)
                half.buffer += rest
            case "splits":
                dice = random.Random(fault.seed)
                half.pieces = (int(dice.expovariate(1 / 300)) + 1 for _ in range(PIECES))
                half.buffer += rest
            case "drop":
                half.dropping = True
                if fault.both:
                    for each in self.halves:
                        each.dropping = True
                        each.buffer.clear()
            case "reset":
                self.reset()
            case "half-close":
                self._shut(half.target)
                half.dropping = True
            case "stall":
                half.stalled = True
            case "truncate":
                for each in self.halves:
                    each.dropping = True
                    each.buffer.clear()
                    self._shut(each.target)
            case _:
                half.buffer += rest

    def _resume(self, half: Half) -> None:
        if self.halves:
            half.buffer += half.held or b""
            half.held = None
            self._go_on()

    @staticmethod
    def _shut(sock: socket.socket) -> None:
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def reset(self) -> None:
        for sock in self.sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._close()

    def _close(self) -> None:
        self._stop_listening()
        for sock in self.sockets:
            if self.masks.pop(sock, 0):
                self.proxy.selector.unregister(sock)
            sock.close()
        self.sockets, self.halves = [], []
        self.over = True


def unsent(sock: socket.socket) -> int:
    """Return how many bytes the system has that the other end hasn't got, where it tells."""
    if sys.platform != "linux":
        return 0
    import fcntl
    import termios

    return struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]


class FaultProxy:
    """The proxy; a context manager."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self._bell, self._ringer = socket.socketpair()
        self._bell.setblocking(False)
        self._calls: deque[Callable[[], None]] = deque()
        self._alarms: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="fault proxy", daemon=True)

    def __enter__(self) -> FaultProxy:
        self.selector.register(self._bell, selectors.EVENT_READ, self._woken)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopped = True
        self.call(lambda: None)
        self._thread.join()
        self.selector.close()
        self._bell.close()
        self._ringer.close()

    def open(self, upstream: int, fault: Fault) -> Flow:
        """Prepare for one connection to a port of this machine."""
        listener = socket.socket()
        if fault.kind == "stall":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_WINDOW)
        listener.bind((HOST, 0))
        listener.listen(1)
        listener.setblocking(False)
        flow = Flow(self, listener, upstream, fault)
        self.call(lambda: self._listen(flow, listener))
        return flow

    def _listen(self, flow: Flow, listener: socket.socket) -> None:
        self.selector.register(listener, selectors.EVENT_READ, flow.accept)

    def call(self, function: Callable[[], None]) -> None:
        """Have the proxy's thread call a function."""
        self._calls.append(function)
        self._ringer.send(b"\0")

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._alarms, (time.monotonic() + seconds, self._count, function))

    def _woken(self, _mask: int) -> None:
        self._bell.recv(4096)

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException:
            # Nothing that was found without a proxy would be worth anything.
            traceback.print_exc()
            os._exit(70)

    def _serve(self) -> None:
        while not self._stopped:
            timeout = None
            if self._alarms:
                timeout = max(self._alarms[0][0] - time.monotonic(), 0)
            for key, mask in self.selector.select(timeout):
                # An earlier event may have closed what this one is about.
                if self.selector.get_map().get(key.fd) is key:
                    key.data(mask)
            while self._calls:
                self._calls.popleft()()
            while self._alarms and self._alarms[0][0] <= time.monotonic():
                heapq.heappop(self._alarms)[2]()
