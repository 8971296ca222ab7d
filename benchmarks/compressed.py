"""Load of compressed messages: what `load` is for those whose wire bytes are known beforehand.

A compressed message has many forms, and which one a server sends is its own affair. What is right
about it is told by `Judge`.
"""

from __future__ import annotations

import functools
import itertools
import socket
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from . import data
from .load import (
    TIMEOUT,
    Conversation,
    Poller,
    Target,
    Window,
    WrongEcho,
    connect_offering,
    everybody,
    measure,
    receive_frame,
)

ROUND: Final = 2 << data.MAX_WINDOW_BITS  # bytes of text in a round of messages


@dataclass
class Traffic:
    """What all connections received together."""

    wire: int = 0  # bytes, frame headers included
    text: int = 0  # bytes

    def clear(self) -> None:
        """Count from here."""
        self.wire = self.text = 0

    def measure(
        self, target: Target, turn: Callable[[], int], warmup: float, seconds: float
    ) -> Window:
        """Measure as `load.measure` does, and count over all slices."""
        window = measure(target.clock, turn, warmup, seconds, begin=self.clear)
        return replace(window, wire=self.wire / self.text)


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


def receive(
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


def connect(target: Target, count: int) -> tuple[list[socket.socket], data.Deflate]:
    """Open `count` connections with compression, on which the server agrees alike."""
    pairs = [
        connect_offering(target, number.to_bytes(16, "big"), data.OFFER) for number in range(count)
    ]
    answers = {deflate for _, deflate in pairs}
    deflate = answers.pop()
    if deflate is None or answers:
        raise WrongEcho("compression isn't agreed on alike on all connections")
    return [sock for sock, _ in pairs], deflate


def echo(target: Target, connections: int, size: int, warmup: float, seconds: float) -> Window:
    """Measure echoes of compressed JSON of `size` bytes, one outstanding on each connection."""
    sockets, deflate = connect(target, connections)
    traffic = Traffic()
    poller = Poller(
        (sock, receive(sock, Judge(stream, deflate), traffic, requests_of(stream)))
        for sock, stream in zip(sockets, streams(connections, size, deflate), strict=True)
    )
    return traffic.measure(target, poller.turn, warmup, seconds)


def broadcast(target: Target, connections: int, size: int, warmup: float, seconds: float) -> Window:
    """Measure broadcasts of compressed JSON; from the client the message comes compressed, too."""
    sockets, deflate = connect(target, connections)
    (stream,) = streams(1, size, deflate)
    judge, traffic = Judge(stream, deflate), Traffic()
    poller = Poller((sock, receive(sock, judge, traffic)) for sock in sockets)
    turn = everybody(sockets, requests_of(stream), poller)
    return traffic.measure(target, turn, warmup, seconds)


def exchange_once(sock: socket.socket, stream: data.Stream, judge: Judge) -> None:
    """Have the first message of a stream echoed, so that both contexts of the server were used."""
    sock.settimeout(TIMEOUT)
    key = data.masking_keys(1)[0]
    sock.sendall(data.frame(data.TEXT | data.COMPRESSED, stream.first[0], key))
    if not judge.complete(0, receive_frame(sock)):
        raise WrongEcho("the message isn't complete")
