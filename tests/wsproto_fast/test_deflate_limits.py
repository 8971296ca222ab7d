"""permessage-deflate and what a peer must not do, or must not make us do."""

import tracemalloc
import zlib

import pytest

from wsproto_fast import (
    CloseCode,
    Frame,
    Opcode,
    PayloadTooBig,
    Protocol,
    ProtocolError,
    Side,
    State,
)

from .deflate_helpers import (
    FLAGS,
    HELLO,
    JSON,
    RSV1,
    TAIL,
    both_sides,
    closed_with,
    connection,
    each_backend,
    extension,
    final,
    flushed,
    is_whole,
    noise,
    raw,
)
from .helpers import BINARY, CLOSE, CONT, PING, PONG, TEXT, chopped, frame, messages, run_apart

# What a peer must not do


@both_sides
@pytest.mark.parametrize("queue", FLAGS)
@pytest.mark.parametrize(
    "frames",
    [
        [(PING, b"", True, RSV1)],
        [(PONG, HELLO, True, RSV1)],
        [(CLOSE, b"\x03\xe8", True, RSV1)],
        [(TEXT, HELLO[:3], False, RSV1), (CONT, HELLO[3:], True, RSV1)],
        [(TEXT, HELLO[:3], False, RSV1), (PING, b"", True, RSV1)],
        [(TEXT, b"plain", False, 0), (CONT, HELLO, True, RSV1)],
        [(CONT, HELLO, True, RSV1)],
        *([(TEXT, HELLO, True, rsv)] for rsv in range(8) if rsv not in (0, RSV1)),
        *([(PING, b"", True, rsv)] for rsv in range(1, 8)),
        [(3, HELLO, True, RSV1)],
        [(11, HELLO, True, RSV1)],
        [(TEXT, HELLO, False, RSV1), (TEXT, HELLO, True, RSV1)],
    ],
)
def test_reserved_bits(side, queue, frames):
    protocol, _ = connection(side, queue=queue)
    for opcode, payload, fin, rsv in frames:
        protocol.receive_data(frame(side, opcode, payload, fin=fin, rsv=rsv))
    assert closed_with(protocol) == CloseCode.PROTOCOL_ERROR
    assert isinstance(protocol.parser_exc, ProtocolError)


@both_sides
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_not_negotiated(side, opcode):
    protocol = Protocol(side)
    protocol.receive_data(frame(side, opcode, HELLO, rsv=RSV1))
    assert closed_with(protocol) == CloseCode.PROTOCOL_ERROR


INVALID = {
    "reserved block type": b"\x06",
    "stored block with wrong lengths": b"\x00\x05\x00\x00\x00Hello\x00",
    "distance before the beginning": bytes.fromhex("f200110000"),
    "bad set of lengths": b"\xfc" + b"\xff" * 10 + b"\x00",
    "noise": b"\xff" * 50 + b"\x00",
    "zlib header": zlib.compress(b"Hello" * 10) + b"\x00",
    "gzip header": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x00",
}
# What the tail completes ends elsewhere than at the end of a block.
INCOMPLETE = {
    "stored block too short": b"\x00\x06\x00\xf9\xffHello",
    "stored block of the size of the tail": b"\x00\x09\x00\xf6\xffHello",
    "header of a stored block": b"\x00\x05\x00\xfa\xff",
    "text of plain messages": b"Hello, world",
}
# Nor does this end as section 7.2.1 says, but zlib finds no fault: what to inflate, what it gives.
LENIENT = {
    "nothing": (b"", b""),
    "tail not removed": (HELLO + TAIL, b"Hello"),
    "no last block": (b"\x00\x05\x00\xfa\xffHello", b"Hello"),
    "final block without another": (final(b"Hello"), b"Hello"),
    "final block, the end of its last byte": (final(b"Hello").removesuffix(b"\x00"), b"Hello"),
    "final block, tail not removed": (final(b"Hello") + TAIL, b"Hello"),
    "final block, something behind": (final(b"Hello") + b"\xff\xff", b"Hello"),
    "block, nothing behind": (flushed(b"Hello", zlib.Z_BLOCK), b"Hello"),
    "partial flush": (flushed(b"Hello", zlib.Z_PARTIAL_FLUSH), b"Hello"),
}


@both_sides
@each_backend
@pytest.mark.parametrize(
    "name, data, no_takeover",
    [
        *((name, data, False) for name, (data, _) in LENIENT.items()),
        *((*item, flag) for item in (INVALID | INCOMPLETE).items() for flag in FLAGS),
    ],
)
@pytest.mark.parametrize("queue", FLAGS)
def test_invalid_streams(side, backend, name, data, no_takeover, queue):
    for cut in (None, 0, len(data) // 2, len(data)):
        deflate = extension(remote_no_context_takeover=no_takeover, backend=backend)
        protocol, _ = connection(side, deflate, queue=queue)
        if cut is None:
            protocol.receive_data(frame(side, BINARY, data, rsv=RSV1))
        else:
            protocol.receive_data(frame(side, BINARY, data[:cut], fin=False, rsv=RSV1))
            protocol.receive_data(frame(side, CONT, data[cut:]))
        assert closed_with(protocol) == CloseCode.INVALID_DATA
        assert isinstance(protocol.parser_exc, ProtocolError)
        if queue:
            assert messages(protocol) == []


@both_sides
@each_backend
@pytest.mark.parametrize("name", LENIENT)
def test_ends_where_nothing_follows(side, backend, name):
    data, expected = LENIENT[name]
    deflate = extension(remote_no_context_takeover=True, backend=backend)
    protocol, _ = connection(side, deflate)
    for cut in (None, 0, len(data) // 2, len(data)):
        if cut is None:
            protocol.receive_data(frame(side, BINARY, data, rsv=RSV1))
        else:
            protocol.receive_data(frame(side, BINARY, data[:cut], fin=False, rsv=RSV1))
            protocol.receive_data(frame(side, CONT, data[cut:]))
        # The one that follows is read from a fresh state.
        protocol.receive_data(frame(side, TEXT, HELLO, rsv=RSV1))
        assert messages(protocol) == [expected, "Hello"]


@each_backend
@pytest.mark.parametrize("strategy", [zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED])
@pytest.mark.parametrize("level", [0, 6])
def test_truncated_messages_where_nothing_follows(backend, strategy, level):
    """As with zlib, except that what the peer hasn't sent isn't a part of the message."""
    for payload in ("".join(JSON[:4]).encode(), b"Hello", bytes(300), noise(200)):
        data = raw(payload, level=level, strategy=strategy)
        for size in range(len(data)):
            deflate = extension(remote_no_context_takeover=True, backend=backend)
            protocol, _ = connection(Side.SERVER, deflate)
            protocol.receive_data(frame(Side.SERVER, BINARY, data[:size], rsv=RSV1))
            inflated = zlib.decompressobj(-15).decompress(data[:size])
            try:
                reference = zlib.decompressobj(-15).decompress(data[:size] + TAIL)
            except zlib.error:
                reference = None
            if reference == inflated:
                assert messages(protocol) == [reference]
                assert payload.startswith(reference)
            else:
                assert closed_with(protocol) == CloseCode.INVALID_DATA


@each_backend
@pytest.mark.parametrize("strategy", [zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED])
@pytest.mark.parametrize("level", [0, 6])
def test_truncated_messages(backend, strategy, level):
    cuts = missed = 0
    for payload in ("".join(JSON[:4]).encode(), b"Hello", bytes(300), noise(200)):
        data = raw(payload, level=level, strategy=strategy)
        for size in range(len(data)):
            protocol, _ = connection(Side.SERVER, extension(backend=backend))
            protocol.receive_data(frame(Side.SERVER, BINARY, data[:size], rsv=RSV1))
            cuts += 1
            missed += closed_with(protocol) is None and not is_whole(data[:size])
    assert cuts > 100
    assert missed == 0


@each_backend
def test_messages_with_something_behind(backend):
    for payload in (b"", b"Hello", noise(100)):
        for trailer in (b"\x00", b"\x01", b"x", b"\xff\xff", TAIL[:2], b"\x03", b"Hello", noise(9)):
            protocol, peer = connection(Side.SERVER, extension(backend=backend))
            data = peer.deflate(payload) + trailer
            protocol.receive_data(frame(Side.SERVER, BINARY, data, rsv=RSV1))
            assert closed_with(protocol) == CloseCode.INVALID_DATA, (payload, trailer)


@both_sides
@each_backend
def test_text_that_is_not_utf8(side, backend):
    for data in (b"\xff", b"ok \xc3", b"\xed\xa0\x80", "\u20ac".encode()[:2]):
        for fragmented in FLAGS:
            protocol, peer = connection(side, extension(backend=backend))
            payload = peer.deflate(data)
            if fragmented:
                protocol.receive_data(frame(side, TEXT, payload[:2], fin=False, rsv=RSV1))
                protocol.receive_data(frame(side, CONT, payload[2:]))
            else:
                protocol.receive_data(frame(side, TEXT, payload, rsv=RSV1))
            assert closed_with(protocol) == CloseCode.INVALID_DATA
            assert isinstance(protocol.parser_exc, UnicodeDecodeError)


# Blocks (section 7.2.3)


@both_sides
@each_backend
@pytest.mark.parametrize("no_takeover", FLAGS)
@pytest.mark.parametrize("bits", [9, 15])
def test_final_blocks(side, backend, no_takeover, bits):
    # Each starts afresh for zlib, but not for the window: what follows may refer to it.
    deflate = extension(no_takeover, remote_max_window_bits=bits, backend=backend)
    protocol, _ = connection(side, deflate)
    window = b""
    for payload in ("".join(JSON).encode(), b"Hello" * 20, noise(5000), b"Hello" * 20):
        for cuts in ([], [10], [len(payload) // 2, 1000]):
            # An empty final block, too, and blocks that refer to what came before it.
            first = compressor_knowing(window, bits, zlib.Z_FINISH, payload)
            window += payload
            second = compressor_knowing(window, bits, zlib.Z_SYNC_FLUSH, payload)
            window = b"" if no_takeover else window + payload
            pieces = list(chopped(first + b"\x03\x00" + second[:-4], cuts))
            for i, piece in enumerate(pieces):
                fin = i == len(pieces) - 1
                protocol.receive_data(
                    frame(side, CONT if i else BINARY, piece, fin=fin, rsv=0 if i else RSV1)
                )
            assert messages(protocol) == [payload * 2]
    assert protocol.state is State.OPEN


def compressor_knowing(window, bits, flush, payload):
    window = window[-(1 << bits) :]
    compressor = zlib.compressobj(wbits=-bits, **({"zdict": window} if window else {}))
    return compressor.compress(payload) + compressor.flush(flush)


@each_backend
@pytest.mark.parametrize("fragments", [1, 10])
def test_flood_of_final_blocks(backend, fragments):
    # Each of them makes a new decompressor necessary; their number must not.
    printed = run_apart(f"""
        from wsproto_fast import PerMessageDeflate, Protocol, Side

        protocol = Protocol(Side.CLIENT, max_size=2**20)
        protocol.extensions = [PerMessageDeflate(False, False, 15, 15, backend={backend!r})]
        protocol.queue_messages()
        for i in range({fragments}):
            fin = i == {fragments} - 1
            data = bytes.fromhex("0300") * ((2**20 - 64) // 2 // {fragments}) + bytes(fin)
            start = bytes([0x80 * fin | (0 if i else 0x42), 127])
            protocol.receive_data(start + len(data).to_bytes(8, "big") + data)
        print(protocol.next_message(), protocol.state.name)
    """)
    assert printed.strip() in ("b'' OPEN", "None CLOSING")


@each_backend
@pytest.mark.parametrize("fragments", [1, 2, 8])
@pytest.mark.parametrize("count, fits", [(16, True), (17, False)])
def test_limit_of_final_blocks(backend, fragments, count, fits):
    # The limit holds for a message, however it is cut; the next one starts from nothing.
    protocol, _ = connection(Side.SERVER, extension(backend=backend))
    data = final(b"x") * count + b"\x00"
    size = -(-len(data) // fragments)
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    for _ in range(3):
        for i, piece in enumerate(pieces):
            fin = i == len(pieces) - 1
            rsv = 0 if i else RSV1
            protocol.receive_data(
                frame(Side.SERVER, CONT if i else BINARY, piece, fin=fin, rsv=rsv)
            )
        if fits:
            assert messages(protocol) == [b"x" * count]
        else:
            assert closed_with(protocol) == CloseCode.INVALID_DATA
            assert "final blocks" in str(protocol.parser_exc)
            break


@both_sides
@each_backend
def test_empty_blocks(side, backend):
    protocol, _ = connection(side, extension(backend=backend))
    stored, fixed = b"\x00\x00\x00\xff\xff", bytes.fromhex("02000000ffff")
    for block in (stored, fixed):
        for count in (1, 1000):
            protocol.receive_data(frame(side, TEXT, block * count + b"\x00", rsv=RSV1))
            assert messages(protocol) == [""]
            data = b"".join([block * count, HELLO[:-1], b"\x00", TAIL, block * count, b"\x00"])
            protocol.receive_data(frame(side, TEXT, data, rsv=RSV1))
            assert messages(protocol) == ["Hello"]


# Limits


@both_sides
@each_backend
@pytest.mark.parametrize("fragmented", FLAGS)
@pytest.mark.parametrize("limit", [0, 1, 1000, 65536])
def test_max_size(side, backend, fragmented, limit):
    for size in {limit, max(limit - 1, 0), limit + 1, limit + 2, 2 * limit + 1}:
        protocol, peer = connection(side, extension(backend=backend), max_size=limit)
        data = peer.deflate(bytes(size))
        if len(data) > limit:
            continue
        if fragmented:
            protocol.receive_data(frame(side, BINARY, data[:-1], fin=False, rsv=RSV1))
            protocol.receive_data(frame(side, CONT, data[-1:]))
        else:
            protocol.receive_data(frame(side, BINARY, data, rsv=RSV1))
        if size <= limit:
            assert messages(protocol) == [bytes(size)]
        else:
            assert messages(protocol) == []
            assert closed_with(protocol) == CloseCode.MESSAGE_TOO_BIG
            assert isinstance(protocol.parser_exc, PayloadTooBig)


def test_incompressible_message_of_max_size():
    """RFC 7692 doesn't say whose size counts: it is that of the message."""
    protocol, peer = connection(Side.SERVER, max_size=100_000)
    payload = noise(100_000)
    data = peer.deflate(payload)
    assert len(data) > len(payload)
    protocol.receive_data(frame(Side.SERVER, BINARY, data, rsv=RSV1))
    assert messages(protocol) == [payload]
    assert closed_with(protocol) is None


@each_backend
def test_limit_of_fragments(backend):
    for size, fits in ((1000, True), (1001, False)):
        protocol, peer = connection(Side.SERVER, extension(backend=backend), max_size=(5000, 1000))
        first = peer.deflate(bytes(1000), fin=False)
        last = peer.deflate(bytes(size))
        protocol.receive_data(frame(Side.SERVER, BINARY, first, fin=False, rsv=RSV1))
        protocol.receive_data(frame(Side.SERVER, CONT, last))
        assert (messages(protocol) == [bytes(1000 + size)]) is fits
        assert closed_with(protocol) == (None if fits else CloseCode.MESSAGE_TOO_BIG)


@each_backend
def test_no_limit(backend):
    protocol, peer = connection(Side.SERVER, extension(backend=backend), max_size=None)
    payload = bytes(2**22)
    protocol.receive_data(frame(Side.SERVER, BINARY, peer.deflate(payload), rsv=RSV1))
    assert messages(protocol) == [payload]


@pytest.fixture(scope="module", params=["one stream", "final blocks"])
def bomb(request):
    """A message of less than 100 KB that inflates to 100 MB; DEFLATE can't do much more."""
    size = 10**8
    if request.param == "one stream":
        compressor = zlib.compressobj(9, wbits=-15)
        data = b"".join(compressor.compress(bytes(10**6)) for _ in range(size // 10**6))
        data += compressor.flush(zlib.Z_SYNC_FLUSH)[:-4]
        assert size > 1000 * len(data)
        return data
    return final(bytes(10**6)) * (size // 10**6) + b"\x00"


@each_backend
@pytest.mark.parametrize("limit", [1000, 2**20])
@pytest.mark.parametrize("fragments", [1, 50])
@pytest.mark.parametrize("interface", ["engine", "extension"])
def test_bombs(bomb, backend, limit, fragments, interface):
    """At most the limit, a constant, and the bomb itself are held."""
    size = -(-len(bomb) // fragments)
    pieces = [bomb[i : i + size] for i in range(0, len(bomb), size)]
    deflate = extension(backend=backend)
    side = Side.CLIENT
    if interface == "engine":
        # A limit of the compressed size would stop some of them earlier.
        protocol, _ = connection(side, deflate, max_size=max(limit, len(pieces[0])))
        frames = [
            frame(side, CONT if i else BINARY, piece, fin=piece is pieces[-1], rsv=0 if i else RSV1)
            for i, piece in enumerate(pieces)
        ]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        if interface == "engine":
            for data in frames:
                if protocol.state is State.OPEN:
                    protocol.receive_data(data)
        else:
            with pytest.raises(PayloadTooBig):
                deflate.decode(Frame(Opcode.BINARY, pieces[0], False, True), max_size=limit)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    if interface == "engine":
        assert closed_with(protocol) == CloseCode.MESSAGE_TOO_BIG
        limit = max(limit, len(pieces[0]))
    # Buffers grow by doubling; the compressed rest may be kept, and copied.
    assert peak < 3 * limit + 3 * len(bomb) + 2**18
