"""What servers count, without a server."""

from math import inf
from typing import Any

import pytest

from tests.wsapi.helpers import CLOSE, frame
from wsapi._shared.statistics import HANDSHAKE_BOUNDS, Histogram, ServerStats, Statistics
from wsproto_fast import Protocol, ServerProtocol, Side
from wsproto_fast.frames import EXTERNAL_CLOSE_CODES


class Connection:
    """What is used of one."""

    _refusal: str | None = None
    unsent = 0

    def __init__(self, protocol: Protocol | None = None) -> None:
        self.protocol = ServerProtocol() if protocol is None else protocol

    def _waiting_bytes(self) -> int:
        return self.unsent


def counting() -> tuple[Any, set[Any]]:
    connections: set[Any] = set()
    return Statistics(connections), connections


def opened(seconds: float) -> Connection:
    protocol = ServerProtocol()
    protocol.set_timeouts(now=100)
    protocol.receive_data(b"GET / HTTP/1.1\r\n\r\n", 100)
    response = protocol.reject(403, "")
    response.status_code = 101
    protocol.send_response(response, 100 + seconds)
    return Connection(protocol)


def test_nothing_at_first() -> None:
    statistics, _ = counting()
    assert statistics.read() == ServerStats()
    assert ServerStats().handshakes.count == 0


def test_connections_are_kept_from_when_they_are_accepted_until_they_end() -> None:
    statistics, connections = counting()
    first, second = opened(1), Connection()
    statistics.accepted(first)
    statistics.accepted(second)
    assert connections == {first, second}
    stats = statistics.read()
    assert (stats.accepted, stats.opening, stats.open) == (2, 1, 1)
    first.protocol.connection_lost()
    assert statistics.read().closing == 1
    for _ in range(2):
        statistics.ended(first)
        assert connections == {second}
        stats = statistics.read()
        assert (stats.accepted, stats.opening, stats.closing) == (2, 1, 0)
        assert stats.closed == {1006: 1}


def test_numbers_stay_when_a_connection_ends() -> None:
    statistics, _ = counting()
    connection = opened(1)
    statistics.accepted(connection)
    connection.protocol.send("four")
    connection.protocol.take_output()
    before = statistics.read()
    assert before.message_bytes_sent == 4
    connection.protocol.connection_lost()
    statistics.ended(connection)
    after = statistics.read()
    for name in (
        "messages_sent",
        "message_bytes_sent",
        "wire_bytes_sent",
        "wire_bytes_received",
        "max_write_buffer_bytes",
    ):
        assert getattr(after, name) == getattr(before, name) > 0, name


def test_few_labels_whatever_peers_send() -> None:
    """Labels are close codes that may travel, 1005 and 1006; what else a peer sends is 1002."""
    statistics, _ = counting()
    payloads = [b"", *(code.to_bytes(2, "big") for code in (*range(5100), 65535))]
    for payload in payloads:
        connection = opened(1)
        statistics.accepted(connection)
        connection.protocol.receive_data(frame(CLOSE, payload, masked=True))
        connection.protocol.connection_lost()
        statistics.ended(connection)
    lost = opened(1)
    statistics.accepted(lost)
    lost.protocol.connection_lost()
    statistics.ended(lost)
    stats = statistics.read()
    assert sum(stats.closed.values()) == len(payloads) + 1
    assert len(stats.closed) == 2000 + len(EXTERNAL_CLOSE_CODES) + 2


@pytest.mark.parametrize(
    ("data", "refusal", "reason"),
    [
        (b"", None, "gone"),
        (b"GET /", None, "gone"),
        (b"GET / HTTP/1.1\r\n\r\n", None, "gone"),
        (b"???\r\n\r\n", None, "malformed"),
        (b"GET / HTTP/1.1\r\n" + b"A: a\r\n" * 1000, None, "431"),
        (b"GET / HTTP/1.1\r\n\r\n", 429, "429"),
        (b"GET / HTTP/1.1\r\n\r\n", "max_per_address", "max_per_address"),
    ],
)
def test_reasons(data: bytes, refusal: str | int | None, reason: str) -> None:
    statistics, _ = counting()
    protocol = ServerProtocol()
    connection = Connection(protocol)
    statistics.accepted(connection)
    protocol.receive_data(data)
    if refusal is not None:
        status = refusal if isinstance(refusal, int) else 503
        protocol.send_response(protocol.reject(status, ""))
    if isinstance(refusal, str):
        statistics.refused(refusal, connection)
    protocol.connection_lost()
    statistics.ended(connection)
    stats = statistics.read()
    assert (stats.accepted, stats.refused, stats.closed) == (1, {reason: 1}, {})


def test_who_is_too_late() -> None:
    statistics, _ = counting()
    connection = Connection()
    connection.protocol.set_timeouts(open_timeout=1, now=0)
    statistics.accepted(connection)
    connection.protocol.handle_timeout(1)
    connection.protocol.connection_lost()
    statistics.ended(connection)
    assert statistics.read().refused == {"timeout": 1}


def test_who_is_refused_before_there_is_a_connection_was_accepted_too() -> None:
    statistics, _ = counting()
    statistics.refused("max_connections")
    statistics.refused("max_connections")
    stats = statistics.read()
    assert (stats.accepted, stats.refused) == (2, {"max_connections": 2})


def test_dropped_messages_are_counted_by_policy() -> None:
    statistics, _ = counting()
    statistics.dropped("oldest")
    statistics.dropped("oldest", 3)
    statistics.dropped("latest", 2)
    assert statistics.read().dropped == {"oldest": 4, "latest": 2}


def test_what_was_read_does_not_change() -> None:
    statistics, _ = counting()
    statistics.dropped("oldest")
    statistics.refused("tls")
    before = statistics.read()
    statistics.dropped("oldest")
    statistics.refused("tls")
    assert (before.dropped, before.refused) == ({"oldest": 1}, {"tls": 1})


def test_only_those_that_wait_are_asked_how_much_waits() -> None:
    statistics, _ = counting()
    paused, other = Connection(Protocol(Side.SERVER)), Connection(Protocol(Side.SERVER))
    paused.unsent = other.unsent = 1000
    paused.protocol.pause_writing()
    for connection in (paused, other):
        statistics.accepted(connection)
    stats = statistics.read()
    assert stats.write_buffer_bytes == stats.max_write_buffer_bytes == 1000


def test_durations_of_handshakes() -> None:
    statistics, _ = counting()
    seconds = [0, 0.125, 0.25, 7, 1000]  # a bound belongs to its bucket
    for duration in seconds:
        connection = opened(duration)
        statistics.accepted(connection)
        if duration < 1:
            statistics.ended(connection)  # it is counted once, whether it has ended or not
    statistics.accepted(Connection())  # nobody knows how long it will take
    handshakes = statistics.read().handshakes
    assert handshakes == Histogram(
        tuple((bound, sum(one <= bound for one in seconds)) for bound in HANDSHAKE_BOUNDS),
        sum(seconds),
    )
    assert handshakes.buckets[-1] == (inf, 5)
    assert handshakes.count == 5
