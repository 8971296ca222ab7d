"""Received messages waiting for the application: flow control, fragments, closing."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsproto_fast import Close, Protocol, Side, State, activity

from .helpers import BINARY, CLOSE, CONT, PING, TEXT, frame, messages, output, through_buffer


def client(*args: Any, **settings: Any) -> Protocol:
    protocol = Protocol(Side.CLIENT)
    protocol.queue_messages(*args, **settings)
    return protocol


def receive(protocol: Protocol, *payloads: str | bytes) -> int:
    """Receive whole messages one by one; return the last activity."""
    done = 0
    for payload in payloads:
        if isinstance(payload, str):
            done = protocol.receive_data(frame(protocol.side, TEXT, payload.encode()))
        else:
            done = protocol.receive_data(frame(protocol.side, BINARY, payload))
    return done


def receive_fragments(
    protocol: Protocol, *payloads: bytes, opcode: int = TEXT, fin: bool = True
) -> int:
    done = 0
    for i, payload in enumerate(payloads):
        last = fin and i == len(payloads) - 1
        done = protocol.receive_data(frame(protocol.side, CONT if i else opcode, payload, fin=last))
    return done


class TestTaking:
    def test_nothing(self) -> None:
        assert client().next_message() is None
        assert client().next_fragment() is None

    def test_messages_in_order(self) -> None:
        protocol = client(None)
        # More than once round the ring, at several fillings.
        expected: list[bytes] = []
        for turn in range(100):
            batch = [b"%d.%d" % (turn, i) for i in range(turn % 7)]
            receive(protocol, *batch)
            expected += batch
            for _ in range(turn % 5):
                message = protocol.next_message()
                assert message == (expected.pop(0) if expected else None)
        assert messages(protocol) == expected

    def test_activity_tells_what_there_is(self) -> None:
        protocol = client()
        first = receive_fragments(protocol, b"a", fin=False)
        assert first & (activity.MESSAGE | activity.FRAGMENT) == activity.FRAGMENT
        both = protocol.receive_data(frame(Side.CLIENT, CONT, b"b"))
        assert both & activity.MESSAGE
        assert both & activity.FRAGMENT

    @pytest.mark.parametrize(
        "payload, decode, expected",
        [
            ("é", None, "é"),
            ("é", True, "é"),
            ("é", False, "é".encode()),
            (b"\xc3\xa9", None, b"\xc3\xa9"),
            (b"\xc3\xa9", True, "é"),
            (b"\xc3\xa9", False, b"\xc3\xa9"),
            ("", False, b""),
            (b"", True, ""),
        ],
    )
    @pytest.mark.parametrize("fragments", [1, 2, 3])
    @pytest.mark.parametrize("streaming", [False, True])
    def test_as_text_or_bytes(
        self, payload: Any, decode: bool | None, expected: Any, fragments: int, streaming: bool
    ) -> None:
        protocol = client()
        data = payload.encode() if isinstance(payload, str) else payload
        pieces = [data[:1], b"", data[1:]][-fragments:] if fragments > 1 else [data]
        if fragments == 2:
            pieces = [data[:1], data[1:]]
        opcode = TEXT if isinstance(payload, str) else BINARY
        receive_fragments(protocol, *pieces, opcode=opcode)
        if streaming:
            taken = [protocol.next_fragment(decode) for _ in pieces]
            assert [fin for _, fin in taken] == [False] * (fragments - 1) + [True]
            assert type(expected)().join(piece for piece, _ in taken) == expected
        else:
            assert protocol.next_message(decode) == expected
        assert protocol.next_message() is None

    @pytest.mark.parametrize("fragments", [1, 2])
    @pytest.mark.parametrize("streaming", [False, True])
    def test_binary_that_is_no_text_fails_when_decoded(
        self, fragments: int, streaming: bool
    ) -> None:
        protocol = client()
        receive_fragments(protocol, *[b"\xff", b"a"][:fragments], opcode=BINARY)
        receive(protocol, "later")
        take = protocol.next_fragment if streaming else protocol.next_message
        assert take(True) is None
        assert protocol.close_sent == Close(1007, "invalid start byte at position 0")
        assert isinstance(protocol.parser_exc, UnicodeDecodeError)
        assert output(protocol)


class TestStreaming:
    def test_fragments_one_by_one(self) -> None:
        protocol = client()
        receive_fragments(protocol, b"a", b"", b"c")
        assert [protocol.next_fragment() for _ in range(4)] == [
            ("a", False),
            ("", False),
            ("c", True),
            None,
        ]

    def test_fragments_before_the_message_is_whole(self) -> None:
        protocol = client()
        receive_fragments(protocol, b"a", fin=False)
        assert protocol.next_fragment() == ("a", False)
        assert protocol.next_fragment() is None
        protocol.receive_data(frame(Side.CLIENT, CONT, b"b"))
        assert protocol.next_fragment() == ("b", True)

    def test_a_cut_character_comes_with_the_later_fragment(self) -> None:
        protocol = client()
        receive_fragments(protocol, b"a\xe2", b"\x82", b"\xacb")
        assert [protocol.next_fragment() for _ in range(3)] == [
            ("a", False),
            ("", False),
            ("€b", True),
        ]

    @pytest.mark.parametrize("taken", [1, 2])
    @pytest.mark.parametrize("there", [2, 3, 4])
    def test_the_rest_of_a_message_is_skipped(self, taken: int, there: int) -> None:
        protocol = client()
        wires = [
            frame(Side.CLIENT, TEXT if i == 0 else CONT, b"%d\xe2\x82\xac" % i, fin=i == 3)
            for i in range(4)
        ]
        protocol.receive_data(b"".join(wires[:there]))
        for i in range(taken):
            assert protocol.next_fragment() == (f"{i}€", False)
        protocol.next_message()
        protocol.receive_data(b"".join(wires[there:]))
        receive(protocol, "next")
        receive_fragments(protocol, b"\xc3", b"\xa9")
        assert protocol.next_message() == "next"
        assert protocol.next_message() == "é"
        assert protocol.next_message() is None

    def test_skipping_ends_with_the_message_even_if_read_as_fragments_then(self) -> None:
        protocol = client()
        receive_fragments(protocol, b"a", fin=False)
        protocol.next_fragment()
        assert protocol.next_message() is None
        protocol.receive_data(frame(Side.CLIENT, CONT, b"b"))
        assert protocol.next_fragment() is None
        receive_fragments(protocol, b"c", b"d")
        assert protocol.next_fragment() == ("c", False)
        assert protocol.next_fragment() == ("d", True)

    @pytest.mark.parametrize("there", [1, 2, 3])
    def test_fragments_can_be_skipped_for_those_of_the_next_message(self, there: int) -> None:
        protocol = client()
        protocol.skip_fragments()  # nothing was begun
        wires = [frame(Side.CLIENT, CONT if i else TEXT, b"%d" % i, fin=i == 2) for i in range(3)]
        protocol.receive_data(b"".join(wires[:there]))
        assert protocol.next_fragment() == ("0", False)
        protocol.skip_fragments()
        protocol.skip_fragments()
        protocol.receive_data(b"".join(wires[there:]))
        receive_fragments(protocol, b"a", b"b")
        assert [protocol.next_fragment() for _ in range(3)] == [("a", False), ("b", True), None]
        assert protocol.reading_wanted

    def test_skipped_fragments_make_room(self) -> None:
        protocol = client(2)
        receive_fragments(protocol, b"a", b"b", b"c", b"d", b"e")
        protocol.next_fragment()
        assert not protocol.reading_wanted
        protocol.skip_fragments()
        assert protocol.reading_wanted

    def test_bytes_of_a_skipped_message_are_validated_all_the_same(self) -> None:
        protocol = client()
        receive_fragments(protocol, b"a", fin=False)
        protocol.next_fragment()
        protocol.next_message()
        protocol.receive_data(frame(Side.CLIENT, CONT, b"\xff"))
        assert protocol.close_sent is not None
        assert protocol.close_sent.code == 1007


class TestFlowControl:
    @pytest.mark.parametrize("high, low", [(0, 0), (1, 0), (4, 1), (4, 4), (16, 4)])
    def test_pauses_above_high_and_resumes_at_low(self, high: int, low: int) -> None:
        protocol = client(high, low)
        for _ in range(high):
            assert not receive(protocol, b"x") & activity.ATTENTION
            assert protocol.reading_wanted
        assert receive(protocol, b"x") & activity.ATTENTION
        assert not protocol.reading_wanted
        for left in range(high, low, -1):
            protocol.next_message()
            assert not protocol.reading_wanted, left
        protocol.next_message()
        assert protocol.reading_wanted

    def test_low_is_a_quarter_of_high(self) -> None:
        protocol = client(8)
        receive(protocol, *[b"x"] * 9)
        for _ in range(6):
            protocol.next_message()
        assert not protocol.reading_wanted
        protocol.next_message()
        assert protocol.reading_wanted

    def test_fragments_count(self) -> None:
        protocol = client(3)
        receive_fragments(protocol, b"", b"", b"", fin=False)
        assert protocol.reading_wanted
        protocol.receive_data(frame(Side.CLIENT, CONT, b""))
        assert not protocol.reading_wanted

    def test_no_limit(self) -> None:
        protocol = client(None, max_bytes=None)
        receive(protocol, *[b"x"] * 1000)
        assert protocol.reading_wanted

    def test_bytes_have_a_limit_of_their_own(self) -> None:
        protocol = client(1000, max_bytes=10_000)
        receive(protocol, *[bytes(900)] * 10)
        assert protocol.reading_wanted
        receive(protocol, bytes(900))
        assert not protocol.reading_wanted
        protocol.next_message()
        assert protocol.reading_wanted

    def test_empty_messages_cost_bytes(self) -> None:
        protocol = client(None, max_bytes=10_000)
        count = 0
        while protocol.reading_wanted:
            receive(protocol, b"")
            count += 1
            assert count < 1000

    @pytest.mark.parametrize("taking", ["next_message", "next_fragment"])
    def test_never_pauses_while_a_reader_waits(self, taking: str) -> None:
        protocol = client(2)
        assert getattr(protocol, taking)() is None
        receive_fragments(protocol, *[b"x"] * 10, fin=False)
        assert protocol.reading_wanted
        protocol.receive_data(frame(Side.CLIENT, CONT, b""))
        assert not protocol.reading_wanted
        assert protocol.next_message() == "x" * 10
        assert protocol.reading_wanted

    def test_reader_resumes_reading_for_the_rest_of_its_message(self) -> None:
        protocol = client(2)
        receive_fragments(protocol, *[b"x"] * 5, fin=False)
        assert not protocol.reading_wanted
        assert protocol.next_message() is None
        assert protocol.reading_wanted

    def test_pauses_again_once_the_reader_has_given_up(self) -> None:
        protocol = client(2)
        assert protocol.next_message() is None
        protocol.stop_waiting()
        receive_fragments(protocol, *[b"x"] * 5, fin=False)
        assert not protocol.reading_wanted

    def test_skipping_a_streamed_message_resumes_reading(self) -> None:
        protocol = client(2)
        receive_fragments(protocol, *[b"x"] * 5)
        receive(protocol, "next")
        assert protocol.next_fragment() == ("x", False)
        assert not protocol.reading_wanted
        assert protocol.next_message() == "next"
        assert protocol.reading_wanted

    def test_control_frames_do_not_count(self) -> None:
        protocol = client(0)
        for _ in range(10):
            protocol.receive_data(frame(Side.CLIENT, PING))
        assert protocol.reading_wanted

    def test_frame_events_are_not_limited(self) -> None:
        protocol = Protocol(Side.CLIENT)
        receive(protocol, *[b"x"] * 100)
        assert protocol.reading_wanted


class TestClosing:
    def full(self) -> Protocol:
        protocol = client(4, 1)
        receive(protocol, *[b"%d" % i for i in range(5)])
        assert not protocol.reading_wanted
        return protocol

    def test_resumes_reading_so_that_the_answer_is_seen(self) -> None:
        protocol = self.full()
        protocol.close()
        assert protocol.reading_wanted
        receive(protocol, *[b"dropped"] * 50)
        assert protocol.reading_wanted
        protocol.receive_data(frame(Side.CLIENT, CLOSE, b"\x03\xe8"))
        protocol.receive_eof()
        assert protocol.close_code == 1000
        assert messages(protocol) == [b"0", b"1", b"2", b"3", b"4"]

    def test_what_is_read_remains_a_beginning_of_what_was_sent(self) -> None:
        protocol = self.full()
        protocol.close()
        receive(protocol, b"dropped")
        assert protocol.next_message() == b"0"
        assert protocol.next_message() == b"1"
        # There would be room again, but one message is missing already.
        receive(protocol, b"late")
        assert messages(protocol) == [b"2", b"3", b"4"]

    @given(
        script=st.lists(
            st.one_of(
                st.just("take"),
                st.just("close"),
                st.integers(1, 5).map(lambda n: ["x"] * n),
            ),
            max_size=40,
        ),
        high=st.integers(0, 5),
        max_bytes=st.sampled_from([None, 300, 1000]),
    )
    @settings(max_examples=80)
    def test_any_sequence_keeps_the_prefix(
        self, script: list[Any], high: int, max_bytes: int | None
    ) -> None:
        protocol = client(high, max_bytes=max_bytes)
        sent: list[bytes] = []
        taken: list[Any] = []
        for step in script:
            if step == "take":
                message = protocol.next_message()
                taken += [] if message is None else [message]
            elif step == "close":
                protocol.close()
            elif protocol.reading_wanted:
                sent.append(b"%d" % len(sent) * len(step))
                pieces = [b"%d" % (len(sent) - 1)] * len(step)
                receive_fragments(protocol, *pieces, opcode=BINARY)
            if protocol.state is State.CLOSING:
                assert protocol.reading_wanted
        taken += messages(protocol)
        assert taken == sent[: len(taken)]
        if protocol.state is State.OPEN:
            assert taken == sent

    def test_message_cut_by_dropping_is_not_delivered(self) -> None:
        protocol = client(2)
        protocol.close()
        receive_fragments(protocol, *[b"x"] * 10)
        assert messages(protocol) == []


def test_large_text_through_the_buffer() -> None:
    protocol = client()
    protocol.use_read_buffer(memoryview(bytearray(100)))
    text = "aé€😀" * 3000
    through_buffer(protocol, [frame(Side.CLIENT, TEXT, text.encode())])
    assert messages(protocol) == [text]


def test_two_connections_share_a_read_buffer() -> None:
    memory = memoryview(bytearray(64))
    one, two = client(), client()
    one.use_read_buffer(memory)
    two.use_read_buffer(memory)
    wires = [frame(Side.CLIENT, TEXT, text.encode() * 100) for text in ("éa", "€b")]
    position = [0, 0]
    # Turn by turn, some bytes each: headers, small pieces, and pieces of a large frame.
    for size in [1, 2, 3, 60, 64, 7] * 20:
        for i, protocol in enumerate((one, two)):
            piece = wires[i][position[i] : position[i] + size]
            through_buffer(protocol, [piece])
            position[i] += len(piece)
    assert messages(one) == ["éa" * 100]
    assert messages(two) == ["€b" * 100]
