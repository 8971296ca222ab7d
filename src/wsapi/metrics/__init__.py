"""What servers and connections count, and what monitoring systems make of it.

``server.stats()`` and ``connection.stats()`` return these classes. The modules below give the
numbers of servers to ``prometheus_client`` and to OpenTelemetry; for others, ``measures`` lists
them with names, units, and labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from wsproto_fast.statistics import ConnectionStats, Traffic

from .._shared.statistics import HANDSHAKE_BOUNDS, Histogram, ServerStats

__all__ = [
    "HANDSHAKE_BOUNDS",
    "ConnectionStats",
    "Histogram",
    "Measure",
    "ServerStats",
    "Traffic",
    "measures",
]


class Measure(NamedTuple):
    """What was counted of one thing.

    Args:
        name: Name, in lower case with underscores.
        kind: "counter" for what only grows, "gauge" for what there is now.
        unit: Unit in the notation of UCUM: ``By`` for bytes, ``s`` for seconds, or what is counted,
            in braces.
        text: What it is.
        label: Name of the label of the values; None if there is one value, without a label.
        values: Value of the label -> number.
    """

    name: str
    kind: Literal["counter", "gauge"]
    unit: str
    text: str
    label: str | None
    values: Mapping[str, float]


# Attributes of Traffic -> what they are.
_BOTH_WAYS = {
    "messages": ("{message}", "Messages."),
    "message_bytes": ("By", "Bytes of messages, not compressed."),
    "payload_bytes": ("By", "Bytes of messages as they are in frames, compressed or not."),
    "frames": ("{frame}", "Frames of all kinds."),
    "wire_bytes": ("By", "Bytes given to and got from the network, without those of TLS."),
    "pings": ("{frame}", "Ping frames."),
    "pongs": ("{frame}", "Pong frames."),
}
_NOW = {
    "queued_frames": ("{frame}", "Received frames that wait for the application."),
    "queued_bytes": ("By", "Bytes of received frames that wait for the application."),
    "write_buffer_bytes": ("By", "Bytes that wait for the network to take them."),
    "max_queued_frames": ("{frame}", "The most received frames that waited on one connection."),
    "max_queued_bytes": ("By", "The most received bytes that waited on one connection."),
    "max_write_buffer_bytes": ("By", "The most bytes to be sent that waited on one connection."),
}


def measures(stats: ServerStats) -> Iterator[Measure]:
    """Yield all that a server has counted, but for ``handshakes``, which is a histogram.

    Args:
        stats: What ``server.stats()`` returned.
    """
    connection = "{connection}"
    yield Measure(
        "connections_accepted",
        "counter",
        connection,
        "Connections that came in.",
        None,
        {"": stats.accepted},
    )
    yield Measure(
        "connections_refused",
        "counter",
        connection,
        "Connections that didn't become WebSocket connections.",
        "reason",
        stats.refused,
    )
    yield Measure(
        "connections_closed",
        "counter",
        connection,
        "WebSocket connections that have ended.",
        "code",
        {str(code): number for code, number in stats.closed.items()},
    )
    yield Measure(
        "connections_given_up",
        "counter",
        connection,
        "WebSocket connections that the server has closed for what they cost.",
        "limit",
        stats.given_up,
    )
    yield Measure(
        "connections",
        "gauge",
        connection,
        "Connections that there are.",
        "state",
        {"opening": stats.opening, "open": stats.open, "closing": stats.closing},
    )
    yield Measure(
        "messages_dropped",
        "counter",
        "{message}",
        "Messages that weren't sent because their receiver is slow.",
        "policy",
        stats.dropped,
    )
    for name, (unit, text) in _BOTH_WAYS.items():
        values = {way: getattr(stats, f"{name}_{way}") for way in ("sent", "received")}
        yield Measure(name, "counter", unit, text, "direction", values)
    for name, (unit, text) in _NOW.items():
        yield Measure(name, "gauge", unit, text, None, {"": getattr(stats, name)})
