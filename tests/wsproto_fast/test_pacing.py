"""What waits while writing is paused: when it leaves, behind what, and for how long it may wait."""

from __future__ import annotations

from typing import Any

import pytest

from wsproto_fast import (
    Backpressure,
    Frame,
    PerMessageDeflate,
    PreparedMessage,
    Protocol,
    Side,
    Slow,
    State,
)
from wsproto_fast.activity import ABORT, ATTENTION, HALF_CLOSE, KEEP
from wsproto_fast.exceptions import (
    ConcurrencyError,
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidState,
)
from wsproto_fast.frames import CloseCode

from .helpers import BINARY, CLOSE, CONT, PING, PONG, TEXT, frame, messages, output, parse, sent

DROP = Backpressure(Slow.DROP_OLDEST)


def waiting(*texts: str, side: Side = Side.SERVER, terms: Backpressure = DROP) -> Protocol:
    """Return a connection on which messages wait."""
    protocol = Protocol(side)
    protocol.queue_messages()
    protocol.set_timeouts(close_timeout=10, now=0)
    protocol.pause_writing()
    for text in texts:
        protocol.offer(PreparedMessage(text), terms)
    assert protocol.output_size == 0
    return protocol


class TestOrder:
    def test_pings_and_pongs_pass(self) -> None:
        protocol = waiting("a", "b")
        protocol.ping(b"1")
        protocol.send_pong(b"2")
        protocol.receive_data(frame(Side.SERVER, PING, b"3"))
        assert sent(protocol) == [(PING, b"1"), (PONG, b"2")]
        protocol.resume_writing()
        assert sent(protocol) == [(PONG, b"3"), (TEXT, b"a"), (TEXT, b"b")]

    @pytest.mark.parametrize("how", ["close", "send_close"])
    @pytest.mark.parametrize("side", list(Side))
    def test_the_applications_close_follows(self, side: Side, how: str) -> None:
        protocol = waiting("a", "b", side=side)
        getattr(protocol, how)(1001, "bye")
        assert protocol.state is State.CLOSING
        assert protocol.output_size == 0
        assert protocol.transport_action == KEEP
        with pytest.raises(InvalidState):
            protocol.send("c")
        protocol.resume_writing()
        close = (1001).to_bytes(2, "big") + b"bye"
        assert sent(protocol) == [(TEXT, b"a"), (TEXT, b"b"), (CLOSE, close)]
        protocol.receive_data(frame(side, CLOSE, close))
        protocol.receive_eof()
        assert isinstance(protocol.close_exc, ConnectionClosedOK)

    def test_a_close_that_waits_has_its_deadline(self) -> None:
        protocol = waiting("a")
        protocol.close(now=1)
        assert protocol.next_timeout() == 11
        protocol.handle_timeout(11)
        assert protocol.transport_action == ABORT
        assert protocol.backlog_messages == 0
        assert sent(protocol) == [(CLOSE, (1000).to_bytes(2, "big"))]
        protocol.resume_writing()
        assert output(protocol) == b""
        protocol.connection_lost()
        assert isinstance(protocol.close_exc, ConnectionClosedError)

    @pytest.mark.parametrize("closing", [False, True])
    def test_the_peers_close_takes_its_place(self, closing: bool) -> None:
        protocol = waiting("a", "b")
        if closing:
            protocol.close(1001)
        protocol.receive_data(frame(Side.SERVER, CLOSE, (4000).to_bytes(2, "big")))
        assert protocol.backlog_messages == 0
        code = 1001 if closing else 4000
        assert sent(protocol) == [(CLOSE, code.to_bytes(2, "big"))]
        assert protocol.transport_action == HALF_CLOSE
        protocol.resume_writing()
        assert output(protocol) == b""

    @pytest.mark.parametrize("closing", [False, True])
    def test_so_does_a_failure(self, closing: bool) -> None:
        protocol = waiting("a", "b")
        if closing:
            protocol.close(1001)
        protocol.receive_data(frame(Side.SERVER, 3))
        code = 1001 if closing else 1002
        ((opcode, payload),) = sent(protocol)
        assert (opcode, int.from_bytes(payload[:2], "big")) == (CLOSE, code)
        protocol.resume_writing()
        assert output(protocol) == b""

    @pytest.mark.parametrize("closing", [False, True])
    @pytest.mark.parametrize("end", ["receive_eof", "give_up", "connection_lost"])
    def test_and_the_end_of_the_connection(self, end: str, closing: bool) -> None:
        protocol = waiting("a", "b")
        if closing:
            protocol.close(1001)
        getattr(protocol, end)()
        expected = [(CLOSE, (1001).to_bytes(2, "big"))] * (closing and end == "receive_eof")
        assert sent(protocol) == expected
        protocol.resume_writing()
        assert output(protocol) == b""
        assert protocol.backlog_messages == 0

    def test_state_that_a_driver_sets(self) -> None:
        protocol = waiting("a")
        protocol.state = State.CLOSED
        protocol.resume_writing()
        assert output(protocol) == b""

    def test_what_leaves_leaves_in_pieces(self) -> None:
        """Each waits for the network again."""
        protocol = waiting(*("x" * 10_000 for _ in range(20)))
        protocol.resume_writing()
        left = 16
        for _ in range(2):
            assert 30_000 < protocol.output_size < 45_000
            assert protocol.backlog_messages == left
            for _ in range(2):  # the first frame is a piece of its own
                protocol.take_output()
            left -= 4
        protocol.pause_writing()
        assert len(sent(protocol)) == 4
        assert protocol.backlog_messages == left
        protocol.resume_writing()
        assert len(parse(b"".join(protocol.data_to_send()))) == left
        assert protocol.backlog_messages == 0

    def test_what_is_sent_while_it_leaves(self) -> None:
        protocol = waiting(*("x" * 20_000 for _ in range(4)))
        protocol.resume_writing()
        protocol.send("behind")
        assert [payload[:6] for _, payload in sent(protocol)] == [b"xxxxxx"] * 4 + [b"behind"]
        protocol.send("at once")
        assert sent(protocol) == [(TEXT, b"at once")]


class TestFragments:
    def test_begin_behind_what_waits(self) -> None:
        protocol = waiting("a", "b")
        protocol.send_text("c", fin=False)
        protocol.send_continuation("d", fin=True)
        assert sent(protocol) == [(TEXT, b"a"), (TEXT, b"b"), (TEXT, b"c"), (CONT, b"d")]

    @pytest.mark.parametrize("paused", [False, True])
    def test_others_wait_for_their_end(self, paused: bool) -> None:
        protocol = Protocol(Side.SERVER)
        protocol.send_text("é".encode()[:1], fin=False)
        if paused:
            protocol.pause_writing()
        protocol.offer(PreparedMessage("x"), DROP)
        protocol.offer(PreparedMessage("y"), DROP)
        protocol.send_continuation("é".encode()[1:], fin=False)
        protocol.ping(b"p")
        protocol.send_continuation("", fin=True)
        expected = [
            (TEXT, b"\xc3"),
            (CONT, b"\xa9"),
            (PING, b"p"),
            (CONT, b""),
            (TEXT, b"x"),
            (TEXT, b"y"),
        ]
        if paused:
            assert sent(protocol) == expected[:4]
            protocol.resume_writing()
            assert sent(protocol) == expected[4:]
        else:
            assert sent(protocol) == expected

    def test_with_a_policy_of_the_connection(self) -> None:
        protocol = Protocol(Side.SERVER)
        protocol.set_backpressure(DROP)
        protocol.send_text("é".encode()[:1], fin=False)
        protocol.send(b"text", True)
        protocol.send_prepared(PreparedMessage(b"prepared"))
        with pytest.raises(UnicodeDecodeError):
            protocol.send(b"\xff", True)
        protocol.send_continuation("é".encode()[1:], fin=True)
        assert sent(protocol) == [
            (TEXT, b"\xc3"),
            (CONT, b"\xa9"),
            (TEXT, b"text"),
            (BINARY, b"prepared"),
        ]

    @pytest.mark.parametrize("terms", [Backpressure(), Backpressure(Slow.WAIT)])
    def test_nothing_waits_for_them_otherwise(self, terms: Backpressure) -> None:
        protocol = Protocol(Side.SERVER)
        protocol.send_text("a", fin=False)
        for send in (
            lambda: protocol.offer(PreparedMessage("x"), terms),
            lambda: protocol.send_prepared(PreparedMessage("x")),
            lambda: protocol.send("x"),
        ):
            with pytest.raises(ConcurrencyError):
                send()

    def test_closing_in_the_middle(self) -> None:
        protocol = Protocol(Side.SERVER)
        protocol.send_text("a", fin=False)
        protocol.offer(PreparedMessage("x"), DROP)
        protocol.close()
        assert [opcode for opcode, _ in sent(protocol)] == [TEXT, CLOSE]

    def test_who_sends_them_does_not_wait_for_what_waits_for_them(self) -> None:
        protocol = Protocol(Side.SERVER)
        protocol.send_text("a", fin=False)
        protocol.offer(PreparedMessage("x"), DROP)
        mark = protocol.backlog_mark
        assert not protocol.is_waiting(mark)
        protocol.send_continuation("b", fin=True)
        assert protocol.is_waiting(mark)
        assert sent(protocol) == [(TEXT, b"a"), (CONT, b"b"), (TEXT, b"x")]
        assert not protocol.is_waiting(mark)

    def test_a_close_frame_in_the_middle_waits_for_nothing(self) -> None:
        protocol = Protocol(Side.SERVER)
        protocol.send_text("a", fin=False)
        protocol.offer(PreparedMessage("x"), DROP)
        protocol.send_close(1001)
        assert [opcode for opcode, _ in sent(protocol)] == [TEXT, CLOSE]
        assert protocol.backlog_messages == 0

    @pytest.mark.parametrize("text", [True, False])
    def test_what_cannot_be_sent_has_nothing_leave(self, text: bool) -> None:
        protocol = waiting("a")
        send = protocol.send_text if text else protocol.send_binary
        with pytest.raises(TypeError):
            send(7)  # type: ignore[arg-type] # wrong on purpose
        if text:
            with pytest.raises(UnicodeDecodeError):
                send(b"\xff", False)
        assert (protocol.output_size, protocol.backlog_messages) == (0, 1)
        send(b"b")
        assert [payload for _, payload in sent(protocol)] == [b"a", b"b"]


class TestMessages:
    @pytest.mark.parametrize("message", ["é", "x", b"b", bytearray(b"b"), memoryview(b"bb")[::2]])
    @pytest.mark.parametrize("text", [None, True, False])
    def test_are_taken_as_they_are(self, message: Any, text: bool | None) -> None:
        """Whatever becomes of the memory meanwhile, they are what would have been sent at once."""
        at_once, later = Protocol(Side.SERVER), Protocol(Side.SERVER)
        at_once.send(message, text)
        later.set_backpressure(DROP)
        later.pause_writing()
        later.send(message, text)
        if isinstance(message, bytearray):
            message[:] = b"c"
        later.resume_writing()
        assert sent(later) == sent(at_once)

    @pytest.mark.parametrize(
        ("message", "text", "error"),
        [(1, None, TypeError), (None, None, TypeError), (b"\xff", True, UnicodeDecodeError)],
    )
    def test_what_is_wrong_is_told_at_once(
        self, message: Any, text: bool | None, error: type[Exception]
    ) -> None:
        protocol = Protocol(Side.SERVER)
        protocol.set_backpressure(DROP)
        protocol.pause_writing()
        with pytest.raises(error):
            protocol.send(message, text)
        assert protocol.backlog_messages == 0

    @pytest.mark.parametrize("takeover", [False, True], ids=["alone", "contexts"])
    @pytest.mark.parametrize("side", list(Side))
    def test_compressed_ones_inflate(self, side: Side, takeover: bool) -> None:
        """Whatever was dropped: they are compressed when they leave."""
        protocol = Protocol(side)
        peer = Protocol(Side.CLIENT if side is Side.SERVER else Side.SERVER)
        for end in (protocol, peer):
            end.extensions = [PerMessageDeflate(not takeover, not takeover, 15, 15)]
        peer.queue_messages(None, max_bytes=None)
        expected = []
        for turn in range(10):
            protocol.pause_writing()
            for number in range(20):
                text = f"message {number} of turn {turn} " * 20
                if number % 3 == 0:
                    protocol.offer(PreparedMessage(text), Backpressure(Slow.DROP_OLDEST, 8000))
                else:
                    protocol.set_backpressure(Backpressure(Slow.DROP_OLDEST, 8000))
                    protocol.send(text)
            expected += [f"message {number} of turn {turn} " * 20 for number in range(20)]
            protocol.resume_writing()
            protocol.send(f"between {turn} " * 50)
            expected.append(f"between {turn} " * 50)
            peer.receive_data(output(protocol))
        received = messages(peer)
        assert received == [text for text in expected if text in set(received)]
        assert len(expected) - len(received) == sum(protocol.dropped.values()) > 0
        assert peer.state is State.OPEN

    def test_an_extension_that_fails(self) -> None:
        """Nobody is there to be told when it does, but whoever uses the connection next."""
        error = ZeroDivisionError()

        class Broken:
            def encode(self, frame: Frame) -> Frame:
                if frame.opcode == TEXT:
                    raise error
                return frame

        protocol = waiting("a", "b")
        protocol.extensions = [Broken()]
        protocol.resume_writing()
        assert [(opcode, payload[:2]) for opcode, payload in sent(protocol)] == [
            (CLOSE, (1011).to_bytes(2, "big"))
        ]
        protocol.connection_lost()
        assert protocol.close_exc.__cause__ is error

    def test_nothing_follows_an_extension_that_fails(self) -> None:
        class Broken:
            def encode(self, frame: Frame) -> Frame:
                if frame.data == b"a":
                    raise ZeroDivisionError
                return frame

        protocol = waiting("a")
        protocol.extensions = [Broken()]
        with pytest.raises(InvalidState):
            protocol.send_text("b", fin=False)
        assert [opcode for opcode, _ in sent(protocol)] == [CLOSE]


class TestClosing:
    def test_close(self) -> None:
        terms = Backpressure(Slow.CLOSE, 400)
        protocol = waiting("a", "b", terms=terms)
        bits = protocol.offer(PreparedMessage("c"), terms, now=5)
        assert bits & ATTENTION
        assert protocol.state is State.CLOSING
        ((opcode, payload),) = sent(protocol)
        assert opcode == CLOSE
        assert payload[:2] == CloseCode.TRY_AGAIN_LATER.to_bytes(2, "big")
        assert protocol.dropped == {Slow.CLOSE: 3}
        assert protocol.transport_action == KEEP
        assert protocol.next_timeout() == 5
        protocol.handle_timeout(7)
        assert protocol.next_timeout() == 17
        protocol.handle_timeout(17)
        assert protocol.transport_action == ABORT
        protocol.connection_lost()
        assert isinstance(protocol.close_exc, ConnectionClosedError)
        assert isinstance(protocol.close_exc.__cause__, ConnectionAbortedError)

    def test_a_peer_that_answers(self) -> None:
        protocol = Protocol(Side.CLIENT)
        protocol.set_backpressure(Backpressure(Slow.CLOSE, 0))
        protocol.pause_writing()
        protocol.send("x")
        ((_, payload),) = sent(protocol)
        protocol.handle_timeout(1)
        protocol.receive_data(frame(Side.CLIENT, CLOSE, payload))
        protocol.receive_eof()
        assert protocol.close_code == 1013

    def test_in_the_middle_of_fragments(self) -> None:
        protocol = Protocol(Side.SERVER)
        protocol.send_text("a", fin=False)
        protocol.offer(PreparedMessage("x"), Backpressure(Slow.CLOSE, 0))
        (_, (opcode, payload)) = sent(protocol)
        assert (opcode, payload[:2]) == (CLOSE, (1013).to_bytes(2, "big"))
        with pytest.raises(InvalidState):
            protocol.send_continuation("b", fin=True)
        assert output(protocol) == b""

    def test_no_deadline_after_the_end_of_the_connection(self) -> None:
        protocol = waiting()
        protocol.offer(PreparedMessage("a"), Backpressure(Slow.CLOSE, 0))
        protocol.connection_lost()
        protocol.handle_timeout(1.0)
        assert protocol.next_timeout() is None

    def test_the_write_deadline_is_earlier(self) -> None:
        protocol = Protocol(Side.SERVER)
        protocol.set_timeouts(close_timeout=10, now=0)
        protocol.set_backpressure(Backpressure(Slow.CLOSE, 0), write_deadline=2)
        protocol.pause_writing()
        protocol.send("x")
        output(protocol)
        protocol.handle_timeout(100, progress=1)
        assert protocol.transport_action == KEEP
        protocol.handle_timeout(102, progress=2)
        assert protocol.transport_action == ABORT

    def test_waiting_has_a_limit(self) -> None:
        terms = Backpressure(Slow.WAIT, 500)
        protocol = waiting("a", "b", terms=DROP)
        assert protocol.offer(PreparedMessage("c"), terms, unsent=100) & ATTENTION == 0
        assert protocol.offer(PreparedMessage("d"), terms, unsent=100) & ATTENTION
        assert protocol.transport_action == ABORT
        assert protocol.dropped == {}
        protocol.connection_lost()
        assert isinstance(protocol.close_exc.__cause__, ConnectionAbortedError)

    def test_nothing_waits_for_a_large_message(self) -> None:
        protocol = Protocol(Side.SERVER)
        for slow in Slow:
            protocol.offer(PreparedMessage(bytes(2**20)), Backpressure(slow, 0))
        assert len(parse(output(protocol))) == len(Slow)
        assert protocol.state is State.OPEN


class TestWriteDeadline:
    def paused(self, now: float = 100.0) -> Protocol:
        """Return a connection that the network has begun to take nothing of, at a time."""
        protocol = Protocol(Side.SERVER)
        protocol.set_backpressure(write_deadline=8)
        assert protocol.waits_to_send
        assert protocol.next_timeout() is None
        assert not protocol.progress_wanted
        protocol.pause_writing()
        assert protocol.progress_wanted
        assert protocol.next_timeout() == 0  # as last told
        protocol.handle_timeout(now, progress=5)
        return protocol

    def test_nothing_is_taken(self) -> None:
        protocol = self.paused()
        for now in (102, 104, 106):
            assert protocol.next_timeout() == now
            protocol.handle_timeout(now, progress=5)
        assert protocol.state is State.OPEN
        protocol.handle_timeout(108, progress=5)
        assert protocol.transport_action == ABORT
        protocol.connection_lost()
        assert isinstance(protocol.close_exc, ConnectionClosedError)
        assert isinstance(protocol.close_exc.__cause__, TimeoutError)
        assert "8 seconds" in str(protocol.close_exc.__cause__)

    def test_something_is(self) -> None:
        protocol = self.paused()
        for progress, now in enumerate(range(102, 200, 2)):
            protocol.handle_timeout(now, progress=progress // 3)
            assert protocol.state is State.OPEN

    def test_writing_resumes(self) -> None:
        protocol = self.paused()
        protocol.handle_timeout(106, progress=5)
        protocol.resume_writing()
        assert protocol.next_timeout() is None
        protocol.pause_writing()
        protocol.handle_timeout(120, progress=5)
        protocol.handle_timeout(122, progress=5)
        assert protocol.state is State.OPEN

    def test_the_caller_comes_late(self) -> None:
        """It may not have had time to write."""
        protocol = self.paused()
        protocol.handle_timeout(200, progress=5)
        assert protocol.state is State.OPEN
        for now in (202, 204, 206, 208):
            protocol.handle_timeout(now, progress=5)
        assert protocol.transport_action == ABORT

    @pytest.mark.parametrize("every", [3, 5, 50])
    def test_the_caller_always_comes_late(self, every: float) -> None:
        """It has had time to write in between, so that this isn't for ever."""
        protocol = self.paused()
        looks = 0
        while protocol.transport_action != ABORT:
            looks += 1
            protocol.handle_timeout(100 + looks * every, progress=5)
            assert looks < 8

    def test_a_deadline_that_clocks_can_hardly_tell(self) -> None:
        protocol = Protocol(Side.SERVER)
        protocol.set_backpressure(write_deadline=1e-6)
        protocol.pause_writing()
        for now in (100, 100.001, 100.002):
            assert protocol.state is State.OPEN
            protocol.handle_timeout(now, progress=5)
        assert protocol.transport_action == ABORT

    def test_a_driver_that_cannot_tell(self) -> None:
        protocol = Protocol(Side.SERVER)
        protocol.set_backpressure(write_deadline=8)
        protocol.pause_writing()
        for now in range(0, 10, 2):
            assert protocol.state is State.OPEN
            protocol.handle_timeout(now)
        assert protocol.transport_action == ABORT

    def test_set_while_paused(self) -> None:
        protocol = Protocol(Side.SERVER)
        protocol.pause_writing()
        assert not protocol.progress_wanted
        protocol.set_backpressure(write_deadline=8)
        assert protocol.progress_wanted
        protocol.set_backpressure()
        assert not protocol.progress_wanted

    def test_while_closing_too(self) -> None:
        protocol = self.paused()
        protocol.close()
        for now in (102, 104, 106, 108):
            protocol.handle_timeout(now, progress=5)
        assert protocol.transport_action == ABORT

    def test_not_after_the_end_of_the_stream(self) -> None:
        """From there it is the close deadline that counts."""
        protocol = self.paused()
        protocol.receive_eof()
        for now in range(102, 120, 2):
            protocol.handle_timeout(now, progress=5)
        assert protocol.transport_action != ABORT
        assert not protocol.progress_wanted

    def test_not_after_the_end_of_the_connection(self) -> None:
        protocol = self.paused()
        protocol.connection_lost()
        assert protocol.next_timeout() is None
        protocol.set_backpressure(write_deadline=8)
        assert protocol.next_timeout() is None
        protocol.pause_writing()
        assert protocol.next_timeout() is None

    def test_times_that_are_not_binary_fractions(self) -> None:
        """4.1 - 1.1 is less than 3."""
        protocol = Protocol(Side.SERVER)
        protocol.set_timeouts(close_timeout=10, now=1.1)
        protocol.set_backpressure(write_deadline=3)
        protocol.pause_writing()
        now = 1.1
        while protocol.transport_action != ABORT:
            protocol.handle_timeout(now)
            due = protocol.next_timeout()
            assert due is not None
            assert due > now
            now = due
        assert now <= 11.1 + 3

    @pytest.mark.parametrize(
        ("deadline", "error"),
        [(0, ValueError), (-1, ValueError), ("1", TypeError), (True, TypeError)],
    )
    def test_wrong_deadlines(self, deadline: Any, error: type[Exception]) -> None:
        with pytest.raises(error, match="write_deadline"):
            Protocol(Side.SERVER).set_backpressure(write_deadline=deadline)


def test_a_connection_needs_a_policy() -> None:
    with pytest.raises(ValueError, match="policy"):
        Protocol(Side.SERVER).set_backpressure(Backpressure(None))


@pytest.mark.parametrize("slow", list(Slow))
def test_a_closed_connection(slow: Slow) -> None:
    protocol = Protocol(Side.SERVER)
    protocol.close()
    with pytest.raises(InvalidState):
        protocol.offer(PreparedMessage("x"), Backpressure(slow))
