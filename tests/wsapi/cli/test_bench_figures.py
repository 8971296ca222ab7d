"""wsapi bench: its messages, and its figures."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from wsapi.cli._bench_figures import FINE, FINE_BITS, Histogram, duration, number
from wsapi.cli._bench_load import Plan, difference, payloads


@pytest.mark.parametrize("words", [True, False])
@pytest.mark.parametrize("sizes", [(0, 0), (64, 64), (1, 100_000), (2**24, 2**26)])
def test_payloads(sizes: tuple[int, int], words: bool) -> None:
    plan = Plan(1, sizes=sizes, words=words)
    messages = payloads(plan)
    assert 2 <= len(messages) <= 64
    assert all(sizes[0] <= len(message) <= sizes[1] for message in messages)
    assert all(message.isascii() for message in messages)
    if sizes[1] <= 100_000:
        assert messages == payloads(plan)
    if sizes[0] > 10:
        assert len(set(messages)) == len(messages)


@pytest.mark.parametrize(
    "message, expected, text",
    [
        (b"abcd", b"abxd", "differs at 2 of 4: b'cd' instead of b'xd'"),
        (b"ab", b"abcd", "differs at 2 of 4: b'' instead of b'cd'"),
        ("ab", b"ab", "is text, not binary"),
        (b"ab", "", "b'ab', when nothing was to come"),
    ],
)
def test_differences(message: Any, expected: Any, text: str) -> None:
    assert text in difference(0, message, expected)


# ---------------------------------------------------------------------- figures


class TestHistogram:
    @pytest.mark.parametrize("value", [0, 1, 127, 128, 129, 1000, 65_537, 10**9, 2**43])
    def test_buckets(self, value: int) -> None:
        low, high = Histogram.bounds(Histogram.index(value))
        assert low <= value < high
        assert high - low <= max(1, value / 64)

    def test_buckets_follow_each_other(self) -> None:
        bounds = [Histogram.bounds(index) for index in range(1000)]
        assert all(one[1] == other[0] for one, other in itertools.pairwise(bounds))

    def test_what_is_too_long(self) -> None:
        histogram = Histogram()
        histogram.record(2**60)
        assert histogram.total == 1

    def test_percentiles(self) -> None:
        histogram = Histogram()
        for value in range(1, 1001):
            histogram.record(value * 10_000_000)
        for percent in (1, 50, 90, 99, 99.9, 100):
            assert histogram.percentile(percent) == pytest.approx(percent / 10, rel=0.02)
        assert histogram.mean() == pytest.approx(5.005, rel=0.02)

    def test_short_ones(self) -> None:
        histogram = Histogram()
        for value in range(0, FINE, 1000):
            histogram.fine[value >> FINE_BITS] += 1
        assert histogram.percentile(50) == pytest.approx(FINE / 2e9, rel=0.02)
        assert histogram.total == len(range(0, FINE, 1000))
        assert sum(row["count"] for row in histogram.as_json()) == histogram.total

    def test_empty(self) -> None:
        histogram = Histogram()
        assert (histogram.percentile(99), histogram.mean(), histogram.rows(5)) == (0, 0, [])

    def test_sums(self) -> None:
        one, other = Histogram(), Histogram()
        one.record(1000, 2)
        other.record(10**9, 3)
        other.fine[5] += 1
        copy = one.copy()
        one.add(other)
        assert (one.total, copy.total, other.total) == (6, 2, 4)
        fine = other.fine
        other.clear()
        assert other.total == 0
        assert other.fine is fine

    @pytest.mark.parametrize("values", [[1000], [1, 10**12], list(range(10**5, 10**6, 1000))])
    def test_rows(self, values: list[int]) -> None:
        histogram = Histogram()
        for value in values:
            histogram.record(value)
        rows = histogram.rows(12)
        assert 1 <= len(rows) <= 12
        assert sum(count for _, _, count in rows) == len(values)
        assert all(low < high for low, high, _ in rows)


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0.00 µs"),
        (12.3456e-6, "12.3 µs"),
        (0.0012345, "1.23 ms"),
        (0.001, "1.00 ms"),
        (0.25, "250 ms"),
        (1, "1.00 s"),
        (2.5, "2.50 s"),
        (10, "10.0 s"),
        (100, "100 s"),
        (125, "125 s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_numbers() -> None:
    assert [number(v) for v in (1234567.8, 99.95, 12.34, 1.234)] == [
        "1,234,568",
        "100.0",
        "12.3",
        "1.23",
    ]
