"""An independent peer on zlib, and shortcuts for tests of permessage-deflate."""

import random
import zlib

import pytest

from wsproto_fast import PerMessageDeflate, State
from wsproto_fast.backends import available_backends

from .helpers import CLOSE, CONT, PATHS, SIDES, TEXT, parse, sent

RSV1, RSV2, RSV3 = 4, 2, 1
TAIL = b"\x00\x00\xff\xff"
BACKENDS = available_backends()
FLAGS = (False, True)

both_sides = pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_path = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)


class Peer:
    """The other end, as section 7.2 describes it; it keeps strictly to the negotiated windows."""

    def __init__(self, ours, **settings):
        self.ours = ours
        self.settings = settings
        self.compressor = self.decompressor = None

    def deflate(self, payload, fin=True):
        if self.compressor is None:
            # zlib has no window of 8 bits.
            bits = max(self.ours.remote_max_window_bits, 9)
            self.compressor = zlib.compressobj(wbits=-bits, **self.settings)
        data = self.compressor.compress(payload) + self.compressor.flush(zlib.Z_SYNC_FLUSH)
        if fin and self.ours.remote_no_context_takeover:
            self.compressor = None
        return (data or TAIL).removesuffix(TAIL) or b"\x00" if fin else data

    def inflate(self, payload):
        if self.decompressor is None:
            self.decompressor = zlib.decompressobj(wbits=-self.ours.local_max_window_bits)
        data = self.decompressor.decompress(payload)
        # Whole messages end with the block that was cut, and at a boundary of blocks.
        assert self.decompressor.decompress(TAIL) == b""
        assert self.decompressor.copy().decompress(b"\x01\x01\x00\xfe\xffx") == b"x"
        if self.ours.local_no_context_takeover:
            self.decompressor = None
        return data

    def read(self, data):
        """Return pairs of message and whether it was compressed; control frames are left out."""
        found = []
        payload = b""
        for wire in parse(data):
            if wire.opcode & 8:
                assert wire.rsv == 0
                continue
            if wire.opcode == CONT:
                assert wire.rsv == 0
            else:
                assert wire.rsv in (0, RSV1)
                opcode, compressed, payload = wire.opcode, wire.rsv == RSV1, b""
            payload += wire.payload
            if wire.fin:
                message = self.inflate(payload) if compressed else payload
                found.append((message.decode() if opcode == TEXT else message, compressed))
        return found


def extension(
    remote_no_context_takeover=False,
    local_no_context_takeover=False,
    remote_max_window_bits=15,
    local_max_window_bits=15,
    compress_settings=None,
    **options,
):
    return PerMessageDeflate(
        remote_no_context_takeover,
        local_no_context_takeover,
        remote_max_window_bits,
        local_max_window_bits,
        compress_settings,
        **options,
    )


def connection(side, deflate=None, *, queue=True, path=PATHS[0], **settings):
    """Return one end of an open connection, and its peer."""
    protocol = path.protocol(side, queue=queue, **settings)
    deflate = extension() if deflate is None else deflate
    protocol.extensions = [deflate]
    return protocol, Peer(deflate)


def raw(payload, **settings):
    """Compress a whole message from a fresh state."""
    compressor = zlib.compressobj(wbits=-15, **settings)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def final(payload):
    """Compress into blocks of which the last is marked as such."""
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(payload) + compressor.flush()


def flushed(payload, mode):
    """Compress, and end with another flush than section 7.2.1 says."""
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(payload) + compressor.flush(mode)


def is_whole(data):
    """Tell whether this is a message that a fresh decompressor understands, to its end."""
    decompressor = zlib.decompressobj(wbits=-15)
    decompressor.decompress(data)
    try:
        rest = decompressor.decompress(TAIL + b"\x01\x00\x00\xff\xff")
    except zlib.error:
        return False
    return decompressor.eof and not rest


LENGTHS = [(0, n) for n in range(3, 11)]
LENGTHS += [(n, (4 + i << n) + 3) for n in range(1, 6) for i in range(4)]
LENGTHS.append((0, 258))
DISTANCES = [(0, n) for n in range(1, 5)]
DISTANCES += [(n, (2 + i << n) + 1) for n in range(1, 14) for i in range(2)]
ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)


def distances(data):
    """Return the distances in whole blocks of DEFLATE (RFC 1951); decompressors don't tell them."""
    stream, position, found = int.from_bytes(data, "little"), 0, []

    def bits(count):
        nonlocal position
        position += count
        return stream >> position - count & (1 << count) - 1

    def codes(sizes):
        table, code = {}, 0
        for size in range(1, 16):
            for symbol in [i for i, n in enumerate(sizes) if n == size]:
                table[size, code] = symbol
                code += 1
            code <<= 1
        return table

    def symbol(table):
        code = 0
        for size in range(1, 16):
            code = code << 1 | bits(1)
            if (size, code) in table:
                return table[size, code]
        raise AssertionError("no such code")

    while position < 8 * len(data) - 7:
        assert not bits(1), "final block"
        kind = bits(2)
        if kind == 0:
            position += -position % 8
            size = bits(16)
            assert size ^ bits(16) == 0xFFFF
            position += 8 * size
            continue
        if kind == 1:
            literals = codes([8] * 144 + [9] * 112 + [7] * 24 + [8] * 8)
            backwards = codes([5] * 30)
        else:
            counts = bits(5) + 257, bits(5) + 1
            few = [0] * 19
            for i in range(bits(4) + 4):
                few[ORDER[i]] = bits(3)
            table, sizes = codes(few), []
            while len(sizes) < sum(counts):
                size = symbol(table)
                if size < 16:
                    sizes.append(size)
                elif size == 16:
                    sizes += [sizes[-1]] * (3 + bits(2))
                else:
                    sizes += [0] * (3 + bits(3) if size == 17 else 11 + bits(7))
            literals, backwards = codes(sizes[: counts[0]]), codes(sizes[counts[0] :])
        while (value := symbol(literals)) != 256:
            if value > 256:
                bits(LENGTHS[value - 257][0])
                extra, base = DISTANCES[symbol(backwards)]
                found.append(base + bits(extra))
    return found


def noise(size, seed=0):
    return random.Random(seed).randbytes(size)


def closed_with(protocol):
    """Return the close code sent, after what else is to be sent; None if the connection is open."""
    if protocol.state is State.OPEN:
        return None
    frames = sent(protocol)
    assert frames[-1][0] == CLOSE
    return int.from_bytes(frames[-1][1][:2], "big")


JSON = [
    f'{{"type": "update", "id": {i}, "name": "user-{i * i}", "values": [{i}, {i + 1}]}}'
    for i in range(20)
]
MESSAGES = [
    *JSON,
    "",
    b"",
    "\u00e9\u20ac\U0001f600" * 50,
    b"\x00" * 1000,
    noise(3000),
    b"a",
    "b",
    *JSON,
    noise(70000, 1) + bytes(70000) + noise(70000, 1),
    *JSON,
]

# The example of section 7.2.3.1.
HELLO = bytes.fromhex("f248cdc9c90700")
