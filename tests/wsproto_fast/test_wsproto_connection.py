"""Connection: frames to events, events to frames; its states."""

import struct
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsproto_fast import Side
from wsproto_fast.wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto_fast.wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto_fast.wsproto.frame_protocol import CloseReason
from wsproto_fast.wsproto.utilities import LocalProtocolError

from .helpers import BINARY, CLOSE, CONT, PING, PONG, TEXT, chopped, frame, header, parse

CONNECTING, OPEN = ConnectionState.CONNECTING, ConnectionState.OPEN
REMOTE_CLOSING, LOCAL_CLOSING = ConnectionState.REMOTE_CLOSING, ConnectionState.LOCAL_CLOSING
CLOSED = ConnectionState.CLOSED
TYPES = {Side.CLIENT: ConnectionType.CLIENT, Side.SERVER: ConnectionType.SERVER}
each_side = pytest.mark.parametrize("side", [Side.SERVER, Side.CLIENT], ids=["server", "client"])


def close(code: int, reason: bytes = b"") -> bytes:
    return struct.pack("!H", code) + reason


def receive(connection: Connection, pieces: Iterable[bytes]) -> list[Event]:
    events: list[Event] = []
    for piece in pieces:
        connection.receive_data(piece)
        events += connection.events()
    return events


def joined(events: Iterable[Event]) -> list[Event]:
    """Join the pieces of each frame, as if it had arrived at once."""
    result: list[Event] = []
    data: Any = None
    for event in events:
        if isinstance(event, Message):
            data = event.data if data is None else data + event.data
            if not event.frame_finished:
                assert not event.message_finished
                continue
            event, data = type(event)(data, True, event.message_finished), None
        result.append(event)
    if data is not None:
        result.append(Message(data, False, False))
    return result


# --- what is received: frames -> events, and the state after them

Wires = list[tuple[int, bytes, bool]]

RECEIVED: dict[str, tuple[Wires, list[Event], ConnectionState]] = {
    "text": ([(TEXT, b"hello", True)], [TextMessage("hello")], OPEN),
    "empty text": ([(TEXT, b"", True)], [TextMessage("")], OPEN),
    "wide text": (
        [(TEXT, "h€llo, 🌍".encode(), True)],
        [TextMessage("h€llo, 🌍")],
        OPEN,
    ),
    "binary": ([(BINARY, b"\x00\xff", True)], [BytesMessage(b"\x00\xff")], OPEN),
    "empty binary": ([(BINARY, b"", True)], [BytesMessage(b"")], OPEN),
    "126 bytes": ([(BINARY, b"x" * 126, True)], [BytesMessage(b"x" * 126)], OPEN),
    "64 KiB": ([(BINARY, b"x" * 65536, True)], [BytesMessage(b"x" * 65536)], OPEN),
    "fragments": (
        [(TEXT, b"a", False), (CONT, b"b", False), (CONT, b"c", True)],
        [
            TextMessage("a", message_finished=False),
            TextMessage("b", message_finished=False),
            TextMessage("c"),
        ],
        OPEN,
    ),
    "binary fragments": (
        [(BINARY, b"a", False), (CONT, b"", True)],
        [BytesMessage(b"a", message_finished=False), BytesMessage(b"")],
        OPEN,
    ),
    "character across fragments": (
        [(TEXT, b"a\xe2\x82", False), (CONT, b"\xac", True)],
        [TextMessage("a", message_finished=False), TextMessage("€")],
        OPEN,
    ),
    "control frames between fragments": (
        [(TEXT, b"a", False), (PING, b"1", True), (PONG, b"2", True), (CONT, b"b", True)],
        [TextMessage("a", message_finished=False), Ping(b"1"), Pong(b"2"), TextMessage("b")],
        OPEN,
    ),
    "ping": ([(PING, b"x" * 125, True)], [Ping(b"x" * 125)], OPEN),
    "pong": ([(PONG, b"", True)], [Pong(b"")], OPEN),
    "close": (
        [(CLOSE, close(1000, b"bye"), True)],
        [CloseConnection(1000, "bye")],
        REMOTE_CLOSING,
    ),
    "close without code": ([(CLOSE, b"", True)], [CloseConnection(1005, "")], REMOTE_CLOSING),
    "close with 1014": ([(CLOSE, close(1014), True)], [CloseConnection(1014, "")], REMOTE_CLOSING),
    "close with 4999": ([(CLOSE, close(4999), True)], [CloseConnection(4999, "")], REMOTE_CLOSING),
    "after close": (
        [(CLOSE, close(1001), True), (PING, b"", True), (TEXT, b"\xff", True)],
        [CloseConnection(1001, "")],
        REMOTE_CLOSING,
    ),
}
each_received = pytest.mark.parametrize("case", RECEIVED)


@each_side
@each_received
def test_received(side: Side, case: str) -> None:
    wires, expected, state = RECEIVED[case]
    wire = b"".join(frame(side, opcode, data, fin=fin) for opcode, data, fin in wires)
    connection = Connection(TYPES[side])
    assert receive(connection, [wire]) == expected
    assert connection.state is state
    assert not connection.failed


@each_side
@each_received
def test_received_byte_by_byte(side: Side, case: str) -> None:
    wires, _expected, state = RECEIVED[case]
    wire = b"".join(frame(side, opcode, data[:300], fin=fin) for opcode, data, fin in wires)
    whole = receive(Connection(TYPES[side]), [wire])
    connection = Connection(TYPES[side])
    assert joined(receive(connection, (wire[i : i + 1] for i in range(len(wire))))) == whole
    assert connection.state is state


@each_received
@given(data=st.data())
def test_received_in_any_pieces(case: str, data: st.DataObject) -> None:
    wires, expected, state = RECEIVED[case]
    side = data.draw(st.sampled_from(list(TYPES)))
    wire = b"".join(frame(side, opcode, data, fin=fin) for opcode, data, fin in wires)
    cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=8))
    connection = Connection(TYPES[side])
    assert joined(receive(connection, chopped(wire, cuts))) == expected
    assert connection.state is state


@each_received
def test_received_all_before_events(case: str) -> None:
    wires, expected, state = RECEIVED[case]
    wire = b"".join(frame(Side.SERVER, opcode, data, fin=fin) for opcode, data, fin in wires)
    connection = Connection(ConnectionType.SERVER)
    step = max(len(wire) // 50, 1)
    for start in range(0, len(wire), step):
        connection.receive_data(wire[start : start + step])
    assert connection.state is OPEN
    assert list(connection.events()) == expected
    assert connection.state is state


@each_side
def test_pieces_of_a_frame(side: Side) -> None:
    wire = frame(side, TEXT, b"hel\xe2\x82\xaco")
    start = len(wire) - 7
    connection = Connection(TYPES[side])
    pieces = [wire[:start], wire[start : start + 4], wire[start + 4 : -1], wire[-1:], b""]
    assert [receive(connection, [piece]) for piece in pieces] == [
        [],
        [TextMessage("hel", frame_finished=False, message_finished=False)],
        [TextMessage("€", frame_finished=False, message_finished=False)],
        [TextMessage("o")],
        [],
    ]


def test_pieces_that_wait_are_joined() -> None:
    wire = frame(Side.SERVER, BINARY, b"abcdef")
    connection = Connection(ConnectionType.SERVER)
    connection.receive_data(wire[:8])
    connection.receive_data(wire[8:])
    assert list(connection.events()) == [BytesMessage(b"abcdef")]


def test_piece_of_a_frame_in_a_fragmented_message() -> None:
    wire = frame(Side.SERVER, BINARY, b"ab", fin=False)
    connection = Connection(ConnectionType.SERVER)
    assert receive(connection, [wire[:-1], wire[-1:]]) == [
        BytesMessage(b"a", frame_finished=False, message_finished=False),
        BytesMessage(b"b", frame_finished=True, message_finished=False),
    ]


def test_state_changes_as_events_are_taken() -> None:
    connection = Connection(ConnectionType.SERVER)
    connection.receive_data(frame(Side.SERVER, TEXT, b"a") + frame(Side.SERVER, CLOSE, close(1000)))
    events = connection.events()
    assert next(events) == TextMessage("a")
    assert connection.state is OPEN
    connection.send(TextMessage("answer"))
    assert next(events) == CloseConnection(1000, "")
    assert connection.state is REMOTE_CLOSING
    assert next(events, None) is None


def test_data_received_while_events_are_taken() -> None:
    connection = Connection(ConnectionType.SERVER)
    connection.receive_data(frame(Side.SERVER, TEXT, b"1") + frame(Side.SERVER, TEXT, b"2"))
    taken = []
    for event in connection.events():
        taken.append(event)
        if len(taken) < 4:
            connection.receive_data(frame(Side.SERVER, TEXT, b"more")[:-1])
            connection.receive_data(frame(Side.SERVER, TEXT, b"more")[-1:])
    texts = [TextMessage("1"), TextMessage("2"), *[TextMessage("more")] * 3]
    assert taken == texts


@pytest.mark.parametrize("convert", [bytes, bytearray, memoryview])
def test_bytes_like(convert: type) -> None:
    wire = bytearray(frame(Side.SERVER, TEXT, b"abc"))
    connection = Connection(ConnectionType.SERVER)
    connection.receive_data(convert(wire[:7]))
    piece = bytearray(wire[7:])
    connection.receive_data(convert(piece))
    piece[:] = bytes(len(piece))  # the caller may use its buffer again
    assert list(connection.events()) == [TextMessage("abc")]


@pytest.mark.parametrize("data", ["abc", 5, [1]])
def test_not_bytes_like(data: object) -> None:
    connection = Connection(ConnectionType.SERVER)
    for waiting in (b"", frame(Side.SERVER, TEXT, b"abc")[:-1]):
        connection.receive_data(waiting)
        with pytest.raises(TypeError, match="data must be bytes-like"):
            connection.receive_data(data)  # type: ignore[arg-type] # wrong on purpose
    connection.receive_data(frame(Side.SERVER, TEXT, b"abc")[-1:])
    assert list(connection.events()) == [TextMessage("abc")]


def test_trailing_data() -> None:
    connection = Connection(ConnectionType.CLIENT, trailing_data=frame(Side.CLIENT, TEXT, b"early"))
    assert list(connection.events()) == [TextMessage("early")]


# --- faults of the peer: frames -> the close code

BAD_FRAMES: dict[str, tuple[bytes, int]] = {
    "opcode 3": (header(3, 0, key=b"abcd"), 1002),
    "opcode 11": (header(11, 0, key=b"abcd"), 1002),
    "RSV1": (header(TEXT, 0, rsv=4, key=b"abcd"), 1002),
    "RSV2": (header(TEXT, 0, rsv=2, key=b"abcd"), 1002),
    "RSV3": (header(PING, 0, rsv=1, key=b"abcd"), 1002),
    "fragmented ping": (header(PING, 0, fin=False, key=b"abcd"), 1002),
    "long ping": (header(PING, 126, key=b"abcd"), 1002),
    "not masked": (header(TEXT, 0), 1002),
    "length 125 in 16 bits": (header(TEXT, 125, form=16, key=b"abcd"), 1002),
    "length 65535 in 64 bits": (header(TEXT, 65535, form=64, key=b"abcd"), 1002),
    "length 2**63": (header(TEXT, 2**63, form=64, key=b"abcd"), 1002),
    "continuation of nothing": (frame(Side.SERVER, CONT, b""), 1002),
    "message inside a message": (
        frame(Side.SERVER, TEXT, b"", fin=False) + frame(Side.SERVER, BINARY, b""),
        1002,
    ),
    "close with 1 byte": (frame(Side.SERVER, CLOSE, b"\x03"), 1002),
    "close with 999": (frame(Side.SERVER, CLOSE, close(999)), 1002),
    "close with 1004": (frame(Side.SERVER, CLOSE, close(1004)), 1002),
    "close with 1005": (frame(Side.SERVER, CLOSE, close(1005)), 1002),
    "close with 1006": (frame(Side.SERVER, CLOSE, close(1006)), 1002),
    "close with 1015": (frame(Side.SERVER, CLOSE, close(1015)), 1002),
    "close with 2999": (frame(Side.SERVER, CLOSE, close(2999)), 1002),
    "close with 5000": (frame(Side.SERVER, CLOSE, close(5000)), 1002),
    "close reason": (frame(Side.SERVER, CLOSE, close(1000, b"\xff")), 1007),
    "text": (frame(Side.SERVER, TEXT, b"ab\xff"), 1007),
    "cut text": (frame(Side.SERVER, TEXT, b"ab\xe2\x82"), 1007),
    "surrogate": (frame(Side.SERVER, TEXT, b"\xed\xa0\x80"), 1007),
    "cut text in fragments": (
        frame(Side.SERVER, TEXT, b"\xe2", fin=False) + frame(Side.SERVER, CONT, b""),
        1007,
    ),
}


@pytest.mark.parametrize("split", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("case", BAD_FRAMES)
def test_bad_frames(case: str, split: bool) -> None:
    wire, code = BAD_FRAMES[case]
    after = frame(Side.SERVER, TEXT, b"after")
    connection = Connection(ConnectionType.SERVER)
    pieces = [wire[i : i + 1] for i in range(len(wire))] if split else [wire]
    *before, event = receive(connection, [*pieces, after])
    assert all(isinstance(event, TextMessage) and not event.message_finished for event in before)
    assert isinstance(event, CloseConnection)
    assert event.code == code
    assert isinstance(event.code, CloseReason)
    assert event.reason
    assert len(event.reason.encode()) <= 123
    # Nothing is sent, nor does the state change, on its own accord.
    assert connection.failed
    assert connection.state is OPEN
    connection.receive_data(after)
    assert list(connection.events()) == []
    (answer,) = parse(connection.send(event.response()))
    assert answer.payload[:2] == struct.pack("!H", code)
    assert connection.state is LOCAL_CLOSING


def test_client_refuses_masked_frames() -> None:
    connection = Connection(ConnectionType.CLIENT)
    (event,) = receive(connection, [frame(Side.SERVER, TEXT, b"")])
    assert isinstance(event, CloseConnection)
    assert event.code == 1002


@pytest.mark.parametrize("bad", [b"\xff", b"\xe2\x28", b"\xed\xa0", b"\xf4\x90", b"\xc0"])
def test_bad_text_is_found_at_its_first_byte(bad: bytes) -> None:
    connection = Connection(ConnectionType.SERVER)
    wire = frame(Side.SERVER, TEXT, b"ok" + bad + b"more", fin=False)
    end = len(wire) - 4
    events = receive(connection, [wire[: end - 1]])
    assert not connection.failed
    assert not [e for e in events if isinstance(e, CloseConnection)]
    (event,) = receive(connection, [wire[end - 1 : end]])
    assert isinstance(event, CloseConnection)
    assert event.code == 1007


# --- limits


@pytest.mark.parametrize("side", [Side.SERVER, Side.CLIENT])
def test_max_size(side: Side) -> None:
    fits = frame(side, BINARY, b"x" * 6, fin=False) + frame(side, CONT, b"x" * 4)
    connection = Connection(TYPES[side], max_size=10)
    assert connection.max_size == 10
    assert len(receive(connection, [fits, fits])) == 4
    # The header of a frame tells that it is too big.
    too_big = frame(side, BINARY, b"x" * 6, fin=False) + header(
        CONT, 5, key=None if side == Side.CLIENT else b"abcd"
    )
    message, event = receive(connection, [too_big])
    assert message == BytesMessage(b"x" * 6, message_finished=False)
    assert isinstance(event, CloseConnection)
    assert event.code == CloseReason.MESSAGE_TOO_BIG
    assert connection.failed


def test_default_max_size() -> None:
    connection = Connection(ConnectionType.SERVER)
    assert connection.max_size == 2**26
    (event,) = receive(connection, [header(BINARY, 2**26 + 1, key=b"abcd")])
    assert isinstance(event, CloseConnection)
    assert event.code == CloseReason.MESSAGE_TOO_BIG


def test_no_max_size() -> None:
    connection = Connection(ConnectionType.SERVER, max_size=None)
    assert connection.max_size is None
    wire = header(BINARY, 2**62, key=bytes(4)) + b"abc"
    assert receive(connection, [wire]) == [
        BytesMessage(b"abc", frame_finished=False, message_finished=False)
    ]


def test_control_frames_do_not_count() -> None:
    connection = Connection(ConnectionType.SERVER, max_size=1)
    assert receive(connection, [frame(Side.SERVER, PING, b"x" * 125)]) == [Ping(b"x" * 125)]


@pytest.mark.parametrize("max_size", ["1", -1, 1.5])
def test_bad_max_size(max_size: object) -> None:
    with pytest.raises((TypeError, ValueError), match="max_size"):
        Connection(ConnectionType.SERVER, max_size=max_size)  # type: ignore[arg-type] # wrong on purpose


# --- what is sent: events -> frames

SENT: dict[str, tuple[list[Event], Wires]] = {
    "text": ([TextMessage("h€llo")], [(TEXT, "h€llo".encode(), True)]),
    "binary": ([BytesMessage(b"\xff")], [(BINARY, b"\xff", True)]),
    "message of str": ([Message("x")], [(TEXT, b"x", True)]),
    "message of bytes": ([Message(b"x")], [(BINARY, b"x", True)]),
    "the type of data counts": ([TextMessage(b"x")], [(BINARY, b"x", True)]),  # type: ignore[arg-type] # wrong on purpose
    "bytearray": ([BytesMessage(bytearray(b"x"))], [(BINARY, b"x", True)]),
    "memoryview": ([BytesMessage(memoryview(b"xy")[::-1])], [(BINARY, b"yx", True)]),  # type: ignore[arg-type] # wrong on purpose
    "fragments": (
        [
            TextMessage("a", message_finished=False),
            Ping(b"!"),
            TextMessage("", message_finished=False),
            TextMessage("b"),
            TextMessage("c"),
        ],
        [
            (TEXT, b"a", False),
            (PING, b"!", True),
            (CONT, b"", False),
            (CONT, b"b", True),
            (TEXT, b"c", True),
        ],
    ),
    "ping": ([Ping()], [(PING, b"", True)]),
    "pong": ([Pong(b"x" * 125)], [(PONG, b"x" * 125, True)]),
    "close": ([CloseConnection(1001, "bye")], [(CLOSE, close(1001, b"bye"), True)]),
    "close without reason": ([CloseConnection(1001)], [(CLOSE, close(1001), True)]),
    "close without code": ([CloseConnection(None)], [(CLOSE, b"", True)]),  # type: ignore[arg-type] # wrong on purpose
    "close with 1005": ([CloseConnection(CloseReason.NO_STATUS_RCVD)], [(CLOSE, b"", True)]),
    "close with plain 1005": ([CloseConnection(1005)], [(CLOSE, close(1000), True)]),
    "close with 1006": (
        [CloseConnection(CloseReason.ABNORMAL_CLOSURE, "why")],
        [(CLOSE, close(1000, b"why"), True)],
    ),
    "close with 1015": ([CloseConnection(1015)], [(CLOSE, close(1000), True)]),
    "close with any code": ([CloseConnection(7)], [(CLOSE, close(7), True)]),
    "close with a long reason": (
        [CloseConnection(1000, "x" + "€" * 60)],
        [(CLOSE, close(1000, b"x" + "€".encode() * 40), True)],
    ),
}


@each_side
@pytest.mark.parametrize("case", SENT)
def test_sent(side: Side, case: str) -> None:
    events, expected = SENT[case]
    connection = Connection(TYPES[side])
    frames = []
    for event in events:
        data = connection.send(event)
        assert type(data) is bytes
        frames += parse(data)
    assert [(wire.opcode, wire.payload, wire.fin) for wire in frames] == expected
    assert all(wire.masked == (side == Side.CLIENT) and wire.rsv == 0 for wire in frames)


@pytest.mark.parametrize(
    ("event", "error", "text"),
    [
        (TextMessage(None), TypeError, "Must provide bytes or text"),  # type: ignore[arg-type] # wrong on purpose
        (BytesMessage([1]), TypeError, "Must provide bytes or text"),  # type: ignore[arg-type] # wrong on purpose
        (TextMessage("\ud800"), UnicodeEncodeError, "surrogates"),
        (Ping(b"x" * 126), ValueError, "payload too long for control frame"),
        (Pong(b"x" * 126), ValueError, "payload too long for control frame"),
        (Ping("x"), TypeError, "payload must be bytes-like"),  # type: ignore[arg-type] # wrong on purpose
        (CloseConnection(None, "why"), TypeError, "reason without a code"),  # type: ignore[arg-type] # wrong on purpose
        (CloseConnection(1000, b"why"), TypeError, "reason must be str"),  # type: ignore[arg-type] # wrong on purpose
        (CloseConnection("1000"), TypeError, "code must be int"),  # type: ignore[arg-type] # wrong on purpose
        (CloseConnection(65536), ValueError, "code must be between"),
        (CloseConnection(-1), ValueError, "code must be between"),
    ],
)
def test_bad_values(event: Event, error: type[Exception], text: str) -> None:
    connection = Connection(ConnectionType.SERVER)
    with pytest.raises(error, match=text):
        connection.send(event)
    assert connection.state is OPEN
    # Nothing of it remains.
    assert connection.send(TextMessage("x")) == b"\x81\x01x"


def test_types_inside_a_message() -> None:
    connection = Connection(ConnectionType.SERVER)
    connection.send(TextMessage("a", message_finished=False))
    with pytest.raises(TypeError, match="Data type mismatch inside message"):
        connection.send(BytesMessage(b"b"))
    with pytest.raises(UnicodeEncodeError):
        connection.send(TextMessage("\ud800"))
    assert connection.send(TextMessage("c")) == b"\x80\x01c"


# --- states

STATES: dict[ConnectionState, list[str]] = {
    OPEN: [],
    LOCAL_CLOSING: ["send close"],
    REMOTE_CLOSING: ["receive close"],
    CLOSED: ["receive close", "send close"],
}
SENDABLE: list[Event] = [TextMessage(""), BytesMessage(b""), Ping(), Pong(), CloseConnection(1000)]
HANDSHAKE = [Request("h", "/"), AcceptConnection(), RejectConnection(), RejectData(b"")]
MAY_SEND: dict[ConnectionState, list[Event]] = {
    OPEN: SENDABLE,
    REMOTE_CLOSING: [CloseConnection(1000)],
    LOCAL_CLOSING: [],
    CLOSED: [],
}


def in_state(state: ConnectionState) -> Connection:
    connection = Connection(ConnectionType.SERVER)
    for step in STATES[state]:
        if step == "send close":
            connection.send(CloseConnection(1000))
        else:
            receive(connection, [frame(Side.SERVER, CLOSE, close(1000))])
    assert connection.state is state
    return connection


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
@pytest.mark.parametrize("event", [*SENDABLE, *HANDSHAKE, Event()], ids=lambda e: type(e).__name__)
def test_what_may_be_sent(state: ConnectionState, event: Event) -> None:
    connection = in_state(state)
    if event in MAY_SEND[state]:
        assert connection.send(event)
        return
    with pytest.raises(LocalProtocolError) as caught:
        connection.send(event)
    assert str(caught.value) == f"Event {event} cannot be sent in state {state}."
    assert connection.state is state


def test_not_an_event() -> None:
    with pytest.raises(LocalProtocolError, match="Event hello cannot be sent"):
        Connection(ConnectionType.SERVER).send("hello")  # type: ignore[arg-type] # wrong on purpose


def test_closing_by_the_peer() -> None:
    connection = in_state(REMOTE_CLOSING)
    assert connection.send(CloseConnection(1000)) == b"\x88\x02\x03\xe8"
    assert connection.state is CLOSED


def test_closing_by_us() -> None:
    connection = in_state(LOCAL_CLOSING)
    wires = frame(Side.SERVER, TEXT, b"late") + frame(Side.SERVER, CLOSE, close(1000))
    assert receive(connection, [wires]) == [TextMessage("late"), CloseConnection(1000, "")]
    assert connection.state is CLOSED


def test_data_after_the_end() -> None:
    connection = in_state(CLOSED)
    with pytest.raises(LocalProtocolError, match="Connection already closed"):
        connection.receive_data(b"")
    assert list(connection.events()) == []


def test_data_after_a_close_frame_is_ignored() -> None:
    connection = in_state(REMOTE_CLOSING)
    assert receive(connection, [frame(Side.SERVER, TEXT, b"late")]) == []


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_end_of_the_stream(state: ConnectionState) -> None:
    connection = in_state(state)
    connection.receive_data(None)
    assert connection.state is CLOSED
    assert list(connection.events()) == [CloseConnection(1006, None)]
    assert list(connection.events()) == []
    with pytest.raises(LocalProtocolError):
        connection.receive_data(b"x")


def test_end_of_the_stream_behind_frames() -> None:
    connection = Connection(ConnectionType.SERVER)
    connection.receive_data(frame(Side.SERVER, TEXT, b"last") + frame(Side.SERVER, CLOSE, b""))
    connection.receive_data(None)
    assert list(connection.events()) == [
        TextMessage("last"),
        CloseConnection(1005, ""),
        CloseConnection(1006, None),
    ]
    assert connection.state is CLOSED


def test_end_of_the_stream_inside_a_frame() -> None:
    connection = Connection(ConnectionType.SERVER)
    connection.receive_data(frame(Side.SERVER, TEXT, b"last")[:-1])
    connection.receive_data(None)
    assert list(connection.events()) == [
        TextMessage("las", frame_finished=False, message_finished=False),
        CloseConnection(1006, None),
    ]


def test_attributes() -> None:
    assert Connection(ConnectionType.CLIENT).client is True
    assert Connection(ConnectionType.SERVER).client is False


def test_nothing_is_logged_above_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    in_state(CLOSED).receive_data(None)
    receive(Connection(ConnectionType.SERVER), [b"\xff\xff"])
    assert caplog.records == []


def test_frames_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    connection = Connection(ConnectionType.SERVER)
    wires = frame(Side.SERVER, TEXT, b"hello") + frame(Side.SERVER, PING, b"?")
    assert receive(connection, [wires]) == [TextMessage("hello"), Ping(b"?")]
    connection.send(TextMessage("you"))
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "= connection is OPEN",
        "< TEXT 'hello' [5 bytes]",
        "< PING '?' [text, 1 byte]",
        "> TEXT 'you' [3 bytes]",
    ]
