"""A slow model of what RFC 6455 and RFC 7692 say about received frames.

It reads a whole stream, knows nothing of buffers and splits, and shares no code with the engine.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
RSV1, RSV = 0x40, 0x70
TAIL = b"\x00\x00\xff\xff"
# What permessage-deflate is allowed to cost, as the engine's limits say.
MAX_STREAMS = 17


class Fault(Exception):
    """What fails a connection."""

    def __init__(self, *codes: int) -> None:
        super().__init__(codes)
        self.codes = codes  # those that are right


@dataclass(frozen=True)
class Limits:
    """What may be received."""

    message: int | None = None
    fragment: int | None = None
    fragments: int | None = None


@dataclass
class Reading:
    """What a stream means."""

    frames: list[tuple[int, bytes, bool]] = field(default_factory=list)  # of data, inflated
    controls: list[tuple[int, bytes]] = field(default_factory=list)
    close: tuple[int, str] | None = None
    codes: tuple[int, ...] = ()  # one of them is sent when the stream is at fault
    cut: bool = False  # a Close frame came inside a message

    @property
    def pongs(self) -> list[bytes]:
        return [payload for opcode, payload in self.controls if opcode == PING]

    def messages(self) -> list[str | bytes]:
        found: list[str | bytes] = []
        opcode, payload = 0, b""
        for kind, data, fin in self.frames:
            opcode, payload = (kind, data) if kind else (opcode, payload + data)
            if fin:
                found.append(payload.decode() if opcode == TEXT else payload)
        return found


class Text:
    """UTF-8 byte by byte: table 3-7 of the Unicode standard, "well-formed UTF-8 byte sequences".

    Python's own incremental decoders find a surrogate only at its third byte.
    """

    def __init__(self) -> None:
        self.expected: list[range] = []

    def check(self, data: bytes, last: bool) -> None:
        any_byte = range(0x80, 0xC0)
        for byte in data:
            if self.expected:
                if byte not in self.expected.pop(0):
                    raise Fault(1007)
            elif 0xC2 <= byte < 0xE0:
                self.expected = [any_byte]
            elif 0xE0 <= byte < 0xF0:
                second = {0xE0: range(0xA0, 0xC0), 0xED: range(0x80, 0xA0)}.get(byte, any_byte)
                self.expected = [second, any_byte]
            elif 0xF0 <= byte < 0xF5:
                second = {0xF0: range(0x90, 0xC0), 0xF4: range(0x80, 0x90)}.get(byte, any_byte)
                self.expected = [second, any_byte, any_byte]
            elif byte >= 0x80:
                raise Fault(1007)
        if last and self.expected:
            raise Fault(1007)


class Inflater:
    """Section 7.2.2 of RFC 7692, on the window that was agreed on.

    Attributes:
        too_far: Whether the fault is that something is copied from beyond that window. zlib finds
            this only if it isn't in what the same call has given; here, calls give little.
    """

    def __init__(self, window_bits: int) -> None:
        self.bits = max(window_bits, 9)  # zlib has no smaller one, nor do others
        self.history = b""
        self.stream = self.new_stream()
        self.streams = 0
        self.too_far = False

    def new_stream(self) -> zlib._Decompress:
        window = self.history[-(1 << self.bits) :]
        if window:
            return zlib.decompressobj(-self.bits, zdict=window)
        return zlib.decompressobj(-self.bits)

    def inflate(self, data: bytes, limit: int | None, last: bool) -> bytes:
        """Inflate a frame's payload; ``last`` if it ends a message."""
        found = b""
        faults = []
        if last and data and data[-1] & 0xE0:
            # The end of a block's header, or padding. RFC 1951 lets that be anything; it always is
            # 0, and we insist on it.
            faults.append(1007)
        try:
            while True:
                piece = b""
                # In small steps, so that what comes before a fault counts.
                for i in range(len(data)):
                    piece += self.stream.decompress(data[i : i + 1])
                    if self.stream.eof:
                        data = self.stream.unused_data + data[i + 1 :]
                        break
                else:
                    data = b""
                found += piece
                self.history = (self.history + piece)[-(1 << 15) :]
                if not self.stream.eof:
                    break
                self.stream = self.new_stream()
                self.streams += 1
                if self.streams >= MAX_STREAMS:
                    faults.append(1007)
                    break
                if not data:
                    break
        except zlib.error as exc:
            found += piece
            faults.append(1007)
            self.too_far = "too far back" in str(exc)
        if limit is not None and len(found) > limit:
            faults.append(1009)
        if faults:
            raise Fault(*faults)
        return found

    def end(self) -> None:
        """Complete a message; its end is the boundary of two blocks."""
        self.streams = 0
        try:
            rest = self.stream.decompress(TAIL)
            proof = self.stream.copy()
            if not rest and proof.decompress(b"\x01\x01\x00\xfe\xffx") == b"x" and proof.eof:
                return
        except zlib.error:
            pass
        raise Fault(1007)


class Reader:
    """Reads the frames that one side receives."""

    def __init__(
        self, data: bytes, *, client: bool, limits: Limits, inflater: Inflater | None
    ) -> None:
        self.data = data
        self.client = client
        self.limits = limits
        self.inflater = inflater
        self.position = 0
        self.reading = Reading()
        # The message that has begun.
        self.opcode = 0
        self.compressed = False
        self.size = 0
        self.fragments = 0
        self.text = Text()

    def read(self) -> Reading:
        try:
            while self.reading.close is None and self.frame():
                pass
        except Fault as fault:
            self.reading.codes = fault.codes
        return self.reading

    def frame(self) -> bool:
        """Read a frame; return False where the stream ends."""
        data = self.data[self.position :]
        if not data:
            return False
        fin, rsv, opcode = data[0] >= 0x80, data[0] & RSV, data[0] & 15
        # Section 5.2
        if rsv & ~(RSV1 if self.inflater else 0) or opcode not in (0, 1, 2, 8, 9, 10):
            raise Fault(1002)
        # Section 5.5
        control = opcode >= 8
        if control and not fin:
            raise Fault(1002)
        if len(data) < 2:
            return False
        masked, length = data[1] >= 0x80, data[1] & 127
        # Section 5.1
        if masked == self.client or (control and length > 125):
            raise Fault(1002)
        start = 2
        if length > 125:
            size = 2 if length == 126 else 8
            if size == 8 and len(data) > 2 and data[2] >= 0x80:
                raise Fault(1002)
            start += size
            if len(data) < start:
                return False
            length = int.from_bytes(data[2:start], "big")
            if length < (126 if size == 2 else 65536):
                raise Fault(1002)
        key = bytes(4)
        if masked:
            key = data[start : start + 4]
            start += 4
        if len(data) < start:
            return False
        self.begin(opcode, rsv, length)
        payload = data[start : start + length]
        payload = bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))
        whole = len(payload) == length
        self.position += start + length
        if control:
            if whole:
                self.control(opcode, payload)
        elif whole or not self.compressed:
            self.payload(opcode, payload, fin, whole)
        return whole

    def begin(self, opcode: int, rsv: int, length: int) -> None:
        """Check what a header tells."""
        if opcode >= 8:
            # Section 6.1 of RFC 7692
            if rsv:
                raise Fault(1002)
            return
        # Section 5.4
        if (opcode == CONT) is not bool(self.opcode) or (opcode == CONT and rsv):
            raise Fault(1002)
        if opcode:
            self.opcode, self.compressed = opcode, bool(rsv)
            self.size = self.fragments = 0
            self.text = Text()
        self.fragments += 1
        if self.limits.fragments is not None and self.fragments > self.limits.fragments:
            raise Fault(1009)
        limit = self.limit()
        # What can't be compressed grows a little.
        if limit is not None and length > limit + ((limit >> 8) + 64 if self.compressed else 0):
            raise Fault(1009)

    def limit(self) -> int | None:
        """Return how long the payload of a frame may be."""
        limits = [self.limits.fragment]
        if self.limits.message is not None:
            limits.append(self.limits.message - self.size)
        return min((limit for limit in limits if limit is not None), default=None)

    def payload(self, opcode: int, payload: bytes, fin: bool, whole: bool) -> None:
        if self.compressed:
            assert self.inflater is not None
            payload = self.inflater.inflate(payload, self.limit(), fin)
            if fin:
                self.inflater.end()
        if self.opcode == TEXT:
            self.text.check(payload, fin and whole)  # section 8.1
        if whole:
            self.size += len(payload)
            self.reading.frames.append((opcode, payload, fin))
            if fin:
                self.opcode = 0

    def control(self, opcode: int, payload: bytes) -> None:
        if opcode != CLOSE:
            self.reading.controls.append((opcode, payload))
            return
        # Sections 5.5.1 and 7.4
        code, reason = 1005, ""
        if payload:
            code = int.from_bytes(payload[:2], "big")
            registered = 1000 <= code < 1015 and code not in (1004, 1005, 1006)
            faults = []
            if len(payload) < 2 or not (registered or 3000 <= code < 5000):
                faults.append(1002)
            try:
                reason = payload[2:].decode()
            except UnicodeDecodeError:
                faults.append(1007)
            if faults:
                raise Fault(*faults)
        self.reading.controls.append((opcode, payload))
        self.reading.close = code, reason
        self.reading.cut = bool(self.opcode)


def read(
    data: bytes,
    *,
    client: bool,
    limits: Limits | None = None,
    inflater: Inflater | None = None,
) -> Reading:
    """Read what one side receives, up to its end.

    Args:
        data: All of it.
        client: Whether the side is the client.
        limits: What may be received.
        inflater: What permessage-deflate was agreed on; None for none.
    """
    reader = Reader(data, client=client, limits=limits or Limits(), inflater=inflater)
    return reader.read()
