"""Latencies in a histogram of a fixed size, and figures as a report writes them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["BUCKETS", "FINE", "FINE_BITS", "Histogram", "duration", "number"]

SUB_BUCKET_BITS: Final = 6
"""Each power of two is divided into 2 ** 6 buckets, so that a value is known to 1.6 per cent."""
MAX_BITS: Final = 44  # of a latency in nanoseconds: five hours
FINE_BITS: Final = 8
"""Short latencies are recorded in steps of 2 ** 8 ns, which is quicker than to find a bucket."""
FINE: Final = 1 << 22
"""Nanoseconds below which a latency is a short one."""
BUCKETS: Final = (MAX_BITS - SUB_BUCKET_BITS + 1) << SUB_BUCKET_BITS


@dataclass
class Histogram:
    """How many latencies there were, by nanoseconds.

    Args:
        counts: How many there are in each bucket.
        fine: How many short ones there are, in equal steps, which no bucket has: what is in a hurry
            counts here, without a call.
    """

    counts: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    fine: list[int] = field(default_factory=lambda: [0] * (FINE >> FINE_BITS))

    @staticmethod
    def index(nanoseconds: int) -> int:
        """Return the bucket of a latency."""
        shift = nanoseconds.bit_length() - SUB_BUCKET_BITS - 1
        if shift <= 0:
            return max(nanoseconds, 0)
        return min((shift << SUB_BUCKET_BITS) + (nanoseconds >> shift), BUCKETS - 1)

    @staticmethod
    def bounds(index: int) -> tuple[int, int]:
        """Return the least latency of a bucket, and the least one of the next."""
        shift = (index >> SUB_BUCKET_BITS) - 1
        if shift <= 0:
            return index, index + 1
        mantissa = index - (shift << SUB_BUCKET_BITS)
        return mantissa << shift, (mantissa + 1) << shift

    @property
    def total(self) -> int:
        """How many there are."""
        return sum(self.counts) + sum(self.fine)

    def record(self, nanoseconds: int, times: int = 1) -> None:
        """Add a latency."""
        self.counts[self.index(nanoseconds)] += times

    def add(self, other: Histogram) -> None:
        """Add all that another one has."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.fine = [a + b for a, b in zip(self.fine, other.fine, strict=True)]

    def clear(self) -> None:
        """Forget all. The lists stay the same, since others have them."""
        self.counts[:] = [0] * len(self.counts)
        self.fine[:] = [0] * len(self.fine)

    def copy(self) -> Histogram:
        """Return another one with the same counts."""
        return Histogram(self.counts.copy(), self.fine.copy())

    def percentile(self, percent: float) -> float:
        """Return the seconds that so many per cent don't exceed; 0 of none."""
        wanted = max(1, math.ceil(self.total * percent / 100))
        for index, count in self._filled():
            wanted -= count
            if wanted <= 0:
                low, high = self.bounds(index)
                return (low + high - 1) / 2e9
        return 0.0

    def mean(self) -> float:
        """Return the mean in seconds; 0 of none."""
        total = self.total
        middles = ((sum(self.bounds(index)) - 1) / 2 * count for index, count in self._filled())
        return sum(middles) / total / 1e9 if total else 0.0

    def _filled(self) -> Iterator[tuple[int, int]]:
        counts = self.counts.copy()
        for place, count in enumerate(self.fine):
            if count:
                counts[self.index((place << FINE_BITS) + (1 << FINE_BITS >> 1))] += count
        return ((index, count) for index, count in enumerate(counts) if count)

    def rows(self, most: int) -> list[tuple[float, float, int]]:
        """Return up to ``most`` ranges of equal ratios: from and to, in seconds, and how many.

        Args:
            most: Number of rows.
        """
        filled = list(self._filled())
        if not filled:
            return []
        low, high = max(self.bounds(filled[0][0])[0], 1), self.bounds(filled[-1][0])[1]
        # No finer than a quarter of a power of two.
        number = min(most, max(1, math.ceil(math.log2(high / low) * 4)))
        ratio = (high / low) ** (1 / number)
        counts = [0] * number
        for index, count in filled:
            middle = max(sum(self.bounds(index)) / 2, low)
            counts[min(int(math.log(middle / low, ratio)) if ratio > 1 else 0, number - 1)] += count
        return [
            (low * ratio**row / 1e9, low * ratio ** (row + 1) / 1e9, count)
            for row, count in enumerate(counts)
        ]

    def as_json(self) -> list[dict[str, Any]]:
        """Return the buckets that aren't empty, in seconds."""
        return [
            {"from": low / 1e9, "to": high / 1e9, "count": count}
            for index, count in self._filled()
            for low, high in [self.bounds(index)]
        ]


def duration(seconds: float) -> str:
    """Return a duration with three digits and its unit."""
    value, unit = seconds, "s"
    if value < 1:
        value, unit = seconds * 1e3, "ms"
    if value < 1:
        value, unit = seconds * 1e6, "µs"
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} {unit}"


def number(value: float) -> str:
    """Return a number with three digits or more, and commas."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"
