"""Extensions below the events: permessage-deflate, and those that programs write."""

import os
import zlib
from typing import Any

import pytest

from wsproto_fast import Side
from wsproto_fast.wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto_fast.wsproto.events import (
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Pong,
    TextMessage,
)
from wsproto_fast.wsproto.extensions import (
    SUPPORTED_EXTENSIONS,
    Extension,
    PerMessageDeflate,
)
from wsproto_fast.wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode, RsvBits
from wsproto_fast.wsproto.utilities import LocalProtocolError

from .helpers import BINARY, CONT, PING, TEXT, frame, header, parse

CLIENT, SERVER = ConnectionType.CLIENT, ConnectionType.SERVER


class Subclass(PerMessageDeflate):
    """The same, but frame by frame: a subclass may change what the methods do."""


IMPLEMENTATIONS = [PerMessageDeflate, Subclass]
each_implementation = pytest.mark.parametrize("deflate", IMPLEMENTATIONS)


def enabled(cls: type[PerMessageDeflate] = PerMessageDeflate, **options: Any) -> PerMessageDeflate:
    extension = cls(**options)
    assert extension.accept("permessage-deflate") is not None
    return extension


def compressed(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def receive(connection: Connection, *pieces: bytes) -> list[Event]:
    events: list[Event] = []
    for piece in pieces:
        connection.receive_data(piece)
        events += connection.events()
    return events


# --- negotiation of permessage-deflate


def test_supported_extensions() -> None:
    assert {"permessage-deflate": PerMessageDeflate} == SUPPORTED_EXTENSIONS


@pytest.mark.parametrize("bits", [8, 16, 0, -1])
@pytest.mark.parametrize("name", ["client_max_window_bits", "server_max_window_bits"])
def test_windows(name: str, bits: int) -> None:
    with pytest.raises(ValueError, match="between 9 and 15"):
        PerMessageDeflate(**{name: bits})  # type: ignore[arg-type] # names aren't literal
    extension = PerMessageDeflate(**{name: 9})  # type: ignore[arg-type] # names aren't literal
    with pytest.raises(ValueError, match="between 9 and 15"):
        setattr(extension, name, bits)
    assert getattr(extension, name) == 9
    setattr(extension, name, 12)
    assert getattr(extension, name) == 12


@pytest.mark.parametrize(
    ("options", "offer", "shown"),
    [
        (
            {},
            "client_max_window_bits=15; server_max_window_bits=15",
            "client_max_window_bits=15; server_max_window_bits=15",
        ),
        (
            {
                "client_no_context_takeover": True,
                "server_no_context_takeover": True,
                "client_max_window_bits": 9,
                "server_max_window_bits": 10,
            },
            "client_max_window_bits=9; server_max_window_bits=10; "
            "client_no_context_takeover; server_no_context_takeover",
            "client_max_window_bits=9; client_no_context_takeover; "
            "server_max_window_bits=10; server_no_context_takeover",
        ),
    ],
)
def test_offer(options: dict[str, Any], offer: str, shown: str) -> None:
    extension = PerMessageDeflate(**options)
    assert extension.offer() == offer
    assert repr(extension) == f"<PerMessageDeflate {shown}>"
    assert not extension.enabled()


ACCEPTS: list[tuple[dict[str, Any], str, str | None]] = [
    ({}, "", ""),
    ({}, "; client_max_window_bits", "client_max_window_bits=15"),
    ({"client_max_window_bits": 10}, "; client_max_window_bits", "client_max_window_bits=10"),
    ({}, "; client_max_window_bits=10", "client_max_window_bits=10"),
    ({}, '; server_max_window_bits="10"', "server_max_window_bits=10"),
    (
        {},
        "; server_max_window_bits=10; client_max_window_bits=11; server_no_context_takeover",
        "server_no_context_takeover; client_max_window_bits=11; server_max_window_bits=10",
    ),
    ({"client_no_context_takeover": True}, "", "client_no_context_takeover"),
    ({}, "; client_no_context_takeover", "client_no_context_takeover"),
    # RFC 7692 section 7.1: an offer with a parameter that isn't defined is declined.
    ({}, "; something_new=1", None),
    ({}, "; server_max_window_bits", None),
    ({}, "; server_max_window_bits=8", None),
    ({}, "; server_max_window_bits=16", None),
    ({}, "; client_max_window_bits=x", None),
    ({}, "; client_max_window_bits=9; client_max_window_bits=9", None),
    ({}, "; =", ""),
    ({}, "i am no header; really", ""),
]


@pytest.mark.parametrize(("options", "offer", "answer"), ACCEPTS)
def test_accept(options: dict[str, Any], offer: str, answer: str | None) -> None:
    extension = PerMessageDeflate(**options)
    before = repr(extension)
    assert extension.accept(f"permessage-deflate{offer}") == answer
    assert extension.enabled() is (answer is not None)
    if answer is None:
        assert repr(extension) == before


def test_finalize() -> None:
    extension = PerMessageDeflate()
    extension.finalize(
        "permessage-deflate; server_no_context_takeover; client_max_window_bits=9; "
        "server_max_window_bits=10; client_no_context_takeover"
    )
    assert extension.enabled()
    assert repr(extension) == (
        "<PerMessageDeflate client_max_window_bits=9; client_no_context_takeover; "
        "server_max_window_bits=10; server_no_context_takeover>"
    )


@pytest.mark.parametrize("answer", ["=8", "=16", "=x", "", "=9; server_max_window_bits=9"])
def test_bad_finalize(answer: str) -> None:
    extension = PerMessageDeflate()
    before = repr(extension)
    with pytest.raises(ValueError):
        extension.finalize(f"permessage-deflate; server_max_window_bits{answer}")
    assert repr(extension) == before
    assert not extension.enabled()


# --- compressed messages

TEXTS = ["", "x", "hello " * 100, "h€llo, 🌍 " * 100, "x" * 100000]


@each_implementation
@pytest.mark.parametrize("takeover", [True, False])
def test_conversation(deflate: type[PerMessageDeflate], takeover: bool) -> None:
    options = {
        "client_no_context_takeover": not takeover,
        "server_no_context_takeover": not takeover,
        "client_max_window_bits": 10,
        "server_max_window_bits": 11,
    }
    ends = {
        kind: Connection(kind, [enabled(deflate, **options)])  # type: ignore[arg-type] # names aren't literal
        for kind in (CLIENT, SERVER)
    }
    for sender, receiver in (CLIENT, SERVER), (SERVER, CLIENT):
        for text in TEXTS * 2:
            for event in TextMessage(text), BytesMessage(text.encode()):
                data = ends[sender].send(event)
                if len(text) > 100:
                    assert len(data) < len(text) / 2
                    assert parse(data)[0].rsv == 4
                assert receive(ends[receiver], data) == [event]
        data = ends[sender].send(TextMessage("ab" * 50, message_finished=False))
        data += ends[sender].send(Ping(b"x" * 125))
        data += ends[sender].send(TextMessage("", message_finished=False))
        data += ends[sender].send(TextMessage("cd" * 50))
        first, ping, middle, last = receive(ends[receiver], data)
        assert ping == Ping(b"x" * 125)
        texts = [e.data for e in (first, middle, last) if isinstance(e, Message)]
        assert "".join(texts) == "ab" * 50 + "cd" * 50


@each_implementation
def test_byte_by_byte(deflate: type[PerMessageDeflate]) -> None:
    text = "h€llo, 🌍 " * 20
    data = compressed(text.encode())
    wire = frame(Side.SERVER, TEXT, data[:20], rsv=4, fin=False)
    wire += frame(Side.SERVER, CONT, data[20:])
    connection = Connection(SERVER, [enabled(deflate)])
    events = receive(connection, *[wire[i : i + 1] for i in range(len(wire))])
    assert all(isinstance(event, TextMessage) for event in events)
    assert "".join(event.data for event in events if isinstance(event, TextMessage)) == text
    finished = [event.message_finished for event in events if isinstance(event, TextMessage)]
    assert finished == [False] * (len(events) - 1) + [True]


@each_implementation
def test_pieces_are_inflated_as_they_arrive(deflate: type[PerMessageDeflate]) -> None:
    noise = os.urandom(200)
    wire = frame(Side.SERVER, BINARY, compressed(noise), rsv=4)
    connection = Connection(SERVER, [enabled(deflate)])
    (piece,) = receive(connection, wire[:150])
    assert isinstance(piece, BytesMessage)
    assert not piece.frame_finished
    assert noise.startswith(bytes(piece.data))
    assert piece.data
    (rest,) = receive(connection, wire[150:])
    assert isinstance(rest, BytesMessage)
    assert rest.message_finished
    assert bytes(piece.data) + bytes(rest.data) == noise


@each_implementation
def test_messages_that_are_not_compressed(deflate: type[PerMessageDeflate]) -> None:
    connection = Connection(SERVER, [enabled(deflate)])
    wire = frame(Side.SERVER, TEXT, b"a", fin=False) + frame(Side.SERVER, CONT, b"b")
    assert receive(connection, wire) == [
        TextMessage("a", message_finished=False),
        TextMessage("b"),
    ]
    assert receive(connection, frame(Side.SERVER, TEXT, compressed(b"c"), rsv=4)) == [
        TextMessage("c")
    ]


BAD_DEFLATE = {
    "garbage": (frame(Side.SERVER, TEXT, b"\xff\xff\xff", rsv=4), 1007),
    "bad text": (frame(Side.SERVER, TEXT, compressed(b"ab\xff"), rsv=4), 1007),
    "RSV1 on a continuation": (
        frame(Side.SERVER, TEXT, compressed(b"ab"), rsv=4, fin=False)
        + frame(Side.SERVER, CONT, b"", rsv=4),
        1002,
    ),
    "RSV1 on a ping": (frame(Side.SERVER, PING, b"", rsv=4), 1002),
    "RSV2": (frame(Side.SERVER, TEXT, compressed(b"ab"), rsv=2), 1002),
}


@each_implementation
@pytest.mark.parametrize("case", BAD_DEFLATE)
def test_bad_deflate(case: str, deflate: type[PerMessageDeflate]) -> None:
    wire, code = BAD_DEFLATE[case]
    connection = Connection(SERVER, [enabled(deflate)])
    *before, event = receive(connection, wire)
    assert all(isinstance(event, TextMessage) for event in before)
    assert isinstance(event, CloseConnection)
    assert event.code == code
    assert connection.failed
    assert connection.state is ConnectionState.OPEN


@each_implementation
def test_bomb(deflate: type[PerMessageDeflate]) -> None:
    wire = frame(Side.SERVER, BINARY, compressed(bytes(10_000_000)), rsv=4)
    connection = Connection(SERVER, [enabled(deflate)], max_size=1_000_000)
    (event,) = receive(connection, wire)
    assert isinstance(event, CloseConnection)
    assert event.code is CloseReason.MESSAGE_TOO_BIG


@each_implementation
def test_bomb_in_pieces(deflate: type[PerMessageDeflate]) -> None:
    data = compressed(bytes(10_000_000))
    wire = frame(Side.SERVER, BINARY, data, rsv=4)
    connection = Connection(SERVER, [enabled(deflate)], max_size=1_000_000)
    size = 0
    for start in range(0, len(wire), 100):
        for event in receive(connection, wire[start : start + 100]):
            if isinstance(event, CloseConnection):
                assert event.code is CloseReason.MESSAGE_TOO_BIG
                assert size <= 1_000_000
                return
            assert isinstance(event, BytesMessage)
            size += len(event.data)
    pytest.fail("not noticed")


def test_disabled_extensions_take_no_part() -> None:
    connection = Connection(SERVER, [PerMessageDeflate()])
    assert parse(connection.send(TextMessage("x" * 1000)))[0].rsv == 0
    (event,) = receive(connection, frame(Side.SERVER, TEXT, compressed(b"x"), rsv=4))
    assert isinstance(event, CloseConnection)
    assert event.code == 1002


# --- extensions that programs write


class Always(Extension):
    """Base of extensions that are enabled from the beginning."""

    def enabled(self) -> bool:
        return True

    def offer(self) -> bool:
        return True


class Swap(Always):
    """Swap cases of data frames, claim RSV2, append what is between the lines."""

    name = "swap"

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def frame_inbound_header(
        self, proto: Any, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> RsvBits | CloseReason:
        self.calls.append(("header", proto.client, opcode, rsv, payload_length))
        return RsvBits(False, True, False)

    def frame_inbound_payload_data(self, proto: Any, data: bytes) -> bytes | CloseReason:
        self.calls.append(("data", data))
        return data.swapcase()

    def frame_inbound_complete(self, proto: Any, fin: bool) -> bytes | None:
        self.calls.append(("complete", fin))
        return b"." if fin else None

    def frame_outbound(
        self, proto: Any, opcode: Opcode, rsv: RsvBits, data: bytes, fin: bool
    ) -> tuple[RsvBits, bytes]:
        self.calls.append(("out", opcode, rsv, data, fin))
        return RsvBits(rsv.rsv1, True, rsv.rsv3), data.swapcase()


def test_methods_for_received_frames() -> None:
    extension = Swap()
    connection = Connection(SERVER, [extension])
    wire = frame(Side.SERVER, TEXT, b"abcd", rsv=2, fin=False)
    assert receive(connection, wire[:8], wire[8:]) == [
        TextMessage("AB", False, False),
        TextMessage("CD", True, False),
    ]
    rsv = RsvBits(False, True, False)
    assert extension.calls == [
        ("header", False, Opcode.TEXT, rsv, 4),
        ("data", b"ab"),
        ("data", b"cd"),
        ("complete", False),
    ]
    extension.calls.clear()
    wire = frame(Side.SERVER, PING, b"x") + frame(Side.SERVER, CONT, b"e")
    assert receive(connection, wire) == [Ping(b"X."), TextMessage("E.")]
    assert [call[0] for call in extension.calls] == ["header", "data", "complete"] * 2


def test_methods_for_sent_frames() -> None:
    extension = Swap()
    connection = Connection(SERVER, [extension])
    data = connection.send(TextMessage("a", message_finished=False))
    data += connection.send(Pong(b"b"))
    data += connection.send(TextMessage("c"))
    data += connection.send(CloseConnection(1000, "bye"))
    assert [(wire.opcode, wire.payload, wire.rsv) for wire in parse(data)] == [
        (1, b"A", 2),
        (10, b"B", 2),
        (0, b"C", 2),
        (8, b"\x03\xe8BYE", 2),
    ]
    assert extension.calls[0] == ("out", Opcode.TEXT, RsvBits(False, False, False), b"a", False)
    assert extension.calls[2] == (
        "out",
        Opcode.CONTINUATION,
        RsvBits(False, False, False),
        b"c",
        True,
    )


class Suffix(Always):
    """Append its name to what is received and sent."""

    def __init__(self, name: str) -> None:
        self.name = name

    def frame_inbound_payload_data(self, proto: Any, data: bytes) -> bytes:
        return data + self.name.encode()

    def frame_outbound(
        self, proto: Any, opcode: Opcode, rsv: RsvBits, data: bytes, fin: bool
    ) -> tuple[RsvBits, bytes]:
        return rsv, data + self.name.encode()


def test_order() -> None:
    connection = Connection(SERVER, [Suffix("1"), Suffix("2")])
    assert receive(connection, frame(Side.SERVER, TEXT, b"0")) == [TextMessage("012")]
    assert parse(connection.send(TextMessage("0")))[0].payload == b"021"


class Quiet(Swap):
    """Swap without appending."""

    def frame_inbound_complete(self, proto: Any, fin: bool) -> bytes | None:
        return None


def test_several_extensions() -> None:
    # What is sent passes through them from the last to the first, what is received the other way.
    client, server = (Connection(kind, [Quiet(), enabled()]) for kind in (CLIENT, SERVER))
    for text in TEXTS:
        data = client.send(TextMessage(text))
        assert parse(data)[0].rsv == 6
        assert receive(server, data) == [TextMessage(text)]


class Refusing(Always):
    """Refuse frames at a given point."""

    name = "refusing"

    def __init__(self, point: str, code: CloseReason) -> None:
        self.point, self.code = point, code

    def frame_inbound_header(
        self, proto: Any, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> RsvBits | CloseReason:
        return self.code if self.point == "header" else RsvBits(False, False, False)

    def frame_inbound_payload_data(self, proto: Any, data: bytes) -> bytes | CloseReason:
        return self.code if self.point == "data" else data

    def frame_inbound_complete(self, proto: Any, fin: bool) -> CloseReason | None:
        return self.code if self.point == "complete" else None


@pytest.mark.parametrize("opcode", [TEXT, PING])
@pytest.mark.parametrize("point", ["header", "data", "complete"])
def test_extension_refuses(point: str, opcode: int) -> None:
    connection = Connection(SERVER, [Refusing(point, CloseReason.POLICY_VIOLATION)])
    assert receive(connection, frame(Side.SERVER, opcode, b"x")) == [
        CloseConnection(CloseReason.POLICY_VIOLATION, "error in extension")
    ]
    assert connection.failed


def test_reserved_bits_that_nobody_claims() -> None:
    connection = Connection(SERVER, [Suffix("")])
    (event,) = receive(connection, frame(Side.SERVER, TEXT, b"x", rsv=1))
    assert isinstance(event, CloseConnection)
    assert event.code == 1002


def test_extension_that_makes_messages_too_big() -> None:
    connection = Connection(SERVER, [Suffix("x" * 10)], max_size=15)
    wire = frame(Side.SERVER, BINARY, b"y", fin=False) + frame(Side.SERVER, CONT, b"z")
    message, event = receive(connection, wire)
    assert message == BytesMessage(b"y" + b"x" * 10, message_finished=False)
    assert isinstance(event, CloseConnection)
    assert event.code == 1009
    (event,) = receive(
        Connection(SERVER, [Suffix("")], max_size=15), header(BINARY, 16, key=b"abcd")
    )
    assert isinstance(event, CloseConnection)
    assert event.code == 1009


class Faulty(Always):
    """Raise what nobody expects."""

    name = "faulty"
    armed = True

    def frame_inbound_payload_data(self, proto: Any, data: bytes) -> bytes:
        raise ZeroDivisionError

    def frame_outbound(
        self, proto: Any, opcode: Opcode, rsv: RsvBits, data: bytes, fin: bool
    ) -> tuple[RsvBits, bytes]:
        if self.armed:
            raise ZeroDivisionError
        return rsv, data


def test_faulty_extension() -> None:
    extension = Faulty()
    connection = Connection(SERVER, [extension])
    with pytest.raises(ZeroDivisionError):
        connection.send(TextMessage("a", message_finished=False))
    extension.armed = False
    assert connection.send(BytesMessage(b"b")) == b"\x82\x01b"
    with pytest.raises(ZeroDivisionError):
        receive(connection, frame(Side.SERVER, TEXT, b"x") * 2)
    # Where the next frame begins isn't known any more.
    assert receive(connection, frame(Side.SERVER, TEXT, b"x")) == []


def test_extension_that_makes_control_frames_too_long() -> None:
    connection = Connection(SERVER, [Suffix("x" * 100)])
    with pytest.raises(ValueError, match="payload too long for control frame"):
        connection.send(Ping(b"y" * 100))


def test_extension_that_receives_data() -> None:
    class Reentrant(Always):
        name = "reentrant"

        def frame_inbound_payload_data(self, proto: Any, data: bytes) -> bytes:
            connection.receive_data(b"more")
            return data

    connection = Connection(SERVER, [Reentrant()])
    with pytest.raises(LocalProtocolError, match="while it processes some"):
        receive(connection, frame(Side.SERVER, TEXT, b"x"))


def test_extension_that_takes_events() -> None:
    class Reentrant(Always):
        name = "reentrant"

        def frame_inbound_payload_data(self, proto: Any, data: bytes) -> bytes:
            if data == b"x":
                with pytest.raises(LocalProtocolError, match="can't take events while"):
                    next(connection.events())
            return data

    connection = Connection(SERVER, [Reentrant()])
    data = b"".join(frame(Side.SERVER, BINARY, payload) for payload in (b"x", b"y", b"z"))
    # None of them overtakes another one, or is lost.
    assert receive(connection, data) == [BytesMessage(b"x"), BytesMessage(b"y"), BytesMessage(b"z")]


def test_base_class() -> None:
    class Plain(Extension):
        name = "plain"

        def offer(self) -> bool:
            return False

    with pytest.raises(TypeError):
        Extension()  # type: ignore[abstract] # wrong on purpose
    extension: Any = Plain()
    assert not extension.enabled()
    assert extension.accept("plain") is None
    assert extension.finalize("plain") is None
    none = RsvBits(False, False, False)
    assert extension.frame_inbound_header(None, Opcode.TEXT, none, 0) == none
    assert extension.frame_inbound_payload_data(None, b"x") == b"x"
    assert extension.frame_inbound_complete(None, True) is None
    assert extension.frame_outbound(None, Opcode.TEXT, none, b"x", True) == (none, b"x")


@pytest.mark.parametrize("client", [True, False])
@pytest.mark.parametrize("cut", [0, 3, 6])
def test_driven_by_hand(client: bool, cut: int) -> None:
    extension = PerMessageDeflate()
    extension.finalize("permessage-deflate")
    proto = FrameProtocol(client=client, extensions=[extension])
    claimed = RsvBits(True, False, False)
    compressor = zlib.compressobj(wbits=-15)
    for text in (b"x" * 23, b"y" * 4000):
        compressed = compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)[:-4]
        assert extension.frame_inbound_header(proto, Opcode.BINARY, claimed, cut) == claimed
        first = extension.frame_inbound_payload_data(proto, compressed[:cut])
        assert extension.frame_inbound_complete(proto, False) is None
        unset = RsvBits(False, False, False)
        size = len(compressed) - cut
        assert extension.frame_inbound_header(proto, Opcode.CONTINUATION, unset, size) == claimed
        second = extension.frame_inbound_payload_data(proto, compressed[cut:])
        last = extension.frame_inbound_complete(proto, True)
        assert isinstance(first, bytes)
        assert isinstance(second, bytes)
        assert isinstance(last, bytes)
        assert first + second + last == text


def test_driven_by_hand_beyond_the_limit() -> None:
    extension = PerMessageDeflate()
    extension.finalize("permessage-deflate")
    proto = FrameProtocol(client=True, extensions=[extension], max_size=1000)
    extension.frame_inbound_header(proto, Opcode.BINARY, RsvBits(True, False, False), 10)
    bomb = zlib.compress(bytes(100_000), wbits=-15)
    assert extension.frame_inbound_payload_data(proto, bomb) is CloseReason.MESSAGE_TOO_BIG


def test_no_limit() -> None:
    extension = PerMessageDeflate()
    extension.finalize("permessage-deflate")
    proto = FrameProtocol(client=True, extensions=[extension], max_size=None)
    assert proto.remaining_size is None
    extension.frame_inbound_header(proto, Opcode.BINARY, RsvBits(True, False, False), 10)
    compressor = zlib.compressobj(wbits=-15)
    data = compressor.compress(bytes(100_000)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert extension.frame_inbound_payload_data(proto, data) == bytes(100_000)
