"""What servers count, for OpenTelemetry::

    observe(metrics.get_meter("chat"), {"chat": server.stats})

The extra ``opentelemetry`` installs what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from . import Measure, ServerStats, measures

__all__ = ["observe"]


def observe(
    meter: Meter, servers: Mapping[str, Callable[[], ServerStats]], *, prefix: str = "wsapi"
) -> None:
    """Have a meter observe the counts of servers, which are read when it collects.

    There are no histograms among what can be observed: that of opening handshakes becomes the
    counter ``handshakes`` with an attribute ``le``, an upper bound in seconds as in Prometheus, and
    the counter ``handshake_seconds``, their sum.

    Args:
        meter: Where instruments are made.
        servers: Value of the attribute ``server`` -> callable that returns what that server has
            counted: its ``stats``, or ``wsapi.uvicorn.stats``. What is added to the mapping later
            is observed, too.
        prefix: What all names begin with, before a dot.
    """
    for measure in _all_measures(ServerStats()):
        create = (
            meter.create_observable_counter
            if measure.kind == "counter"
            else meter.create_observable_gauge
        )
        create(
            f"{prefix}.{measure.name}",
            [_callback(servers, measure.name)],
            unit=measure.unit,
            description=measure.text,
        )


def _all_measures(stats: ServerStats) -> Iterator[Measure]:
    yield from measures(stats)
    handshakes = stats.handshakes
    yield Measure(
        "handshakes",
        "counter",
        "{handshake}",
        "Opening handshakes that succeeded within so many seconds.",
        "le",
        {str(bound): count for bound, count in handshakes.buckets},
    )
    yield Measure(
        "handshake_seconds",
        "counter",
        "s",
        "Duration of all opening handshakes that succeeded.",
        None,
        {"": handshakes.sum},
    )


def _callback(
    servers: Mapping[str, Callable[[], ServerStats]], name: str
) -> Callable[[CallbackOptions], Iterator[Observation]]:
    def callback(_options: CallbackOptions) -> Iterator[Observation]:
        for server, read in dict(servers).items():
            for measure in _all_measures(read()):
                if measure.name == name:
                    for value, number in measure.values.items():
                        attributes = {"server": server}
                        if measure.label is not None:
                            attributes[measure.label] = value
                        yield Observation(number, attributes)

    return callback
