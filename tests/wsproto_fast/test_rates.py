"""Limits on what a peer sends in a given time: what waits, what is closed, and until when."""

import random

import pytest

from tests.wsproto_fast.helpers import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    events,
    frame,
    messages,
    sent,
)
from wsproto_fast import CloseCode, Protocol, Rate, RateExceeded, Side, State
from wsproto_fast.activity import ATTENTION
from wsproto_fast.extensions.permessage_deflate import PerMessageDeflate


def limited(messages=None, size=None, *, side=Side.SERVER, now=0.0, high=None, queued=True):
    protocol = Protocol(side)
    if queued:
        protocol.queue_messages(high, max_bytes=None)
    protocol.limit_rates(messages, size, now=now)
    return protocol


def texts(count, start=0):
    return b"".join(frame(Side.SERVER, TEXT, b"%d" % (start + i)) for i in range(count))


def numbers(protocol):
    return [int(message) for message in messages(protocol)]


class TestWaiting:
    def test_burst_then_rate(self):
        protocol = limited(Rate(10, burst=3))
        protocol.receive_data(texts(5), 0.0)
        assert numbers(protocol) == [0, 1, 2]
        assert not protocol.reading_wanted
        assert protocol.next_timeout() == pytest.approx(0.1)
        protocol.handle_timeout(protocol.next_timeout())
        assert numbers(protocol) == [3]
        assert protocol.next_timeout() == pytest.approx(0.2)
        protocol.handle_timeout(protocol.next_timeout())
        assert numbers(protocol) == [4]
        assert not protocol.reading_wanted
        assert protocol.next_timeout() == pytest.approx(0.3)
        protocol.handle_timeout(protocol.next_timeout())
        assert protocol.reading_wanted
        assert protocol.next_timeout() is None
        assert protocol.state is State.OPEN

    def test_too_early_changes_nothing(self):
        protocol = limited(Rate(1, burst=1))
        protocol.receive_data(texts(2), 0.0)
        protocol.handle_timeout(0.5)
        assert numbers(protocol) == [0]
        assert not protocol.reading_wanted
        assert protocol.next_timeout() == 1.0
        # What else the driver had read already waits, too.
        protocol.receive_data(texts(1, 2), 0.6)
        assert numbers(protocol) == []
        protocol.handle_timeout(1.0)
        assert numbers(protocol) == [1]

    def test_bucket_is_never_fuller_than_burst(self):
        protocol = limited(Rate(10, burst=2))
        protocol.receive_data(texts(5), 1000.0)
        assert numbers(protocol) == [0, 1]

    @pytest.mark.parametrize(("per_second", "burst"), [(0.1, 1), (1, 1), (7, 7), (2.5, 2.5)])
    def test_burst_by_default(self, per_second, burst):
        assert Rate(per_second).burst == burst

    def test_number(self):
        protocol = limited(2)
        protocol.receive_data(texts(3), 0.0)
        assert numbers(protocol) == [0, 1]

    def test_bytes(self):
        protocol = limited(size=Rate(100, burst=50))
        protocol.receive_data(frame(Side.SERVER, BINARY, bytes(249)) + texts(1), 0.0)
        assert messages(protocol) == [bytes(249)]
        # Overdrawn by 199; one more is for the next byte.
        assert protocol.next_timeout() == 2.0
        protocol.handle_timeout(2.0)
        assert numbers(protocol) == [0]

    def test_both(self):
        protocol = limited(Rate(1, burst=10), Rate(1, burst=1))
        protocol.receive_data(texts(3), 0.0)
        assert numbers(protocol) == [0]
        assert protocol.next_timeout() == 1.0

    def test_large_message_in_pieces(self):
        protocol = limited(size=Rate(100, burst=1))
        data = frame(Side.SERVER, BINARY, bytes(1000))
        protocol.receive_data(data[:500], 0.0)
        # What has begun is read to its end.
        assert protocol.reading_wanted
        protocol.receive_data(data[500:700], 0.1)
        assert protocol.reading_wanted
        assert protocol.next_timeout() is None
        # Drivers look whether to go on only where something says so.
        assert protocol.receive_data(data[700:], 0.2) & ATTENTION
        assert messages(protocol) == [bytes(1000)]
        assert not protocol.reading_wanted
        assert protocol.next_timeout() == 10.0
        protocol.handle_timeout(10.0)
        assert protocol.reading_wanted

    def test_fragments_are_one_message(self):
        protocol = limited(Rate(1, burst=2))
        data = frame(Side.SERVER, TEXT, b"a", fin=False)
        data += b"".join(frame(Side.SERVER, CONT, b"b", fin=False) for _ in range(10))
        data += frame(Side.SERVER, CONT, b"c")
        protocol.receive_data(data + texts(2), 0.0)
        assert messages(protocol) == ["a" + 10 * "b" + "c", "0"]

    def test_pings_count_and_answers_do_not(self):
        protocol = limited(Rate(1, burst=3))
        for i in range(10):
            protocol.ping(b"%d" % i)
        pongs = b"".join(frame(Side.SERVER, PONG, b"%d" % i) for i in range(10))
        protocol.receive_data(pongs + 2 * frame(Side.SERVER, PING, b"?") + texts(2), 0.0)
        assert sent(protocol)[10:] == [(PONG, b"?"), (PONG, b"?")]
        assert numbers(protocol) == [0]

    def test_pongs_that_answer_nothing_count(self):
        protocol = limited(Rate(1, burst=3), Rate(1, burst=1000))
        protocol.ping(b"?")
        pong = frame(Side.SERVER, PONG, b"!")
        protocol.receive_data(2 * pong + frame(Side.SERVER, PONG, b"?") + texts(2), 0.0)
        assert numbers(protocol) == [0]

    def test_what_came_before_the_limits_does_not_count(self):
        protocol = Protocol(Side.SERVER)
        protocol.queue_messages()
        protocol.receive_data(3 * frame(Side.SERVER, PONG, b"!"))
        protocol.limit_rates(Rate(1, burst=2), now=0.0)
        protocol.ping(b"?")
        protocol.receive_data(frame(Side.SERVER, PONG, b"?") + texts(2), 0.0)
        assert numbers(protocol) == [0, 1]
        protocol.limit_rates(Rate(1, burst=2), now=0.0)
        protocol.receive_data(2 * frame(Side.SERVER, PONG, b"!"), 0.0)
        assert not protocol.reading_wanted

    def test_answers_to_repeated_pings_do_not_count(self):
        # While the peer has to wait, keepalive pings are repeated, and all are answered.
        protocol = limited(Rate(0.01, burst=1))
        protocol.set_timeouts(ping_interval=1, ping_timeout=1, close_timeout=1, now=0.0)
        protocol.receive_data(texts(1), 0.5)
        payloads = []
        while (now := protocol.next_timeout()) < 100:
            protocol.handle_timeout(now)
            payloads += [payload for opcode, payload in sent(protocol) if opcode == PING]
        assert len(payloads) > 50
        protocol.handle_timeout(100.5)
        pongs = b"".join(frame(Side.SERVER, PONG, payload) for payload in payloads)
        protocol.receive_data(pongs, 100.5)
        assert protocol.reading_wanted

    def test_pings_behind_what_waits(self):
        # What was read is there; answers are due as soon as practical.
        protocol = limited(Rate(1, burst=1))
        protocol.receive_data(texts(2) + frame(Side.SERVER, PING, b"?"), 0.0)
        assert sent(protocol) == [(PONG, b"?")]
        assert numbers(protocol) == [0]

    def test_pings_behind_what_waits_count(self):
        protocol = limited(Rate(1, burst=1))
        protocol.receive_data(texts(1) + 5 * frame(Side.SERVER, PING, b"?"), 0.0)
        assert sent(protocol) == 5 * [(PONG, b"?")]
        assert numbers(protocol) == [0]
        assert protocol.next_timeout() == 6.0

    def test_close_behind_what_waits(self):
        # Nothing more can come: then nothing has to wait.
        protocol = limited(Rate(1, burst=1))
        protocol.receive_data(texts(3) + frame(Side.SERVER, CLOSE, b"\x03\xe8"), 0.0)
        assert numbers(protocol) == [0, 1, 2]
        assert protocol.close_rcvd.code == 1000

    def test_end_of_stream_behind_what_waits(self):
        protocol = limited(Rate(1, burst=1))
        protocol.receive_data(texts(3), 0.0)
        protocol.receive_eof(0.1)
        protocol.connection_lost()
        assert numbers(protocol) == [0, 1, 2]

    def test_closing_does_not_wait(self):
        protocol = limited(Rate(1, burst=1))
        protocol.receive_data(texts(2), 0.0)
        protocol.close(now=0.1)
        protocol.receive_data(frame(Side.SERVER, CLOSE, b"\x03\xe8"), 0.2)
        assert protocol.close_rcvd.code == 1000
        assert protocol.close_sent.code == 1000

    def test_callbacks(self):
        protocol = limited(Rate(1, burst=2))
        received = []
        protocol.listen(received.append)
        protocol.receive_data(texts(3), 0.0)
        assert received == ["0", "1"]
        assert not protocol.reading_wanted
        protocol.handle_timeout(protocol.next_timeout())
        assert received == ["0", "1", "2"]

    @pytest.mark.parametrize("lost", [False, True])
    @pytest.mark.parametrize("how", ["on_message", "on_frame"])
    def test_end_of_stream_with_callbacks(self, how, lost):
        protocol = limited(Rate(1, burst=1))
        received = []
        protocol.listen(**{how: lambda *arguments: received.append(str(arguments[0]))})
        protocol.receive_data(texts(3), 0.0)
        assert len(received) == 1
        if not lost:
            protocol.receive_eof(0.1)
        protocol.connection_lost()
        assert len(received) == 3
        assert protocol.state is State.CLOSED

    def test_callbacks_while_a_peer_waits(self):
        protocol = limited(Rate(1, burst=1))
        protocol.receive_data(texts(3), 0.0)
        received = []
        protocol.listen(received.append, now=0.5)
        assert received == ["0"]
        assert protocol.next_timeout() == 1.0
        protocol.handle_timeout(1.0)
        assert received == ["0", "1"]
        protocol.handle_timeout(2.0)
        assert received == ["0", "1", "2"]

    def test_callbacks_when_a_peer_has_waited_long_enough(self):
        protocol = limited(Rate(1, burst=1))
        protocol.receive_data(texts(2), 0.0)
        received = []
        protocol.listen(received.append, now=1.0)
        assert received == ["0", "1"]

    def test_keepalive_of_a_peer_that_waits(self):
        protocol = limited(Rate(0.01, burst=1))
        protocol.set_timeouts(ping_interval=1, ping_timeout=1, close_timeout=1, now=0.0)
        protocol.receive_data(texts(1), 0.5)
        for _ in range(20):
            protocol.handle_timeout(protocol.next_timeout())
        assert protocol.state is State.OPEN

    def test_compressed(self):
        protocol = limited(Rate(1, burst=1))
        protocol.extensions = [PerMessageDeflate(False, False, 15, 15)]
        peer = Protocol(Side.CLIENT)
        peer.extensions = [PerMessageDeflate(False, False, 15, 15)]
        for i in range(3):
            peer.send(f"{i}" * 100, compress=True)
        protocol.receive_data(b"".join(peer.data_to_send()), 0.0)
        received = messages(protocol)
        while len(received) < 3:
            protocol.handle_timeout(protocol.next_timeout())
            received += messages(protocol)
        assert received == [f"{i}" * 100 for i in range(3)]

    def test_events(self):
        protocol = limited(Rate(1, burst=1), queued=False)
        protocol.receive_data(texts(2) + frame(Side.SERVER, PING, b"?") + texts(1), 0.0)
        assert events(protocol) == [(TEXT, b"0", True)]
        protocol.handle_timeout(1.0)
        assert events(protocol) == [(TEXT, b"1", True)]
        protocol.handle_timeout(2.0)
        assert events(protocol) == [(PING, b"?", True)]
        protocol.handle_timeout(3.0)
        assert events(protocol) == [(TEXT, b"0", True)]

    @pytest.mark.parametrize("close", [b"", frame(Side.SERVER, CLOSE, b"\x03\xe8")])
    def test_end_of_stream_behind_events_that_wait(self, close):
        protocol = limited(Rate(1, burst=1), queued=False)
        protocol.receive_data(texts(3) + close, 0.0)
        protocol.receive_eof(0.1)
        assert [payload for opcode, payload, _ in events(protocol) if opcode == TEXT] == [
            b"0",
            b"1",
            b"2",
        ]
        assert (protocol.close_rcvd is None) == (not close)

    def test_closing_before_events_that_wait(self):
        protocol = limited(Rate(1, burst=1), queued=False)
        protocol.receive_data(texts(2) + frame(Side.SERVER, CLOSE, b"\x03\xe8"), 0.0)
        protocol.close(now=0.1)
        assert [opcode for opcode, *_ in events(protocol)] == [TEXT, TEXT, CLOSE]
        assert protocol.close_rcvd.code == 1000

    def test_no_limits_any_more(self):
        protocol = limited(Rate(1, burst=1))
        protocol.receive_data(texts(3), 0.0)
        protocol.limit_rates()
        assert protocol.next_timeout() == 0.0
        protocol.handle_timeout(0.0)
        assert numbers(protocol) == [0, 1, 2]
        assert protocol.reading_wanted

    def test_however_it_is_split(self):
        choice = random.Random(3)
        data = b"".join(
            choice.choice([texts(1, i), frame(Side.SERVER, PING, b"%d" % i)]) for i in range(300)
        )
        outcomes = []
        for _ in range(20):
            protocol = limited(Rate(50, burst=5), Rate(100, burst=20), high=8)
            rest, now, received = data, 0.0, []
            while rest or not protocol.reading_wanted:
                if protocol.reading_wanted:
                    size = choice.randint(1, 300)
                    protocol.receive_data(rest[:size], now)
                    rest = rest[size:]
                received += numbers(protocol)
                protocol.receive_kept(now)
                deadline = protocol.next_timeout()
                if not protocol.reading_wanted:
                    assert deadline is not None
                    now = max(now, deadline)
                    protocol.handle_timeout(now)
            received += numbers(protocol)
            assert len(received) <= 5 + 50 * now + 1
            outcomes.append(received)
        assert all(outcome == outcomes[0] for outcome in outcomes)


class TestClosing:
    def test_messages(self):
        protocol = limited(Rate(10, burst=3, exceeded="close"))
        protocol.receive_data(texts(3), 0.0)
        assert protocol.reading_wanted
        assert protocol.next_timeout() is None
        protocol.receive_data(texts(2, 3), 0.25)
        assert protocol.state is State.OPEN
        protocol.receive_data(texts(1, 5), 0.25)
        assert numbers(protocol) == [0, 1, 2, 3, 4]
        assert protocol.close_sent.code == CloseCode.POLICY_VIOLATION
        assert protocol.close_sent.reason == "more than 10 messages per second"
        assert isinstance(protocol.parser_exc, RateExceeded)
        protocol.connection_lost()
        assert protocol.close_exc.__cause__ is protocol.parser_exc

    def test_fragments_are_one_message(self):
        protocol = limited(Rate(1, burst=1, exceeded="close"))
        data = frame(Side.SERVER, TEXT, b"a", fin=False) + frame(Side.SERVER, CONT, b"b")
        protocol.receive_data(data, 0.0)
        assert messages(protocol) == ["ab"]
        protocol.receive_data(data, 0.0)
        assert protocol.close_sent.code == CloseCode.POLICY_VIOLATION

    def test_bytes(self):
        protocol = limited(size=Rate(100, burst=10, exceeded="close"))
        protocol.receive_data(frame(Side.SERVER, BINARY, bytes(10)), 0.0)
        assert protocol.state is State.OPEN
        # It is known when the header is there.
        protocol.receive_data(frame(Side.SERVER, BINARY, bytes(10))[:6], 0.0)
        assert protocol.close_sent.code == CloseCode.POLICY_VIOLATION
        assert protocol.close_sent.reason == "more than 100 bytes per second"

    def test_pings(self):
        protocol = limited(Rate(10, burst=3, exceeded="close"))
        protocol.receive_data(4 * frame(Side.SERVER, PING, b""), 0.0)
        assert protocol.close_sent.code == CloseCode.POLICY_VIOLATION

    def test_pongs(self):
        protocol = limited(Rate(10, burst=3, exceeded="close"))
        protocol.receive_data(4 * frame(Side.SERVER, PONG, b""), 0.0)
        assert protocol.close_sent.code == CloseCode.POLICY_VIOLATION

    def test_pings_behind_what_waits(self):
        protocol = limited(Rate(1, burst=5, exceeded="close"), Rate(1, burst=1))
        data = texts(1) + 10 * frame(Side.SERVER, PING, b"") + texts(1)
        protocol.receive_data(data, 0.0)
        assert protocol.close_sent.code == CloseCode.POLICY_VIOLATION
        assert len(sent(protocol)) == 4 + 1
        assert numbers(protocol) == [0]

    def test_one_waits_and_the_other_closes(self):
        protocol = limited(Rate(1, burst=1), Rate(1, burst=1, exceeded="close"))
        protocol.receive_data(texts(2), 0.0)
        assert protocol.state is State.OPEN
        assert protocol.next_timeout() == 1.0
        protocol.handle_timeout(1.0)
        assert protocol.state is State.OPEN
        assert numbers(protocol) == [0, 1]
        protocol.receive_data(frame(Side.SERVER, BINARY, b"12"), 2.0)
        protocol.receive_data(texts(1), 3.0)
        assert protocol.close_sent.reason == "more than 1 bytes per second"

    def test_client(self):
        protocol = limited(Rate(1, exceeded="close"), side=Side.CLIENT)
        protocol.receive_data(2 * frame(Side.CLIENT, TEXT, b"0"), 0.0)
        assert protocol.close_sent.code == CloseCode.POLICY_VIOLATION


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((0,), ValueError, "per_second must be more than 0; got 0"),
        ((-1,), ValueError, "per_second must be more than 0; got -1"),
        ((float("nan"),), ValueError, "per_second must be finite; got nan"),
        ((float("inf"),), ValueError, "per_second must be finite; got inf"),
        (("1",), TypeError, "per_second must be a number, not str"),
        ((True,), TypeError, "per_second must be a number, not bool"),
        ((10**400,), ValueError, "per_second must be finite; got 1000"),
        ((1, 0.5), ValueError, "burst must be 1 or more; got 0.5"),
        ((1, "1"), TypeError, "burst must be a number, not str"),
        ((1, 1, "drop"), ValueError, "exceeded must be 'wait' or 'close'; got 'drop'"),
    ],
)
def test_invalid_rates(arguments, error, text):
    with pytest.raises(error, match=text):
        Rate(*arguments)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ("1", TypeError, "messages must be a Rate, a number, or None, not str"),
        (True, TypeError, "messages must be a Rate, a number, or None, not bool"),
        (0, ValueError, "messages must be more than 0 per second, and finite; got 0"),
        (float("inf"), ValueError, "messages must be more than 0 per second, and finite; got inf"),
        (10**400, ValueError, "messages must be more than 0 per second, and finite; got 1000"),
    ],
)
def test_invalid_limits_change_nothing(value, error, text):
    protocol = limited(Rate(1, burst=1))
    with pytest.raises(error, match=text):
        protocol.limit_rates(value)
    protocol.receive_data(texts(2), 0.0)
    assert numbers(protocol) == [0]
