"""What servers count, without a server."""

from typing import Any

from wsapi._shared.statistics import Statistics


class Connection:
    _refusal: str | None = None


def counting() -> tuple[Any, set[Any]]:
    connections: set[Any] = set()
    return Statistics(connections), connections


def test_connections_are_kept_from_when_they_are_accepted_until_they_end() -> None:
    statistics, connections = counting()
    first, second = Connection(), Connection()
    statistics.accepted(first)
    statistics.accepted(second)
    assert connections == {first, second}
    statistics.ended(first)
    statistics.ended(first)
    assert connections == {second}
    assert statistics._accepted == 2


def test_who_is_refused_before_there_is_a_connection_was_accepted_too() -> None:
    statistics, _ = counting()
    statistics.refused("max_connections")
    statistics.refused("max_connections")
    assert statistics._accepted == 2
    assert statistics._refused == {"max_connections": 2}


def test_a_connection_knows_why_it_is_refused() -> None:
    statistics, _ = counting()
    connection = Connection()
    statistics.accepted(connection)
    statistics.refused("max_per_address", connection)
    assert connection._refusal == "max_per_address"
    assert statistics._accepted == 1


def test_dropped_messages_are_counted_by_policy() -> None:
    statistics, _ = counting()
    statistics.dropped("oldest")
    statistics.dropped("oldest", 3)
    statistics.dropped("latest", 2)
    assert statistics._dropped == {"oldest": 4, "latest": 2}
