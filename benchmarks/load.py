"""Load generator: one epoll loop over plain sockets, the same for every peer.

Frames are masked beforehand and every byte that comes back is compared with the wire bytes that a
correct server sends; the first difference ends the run with `WrongEcho`. Compressed messages have
many forms: see `Judge`. It knows nothing of the servers but their address and the clock of their
processor time.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import itertools
import select
import socket
import struct
import time
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Final

from . import data

HOST: Final = "127.0.0.1"
TIMEOUT: Final = 10.0  # seconds without any answer after which a server counts as broken
SETTLE: Final = 0.3  # seconds for a server to finish what it does after a handshake
SLICES: Final = 4  # parts of a window, the best of which counts: a burst of noise spoils one or two
VARIETY: Final = 8  # different messages per connection where one is outstanding
ROUND: Final = 2 << data.MAX_WINDOW_BITS  # bytes of text in a round of compressed messages
CLOSE_FRAME: Final = struct.pack("!H", 1000)

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

    def new_socket(self) -> socket.socket:
        """Return a new socket."""
        sock = socket.socket()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sockets.add(sock)
        return sock

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
    """Read an HTTP head, which is all that the server may send before the first message."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = sock.recv(4096)
        if not piece:
            raise WrongEcho(f"connection closed in the opening handshake, after {head!r}")
        head += piece
    return head


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
    if target.websocket:
        sock.sendall(data.upgrade_request(target.port, nonce, offer))
        deflate = check_head(receive_head(sock), nonce, offer)
    sock.setblocking(False)
    return sock, deflate


def connect_many(target: Target, count: int) -> list[socket.socket]:
    """Open `count` connections, one after the other."""
    return [connect(target, number.to_bytes(16, "big")) for number in range(count)]


def connect_compressed(target: Target, count: int) -> tuple[list[socket.socket], data.Deflate]:
    """Open `count` connections with compression, on which the server agrees alike."""
    pairs = [
        connect_offering(target, number.to_bytes(16, "big"), data.OFFER) for number in range(count)
    ]
    answers = {deflate for _, deflate in pairs}
    deflate = answers.pop()
    if deflate is None or answers:
        raise WrongEcho("compression isn't agreed on alike on all connections")
    return [sock for sock, _ in pairs], deflate


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


@dataclass
class Traffic:
    """What all connections received together."""

    wire: int = 0  # bytes, frame headers included
    text: int = 0  # bytes

    @property
    def ratio(self) -> float:
        """Bytes on the wire per byte of text."""
        return self.wire / self.text

    def clear(self) -> None:
        """Count from here."""
        self.wire = self.text = 0


def payload_of(received: bytes) -> tuple[bool, bytes] | None:
    """Take the one frame of a text message apart: whether it is compressed, and its payload.

    Returns None where bytes are missing; raises where it is something else, or more.
    """
    first, size = received[0], received[1] if len(received) > 1 else 0
    if first & ~data.COMPRESSED != 0x80 | data.TEXT or size > 127:
        raise WrongEcho(f"not an unmasked text message in one frame: {received[:16]!r}")
    at = {126: 4, 127: 10}.get(size, 2)
    if len(received) < at:
        return None
    if at > 2:
        size = int.from_bytes(received[2:at], "big")
    if len(received) > at + size:
        raise WrongEcho(f"surplus after the message: {received[at + size :][:16]!r}")
    return (bool(first & data.COMPRESSED), received[at:]) if len(received) == at + size else None


class Judge:
    """Tells whether what a server sends is the text of a stream, compressed as agreed.

    To inflate each message would cost the load generator more than some servers need. But the
    result depends on nothing but the bytes and the window before them, and once there is a round of
    text behind a message that window is always the same: what has been inflated to the right text
    is right when it comes again. Servers do repeat themselves, since a round of text is a multiple
    of what compressors count in.
    """

    VARIANTS: Final = 16  # of a message, to keep in mind

    def __init__(self, stream: data.Stream, deflate: data.Deflate) -> None:
        self.stream = stream
        self.deflate = deflate
        self.known: list[set[bytes]] = [set() for _ in stream.payloads]
        self.inflated = 0  # messages

    def complete(self, number: int, received: bytes) -> bool:
        """Check message `number`, counted from 0; return whether all of it is there.

        Raises:
            WrongEcho: it isn't what was sent.

        """
        known = self.known[number % len(self.known)]
        if received in known:
            return True
        if not received:
            raise WrongEcho("the server closed the connection")
        parts = payload_of(received)
        if parts is None:
            return False
        compressed, payload = parts
        text = self.inflate(number, payload) if compressed else payload
        expected = self.stream.payloads[number % len(self.known)]
        if text != expected:
            raise WrongEcho(f"message {number} has the text {text[:32]!r}, not {expected[:32]!r}")
        if len(known) >= self.VARIANTS:
            known.clear()
        known.add(received)
        return True

    def inflate(self, number: int, payload: bytes) -> bytes:
        """Inflate with as much of the text before as the server may refer to."""
        bits = self.deflate.server_bits
        window = self.stream.before(number, 1 << bits) if self.deflate.server_takeover else b""
        inflater = zlib.decompressobj(-bits, zdict=window) if window else zlib.decompressobj(-bits)
        self.inflated += 1
        try:
            return inflater.decompress(payload + data.TAIL)
        except zlib.error as exc:
            raise WrongEcho(f"message {number} can't be inflated: {exc}") from exc


def receive_compressed(
    sock: socket.socket, judge: Judge, traffic: Traffic, requests: Iterable[bytes] | None = None
) -> Conversation:
    """Await each message of a stream, round and round; send one of `requests` before each."""
    recv, send = sock.recv, sock.send
    size = len(judge.stream.payloads[0])
    limit = size + 64  # surplus bytes are seen now or with the next message
    finished = 0
    for number, request in enumerate(itertools.repeat(b"") if requests is None else requests):
        if request:
            send(request)
        yield finished
        received = recv(limit)
        while not judge.complete(number, received):
            yield 0
            piece = recv(limit)
            received = received + piece if piece else b""
        traffic.wire += len(received)
        traffic.text += size
        finished = 1


@functools.lru_cache(maxsize=4)
def texts(connections: int, size: int) -> list[list[bytes]]:
    """Return a round of messages for each connection, made once for all peers."""
    count = -(-ROUND // size)
    return [
        data.json_payloads(count, size, seed=f"{data.SEED}/{number}")
        for number in range(connections)
    ]


@functools.lru_cache(maxsize=2)
def streams(connections: int, size: int, deflate: data.Deflate) -> list[data.Stream]:
    """Compress them, once for all peers that agree on the same."""
    return [data.Stream.of(payloads, deflate) for payloads in texts(connections, size)]


def requests_of(stream: data.Stream) -> Iterator[bytes]:
    """Return the frames that a client sends, without end."""
    keys = data.masking_keys(len(stream.payloads))
    first, again = (
        [
            data.frame(data.TEXT | data.COMPRESSED, payload, key)
            for payload, key in zip(payloads, keys, strict=True)
        ]
        for payloads in (stream.first, stream.again)
    )
    return itertools.chain(first, itertools.cycle(again))


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
    traffic: Traffic | None = None,
) -> Window:
    """Call `turn` for `warmup` seconds, then for `seconds`; return the cheapest of its slices.

    What the server did in one slice and the client sees in the next is an error of at most the
    messages in flight, so a slice has to be long enough to make that small. `traffic` is counted
    over all slices.
    """
    end = time.perf_counter() + warmup
    while time.perf_counter() < end:
        turn()
    if traffic is not None:
        traffic.clear()
    windows = [measure_slice(clock, turn, seconds / slices) for _ in range(slices)]
    best = min(windows, key=lambda window: window.cpu_us)
    return best if traffic is None else replace(best, wire=traffic.ratio)


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
    target: Target, connections: int, in_flight: int, size: int, warmup: float, seconds: float
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
    sockets = connect_many(target, connections)
    poller = Poller(
        (sock, converse(sock, pairs[number * variety : (number + 1) * variety]))
        for number, sock in enumerate(sockets)
    )
    return measure(target.clock, poller.turn, warmup, seconds)


def echo_compressed(
    target: Target, connections: int, size: int, warmup: float, seconds: float
) -> Window:
    """Measure echoes of compressed JSON of `size` bytes, one outstanding on each connection."""
    sockets, deflate = connect_compressed(target, connections)
    traffic = Traffic()
    poller = Poller(
        (sock, receive_compressed(sock, Judge(stream, deflate), traffic, requests_of(stream)))
        for sock, stream in zip(sockets, streams(connections, size, deflate), strict=True)
    )
    return measure(target.clock, poller.turn, warmup, seconds, traffic=traffic)


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


def broadcast_compressed(
    target: Target, connections: int, size: int, warmup: float, seconds: float
) -> Window:
    """Measure broadcasts of compressed JSON; from the client the message comes compressed, too."""
    sockets, deflate = connect_compressed(target, connections)
    (stream,) = streams(1, size, deflate)
    judge, traffic = Judge(stream, deflate), Traffic()
    poller = Poller((sock, receive_compressed(sock, judge, traffic)) for sock in sockets)
    turn = everybody(sockets, requests_of(stream), poller)
    return measure(target.clock, turn, warmup, seconds, traffic=traffic)


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


def exchange_once(
    target: Target, sock: socket.socket, payload: bytes, key: bytes, opcode: int = data.BINARY
) -> None:
    """Have one message echoed, so that a connection has lived before it idles."""
    sock.settimeout(TIMEOUT)
    sock.sendall(target.request_frame(opcode, payload, key))
    expected = target.reply_frame(opcode, payload, key)
    received = b""
    while len(received) < len(expected):
        piece = sock.recv(len(expected) + 1)
        received += piece
        if not piece or not expected.startswith(received):
            raise mismatch(received, expected)


def exchange_once_compressed(sock: socket.socket, stream: data.Stream, judge: Judge) -> None:
    """Have the first message of a stream echoed, so that both contexts of the server were used."""
    sock.settimeout(TIMEOUT)
    key = data.masking_keys(1)[0]
    sock.sendall(data.frame(data.TEXT | data.COMPRESSED, stream.first[0], key))
    received = b""
    while not received or not judge.complete(0, received):
        piece = sock.recv(len(stream.payloads[0]) + 64)
        received = received + piece
        if not piece:
            raise WrongEcho("the server closed the connection")
