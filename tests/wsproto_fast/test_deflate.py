"""permessage-deflate at work (RFC 7692 sections 6 and 7.2), against an independent peer on zlib."""

import itertools
import logging
import random
import threading
import tracemalloc
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol as TheirClient
from websockets.extensions.permessage_deflate import PerMessageDeflate as TheirDeflate
from websockets.frames import Opcode as TheirOpcode
from websockets.protocol import State as TheirState
from websockets.server import ServerProtocol as TheirServer
from websockets.uri import parse_uri as their_parse_uri

from wsproto_fast import (
    CloseCode,
    Frame,
    Opcode,
    PayloadTooBig,
    PerMessageDeflate,
    PreparedMessage,
    Protocol,
    ProtocolError,
    Side,
    State,
    backends,
)
from wsproto_fast.activity import ATTENTION
from wsproto_fast.backends import available_backends, get_backend

from .helpers import (
    BINARY,
    CLOSE,
    CONT,
    PATHS,
    PING,
    PONG,
    SIDES,
    TEXT,
    chopped,
    events,
    frame,
    messages,
    output,
    parse,
    run_apart,
    sent,
)

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


def is_whole(data):
    """Tell whether this is a message that a fresh decompressor understands, to its end."""
    decompressor = zlib.decompressobj(wbits=-15)
    decompressor.decompress(data)
    try:
        rest = decompressor.decompress(TAIL + b"\x01\x00\x00\xff\xff")
    except zlib.error:
        return False
    return decompressor.eof and not rest


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


# Examples of section 7.2.3


HELLO = bytes.fromhex("f248cdc9c90700")


@both_sides
@each_backend
@each_path
@pytest.mark.parametrize(
    "payloads, expected",
    [
        (["f248cdc9c90700"], ["Hello"]),
        (["f248cdc9c90700", "f248cdc9c90700"], ["Hello"] * 2),
        (["f248cdc9c90700", "f200110000"], ["Hello"] * 2),
        (["000500faff48656c6c6f00"], ["Hello"]),
        (["f348cdc9c9070000"], ["Hello"]),
        (["f348cdc9c9070000", "f200110000"], ["Hello"] * 2),
        (["f24805000000ffffcac9c90700"], ["Hello"]),
        (["00"], [""]),
        (["00", "f248cdc9c90700", "00", "f200110000", "00"], ["", "Hello", "", "Hello", ""]),
        (["020000ffff00"], None),
        (["0300000300000300000000"], None),
    ],
)
def test_examples(side, backend, path, payloads, expected):
    wire = b"".join(frame(side, TEXT, bytes.fromhex(data), rsv=RSV1) for data in payloads)
    for pieces in ([wire], [wire[i : i + 1] for i in range(len(wire))]):
        protocol, _ = connection(side, extension(backend=backend), path=path)
        path.feed(protocol, pieces)
        if expected is not None:
            assert messages(protocol) == expected
            assert protocol.state is State.OPEN


@both_sides
@each_backend
def test_fragmented_example(side, backend):
    for cut in range(len(HELLO) + 1):
        for between in (b"", frame(side, PING, b"p"), frame(side, PONG)):
            protocol, _ = connection(side, extension(backend=backend))
            protocol.receive_data(frame(side, TEXT, HELLO[:cut], fin=False, rsv=RSV1) + between)
            assert messages(protocol) == []
            protocol.receive_data(frame(side, CONT, HELLO[cut:]))
            assert messages(protocol) == ["Hello"]
            protocol.receive_data(frame(side, TEXT, bytes.fromhex("f200110000"), rsv=RSV1))
            assert messages(protocol) == ["Hello"]


# Both directions


@both_sides
@each_backend
@pytest.mark.parametrize("bits", range(9, 16))
@pytest.mark.parametrize("no_takeover", FLAGS)
def test_sending(side, backend, bits, no_takeover):
    deflate = extension(
        local_no_context_takeover=no_takeover, local_max_window_bits=bits, backend=backend
    )
    protocol, peer = connection(side, deflate)
    for message in MESSAGES:
        protocol.send(message, compress=True)
        assert peer.read(output(protocol)) == [(message, True)]


@both_sides
@each_backend
@pytest.mark.parametrize("bits", range(8, 16))
@pytest.mark.parametrize("no_takeover", FLAGS)
def test_receiving(side, backend, bits, no_takeover):
    deflate = extension(
        remote_no_context_takeover=no_takeover, remote_max_window_bits=bits, backend=backend
    )
    protocol, peer = connection(side, deflate)
    for message in MESSAGES:
        text = isinstance(message, str)
        data = peer.deflate(message.encode() if text else message)
        protocol.receive_data(frame(side, TEXT if text else BINARY, data, rsv=RSV1))
        assert messages(protocol) == [message]
    assert protocol.state is State.OPEN


@each_backend
@pytest.mark.parametrize("other", BACKENDS)
@pytest.mark.parametrize("queue", FLAGS)
def test_between_ours(backend, other, queue):
    client, _ = connection(Side.CLIENT, extension(backend=backend), queue=queue)
    server, _ = connection(Side.SERVER, extension(backend=other), queue=queue)
    for i, message in enumerate(MESSAGES):
        for sender, receiver in ((client, server), (server, client)):
            if i % 3:
                sender.send(message)
            else:
                sender.send_prepared(PreparedMessage(message))
            receiver.receive_data(output(sender))
            if queue:
                assert messages(receiver) == [message]
            else:
                data = message.encode() if isinstance(message, str) else message
                opcode = TEXT if isinstance(message, str) else BINARY
                assert events(receiver) == [(opcode, data, True)]


def test_settings_are_used():
    sizes = []
    for level in (0, 1, 9):
        protocol, peer = connection(
            Side.SERVER, extension(compress_settings={"level": level}, backend="zlib")
        )
        protocol.send("".join(JSON), compress=True)
        data = output(protocol)
        sizes.append(len(data))
        assert peer.read(data) == [("".join(JSON), True)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


def test_takeover_pays():
    sizes = {}
    for no_takeover in FLAGS:
        protocol, _ = connection(Side.SERVER, extension(local_no_context_takeover=no_takeover))
        for message in JSON:
            protocol.send(message)
        sizes[no_takeover] = len(output(protocol))
    assert sizes[False] < 0.7 * sizes[True]


# Fragments


@both_sides
@each_backend
@pytest.mark.parametrize("no_takeover", FLAGS)
def test_sending_fragments(side, backend, no_takeover):
    deflate = extension(local_no_context_takeover=no_takeover, backend=backend)
    protocol, peer = connection(side, deflate)
    text = "".join(JSON)
    for size in (1, 7, 100, len(text)):
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        for parts in ([*pieces, ""], ["", *pieces, ""], ["", "", ""], ["", text]):
            protocol.send_text(parts[0], fin=False)
            for part in parts[1:-1]:
                protocol.send_ping(b"between")
                protocol.send_continuation(part, fin=False)
            protocol.send_continuation(parts[-1], fin=True)
            data = output(protocol)
            frames = [wire for wire in parse(data) if wire.opcode != PING]
            assert [wire.rsv for wire in frames] == [RSV1] + [0] * (len(frames) - 1)
            assert [wire.opcode for wire in frames] == [TEXT] + [CONT] * (len(frames) - 1)
            assert peer.read(data) == [("".join(parts), True)]
        protocol.send("whole " + text)
        assert peer.read(output(protocol)) == [("whole " + text, True)]


def test_fragments_are_flushed():
    protocol, _ = connection(Side.SERVER)
    decompressor = zlib.decompressobj(wbits=-15)
    for i, message in enumerate(JSON):
        (protocol.send_continuation if i else protocol.send_text)(message, fin=False)
        (wire,) = parse(output(protocol))
        assert decompressor.decompress(wire.payload) == message.encode()


@both_sides
def test_fragments_not_compressed(side):
    protocol, peer = connection(side)
    protocol.send_text(JSON[0], fin=False, compress=False)
    protocol.send_continuation(JSON[1], fin=False)
    protocol.send_continuation(JSON[2], fin=True)
    protocol.send_binary(JSON[3].encode(), fin=False, compress=True)
    protocol.send_continuation(b"", fin=True)
    assert peer.read(output(protocol)) == [
        ("".join(JSON[:3]), False),
        (JSON[3].encode(), True),
    ]


@both_sides
@each_backend
@pytest.mark.parametrize("idle", FLAGS)
def test_receiving_fragments_cut_anywhere(side, backend, idle):
    # RFC 7692 section 6.1: the compressed message is cut, wherever.
    protocol, peer = connection(side, extension(backend=backend))
    now = 0.0
    for text in ("".join(JSON), "\u20ac" * 100, *JSON):
        data = peer.deflate(text.encode())
        for size in (1, 5, 1000):
            pieces = [data[i : i + size] for i in range(0, len(data), size)]
            if size != 1:
                pieces = [b"", *pieces, b""]
            for i, piece in enumerate(pieces):
                fin = i == len(pieces) - 1
                protocol.receive_data(
                    frame(side, CONT if i else TEXT, piece, fin=fin, rsv=0 if i else RSV1), now
                )
                if idle:
                    now += 1000
                    protocol.handle_timeout(now)
            assert messages(protocol) == [text]
            data = peer.deflate(text.encode())
        protocol.receive_data(frame(side, TEXT, data, rsv=RSV1), now)
        assert messages(protocol) == [text]


@both_sides
def test_uncompressed_messages_between(side):
    protocol, peer = connection(side)
    for i, message in enumerate(JSON):
        compressed = i % 3 != 1
        data = peer.deflate(message.encode()) if compressed else message.encode()
        rsv = RSV1 if compressed else 0
        if i % 2:
            protocol.receive_data(
                frame(side, TEXT, data[:5], fin=False, rsv=rsv) + frame(side, CONT, data[5:])
            )
        else:
            protocol.receive_data(frame(side, TEXT, data, rsv=rsv))
        assert messages(protocol) == [message]
        protocol.send(message, compress=compressed)
        assert peer.read(output(protocol)) == [(message, compressed)]


@both_sides
def test_control_frames_are_not_compressed(side):
    protocol, _ = connection(side)
    protocol.send_ping(b"p" * 125)
    protocol.send_pong(b"q" * 125)
    protocol.receive_data(frame(side, PING, b"r" * 125))
    protocol.send_close(1000, "done")
    frames = parse(output(protocol))
    assert [(wire.opcode, wire.rsv) for wire in frames] == [
        (PING, 0),
        (PONG, 0),
        (PONG, 0),
        (CLOSE, 0),
    ]
    assert frames[2].payload == b"r" * 125


@both_sides
def test_misuse_changes_nothing(side):
    protocol, peer = connection(side)
    for message in JSON:
        with pytest.raises(TypeError):
            protocol.send(1.5)
        with pytest.raises(UnicodeEncodeError):
            protocol.send("\ud800" * 100)
        with pytest.raises(UnicodeError):
            protocol.send(b"\xff" * 100, text=True)
        with pytest.raises(ProtocolError):
            protocol.send_continuation("x" * 100, fin=True)
        protocol.send_text(message, fin=False)
        with pytest.raises(ProtocolError):
            protocol.send_text("x" * 100)
        with pytest.raises(TypeError):
            protocol.send_continuation(None, fin=False)
        protocol.send_continuation(message, fin=True)
        assert peer.read(output(protocol)) == [(message * 2, True)]


@both_sides
def test_messages_while_closing(side):
    protocol, peer = connection(side, queue=False)
    protocol.receive_data(frame(side, TEXT, peer.deflate(b"before"), rsv=RSV1))
    protocol.send_close(1000)
    protocol.receive_data(frame(side, TEXT, peer.deflate(b"before"), rsv=RSV1))
    assert events(protocol) == [(TEXT, b"before", True)] * 2
    protocol.receive_data(frame(side, CLOSE, b"\x03\xe8"))
    assert protocol.close_rcvd.code == 1000


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
    "nothing": b"",
    "stored block too short": b"\x00\x06\x00\xf9\xffHello",
    "stored block of the size of the tail": b"\x00\x09\x00\xf6\xffHello",
    "header of a stored block": b"\x00\x05\x00\xfa\xff",
    "tail not removed": HELLO + TAIL,
    "no last block": b"\x00\x05\x00\xfa\xffHello",
    "final block without another": final(b"Hello"),
    "text of plain messages": b"Hello, world",
}


@both_sides
@each_backend
@pytest.mark.parametrize("name", [*INVALID, *INCOMPLETE])
@pytest.mark.parametrize("no_takeover", FLAGS)
@pytest.mark.parametrize("queue", FLAGS)
def test_invalid_streams(side, backend, name, no_takeover, queue):
    data = (INVALID | INCOMPLETE)[name]
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


@each_backend
@pytest.mark.parametrize("no_takeover", FLAGS)
@pytest.mark.parametrize("strategy", [zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED])
@pytest.mark.parametrize("level", [0, 6])
def test_truncated_messages(backend, no_takeover, strategy, level):
    cuts = missed = 0
    for payload in ("".join(JSON[:4]).encode(), b"Hello", bytes(300), noise(200)):
        data = raw(payload, level=level, strategy=strategy)
        for size in range(len(data)):
            deflate = extension(remote_no_context_takeover=no_takeover, backend=backend)
            protocol, _ = connection(Side.SERVER, deflate)
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
    protocol, peer = connection(Side.SERVER, max_size=100_000)
    payload = noise(100_000)
    data = peer.deflate(payload)
    assert len(data) > len(payload)
    protocol.receive_data(frame(Side.SERVER, BINARY, data, rsv=RSV1))
    # RFC 7692 doesn't say whose size counts.
    assert messages(protocol) in ([payload], [])
    assert closed_with(protocol) in (None, CloseCode.MESSAGE_TOO_BIG)


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


# Which messages are compressed


@both_sides
@pytest.mark.parametrize("min_size", [0, 1, 50, 10**6])
def test_threshold(side, min_size):
    protocol, peer = connection(side, extension(min_size=min_size))
    for size in (0, 1, 49, 50, 51, 10**4):
        message = b"\x00" * size
        protocol.send(message)
        data = output(protocol)
        ((received, compressed),) = peer.read(data)
        assert received == message
        pays = size >= 49
        assert compressed is (size >= min_size and pays)
        for choice in FLAGS:
            protocol.send(message, compress=choice)
            assert peer.read(output(protocol)) == [(message, choice)]


def test_threshold_can_be_changed():
    deflate = extension()
    protocol, peer = connection(Side.SERVER, deflate)
    deflate.min_size = 10**6
    protocol.send(JSON[0])
    deflate.min_size = 0
    protocol.send(JSON[0])
    assert peer.read(output(protocol)) == [(JSON[0], False), (JSON[0], True)]


@both_sides
@each_backend
@pytest.mark.parametrize("no_takeover", FLAGS)
def test_what_would_grow_goes_plain(side, backend, no_takeover):
    deflate = extension(
        local_no_context_takeover=no_takeover, local_max_window_bits=9, backend=backend
    )
    protocol, peer = connection(side, deflate)
    for i in range(10):
        protocol.send(JSON[0])
        assert peer.read(output(protocol)) == [(JSON[0], True)]
        protocol.send(noise(1000, i))
        assert peer.read(output(protocol)) == [(noise(1000, i), False)]
        protocol.send(noise(1000, i), compress=True)
        assert peer.read(output(protocol)) == [(noise(1000, i), True)]


@both_sides
def test_without_extension_the_choice_means_nothing(side):
    protocol = Protocol(side)
    for compress in (None, True, False):
        protocol.send(JSON[0], compress=compress)
        protocol.send_text(JSON[0], compress=compress)
        protocol.send_binary(b"x", compress=compress)
        protocol.send_prepared(PreparedMessage(JSON[0]), compress=compress)
        assert [wire.rsv for wire in parse(output(protocol))] == [0] * 4


# Compressed once for many connections


@both_sides
@each_backend
def test_prepared_messages(side, backend):
    settings = list(itertools.product(FLAGS, (9, 12, 15)))
    random.Random(0).shuffle(settings)
    connections = [
        connection(
            side,
            extension(local_no_context_takeover=flag, local_max_window_bits=bits, backend=backend),
        )
        for flag, bits in settings
    ]
    text = "".join(JSON)
    large = text + noise(40000).hex() + text
    for message in (*JSON[:3], text, large, b"x" * 100, "\u20ac" * 50, *JSON[:3]):
        prepared = PreparedMessage(message)
        for i, (protocol, peer) in enumerate(connections):
            # Connections differ in what they have sent so far.
            for _ in range(i):
                protocol.send(JSON[i])
            protocol.send_prepared(prepared)
            protocol.send_prepared(prepared)
            protocol.send(JSON[i])
            *_, first, second, last = peer.read(output(protocol))
            assert first == second
            assert first[0] == message
            assert last == (JSON[i], True)
            assert first[1]


@both_sides
def test_prepared_messages_that_go_plain(side):
    protocol, peer = connection(side)
    for message in ("", "short", noise(1000)):
        protocol.send_prepared(PreparedMessage(message))
        assert peer.read(output(protocol)) == [(message, False)]
    prepared = PreparedMessage(JSON[0])
    for compress in (False, None, True, False):
        protocol.send_prepared(prepared, compress=compress)
        protocol.send(JSON[1])
        assert peer.read(output(protocol)) == [
            (JSON[0], compress is not False),
            (JSON[1], True),
        ]


class Counting:
    """A backend's compressor that notes the window bits with which it compresses."""

    def __init__(self, compressor, bits, used):
        self.compressor, self.bits, self.used = compressor, bits, used
        self.flush = compressor.flush

    def compress(self, payload):
        self.used.append(self.bits)
        return self.compressor.compress(payload)


@pytest.fixture
def counted(monkeypatch):
    """Install the backend "counted", which is zlib; give the list of what it compressed."""
    used = []
    real = get_backend("zlib")

    def new_compressor(bits, settings):
        return Counting(real.new_compressor(bits, settings), bits, used)

    backend = replace(real, name="counted", new_compressor=new_compressor)
    monkeypatch.setitem(backends._loaded, "counted", backend)
    return used


@pytest.mark.parametrize("no_takeover", FLAGS)
def test_prepared_message_is_compressed_once(counted, no_takeover):
    prepared = PreparedMessage("".join(JSON))
    frames = set()
    for _ in range(10):
        protocol = Protocol(Side.SERVER)
        protocol.extensions = [extension(local_no_context_takeover=no_takeover, backend="counted")]
        protocol.send_prepared(prepared)
        frames.add(output(protocol))
    assert counted == [15]
    assert len(frames) == 1


@pytest.mark.parametrize(
    ("size", "expected"),
    # What is as large as a window fits into it.
    [(512, [15]), (513, [15, 9]), (5000, [15, 12, 9]), (10**5, [15, 12, 9])],
)
def test_prepared_message_is_compressed_once_for_the_smallest_window(counted, size, expected):
    message = "".join(JSON * 100)[:size]
    prepared = PreparedMessage(message)
    for bits in (15, 15, 12, 14, 9, 9, 12, 15):
        protocol, peer = connection(
            Side.SERVER, extension(local_max_window_bits=bits, backend="counted")
        )
        protocol.send_prepared(prepared)
        assert peer.read(output(protocol)) == [(message, True)]
    assert counted == expected


# Compressors that the process shares


@both_sides
@each_backend
@pytest.mark.parametrize("bits", [9, 12, 15])
def test_shared_compressors(side, backend, bits):
    """Messages that need no context of a connection don't get one, nor do they see each other."""
    connections = [
        connection(
            side,
            extension(True, True, local_max_window_bits=bits, min_size=0, backend=backend),
        )
        for _ in range(10)
    ]
    whole = [*JSON, "".join(JSON), "x" * 5000, "abcdefgh" * 20, "\u20ac" * 1000, noise(100).hex()]
    for message in whole:
        for i, (protocol, peer) in enumerate(connections):
            # Half of a message in the meantime.
            protocol.send_text(message[:i], fin=False, compress=True)
            for other, its_peer in connections[i + 1 :: 3]:
                other.send(message, compress=True)
                other.send_prepared(PreparedMessage(message), compress=True)
                assert its_peer.read(output(other)) == [(message, True)] * 2
            protocol.send_continuation(message[i:], fin=True)
            assert peer.read(output(protocol)) == [(message, True)]
            assert protocol.next_timeout() is None or protocol.handle_timeout(10**6) is not None


def test_shared_compressors_are_made_once(monkeypatch):
    made = []
    real = get_backend("zlib")

    def new_compressor(bits, settings):
        made.append((bits, settings))
        return real.new_compressor(bits, settings)

    monkeypatch.setitem(
        backends._loaded, "made", replace(real, name="made", new_compressor=new_compressor)
    )
    for _ in range(100):
        for settings in ({}, {"level": 1}):
            protocol, peer = connection(
                Side.SERVER,
                extension(
                    local_no_context_takeover=True, compress_settings=settings, backend="made"
                ),
            )
            protocol.send(JSON[0])
            assert peer.read(output(protocol)) == [(JSON[0], True)]
            prepared = PreparedMessage(JSON[1])
            protocol.send_prepared(prepared)
            assert peer.read(output(protocol)) == [(JSON[1], True)]
    assert made == [(15, {}), (15, {"level": 1})]


def test_shared_compressors_in_threads():
    failures = []

    def work(number):
        deflate = extension(local_no_context_takeover=True)
        protocol, peer = connection(Side.SERVER, deflate)
        for i in range(100):
            message = f"{number} {i} " + JSON[i % len(JSON)] * (i % 7 + 1)
            protocol.send(message)
            if peer.read(output(protocol)) != [(message, True)]:
                failures.append(message)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_failing_compressors_are_not_used_again(monkeypatch):
    class Failing:
        def compress(self, payload):
            raise MemoryError

    real = get_backend("zlib")
    made = []

    def new_compressor(bits, settings):
        made.append(Failing() if not made else real.new_compressor(bits, settings))
        return made[-1]

    backend = replace(real, name="failing", new_compressor=new_compressor)
    monkeypatch.setitem(backends._loaded, "failing", backend)
    for no_takeover in FLAGS:
        made.clear()
        protocol, peer = connection(
            Side.SERVER,
            extension(local_no_context_takeover=no_takeover, backend="failing"),
        )
        with pytest.raises(MemoryError):
            protocol.send(JSON[0])
        assert output(protocol) == b""
        for message in JSON:
            protocol.send(message)
            assert peer.read(output(protocol)) == [(message, True)]


# websockets as the peer


def their_end(side, ours):
    if side == Side.CLIENT:
        peer = TheirClient(their_parse_uri("ws://localhost/"), state=TheirState.OPEN)
    else:
        peer = TheirServer(state=TheirState.OPEN)
    peer.extensions = [
        TheirDeflate(
            ours.local_no_context_takeover,
            ours.remote_no_context_takeover,
            ours.local_max_window_bits,
            ours.remote_max_window_bits,
        )
    ]
    return peer


@both_sides
@each_backend
@pytest.mark.parametrize("flags", list(itertools.product(FLAGS, FLAGS)))
@pytest.mark.parametrize("bits", [(9, 15), (12, 12), (15, 9)])
def test_with_websockets(side, backend, flags, bits):
    deflate = extension(*flags, *bits, backend=backend)
    protocol, _ = connection(side, deflate)
    peer = their_end(Side.SERVER if side == Side.CLIENT else Side.CLIENT, deflate)
    now = 0.0
    for i, message in enumerate([*JSON, "", "\u20ac" * 100, *JSON]):
        data = message.encode()
        # To them: whole, prepared, plain, in fragments.
        protocol.send(message, compress=(None, True, False)[i % 3])
        protocol.send_prepared(PreparedMessage(message))
        protocol.send_text(message[:9], fin=False)
        protocol.send_ping(b"")
        protocol.send_continuation(message[9:], fin=True)
        peer.receive_data(output(protocol))
        assert peer.parser_exc is None
        received = peer.events_received()
        assert [bytes(event.data) for event in received if event.opcode is TheirOpcode.TEXT] == [
            data,
            data,
            message[:9].encode(),
        ]
        assert bytes(received[-1].data) == message[9:].encode()
        # From them.
        peer.send_text(data)
        peer.send_text(data[:9], fin=False)
        peer.send_continuation(data[9:], fin=True)
        protocol.receive_data(b"".join(peer.data_to_send()), now)
        assert messages(protocol) == [message, message]
        if i % 5 == 0:
            now += 1000
            protocol.handle_timeout(now)
        output(protocol)


# Contexts exist only while they are used


@both_sides
@each_backend
@pytest.mark.parametrize("bits", [9, 12, 15])
def test_contexts_released_when_idle(side, backend, bits):
    deflate = extension(remote_max_window_bits=bits, local_max_window_bits=bits, backend=backend)
    protocol, peer = connection(side, deflate)
    assert protocol.next_timeout() is None
    now = 0.0
    for message in (*JSON, noise(1 << bits) + b"x" * 100, *JSON, b"x" * (3 << bits), *JSON):
        opcode = TEXT if isinstance(message, str) else BINARY
        data = peer.deflate(message.encode() if opcode == TEXT else message)
        protocol.receive_data(frame(side, opcode, data, rsv=RSV1), now)
        assert messages(protocol) == [message]
        protocol.send(message, compress=True)
        assert peer.read(output(protocol)) == [(message, True)]
        timeout = protocol.next_timeout()
        assert timeout is not None
        assert timeout > now
        for _ in range(10):
            if protocol.next_timeout() is None:
                break
            now = protocol.next_timeout()
            protocol.handle_timeout(now)
        assert protocol.next_timeout() is None


@both_sides
@each_backend
@pytest.mark.parametrize("prepared", FLAGS)
def test_contexts_of_who_only_sends_are_released(side, backend, prepared):
    protocol, peer = connection(side, extension(backend=backend))
    now = 1000.0
    for _ in range(3):
        activity = 0
        for message in JSON:
            if prepared:
                # It would grow, so that it is compressed only because it must be.
                activity |= protocol.send_prepared(PreparedMessage("short"), compress=True)
            activity |= protocol.send(message)
            peer.read(output(protocol))
        assert activity & ATTENTION
        # Nobody said how late it is: it may be due at once.
        assert protocol.next_timeout() is not None
        held = 0
        while protocol.next_timeout() is not None:
            now = max(now, protocol.next_timeout())
            protocol.handle_timeout(now)
            held += 1
            # In use, they stay; and there is nothing new to attend to.
            if held < 5:
                assert not protocol.send(JSON[0]) & ATTENTION
                peer.read(output(protocol))
        assert held >= 6
        now += 1000


def test_contexts_are_held_for_seconds():
    protocol, peer = connection(Side.SERVER)
    protocol.receive_data(frame(Side.SERVER, TEXT, peer.deflate(b"Hello"), rsv=RSV1), 100.0)
    times = []
    while protocol.next_timeout() is not None:
        times.append(protocol.next_timeout())
        protocol.handle_timeout(times[-1])
    assert times == [103.0, 106.0]


def test_memory_of_idle_connections():
    def held(release):
        """Return bytes per connection that has received and sent compressed messages."""
        count = 20
        data = []
        for _ in range(count):
            deflate = extension(remote_max_window_bits=12, local_max_window_bits=12)
            peer = Peer(deflate)
            data.append([frame(Side.SERVER, TEXT, peer.deflate(m.encode()), rsv=4) for m in JSON])
        protocols = []
        tracemalloc.start()
        try:
            for frames in data:
                deflate = extension(remote_max_window_bits=12, local_max_window_bits=12)
                protocol, _ = connection(Side.SERVER, deflate)
                for wire in frames:
                    protocol.receive_data(wire)
                messages(protocol)
                for message in JSON:
                    protocol.send(message)
                output(protocol)
                while release and protocol.next_timeout() is not None:
                    protocol.handle_timeout(protocol.next_timeout())
                protocols.append(protocol)
            return tracemalloc.get_traced_memory()[0] / count
        finally:
            tracemalloc.stop()

    assert held(release=True) < 10 * 1024
    assert held(release=False) > held(release=True) + 20 * 1024


@pytest.mark.parametrize("size", [1, 3, 30, 1000])
def test_memory_of_small_messages(size):
    """What is kept of them is the window, not the messages."""
    protocol, _ = connection(Side.SERVER, max_size=2**17)
    # A stored block needs no compressor.
    message = b"\x00" + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little")
    wire = frame(Side.SERVER, BINARY, message + bytes(size) + b"\x00", rsv=RSV1)
    protocol.receive_data(wire)
    messages(protocol)
    tracemalloc.start()
    try:
        for _ in range(60_000 // size):
            protocol.receive_data(wire)
            protocol.next_message()
        assert tracemalloc.get_traced_memory()[0] < 5 * 2**15
    finally:
        tracemalloc.stop()
    assert protocol.state is State.OPEN


# The interface of extensions


@each_backend
def test_interface_of_extensions(backend):
    ours = extension(backend=backend)
    peer = TheirDeflate(False, False, 15, 15)
    for message in JSON:
        data = message.encode()
        encoded = ours.encode(Frame(Opcode.TEXT, data))
        assert (encoded.opcode, encoded.fin, encoded.rsv1) == (Opcode.TEXT, True, True)
        assert bytes(peer.decode(encoded).data) == data
        encoded = peer.encode(Frame(Opcode.TEXT, data))
        decoded = ours.decode(
            Frame(Opcode.TEXT, memoryview(bytes(encoded.data)), rsv1=True), max_size=len(data)
        )
        assert decoded == Frame(Opcode.TEXT, data)
    with pytest.raises(PayloadTooBig):
        ours.decode(Frame(Opcode.TEXT, HELLO, rsv1=True), max_size=4)


def test_interface_of_extensions_leaves_other_frames_alone():
    ours = extension()
    for opcode in (Opcode.PING, Opcode.PONG, Opcode.CLOSE):
        other = Frame(opcode, b"\x03\xe8")
        assert ours.encode(other) is other
        assert ours.decode(other) is other
    plain = Frame(Opcode.BINARY, b"plain", False)
    assert ours.decode(plain) is plain
    rest = Frame(Opcode.CONT, b"rest")
    assert ours.decode(rest) is rest
    with pytest.raises(ProtocolError):
        ours.decode(Frame(Opcode.CONT, b"", rsv1=True))
    with pytest.raises(ProtocolError):
        ours.decode(Frame(Opcode.BINARY, b"\xff" * 10, rsv1=True))


def test_fragments_through_the_interface_of_extensions():
    ours, other = extension(), extension()
    frames = [
        Frame(Opcode.TEXT, b"Hel", False),
        Frame(Opcode.CONT, b"", False),
        Frame(Opcode.CONT, b"lo", True),
        Frame(Opcode.TEXT, b"Hello"),
    ]
    encoded = [ours.encode(item) for item in frames]
    assert [item.rsv1 for item in encoded] == [True, False, False, True]
    assert [other.decode(item) for item in encoded] == frames


def test_repr():
    assert repr(extension(True, False, 12, 15)) == (
        "PerMessageDeflate(remote_no_context_takeover=True, local_no_context_takeover=False, "
        "remote_max_window_bits=12, local_max_window_bits=15)"
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"remote_max_window_bits": 7},
        {"remote_max_window_bits": 16},
        {"local_max_window_bits": 8},
        {"local_max_window_bits": 16},
        {"compress_settings": {"wbits": -15}},
        {"backend": "paper"},
    ],
)
def test_bad_arguments(settings):
    with pytest.raises((ValueError, AssertionError)):
        extension(**settings)


class Reversed:
    """An extension that shows whether it was applied: payloads of data frames backwards, RSV2."""

    name = "x-reversed"

    def encode(self, item):
        if item.opcode & 8:
            return item
        return Frame(item.opcode, bytes(item.data)[::-1], item.fin, item.rsv1, True, item.rsv3)

    def decode(self, item, *, max_size=None):
        if item.opcode & 8:
            return item
        return Frame(item.opcode, bytes(item.data)[::-1], item.fin, item.rsv1, False, item.rsv3)


@both_sides
@pytest.mark.parametrize("max_size", [2**20, None])
@pytest.mark.parametrize("first", FLAGS)
def test_beside_another_extension(side, max_size, first):
    ends = []
    for end in (side, Side.SERVER if side == Side.CLIENT else Side.CLIENT):
        protocol, _ = connection(end, max_size=max_size)
        protocol.extensions.insert(0 if first else 1, Reversed())
        ends.append(protocol)
    sender, receiver = ends
    for message in (*JSON, ""):
        sender.send(message)
        sender.send_text(message[:7], fin=False)
        sender.send_ping(b"")
        sender.send_continuation(message[7:], fin=True)
        data = output(sender)
        assert [wire.rsv for wire in parse(data)] == [RSV1 | RSV2, RSV1 | RSV2, 0, RSV2]
        receiver.receive_data(data)
        assert receiver.parser_exc is None
        assert messages(receiver) == [message, message]
    receiver.receive_data(frame(receiver.side, BINARY, b"\xff" * 10, rsv=RSV1 | RSV2))
    assert closed_with(receiver) == CloseCode.INVALID_DATA


@both_sides
def test_subclass(side):
    class Counting(PerMessageDeflate):
        calls = 0

        def encode(self, item):
            self.calls += 1
            return super().encode(item)

    deflate = Counting(False, False, 15, 15)
    protocol, peer = connection(side, deflate)
    for message in JSON:
        protocol.send(message)
        assert peer.read(output(protocol)) == [(message, True)]
        protocol.receive_data(frame(side, TEXT, peer.deflate(message.encode()), rsv=RSV1))
        assert messages(protocol) == [message]
    assert deflate.calls == len(JSON)


def test_logging(caplog):
    caplog.set_level(logging.DEBUG, "wsapi.server")
    protocol, peer = connection(Side.SERVER)
    protocol.receive_data(frame(Side.SERVER, TEXT, peer.deflate(b"Hello"), rsv=RSV1))
    assert messages(protocol) == ["Hello"]
    protocol.send("Hello " * 20)
    protocol.send_prepared(PreparedMessage("Hello " * 20))
    assert peer.read(output(protocol)) == [("Hello " * 20, True)] * 2
    lines = [record.getMessage() for record in caplog.records]
    # What is logged can be read.
    assert any(line.startswith("< TEXT") and "Hello" in line for line in lines)
    assert sum(line.startswith("> TEXT") and "Hello" in line for line in lines) == 2


# Any sequence


payloads = st.one_of(
    st.sampled_from(JSON),
    st.text(max_size=300),
    st.binary(max_size=300),
    st.builds(
        lambda unit, count: unit * count, st.binary(min_size=1, max_size=9), st.integers(0, 999)
    ),
    st.builds(noise, st.integers(0, 5000), st.integers(0, 3)),
)
steps = st.lists(
    st.tuples(
        st.sampled_from(["send", "fragments", "prepared", "receive", "receive plain", "idle"]),
        payloads,
        st.sampled_from([None, True, False]),
        st.lists(st.integers(0, 400), max_size=4),
    ),
    max_size=25,
)


@given(
    side=st.sampled_from(SIDES),
    path=st.sampled_from(PATHS),
    backend=st.sampled_from(BACKENDS),
    flags=st.tuples(st.booleans(), st.booleans()),
    bits=st.tuples(st.integers(8, 15), st.integers(9, 15)),
    steps=steps,
    data=st.data(),
)
def test_any_sequence(side, path, backend, flags, bits, steps, data):
    deflate = extension(*flags, *bits, backend=backend, min_size=0)
    protocol, peer = connection(side, deflate, path=path)
    now = 0.0
    for action, message, compress, cuts in steps:
        text = isinstance(message, str)
        payload = message.encode() if text else message
        opcode = TEXT if text else BINARY
        if action == "send":
            protocol.send(message, compress=compress)
        elif action == "prepared":
            protocol.send_prepared(PreparedMessage(message), compress=compress)
        elif action == "fragments":
            first, *rest = chopped(payload, cuts) if not text else chopped(message, cuts)
            (protocol.send_text if text else protocol.send_binary)(
                first, fin=False, compress=compress
            )
            for piece in rest:
                protocol.send_continuation(piece, fin=False)
            protocol.send_continuation(b"", fin=True)
        elif action == "idle":
            now += 1000
            protocol.handle_timeout(now)
            continue
        else:
            plain = action == "receive plain"
            body = payload if plain else peer.deflate(payload)
            pieces = list(chopped(body, cuts))
            wire = b"".join(
                frame(
                    side,
                    CONT if i else opcode,
                    piece,
                    fin=i == len(pieces) - 1,
                    rsv=0 if i or plain else RSV1,
                )
                for i, piece in enumerate(pieces)
            )
            places = data.draw(st.lists(st.integers(0, len(wire)), max_size=5))
            path.feed(protocol, chopped(wire, places), now)
            assert protocol.parser_exc is None
            assert messages(protocol) == [message]
            continue
        ((received, compressed),) = peer.read(output(protocol))
        assert received == message
        if compress is False:
            assert not compressed
        if compress and action == "send":
            assert compressed


@given(
    side=st.sampled_from(SIDES),
    backend=st.sampled_from(BACKENDS),
    garbage=st.lists(st.binary(max_size=60), min_size=1, max_size=5),
    no_takeover=st.booleans(),
)
def test_garbage_never_raises(side, backend, garbage, no_takeover):
    deflate = extension(no_takeover, backend=backend)
    protocol, _ = connection(side, deflate, max_size=10**4)
    for payload in garbage:
        if protocol.state is State.OPEN:
            protocol.receive_data(frame(side, BINARY, payload, rsv=RSV1))
    assert closed_with(protocol) in (
        None,
        CloseCode.INVALID_DATA,
        CloseCode.MESSAGE_TOO_BIG,
    )
