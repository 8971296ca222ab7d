"""Frames written and read in plain Python, and the ways in which bytes reach a protocol."""

import itertools
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from wsproto_fast import Protocol, Side, State

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
KEY = b"\x37\xfa\x21\x3d"
SIDES = [Side.SERVER, Side.CLIENT]


class Wire(NamedTuple):
    """A frame as found on the wire."""

    opcode: int
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0
    masked: bool = False


def xor(data: bytes, key: bytes) -> bytes:
    """Mask byte by byte, as RFC 6455 section 5.3 puts it."""
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(data))


def header(
    opcode: int,
    length: int,
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = None,
    form: int | None = None,
) -> bytes:
    """Write a header; ``form`` chooses the length's encoding: 7, 16 or 64 bits."""
    if form is None:
        form = 7 if length < 126 else 16 if length < 65536 else 64
    mask_bit = 0x80 if key is not None else 0
    start = bytes([fin << 7 | rsv << 4 | opcode, mask_bit | {7: length, 16: 126, 64: 127}[form]])
    return start + (b"" if form == 7 else length.to_bytes(form // 8, "big")) + (key or b"")


def frame(
    side: Side,
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes = KEY,
) -> bytes:
    """Write a frame that ``side`` is to receive: masked if that is the server."""
    if side == Side.CLIENT:
        return header(opcode, len(payload), fin=fin, rsv=rsv) + payload
    return header(opcode, len(payload), fin=fin, rsv=rsv, key=key) + xor(payload, key)


def parse(data: bytes) -> list[Wire]:
    """Read whole frames."""
    frames = []
    while data:
        first, second = data[:2]
        length, position = second & 0x7F, 2
        if length > 125:
            position += 2 if length == 126 else 8
            length = int.from_bytes(data[2:position], "big")
        masked = bool(second & 0x80)
        key = data[position : position + 4] if masked else bytes(4)
        position += 4 * masked
        assert len(data) >= position + length, "incomplete frame"
        payload = xor(data[position : position + length], key)
        frames.append(Wire(first & 15, payload, bool(first & 0x80), first >> 4 & 7, masked))
        data = data[position + length :]
    return frames


def output(protocol: Protocol) -> bytes:
    """Take all bytes to send; the end of the stream isn't among them."""
    return b"".join(iter(protocol.take_output, b""))


def sent(protocol: Protocol) -> list[tuple[int, bytes]]:
    """Take what is to be sent, as pairs of opcode and payload; check what all frames must obey."""
    frames = parse(output(protocol))
    assert all(wire.masked == (protocol.side == Side.CLIENT) for wire in frames)
    return [(wire.opcode, wire.payload) for wire in frames]


def messages(protocol: Protocol) -> list[str | bytes]:
    """Take the messages that wait in the queue."""
    return list(iter(protocol.next_message, None))


def events(protocol: Protocol) -> list[tuple[int, bytes, bool]]:
    """Take the frame events."""
    return [(e.opcode, bytes(e.data), e.fin) for e in protocol.events_received()]


def chopped(data: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    """Cut ``data`` at the given places."""
    places = [0, *sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
    return (data[a:b] for a, b in itertools.pairwise(places))


def through_data(protocol: Protocol, pieces: Iterable[bytes], now: float = 0.0) -> None:
    for piece in pieces:
        protocol.receive_data(piece, now)


def through_buffer(protocol: Protocol, pieces: Iterable[bytes], now: float = 0.0) -> None:
    """Feed as a selector loop feeds a ``BufferedProtocol``: reads are limited by the buffer."""
    for piece in pieces:
        while piece:
            buffer = protocol.get_buffer(-1)
            size = min(len(buffer), len(piece))
            assert size, "no room to read into"
            buffer[:size] = piece[:size]
            protocol.buffer_updated(size, now)
            if protocol.get_buffer(-1) is buffer:
                # Other connections read through the same memory.
                buffer[:] = b"\xff" * len(buffer)
            piece = piece[size:]


Feed = Callable[[Protocol, Iterable[bytes]], None]


class Path(NamedTuple):
    """A way for bytes to get in; ``read_size`` bytes fit into the shared read buffer."""

    name: str
    feed: Feed
    read_size: int | None = None

    def protocol(self, side: Side, *, queue: bool, **settings: Any) -> Protocol:
        protocol = Protocol(side, **settings)
        if queue:
            protocol.queue_messages(high=None, max_bytes=None)
        if self.read_size is not None:
            protocol.use_read_buffer(memoryview(bytearray(self.read_size)))
        return protocol


PATHS = [
    Path("receive_data", through_data),
    Path("buffer", through_buffer, 4096),
    Path("small-buffer", through_buffer, 16),
]


def is_open(protocol: Protocol) -> bool:
    return protocol.state is State.OPEN


def run_apart(code: str) -> str:
    """Run ``code`` in another interpreter, which it may crash; return what it prints."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert result.returncode == 0, f"exit status {result.returncode}: {result.stderr[-600:]}"
    return result.stdout
