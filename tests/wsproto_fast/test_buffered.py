"""What waits on a connection, and how one is closed on which too much does."""

from __future__ import annotations

from typing import Any

import pytest

from wsproto_fast import Backpressure, Protocol, ServerProtocol, Side, Slow, State
from wsproto_fast.activity import ABORT, KEEP
from wsproto_fast.exceptions import ConnectionClosedError, ConnectionClosedOK

from .helpers import BINARY, CLOSE, CONT, TEXT, frame, output, parse
from .protocol_helpers import both_sides, close_payload

SIZE = 10000
EXC = ConnectionAbortedError("too much")


def holding(side: Side, what: str) -> Protocol:
    """Return a connection that holds SIZE bytes, or one less, and little else."""
    protocol = Protocol(side)
    protocol.queue_messages(16, 4)
    payload = bytes(SIZE)
    whole = frame(side, BINARY, payload)
    if what == "message":
        protocol.receive_data(whole)
    elif what == "fragments":
        protocol.receive_data(frame(side, BINARY, payload, fin=False))
        protocol.receive_data(frame(side, CONT, payload, fin=False))
    elif what == "streamed":
        protocol.receive_data(frame(side, TEXT, b"\xe2", fin=False))
        assert protocol.next_fragment() == ("", False)
        protocol.receive_data(frame(side, CONT, b"\x82\xac" + payload, fin=False))
    elif what == "part of a frame":
        protocol.receive_data(whole[:-1])
    elif what == "output":
        protocol.send_binary(payload)
    elif what == "backlog":
        protocol.set_backpressure(Backpressure(Slow.DROP_OLDEST, None))
        protocol.pause_writing()
        protocol.send_binary(payload)
    return protocol


RECEIVED = ["message", "fragments", "streamed", "part of a frame"]
TO_SEND = ["output", "backlog", "unsent"]


@both_sides
@pytest.mark.parametrize("what", [*RECEIVED, *TO_SEND])
def test_what_is_counted(side: Side, what: str) -> None:
    protocol = holding(side, what)
    unsent = SIZE if what == "unsent" else 0
    assert SIZE - 1 <= protocol.buffered_bytes(unsent) <= 3 * SIZE
    assert protocol.buffered_bytes(unsent + 1) == protocol.buffered_bytes(unsent) + 1


def test_nothing() -> None:
    assert Protocol(Side.SERVER).buffered_bytes() == 0
    assert ServerProtocol().buffered_bytes() == 0


@both_sides
@pytest.mark.parametrize("what", RECEIVED)
def test_a_peer_that_reads_is_told(side: Side, what: str) -> None:
    protocol = holding(side, what)
    protocol.set_timeouts(close_timeout=10, now=1.0)
    protocol.shed(EXC, now=2.0)
    assert protocol.state is State.CLOSING
    assert protocol.transport_action < ABORT
    (wire,) = parse(output(protocol))
    assert (wire.opcode, wire.payload[:2]) == (CLOSE, close_payload(1013))
    assert protocol.buffered_bytes() == 0
    assert protocol.next_message() is None
    assert protocol.next_fragment() is None
    assert protocol.next_timeout() == 12.0
    protocol.receive_data(frame(side, BINARY, bytes(SIZE)) * 40)
    assert protocol.buffered_bytes() == 0
    protocol.receive_eof()
    assert isinstance(protocol.close_exc, ConnectionClosedError)
    assert protocol.close_exc.__cause__ is EXC


@both_sides
@pytest.mark.parametrize("end", [False, True])
def test_what_is_forgotten_behind_a_good_end_is_an_error(side: Side, end: bool) -> None:
    protocol = holding(side, "message")
    protocol.receive_data(frame(side, CLOSE, close_payload(1000)))
    if end:
        protocol.receive_eof()
    protocol.shed(EXC)
    protocol.connection_lost()
    assert protocol.next_message() is None
    assert isinstance(protocol.close_exc, ConnectionClosedError)
    assert protocol.close_exc.__cause__ is EXC


@both_sides
def test_a_good_end_with_nothing_to_forget_remains_one(side: Side) -> None:
    protocol = Protocol(side)
    protocol.queue_messages()
    protocol.receive_data(frame(side, CLOSE, close_payload(1000)))
    protocol.receive_eof()
    protocol.shed(EXC)
    assert isinstance(protocol.close_exc, ConnectionClosedOK)


@both_sides
@pytest.mark.parametrize("what", TO_SEND)
def test_a_peer_that_does_not_read_is_not(side: Side, what: str) -> None:
    protocol = holding(side, what)
    protocol.shed(EXC, unsent=SIZE if what == "unsent" else 0)
    assert protocol.transport_action == ABORT
    assert output(protocol) == b""
    assert protocol.buffered_bytes() == 0
    protocol.connection_lost()
    assert protocol.close_code == 1006
    assert protocol.close_exc.__cause__ is EXC


@both_sides
def test_writing_is_paused(side: Side) -> None:
    """However little that is: no Close frame would get through."""
    protocol = holding(side, "message")
    protocol.pause_writing(1)
    protocol.shed(EXC, unsent=1)
    assert protocol.transport_action == ABORT
    assert protocol.buffered_bytes() == 0


@both_sides
def test_what_little_waits_is_sent(side: Side) -> None:
    protocol = holding(side, "message")
    protocol.send_binary(b"x")
    protocol.shed(EXC)
    assert [wire.opcode for wire in parse(output(protocol))] == [BINARY, CLOSE]


@both_sides
@pytest.mark.parametrize("what", [*RECEIVED, *TO_SEND])
def test_the_second_time(side: Side, what: str) -> None:
    """Whoever was told, and holds too much again, is not told again."""
    protocol = holding(side, what)
    protocol.shed(EXC)
    protocol.shed(ConnectionAbortedError("again"))
    assert protocol.transport_action == ABORT
    assert output(protocol) == b""
    protocol.connection_lost()
    assert protocol.close_exc.__cause__ is EXC


@both_sides
@pytest.mark.parametrize("what", RECEIVED)
def test_after_the_end(side: Side, what: str) -> None:
    """What was received and not taken until then goes."""
    protocol = holding(side, what)
    protocol.connection_lost()
    before = protocol.close_exc.__cause__
    protocol.shed(EXC)
    assert protocol.buffered_bytes() == 0
    assert protocol.next_message() is None
    assert protocol.close_exc.__cause__ is before


def test_the_opening_handshake() -> None:
    protocol = ServerProtocol()
    protocol.shed(EXC)
    assert protocol.transport_action == ABORT
    assert protocol.handshake_exc is EXC


@pytest.mark.parametrize("args", [(None, "x"), ()])
def test_arguments(args: Any) -> None:
    protocol = Protocol(Side.SERVER)
    with pytest.raises(TypeError):
        protocol.shed(*args)
    assert protocol.transport_action == KEEP
