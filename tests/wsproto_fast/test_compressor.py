"""The compressor of our own (RFC 1951), against the decompressors of others."""

import heapq
import itertools
import random
import string
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsproto_fast import Frame, Opcode, Side
from wsproto_fast.backends import available_backends, get_backend

from ..compiling import compiled
from .deflate_helpers import JSON, TAIL, Peer, both_sides, connection, distances, extension, noise
from .helpers import output

BITS = range(8, 16)
DECOMPRESSORS = [name for name in available_backends() if name != "native"]
STORED, FIXED, OWN = range(3)
each_window = pytest.mark.parametrize("bits", BITS)


def compressor(bits=15):
    return get_backend("native").new_compressor(bits, {})


def decompressors(bits):
    """Return decompressors that remember no more than they have to, or than they can."""
    return [get_backend(name).new_decompressor(max(bits, 9), b"") for name in DECOMPRESSORS]


def check(messages, bits, ours=None):
    """Compress messages one after the other; return them compressed."""
    ours = ours or compressor(bits)
    theirs = decompressors(bits)
    pieces = []
    for message in messages:
        piece = ours.compress(message)
        assert piece.endswith(TAIL)
        for decompressor in theirs:
            assert decompressor.decompress(piece) == message
            assert not decompressor.eof
        if len(message) < 6000:
            assert max(distances(piece), default=0) <= 1 << bits
        pieces.append(piece)
    return pieces


def block_type(piece):
    return piece[0] >> 1 & 3


def text(size, seed=0, alphabet=string.ascii_lowercase + "      "):
    """Return words that hardly repeat, from few letters."""
    return "".join(random.Random(seed).choices(alphabet, k=size)).encode()


# Round trips


@each_window
def test_messages(bits):
    messages = [message.encode() for message in JSON * 3]
    messages += [b"", b"a", b"", bytes(5000), noise(3000), text(20000), *messages, b"abc" * 10000]
    check(messages, bits)


@each_window
@pytest.mark.parametrize(
    "size", [1, 2, 3, 4, 5, 31, 32, 33, 4095, 4096, 4097, 8192, 16383, 16384, 16385, 65535, 65536]
)
def test_sizes(bits, size):
    """Messages fill chunks, blocks and windows exactly, or not quite."""
    messages = [
        text(size),
        noise(size),
        bytes(size),
        (b"0123456789abcdef" * 5000)[:size],
        text(size, 1),
    ]
    check(messages * 2, bits)


@pytest.mark.parametrize("size", range(1, 600, 7))
def test_matches_of_all_lengths(size):
    pattern = noise(size)
    first, second, third = check([pattern, pattern, pattern + b"."], 15)
    assert len(first) >= size
    assert len(second) < 20 + size / 32
    assert len(third) < 20 + size / 32


@each_window
def test_the_whole_window_is_used_and_no_more(bits):
    window = 1 << bits
    pattern = noise(64, 1)
    for between, found in ((window - 64, True), (window - 63, False)):
        # Nothing in between resembles anything, so what is between is stored.
        _, _, piece = check([pattern, noise(between, 2), pattern], bits)
        assert (len(piece) < 32) == found


@settings(deadline=None)
@given(
    st.integers(8, 15),
    st.lists(
        st.one_of(
            st.binary(max_size=300),
            st.sampled_from([message.encode() for message in JSON]),
            st.builds(text, st.integers(0, 20000), st.integers(0, 3)),
            st.builds(noise, st.integers(0, 9000), st.integers(0, 3)),
            st.builds(
                lambda part, times: part * times, st.binary(max_size=40), st.integers(1, 500)
            ),
        ),
        max_size=12,
    ),
)
def test_any_messages(bits, messages):
    check(messages, bits)


def random_message(numbers):
    """Return a message that is in part random, and repeats itself and other parts."""
    size = numbers.choice(
        [numbers.randrange(300), numbers.randrange(3000), numbers.randrange(70000)]
    )
    letters = bytes(numbers.randrange(256) for _ in range(numbers.choice([1, 2, 5, 20, 256])))
    message = bytearray()
    while len(message) < size:
        length = numbers.choice([numbers.randrange(1, 12), numbers.randrange(1, 700)])
        kind = numbers.randrange(10)
        if kind < 4 or not message:
            message += bytes(numbers.choices(letters, k=length))
        elif kind < 9:
            begin = numbers.randrange(len(message))
            message += message[begin : begin + length]
        else:
            message += letters[:1] * length
    return bytes(message[:size])


def test_random_messages():
    for seed in range(20):
        numbers = random.Random(seed)
        deflate = extension(
            local_max_window_bits=numbers.randrange(8, 16),
            local_no_context_takeover=numbers.random() < 0.2,
        )
        peer = Peer(deflate)
        messages = [random_message(numbers) for _ in range(5)]
        for _ in range(10):
            message = numbers.choice(messages)
            cuts = sorted(
                numbers.randrange(len(message) + 1) for _ in range(numbers.choice([0, 0, 2]))
            )
            pieces = [message[i:j] for i, j in itertools.pairwise([0, *cuts, len(message)])]
            compressed = b""
            for i, piece in enumerate(pieces):
                opcode = Opcode.CONT if i else Opcode.BINARY
                compressed += deflate.encode(Frame(opcode, piece, i == len(pieces) - 1)).data
            assert peer.inflate(compressed) == message, f"seed {seed}"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_kinds_of_data(kind):
    assert zlib.decompressobj(-15).decompress(compressor().compress(kind(b"data"))) == b"data"


def test_numbers_of_positions_are_used_again():
    """The index numbers positions modulo 64 Ki."""
    message = b"".join(value.encode() for value in JSON)
    pieces = check([message[i % 50 :] for i in range(400)], 9)
    assert max(map(len, pieces[1:])) < len(message)
    pieces = check([message[i % 50 :] for i in range(400)], 12)
    assert max(map(len, pieces[1:])) < len(message) / 10


# What is chosen


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (noise(1000), STORED),
        (noise(20000), STORED),
        (b"Hello", FIXED),
        (JSON[0].encode(), FIXED),
        (text(1000, alphabet="0123456789"), OWN),
        (text(10000), OWN),
    ],
)
def test_types_of_blocks(message, expected):
    (piece,) = check([message], 15)
    assert block_type(piece) == expected


@pytest.mark.parametrize("size", [100, 4096, 10**5, 10**6])
def test_what_cannot_be_compressed_hardly_grows(size):
    (piece,) = check([noise(size)], 15)
    assert len(piece) <= size + 6 * (size // 16384 + 1) + 6


@pytest.mark.parametrize("size", [2000, 10**4, 10**5])
@pytest.mark.parametrize(
    "alphabet", [string.hexdigits[:16], "01", string.printable, "aaaaaaaaaaaaab"], ids=repr
)
def test_size_beside_zlib(size, alphabet):
    message = text(size, alphabet=alphabet)
    ((piece,), other) = check([message], 15), zlib.compress(message, 1)
    assert len(piece) < 1.1 * len(other)


def test_messages_that_resemble_those_before_are_as_small_as_with_zlib():
    reference = zlib.compressobj(5, wbits=-12, memLevel=5)
    messages = [message.encode() for message in JSON]
    ours = sum(map(len, check(messages, 12)))
    theirs = sum(
        len(reference.compress(message) + reference.flush(zlib.Z_SYNC_FLUSH))
        for message in messages
    )
    assert ours < 1.1 * theirs


# Starting afresh, and the interface of compressors


@each_window
def test_full_flush(bits):
    ours = compressor(bits)
    message = "".join(JSON[:3]).encode()[:500]
    for _ in range(3):
        first, second = check([message, message], bits, ours)
        assert first != second
        assert first == compressor(bits).compress(message)
        assert ours.flush(zlib.Z_SYNC_FLUSH) == ours.flush(zlib.Z_FULL_FLUSH) == b""


def test_flush_does_not_end_streams():
    with pytest.raises(ValueError, match="Z_SYNC_FLUSH or Z_FULL_FLUSH; got 4"):
        compressor().flush(zlib.Z_FINISH)


@pytest.mark.parametrize("bits", [-1, 0, 7, 16])
def test_windows_that_do_not_exist(bits):
    with pytest.raises(ValueError, match=f"between 8 and 15; got {bits}"):
        compressor(bits)


def test_settings_that_it_does_not_have():
    assert get_backend("native").new_compressor(12, {"memLevel": 5})
    with pytest.raises(TypeError, match="no setting 'level'"):
        get_backend("native").new_compressor(12, {"level": 5, "memLevel": 5})


# Large messages, which another backend compresses if it is there


@both_sides
@each_window
@pytest.mark.parametrize("no_takeover", [False, True])
def test_large_messages_between_small_ones(side, bits, no_takeover):
    protocol, peer = connection(
        side, extension(local_max_window_bits=bits, local_no_context_takeover=no_takeover)
    )
    small = JSON[0] + noise(100).hex()
    large = "".join(JSON) * 20
    sizes = []
    for message in (small, large + small, small, large, large + small, large + small, small):
        protocol.send(message, compress=True)
        data = output(protocol)
        assert peer.read(data) == [(message, True)]
        sizes.append(len(data))
    # What follows a large message may refer to it, if to anything.
    found = not no_takeover and len(small) < 1 << bits
    assert (sizes[2] < sizes[0] / 2) == (sizes[-1] < sizes[0] / 2) == found


@both_sides
@pytest.mark.parametrize("no_takeover", [False, True])
def test_large_fragments_between_small_ones(side, no_takeover):
    protocol, peer = connection(side, extension(local_no_context_takeover=no_takeover))
    large = "".join(JSON) * 10
    for _ in range(3):
        for fragments in (("a", large, "b"), (large, "b", "c"), (large, large), ("a", "b", large)):
            first, *rest = fragments
            protocol.send_text(first, fin=False, compress=True)
            for fragment in rest[:-1]:
                protocol.send_continuation(fragment, fin=False)
            protocol.send_continuation(rest[-1], fin=True)
            assert peer.read(output(protocol)) == [("".join(fragments), True)]


def test_large_messages_that_are_sent_plain_are_not_referred_to():
    protocol, peer = connection(Side.SERVER)
    for message in (noise(9000), JSON[0], noise(9000), noise(9000)[-500:], JSON[0]):
        protocol.send(message)
        ((received, _),) = peer.read(output(protocol))
        assert received == message


# Sizes of codes


def huffman(counts):
    """Return the number of bits with optimal codes, and the size of the longest one, at least."""
    heap = [(count, 0) for count in counts if count]
    heapq.heapify(heap)
    total = longest = 0
    while len(heap) > 1:
        (left, left_size), (right, right_size) = heapq.heappop(heap), heapq.heappop(heap)
        total += left + right
        longest = 1 + max(left_size, right_size)
        heapq.heappush(heap, (left + right, longest))
    return total, longest


@pytest.mark.timeout(300)
def test_code_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = compiled(Path(__file__).with_name("code_sizes.pyx"), tmp_path, monkeypatch)
    fibonacci = [1, 1]
    while sum(fibonacci) < 10000:
        fibonacci.append(fibonacci[-2] + fibonacci[-1])
    numbers = random.Random(0)
    cases = [
        [0] * 30,
        [0] * 29 + [7],
        [5] + [0] * 29,
        [1] * 286,
        [16384] + [1] * 285,
        fibonacci,
        [0, *reversed(fibonacci), 0, 0],
        *([numbers.choice([0, 0, 1, 2, 50, 900]) for _ in range(286)] for _ in range(50)),
        *([int(1.5 ** numbers.uniform(0, 20)) for _ in range(n)] for n in range(2, 19)),
    ]
    limited = 0
    for counts in cases:
        for longest in (7, 15):
            if longest == 7 and len(counts) > 19:
                continue
            sizes = module.code_sizes(counts, longest)
            used = [size for size in sizes if size]
            assert max(used) <= longest
            assert sum(2.0**-size for size in used) == 1
            assert len(used) == max(2, sum(map(bool, counts)))
            assert all(size for size, count in zip(sizes, counts, strict=True) if count)
            bits = sum(size * count for size, count in zip(sizes, counts, strict=True))
            best, needed = huffman(counts)
            if len(used) > sum(map(bool, counts)):
                assert bits == sum(counts)
            elif needed <= longest:
                assert bits == best
            else:
                assert best < bits < 1.2 * best
                limited += 1
    assert limited > 10


def test_backends_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("isal", "zlib_ng"):
        for module in [name, *(m for m in sys.modules if m.startswith(f"{name}."))]:
            monkeypatch.setitem(sys.modules, module, None)
    assert available_backends() == ["native", "zlib"]
