"""An open connection: bytes in and what comes of them, whichever way they come; frames out."""

import dataclasses
import enum
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import websockets.frames
import websockets.protocol
from hypothesis import given, settings
from hypothesis import strategies as st

from wsproto_fast import (
    ClientProtocol,
    Close,
    CloseCode,
    ConcurrencyError,
    ConnectionClosedError,
    ConnectionClosedOK,
    Frame,
    InvalidState,
    Opcode,
    PayloadTooBig,
    PreparedMessage,
    Protocol,
    ProtocolError,
    ServerProtocol,
    Side,
    State,
    TooManyFragments,
    activity,
)
from wsproto_fast.activity import ABORT
from wsproto_fast.uri import parse_uri

from .helpers import (
    BINARY,
    CLOSE,
    CONT,
    KEY,
    PATHS,
    PING,
    PONG,
    SIDES,
    TEXT,
    Path,
    chopped,
    events,
    frame,
    header,
    messages,
    output,
    sent,
    through_buffer,
    xor,
)

LIMIT = 1000

both_sides = pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
all_paths = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
both_sinks = pytest.mark.parametrize("queue", [False, True], ids=["events", "queue"])


def other(side: Side) -> Side:
    return Side(1 - side)


def close_payload(code: int, reason: str = "") -> bytes:
    return code.to_bytes(2, "big") + reason.encode()


def closed(side: Side, rcvd: Close | None, sent: Close | None) -> Protocol:
    """Return a connection that was closed with these Close frames, ours second."""
    protocol = Protocol(side)
    if rcvd is not None:
        protocol.receive_data(frame(side, CLOSE, rcvd.serialize()))
    elif sent is not None:
        protocol.send_close(sent.code, sent.reason)
    protocol.receive_eof()
    return protocol


# Name, frames (opcode, payload, fin), messages. Every data frame is an event, too.
GOOD: list[tuple[str, list[tuple[int, bytes, bool]], list[str | bytes]]] = [
    ("nothing", [], []),
    ("text", [(TEXT, b"hello", True)], ["hello"]),
    ("empty text", [(TEXT, b"", True)], [""]),
    ("empty binary", [(BINARY, b"", True)], [b""]),
    ("one byte", [(BINARY, b"\xff", True)], [b"\xff"]),
    ("text beyond ASCII", [(TEXT, "žluťoučký 😀".encode(), True)], ["žluťoučký 😀"]),
    ("long ASCII", [(TEXT, b"abcdefghij" * 90, True)], ["abcdefghij" * 90]),
    ("binary that isn't text", [(BINARY, bytes(range(256)), True)], [bytes(range(256))]),
    ("16-bit length", [(BINARY, b"x" * 126, True)], [b"x" * 126]),
    ("message at the limit", [(BINARY, b"x" * LIMIT, True)], [b"x" * LIMIT]),
    ("two", [(TEXT, b"a", True), (BINARY, b"b", True)], ["a", b"b"]),
    ("fragments", [(TEXT, b"a", False), (CONT, b"b", False), (CONT, b"c", True)], ["abc"]),
    ("binary fragments", [(BINARY, b"\x80", False), (CONT, b"\x81", True)], [b"\x80\x81"]),
    ("empty fragments", [(TEXT, b"", False), (CONT, b"", False), (CONT, b"", True)], [""]),
    (
        "character over fragments",
        [(TEXT, b"\xf0", False), (CONT, b"\x9f\x98", False), (CONT, b"\x80", True)],
        ["😀"],
    ),
    (
        "fragments up to the limit",
        [(BINARY, b"x" * 500, False), (CONT, b"y" * 500, True)],
        [b"x" * 500 + b"y" * 500],
    ),
    ("ping", [(PING, b"?", True), (TEXT, b"a", True)], ["a"]),
    ("longest ping", [(PING, b"p" * 125, True)], []),
    ("unsolicited pong", [(PONG, b"!", True), (TEXT, b"a", True)], ["a"]),
    (
        "pings between fragments",
        [
            (TEXT, b"a", False),
            (PING, b"1", True),
            (CONT, b"b", False),
            (PING, b"", True),
            (PONG, b"x", True),
            (CONT, b"c", True),
        ],
        ["abc"],
    ),
    (
        "ping inside a character",
        [(TEXT, b"\xe2", False), (PING, b"\xff", True), (CONT, b"\x82\xac", True)],
        ["€"],
    ),
    (
        "messages after fragments",
        [(TEXT, b"\xc3", False), (CONT, b"\xa9", True), (TEXT, b"b", True), (BINARY, b"c", True)],
        ["é", "b", b"c"],
    ),
]

good_cases = pytest.mark.parametrize("case", GOOD, ids=lambda case: case[0])


def check_good(
    path: Path, side: Side, queue: bool, case: tuple[str, list[Any], list[Any]], cuts: Any
) -> None:
    _, frames, expected = case
    protocol = path.protocol(side, queue=queue, max_size=LIMIT)
    wire = b"".join(frame(side, op, payload, fin=fin) for op, payload, fin in frames)
    path.feed(protocol, chopped(wire, cuts))
    assert protocol.state is State.OPEN
    assert protocol.parser_exc is None
    assert sent(protocol) == [(PONG, payload) for op, payload, _ in frames if op == PING]
    if queue:
        assert messages(protocol) == expected
        assert events(protocol) == []
    else:
        assert events(protocol) == frames


@both_sides
@all_paths
@both_sinks
class TestGoodInput:
    @good_cases
    def test_in_one_piece(self, path: Path, side: Side, queue: bool, case: Any) -> None:
        check_good(path, side, queue, case, [])

    @good_cases
    def test_byte_by_byte(self, path: Path, side: Side, queue: bool, case: Any) -> None:
        check_good(path, side, queue, case, range(3000))

    @given(
        cases=st.lists(st.sampled_from(GOOD), max_size=4),
        cuts=st.lists(st.integers(1, 2500), max_size=12),
    )
    @settings(max_examples=25)
    def test_in_any_pieces(
        self, path: Path, side: Side, queue: bool, cases: list[Any], cuts: list[int]
    ) -> None:
        frames = [frame for case in cases for frame in case[1]]
        expected = [message for case in cases for message in case[2]]
        check_good(path, side, queue, ("", frames, expected), cuts)


@dataclasses.dataclass
class Bad:
    """Input that fails the connection at its last byte.

    ``reason`` is its beginning; the reasons for bad text have a test of their own.
    """

    name: str
    wire: bytes
    code: int
    reason: str
    exc: type[Exception]
    only: str = ""


def bad_header(name: str, data: bytes, side: Side, reason: str) -> Bad:
    if side == Side.SERVER and len(data) > 1:
        data = bytes([data[0], data[1] | 0x80]) + data[2:]
    return Bad(name, data, 1002, reason, ProtocolError)


def bad_cases(side: Side) -> Iterator[Bad]:
    key = KEY if side == Side.SERVER else None

    def text(payload: bytes, **settings: Any) -> bytes:
        return frame(side, TEXT, payload, **settings)

    def cont(payload: bytes, **settings: Any) -> bytes:
        return frame(side, CONT, payload, **settings)

    def head(opcode: int, length: int, **settings: Any) -> bytes:
        return header(opcode, length, key=key, **settings)

    for bits in range(1, 8):
        first = bytes([0x81 | bits << 4])
        yield bad_header(f"rsv {bits:03b}", first, side, "reserved bits must be 0")
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        yield bad_header(f"opcode {opcode}", bytes([0x80 | opcode]), side, "invalid opcode")
    for opcode in (CLOSE, PING, PONG):
        first = bytes([opcode])
        yield bad_header(f"fragment of {opcode}", first, side, "fragmented control frame")
        for length in (126, 127):
            wire = bytes([0x80 | opcode, length])
            yield bad_header(f"{opcode} with {length}", wire, side, "control frame too long")
    wrong = bytes([0x81, 0x85 if side == Side.CLIENT else 0x05])
    yield Bad("masking", wrong, 1002, "incorrect masking", ProtocolError)
    for length, form in ((0, 16), (125, 16), (0, 64), (125, 64), (126, 64), (65535, 64)):
        wire = header(BINARY, length, form=form)
        yield bad_header(f"{length} in {form} bits", wire, side, "payload length isn't minimal")
    for length in (0x80, 0xFF):
        wire = bytes([0x82, 127, length])
        yield bad_header(f"2**63 {length}", wire, side, "payload length exceeds")

    reason = "unexpected continuation frame"
    yield Bad("continuation of nothing", head(CONT, 5), 1002, reason, ProtocolError)
    whole = text(b"a") + head(CONT, 5)
    yield Bad("continuation of a whole message", whole, 1002, reason, ProtocolError)
    done = text(b"a", fin=False) + cont(b"b") + head(CONT, 0)
    yield Bad("continuation of an ended message", done, 1002, reason, ProtocolError)
    for opcode in (TEXT, BINARY):
        wire = text(b"a", fin=False) + frame(side, PING) + head(opcode, 5)
        reason = "expected a continuation frame"
        yield Bad(f"{opcode} within a message", wire, 1002, reason, ProtocolError)

    for size in (LIMIT + 1, 65536, 2**63 - 1):
        reason = f"frame with {size} bytes exceeds limit of {LIMIT} bytes"
        yield Bad(f"frame of {size}", head(BINARY, size), 1009, reason, PayloadTooBig)
    wire = frame(side, BINARY, b"x" * 600, fin=False) + head(CONT, 401)
    reason = f"frame with 401 bytes after reading 600 bytes exceeds limit of {LIMIT} bytes"
    yield Bad("fragments over the limit", wire, 1009, reason, PayloadTooBig)

    for payload in (b"\xff", b"abcdefgh\x80", b"\xc0", b"\xe2\x28", b"a\xed\xa0", b"\xf4\x90"):
        name = payload[-3:].hex()
        # More follows in the frame, so that it isn't whole yet.
        wire = text(payload + b"bcd")[:-3]
        yield Bad(f"text {name}", wire, 1007, "", UnicodeDecodeError)
        wire = text(b"a\xc3", fin=False) + cont(b"\xa9" + payload + b"bcd", fin=False)[:-3]
        yield Bad(f"fragment {name}", wire, 1007, "", UnicodeDecodeError)
        yield Bad(f"whole text {name}", text(payload), 1007, "", UnicodeDecodeError)
    yield Bad("text that ends early", text(b"a\xe2\x82"), 1007, "", UnicodeDecodeError)
    wire = text(b"a\xe2\x82", fin=False) + cont(b"")
    yield Bad("fragments that end early", wire, 1007, "", UnicodeDecodeError)

    wire = frame(side, CLOSE, b"\x03")
    yield Bad("short close", wire, 1002, "close frame too short", ProtocolError)
    for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535):
        wire = frame(side, CLOSE, close_payload(code))
        yield Bad(f"close {code}", wire, 1002, "invalid status code", ProtocolError)
    wire = frame(side, CLOSE, close_payload(1000) + b"ab\xff")
    reason = "invalid start byte at position 2"
    yield Bad("close reason", wire, 1007, reason, UnicodeDecodeError)

    wire = text(b"a", fin=False) + cont(b"", fin=False) * 3 + head(CONT, 0)
    reason = "too many fragments"
    yield Bad("fragments", wire, 1009, reason, TooManyFragments, only="queue")


BAD = [pytest.param(s, b, id=f"{s.name}-{b.name}") for s in SIDES for b in bad_cases(s)]


def check_bad(path: Path, side: Side, queue: bool, bad: Bad, pieces: Any) -> None:
    protocol = path.protocol(side, queue=False, max_size=LIMIT)
    if queue:
        protocol.queue_messages(None, max_bytes=None, max_fragments=4)
    elif bad.only == "queue":
        return
    path.feed(protocol, pieces)
    assert protocol.state is State.CLOSING
    assert isinstance(protocol.parser_exc, bad.exc)
    assert protocol.close_sent is not None
    assert protocol.close_sent.code == bad.code
    assert protocol.close_sent.reason.startswith(bad.reason)
    replies = [reply for reply in sent(protocol) if reply[0] != PONG]
    assert replies == [(CLOSE, protocol.close_sent.serialize())]
    # RFC 6455 section 7.1.7: the server closes TCP, the client waits for that.
    action = activity.HALF_CLOSE if side == Side.SERVER else activity.KEEP
    assert protocol.transport_action == action
    assert protocol.close_expected()


class TestBadInput:
    @both_sinks
    @all_paths
    @pytest.mark.parametrize("side, bad", BAD)
    def test_fails_the_connection(self, path: Path, side: Side, queue: bool, bad: Bad) -> None:
        check_bad(path, side, queue, bad, [bad.wire])
        check_bad(path, side, queue, bad, chopped(bad.wire, range(len(bad.wire))))

    @both_sinks
    @all_paths
    @pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
    @given(data=st.data())
    @settings(max_examples=60)
    def test_fails_the_connection_in_any_pieces(
        self, path: Path, side: Side, queue: bool, data: st.DataObject
    ) -> None:
        bad = data.draw(st.sampled_from(list(bad_cases(side))))
        cuts = data.draw(st.lists(st.integers(1, len(bad.wire)), max_size=6))
        check_bad(path, side, queue, bad, chopped(bad.wire, cuts))

    @pytest.mark.parametrize("side, bad", BAD)
    def test_fails_at_the_offending_byte(self, side: Side, bad: Bad) -> None:
        protocol = Protocol(side, max_size=LIMIT)
        protocol.queue_messages(None, max_fragments=4)
        protocol.receive_data(bad.wire[:-1])
        assert protocol.state is State.OPEN
        assert protocol.parser_exc is None
        protocol.receive_data(bad.wire[-1:])
        assert protocol.parser_exc is not None

    @both_sinks
    @pytest.mark.parametrize("side, bad", BAD)
    def test_nothing_is_parsed_afterwards(self, side: Side, queue: bool, bad: Bad) -> None:
        more = frame(side, PING, b"?") + frame(side, TEXT, b"later") + frame(side, CLOSE)
        for pieces in ([bad.wire + more], [bad.wire, more], chopped(bad.wire + more, range(3000))):
            protocol = Protocol(side, max_size=LIMIT)
            if queue:
                protocol.queue_messages(None, max_fragments=4)
            elif bad.only == "queue":
                return
            for piece in pieces:
                protocol.receive_data(piece)
            assert protocol.close_rcvd is None
            assert (PONG, b"?") not in sent(protocol)
            if queue:
                assert "later" not in messages(protocol)
            else:
                assert (TEXT, b"later", True) not in events(protocol)

    @both_sinks
    @pytest.mark.parametrize("side, bad", BAD)
    def test_is_no_error_of_ours(
        self, side: Side, queue: bool, bad: Bad, caplog: pytest.LogCaptureFixture
    ) -> None:
        protocol = Protocol(side, max_size=LIMIT)
        if queue:
            protocol.queue_messages(None, max_fragments=4)
        protocol.receive_data(bad.wire)
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []

    @pytest.mark.parametrize("side, bad", BAD)
    def test_becomes_the_cause_of_the_closing(self, side: Side, bad: Bad) -> None:
        protocol = Protocol(side, max_size=LIMIT)
        protocol.queue_messages(None, max_fragments=4)
        protocol.receive_data(bad.wire)
        protocol.receive_eof()
        assert type(protocol.close_exc) is ConnectionClosedError
        assert type(protocol.close_exc.__cause__) is bad.exc
        assert protocol.close_code == 1006

    @pytest.mark.parametrize("payload", [b"abc\xff", b"a\xe2\x28", b"a\xe2\x82", b"a\xed\xa0\x80"])
    @both_sinks
    def test_reason_for_bad_text_depends_on_the_text_alone(
        self, queue: bool, payload: bytes
    ) -> None:
        wire = frame(Side.CLIENT, TEXT, payload)
        with pytest.raises(UnicodeDecodeError) as raised:
            payload.decode()
        expected = f"{raised.value.reason} at position {raised.value.start}"
        # The peer is told at once, so that the character may not be there as a whole.
        reasons = set()
        for cuts in ([], [2], [3], [4], [5], range(1, 9)):
            protocol = PATHS[0].protocol(Side.CLIENT, queue=queue)
            PATHS[0].feed(protocol, chopped(wire, cuts))
            assert protocol.close_sent is not None
            reasons.add(protocol.close_sent.reason)
        assert reasons == {expected}


@both_sides
class TestClosingHandshake:
    @pytest.mark.parametrize(
        "payload, close",
        [
            (b"", Close(1005, "")),
            (close_payload(1000), Close(1000, "")),
            (close_payload(1001, "bye"), Close(1001, "bye")),
            (close_payload(1014), Close(1014, "")),
            (close_payload(3000), Close(3000, "")),
            (close_payload(4999, "é" * 61), Close(4999, "é" * 61)),
        ],
        ids=lambda value: str(value)[:20],
    )
    @all_paths
    @both_sinks
    def test_close_is_answered_with_the_same(
        self, side: Side, path: Path, queue: bool, payload: bytes, close: Close
    ) -> None:
        wire = frame(side, CLOSE, payload)
        for cuts in ([], range(200)):
            protocol = path.protocol(side, queue=queue)
            path.feed(protocol, chopped(wire, cuts))
            assert protocol.state is State.CLOSING
            assert protocol.close_rcvd == close
            assert protocol.close_sent == close
            assert protocol.close_rcvd_then_sent is True
            assert sent(protocol) == [(CLOSE, payload)]
            half_close = activity.HALF_CLOSE if side == Side.SERVER else activity.KEEP
            assert protocol.transport_action == half_close
            assert events(protocol) == ([] if queue else [(CLOSE, payload, True)])
            assert protocol.close_code is None
            protocol.receive_eof()
            assert protocol.state is State.CLOSED
            assert (protocol.close_code, protocol.close_reason) == (close.code, close.reason)
            assert protocol.parser_exc is None

    def test_ours_first(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.close(1001, "bye")
        assert sent(protocol) == [(CLOSE, close_payload(1001, "bye"))]
        assert protocol.state is State.CLOSING
        assert protocol.transport_action == activity.KEEP
        protocol.receive_data(frame(side, CLOSE, close_payload(1001, "bye")))
        assert sent(protocol) == []
        assert protocol.close_rcvd_then_sent is False
        assert protocol.data_to_send() == ([b""] if side == Side.SERVER else [])
        protocol.receive_eof()
        assert str(protocol.close_exc).startswith("sent 1001 (going away) bye; then received")
        assert type(protocol.close_exc) is ConnectionClosedOK

    def test_simultaneous(self, side: Side) -> None:
        one, two = Protocol(side), Protocol(other(side))
        one.close(1000, "one")
        two.close(4000, "two")
        from_one, from_two = output(one), output(two)
        one.receive_data(from_two)
        two.receive_data(from_one)
        assert output(one) == output(two) == b""
        assert one.close_rcvd == two.close_sent == Close(4000, "two")
        assert two.close_rcvd == one.close_sent == Close(1000, "one")
        assert one.close_rcvd_then_sent is two.close_rcvd_then_sent is False

    def test_second_close_is_ignored(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.receive_data(frame(side, CLOSE, close_payload(1000)) * 2)
        protocol.receive_data(frame(side, CLOSE, close_payload(4000)))
        assert sent(protocol) == [(CLOSE, close_payload(1000))]
        assert protocol.close_rcvd == Close(1000, "")

    @both_sinks
    def test_whatever_follows_is_ignored(self, side: Side, queue: bool) -> None:
        protocol = PATHS[0].protocol(side, queue=queue)
        wire = frame(side, CLOSE) + frame(side, PING) + frame(side, TEXT, b"a") + b"\xff" * 20
        for cuts in ([], range(100)):
            for piece in chopped(wire, cuts):
                protocol.receive_data(piece)
        assert sent(protocol) == [(CLOSE, b"")]
        assert protocol.parser_exc is None
        assert messages(protocol) == [] if queue else events(protocol) == [(CLOSE, b"", True)]

    def test_our_second_close_does_nothing(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.close(1001)
        output(protocol)
        protocol.close(1000, "again")
        protocol.fail(1011)
        assert output(protocol) == b""
        assert protocol.close_sent == Close(1001, "")

    def test_close_inside_a_fragmented_message_is_answered(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.queue_messages()
        protocol.receive_data(frame(side, TEXT, b"a", fin=False))
        protocol.receive_data(frame(side, CLOSE, close_payload(1001)))
        assert sent(protocol) == [(CLOSE, close_payload(1001))]
        assert protocol.parser_exc is None
        assert messages(protocol) == []

    @pytest.mark.parametrize("queue", [False, True])
    @pytest.mark.parametrize("split", [False, True])
    @pytest.mark.parametrize(
        ("pieces", "lost"),
        [
            ([(TEXT, False)], True),
            ([(TEXT, False), (CONT, False), (PING, True)], True),
            ([(TEXT, False), (CONT, True)], False),
            ([(TEXT, True), (BINARY, False)], True),
            ([(TEXT, True)], False),
        ],
    )
    def test_message_lost_by_close_shows_in_the_outcome(
        self, side: Side, queue: bool, split: bool, pieces: list[tuple[int, bool]], lost: bool
    ) -> None:
        protocol = Protocol(side)
        if queue:
            protocol.queue_messages()
        wire = b"".join(frame(side, opcode, b"a", fin=fin) for opcode, fin in pieces)
        wire += frame(side, CLOSE, close_payload(1000))
        for piece in [wire[i : i + 1] for i in range(len(wire))] if split else [wire]:
            protocol.receive_data(piece)
        protocol.receive_eof()
        assert protocol.close_code == 1000
        assert protocol.close_rcvd == protocol.close_sent == Close(1000, "")
        assert type(protocol.close_exc) is (ConnectionClosedError if lost else ConnectionClosedOK)
        assert isinstance(protocol.close_exc.__cause__, ProtocolError) == lost
        assert protocol.parser_exc is None

    def test_message_that_we_have_closed_upon_is_not_lost(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.queue_messages()
        protocol.receive_data(frame(side, TEXT, b"a", fin=False))
        protocol.close()
        protocol.receive_data(frame(side, CLOSE, close_payload(1000)))
        protocol.receive_eof()
        assert type(protocol.close_exc) is ConnectionClosedOK

    def test_what_is_under_way_arrives_while_closing(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.close()
        output(protocol)
        wire = frame(side, TEXT, b"a") + frame(side, PING, b"?") + frame(side, CLOSE)
        protocol.receive_data(wire)
        assert sent(protocol) == [(PONG, b"?")]
        assert [event[0] for event in events(protocol)] == [TEXT, PING, CLOSE]

    def test_bad_input_while_closing_sends_no_second_close(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.close()
        output(protocol)
        protocol.receive_data(b"\xff")
        assert output(protocol) == b""
        assert isinstance(protocol.parser_exc, ProtocolError)

    def test_close_during_a_fragmented_message_fails_the_connection(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.send_text("a", fin=False)
        protocol.close(1000)
        assert protocol.close_sent == Close(1011, "close during fragmented message")
        assert [opcode for opcode, _ in sent(protocol)] == [TEXT, CLOSE]

    @pytest.mark.parametrize("code", [1000, 1011, 4000])
    def test_failing_tells_the_peer(self, side: Side, code: int) -> None:
        protocol = Protocol(side)
        protocol.fail(code, "why")
        assert sent(protocol) == [(CLOSE, close_payload(code, "why"))]
        assert protocol.state is State.CLOSING
        assert protocol.data_to_send() == ([b""] if side == Side.SERVER else [])

    def test_failing_with_1006_sends_nothing(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.fail(1006)
        assert output(protocol) == b""
        assert protocol.close_sent is None

    def test_a_long_reason_for_failing_is_cut_between_characters(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.fail(1011, "x" + "é" * 100)
        assert protocol.close_sent == Close(1011, "x" + "é" * 61)

    def test_no_answer_to_a_ping_after_the_handshake(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.pause_writing()
        protocol.receive_data(frame(side, PING, b"?") + frame(side, CLOSE))
        protocol.resume_writing()
        assert sent(protocol) == [(CLOSE, b"")]

    @pytest.mark.parametrize(
        "rcvd, expected",
        [
            (Close(1000, ""), ConnectionClosedOK),
            (Close(1001, ""), ConnectionClosedOK),
            (Close(1002, ""), ConnectionClosedError),
            (Close(4000, ""), ConnectionClosedError),
        ],
        ids=str,
    )
    def test_kind_of_closing(self, side: Side, rcvd: Close, expected: type) -> None:
        exc = closed(side, rcvd, None).close_exc
        assert type(exc) is expected
        assert (exc.rcvd, exc.sent, exc.rcvd_then_sent) == (rcvd, rcvd, True)

    def test_closing_is_an_error_if_only_one_side_sent_a_close(self, side: Side) -> None:
        exc = closed(side, None, Close(1000, "")).close_exc
        assert type(exc) is ConnectionClosedError
        assert str(exc) == "sent 1000 (OK); no close frame received"

    def test_no_exception_before_the_end(self, side: Side) -> None:
        with pytest.raises(AssertionError):
            _ = Protocol(side).close_exc


@both_sides
class TestEndOfStream:
    @pytest.mark.parametrize("case", GOOD[1:], ids=lambda case: case[0])
    def test_anywhere(self, side: Side, case: Any) -> None:
        wire = b"".join(frame(side, op, payload, fin=fin) for op, payload, fin in case[1])
        for end in range(0, len(wire), 1 + len(wire) // 50):
            protocol = Protocol(side)
            protocol.queue_messages()
            protocol.receive_data(wire[:end])
            output(protocol)
            protocol.receive_eof()
            assert protocol.state is State.CLOSED
            assert protocol.transport_action == activity.CLOSE
            assert protocol.data_to_send() == [b""]
            assert isinstance(protocol.close_exc.__cause__, EOFError)
            assert str(protocol.close_exc) == "no close frame received or sent"
            assert (protocol.close_code, protocol.close_reason) == (1006, "")
            assert protocol.next_timeout() is None
            read = messages(protocol)
            assert read == case[2][: len(read)]

    def test_may_be_told_twice(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.receive_eof()
        protocol.receive_eof()
        assert protocol.data_to_send() == [b""]

    def test_is_the_end(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.receive_eof()
        with pytest.raises(EOFError):
            protocol.receive_data(frame(side, TEXT, b"a"))
        assert events(protocol) == []

    def test_empty_data_is_not_the_end(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.receive_data(b"")
        protocol.receive_data(frame(side, TEXT, b"a"))
        assert events(protocol) == [(TEXT, b"a", True)]

    def test_messages_stay_readable(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.queue_messages()
        protocol.receive_data(frame(side, TEXT, b"a") + frame(side, BINARY, b"b"))
        protocol.receive_eof()
        assert messages(protocol) == ["a", b"b"]

    def test_lost_connection_keeps_what_broke_it(self, side: Side) -> None:
        protocol = Protocol(side)
        broken = ConnectionResetError("gone")
        protocol.send("lost")
        protocol.connection_lost(broken)
        assert protocol.state is State.CLOSED
        assert protocol.close_exc.__cause__ is broken
        assert output(protocol) == b""


# Name, preparation, what is done, exception.
MISUSE: list[tuple[str, str, Any, type[Exception]]] = [
    ("continuation of nothing", "", lambda p: p.send_continuation(b"", True), ProtocolError),
    ("long ping", "", lambda p: p.send_ping(bytes(126)), ProtocolError),
    ("long pong", "", lambda p: p.send_pong(bytes(126)), ProtocolError),
    ("long measured ping", "", lambda p: p.ping(bytes(126)), ProtocolError),
    ("ping of another type", "", lambda p: p.ping(5), TypeError),
    ("message of another type", "", lambda p: p.send(5), TypeError),
    ("message in a list", "", lambda p: p.send([b"a"]), TypeError),
    ("no message", "", lambda p: p.send(None), TypeError),
    ("frame of another type", "", lambda p: p.send_text(5, fin=False), TypeError),
    ("surrogate", "", lambda p: p.send("\ud800"), UnicodeEncodeError),
    ("surrogate frame", "", lambda p: p.send_text("\ud800", fin=False), UnicodeEncodeError),
    ("code 999", "", lambda p: p.close(999), ProtocolError),
    ("code 1006", "", lambda p: p.close(1006), ProtocolError),
    ("code 1005", "", lambda p: p.send_close(1005), ProtocolError),
    ("code 5000", "", lambda p: p.send_close(5000), ProtocolError),
    ("long reason", "", lambda p: p.close(1000, "é" * 62), ProtocolError),
    ("reason without code", "", lambda p: p.send_close(None, "why"), ProtocolError),
    ("failing with 1005", "", lambda p: p.fail(1005), ProtocolError),
    ("text in a message", "fragment", lambda p: p.send_text("a"), ProtocolError),
    ("binary in a message", "fragment", lambda p: p.send_binary(b"a", False), ProtocolError),
    ("message in a message", "fragment", lambda p: p.send("a"), ConcurrencyError),
    (
        "prepared in a message",
        "fragment",
        lambda p: p.send_prepared(PreparedMessage("a")),
        ConcurrencyError,
    ),
    ("bad code in a message", "fragment", lambda p: p.close(1005), ProtocolError),
    ("ping twice", "ping", lambda p: p.ping(b"x"), ConcurrencyError),
    ("message while closing", "closing", lambda p: p.send("a"), InvalidState),
    ("frame while closing", "closing", lambda p: p.send_binary(b""), InvalidState),
    ("measured ping while closing", "closing", lambda p: p.ping(), InvalidState),
    ("second close frame", "closing", lambda p: p.send_close(1000), InvalidState),
    ("message when closed", "closed", lambda p: p.send("a"), InvalidState),
    (
        "prepared when closed",
        "closed",
        lambda p: p.send_prepared(PreparedMessage("")),
        InvalidState,
    ),
    ("ping when closed", "closed", lambda p: p.send_ping(b""), InvalidState),
    ("pong when closed", "closed", lambda p: p.send_pong(b""), InvalidState),
    ("continuation when closed", "closed", lambda p: p.send_continuation(b"", 1), ProtocolError),
    ("message before opening", "connecting", lambda p: p.send("a"), InvalidState),
    ("close frame before opening", "connecting", lambda p: p.send_close(), InvalidState),
]


@both_sides
class TestMisuse:
    @pytest.mark.parametrize("case", MISUSE, ids=lambda case: case[0])
    def test_raises_and_changes_nothing(self, side: Side, case: Any) -> None:
        _, preparation, action, exc = case
        start = State.CONNECTING if preparation == "connecting" else State.OPEN
        protocol = Protocol(side, state=start)
        if preparation == "fragment":
            protocol.send_text("first", fin=False)
        elif preparation == "ping":
            protocol.ping(b"x")
        elif preparation in ("closing", "closed"):
            protocol.close()
        if preparation == "closed":
            protocol.receive_eof()
        output(protocol)

        def visible() -> tuple[Any, ...]:
            return (
                protocol.state,
                protocol.close_sent,
                protocol.parser_exc,
                protocol.next_timeout(),
                protocol.transport_action,
                protocol.output_size,
            )

        before = visible()
        with pytest.raises(exc):
            action(protocol)
        assert visible() == before
        if preparation == "fragment":
            protocol.send_continuation(b"last", fin=True)
            assert sent(protocol) == [(CONT, b"last")]
        if start is State.OPEN and protocol.state is State.OPEN:
            protocol.send("still working")
            assert sent(protocol) == [(TEXT, b"still working")]

    def test_nothing_follows_the_end_of_the_stream(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.fail(1011)
        if protocol.data_to_send()[-1] == b"":
            for action in (protocol.send_ping, protocol.send_pong):
                try:
                    action(b"late")
                except InvalidState:
                    pass
        assert output(protocol) == b""

    def test_settings_out_of_range(self, side: Side) -> None:
        protocol = Protocol(side)
        for high, low in ((4, 5), (4, -1), (-1, 0)):
            with pytest.raises((ValueError, OverflowError)):
                protocol.queue_messages(high, low)
        for value in (-1, 0, float("nan"), "1"):
            with pytest.raises((ValueError, TypeError)):
                protocol.set_timeouts(ping_interval=value)
        with pytest.raises((ValueError, OverflowError)):
            Protocol(side, max_size=-1)


SENT: list[tuple[Any, bool | None, int, bytes]] = [
    ("hello", None, TEXT, b"hello"),
    ("", None, TEXT, b""),
    ("é€😀", None, TEXT, "é€😀".encode()),
    (b"\x00\xff", None, BINARY, b"\x00\xff"),
    (bytearray(b"abc"), None, BINARY, b"abc"),
    (memoryview(b"abcdef")[1:4], None, BINARY, b"bcd"),
    (memoryview(b"abcdef")[::2], None, BINARY, b"ace"),
    ("forced", False, BINARY, b"forced"),
    (b"forced", True, TEXT, b"forced"),
    ("x" * 126, None, TEXT, b"x" * 126),
    (b"y" * 70000, None, BINARY, b"y" * 70000),
]


@both_sides
class TestSending:
    @pytest.mark.parametrize("prepared", [False, True], ids=["send", "prepared"])
    def test_peer_receives_what_was_sent(self, side: Side, prepared: bool) -> None:
        protocol, peer = Protocol(side), Protocol(other(side))
        peer.queue_messages()
        for message, text, opcode, payload in SENT:
            if prepared:
                done = protocol.send_prepared(PreparedMessage(message, text))
            else:
                done = protocol.send(message, text)
            assert done & activity.OUTPUT
            data = output(protocol)
            peer.receive_data(data)
            assert messages(peer) == [payload.decode() if opcode == TEXT else payload]

    def test_one_prepared_message_serves_all(self, side: Side) -> None:
        message = PreparedMessage("to all")
        protocols = [Protocol(side) for _ in range(3)]
        for protocol in protocols:
            protocol.send("before")
            protocol.send_prepared(message)
            protocol.send_prepared(message)
            expected = [(TEXT, b"before"), (TEXT, b"to all"), (TEXT, b"to all")]
            assert sent(protocol) == expected

    def test_websockets_receives_what_was_sent(self, side: Side) -> None:
        protocol = Protocol(side)
        peer = websockets.protocol.Protocol(
            websockets.protocol.Side(1 - side), state=websockets.protocol.OPEN
        )
        for message, text, _, _ in SENT:
            protocol.send(message, text)
        protocol.send_text("a", fin=False)
        protocol.send_ping(b"?")
        protocol.send_continuation("b", fin=True)
        protocol.close(1001, "bye")
        peer.receive_data(output(protocol))
        received = [(f.opcode, bytes(f.data), f.fin) for f in peer.events_received()]
        assert received == [
            *((opcode, payload, True) for _, _, opcode, payload in SENT),
            (TEXT, b"a", False),
            (PING, b"?", True),
            (CONT, b"b", True),
            (CLOSE, close_payload(1001, "bye"), True),
        ]
        protocol.receive_data(b"".join(peer.data_to_send()))
        assert protocol.close_rcvd == Close(1001, "bye")

    def test_websockets_is_understood(self, side: Side) -> None:
        peer = websockets.protocol.Protocol(
            websockets.protocol.Side(1 - side), state=websockets.protocol.OPEN
        )
        protocol = Protocol(side)
        protocol.queue_messages(None)
        for _, _, opcode, payload in SENT:
            (peer.send_text if opcode == TEXT else peer.send_binary)(payload)
        peer.send_text("é".encode()[:1], fin=False)
        peer.send_continuation("é".encode()[1:], fin=True)
        through_buffer(protocol, [b"".join(peer.data_to_send())])
        expected: list[Any] = [p.decode() if op == TEXT else p for _, _, op, p in SENT]
        assert messages(protocol) == [*expected, "é"]

    def test_wsproto_receives_what_was_sent(self, side: Side) -> None:
        wsproto = pytest.importorskip("wsproto.connection")
        wsproto_events = pytest.importorskip("wsproto.events")
        kind = (
            wsproto.ConnectionType.CLIENT if side == Side.SERVER else wsproto.ConnectionType.SERVER
        )
        peer = wsproto.Connection(kind)
        protocol = Protocol(side)
        protocol.send_text("a", fin=False)
        protocol.send_continuation("é", fin=True)
        protocol.send(b"x" * 70000)
        protocol.close(1001, "bye")
        peer.receive_data(output(protocol))
        received = list(peer.events())
        text = [e.data for e in received if isinstance(e, wsproto_events.TextMessage)]
        binary = [bytes(e.data) for e in received if isinstance(e, wsproto_events.BytesMessage)]
        assert "".join(text) == "aé"
        assert b"".join(binary) == b"x" * 70000
        assert (received[-1].code, received[-1].reason) == (1001, "bye")

    def test_sending_tells_when_there_is_much_to_send(self, side: Side) -> None:
        protocol = Protocol(side)
        assert not protocol.send(bytes(1000)) & activity.FLUSH
        assert protocol.send(bytes(66000)) & activity.FLUSH

    def test_sending_tells_when_a_message_waits(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.queue_messages()
        assert not protocol.send("a") & activity.MESSAGE
        protocol.receive_data(frame(side, TEXT, b"b"))
        assert protocol.send("a") & activity.MESSAGE

    @given(sizes=st.lists(st.sampled_from([0, 1, 100, 1000, 65535, 65536, 70000]), max_size=8))
    @settings(max_examples=30)
    def test_output_keeps_its_order(self, side: Side, sizes: list[int]) -> None:
        protocol = Protocol(side)
        large = PreparedMessage(b"p" * 70000)
        expected = []
        for i, size in enumerate(sizes):
            protocol.send(bytes([i]) * size)
            expected.append((BINARY, bytes([i]) * size))
            if size % 3 == 1:
                protocol.send_prepared(large)
                expected.append((BINARY, b"p" * 70000))
        size = protocol.output_size
        data = output(protocol)
        assert len(data) == size
        assert protocol.output_size == 0
        peer = Protocol(other(side), max_size=None)
        peer.receive_data(data)
        assert [(opcode, payload) for opcode, payload, _ in events(peer)] == expected

    def test_taken_output_does_not_change(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.send("first")
        protocol.send("first")
        taken = protocol.take_output()
        before = bytes(bytearray(taken))
        protocol.send("second")
        assert taken == before


@both_sides
class TestPings:
    def test_pong_gives_the_latency(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.ping(b"x", "waiter", now=10.0)
        protocol.receive_data(frame(side, PONG, b"x"), 12.5)
        assert protocol.acknowledged_pings() == [("waiter", 2.5)]
        assert protocol.acknowledged_pings() == []
        assert protocol.latency == 2.5

    def test_a_later_pong_answers_earlier_pings(self, side: Side) -> None:
        protocol = Protocol(side)
        for i, payload in enumerate([b"a", b"b", b"c"]):
            protocol.ping(payload, payload, now=float(i))
        protocol.receive_data(frame(side, PONG, b"b"), 5.0)
        assert protocol.acknowledged_pings() == [(b"a", 5.0), (b"b", 4.0)]
        assert protocol.latency == 4.0
        assert protocol.abandoned_pings() == [b"c"]

    def test_pongs_that_answer_nothing(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.receive_data(frame(side, PONG, b"x"))
        protocol.ping(b"x", "waiter")
        protocol.receive_data(frame(side, PONG, b"y"))
        assert protocol.acknowledged_pings() == []
        protocol.receive_data(frame(side, PONG, b"x") * 2)
        assert len(protocol.acknowledged_pings()) == 1

    def test_own_payloads_differ(self, side: Side) -> None:
        protocol = Protocol(side)
        payloads = {protocol.ping() for _ in range(100)}
        assert len(payloads) == 100
        assert {len(payload) for payload in payloads} == {4}

    def test_payload_can_be_used_again_once_answered(self, side: Side) -> None:
        protocol = Protocol(side)
        for _ in range(3):
            assert protocol.ping("é") == "é".encode()
            protocol.receive_data(frame(side, PONG, "é".encode()))

    def test_only_the_last_is_answered_while_the_peer_does_not_read(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.pause_writing()
        for i in range(100):
            protocol.receive_data(frame(side, PING, b"%d" % i))
        assert output(protocol) == b""
        protocol.resume_writing()
        assert sent(protocol) == [(PONG, b"99")]
        protocol.resume_writing()
        assert output(protocol) == b""


class TestLimitOnSize:
    @pytest.mark.parametrize(
        "max_size, sizes, accepted",
        [
            (None, [2**20 + 1], True),
            (10, [10], True),
            (10, [11], False),
            (10, [5, 5], True),
            (10, [5, 6], False),
            (0, [0], True),
            (0, [1], False),
            ((10, None), [11], False),
            ((10, 5), [5, 5], True),
            ((10, 5), [6], False),
            ((10, 5), [5, 5, 1], False),
            ((None, 5), [5] * 100, True),
            ((None, 5), [5, 6], False),
            ((None, None), [2**20 + 1], True),
        ],
        ids=str,
    )
    @both_sinks
    def test_forms(self, queue: bool, max_size: Any, sizes: list[int], accepted: bool) -> None:
        protocol = Protocol(Side.CLIENT, max_size=max_size)
        if queue:
            protocol.queue_messages()
        for i, size in enumerate(sizes):
            opcode, fin = (CONT if i else BINARY), i == len(sizes) - 1
            protocol.receive_data(frame(Side.CLIENT, opcode, bytes(size), fin=fin))
        assert (protocol.state is State.OPEN) == accepted
        if not accepted:
            assert isinstance(protocol.parser_exc, PayloadTooBig)

    @pytest.mark.parametrize("max_size", [None, 10, (10, 5), (None, 5)], ids=str)
    def test_can_be_read_back(self, max_size: Any) -> None:
        assert Protocol(Side.CLIENT, max_size=max_size).max_size == max_size

    def test_can_be_set_on_an_open_connection(self) -> None:
        protocol = Protocol(Side.CLIENT, max_size=(100, 50))
        assert (protocol.max_message_size, protocol.max_fragment_size) == (100, 50)
        protocol.max_message_size = 20
        assert protocol.max_size == (20, 50)
        protocol.max_fragment_size = None
        assert protocol.max_size == 20
        protocol.receive_data(frame(Side.CLIENT, BINARY, bytes(20)))
        assert protocol.state is State.OPEN
        protocol.receive_data(header(BINARY, 21))
        assert str(protocol.parser_exc) == "frame with 21 bytes exceeds limit of 20 bytes"
        protocol = Protocol(Side.CLIENT, max_size=None)
        assert (protocol.max_message_size, protocol.max_fragment_size) == (None, None)
        for wrong, error in [(-1, ValueError), ("1", TypeError)]:
            with pytest.raises(error):
                protocol.max_message_size = wrong
        assert protocol.max_size is None

    def test_is_one_mebibyte_by_default(self) -> None:
        protocol = Protocol(Side.CLIENT)
        protocol.receive_data(frame(Side.CLIENT, BINARY, bytes(2**20)))
        assert protocol.state is State.OPEN
        protocol.receive_data(header(BINARY, 2**20 + 1))
        assert protocol.state is State.CLOSING

    def test_control_frames_do_not_count(self) -> None:
        protocol = Protocol(Side.CLIENT, max_size=3)
        ping = frame(Side.CLIENT, PING, bytes(125))
        start = frame(Side.CLIENT, BINARY, b"ab", fin=False)
        protocol.receive_data(start + ping + frame(Side.CLIENT, CONT, b"c"))
        assert protocol.state is State.OPEN

    def test_exception_tells_the_numbers(self) -> None:
        protocol = Protocol(Side.CLIENT, max_size=10)
        protocol.receive_data(frame(Side.CLIENT, BINARY, bytes(6), fin=False) + header(CONT, 7))
        exc = protocol.parser_exc
        assert isinstance(exc, PayloadTooBig)
        assert (exc.size, exc.max_size, exc.current_size) == (7, 10, 6)


class Shift:
    """An extension that claims RSV1: bytes of data frames are shifted by one."""

    name = "shift"

    def __init__(self, log: list[str] | None = None) -> None:
        self.log = [] if log is None else log

    def change(self, frame: Frame, by: int) -> bytes:
        return bytes((byte + by) % 256 for byte in bytes(frame.data))

    def encode(self, frame: Frame) -> Frame:
        self.log.append(f"{self.name} encode {frame.opcode.name}")
        if frame.opcode >= 8:
            return frame
        return dataclasses.replace(frame, data=self.change(frame, 1), rsv1=frame.opcode != 0)

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        self.log.append(f"{self.name} decode {max_size}")
        if frame.opcode >= 8:
            return frame
        if frame.rsv1 != (frame.opcode != 0):
            raise ProtocolError("shift is missing")
        return dataclasses.replace(frame, data=self.change(frame, -1), rsv1=False)


class Expand(Shift):
    """An extension that makes ten bytes of one and doesn't look at the limit."""

    name = "expand"
    obedient = False

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        data = bytes(frame.data) * 10
        if self.obedient and max_size is not None and len(data) > max_size:
            raise PayloadTooBig(len(data), max_size)
        return dataclasses.replace(frame, data=data)


class ObedientExpand(Expand):
    obedient = True


class Broken(Shift):
    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        raise ValueError("a defect")


@both_sides
class TestExtensions:
    @all_paths
    @both_sinks
    def test_transform_both_directions(self, side: Side, path: Path, queue: bool) -> None:
        sender = Protocol(other(side))
        receiver = path.protocol(side, queue=queue)
        sender.extensions = [Shift()]
        receiver.extensions = [Shift()]
        sender.send("žluť")
        sender.send_binary(bytes(100), fin=False)
        sender.send_ping(b"abc")
        sender.send_continuation(bytes(100), fin=True)
        wire = output(sender)
        for cuts in ([], range(1000)):
            path.feed(receiver, chopped(wire, cuts))
            assert receiver.parser_exc is None
            if queue:
                assert messages(receiver) == ["žluť", bytes(200)]
            else:
                assert events(receiver) == [
                    (TEXT, "žluť".encode(), True),
                    (BINARY, bytes(100), False),
                    (PING, b"abc", True),
                    (CONT, bytes(100), True),
                ]
            assert sent(receiver) == [(PONG, b"abc")]

    def test_what_was_sent_carries_the_bits(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.extensions = [Shift()]
        protocol.send(b"\x00")
        first = output(protocol)[0]
        assert first == 0xC2

    def test_are_applied_in_order_and_back(self, side: Side) -> None:
        log: list[str] = []
        first, second = Shift(log), Shift(log)
        first.name, second.name = "first", "second"
        protocol = Protocol(side, max_size=77)
        protocol.extensions = [first, second]
        protocol.send("")
        assert log == ["first encode TEXT", "second encode TEXT"]
        log.clear()
        protocol.receive_data(frame(side, PONG))
        assert log == ["second decode 77", "first decode 77"]

    def test_prepared_messages_pass_through_them(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.extensions = [Shift()]
        protocol.send_prepared(PreparedMessage(b"\x00"))
        assert sent(protocol) == [(BINARY, b"\x01")]

    @pytest.mark.parametrize("rsv", [5, 6, 7])
    def test_bits_that_none_claims_are_refused(self, side: Side, rsv: int) -> None:
        protocol = Protocol(side)
        protocol.extensions = [Shift()]
        protocol.receive_data(frame(side, TEXT, b"b", rsv=rsv))
        assert protocol.close_sent == Close(1002, "reserved bits must be 0")

    def test_bits_on_control_frames_are_refused(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.extensions = [Shift()]
        protocol.receive_data(frame(side, PING, b"b", rsv=4))
        assert protocol.close_sent == Close(1002, "reserved bits must be 0")

    def test_may_be_appended(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.extensions.append(Shift())
        protocol.receive_data(frame(side, TEXT, b"b", rsv=4))
        assert events(protocol) == [(TEXT, b"a", True)]

    def test_faults_they_find_fail_the_connection(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.extensions = [Shift()]
        protocol.receive_data(frame(side, TEXT, b"b"))
        assert protocol.close_sent == Close(1002, "shift is missing")
        assert events(protocol) == []

    @pytest.mark.parametrize("extension", [Expand, ObedientExpand])
    @both_sinks
    def test_size_is_limited_after_decoding(
        self, side: Side, queue: bool, extension: type[Expand]
    ) -> None:
        protocol = PATHS[0].protocol(side, queue=queue, max_size=100)
        protocol.extensions = [extension()]
        protocol.receive_data(frame(side, BINARY, bytes(6), fin=False))
        assert protocol.state is State.OPEN
        protocol.receive_data(frame(side, CONT, bytes(5), fin=False))
        assert protocol.close_sent is not None
        assert protocol.close_sent.code == 1009
        assert isinstance(protocol.parser_exc, PayloadTooBig)
        assert (protocol.parser_exc.current_size, protocol.parser_exc.max_size) == (60, 100)

    @both_sinks
    def test_decoded_text_is_validated(self, side: Side, queue: bool) -> None:
        for fin in (False, True):
            protocol = PATHS[0].protocol(side, queue=queue)
            protocol.extensions = [Shift()]
            protocol.receive_data(frame(side, TEXT, b"\x00", rsv=4, fin=fin))
            assert protocol.close_sent is not None
            assert protocol.close_sent.code == 1007

    @all_paths
    def test_defects_in_them_become_1011(
        self, side: Side, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        protocol = path.protocol(side, queue=True)
        protocol.extensions = [Broken()]
        path.feed(protocol, [frame(side, BINARY, bytes(500))])
        assert protocol.close_sent == Close(1011, "")
        assert isinstance(protocol.parser_exc, ValueError)
        assert [record.getMessage() for record in caplog.records] == ["parser failed"]


class TestDebugLog:
    def test_follows_the_logger_s_level(self, caplog: pytest.LogCaptureFixture) -> None:
        logger = logging.getLogger("tests.level")
        logger.setLevel(logging.INFO)
        protocol = Protocol(Side.CLIENT, logger=logger)
        protocol.queue_messages()
        protocol.receive_data(frame(Side.CLIENT, TEXT, b"quiet"))
        logger.setLevel(logging.DEBUG)
        protocol.receive_data(frame(Side.CLIENT, TEXT, b"loud") + frame(Side.CLIENT, PING))
        protocol.send("sent")
        logger.setLevel(logging.INFO)
        protocol.send("quiet again")
        assert [record.getMessage() for record in caplog.records] == [
            "< TEXT 'loud' [4 bytes]",
            "< PING '' [0 bytes]",
            "> PONG '' [0 bytes]",
            "> TEXT 'sent' [4 bytes]",
        ]
        assert messages(protocol) == ["quiet", "loud"]

    @pytest.mark.parametrize("case", GOOD, ids=lambda case: case[0])
    def test_changes_nothing_else(self, case: Any) -> None:
        logger = logging.getLogger("tests.debug")
        logger.setLevel(logging.DEBUG)
        protocol = Protocol(Side.SERVER, logger=logger)
        protocol.queue_messages(None)
        for opcode, payload, fin in case[1]:
            protocol.receive_data(frame(Side.SERVER, opcode, payload, fin=fin))
        assert messages(protocol) == case[2]

    def test_state_changes_and_the_end(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        protocol = Protocol(Side.SERVER)
        protocol.receive_data(frame(Side.SERVER, CLOSE, close_payload(1000)))
        protocol.receive_eof()
        texts = [record.getMessage() for record in caplog.records]
        assert texts == [
            "= connection is OPEN",
            "< CLOSE 1000 (OK) [2 bytes]",
            "> CLOSE 1000 (OK) [2 bytes]",
            "= connection is CLOSING",
            "> EOF",
            "< EOF",
            "= connection is CLOSED",
            "connection closed",
        ]
        assert {record.name for record in caplog.records} == {"wsproto_fast.server"}


def test_subclass_in_python() -> None:
    class Own(Protocol):
        def __init__(self, side: Side, extra: str, **settings: Any) -> None:
            super().__init__(side, **settings)
            self.extra = extra

    protocol = Own(Side.SERVER, "attribute", max_size=5)
    protocol.receive_data(frame(Side.SERVER, TEXT, b"a"))
    assert protocol.extra == "attribute"
    assert protocol.events_received() == [Frame(Opcode.TEXT, b"a")]


def test_values_may_be_of_subclasses() -> None:
    class Reason(enum.StrEnum):
        BYE = "bye"

    protocol = Protocol(Side.SERVER)
    protocol.send(Reason.BYE)
    protocol.close(CloseCode.GOING_AWAY, Reason.BYE)
    assert sent(protocol) == [(TEXT, b"bye"), (CLOSE, close_payload(1001, "bye"))]
    protocol = Protocol(Side.SERVER)
    protocol.fail(CloseCode.INTERNAL_ERROR, Reason.BYE)
    assert protocol.close_sent == Close(1011, "bye")


def test_masked_input_is_not_altered() -> None:
    data = bytearray(frame(Side.SERVER, BINARY, b"abcdef"))
    before = bytes(data)
    protocol = Protocol(Side.SERVER)
    protocol.receive_data(data)
    protocol.receive_data(memoryview(data)[:4])
    protocol.receive_data(memoryview(data)[4:])
    assert data == before
    assert events(protocol) == [(BINARY, b"abcdef", True)] * 2
    assert xor(before[6:], KEY) == b"abcdef"


class TestGivingUp:
    """What a driver does when its transport is of no use any more."""

    @pytest.mark.parametrize("side", list(Side))
    def test_open(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.set_timeouts(close_timeout=10, now=5)
        protocol.send("unsent")
        error = OSError("broken")
        protocol.give_up(error, now=7)
        assert protocol.take_output() == b""
        assert protocol.transport_action == ABORT
        assert protocol.state is State.CLOSING
        assert protocol.next_timeout() == 17
        with pytest.raises(InvalidState):
            protocol.send("more")
        protocol.give_up(OSError("later"))
        protocol.connection_lost(OSError("last"))
        assert isinstance(protocol.close_exc, ConnectionClosedError)
        assert protocol.close_exc.__cause__ is error
        protocol.give_up(OSError("too late"))
        assert protocol.state is State.CLOSED

    def test_closing(self) -> None:
        protocol = Protocol(Side.SERVER)
        protocol.close(1001)
        protocol.give_up()
        assert protocol.take_output() == b""
        assert protocol.transport_action == ABORT
        protocol.connection_lost()
        assert protocol.close_sent is not None
        assert protocol.close_exc.__cause__ is None

    @pytest.mark.parametrize(
        "protocol", [ServerProtocol(), ClientProtocol(parse_uri("ws://localhost/"))]
    )
    def test_opening(self, protocol: ServerProtocol | ClientProtocol) -> None:
        error = OSError("broken")
        protocol.receive_data(b"G" if protocol.side is Side.SERVER else b"H")
        protocol.give_up(error)
        protocol.connection_lost()
        assert protocol.handshake_exc is error
        assert protocol.transport_action == ABORT
        assert protocol.take_output() == b""

    def test_backlog(self) -> None:
        protocol = Protocol(Side.SERVER)
        protocol.send(bytes(8))  # and a header of 2 bytes
        assert not protocol.limit_backlog(1000, None)
        assert not protocol.limit_backlog(5, 15)
        assert protocol.state is State.OPEN
        assert protocol.limit_backlog(5, 14)
        assert protocol.transport_action == ABORT
        assert isinstance(protocol.parser_exc, ConnectionAbortedError)
