"""Every limit of the engine, named and reached by a hostile peer; and misuse that mustn't crash."""

import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from wsproto_fast import (
    Close,
    InvalidState,
    Protocol,
    ServerProtocol,
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
    PING,
    PONG,
    SIDES,
    TEXT,
    frame,
    header,
    messages,
    output,
    run_apart,
    sent,
    through_buffer,
)

MIB = 2**20

both_sides = pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)


def peak(action: Callable[[], Any]) -> int:
    """Return how many bytes Python's allocators held at most on top of what they held before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        action()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def kept(action: Callable[[], Any]) -> int:
    """Return how many bytes Python's allocators hold more than before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        action()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


@both_sides
class TestMemoryFollowsWhatWasReceived:
    def head(self, side: Side, opcode: int, length: int) -> bytes:
        return header(opcode, length, key=KEY if side == Side.SERVER else None)

    @pytest.mark.parametrize("max_size", [None, 2**40], ids=str)
    @pytest.mark.parametrize("length", [2**26, 2**39, 2**40], ids=str)
    @pytest.mark.parametrize("received", [0, 1, 100, 5000])
    @pytest.mark.parametrize("opcode", [BINARY, TEXT])
    def test_not_what_a_header_announces(
        self, side: Side, max_size: int | None, length: int, received: int, opcode: int
    ) -> None:
        protocol = Protocol(side, max_size=max_size)
        protocol.queue_messages()
        protocol.use_read_buffer(memoryview(bytearray(1000)))
        wire = (
            self.head(side, opcode, length)
            + frame(side, opcode, bytes(received))[-received or 14 :]
        )

        def receive() -> None:
            through_buffer(protocol, [wire])
            protocol.get_buffer()

        assert peak(receive) < 8 * received + 20_000
        assert protocol.state is State.OPEN

    def test_not_the_largest_header_either(self, side: Side) -> None:
        protocol = Protocol(side, max_size=None)
        wire = self.head(side, BINARY, 2**63 - 1)
        assert peak(lambda: protocol.receive_data(wire + bytes(100))) < 20_000
        assert protocol.state is State.OPEN
        assert len(protocol.get_buffer()) < 100_000

    def test_large_frame_takes_little_more_than_its_size(self, side: Side) -> None:
        protocol = Protocol(side, max_size=None)
        protocol.queue_messages()
        protocol.use_read_buffer(memoryview(bytearray(65536)))
        wire = frame(side, BINARY, bytes(4 * MIB))
        pieces = [wire[i : i + 65536] for i in range(0, len(wire), 65536)]
        assert kept(lambda: through_buffer(protocol, pieces)) < 4.5 * MIB
        message = protocol.next_message()
        assert sys.getsizeof(message) < 4 * MIB + 100

    @pytest.mark.parametrize("opcode", [BINARY, TEXT])
    @pytest.mark.parametrize("loss", ["failure", "end", "deletion"])
    def test_memory_is_released_when_the_connection_ends(
        self, side: Side, opcode: int, loss: str
    ) -> None:
        protocols = [Protocol(side, max_size=None)]
        protocols[0].queue_messages()
        wire = self.head(side, opcode, 8 * MIB) + frame(side, opcode, bytes(4 * MIB))[-4 * MIB :]

        def receive() -> None:
            through_buffer(protocols[0], [wire])
            assert protocols[0].buffered_bytes() == 4 * MIB
            if loss == "failure":
                protocols[0].fail(1011)
                output(protocols[0])
            elif loss == "end":
                protocols[0].receive_eof()
                protocols[0].connection_lost()
                output(protocols[0])
            else:
                protocols.clear()
            for protocol in protocols:
                protocol.get_buffer()  # until then something might be written to the last one

        assert kept(receive) < 50_000


@both_sides
class TestSizeOfPayloads:
    @pytest.mark.parametrize("length", [2**63, 2**64 - 1])
    def test_lengths_beyond_63_bits_are_refused(self, side: Side, length: int) -> None:
        protocol = Protocol(side, max_size=None)
        key = KEY if side == Side.SERVER else None
        protocol.receive_data(header(BINARY, length, key=key))
        assert protocol.close_sent == Close(1002, "payload length exceeds 2**63 - 1")

    def test_fragments_cannot_add_up_beyond_the_limit(self, side: Side) -> None:
        protocol = Protocol(side, max_size=1000)
        protocol.queue_messages(None, max_fragments=None)
        start = frame(side, BINARY, bytes(999), fin=False)
        protocol.receive_data(start + frame(side, CONT, fin=False) * 5)
        assert protocol.state is State.OPEN
        protocol.receive_data(frame(side, CONT, bytes(1), fin=False))
        assert protocol.state is State.OPEN
        protocol.receive_data(frame(side, CONT, bytes(1), fin=False))
        assert protocol.close_sent is not None
        assert protocol.close_sent.code == 1009

    def test_every_message_has_its_own_size(self, side: Side) -> None:
        protocol = Protocol(side, max_size=1000)
        protocol.queue_messages(None)
        message = frame(side, BINARY, bytes(600), fin=False) + frame(side, CONT, bytes(400))
        protocol.receive_data(message * 3)
        assert messages(protocol) == [bytes(1000)] * 3
        assert protocol.state is State.OPEN

    def test_the_sum_of_huge_fragments_does_not_overflow(self, side: Side) -> None:
        protocol = Protocol(side, max_size=2**63)
        key = KEY if side == Side.SERVER else None
        protocol.receive_data(frame(side, BINARY, bytes(10), fin=False))
        protocol.receive_data(header(CONT, 2**63 - 1, key=key, fin=False))
        assert protocol.close_sent is not None
        assert protocol.close_sent.code == 1009


@both_sides
class TestFragments:
    def test_4096_by_default(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.queue_messages(None)
        protocol.receive_data(frame(side, TEXT, fin=False) + frame(side, CONT, fin=False) * 4095)
        assert protocol.state is State.OPEN
        protocol.receive_data(frame(side, CONT))
        assert protocol.close_sent is not None
        assert protocol.close_sent.code == 1009
        assert isinstance(protocol.parser_exc, TooManyFragments)
        assert str(protocol.parser_exc) == "fragmented message exceeds limit of 4096 frames"

    def test_every_message_has_its_own_count(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.queue_messages(None, max_fragments=2)
        for _ in range(5):
            protocol.receive_data(frame(side, TEXT, fin=False) + frame(side, CONT))
        assert protocol.state is State.OPEN

    def test_control_frames_do_not_count(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.queue_messages(None, max_fragments=2)
        protocol.receive_data(frame(side, TEXT, fin=False) + frame(side, PONG) * 10)
        protocol.receive_data(frame(side, CONT))
        assert protocol.state is State.OPEN


@both_sides
class TestQueue:
    def test_tiny_messages_stop_reading(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.queue_messages()
        protocol.receive_data(frame(side, BINARY) * 16)
        assert protocol.reading_wanted
        protocol.receive_data(frame(side, BINARY))
        assert not protocol.reading_wanted

    def test_large_messages_stop_reading(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.queue_messages()
        protocol.receive_data(frame(side, BINARY, bytes(MIB)) * 3)
        assert protocol.reading_wanted
        protocol.receive_data(frame(side, BINARY, bytes(MIB)))
        assert not protocol.reading_wanted

    @pytest.mark.parametrize("character", ["a", "é", "€", "😀"])
    def test_bytes_are_those_that_the_messages_take(self, side: Side, character: str) -> None:
        protocol = Protocol(side)
        protocol.queue_messages(None, max_bytes=100_000)
        wire = frame(side, TEXT, ("a" * 999 + character).encode())
        while protocol.reading_wanted:
            protocol.receive_data(wire)
        taken = 0
        while (message := protocol.next_message()) is not None:
            taken += sys.getsizeof(message)
        assert 50_000 < taken < 110_000

    def test_messages_are_dropped_while_closing(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.queue_messages()
        protocol.close()
        wire = frame(side, BINARY, bytes(1000)) * 100
        protocol.receive_data(wire)
        assert kept(lambda: [protocol.receive_data(wire) for _ in range(10)]) < 5000

    def test_events_are_forgotten_once_taken(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.receive_data(frame(side, BINARY) * 10)
        assert len(protocol.events_received()) == 10
        assert protocol.events_received() == []


@both_sides
class TestControlFrames:
    def test_pings_cannot_make_the_output_grow_while_writing_is_paused(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.queue_messages()
        protocol.pause_writing()
        wire = frame(side, PING, bytes(125)) * 1000
        protocol.receive_data(wire)
        assert kept(lambda: protocol.receive_data(wire)) < 2000
        assert protocol.output_size == 0
        protocol.resume_writing()
        assert sent(protocol) == [(PONG, bytes(125))]

    def test_pongs_leave_nothing_behind(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.queue_messages()
        wire = b"".join(frame(side, PONG, b"%d" % i) for i in range(1000))
        protocol.receive_data(wire)
        assert kept(lambda: protocol.receive_data(wire)) < 2000

    def test_unanswered_keepalive_pings_are_forgotten(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.set_timeouts(ping_interval=1, ping_timeout=None)

        def idle() -> None:
            for now in range(1, 2001):
                protocol.handle_timeout(now)
                output(protocol)

        assert kept(idle) < 20_000

    def test_input_after_the_closing_handshake_costs_nothing(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.receive_data(frame(side, CLOSE))
        output(protocol)
        protocol.events_received()
        wire = frame(side, BINARY, bytes(1000)) * 100
        assert kept(lambda: [protocol.receive_data(wire) for _ in range(10)]) < 2000
        assert protocol.output_size == 0

    def test_close_reason_is_limited_to_the_frame(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.close(1000, "é" * 61 + "x")
        ((opcode, payload),) = sent(protocol)
        assert (opcode, len(payload)) == (CLOSE, 125)


class TestEarlyData:
    REQUEST = (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )

    def test_frames_behind_the_request_wait_for_the_answer(self) -> None:
        server = ServerProtocol()
        server.receive_data(self.REQUEST + frame(Side.SERVER, TEXT, b"early"))
        server.receive_data(frame(Side.SERVER, BINARY, b"next"))
        (request,) = server.events_received()
        server.send_response(server.accept(request))
        assert [bytes(event.data) for event in server.events_received()] == [b"early", b"next"]

    def test_largest_head(self) -> None:
        """What one may have received of a request that never ends."""
        server = ServerProtocol()
        line = b"X: " + b"y" * (8192 - 5) + b"\r\n"
        request = b"GET /" + b"a" * 8000 + b" HTTP/1.1\r\n" + line * 128 + line[:-1]
        assert kept(lambda: server.receive_data(request)) < 130 * 8192 + 50_000
        assert server.handshake_exc is None
        assert kept(lambda: server.receive_data(b"\n" + line * 100)) < 10_000
        assert server.handshake_exc is not None

    def test_are_limited(self) -> None:
        server = ServerProtocol()
        server.receive_data(self.REQUEST)
        server.receive_data(bytes(65536))
        assert server.handshake_exc is None
        server.receive_data(b"\0")
        assert str(server.handshake_exc) == "over 65536 bytes before the handshake is complete"
        assert server.close_expected()
        response = server.data_to_send()[0]
        assert response.startswith(b"HTTP/1.1 413 ")
        assert b": over 65536 bytes before the handshake is complete.\n" in response
        assert server.transport_action == activity.HALF_CLOSE
        with pytest.raises(InvalidState):  # whatever the application has decided meanwhile
            server.send_response(server.reject(403, "no"))
        assert kept(lambda: [server.receive_data(bytes(65536)) for _ in range(20)]) < 70_000


PRELUDE = """
from wsproto_fast import *
def client(queue=True):
    protocol = Protocol(Side.CLIENT, max_size=None)
    if queue:
        protocol.queue_messages()
    protocol.use_read_buffer(memoryview(bytearray(64)))
    return protocol
def raises(action, *args):
    try:
        action(*args)
    except Exception as exc:
        print(type(exc).__name__)
    else:
        print("no exception")
START = b"\\x82\\x7e\\x03\\xe8" + bytes(100)  # of a frame of 1,000 bytes
"""


class TestMemorySafety:
    """In an interpreter of its own each, which a defect would crash."""

    @pytest.mark.parametrize(
        "call",
        [
            "next_message()",
            "next_fragment()",
            "skip_fragments()",
            "stop_waiting()",
            "next_message(True)",
        ],
    )
    def test_messages_without_a_queue(self, call: str) -> None:
        result = run_apart(PRELUDE + f"raises(lambda: client(queue=False).{call})")
        assert result.strip() not in ("", "no exception")

    def test_no_prepared_message(self) -> None:
        assert run_apart(PRELUDE + "raises(client().send_prepared, None)").strip() == "TypeError"

    @pytest.mark.parametrize("size", [-1, 65, 10**6, 2**40])
    def test_more_than_the_read_buffer_holds(self, size: int) -> None:
        code = f"""
p = client()
p.get_buffer()
raises(p.buffer_updated, {size})
print(p.state.name)
"""
        assert run_apart(PRELUDE + code).split() == ["ValueError", "OPEN"]

    @pytest.mark.parametrize("size", [-1, 1000, 10**6, 2**40])
    def test_more_than_the_frame_has_room_for(self, size: int) -> None:
        code = f"""
p = client()
p.receive_data(START)
assert len(p.get_buffer()) < 1000
raises(p.buffer_updated, {size})
print(p.state.name)
"""
        assert run_apart(PRELUDE + code).split() == ["ValueError", "OPEN"]

    def test_update_without_a_buffer(self) -> None:
        code = "p = Protocol(Side.CLIENT); raises(p.buffer_updated, 1)"
        assert run_apart(PRELUDE + code).strip() == "ValueError"

    @pytest.mark.parametrize(
        "event",
        [
            "p.fail(1011)",
            "p.receive_eof()",
            "p.connection_lost()",
            "p.set_timeouts(ping_interval=1, ping_timeout=1, now=0); p.handle_timeout(1);"
            "p.handle_timeout(2)",
            "p.receive_data(bytes(900))",
            "p.receive_data(bytes(900) + b'\\xff')",
        ],
    )
    def test_buffer_that_is_not_used(self, event: str) -> None:
        # A read that finds nothing calls get_buffer() only: over TLS that is common.
        code = f"""
p = client()
p.receive_data(START)
p.get_buffer()
{event}
buffer = p.get_buffer()
buffer[:2] = b"\\x81\\x00"
p.buffer_updated(2)
print("alive")
"""
        assert run_apart(PRELUDE + code).strip() == "alive"

    @pytest.mark.parametrize("event", ["p.fail(1011)", "p.connection_lost()"])
    def test_buffer_filled_after_the_connection_failed(self, event: str) -> None:
        # A read that is under way when the connection fails still writes into what it was given.
        code = f"""
p = client()
p.receive_data(START)
buffer = p.get_buffer()
{event}
others = [bytes([i]) * 200 for i in range(100)]
buffer[:] = b"\\xff" * len(buffer)
p.buffer_updated(len(buffer))
assert others == [bytes([i]) * 200 for i in range(100)]
del p, others
print("alive")
"""
        assert run_apart(PRELUDE + code).strip() == "alive"

    def test_updated_after_the_connection_failed(self) -> None:
        code = """
p = client()
p.receive_data(START)
p.get_buffer()
p.fail(1011)
p.buffer_updated(5)
print(p.state.name)
"""
        assert run_apart(PRELUDE + code).strip() == "CLOSING"

    def test_read_buffer_that_shrinks(self) -> None:
        code = """
memory = bytearray(2**20)
p = Protocol(Side.CLIENT)
try:
    p.use_read_buffer(memory)
    memory.clear()
except (BufferError, TypeError):
    print("refused")
"""
        assert run_apart(PRELUDE + code).strip() == "refused"

    @pytest.mark.parametrize("state", [-1, 4, 90_000])
    def test_states_that_do_not_exist(self, state: int) -> None:
        code = f"raises(lambda: Protocol(Side.CLIENT, state={state}).state)"
        assert run_apart(PRELUDE + code).strip() == "ValueError"

    def test_prepared_message_that_was_not_initialised(self) -> None:
        code = """
for side in Side:
    raises(lambda: Protocol(side).send_prepared(PreparedMessage.__new__(PreparedMessage)))
"""
        assert "no exception" not in run_apart(PRELUDE + code)


@pytest.mark.parametrize("queued", [True, False])
def test_control_frames_do_not_count_against_the_size_of_messages(queued: bool) -> None:
    protocol = Protocol(Side.CLIENT, max_size=3)
    if queued:
        protocol.queue_messages()
    protocol.receive_data(b"\x01\x02ab" + b"\x89\x64" + bytes(100) + b"\x80\x01c")
    assert protocol.state is State.OPEN
    if queued:
        assert protocol.next_message() == "abc"
    protocol.receive_data(b"\x88\x0c\x03\xe8" + b"ten bytes!")
    assert protocol.close_rcvd.reason == "ten bytes!"
    assert protocol.parser_exc is None
