"""FrameProtocol and FrameDecoder: frames without the state of a connection."""

from typing import Any

import pytest

from wsproto_fast import Side
from wsproto_fast.wsproto.connection import DEFAULT_MAX_SIZE
from wsproto_fast.wsproto.extensions import Extension, PerMessageDeflate
from wsproto_fast.wsproto.frame_protocol import (
    LOCAL_ONLY_CLOSE_REASONS,
    MAX_PAYLOAD_NORMAL,
    CloseReason,
    Frame,
    FrameDecoder,
    FrameProtocol,
    Opcode,
    ParseFailed,
    RsvBits,
)

from .helpers import BINARY, CLOSE, CONT, PING, PONG, TEXT, frame, header, parse

SERVER = Side.SERVER


def test_received_frames() -> None:
    protocol = FrameProtocol(False, [])
    protocol.receive_bytes(
        frame(SERVER, TEXT, b"ab", fin=False)
        + frame(SERVER, PING, b"1")
        + frame(SERVER, PONG, b"2")
        + frame(SERVER, CONT, b"c")
        + frame(SERVER, BINARY, b"\xff\xfe")[:-1]
    )
    assert list(protocol.received_frames()) == [
        Frame(Opcode.TEXT, "ab", True, False),
        Frame(Opcode.PING, b"1", True, True),
        Frame(Opcode.PONG, b"2", True, True),
        Frame(Opcode.TEXT, "c", True, True),
        Frame(Opcode.BINARY, b"\xff", False, False),
    ]
    last = frame(SERVER, BINARY, b"\xff\xfe")[-1:]
    protocol.receive_bytes(last + frame(SERVER, CLOSE, b"\x03\xe9bye") + b"ignored")
    assert list(protocol.received_frames()) == [
        Frame(Opcode.BINARY, b"\xfe", True, True),
        Frame(Opcode.CLOSE, (CloseReason.GOING_AWAY, "bye"), True, True),
    ]


def test_parse_failed() -> None:
    protocol = FrameProtocol(False, [])
    protocol.receive_bytes(frame(SERVER, TEXT, b"ok") + frame(SERVER, TEXT, b"\xff"))
    frames = protocol.received_frames()
    assert next(frames).payload == "ok"
    with pytest.raises(ParseFailed, match="invalid start byte") as caught:
        next(frames)
    assert caught.value.code is CloseReason.INVALID_FRAME_PAYLOAD_DATA
    assert list(protocol.received_frames()) == []


def test_parse_failed_by_default() -> None:
    assert ParseFailed("x").code is CloseReason.PROTOCOL_ERROR


@pytest.mark.parametrize("client", [True, False])
def test_sent_frames(client: bool) -> None:
    protocol = FrameProtocol(client, [])
    data = protocol.send_data("h€", fin=False)
    assert isinstance(data, bytearray)
    data += protocol.ping(b"p")
    data += protocol.send_data("llo")
    data += protocol.send_data(b"")
    data += protocol.pong()
    data += protocol.close(1000, "bye")
    data += protocol.close()
    assert [(wire.opcode, wire.payload, wire.fin) for wire in parse(bytes(data))] == [
        (TEXT, "h€".encode(), False),
        (PING, b"p", True),
        (CONT, b"llo", True),
        (BINARY, b"", True),
        (PONG, b"", True),
        (CLOSE, b"\x03\xe8bye", True),
        (CLOSE, b"", True),
    ]
    for bad in (lambda: protocol.send_data(5), lambda: protocol.close(None, "why")):  # type: ignore[arg-type] # wrong on purpose
        with pytest.raises(TypeError):
            bad()
    with pytest.raises(ValueError):
        protocol.ping(b"x" * 126)


def test_extensions() -> None:
    on, off = PerMessageDeflate(), PerMessageDeflate()
    on.accept("permessage-deflate")
    protocol = FrameProtocol(False, [on, off])
    assert protocol.extensions == [on]
    assert protocol.client is False
    other = FrameProtocol(True, [on])
    other.receive_bytes(protocol.send_data("x" * 1000))
    assert list(other.received_frames()) == [Frame(Opcode.TEXT, "x" * 1000, True, True)]


def test_max_size() -> None:
    protocol = FrameProtocol(False, [], max_size=1)
    protocol.receive_bytes(header(TEXT, 2, key=b"abcd"))
    with pytest.raises(ParseFailed) as caught:
        list(protocol.received_frames())
    assert caught.value.code is CloseReason.MESSAGE_TOO_BIG


def test_decoder() -> None:
    decoder = FrameDecoder(client=False)
    assert decoder.process_buffer() is None
    assert decoder.remaining_size == FrameProtocol(False, []).remaining_size == DEFAULT_MAX_SIZE
    wire = frame(SERVER, TEXT, b"\xe2\x82\xac", fin=False) + frame(SERVER, CONT, b"\xff")
    decoder.receive_bytes(wire[:7])
    assert decoder.process_buffer() == Frame(Opcode.TEXT, b"\xe2", False, False)
    assert decoder.process_buffer() is None
    decoder.receive_bytes(wire[7:] + frame(SERVER, CLOSE, b"\x03"))
    assert decoder.process_buffer() == Frame(Opcode.CONTINUATION, b"\x82\xac", True, False)
    assert decoder.process_buffer() == Frame(Opcode.CONTINUATION, b"\xff", True, True)
    assert decoder.process_buffer() == Frame(Opcode.CLOSE, b"\x03", True, True)
    assert decoder.process_buffer() is None


def test_header() -> None:
    decoder = FrameDecoder(client=False)
    wire = frame(SERVER, BINARY, b"x" * 300)
    for i in range(8):
        assert not decoder.parse_header()
        assert decoder.parse_extended_payload_length(Opcode.BINARY, 126) is None
        assert i % 2 or decoder.process_buffer() is None
        decoder.receive_bytes(wire[i : i + 1])
    assert decoder.parse_header()
    assert decoder.parse_extended_payload_length(Opcode.BINARY, 126) == 300
    assert decoder.parse_extended_payload_length(Opcode.BINARY, 5) == 5
    decoder.receive_bytes(wire[8:100])
    assert decoder.process_buffer() == Frame(Opcode.BINARY, b"x" * 92, False, True)
    assert decoder.parse_header()


def test_bad_frames() -> None:
    decoder = FrameDecoder(client=True)
    decoder.receive_bytes(header(TEXT, 0, key=b"abcd"))
    for _ in range(2):
        with pytest.raises(ParseFailed):
            decoder.parse_header()
    with pytest.raises(ParseFailed) as caught:
        decoder.process_buffer()
    assert caught.value.code is CloseReason.PROTOCOL_ERROR
    assert decoder.process_buffer() is None
    with pytest.raises(ParseFailed):
        decoder.parse_extended_payload_length(Opcode.PING, 126)


def test_extension_processing() -> None:
    class Claiming(Extension):
        name = "claiming"

        def offer(self) -> bool:
            return True

        def frame_inbound_header(
            self, proto: Any, opcode: Opcode, rsv: RsvBits, payload_length: int
        ) -> RsvBits | CloseReason:
            assert proto.client
            return CloseReason.MANDATORY_EXT if payload_length else RsvBits(False, True, False)

    decoder = FrameDecoder(True, [Claiming()])
    decoder.extension_processing(Opcode.TEXT, RsvBits(False, True, False), 0)
    with pytest.raises(ParseFailed) as caught:
        decoder.extension_processing(Opcode.TEXT, RsvBits(True, False, False), 0)
    assert caught.value.code is CloseReason.PROTOCOL_ERROR
    with pytest.raises(ParseFailed) as caught:
        decoder.extension_processing(Opcode.TEXT, RsvBits(False, False, False), 1)
    assert caught.value.code is CloseReason.MANDATORY_EXT


def test_names() -> None:
    assert [opcode.iscontrol() for opcode in Opcode] == [False] * 3 + [True] * 3
    assert LOCAL_ONLY_CLOSE_REASONS == (1005, 1006, 1015)
    assert MAX_PAYLOAD_NORMAL == 125
    assert CloseReason(1014) is CloseReason.BAD_GATEWAY
