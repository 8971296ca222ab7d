"""What servers count, for ``prometheus_client``::

    REGISTRY.register(ServerCollector({"chat": server.stats}))

The extra ``prometheus`` installs what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import inf

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from . import ServerStats, measures

__all__ = ["ServerCollector"]


class ServerCollector(Collector):
    """A collector of the counts of servers, read when they are asked for.

    Args:
        servers: Value of the label ``server`` -> callable that returns what that server has
            counted: its ``stats``, or ``wsapi.uvicorn.stats``. What is added to the mapping later
            is collected, too.
        prefix: What all names begin with.
    """

    def __init__(
        self, servers: Mapping[str, Callable[[], ServerStats]], *, prefix: str = "wsapi"
    ) -> None:
        self.servers = servers
        self.prefix = prefix

    def describe(self) -> Iterator[Metric]:
        """Yield what there is to collect, without values."""
        return self._families({})

    def collect(self) -> Iterator[Metric]:
        """Yield what was counted so far."""
        return self._families({name: read() for name, read in dict(self.servers).items()})

    def _families(self, servers: Mapping[str, ServerStats]) -> Iterator[Metric]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for measure in measures(ServerStats()):
            labels = ["server"] if measure.label is None else ["server", measure.label]
            family = CounterMetricFamily if measure.kind == "counter" else GaugeMetricFamily
            families[measure.name] = family(
                f"{self.prefix}_{measure.name}", measure.text, labels=labels
            )
        handshakes = HistogramMetricFamily(
            f"{self.prefix}_handshake_seconds",
            "Durations of opening handshakes that succeeded.",
            labels=["server"],
        )
        for server, stats in servers.items():
            for measure in measures(stats):
                for value, number in measure.values.items():
                    where = [server] if measure.label is None else [server, value]
                    families[measure.name].add_metric(where, number)
            buckets = [
                ("+Inf" if bound == inf else str(bound), count)
                for bound, count in stats.handshakes.buckets
            ]
            handshakes.add_metric([server], buckets, stats.handshakes.sum)
        yield from families.values()
        yield handshakes
