"""Load generator: one epoll loop over plain sockets, the same for every peer.

Frames are masked beforehand and every byte that comes back is compared with the wire bytes that a
correct server sends; the first difference ends the run with `WrongEcho`. It knows nothing of the
servers but their address and the clock of their processor time, and of compression no more than
that it is agreed on: see `compressed`.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Final

from . import data

HOST: Final = "127.0.0.1"
TIMEOUT: Final = 10.0  # seconds without any answer after which a server counts as broken
SETTLE: Final = 0.3  # seconds for a server to finish what it does after a handshake
SLICES: Final = 4  # parts of a window, the best of which counts: a burst of noise spoils one or two
VARIETY: Final = 8  # different messages per connection where one is outstanding
IP_BIND_ADDRESS_NO_PORT: Final = 24  # of Linux; the module socket lacks it before Python 3.12
CLOSE_FRAME: Final = struct.pack("!H", 1000)
LINGER_RESET: Final = struct.pack("ii", 1, 0)  # for SO_LINGER: close() sends a RST

# Resumed each time its socket is readable; yields how many messages it finished.
Conversation = Generator[int, None, None]


class WrongEcho(Exception):
    """The server sent something else than it had to."""


class Clock:
    """The processor time, user and system, of another process, to the nanosecond."""

    def __init__(self, pid: int) -> None:
        identifier = ctypes.c_int()
        failure = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(identifier))
        if failure:
            raise OSError(failure, "no processor-time clock for the server process")
        self.identifier = identifier.value
        self.status = Path(f"/proc/{pid}/status")
        self.schedstat = Path(f"/proc/{pid}/schedstat")

    def cpu(self) -> float:
        """Return the seconds of processor time used so far."""
        return time.clock_gettime(self.identifier)

    def queued(self) -> float:
        """Return the seconds for which it was ready to run, while others had its core."""
        return int(self.schedstat.read_text().split()[1]) / 1e9

    def sleeps(self) -> int:
        """Return how often the process gave up the processor to wait."""
        for line in self.status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                return int(line.split()[1])
        raise OSError("no voluntary_ctxt_switches in /proc/<pid>/status")


@dataclass(frozen=True)
class Window:
    """What was seen between two readings of the clocks."""

    messages: int
    cpu: float  # seconds of processor time of the server
    wall: float  # seconds
    queued: float  # seconds for which others had the server's core though it was ready
    sleeps: int  # times that the server went to sleep
    wire: float | None = None  # bytes received from the server per byte of text, where compressed

    @property
    def cpu_us(self) -> float:
        """Microseconds of the server's processor time per message."""
        return self.cpu / self.messages * 1e6

    @property
    def busy(self) -> float:
        """Share of the window that the server spent on the processor."""
        return self.cpu / self.wall


@dataclass(frozen=True)
class Target:
    """Where the load goes, and the sockets that are open to there.

    They are closed once the server process is gone: thousands of connections that break are its
    business (and its log messages) no more.
    """

    port: int
    websocket: bool
    clock: Clock
    sockets: set[socket.socket] = field(default_factory=set)
    sources: tuple[str, ...] = ()  # addresses of clients, where one hasn't got enough ports
    per_source: int = 1  # sockets that have the same one
    tls: ssl.SSLContext | None = None

    def new_socket(self) -> socket.socket:
        """Return a new socket."""
        sock = socket.socket()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.sources:
            number = len(self.sockets) // self.per_source % len(self.sources)
            # The port is chosen when it connects: one that is free for that address.
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((self.sources[number], 0))
        self.sockets.add(sock)
        return sock

    def wrap(self, sock: socket.socket) -> socket.socket:
        """Return what to use in the place of a connected socket, after the handshake of TLS."""
        if self.tls is None:
            return sock
        self.sockets.discard(sock)
        wrapped = self.tls.wrap_socket(sock)
        self.sockets.add(wrapped)
        return wrapped

    def close(self, sock: socket.socket) -> None:
        """Close one of the sockets."""
        self.sockets.discard(sock)
        sock.close()

    def close_all(self) -> None:
        """Close what is still open."""
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()

    def request_frame(self, opcode: int, payload: bytes, key: bytes) -> bytes:
        """Return what a client sends for a message."""
        return data.frame(opcode, payload, key)

    def reply_frame(self, opcode: int, payload: bytes, key: bytes) -> bytes:
        """Return what the server answers: its frame, or the same bytes from a raw echo."""
        return data.frame(opcode, payload, None if self.websocket else key)


def mismatch(received: bytes, expected: bytes) -> WrongEcho:
    """Describe the first difference."""
    if not received:
        return WrongEcho("the server closed the connection")
    pairs = zip(received, expected, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(received), len(expected)))
    return WrongEcho(
        f"byte {at} of {len(received)}: received {received[at : at + 16]!r}, "
        f"expected {expected[at : at + 16]!r}"
    )


def receive_head(sock: socket.socket) -> bytes:
    """Read an HTTP head; answer Pings of which at least a part has come together with it.

    The server may send nothing else before the first message.
    """
    received = b""
    while (end := received.find(b"\r\n\r\n")) < 0:
        piece = sock.recv(4096)
        if not piece:
            raise WrongEcho(f"connection closed in the opening handshake, after {received!r}")
        received += piece
    end += 4
    early = bytearray(received[end:])
    while early:
        frame = receive_any_frame(sock, early)
        if not answer_ping(sock, frame):
            raise WrongEcho(f"{frame!r} has come before the first message")
    return received[:end]


def check_head(head: bytes, nonce: bytes, offer: bytes = b"") -> data.Deflate | None:
    """Check the response to an opening handshake; return what it says to the offer, if any.

    Whoever has been offered compression has to accept it.
    """
    lines = head.split(b"\r\n")
    fields = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(b":") for line in lines[1:-2])
    }
    if (
        not lines[0].startswith(b"HTTP/1.1 101 ")
        or fields.get(b"sec-websocket-accept") != data.accept_key(nonce)
        or (b"sec-websocket-extensions" in fields) != bool(offer)
    ):
        raise WrongEcho(f"unexpected response to the opening handshake: {head!r}")
    if not offer:
        return None
    try:
        return data.Deflate.parse(fields[b"sec-websocket-extensions"])
    except ValueError as exc:
        raise WrongEcho(f"unexpected response to the opening handshake: {exc}") from exc


def connect(target: Target, nonce: bytes) -> socket.socket:
    """Open one connection, handshake included, and leave its socket non-blocking."""
    return connect_offering(target, nonce, b"")[0]


def connect_offering(
    target: Target, nonce: bytes, offer: bytes
) -> tuple[socket.socket, data.Deflate | None]:
    """Do the same with an offer of compression; return what was agreed, too."""
    deflate = None
    sock = target.new_socket()
    sock.settimeout(TIMEOUT)
    sock.connect((HOST, target.port))
    sock = target.wrap(sock)
    if target.websocket:
        sock.sendall(data.upgrade_request(target.port, nonce, offer))
        deflate = check_head(receive_head(sock), nonce, offer)
    sock.setblocking(False)
    return sock, deflate


def connect_many(target: Target, count: int) -> list[socket.socket]:
    """Open `count` connections, one after the other."""
    return [connect(target, number.to_bytes(16, "big")) for number in range(count)]


def rest_of(recv: Callable[[int], bytes], received: bytes, expected: bytes) -> Conversation:
    """Await what is missing of `expected`; anything else is a wrong echo."""
    while received != expected:
        if not received or not expected.startswith(received):
            raise mismatch(received, expected)
        yield 0
        piece = recv(len(expected) + 1)
        received = received + piece if piece else b""


def one_outstanding(sock: socket.socket, pairs: list[tuple[bytes, bytes]]) -> Conversation:
    """Send a message, await its echo, and so on round `pairs` of (sent, expected) wire bytes."""
    recv, send = sock.recv, sock.send
    finished = 0
    for frame, expected in itertools.cycle(pairs):
        send(frame)
        yield finished
        received = recv(len(expected) + 1)  # one more, so that surplus bytes are seen
        if received != expected:
            yield from rest_of(recv, received, expected)
        finished = 1


def one_outstanding_tls(sock: socket.socket, pairs: list[tuple[bytes, bytes]]) -> Conversation:
    """Do the same on a connection with TLS, where what is readable may be no data, or a part."""
    recv, send = sock.recv, sock.send
    finished = 0
    for frame, expected in itertools.cycle(pairs):
        send(frame)
        received = b""
        while received != expected:
            yield finished
            finished = 0
            try:
                # As much as a record may have, so that nothing waits where epoll doesn't see it.
                piece = recv(1 << 15)
            except ssl.SSLWantReadError:
                continue
            received = received + piece if piece else b""
            if not received or not expected.startswith(received):
                raise mismatch(received, expected)
        finished = 1


def many_outstanding(sock: socket.socket, pairs: list[tuple[bytes, bytes]]) -> Conversation:
    """Keep all of `pairs` in flight: for each echo that is complete send its message again."""
    recv, send = sock.recv, sock.send
    frames = b"".join(frame for frame, _ in pairs) * 2
    echoes = b"".join(echo for _, echo in pairs) * 2
    frame_size, echo_size = len(pairs[0][0]), len(pairs[0][1])
    turn = echo_size * len(pairs)
    position = 0
    if send(frames[: frame_size * len(pairs)]) != frame_size * len(pairs):
        raise OSError("the send buffer is smaller than what is to be in flight")
    yield 0
    while True:
        received = recv(turn)
        if not received or not echoes.startswith(received, position):
            raise mismatch(received, echoes[position : position + turn])
        first = position // echo_size
        position += len(received)
        finished = position // echo_size - first
        if finished:
            again = frames[first * frame_size : (first + finished) * frame_size]
            if send(again) != len(again):
                raise OSError("the send buffer is smaller than what is to be in flight")
        position %= turn
        yield finished


def only_receive(sock: socket.socket, expected: list[bytes]) -> Conversation:
    """Await each of `expected`, round and round, without sending."""
    recv = sock.recv
    yield 0
    for message in itertools.cycle(expected):
        received = recv(len(message) + 1)
        if received != message:
            yield from rest_of(recv, received, message)
        yield 1


class Poller:
    """Resumes each conversation when its socket is readable."""

    def __init__(self, conversations: Iterable[tuple[socket.socket, Conversation]]) -> None:
        self.epoll = select.epoll()
        self.resume: dict[int, Callable[[], int]] = {}
        for sock, conversation in conversations:
            self.resume[sock.fileno()] = conversation.__next__
            self.epoll.register(sock.fileno(), select.EPOLLIN)
            next(conversation)

    def turn(self) -> int:
        """Wait for data, handle all there is, and return how many messages were finished."""
        resume = self.resume
        events = self.epoll.poll(TIMEOUT, 1024)
        if not events:
            raise WrongEcho(f"no answer within {TIMEOUT:g} s")
        finished = 0
        for fd, _ in events:
            finished += resume[fd]()
        return finished


def measure(
    clock: Clock,
    turn: Callable[[], int],
    warmup: float,
    seconds: float,
    slices: int = SLICES,
    begin: Callable[[], object] = int,
) -> Window:
    """Call `turn` for `warmup` seconds, then for `seconds`; return the cheapest of its slices.

    What the server did in one slice and the client sees in the next is an error of at most the
    messages in flight, so a slice has to be long enough to make that small. `begin` is called
    between warm-up and window.
    """
    end = time.perf_counter() + warmup
    while time.perf_counter() < end:
        turn()
    begin()
    windows = [measure_slice(clock, turn, seconds / slices) for _ in range(slices)]
    return min(windows, key=lambda window: window.cpu_us)


def measure_slice(
    clock: Clock, turn: Callable[[], int], seconds: float, enough: float = inf
) -> Window:
    """Call `turn` for `seconds`, or until `enough` messages are finished, and count."""
    now = time.perf_counter
    messages, sleeps, queued = 0, clock.sleeps(), clock.queued()
    cpu, begin = clock.cpu(), now()
    end = begin + seconds
    while now() < end and messages < enough:
        messages += turn()
    cpu, wall = clock.cpu() - cpu, now() - begin
    if not messages:
        raise WrongEcho(f"no message finished in a window of {seconds:g} s")
    return Window(messages, cpu, wall, clock.queued() - queued, clock.sleeps() - sleeps)


def echo(
    target: Target,
    connections: int,
    in_flight: int,
    size: int,
    warmup: float,
    seconds: float,
    slices: int = SLICES,
) -> Window:
    """Measure echoes of binary messages of `size` bytes, `in_flight` on each connection."""
    variety = VARIETY if in_flight == 1 else in_flight
    messages = data.payloads(connections * variety, size)
    pairs = [
        (
            target.request_frame(data.BINARY, payload, key),
            target.reply_frame(data.BINARY, payload, key),
        )
        for payload, key in zip(messages, data.masking_keys(len(messages)), strict=True)
    ]
    converse = one_outstanding if in_flight == 1 else many_outstanding
    if target.tls is not None:
        converse = one_outstanding_tls
    sockets = connect_many(target, connections)
    poller = Poller(
        (sock, converse(sock, pairs[number * variety : (number + 1) * variety]))
        for number, sock in enumerate(sockets)
    )
    return measure(target.clock, poller.turn, warmup, seconds, slices)


WAITS: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class LargeEcho:
    """One message outstanding, too large for the buffers of sockets: sent while the echo comes.

    Args:
        sock: Connection.
        frame: What is sent.
        expected: What comes back.

    """

    def __init__(self, sock: socket.socket, frame: bytes, expected: bytes) -> None:
        self.sock, self.frame, self.expected = sock, memoryview(frame), expected
        self.received = memoryview(bytearray(len(expected)))
        self.poller = select.poll()
        sock.setblocking(False)

    def _sent(self, start: int) -> int:
        try:
            return self.sock.send(self.frame[start : start + (1 << 20)])
        except WAITS:
            return 0

    def turn(self) -> int:
        """Exchange one message."""
        sent = got = 0
        while got < len(self.expected):
            more = self._sent(sent) if sent < len(self.frame) else 0
            sent += more
            try:
                size = self.sock.recv_into(self.received[got:])
            except WAITS:
                if not more:
                    events = select.POLLIN | (select.POLLOUT if sent < len(self.frame) else 0)
                    self.poller.register(self.sock, events)
                    if not self.poller.poll(TIMEOUT * 1000):
                        raise WrongEcho(f"no answer within {TIMEOUT:g} s") from None
                continue
            if not size:
                raise mismatch(b"", self.expected)
            got += size
        if self.received != self.expected:
            raise mismatch(bytes(self.received), self.expected)
        return 1


def echo_large(
    target: Target, size: int, warmup: float, seconds: float, opcode: int = data.BINARY
) -> Window:
    """Measure echoes of one message of `size` bytes, one outstanding on one connection."""
    # What is in it matters to nobody, so that this needn't take long.
    payload, (key,) = data.payloads(1, 1024)[0] * (size // 1024), data.masking_keys(1)
    echo = LargeEcho(
        connect(target, bytes(16)),
        target.request_frame(opcode, payload, key),
        target.reply_frame(opcode, payload, key),
    )
    return measure(target.clock, echo.turn, warmup, seconds)


def broadcast(
    target: Target, connections: int, messages: list[bytes], warmup: float, seconds: float
) -> Window:
    """Measure broadcasts of text messages; a message counts once for each receiver.

    The first connection sends the message, and sends the next when everybody has it.
    """
    keys = data.masking_keys(len(messages))
    # A raw server sends what it reads: it is given the bytes that the others send.
    triggers = [
        data.frame(data.TEXT, payload, key if target.websocket else None)
        for payload, key in zip(messages, keys, strict=True)
    ]
    expected = [data.frame(data.TEXT, payload) for payload in messages]
    sockets = connect_many(target, connections)
    poller = Poller((sock, only_receive(sock, expected)) for sock in sockets)
    turn = everybody(sockets, itertools.cycle(triggers), poller)
    return measure(target.clock, turn, warmup, seconds)


def everybody(
    sockets: list[socket.socket], triggers: Iterator[bytes], poller: Poller
) -> Callable[[], int]:
    """Return what has the first connection send a trigger and waits until all have the message."""
    # The last ones may be accepted, or their handlers begun, after the client's handshake ends.
    time.sleep(SETTLE)

    def turn() -> int:
        sockets[0].send(next(triggers))
        missing = len(sockets)
        while missing > 0:
            missing -= poller.turn()
        if missing:
            raise WrongEcho("somebody received a message twice")
        return len(sockets)

    return turn


def upgrade(sock: socket.socket, target: Target, nonce: bytes) -> Conversation:
    """Perform the opening handshake; a raw server echoes the bytes of the request instead."""
    request = data.upgrade_request(target.port, nonce)
    sock.send(request)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        yield 0
        piece = sock.recv(4096)
        if not piece:
            raise mismatch(piece, b"")
        head += piece
    if target.websocket:
        check_head(head, nonce)
    elif head != request:
        raise mismatch(head, request)


def expect_end(sock: socket.socket, expected: bytes) -> Conversation:
    """Receive `expected`, then the end of the stream."""
    received = b""
    while True:
        yield 0
        piece = sock.recv(4096)
        if not piece:
            break
        received += piece
    if received != expected:
        raise mismatch(received, expected)


class Arrivals:
    """Connections that come one after the other, `concurrency` of them at any time.

    `converse` is what each of them does once it is connected. Their sockets are closed after it, or
    stay open with `keep`.
    """

    def __init__(
        self,
        target: Target,
        concurrency: int,
        converse: Callable[[socket.socket], Conversation],
        keep: bool = False,
    ) -> None:
        self.target = target
        self.converse = converse
        self.keep = keep
        self.epoll = select.epoll()
        self.running: dict[int, tuple[socket.socket, Callable[[], int]]] = {}
        for _ in range(concurrency):
            self.begin()

    def begin(self) -> None:
        """Start to connect."""
        sock = self.target.new_socket()
        sock.setblocking(False)
        sock.connect_ex((HOST, self.target.port))
        resume = self.conversation(sock).__next__
        resume()
        self.running[sock.fileno()] = sock, resume
        self.epoll.register(sock.fileno(), select.EPOLLOUT)

    def conversation(self, sock: socket.socket) -> Conversation:
        """Converse when connected."""
        yield 0
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise WrongEcho(f"connection refused: {errno.errorcode[error]}")
        self.epoll.modify(sock.fileno(), select.EPOLLIN)
        yield from self.converse(sock)
        yield 1

    def turn(self) -> int:
        """Go on with those that got something; return how many finished, for which others begin."""
        events = self.epoll.poll(TIMEOUT, 1024)
        if not events:
            raise WrongEcho(f"no answer within {TIMEOUT:g} s")
        finished = 0
        for fd, _ in events:
            sock, resume = self.running[fd]
            if resume():
                finished += 1
                del self.running[fd]
                if self.keep:
                    self.epoll.unregister(fd)
                else:
                    self.target.close(sock)
                self.begin()
        return finished


def handshakes(
    target: Target, concurrency: int, upgraded: bool, warmup: float, seconds: float
) -> Window:
    """Measure connections that are opened and closed, `concurrency` at any time.

    With `upgraded`: the opening handshake, then a Close frame from the client, the server's Close
    frame, and the server closes the TCP connection first (RFC 6455 §7.1.1). Without: connect and
    half-close, no bytes.
    """
    nonces = itertools.cycle(number.to_bytes(16, "big") for number in range(64))
    keys = itertools.cycle(data.masking_keys(64))
    close_reply = data.frame(data.CLOSE, CLOSE_FRAME)

    def converse(sock: socket.socket) -> Conversation:
        rest = b""
        if upgraded:
            yield from upgrade(sock, target, next(nonces))
            if target.websocket:
                rest = close_reply
                sock.send(data.frame(data.CLOSE, CLOSE_FRAME, next(keys)))
        if not rest:
            sock.shutdown(socket.SHUT_WR)
        yield from expect_end(sock, rest)

    turn = Arrivals(target, concurrency, converse).turn
    return measure(target.clock, turn, warmup, seconds, slices=2)


def resets(target: Target, concurrency: int, warmup: float, seconds: float) -> Window:
    """Measure connections that are opened, and then reset by the client without a Close frame."""
    nonces = itertools.cycle(number.to_bytes(16, "big") for number in range(64))

    def converse(sock: socket.socket) -> Conversation:
        yield from upgrade(sock, target, next(nonces))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)

    turn = Arrivals(target, concurrency, converse).turn
    return measure(target.clock, turn, warmup, seconds, slices=2)


def openings(target: Target, concurrency: int, count: int) -> Window:
    """Measure opening handshakes, `concurrency` at any time, of connections that then stay open.

    There are `count` of them in each slice, after as many that don't count.
    """
    nonces = itertools.cycle(number.to_bytes(16, "big") for number in range(64))

    def converse(sock: socket.socket) -> Conversation:
        return upgrade(sock, target, next(nonces))

    turn = Arrivals(target, concurrency, converse, keep=True).turn

    windows = [measure_slice(target.clock, turn, TIMEOUT, count) for _ in range(1 + SLICES)]
    return min(windows[1:], key=lambda window: window.cpu_us)


def receive_frame(sock: socket.socket) -> bytes:
    """Receive a frame on a socket that blocks, and no byte more; answer Pings before it.

    A connection that has waited for others, on a busy machine, may have got some before its first
    message.
    """
    while answer_ping(sock, frame := receive_any_frame(sock, bytearray())):
        pass
    return frame


def receive_any_frame(sock: socket.socket, early: bytearray) -> bytes:
    """Receive a frame, and no byte more; its beginning is taken out of what was received before."""

    def receive(count: int) -> bytes:
        received = bytes(early[:count])
        del early[:count]
        while len(received) < count:
            piece = sock.recv(count - len(received))
            if not piece:
                raise mismatch(b"", b"")
            received += piece
        return received

    head = receive(2)
    size = head[1] & 0x7F
    if size > 125:
        head += receive(2 if size == 126 else 8)
        size = int.from_bytes(head[2:], "big")
    masked = 4 if head[1] & 0x80 else 0  # what a raw server sends back
    return head + receive(masked + size)


def answer_ping(sock: socket.socket, frame: bytes) -> bool:
    """Answer a frame if it is a Ping; return whether it is one."""
    if frame[0] != 0x80 | data.PING:
        return False
    sock.sendall(data.frame(data.PONG, frame[2:], bytes(4)))
    return True


def exchange_once(
    target: Target, sock: socket.socket, payload: bytes, key: bytes, opcode: int = data.BINARY
) -> None:
    """Have one message echoed, so that a connection has lived before it idles."""
    sock.settimeout(TIMEOUT)
    sock.sendall(target.request_frame(opcode, payload, key))
    received, expected = receive_frame(sock), target.reply_frame(opcode, payload, key)
    if received != expected:
        raise mismatch(received, expected)
