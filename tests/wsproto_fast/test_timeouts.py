"""Deadlines and keepalive, with invented time: nothing here waits."""

from typing import Any

import pytest

from wsproto_fast import Close, ConnectionClosedError, Protocol, Side, State, activity

from .helpers import BINARY, CLOSE, PING, PONG, SIDES, TEXT, frame, output, sent

T0 = 1000.0

both_sides = pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)


def protocol_at(
    side: Side = Side.CLIENT,
    *,
    interval: float | None = 20.0,
    timeout: float | None = 20.0,
    close: float | None = 10.0,
    **settings: Any,
) -> Protocol:
    protocol = Protocol(side, **settings)
    protocol.set_timeouts(ping_interval=interval, ping_timeout=timeout, close_timeout=close, now=T0)
    return protocol


def due(protocol: Protocol) -> float | None:
    """Return when something is due, in seconds after the beginning."""
    when = protocol.next_timeout()
    return None if when is None else when - T0


def ping_payload(protocol: Protocol) -> bytes:
    """Take the one frame that is to be sent, a ping; return its payload."""
    ((opcode, payload),) = sent(protocol)
    assert opcode == PING
    return payload


def answer(protocol: Protocol, payload: bytes, at: float) -> None:
    protocol.receive_data(frame(protocol.side, PONG, payload), T0 + at)


class TestNothingIsDue:
    @both_sides
    def test_without_timeouts(self, side: Side) -> None:
        protocol = Protocol(side)
        assert protocol.next_timeout() is None
        protocol.handle_timeout(1e9)
        protocol.close(now=1e9)
        assert protocol.next_timeout() is None

    def test_with_timeouts_of_none(self) -> None:
        protocol = protocol_at(interval=None, timeout=None, close=None)
        assert due(protocol) is None
        protocol.close(now=T0)
        assert due(protocol) is None

    @both_sides
    def test_after_the_end(self, side: Side) -> None:
        protocol = protocol_at(side)
        protocol.connection_lost()
        assert due(protocol) is None

    @both_sides
    @pytest.mark.parametrize("action", ["fail", "close", "decode"])
    def test_after_the_end_whatever_is_called(self, side: Side, action: str) -> None:
        protocol = protocol_at(side)
        protocol.queue_messages()
        protocol.receive_data(frame(side, BINARY, b"\xff"), T0)
        protocol.receive_eof(T0 + 1)
        protocol.connection_lost()
        if action == "fail":
            protocol.fail(1011, "late", now=T0 + 2)
        elif action == "close":
            protocol.close(now=T0 + 2)
        else:
            protocol.next_message(decode=True)
        assert due(protocol) is None
        assert protocol.state is State.CLOSED

    def test_too_early(self) -> None:
        protocol = protocol_at()
        for seconds in (0.0, 10.0, 19.999):
            assert protocol.handle_timeout(T0 + seconds) == 0
        assert output(protocol) == b""
        assert due(protocol) == 20.0


class TestOpening:
    def test_deadline(self) -> None:
        protocol = Protocol(Side.CLIENT, state=State.CONNECTING)
        protocol.set_timeouts(open_timeout=10, ping_interval=1, now=T0)
        assert due(protocol) == 10.0
        protocol.handle_timeout(T0 + 9)
        assert protocol.handshake_exc is None
        assert protocol.handle_timeout(T0 + 10) & activity.ATTENTION
        assert isinstance(protocol.handshake_exc, TimeoutError)
        assert protocol.transport_action == activity.ABORT
        assert protocol.close_expected()

    def test_nothing_but_the_deadline_is_due_before_opening(self) -> None:
        protocol = Protocol(Side.CLIENT, state=State.CONNECTING)
        protocol.set_timeouts(ping_interval=1, ping_timeout=1, now=T0)
        assert due(protocol) is None

    def test_open_connections_have_no_opening_deadline(self) -> None:
        protocol = Protocol(Side.CLIENT)
        protocol.set_timeouts(open_timeout=10, now=T0)
        assert due(protocol) is None


class TestKeepalive:
    @both_sides
    def test_schedule(self, side: Side) -> None:
        protocol = protocol_at(side)
        for turn in range(3):
            at = 20.0 * (turn + 1)
            assert due(protocol) == at
            assert protocol.handle_timeout(T0 + at) & activity.OUTPUT
            payload = ping_payload(protocol)
            assert len(payload) == 4
            assert due(protocol) == at + 20.0
            # The next ping comes an interval after this one, not after its answer.
            answer(protocol, payload, at + 0.5)
            assert protocol.latency == 0.5

    def test_answer_later_than_the_interval_is_followed_by_a_ping_at_once(self) -> None:
        protocol = protocol_at(interval=5.0)
        protocol.handle_timeout(T0 + 5)
        answer(protocol, ping_payload(protocol), 18.0)
        assert due(protocol) == 18.0
        protocol.handle_timeout(T0 + 18)
        ping_payload(protocol)

    def test_no_answer_in_time(self) -> None:
        protocol = protocol_at()
        protocol.handle_timeout(T0 + 20)
        output(protocol)
        done = protocol.handle_timeout(T0 + 40)
        assert done & activity.ATTENTION
        assert protocol.close_sent == Close(1011, "keepalive ping timeout")
        assert [opcode for opcode, _ in sent(protocol)] == [CLOSE]
        assert due(protocol) == 50.0
        protocol.receive_eof(T0 + 41)
        exc = protocol.close_exc
        assert type(exc) is ConnectionClosedError
        assert (
            str(exc) == "sent 1011 (internal error) keepalive ping timeout; no close frame received"
        )

    @pytest.mark.parametrize(
        "received", [b"\x81", b"\x81\x00", b"\x8a\x00", b"\x82\x7f\x00", b"\x89\x00"], ids=str
    )
    def test_any_byte_is_life(self, received: bytes) -> None:
        protocol = protocol_at()
        protocol.handle_timeout(T0 + 20)
        output(protocol)
        protocol.receive_data(received, T0 + 35)
        output(protocol)
        protocol.handle_timeout(T0 + 40)
        assert protocol.state is State.OPEN
        assert due(protocol) == 55.0
        protocol.handle_timeout(T0 + 55)
        assert protocol.close_sent == Close(1011, "keepalive ping timeout")

    def test_life_before_the_ping_does_not_count(self) -> None:
        protocol = protocol_at()
        protocol.receive_data(frame(Side.CLIENT, TEXT, b"a"), T0 + 19)
        protocol.handle_timeout(T0 + 20)
        protocol.handle_timeout(T0 + 40)
        assert protocol.state is State.CLOSING

    def test_late_caller_gives_the_peer_the_time_it_lost(self) -> None:
        protocol = protocol_at()
        protocol.handle_timeout(T0 + 20)
        payload = ping_payload(protocol)
        # A loop that stood still for 8 seconds couldn't have read the answer.
        protocol.handle_timeout(T0 + 48)
        assert protocol.state is State.OPEN
        assert due(protocol) == 56.0
        answer(protocol, payload, 50.0)
        assert due(protocol) == 50.0

    def test_late_caller_is_given_more_time_once(self) -> None:
        protocol = protocol_at()
        protocol.handle_timeout(T0 + 20)
        protocol.handle_timeout(T0 + 48)
        protocol.handle_timeout(T0 + 56)
        assert protocol.state is State.CLOSING

    def test_a_very_late_caller_waits_no_longer_than_a_timeout(self) -> None:
        protocol = protocol_at()
        protocol.handle_timeout(T0 + 20)
        protocol.handle_timeout(T0 + 10_000)
        assert due(protocol) == 10_020.0

    def test_late_caller_sends_one_ping(self) -> None:
        protocol = protocol_at()
        protocol.handle_timeout(T0 + 500)
        ping_payload(protocol)
        assert due(protocol) == 520.0

    def test_paused_reading_suspends_the_deadline(self) -> None:
        protocol = protocol_at()
        protocol.queue_messages(0)
        protocol.handle_timeout(T0 + 20)
        payload = ping_payload(protocol)
        protocol.receive_data(frame(Side.CLIENT, TEXT, b"a"), T0 + 20)
        assert not protocol.reading_wanted
        for at in (40.0, 60.0, 80.0):
            protocol.handle_timeout(T0 + at)
            assert protocol.state is State.OPEN
            assert due(protocol) == at + 20.0
        protocol.next_message()
        answer(protocol, payload, 81.0)
        assert due(protocol) == 81.0

    def test_silence_after_reading_was_resumed_is_noticed(self) -> None:
        protocol = protocol_at()
        protocol.queue_messages(0)
        protocol.handle_timeout(T0 + 20)
        protocol.receive_data(frame(Side.CLIENT, TEXT, b"a"), T0 + 20)
        protocol.handle_timeout(T0 + 40)
        protocol.next_message()
        protocol.handle_timeout(T0 + 60)
        assert protocol.state is State.CLOSING

    def test_without_deadline_pings_go_on(self) -> None:
        protocol = protocol_at(timeout=None)
        for turn in range(1, 5):
            protocol.handle_timeout(T0 + 20 * turn)
            ping_payload(protocol)
            assert due(protocol) == 20.0 * (turn + 1)
        assert protocol.state is State.OPEN

    def test_without_interval_there_is_none(self) -> None:
        protocol = protocol_at(interval=None)
        assert due(protocol) is None
        protocol.handle_timeout(T0 + 1000)
        assert output(protocol) == b""

    def test_answer_to_a_later_ping_counts(self) -> None:
        protocol = protocol_at()
        protocol.handle_timeout(T0 + 20)
        ping_payload(protocol)
        protocol.ping(b"mine", now=T0 + 21)
        answer(protocol, b"mine", 22.0)
        assert protocol.latency == 1.0
        assert due(protocol) == 40.0

    def test_its_pings_have_no_waiters(self) -> None:
        protocol = protocol_at()
        protocol.handle_timeout(T0 + 20)
        payload = ping_payload(protocol)
        answer(protocol, payload, 21.0)
        assert protocol.acknowledged_pings() == []
        protocol.handle_timeout(T0 + 40)
        assert protocol.abandoned_pings() == []

    @both_sides
    @pytest.mark.parametrize("first", ["ours", "theirs", "failure"])
    def test_ends_with_the_closing_handshake(self, side: Side, first: str) -> None:
        protocol = protocol_at(side, close=100.0)
        protocol.handle_timeout(T0 + 20)
        payload = ping_payload(protocol)
        if first == "ours":
            protocol.close(now=T0 + 21)
        elif first == "theirs":
            protocol.receive_data(frame(side, CLOSE), T0 + 21)
        else:
            protocol.receive_data(b"\xff", T0 + 21)
        output(protocol)
        assert due(protocol) == 121.0
        answer(protocol, payload, 22.0)
        assert due(protocol) == 121.0
        protocol.handle_timeout(T0 + 60)
        assert output(protocol) == b""
        assert due(protocol) == 121.0


@both_sides
class TestClosing:
    def check_deadline(self, protocol: Protocol, at: float) -> None:
        assert due(protocol) == at
        protocol.handle_timeout(T0 + at - 0.5)
        assert protocol.transport_action < activity.CLOSE
        assert protocol.handle_timeout(T0 + at) & activity.ATTENTION
        assert protocol.transport_action == activity.ABORT
        assert due(protocol) is None

    def test_deadline_after_our_close(self, side: Side) -> None:
        protocol = protocol_at(side)
        protocol.close(now=T0 + 5)
        self.check_deadline(protocol, 15.0)
        protocol.connection_lost()
        assert isinstance(protocol.close_exc.__cause__, TimeoutError)
        assert str(protocol.close_exc.__cause__) == "timed out while closing connection"
        assert protocol.close_code == 1006

    def test_deadline_after_theirs(self, side: Side) -> None:
        protocol = protocol_at(side)
        protocol.receive_data(frame(side, CLOSE, b"\x03\xe8"), T0 + 5)
        self.check_deadline(protocol, 15.0)
        protocol.connection_lost()
        assert protocol.close_code == 1000

    def test_deadline_after_a_failure(self, side: Side) -> None:
        protocol = protocol_at(side)
        protocol.fail(1011, now=T0 + 5)
        self.check_deadline(protocol, 15.0)

    def test_deadline_after_bad_input(self, side: Side) -> None:
        protocol = protocol_at(side)
        protocol.receive_data(b"\xff", T0 + 5)
        cause = protocol.parser_exc
        self.check_deadline(protocol, 15.0)
        assert protocol.parser_exc is cause

    def test_one_deadline_for_all_of_it(self, side: Side) -> None:
        protocol = protocol_at(side)
        protocol.close(now=T0 + 5)
        protocol.receive_data(frame(side, TEXT, b"a"), T0 + 6)
        protocol.close(now=T0 + 7)
        protocol.receive_data(frame(side, CLOSE), T0 + 8)
        protocol.fail(1011, now=T0 + 9)
        self.check_deadline(protocol, 15.0)

    def test_nothing_that_comes_later_starts_it_again(self, side: Side) -> None:
        protocol = protocol_at(side)
        protocol.close(now=T0)
        protocol.handle_timeout(T0 + 10)
        protocol.receive_data(frame(side, CLOSE), T0 + 11)
        protocol.close(now=T0 + 12)
        protocol.fail(1011, now=T0 + 13)
        assert due(protocol) is None

    def test_end_of_the_stream_in_time(self, side: Side) -> None:
        protocol = protocol_at(side)
        protocol.close(now=T0)
        protocol.receive_data(frame(side, CLOSE), T0 + 1)
        protocol.receive_eof(T0 + 2)
        assert due(protocol) == 10.0
        assert protocol.transport_action == activity.CLOSE
        protocol.connection_lost()
        assert due(protocol) is None
        assert protocol.transport_action == activity.CLOSE

    @pytest.mark.parametrize("before", ["nothing", "ours", "theirs", "failure"])
    def test_runs_on_after_the_end_of_the_stream(self, side: Side, before: str) -> None:
        """What waits to be written may be what the peer, which half-closed, doesn't read."""
        protocol = protocol_at(side)
        if before == "ours":
            protocol.close(now=T0 + 4)
        elif before == "theirs":
            protocol.receive_data(frame(side, CLOSE), T0 + 4)
        elif before == "failure":
            protocol.receive_data(b"\xff", T0 + 4)
        cause = protocol.parser_exc
        protocol.receive_eof(T0 + 6)
        assert protocol.state is State.CLOSED
        assert protocol.transport_action == activity.CLOSE
        assert due(protocol) == (16.0 if before == "nothing" else 14.0)
        for late in (protocol.receive_eof, protocol.close, protocol.handle_timeout):
            late(now=T0 + 13)
        assert protocol.handle_timeout(T0 + 16) & activity.ATTENTION
        assert protocol.transport_action == activity.ABORT
        assert due(protocol) is None
        protocol.connection_lost(OSError("late"))
        assert not isinstance(protocol.close_exc.__cause__, TimeoutError)
        assert cause is None or protocol.close_exc.__cause__ is cause

    def test_none_is_no_limit(self, side: Side) -> None:
        protocol = protocol_at(side, close=None)
        protocol.receive_eof(T0)
        assert due(protocol) is None
        protocol.handle_timeout(T0 + 1e9)
        assert protocol.transport_action == activity.CLOSE

    def test_connection_lost_leaves_no_time_limit(self, side: Side) -> None:
        protocol = protocol_at(side)
        protocol.close(now=T0)
        assert due(protocol) == 10.0
        protocol.connection_lost()
        assert due(protocol) is None
        protocol.handle_timeout(T0 + 100)
        assert protocol.transport_action == activity.CLOSE
        assert not isinstance(protocol.parser_exc, TimeoutError)
