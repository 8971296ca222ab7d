"""Compressed messages that the queue has no room for: they wait as they were received."""

import random
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsproto_fast import (
    Close,
    ConnectionClosedError,
    ConnectionClosedOK,
    Protocol,
    Side,
    State,
    activity,
)

from .deflate_helpers import RSV1, Peer, extension, raw
from .helpers import (
    BINARY,
    CLOSE,
    CONT,
    PATHS,
    PING,
    PONG,
    SIDES,
    TEXT,
    frame,
    messages,
    output,
    sent,
)

SIZE = 2**20
BOMB = raw(bytes(SIZE), level=9)
OK = b"\x03\xe8"


def receiver(side: Side = Side.SERVER, *marks: Any, **limits: Any) -> Protocol:
    protocol = Protocol(side, max_size=SIZE)
    protocol.extensions = [extension(remote_no_context_takeover=True)]
    protocol.queue_messages(*marks, **limits)
    return protocol


def bombs(count: int, side: Side = Side.SERVER) -> bytes:
    return frame(side, BINARY, BOMB, rsv=RSV1) * count


def small(number: int, side: Side = Side.SERVER) -> bytes:
    return frame(side, TEXT, raw(b"%d" % number), rsv=RSV1)


def everything(protocol: Protocol) -> Iterator[Any]:
    """Take all messages, as a driver does that has nothing else to do."""
    while True:
        message = protocol.next_message()
        protocol.receive_kept()
        if message is None:
            message = protocol.next_message()
        if message is None:
            return
        yield message


class TestMarks:
    @pytest.mark.parametrize("side", SIDES)
    @pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
    def test_bytes(self, side: Side, path: Any) -> None:
        protocol = path.protocol(side, queue=False)
        protocol.extensions = [extension(remote_no_context_takeover=True)]
        protocol.queue_messages(None, max_bytes=3 * SIZE)
        protocol.receive_data(bombs(200, side))
        assert not protocol.reading_wanted
        assert [len(message) for message in messages(protocol)] == [SIZE] * 3
        assert sum(map(len, everything(protocol))) == 197 * SIZE
        assert protocol.reading_wanted

    def test_frames(self) -> None:
        protocol = receiver(Side.SERVER, 4, 1)
        protocol.receive_data(b"".join(map(small, range(100))))
        assert messages(protocol) == ["0", "1", "2", "3", "4"]
        assert protocol.receive_kept() & activity.MESSAGE
        assert not protocol.receive_kept() & activity.MESSAGE, "the queue is full again"
        assert protocol.next_message() == "5"
        assert list(everything(protocol)) == [str(i) for i in range(6, 100)]

    def test_what_is_not_compressed_costs_nothing_to_queue(self) -> None:
        protocol = receiver(Side.SERVER, 1)
        protocol.receive_data(frame(Side.SERVER, TEXT, b"x") * 50)
        assert not protocol.reading_wanted
        assert not protocol.can_receive_kept, "nothing was kept"
        assert len(messages(protocol)) == 50

    def test_when_to_go_on(self) -> None:
        protocol = receiver(Side.SERVER, 4, 1)
        protocol.receive_data(b"".join(map(small, range(7))))
        going_on = []
        for number in range(7):
            assert protocol.next_message() == str(number)
            going_on.append(protocol.can_receive_kept)
            protocol.receive_kept()
        assert going_on == [False, False, False, True, False, False, False]

    def test_memory(self) -> None:
        wire = bombs(200)
        protocol = receiver()
        tracemalloc.start()
        try:
            protocol.receive_data(wire)
            assert tracemalloc.get_traced_memory()[1] < 6 * SIZE + len(wire)
        finally:
            tracemalloc.stop()

    def test_reading_goes_on_when_all_is_parsed(self) -> None:
        protocol = receiver(Side.SERVER, 4, 1)
        assert protocol.receive_data(b"".join(map(small, range(7)))) & activity.ATTENTION
        wanted = []
        for number in range(7):
            assert protocol.next_message() == str(number)
            protocol.receive_kept()
            wanted.append(protocol.reading_wanted)
        assert wanted == [False, False, False, True, True, True, True]

    def test_what_comes_all_the_same_stays_behind(self) -> None:
        protocol = receiver(Side.SERVER, 4, 1)
        protocol.receive_data(b"".join(map(small, range(10))))
        for number in range(10, 20):
            for i in range(len(small(number))):
                protocol.receive_data(small(number)[i : i + 1])
        assert list(everything(protocol)) == [str(i) for i in range(20)]

    def test_new_input_or_the_clock_goes_on_as_well(self) -> None:
        protocol = receiver(Side.SERVER, 4, 1)
        protocol.receive_data(b"".join(map(small, range(20))), 5.0)
        assert protocol.next_timeout() != 5.0
        assert messages(protocol) == ["0", "1", "2", "3", "4"]
        assert protocol.next_timeout() == 5.0
        assert protocol.handle_timeout(5.0) & activity.MESSAGE
        assert messages(protocol) == ["5", "6", "7", "8", "9"]
        assert protocol.receive_data(b"", 6.0) & activity.MESSAGE
        assert messages(protocol) == ["10", "11", "12", "13", "14"]

    def test_reader_that_waits_for_a_fragmented_message(self) -> None:
        protocol = receiver(Side.SERVER, 2)
        pieces = Peer(extension())
        wire = frame(Side.SERVER, TEXT, pieces.deflate(b"0", False), fin=False, rsv=RSV1)
        for i in range(1, 50):
            wire += frame(Side.SERVER, CONT, pieces.deflate(b"%d" % i, i == 49), fin=i == 49)
        protocol.receive_data(wire + b"".join(map(small, range(9))))
        assert protocol.next_message() is None
        protocol.receive_kept()
        assert protocol.next_message() == "".join(map(str, range(50)))
        assert list(everything(protocol)) == [str(i) for i in range(9)]

    def test_fragments_one_by_one(self) -> None:
        protocol = receiver(Side.SERVER, 2, 0)
        pieces = Peer(extension())
        wire = frame(Side.SERVER, TEXT, pieces.deflate(b"0", False), fin=False, rsv=RSV1)
        for i in range(1, 9):
            wire += frame(Side.SERVER, CONT, pieces.deflate(b"%d" % i, i == 8), fin=i == 8)
        protocol.receive_data(wire)
        found = []
        while True:
            fragment = protocol.next_fragment()
            protocol.receive_kept()
            if fragment is None:
                fragment = protocol.next_fragment()
            if fragment is None:
                break
            found.append(fragment)
        assert found == [(str(i), i == 8) for i in range(9)]


class TestWholeProcess:
    def test_all_connections_together(self) -> None:
        """Above 64 MiB, messages are inflated for who waits for them."""
        wire = bombs(100)
        crowd = [receiver() for _ in range(100)]
        for protocol in crowd:
            protocol.receive_data(wire)
        held = [len(messages(protocol)) for protocol in crowd]
        assert 64 <= sum(held) <= 64 + 5
        assert held[-1] == 0
        del crowd[:50]

    def test_those_that_wait_get_theirs(self) -> None:
        wire = bombs(10)
        crowd = [receiver() for _ in range(100)]
        for protocol in crowd:
            protocol.receive_data(wire)
        late = crowd[-1]
        assert not late.reading_wanted
        assert late.next_message() is None
        assert late.receive_kept() & activity.MESSAGE
        assert len(late.next_message()) == SIZE
        # One at a time.
        assert not late.receive_kept() & activity.MESSAGE
        del crowd[:-1], protocol
        assert late.receive_kept() & activity.MESSAGE, "others have left room"
        assert len(messages(late)) == 4

    def test_what_is_freed_counts_no_more(self) -> None:
        for _ in range(100):
            protocol = receiver()
            protocol.receive_data(bombs(10))
            assert len(messages(protocol)) == 4
            protocol = receiver()
            protocol.receive_data(bombs(10))

    def test_header_cut_by_the_end_of_a_read(self) -> None:
        crowd = [receiver() for _ in range(20)]
        for protocol in crowd:
            protocol.receive_data(bombs(10))
        for cut in range(1, 12):
            late = receiver()
            wire = small(1) + small(2)
            late.receive_data(wire[:cut])
            late.receive_data(wire[cut:])
            assert late.next_message() is None
            late.receive_kept()
            assert late.next_message() == "1"
            assert list(everything(late)) == ["2"]


class TestControlFrames:
    def full(self, *behind: bytes) -> Protocol:
        protocol = receiver(Side.SERVER, 2, 1)
        protocol.ping(b"ours", "waiter")
        output(protocol)
        protocol.receive_data(b"".join(map(small, range(9))) + b"".join(behind))
        return protocol

    def test_are_answered_at_once(self) -> None:
        ping, pong = frame(Side.SERVER, PING, b"ping"), frame(Side.SERVER, PONG, b"ours")
        protocol = self.full(ping, pong, small(9))
        assert sent(protocol) == [(PONG, b"ping")]
        assert [waiter for waiter, _ in protocol.acknowledged_pings()] == ["waiter"]
        assert not protocol.reading_wanted
        assert list(everything(protocol)) == [str(i) for i in range(10)]
        assert sent(protocol) == []

    @pytest.mark.parametrize("ending", ["kept", "eof", "lost"])
    def test_close(self, ending: str) -> None:
        protocol = self.full(frame(Side.SERVER, CLOSE, OK), small(9), b"rubbish")
        assert sent(protocol) == [(CLOSE, OK)]
        assert protocol.reading_wanted
        if ending == "eof":
            protocol.receive_eof()
        elif ending == "lost":
            protocol.connection_lost(OSError())
        # Nothing happens any more that a driver would have to notice.
        assert messages(protocol) == [str(i) for i in range(9)]
        protocol.receive_eof()
        assert protocol.close_code == 1000
        assert type(protocol.close_exc) is ConnectionClosedOK

    def test_only_one_cut_waits_for_its_rest(self) -> None:
        ping = frame(Side.SERVER, PING, b"ping")
        protocol = self.full(ping[:5])
        assert sent(protocol) == []
        assert list(everything(protocol)) == [str(i) for i in range(9)]
        protocol.receive_data(ping[5:])
        assert sent(protocol) == [(PONG, b"ping")]

    @pytest.mark.parametrize("cut", range(1, 8))
    def test_inside_a_frame_that_is_cut(self, cut: int) -> None:
        crowd = [receiver() for _ in range(20)]
        for other in crowd:
            other.receive_data(bombs(10))
        protocol = receiver()
        protocol.receive_data(small(1)[:-cut])
        protocol.receive_data(small(1)[-cut:] + frame(Side.SERVER, PING, b"a") + small(2))
        assert sent(protocol) == [(PONG, b"a")]
        assert list(everything(protocol)) == ["1", "2"]

    def test_that_fail_inside_a_frame_that_is_cut(self) -> None:
        crowd = [receiver() for _ in range(20)]
        protocol = receiver(Side.CLIENT)
        # Taken for frames, the last bytes of this payload would end the message, and be another.
        end = frame(Side.CLIENT, CONT, b"no") + frame(Side.CLIENT, TEXT, b"no")
        protocol.receive_data(frame(Side.CLIENT, BINARY, b"." + end)[: -len(end)])
        for other in crowd:
            other.receive_data(bombs(10))
        protocol.receive_data(end + frame(Side.CLIENT, CLOSE, b"\x03"))
        assert protocol.close_sent is not None
        assert protocol.close_sent.code == 1002
        assert list(everything(protocol)) == [b"." + end]
        crowd.clear()  # the exception's frames would keep it


class TestEndings:
    def full(self, behind: bytes = b"") -> Protocol:
        protocol = receiver(Side.SERVER, 2, 1)
        protocol.receive_data(b"".join(map(small, range(9))) + behind)
        return protocol

    @pytest.mark.parametrize("end", ["receive_eof", "connection_lost"])
    @pytest.mark.parametrize("behind", [b"", b"\xc1", small(9)[:-1]])
    def test_stream_ends(self, end: str, behind: bytes) -> None:
        protocol = self.full(behind)
        getattr(protocol, end)()
        assert protocol.state is State.CLOSED
        assert messages(protocol) == [str(i) for i in range(9)]
        assert protocol.close_code == 1006
        assert isinstance(protocol.close_exc.__cause__, EOFError)

    @pytest.mark.parametrize("end", ["receive_eof", "connection_lost"])
    def test_inside_a_frame(self, end: str) -> None:
        crowd = [receiver() for _ in range(20)]
        for other in crowd:
            other.receive_data(bombs(10))
        protocol = receiver()
        protocol.receive_data(small(1)[:-1])
        protocol.receive_data(small(1)[-1:] + small(2))
        getattr(protocol, end)()
        assert messages(protocol) == ["1", "2"]

    def test_bounded_at_the_end_too(self) -> None:
        protocol = receiver()
        protocol.receive_data(bombs(100))
        protocol.receive_eof()
        tracemalloc.start()
        try:
            assert sum(1 for _ in iter(protocol.next_message, None)) == 100
            # A little more than 7 with zlib, less with zlib-ng.
            assert tracemalloc.get_traced_memory()[1] < 8 * SIZE
        finally:
            tracemalloc.stop()

    def test_our_own_close_drops(self) -> None:
        protocol = self.full(small(9)[:-1])
        protocol.close()
        output(protocol)
        assert protocol.reading_wanted
        assert messages(protocol) == ["0", "1", "2"]
        protocol.receive_data(small(9)[-1:] + bombs(10) + frame(Side.SERVER, CLOSE, OK))
        assert messages(protocol) == []
        protocol.receive_eof()
        assert type(protocol.close_exc) is ConnectionClosedOK

    def test_what_is_dropped_is_not_inflated(self) -> None:
        protocol = self.full()
        protocol.close()
        tracemalloc.start()
        try:
            protocol.receive_data(bombs(10))
            assert tracemalloc.get_traced_memory()[1] < SIZE
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize(
        "bad, code",
        [
            (frame(Side.SERVER, BINARY, b"\xff\xff", rsv=RSV1), 1007),
            (frame(Side.SERVER, 3, b""), 1002),
            (frame(Side.SERVER, BINARY, raw(bytes(SIZE + 1)), rsv=RSV1), 1009),
            (frame(Side.SERVER, TEXT, b"\xff"), 1007),
            (frame(Side.SERVER, CONT, b""), 1002),
            (frame(Side.SERVER, PING, b"", rsv=RSV1), 1002),
        ],
    )
    def test_fault_at_its_turn(self, bad: bytes, code: int) -> None:
        protocol = self.full(bad + small(9))
        assert protocol.state is State.OPEN
        assert list(everything(protocol)) == [str(i) for i in range(9)]
        assert protocol.close_sent is not None
        assert protocol.close_sent.code == code

    def test_fault_at_its_turn_starts_the_clock_of_closing(self) -> None:
        protocol = receiver(Side.SERVER, 2, 1)
        protocol.set_timeouts(close_timeout=10)
        protocol.receive_data(b"".join(map(small, range(3))) + frame(Side.SERVER, 3, b""), 1.0)
        assert protocol.next_message() == "0"
        assert protocol.next_message() == "1"
        assert protocol.receive_kept(100.0) & activity.ATTENTION
        protocol.handle_timeout(105.0)
        assert protocol.next_timeout() == 110

    @pytest.mark.parametrize("bad", [frame(Side.SERVER, BINARY, b"\xff\xff", rsv=RSV1)])
    def test_fault_before_a_close_frame(self, bad: bytes) -> None:
        """The Close frame was answered; what was lost shows in the outcome."""
        protocol = self.full(bad + small(9) + frame(Side.SERVER, CLOSE, OK))
        protocol.receive_eof()
        assert messages(protocol) == [str(i) for i in range(9)]
        assert protocol.close_code == 1000
        assert type(protocol.close_exc) is ConnectionClosedError
        assert protocol.close_exc.__cause__ is protocol.parser_exc is not None

    def test_uncompressed_ones_behind_are_not_dropped(self) -> None:
        plain = frame(Side.SERVER, TEXT, b"plain") * 50
        protocol = self.full(plain + small(9) + frame(Side.SERVER, CLOSE, OK))
        assert messages(protocol) == [*map(str, range(9)), *["plain"] * 50, "9"]


class TestCallbacks:
    def listening(self, on_message: Callable[[Any], object]) -> Protocol:
        protocol = receiver()
        protocol.listen(on_message)
        return protocol

    def test_stop_while_the_network_takes_nothing(self) -> None:
        found: list[Any] = []
        protocol = self.listening(found.append)
        protocol.pause_writing()
        protocol.receive_data(b"".join(map(small, range(9))) + frame(Side.SERVER, CLOSE, OK))
        assert found == ["0"] or found == []
        assert not protocol.reading_wanted
        assert protocol.state is State.OPEN
        protocol.resume_writing()
        assert protocol.next_timeout() == 0.0
        protocol.handle_timeout(0.0)
        assert found == [str(i) for i in range(9)]
        assert protocol.state is State.CLOSING

    def test_what_they_send_is_bounded(self) -> None:
        count = 0

        def echo(message: bytes) -> None:
            nonlocal count
            count += 1
            protocol.send(message, compress=False)

        protocol = self.listening(echo)
        protocol.receive_data(bombs(200))
        assert count < 200
        while count < 200:
            assert SIZE < protocol.output_size < 3 * SIZE
            assert not protocol.reading_wanted
            assert protocol.receive_kept() == activity.OUTPUT, "no room"
            output(protocol)
            protocol.receive_kept()
        assert protocol.reading_wanted

    @pytest.mark.parametrize("end", ["receive_eof", "connection_lost"])
    def test_all_are_called_back_at_the_end(self, end: str) -> None:
        found: list[Any] = []
        protocol = self.listening(found.append)
        protocol.pause_writing()
        protocol.receive_data(b"".join(map(small, range(9))) + frame(Side.SERVER, CLOSE, OK))
        getattr(protocol, end)()
        assert found == [str(i) for i in range(9)]
        assert protocol.close_rcvd == Close(1000, "")

    def test_nobody_is_answered_after_a_failure(self) -> None:
        protocol = receiver()
        protocol.listen(pytest.fail)
        protocol.pause_writing()
        protocol.receive_data(
            small(1) + frame(Side.SERVER, PING, b"?") + frame(Side.SERVER, CLOSE, OK)
        )
        protocol.fail(1011)
        assert [opcode for opcode, _ in sent(protocol)] == [CLOSE]
        protocol.resume_writing()
        protocol.receive_kept()
        assert sent(protocol) == []
        assert protocol.close_rcvd == Close(1000, "")

    def test_all_that_waits_when_listening_begins(self) -> None:
        protocol = receiver(Side.SERVER, 2, 1)
        protocol.receive_data(b"".join(map(small, range(9))))
        found: list[Any] = []
        protocol.listen(found.append)
        assert found == [str(i) for i in range(9)]
        protocol.receive_data(small(9))
        assert found[-1] == "9"

    @pytest.mark.parametrize("marks", [(2, 1), (1, 0), (16, 4)])
    @pytest.mark.parametrize("lost", [True, False])
    def test_all_that_waits_when_listening_begins_at_the_end(
        self, lost: bool, marks: tuple[int, int]
    ) -> None:
        protocol = receiver(Side.SERVER, *marks)
        protocol.receive_data(b"".join(map(small, range(99))) + frame(Side.SERVER, CLOSE, OK))
        if lost:
            protocol.connection_lost()
        assert protocol.next_message() == "0"
        found: list[Any] = []
        protocol.listen(found.append)
        assert found == [str(i) for i in range(1, 99)]

    def test_nothing_after_our_own_close(self) -> None:
        def close(message: Any) -> None:
            found.append(message)
            if len(found) == 3:
                protocol.close()

        found: list[Any] = []
        protocol = self.listening(close)
        protocol.receive_data(b"".join(map(small, range(9))) + frame(Side.SERVER, CLOSE, OK))
        assert found == ["0", "1", "2"]
        assert protocol.close_rcvd is not None

    def test_what_our_own_close_cuts_in_two(self) -> None:
        """The rest of a message isn't inflated any more; the next one isn't taken for it."""
        found: list[Any] = []
        protocol = self.listening(found.append)
        data = raw(b"hello")
        protocol.receive_data(frame(Side.SERVER, TEXT, data[:3], fin=False, rsv=RSV1))
        protocol.close()
        protocol.receive_data(frame(Side.SERVER, CONT, data[3:]))
        protocol.receive_data(frame(Side.SERVER, TEXT, b"plain"))
        protocol.receive_data(frame(Side.SERVER, CLOSE, OK))
        assert found == []
        assert protocol.parser_exc is None
        assert protocol.close_rcvd is not None


# ---------------------------------------------------------------------- everything at once


class Script:
    """A random stream of frames, and what it means."""

    def __init__(self, side: Side, rng: random.Random, *, context: bool) -> None:
        self.messages: list[Any] = []
        self.pings: list[bytes] = []
        self.closed = False
        self.cut = False
        ours = extension(remote_no_context_takeover=not context)
        peer = Peer(ours)
        wire = b""

        def add(*args: Any, **kwargs: Any) -> None:
            nonlocal wire
            wire += frame(side, *args, **kwargs)

        for _ in range(rng.randrange(30)):
            size = rng.choice([0, 1, 10, 300, 5000, 70000])
            text = rng.random() < 0.5
            payload = b"".join(rng.choice([b"a", b"\xc3\xa9"]) for _ in range(2)) * (size // 2)
            compressed = rng.random() < 0.7
            count = rng.choice([1, 1, 1, 2, 5])
            cuts = sorted(rng.randrange(len(payload) + 1) for _ in range(count - 1))
            pieces = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
            for i, piece in enumerate(pieces):
                fin = i == count - 1
                data = peer.deflate(piece, fin) if compressed else piece
                first = TEXT if text else BINARY
                add(first if i == 0 else CONT, data, fin=fin, rsv=RSV1 * (compressed and i == 0))
                while rng.random() < 0.2:
                    self.pings.append(b"%d" % len(self.pings))
                    add(PING, self.pings[-1])
                if rng.random() < 0.02:
                    self.closed, self.cut = True, not fin
                    add(CLOSE, OK)
                    if fin:
                        self.messages.append(payload.decode() if text else payload)
                    break
            if self.closed:
                break
            self.messages.append(payload.decode() if text else payload)
        if self.closed:
            add(TEXT, b"too late")
        self.wire = wire


@pytest.mark.parametrize("side", SIDES)
@given(
    seed=st.integers(0, 2**32),
    high=st.integers(0, 5),
    max_bytes=st.sampled_from([None, 3000, 100_000]),
    context=st.booleans(),
    way=st.sampled_from(["data", "buffer", "small buffer"]),
    heed=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_any_stream_read_at_any_time(
    side: Side,
    seed: int,
    high: int,
    max_bytes: int | None,
    context: bool,
    way: str,
    heed: bool,
) -> None:
    """Same messages, same order, same outcome, however it is split and whenever it is taken."""
    check_any_stream(side, seed, high, max_bytes, context, way, heed)


def test_random_streams() -> None:
    for seed in range(50):
        rng = random.Random(seed)
        check_any_stream(
            rng.choice(SIDES),
            seed,
            rng.randrange(6),
            rng.choice([None, 3000, 100_000]),
            rng.random() < 0.5,
            rng.choice(["data", "buffer", "small buffer"]),
            rng.random() < 0.7,
        )


def check_any_stream(
    side: Side,
    seed: int,
    high: int,
    max_bytes: int | None,
    context: bool,
    way: str,
    heed: bool,
) -> None:
    rng = random.Random(seed)
    script = Script(side, rng, context=context)
    protocol = Protocol(side, max_size=SIZE)
    protocol.extensions = [extension(remote_no_context_takeover=not context)]
    protocol.queue_messages(high, max_bytes=max_bytes)
    if way != "data":
        protocol.use_read_buffer(memoryview(bytearray(64 if way == "small buffer" else 4096)))
    taken: list[Any] = []
    answered: list[tuple[int, bytes]] = []
    wire = script.wire
    if not script.closed and rng.random() < 0.3:
        wire = wire[: rng.randrange(len(wire) + 1)]
    ending = rng.choice(["receive_eof", "connection_lost"])
    largest = rng.choice([1, 10, 1000, 100_000])
    position = 0

    def take() -> bool:
        message = protocol.next_message()
        protocol.receive_kept()
        if message is None:
            message = protocol.next_message()
        if message is None:
            if rng.random() < 0.5:
                protocol.stop_waiting()
            return False
        taken.append(message)
        return True

    while position < len(wire):
        if rng.random() < 0.3 or (heed and not protocol.reading_wanted):
            assert take() or protocol.reading_wanted
            continue
        size = min(rng.randint(1, largest), len(wire) - position)
        if way == "data":
            protocol.receive_data(wire[position : position + size])
        else:
            buffer = protocol.get_buffer(-1)
            size = min(len(buffer), size)
            buffer[:size] = wire[position : position + size]
            protocol.buffer_updated(size)
        position += size
        answered += sent(protocol)
    ended = rng.random() < 0.5
    if ended:
        getattr(protocol, ending)()
        answered += sent(protocol)
    while take():
        pass
    answered += sent(protocol)
    if not ended:
        getattr(protocol, ending)()
    assert taken == script.messages[: len(taken)]
    if len(wire) == len(script.wire):
        assert taken == script.messages
        if not (ended and ending == "connection_lost"):
            pongs = [payload for opcode, payload in answered if opcode == PONG]
            assert pongs == script.pings[: len(pongs)]
            assert ended or pongs == script.pings
    assert protocol.state is State.CLOSED
    assert protocol.close_code == (1000 if script.closed else 1006)
    if script.closed and not script.cut:
        assert type(protocol.close_exc) is ConnectionClosedOK
    else:
        assert type(protocol.close_exc) is ConnectionClosedError
