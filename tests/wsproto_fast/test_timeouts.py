"""Deadlines and keepalive, with invented time: nothing here waits."""

from typing import Any

import pytest

from wsproto_fast import (
    Close,
    ConnectionClosedError,
    Protocol,
    ServerProtocol,
    Side,
    State,
    activity,
)
from wsproto_fast.exceptions import InvalidState

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

    def test_closed_before_it_is_open(self) -> None:
        protocol = ServerProtocol()
        protocol.set_timeouts(open_timeout=10, close_timeout=5, now=T0)
        protocol.receive_data(b"GET / HT", T0)
        protocol.close(now=T0 + 1)
        assert protocol.transport_action == activity.CLOSE
        assert protocol.close_expected()
        assert due(protocol) == 6.0
        with pytest.raises(InvalidState):
            protocol.send_response(protocol.reject(503, ""))
        protocol.receive_data(b"TP/1.1\r\n\r\n", T0 + 2)
        assert protocol.events_received() == []
        exc = protocol.handshake_exc
        protocol.connection_lost()
        assert protocol.handshake_exc is exc
        assert isinstance(exc, ConnectionAbortedError)
        assert output(protocol) == b""

    def test_closed_after_a_refusal(self) -> None:
        protocol = ServerProtocol()
        protocol.set_timeouts(close_timeout=5, now=T0)
        protocol.receive_data(b"GET", T0)
        protocol.send_response(protocol.reject(403, ""), T0)
        protocol.close(now=T0 + 1)
        assert protocol.transport_action == activity.HALF_CLOSE
        assert due(protocol) == 5.0
        assert b" 403 " in output(protocol)

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
    @pytest.mark.parametrize("buffer", [False, True])
    def test_any_byte_is_life(self, received: bytes, buffer: bool) -> None:
        protocol = protocol_at()
        protocol.handle_timeout(T0 + 20)
        output(protocol)
        if buffer:
            protocol.get_buffer(-1)[: len(received)] = received
            protocol.buffer_updated(len(received), T0 + 35)
        else:
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

    @pytest.mark.parametrize("timeout", [None, 20.0])
    def test_goes_on_when_pings_are_forgotten(self, timeout: float | None) -> None:
        protocol = protocol_at(timeout=timeout)
        protocol.handle_timeout(T0 + 20)
        payload = ping_payload(protocol)
        protocol.ping(b"1", "waiter", now=T0 + 20)
        assert protocol.abandoned_pings() == ["waiter"]
        output(protocol)
        if timeout is not None:
            answer(protocol, payload, 25)
            assert protocol.latency == 5
        protocol.handle_timeout(T0 + 40)
        ping_payload(protocol)
        assert protocol.state is State.OPEN

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


class TestSetOnceMore:
    def test_before_a_ping(self) -> None:
        protocol = protocol_at()
        protocol.set_timeouts(ping_interval=5, ping_timeout=3, close_timeout=1, now=T0 + 7)
        assert due(protocol) == 12.0
        protocol.handle_timeout(T0 + 12)
        assert due(protocol) == 15.0
        protocol.handle_timeout(T0 + 15)
        assert due(protocol) == 16.0

    def test_while_a_ping_waits(self) -> None:
        protocol = protocol_at(timeout=None)
        protocol.handle_timeout(T0 + 20)
        payload = ping_payload(protocol)
        protocol.set_timeouts(ping_interval=100, ping_timeout=5, now=T0 + 30)
        assert due(protocol) == 35.0
        protocol.set_timeouts(ping_interval=None, ping_timeout=None, now=T0 + 31)
        assert due(protocol) is None
        protocol.set_timeouts(ping_interval=None, ping_timeout=5, now=T0 + 32)
        assert due(protocol) == 37.0
        answer(protocol, payload, 33.0)
        assert due(protocol) is None

    def test_the_end_lasts_as_long_as_it_would_have(self) -> None:
        protocol = protocol_at()
        protocol.close(now=T0)
        protocol.set_timeouts(ping_interval=1, close_timeout=100, now=T0 + 1)
        assert due(protocol) == 10.0

    def test_opening_deadline_stays(self) -> None:
        protocol = Protocol(Side.CLIENT, state=State.CONNECTING)
        protocol.set_timeouts(open_timeout=10, now=T0)
        protocol.set_timeouts(ping_interval=1, now=T0 + 5)
        assert due(protocol) == 10.0
        protocol.set_timeouts(open_timeout=None, now=T0 + 5)
        assert due(protocol) is None


class TestUnanswered:
    """A peer that sends bytes, but no Pong: it is given four times as long."""

    @pytest.mark.parametrize("step", [1.0, 5.0, 19.0])
    def test_frames(self, step: float) -> None:
        protocol = protocol_at()
        protocol.handle_timeout(T0 + 20)
        ping_payload(protocol)
        at = 20.0
        while protocol.state is State.OPEN:
            at += step
            protocol.receive_data(frame(Side.CLIENT, TEXT, b"a"), T0 + at)
            while (when := protocol.next_timeout()) is not None and when <= T0 + at + step:
                protocol.handle_timeout(when)
                assert output(protocol) == b"" or protocol.state is State.CLOSING
                if protocol.state is State.CLOSING:
                    break
        assert when == T0 + 100.0
        assert protocol.close_sent == Close(1011, "keepalive ping timeout")

    def test_answer_just_in_time(self) -> None:
        protocol = protocol_at()
        protocol.handle_timeout(T0 + 20)
        payload = ping_payload(protocol)
        for at in range(21, 100):
            protocol.receive_data(frame(Side.CLIENT, TEXT, b"a"), T0 + at)
            protocol.handle_timeout(T0 + at)
        answer(protocol, payload, 99.5)
        protocol.handle_timeout(T0 + 100)
        assert protocol.state is State.OPEN
        # The next one has as much time.
        payload = ping_payload(protocol)
        protocol.receive_data(frame(Side.CLIENT, TEXT, b"a"), T0 + 119)
        protocol.handle_timeout(T0 + 120)
        assert protocol.state is State.OPEN

    def test_in_the_middle_of_a_frame(self) -> None:
        protocol = protocol_at()
        protocol.receive_data(frame(Side.CLIENT, BINARY, bytes(2**16))[:100], T0 + 15)
        protocol.handle_timeout(T0 + 20)
        ping_payload(protocol)
        for at in range(25, 1000, 5):
            protocol.receive_data(b"a", T0 + at)
            protocol.handle_timeout(T0 + at)
            assert protocol.state is State.OPEN
        # As long as something comes.
        while protocol.state is State.OPEN:
            at = due(protocol)
            protocol.handle_timeout(T0 + at)
        assert at == 1015.0

    def test_after_the_frame_that_was_waited_for(self) -> None:
        protocol = protocol_at()
        data = frame(Side.CLIENT, BINARY, bytes(2**16))
        protocol.receive_data(data[:100], T0 + 20)
        protocol.handle_timeout(T0 + 20)
        ping_payload(protocol)
        for at in range(25, 115, 5):
            protocol.receive_data(data[at + 75 : at + 80], T0 + at)
            protocol.handle_timeout(T0 + at)
        protocol.receive_data(data[190:], T0 + 118)
        protocol.receive_data(data[:100], T0 + 119)
        protocol.handle_timeout(T0 + 119)
        assert protocol.state is State.OPEN
        # There was time for an answer between that frame and this one.
        protocol.handle_timeout(T0 + 120)
        assert protocol.state is State.CLOSING

    def test_paused_reading_does_not_count(self) -> None:
        protocol = protocol_at()
        protocol.queue_messages(0)
        protocol.handle_timeout(T0 + 20)
        payload = ping_payload(protocol)
        protocol.receive_data(frame(Side.CLIENT, TEXT, b"a"), T0 + 20)
        for at in (40, 60, 80, 100, 120):
            protocol.handle_timeout(T0 + at)
        protocol.next_message()
        protocol.receive_data(b"\x82", T0 + 130)
        protocol.handle_timeout(T0 + 140)
        assert protocol.state is State.OPEN
        protocol.receive_data(b"\0", T0 + 141)
        answer(protocol, payload, 145.0)
        assert protocol.state is State.OPEN


class TestPausedReading:
    """Whether a peer is there, of which nothing is read, is known by what its host acknowledges."""

    def paused(self, **options: Any) -> Protocol:
        protocol = protocol_at(**options)
        protocol.queue_messages(0)
        protocol.receive_data(frame(Side.CLIENT, TEXT, b"a"), T0)
        assert not protocol.reading_wanted
        return protocol

    def test_wanted_only_then(self) -> None:
        protocol = self.paused()
        assert not protocol.network_silence_wanted
        protocol.handle_timeout(T0 + 20)
        assert protocol.network_silence_wanted
        protocol.next_message()
        assert not protocol.network_silence_wanted
        protocol.receive_data(frame(Side.CLIENT, TEXT, b"a"), T0 + 21)
        assert protocol.network_silence_wanted
        protocol.close(now=T0 + 22)
        assert not protocol.network_silence_wanted

    def test_peer_that_does_not_acknowledge(self) -> None:
        protocol = self.paused()
        protocol.handle_timeout(T0 + 20, 0.0)
        ping_payload(protocol)
        assert due(protocol) == 40.0
        protocol.handle_timeout(T0 + 40, 20.0)
        assert protocol.close_sent == Close(1011, "keepalive ping timeout")

    def test_older_silence_is_no_fault(self) -> None:
        """Nothing was sent for long: that the last acknowledgement is old means nothing."""
        protocol = self.paused(interval=5.0, timeout=1.0)
        protocol.handle_timeout(T0 + 5, 0.0)
        protocol.handle_timeout(T0 + 6, 0.999)
        assert protocol.state is State.OPEN

    @pytest.mark.parametrize("silence", [0.0, 19.9, None])
    def test_peer_that_acknowledges(self, silence: float | None) -> None:
        protocol = self.paused()
        protocol.handle_timeout(T0 + 20)
        payload = ping_payload(protocol)
        for at in range(40, 1000, 20):
            protocol.handle_timeout(T0 + at, silence)
            assert protocol.state is State.OPEN
            assert due(protocol) == at + 20
            # There is something to be acknowledged again.
            assert ping_payload(protocol) == payload
        protocol.next_message()
        for _ in range(49):
            answer(protocol, payload, 1000.0)
        assert due(protocol) == 1000.0
        assert protocol.latency == 980.0

    @pytest.mark.parametrize("interval, timeout", [(20.0, 20.0), (5.0, 20.0), (20.0, 5.0)])
    @pytest.mark.parametrize("gone", [0.0, 0.1, 4.9, 5.1, 19.9, 20.1, 24.9, 25.1, 31.0, 44.4, 60.1])
    def test_found_within_interval_and_timeout(
        self, interval: float, timeout: float, gone: float
    ) -> None:
        """The peer disappears at any time; until then its host acknowledges at once."""
        protocol = self.paused(interval=interval, timeout=timeout)
        sent_at: list[float] = []
        while protocol.state is State.OPEN:
            at = due(protocol)
            assert at is not None
            assert at <= gone + interval + timeout
            waiting = any(when >= gone for when in sent_at)
            silence = at - max((when for when in (*sent_at, 0.0) if when < gone), default=0.0)
            protocol.handle_timeout(T0 + at, silence if waiting else 0.0)
            if output(protocol):
                sent_at.append(at)
        assert at > gone

    def test_without_ping_timeout_nobody_is_missed(self) -> None:
        protocol = self.paused(timeout=None)
        for at in range(20, 200, 20):
            protocol.handle_timeout(T0 + at, 1e9)
            assert not protocol.network_silence_wanted
        assert protocol.state is State.OPEN

    def test_nothing_piles_up_while_writing_is_paused(self) -> None:
        protocol = self.paused()
        protocol.handle_timeout(T0 + 20)
        ping_payload(protocol)
        protocol.pause_writing()
        for at in range(40, 1000, 20):
            protocol.handle_timeout(T0 + at, 0.0)
        assert output(protocol) == b""
        protocol.handle_timeout(T0 + 1000, 20.0)
        assert protocol.state is State.CLOSING

    @pytest.mark.parametrize("silence", ["long", b"1", [1.0]])
    def test_bad_silence_changes_nothing(self, silence: Any) -> None:
        protocol = self.paused()
        with pytest.raises(TypeError):
            protocol.handle_timeout(T0 + 20, silence)
        assert output(protocol) == b""
        protocol.close()
        assert due(protocol) == 10.0


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

    def test_nothing_is_sent_after_it(self, side: Side) -> None:
        protocol = protocol_at(side)
        protocol.close(now=T0)
        output(protocol)
        protocol.handle_timeout(T0 + 10)
        assert protocol.transport_action == activity.ABORT
        protocol.receive_data(frame(side, PING, b"x"), T0 + 10)
        for send in (protocol.send_ping, protocol.send_pong):
            with pytest.raises(InvalidState):
                send(b"x")
        protocol.resume_writing()
        assert protocol.output_size == 0

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
