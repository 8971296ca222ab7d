"""Compressed messages: each backend against zlib on the agreed window, and a slow model.

Contexts are released in between, as an idle connection does.
"""

from __future__ import annotations

import zlib
from typing import Any

from tests.fuzz.inputs import Input
from tests.fuzz.rfc6455 import Fault, Inflater
from wsproto_fast import Frame, Opcode, PayloadTooBig, PerMessageDeflate, Protocol, Side
from wsproto_fast.backends import available_backends
from wsproto_fast.exceptions import ProtocolError

BACKENDS = [name for name in available_backends() if name != "native"]
LIMITS = (None, 2**16, 200, 10)
TAIL = b"\x00\x00\xff\xff"


def deflated(*messages: bytes, bits: int = 15) -> list[bytes]:
    compressor = zlib.compressobj(wbits=-bits)
    return [
        (compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
        for message in messages
    ]


def seed(head: bytes, *payloads: bytes) -> bytes:
    return head + b"".join(bytes([1, len(payload)]) + payload for payload in payloads)


SEEDS = [
    seed(b"\x07\x00", *deflated(b"hello", b"hello", b"hello hello")),
    seed(b"\x01\x00", *deflated(b"hello" * 100, b"hello" * 50, bits=9)),
    seed(b"\x07\x02", *deflated(b"a" * 201)),
    seed(b"\x01\x00", *deflated(b"hello world" + b"x" * 600 + b"hello world", b"hello world")),
    seed(b"\x0f\x00", bytes.fromhex("f348cdc9c9070000"), bytes.fromhex("f248cdc9c90700")),
    seed(b"\x07\x00", bytes.fromhex("000500faff48656c6c6f00"), b"\x00"),
    b"\x07\x00\x00\x03\xf2\x48\xcd\x01\x04\xc9\xc9\x07\x00",
]


class Setting:
    def __init__(self, source: Input) -> None:
        first, second = source.byte(), source.byte()
        self.bits = 8 + (first & 7)
        self.alone = bool(first & 8)
        self.limit = LIMITS[second & 3]
        # Frames with whether they end a message, and whether contexts are released behind it.
        self.frames: list[tuple[bytes, bool, bool]] = []
        while source and len(self.frames) < 50:
            flags = source.byte()
            self.frames.append((source.sized(), bool(flags & 1), bool(flags & 2)))


def model(setting: Setting) -> tuple[list[Any], bool]:
    """Return what each frame gives, up to a fault: its codes; and whether others may not see it."""
    found: list[Any] = []
    inflater = Inflater(setting.bits)
    size = 0
    try:
        for payload, fin, _ in setting.frames:
            limit = None if setting.limit is None else setting.limit - size
            if limit is not None and len(payload) > limit + (limit >> 8) + 64:
                raise Fault(1009)
            data = inflater.inflate(payload, limit, fin)
            size = 0 if fin else size + len(data)
            if fin:
                inflater.end()
                if setting.alone:
                    inflater = Inflater(setting.bits)
            found.append(data)
    except Fault as fault:
        found.append(fault.codes)
    return found, inflater.too_far


def by_backend(setting: Setting, backend: str) -> list[Any]:
    """The same by the extension."""
    deflate = PerMessageDeflate(setting.alone, False, setting.bits, 15, backend=backend)
    found: list[Any] = []
    size = 0
    opcode = Opcode.BINARY
    for payload, fin, _ in setting.frames:
        limit = None if setting.limit is None else setting.limit - size
        frame = Frame(opcode, payload, fin, rsv1=opcode is Opcode.BINARY)
        try:
            data = bytes(deflate.decode(frame, max_size=limit).data)
        except PayloadTooBig:
            return [*found, 1009]
        except ProtocolError:
            return [*found, 1007]
        assert limit is None or len(data) <= limit
        found.append(data)
        size = 0 if fin else size + len(data)
        opcode = Opcode.BINARY if fin else Opcode.CONT
    return found


def by_connection(setting: Setting, backend: str) -> list[Any]:
    """The same by a connection, which releases contexts when it is idle."""
    protocol = Protocol(Side.CLIENT, max_size=setting.limit)
    protocol.extensions = [
        PerMessageDeflate(setting.alone, False, setting.bits, 15, backend=backend)
    ]
    found: list[Any] = []
    now = 1.0
    first = True
    for payload, fin, idle in setting.frames:
        start = (0x80 if fin else 0) | (0x42 if first else 0)
        size = bytes([len(payload)])
        if len(payload) > 125:
            size = b"\x7e" + len(payload).to_bytes(2, "big")
        protocol.receive_data(bytes([start]) + size + payload, now)
        if protocol.close_sent is not None:
            return [*found, protocol.close_sent.code]
        [frame] = protocol.events_received()
        assert isinstance(frame, Frame)
        found.append(bytes(frame.data))
        first = fin
        for _ in range(3 if idle else 0):
            due = protocol.next_timeout()
            if due is not None:
                now = max(now, due)
                protocol.handle_timeout(now)
    return found


def agree(
    setting: Setting, backend: str, found: list[Any], expected: list[Any], hidden: bool
) -> bool:
    """Compare; of a bad or unfinished message, others than zlib may find the fault elsewhere."""
    at_fault = bool(expected) and isinstance(expected[-1], tuple)
    if backend == "zlib" and not hidden and not (at_fault and setting.alone):
        if not at_fault:
            return found == expected
        return found[:-1] == expected[:-1] and found[-1] in expected[-1]
    # With a fault, what is alone may be taken for good: see PerMessageDeflate._finish_alone().
    ends = [fin for _, fin, _ in setting.frames[: len(expected) - at_fault]]
    good = len(ends) - (ends[::-1].index(True) if True in ends else len(ends))
    return found[:good] == expected[:good]


def one_input(data: bytes) -> None:
    setting = Setting(Input(data))
    outcomes = [by_connection(setting, backend) for backend in BACKENDS]
    expected, hidden = model(setting)
    for backend, outcome in zip(BACKENDS, outcomes, strict=True):
        assert agree(setting, backend, outcome, expected, hidden)
    for backend, outcome in zip(BACKENDS, outcomes, strict=True):
        found = by_backend(setting, backend)
        # The extension itself doesn't look at the size of what is compressed.
        too_big = (
            bool(outcome) and outcome[-1] == 1009 and found[: len(outcome) - 1] == outcome[:-1]
        )
        # A copy from beyond the window is at fault at the latest when the context was released.
        beyond = hidden and agree(setting, backend, found, expected, hidden)
        assert found == outcome or too_big or beyond or both_at_fault(found, outcome)


def both_at_fault(one: list[Any], other: list[Any]) -> bool:
    """Tell whether both end with a fault at the same place."""
    faults = {1007, 1009}
    return (
        bool(one and other) and one[-1] in faults and other[-1] in faults and one[:-1] == other[:-1]
    )
