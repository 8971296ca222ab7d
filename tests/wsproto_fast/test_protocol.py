"""An open connection: frames out, pings, what may be sent when, logs, subclasses."""

import enum
import logging
from typing import Any

import pytest
import websockets.frames
import websockets.protocol
from hypothesis import given, settings
from hypothesis import strategies as st

from wsproto_fast import (
    Close,
    CloseCode,
    ConcurrencyError,
    Frame,
    InvalidState,
    Opcode,
    PreparedMessage,
    Protocol,
    ProtocolError,
    Side,
    State,
    activity,
)

from .helpers import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    events,
    frame,
    messages,
    output,
    sent,
    through_buffer,
)
from .protocol_helpers import GOOD, both_sides, close_payload, other

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
    ("code of another type", "", lambda p: p.close(3000.0), TypeError),
    ("reason of another type", "", lambda p: p.close(1000, b"why"), TypeError),
    ("failing with another type", "", lambda p: p.fail(3000.0), TypeError),
    ("failing for another type", "", lambda p: p.fail(1011, None), TypeError),
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
        with pytest.raises(ValueError, match="empty"):
            Protocol(side).use_read_buffer(bytearray())


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


def test_nothing_received_into_no_buffer():
    assert Protocol(Side.SERVER).buffer_updated(0) == 0


def test_calling_is_getting_a_buffer():
    protocol = Protocol(Side.SERVER)
    for buffer in (protocol(), protocol(-1), protocol(65536), protocol.__call__(sizehint=1)):
        assert buffer is protocol.get_buffer()
    protocol()[:7] = b"\x81\x81\0\0\0\0x"
    protocol.buffer_updated(7)
    assert [frame.data for frame in protocol.events_received()] == [b"x"]
    for wrong in (lambda: protocol(1, 2), lambda: protocol(sizehint=1, more=2)):
        with pytest.raises(TypeError):
            wrong()
