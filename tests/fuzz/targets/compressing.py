"""Sent messages, compressed by each backend, read by zlib on the agreed window.

Whole ones and fragments, on their own and with contexts, broadcasts in between, connections that
are idle and release their contexts, and a second connection that shares compressors and broadcasts.
"""

from __future__ import annotations

import zlib
from typing import Any

from tests.fuzz.inputs import Input
from wsproto_fast import PerMessageDeflate, PreparedMessage, Protocol, Side
from wsproto_fast.backends import available_backends

BACKENDS = available_backends()
TAIL = b"\x00\x00\xff\xff"
LARGE = 70_000
SEEDS = [
    b"\x07\x00" + b"\x00\x05hello" * 4,
    b"\x07\x07" + b"\x03\x05hello\x10\x05\xff\x0a\x00\x05hello" * 3,
    b"\x00\x00" + b'\x04\x14{"id": 1, "name": 1}\x20\x08\x00\x14{"id": 2, "name": 2}' * 3,
    b"\x0f\x0f" + b"\x00\x0aabcabcabca\x18\x40\x01\x05\x00\x0aabcabcabca" * 3,
    b"\x22\x36" + b"\x01\x03abc\x02\x03def\x02\x00\x03\x03ghi" * 2,
]


class End:
    """A connection, and its peer's zlib."""

    def __init__(self, flags: int, backend: str | None) -> None:
        self.bits, self.alone = 8 + (flags & 7), bool(flags & 8)
        self.protocol = Protocol(Side.SERVER)
        self.protocol.extensions = [
            PerMessageDeflate(False, self.alone, 15, self.bits, backend=backend, min_size=8)
        ]
        self.sent: list[bytes] = []
        self.read: list[bytes] = []
        self.inflater: Any = None
        self.fragments: list[bytes] | None = None
        self.payload = b""
        self.compressed = False
        self.now = 1.0

    def take(self) -> None:
        """Read what was sent."""
        data = b"".join(iter(self.protocol.take_output, b""))
        while data:
            fin, rsv, opcode = data[0] & 0x80, data[0] & 0x70, data[0] & 15
            size, start = data[1], 2
            if size > 125:
                start = 4 if size == 126 else 10
                size = int.from_bytes(data[2:start], "big")
            assert opcode in (0, 2)
            if opcode:
                self.compressed, self.payload = bool(rsv), b""
                assert rsv in (0, 0x40)
            else:
                assert not rsv
            self.payload += data[start : start + size]
            assert len(data) >= start + size
            data = data[start + size :]
            if fin:
                payload = self.inflate(self.payload) if self.compressed else self.payload
                self.read.append(payload)
        assert self.read == self.sent[: len(self.read)]
        assert len(self.read) >= len(self.sent)

    def inflate(self, payload: bytes) -> bytes:
        if self.inflater is None:
            self.inflater = zlib.decompressobj(-self.bits)
        data: bytes = self.inflater.decompress(payload)
        # RFC 7692 section 7.2.1: what ends a message is the block whose tail was cut.
        assert self.inflater.decompress(TAIL) == b""
        assert self.inflater.copy().decompress(b"\x01\x01\x00\xfe\xffx") == b"x"
        assert not self.inflater.eof
        if self.alone:
            self.inflater = None
        return data

    def idle(self) -> None:
        for _ in range(3):
            due = self.protocol.next_timeout()
            if due is not None:
                self.now = max(self.now, due)
                self.protocol.handle_timeout(self.now)


class Messages:
    """Makes messages that repeat themselves and each other."""

    def __init__(self, source: Input) -> None:
        self.source = source
        self.known = [b""]

    def next(self, kind: int) -> bytes:
        source = self.source
        if kind & 1:
            part = self.known[source.byte() % len(self.known)]
            start, times = source.byte(), source.byte()
            message = part[start:] + part * times
        elif kind & 2:
            message = source.random().randbytes(source.number())
        else:
            message = source.sized()
        message = message[:LARGE]
        self.known.append(message)
        return message


def one_input(data: bytes) -> None:
    source = Input(data)
    first, second = source.byte(), source.byte()
    backend = BACKENDS[(first >> 4) % len(BACKENDS)]
    ends = [End(first, backend), End(second, BACKENDS[(second >> 4) % len(BACKENDS)])]
    messages = Messages(source)
    prepared = None
    for _ in range(60):
        if not source:
            break
        step = source.byte()
        end = ends[step >> 7]
        kind, compress = step & 7, (None, None, True, False)[step >> 5 & 3]
        action = step >> 3 & 3
        if action == 1:
            # A broadcast, some of it while a fragmented message is being sent.
            message = messages.next(kind)
            prepared = PreparedMessage(message)
            for receiver in ends:
                if receiver.fragments is None:
                    receiver.protocol.send_prepared(prepared, compress=compress)
                    receiver.sent.append(message)
        elif action == 2 and kind & 4:
            end.idle()
        elif action == 3:
            message, fin = messages.next(kind & 3), bool(kind & 4)
            if end.fragments is None:
                end.protocol.send_binary(message, fin, compress=compress)
                end.fragments = [message]
            else:
                end.protocol.send_continuation(message, fin)
                end.fragments.append(message)
            if fin:
                end.sent.append(b"".join(end.fragments))
                end.fragments = None
        elif end.fragments is None:
            message = messages.next(kind & 3)
            end.protocol.send(message, compress=compress)
            end.sent.append(message)
        for each in ends:
            each.take()
