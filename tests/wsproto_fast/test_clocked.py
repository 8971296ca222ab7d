"""Engines on a clock of their own: what drivers tell them of the time is ignored."""

from __future__ import annotations

from typing import Any

import pytest

from wsproto_fast import Backpressure, ClientProtocol, PreparedMessage, ServerProtocol
from wsproto_fast.activity import ABORT, KEEP
from wsproto_fast.drivers.clocked import ClockedClientProtocol, ClockedServerProtocol
from wsproto_fast.frames import State
from wsproto_fast.uri import parse_uri

WRONG = 1e9  # what a driver tells


def opened(client: Any, server: Any) -> None:
    """Perform the opening handshake between two engines, at the wrong time."""
    client.send_request(client.connect())
    server.receive_data(b"".join(client.data_to_send()), WRONG)
    [request] = server.events_received()
    server.send_response(server.accept(request))
    client.receive_data(b"".join(server.data_to_send()), WRONG)
    client.events_received()
    assert (client.state, server.state) == (State.OPEN, State.OPEN)


def engines() -> tuple[ClockedClientProtocol, ClockedServerProtocol, list[float]]:
    time = [100.0]
    client = ClockedClientProtocol(parse_uri("ws://localhost/"))
    server = ClockedServerProtocol()
    client.clock = server.clock = lambda: time[0]
    for engine in (client, server):
        engine.queue_messages(16)
        engine.set_timeouts(ping_interval=20, ping_timeout=20, close_timeout=10, now=WRONG)
    opened(client, server)
    return client, server, time


@pytest.mark.parametrize("side", ["client", "server"])
def test_deadlines(side: str) -> None:
    client, server, time = engines()
    engine: Any = client if side == "client" else server
    assert engine.next_timeout() == 120
    engine.handle_timeout(WRONG)
    assert engine.stats().pings_sent == 0
    time[0] = 120.5
    engine.handle_timeout(0)
    assert engine.stats().pings_sent == 1
    engine.close(now=WRONG)
    assert engine.next_timeout() == 130.5
    engine.handle_timeout(WRONG)
    assert engine.transport_action == KEEP
    time[0] = 130.5
    engine.handle_timeout(0)
    assert engine.transport_action == ABORT


@pytest.mark.parametrize("take", ["next_message", "next_fragment"])
@pytest.mark.parametrize("side", ["client", "server"])
def test_what_fails_when_it_is_taken_closes_in_time(side: str, take: str) -> None:
    client, server, _ = engines()
    engine: Any = client if side == "client" else server
    peer: Any = server if side == "client" else client
    peer.offer(PreparedMessage("text"), Backpressure(), now=WRONG)
    peer.send(b"\xff")
    engine.receive_data(b"".join(peer.data_to_send()), WRONG)
    assert getattr(engine, take)(now=WRONG) in ("text", ("text", True))
    assert getattr(engine, take)(True, now=WRONG) is None  # it isn't UTF-8
    assert engine.state is State.CLOSING
    assert engine.next_timeout() == 110


def test_without_a_clock_they_are_as_usual() -> None:
    client, server = ClockedClientProtocol(parse_uri("ws://localhost/")), ClockedServerProtocol()
    assert isinstance(client, ClientProtocol)
    assert isinstance(server, ServerProtocol)
    assert client.clock is None
    for engine in (client, server):
        engine.queue_messages(16)
        engine.set_timeouts(ping_interval=20, now=7.0)
    opened(client, server)
    assert client.next_timeout() == WRONG + 20


def test_a_clock_that_fails() -> None:
    client, _, _ = engines()
    client.clock = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        client.receive_data(b"\x81\x01x", 1.0)
