"""permessage-deflate at work (RFC 7692 sections 6 and 7.2), against an independent peer on zlib."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsproto_fast import CloseCode, PreparedMessage, ProtocolError, Side, State

from .deflate_helpers import (
    BACKENDS,
    FLAGS,
    HELLO,
    JSON,
    MESSAGES,
    RSV1,
    both_sides,
    closed_with,
    connection,
    each_backend,
    each_path,
    extension,
    noise,
)
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
)

# Examples of section 7.2.3


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
