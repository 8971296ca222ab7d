"""What monitoring systems get of the counts of servers."""

from __future__ import annotations

import dataclasses
from math import inf
from typing import Any

import pytest

from tests.wsapi.helpers import echo, serving, uri_of
from wsapi.asyncio.client import connect
from wsapi.metrics import Histogram, Measure, ServerStats, Traffic, measures

STATS = ServerStats(
    accepted=10,
    opening=1,
    open=2,
    closing=1,
    refused={"403": 1, "max_connections": 2},
    closed={1000: 2, 1006: 1},
    dropped={"oldest": 7},
    handshakes=Histogram(((0.5, 1), (1.0, 3), (inf, 4)), 12.5),
    messages_sent=100,
    messages_received=200,
    wire_bytes_sent=1 << 40,
    queued_frames=3,
)


def test_nothing_is_left_out() -> None:
    """Each number of the classes has its place among the measures."""
    names = {field.name for field in dataclasses.fields(ServerStats)}
    numbers = {name: 1000 + place for place, name in enumerate(sorted(names))}
    distinct: dict[str, Any] = {
        field.name: numbers[field.name] for field in dataclasses.fields(Traffic)
    }
    distinct |= {name: numbers[name] for name in ("accepted", "opening", "open", "closing")}
    distinct |= {"refused": {"a": 1}, "closed": {1000: 2}, "dropped": {"b": 3}}
    found = {value for one in measures(ServerStats(**distinct)) for value in one.values.values()}
    # How many were dropped is told by policy.
    missing = {name for name, value in distinct.items() if isinstance(value, int)} - {
        name for name, value in numbers.items() if value in found
    }
    assert missing == {"messages_dropped"}
    assert {1, 2, 3} <= found


def test_measures() -> None:
    found = {measure.name: measure for measure in measures(STATS)}
    assert found["connections"] == Measure(
        "connections",
        "gauge",
        "{connection}",
        "Connections that there are.",
        "state",
        {"opening": 1, "open": 2, "closing": 1},
    )
    assert found["connections_closed"].values == {"1000": 2, "1006": 1}
    assert found["messages"].values == {"sent": 100, "received": 200}
    assert [measure.name for measure in measures(ServerStats())] == list(found)


class TestPrometheus:
    @pytest.fixture(autouse=True)
    def _package(self) -> None:
        pytest.importorskip("prometheus_client", reason="prometheus_client isn't installed")

    def values(self, servers: Any, **options: Any) -> dict[str, float]:
        """Return what a scrape gives, as the text format has it."""
        from prometheus_client import CollectorRegistry, generate_latest

        from wsapi.metrics.prometheus import ServerCollector

        registry = CollectorRegistry()
        registry.register(ServerCollector(servers, **options))
        lines = generate_latest(registry).decode().splitlines()
        samples = [line.rpartition(" ") for line in lines if not line.startswith("#")]
        assert len({name for name, _, _ in samples}) == len(samples)
        return {name: float(value) for name, _, value in samples}

    def test_text(self) -> None:
        values = self.values({"chat": lambda: STATS})
        for name, value in {
            'wsapi_connections_accepted_total{server="chat"}': 10,
            'wsapi_connections_refused_total{reason="403",server="chat"}': 1,
            'wsapi_connections_closed_total{code="1006",server="chat"}': 1,
            'wsapi_connections{server="chat",state="open"}': 2,
            'wsapi_messages_dropped_total{policy="oldest",server="chat"}': 7,
            'wsapi_messages_total{direction="received",server="chat"}': 200,
            'wsapi_wire_bytes_total{direction="sent",server="chat"}': 1 << 40,
            'wsapi_queued_frames{server="chat"}': 3,
            'wsapi_handshake_seconds_bucket{le="0.5",server="chat"}': 1,
            'wsapi_handshake_seconds_bucket{le="+Inf",server="chat"}': 4,
            'wsapi_handshake_seconds_count{server="chat"}': 4,
            'wsapi_handshake_seconds_sum{server="chat"}': 12.5,
        }.items():
            assert values[name] == value, name

    def test_several_servers(self) -> None:
        servers = {"a": lambda: STATS, "b": ServerStats}
        values = self.values(servers, prefix="ws")
        assert values['ws_connections_accepted_total{server="a"}'] == 10
        assert values['ws_connections_accepted_total{server="b"}'] == 0

    def test_names_that_are_taken(self) -> None:
        from prometheus_client import CollectorRegistry

        from wsapi.metrics.prometheus import ServerCollector

        registry = CollectorRegistry()
        registry.register(ServerCollector({}))
        with pytest.raises(ValueError, match="Duplicated timeseries"):
            registry.register(ServerCollector({}))

    async def test_server(self) -> None:
        async with serving(echo) as server, connect(uri_of(server)) as connection:
            await connection.send("1")
            await connection.recv()
            values = self.values({"": server.stats})
            assert values['wsapi_messages_total{direction="sent",server=""}'] == 1
            assert values['wsapi_handshake_seconds_count{server=""}'] == 1


class TestOpenTelemetry:
    @pytest.fixture(autouse=True)
    def _package(self) -> None:
        pytest.importorskip("opentelemetry.sdk.metrics", reason="its SDK isn't installed")

    def values(self, servers: Any) -> dict[tuple[str, Any], float]:
        """Return what a collection gives: (name, attributes) -> value."""
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader

        from wsapi.metrics.opentelemetry import observe

        reader = InMemoryMetricReader()
        provider = MeterProvider([reader], shutdown_on_exit=False)
        try:
            observe(provider.get_meter("test"), servers)
            data = reader.get_metrics_data()
        finally:
            provider.shutdown()
        if data is None:
            return {}
        (resource,) = data.resource_metrics
        (scope,) = resource.scope_metrics
        return {
            (metric.name, *sorted(dict(point.attributes or {}).items())): point.value
            for metric in scope.metrics
            for point in metric.data.data_points
        }

    def test_observations(self) -> None:
        values = self.values({"chat": lambda: STATS, "other": ServerStats})
        chat = ("server", "chat")
        for key, value in {
            ("wsapi.connections_accepted", chat): 10,
            ("wsapi.connections_accepted", ("server", "other")): 0,
            ("wsapi.connections_refused", ("reason", "403"), chat): 1,
            ("wsapi.connections_closed", ("code", "1006"), chat): 1,
            ("wsapi.connections", chat, ("state", "open")): 2,
            ("wsapi.messages", ("direction", "sent"), chat): 100,
            ("wsapi.wire_bytes", ("direction", "sent"), chat): 1 << 40,
            ("wsapi.queued_frames", chat): 3,
            ("wsapi.handshakes", ("le", "0.5"), chat): 1,
            ("wsapi.handshakes", ("le", "inf"), chat): 4,
            ("wsapi.handshake_seconds", chat): 12.5,
        }.items():
            assert values[key] == value, key

    def test_no_server(self) -> None:
        assert self.values({}) == {}
