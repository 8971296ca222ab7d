"""Inputs of fuzz targets: bytes that are choices first, and data for the rest."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


class Input:
    """Takes an input apart. Behind its end are zeros, so that every input means something."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def __bool__(self) -> bool:
        return self.position < len(self.data)

    def byte(self) -> int:
        self.position += 1
        return self.data[self.position - 1] if self.position <= len(self.data) else 0

    def number(self, size: int = 2) -> int:
        return int.from_bytes(self.take(size), "big")

    def choice(self, values: Sequence[T]) -> T:
        return values[self.byte() % len(values)]

    def take(self, size: int) -> bytes:
        start, self.position = self.position, self.position + size
        return self.data[start : self.position]

    def sized(self) -> bytes:
        """Take a byte that is a number of bytes, and those."""
        return self.take(self.byte())

    def rest(self) -> bytes:
        return self.take(max(len(self.data) - self.position, 0))

    def random(self) -> random.Random:
        return random.Random(self.byte())


def cut(data: bytes, rng: random.Random) -> Iterator[bytes]:
    """Cut data into pieces, most of them small."""
    largest = rng.choice([2, 5, 20, 200, 5000])
    position = 0
    while position < len(data):
        size = rng.randrange(1, largest)
        yield data[position : position + size]
        position += size


def single_bytes(data: bytes) -> Iterator[bytes]:
    return (data[i : i + 1] for i in range(len(data)))
