"""One rule for the time: a call that isn't told it takes it to be what was told last."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from wsproto_fast import (
    Backpressure,
    ClientProtocol,
    PreparedMessage,
    Protocol,
    ServerProtocol,
    Side,
    State,
)

from .handshake_helpers import head
from .helpers import BINARY, frame

CLOSE_TIMEOUT = 10.0


def buffer_updated(protocol: Protocol, **now: Any) -> None:
    protocol.get_buffer()[:6] = frame(Side.SERVER, BINARY)
    protocol.buffer_updated(6, **now)


def send_response(protocol: Protocol, **now: Any) -> None:
    assert isinstance(protocol, ServerProtocol)
    protocol.send_response(protocol.reject(404, ""), **now)


def answer(protocol: Protocol, **now: Any) -> None:
    assert isinstance(protocol, ServerProtocol)
    protocol.receive_data(head())
    assert protocol.take_request()
    protocol.answer(**now)


# What tells the time, each on a server's open connection that queues messages.
CALLS: dict[str, Callable[..., Any]] = {
    "set_timeouts": lambda protocol, **now: protocol.set_timeouts(
        close_timeout=CLOSE_TIMEOUT, **now
    ),
    "handle_timeout": lambda protocol, **now: protocol.handle_timeout(**now),
    "receive_data": lambda protocol, **now: protocol.receive_data(b"", **now),
    "buffer_updated": buffer_updated,
    "receive_eof": lambda protocol, **now: protocol.receive_eof(**now),
    "receive_kept": lambda protocol, **now: protocol.receive_kept(**now),
    "next_message": lambda protocol, **now: protocol.next_message(**now),
    "next_fragment": lambda protocol, **now: protocol.next_fragment(**now),
    "listen": lambda protocol, **now: protocol.listen(print, **now),
    "ping": lambda protocol, **now: protocol.ping(**now),
    "close": lambda protocol, **now: protocol.close(**now),
    "send_close": lambda protocol, **now: protocol.send_close(**now),
    "fail": lambda protocol, **now: protocol.fail(1011, **now),
    "give_up": lambda protocol, **now: protocol.give_up(**now),
    "shed": lambda protocol, **now: protocol.shed(None, **now),
    "offer": lambda protocol, **now: protocol.offer(PreparedMessage(b""), Backpressure(), **now),
    "limit_rates": lambda protocol, **now: protocol.limit_rates(1, **now),
    "send_response": send_response,
    "answer": answer,
}
# Those of the opening handshake.
OPENING = {"send_response", "answer"}

# One only looks, and the other one ends all clocks: see test_statistics.py.
OTHERS = {"stats", "connection_lost"}

every_call = pytest.mark.parametrize("name", CALLS)


def protocol_for(name: str, at: float | None = 1000.0) -> Protocol:
    state = State.CONNECTING if name in OPENING else State.OPEN
    protocol = ServerProtocol(state=state)
    protocol.queue_messages()
    protocol.set_timeouts(close_timeout=CLOSE_TIMEOUT, now=at)
    return protocol


def time_of(protocol: Protocol) -> float:
    """Return what the protocol takes for the time, or took when its end began."""
    if protocol.state is State.OPEN:
        protocol.close()
    when = protocol.next_timeout()
    assert when is not None
    return when - CLOSE_TIMEOUT


def test_there_is_no_other_call() -> None:
    calls = {
        name
        for class_ in (Protocol, ClientProtocol, ServerProtocol)
        for name, method in inspect.getmembers(class_, callable)
        if not name.startswith("__") and "now" in inspect.signature(method).parameters
    }
    assert calls - OTHERS == set(CALLS)


@every_call
def test_default(name: str) -> None:
    method = getattr(ServerProtocol, name)
    assert inspect.signature(method).parameters["now"].default is None


@every_call
def test_told(name: str) -> None:
    for now in (2000.0, 2000):
        protocol = protocol_for(name)
        CALLS[name](protocol, now=now)
        assert time_of(protocol) == 2000.0


@every_call
def test_not_told(name: str) -> None:
    for omitted in ({}, {"now": None}):
        protocol = protocol_for(name)
        CALLS[name](protocol, **omitted)
        assert time_of(protocol) == 1000.0


@every_call
def test_never_told(name: str) -> None:
    protocol = protocol_for(name, at=None)
    CALLS[name](protocol)
    assert time_of(protocol) == 0.0


@every_call
def test_zero_is_a_time(name: str) -> None:
    protocol = protocol_for(name, at=-5.0)
    CALLS[name](protocol, now=0.0)
    assert time_of(protocol) == 0.0


@every_call
def test_bad_time_changes_nothing(name: str) -> None:
    protocol = protocol_for(name)
    state = protocol.state
    with pytest.raises(TypeError):
        CALLS[name](protocol, now="soon")
    assert (protocol.state, protocol.output_size) == (state, 0)
    if name not in OPENING:
        assert time_of(protocol) == 1000.0


@pytest.mark.parametrize("name", ["next_message", "next_fragment"])
@pytest.mark.parametrize("decode", [True, None])
def test_failing_to_decode_starts_the_end(name: str, decode: bool | None) -> None:
    protocol = protocol_for(name)
    if decode is None:
        protocol.validate_text = False
    opcode = BINARY if decode else 1
    protocol.receive_data(frame(Side.SERVER, opcode, b"\xff"), 1001.0)
    assert getattr(protocol, name)(decode, now=2000.0) is None
    assert protocol.state is State.CLOSING
    assert time_of(protocol) == 2000.0


def test_latency() -> None:
    protocol = protocol_for("ping")
    payload = protocol.ping()
    protocol.receive_data(frame(Side.SERVER, 10, payload), 1003.0)
    assert protocol.latency == 3.0
    payload = protocol.ping(now=1004.0)
    protocol.receive_data(frame(Side.SERVER, 10, payload))
    assert protocol.latency == 0.0
