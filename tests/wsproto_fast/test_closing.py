"""The closing handshake, the end of the stream, and giving up."""

from typing import Any

import pytest

from wsproto_fast import (
    Backpressure,
    ClientProtocol,
    Close,
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidState,
    PreparedMessage,
    Protocol,
    ProtocolError,
    ServerProtocol,
    Side,
    Slow,
    State,
    activity,
)
from wsproto_fast.activity import ABORT, ATTENTION
from wsproto_fast.exceptions import InvalidMessage
from wsproto_fast.uri import parse_uri

from .handshake_helpers import head
from .helpers import (
    BINARY,
    CLOSE,
    CONT,
    PATHS,
    PING,
    PONG,
    TEXT,
    Path,
    chopped,
    events,
    frame,
    messages,
    output,
    sent,
)
from .protocol_helpers import GOOD, all_paths, both_sides, both_sinks, close_payload, closed, other


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
        protocol.receive_data(frame(side, TEXT, b"ignored"))
        assert events(protocol) == []

    def test_failing_with_1006_sends_nothing(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.fail(1006)
        assert output(protocol) == b""
        assert protocol.close_sent is None

    def test_a_long_reason_for_failing_is_cut_between_characters(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.fail(1011, "x" + "é" * 100)
        assert protocol.close_sent == Close(1011, "x" + "é" * 61)
        protocol = Protocol(side)
        protocol.fail(1011, "x" * 200)
        assert protocol.close_sent == Close(1011, "x" * 123)

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

    @pytest.mark.parametrize(("ours", "theirs"), [(1000, 4000), (4000, 1000)])
    def test_closing_is_an_error_unless_both_codes_are_good(
        self, side: Side, ours: int, theirs: int
    ) -> None:
        protocol = Protocol(side)
        protocol.close(ours)
        protocol.receive_data(frame(side, CLOSE, close_payload(theirs)))
        protocol.receive_eof()
        assert type(protocol.close_exc) is ConnectionClosedError

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

    @pytest.mark.parametrize("side", list(Side))
    def test_opening_for_a_reason_that_comes_later(self, side: Side) -> None:
        """Until it comes, that is the end of the stream."""
        server = side is Side.SERVER
        protocol = ServerProtocol() if server else ClientProtocol(parse_uri("ws://localhost/"))
        protocol.receive_data(b"G" if server else b"H")
        protocol.give_up()
        error = OSError("broken")
        protocol.connection_lost(error)
        assert isinstance(protocol.handshake_exc, InvalidMessage)
        assert isinstance(protocol.handshake_exc.__cause__, EOFError)
        assert protocol.handshake_exc.__cause__.__cause__ is error
        assert protocol.transport_action == ABORT
        assert protocol.take_output() == b""

    def test_opening_before_the_request_is_answered(self) -> None:
        protocol = ServerProtocol()
        protocol.receive_data(head())
        protocol.give_up()
        assert isinstance(protocol.handshake_exc, ConnectionAbortedError)

    def test_backlog(self) -> None:
        protocol = Protocol(Side.SERVER)
        message = PreparedMessage(bytes(8))  # and a header of 2 bytes
        protocol.pause_writing()
        assert not protocol.offer(message, Backpressure(Slow.WAIT, None), unsent=1000) & ATTENTION
        assert not protocol.offer(message, Backpressure(Slow.WAIT, 15), unsent=5) & ATTENTION
        assert protocol.state is State.OPEN
        assert protocol.offer(message, Backpressure(Slow.WAIT, 24), unsent=5) & ATTENTION
        assert protocol.transport_action == ABORT
        assert isinstance(protocol.parser_exc, ConnectionAbortedError)


@both_sides
@pytest.mark.parametrize("payload", [b"\x03", b"\x03\xed", b"\x03\xe8\xff"])
def test_a_close_frame_at_fault_is_no_event(side: Side, payload: bytes) -> None:
    """Programs that get one look at ``close_rcvd``."""
    protocol = Protocol(side)
    protocol.receive_data(frame(side, CLOSE, payload))
    assert protocol.events_received() == []
    assert protocol.close_rcvd is None
