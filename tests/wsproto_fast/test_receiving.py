"""What comes of received bytes, whichever way they come: messages, and the peer's faults."""

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsproto_fast import (
    ConnectionClosedError,
    PayloadTooBig,
    Protocol,
    ProtocolError,
    Side,
    State,
    TooManyFragments,
    activity,
)

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
    sent,
    xor,
)
from .protocol_helpers import GOOD, LIMIT, all_paths, both_sides, both_sinks, close_payload

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


# ---------------------------------------------------------------------- large frames

# Beyond what is received into the place of a message, and what is received there at once.
HUGE = 600_000
BORDERS = [
    *range(1, 20),
    65_535,
    65_536,
    65_537,
    65_550,
    131_073,
    262_144,
    *range(262_157, 262_160),
]


@both_sides
@pytest.mark.parametrize("opcode", [BINARY, TEXT])
@pytest.mark.parametrize("read_size", [4096, 65_536, 1 << 18])
def test_received_into_their_place(side: Side, opcode: int, read_size: int) -> None:
    payload = bytes(i * 7 & 0x7F for i in range(1000)) * (HUGE // 1000)
    wire = frame(side, opcode, payload)
    expected = payload if opcode == BINARY else payload.decode()
    for cut in [*BORDERS, *(len(wire) - n for n in (1, 2, 65_535, 65_536, 65_537))]:
        path = Path("buffer", PATHS[1].feed, read_size)
        protocol = path.protocol(side, queue=True)
        # The next one begins right behind it.
        path.feed(protocol, chopped(wire + frame(side, BINARY, b"next"), (cut,)))
        assert messages(protocol) == [expected, b"next"]


@both_sides
def test_room_follows_what_has_arrived(side: Side) -> None:
    protocol = Protocol(side, max_size=None)
    protocol.queue_messages(None, max_bytes=None)
    protocol.use_read_buffer(memoryview(bytearray(65_536)))
    wire = frame(side, BINARY, bytes(1 << 22))
    PATHS[1].feed(protocol, [wire[:20]])
    assert len(protocol.get_buffer()) <= 65_536
    position, reads = 20, 0
    while position < len(wire):
        room = protocol.get_buffer()
        size = min(len(room), len(wire) - position)
        room[:size] = wire[position : position + size]
        protocol.buffer_updated(size)
        position += size
        reads += 1
    assert reads < 25
    assert messages(protocol) == [bytes(1 << 22)]


@both_sides
@pytest.mark.parametrize("read_size", [1000, 4096, 65_536, 1 << 18])
def test_text_that_is_not_ascii_here_and_there(side: Side, read_size: int) -> None:
    # What is received at once is ASCII, or it isn't; characters are cut at each place.
    text = "".join(
        "x" * (read_size + offset) + character
        for character in ("é", "€", "\U0001f600", "\uffff", "\u0800", "\ud7ff", "\U0010ffff")
        for offset in range(-20, 5)
    )
    path = Path("buffer", PATHS[1].feed, read_size)
    protocol = path.protocol(side, queue=True, max_size=None)
    path.feed(protocol, [frame(side, TEXT, text.encode())])
    assert messages(protocol) == [text]


@both_sides
@pytest.mark.parametrize("read_size", [4096, 1 << 18])
@pytest.mark.parametrize(
    "bad", [b"\xff", b"\xc3x", b"\xe2\x82", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe0\x80\x80"]
)
def test_long_text_fails_where_it_is_bad(side: Side, read_size: int, bad: bytes) -> None:
    for place in (0, 1, 5000, 262_100, 262_143, 262_144, 400_000, HUGE):
        payload = bytearray(("x" * 50 + "é€ \U0001f600").encode() * (HUGE // 40))[:HUGE]
        begin = place
        while begin < len(payload) and payload[begin] & 0xC0 == 0x80:
            begin += 1
        payload[begin:begin] = bad
        del payload[HUGE + len(bad) :]
        path = Path("buffer", PATHS[1].feed, read_size)
        protocol = path.protocol(side, queue=True)
        path.feed(protocol, [frame(side, TEXT, bytes(payload))])
        with pytest.raises(UnicodeDecodeError) as expected:
            payload.decode()
        failure = protocol.parser_exc
        assert isinstance(failure, UnicodeDecodeError)
        assert (failure.start, failure.reason) == (expected.value.start, expected.value.reason)
        assert protocol.state is not State.OPEN
