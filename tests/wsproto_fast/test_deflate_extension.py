"""PerMessageDeflate through the interface of extensions, and beside others."""

import logging

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate as TheirDeflate

from wsproto_fast import (
    CloseCode,
    Frame,
    Opcode,
    PayloadTooBig,
    PerMessageDeflate,
    PreparedMessage,
    ProtocolError,
    Side,
)

from .deflate_helpers import (
    FLAGS,
    HELLO,
    JSON,
    RSV1,
    RSV2,
    both_sides,
    closed_with,
    connection,
    each_backend,
    extension,
)
from .helpers import BINARY, TEXT, frame, messages, output, parse

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
        {"local_max_window_bits": 7},
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
    caplog.set_level(logging.DEBUG, "wsproto_fast.server")
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
