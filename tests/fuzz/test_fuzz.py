"""The targets of `make fuzz` on what is known, and on some hundred mutations of it."""

from __future__ import annotations

import random
import time

import pytest

from tests.fuzz import corpora

MUTATIONS = 300
SECONDS = 10  # of mutations at most: a machine may be slow
PARTS = [b"\x00", b"\xff", b"\x7f", b"\x80", b"\x81", b"\xc1", b"\x88", b"\xfe", b"\r\n", b"\n"]


def mutated(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    for _ in range(rng.randrange(1, 5)):
        start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        kind = rng.randrange(6)
        if kind == 0:
            data = data[:start] + rng.randbytes(rng.randrange(4)) + data[start:]
        elif kind == 1:
            data = data[:start] + data[end:]
        elif kind == 2:
            data = data[:start] + rng.choice(PARTS) + data[start + 1 :]
        elif kind == 3 and data:
            start = min(start, len(data) - 1)
            changed = data[start] ^ 1 << rng.randrange(8)
            data = data[:start] + bytes([changed]) + data[start + 1 :]
        elif kind == 4:
            data = data[:start] + rng.choice(others)[start:]
        else:
            data = data[:end] + data[start:]
    return data[:5000]


@pytest.mark.parametrize("name", corpora.target_names())
def test_corpus(name: str) -> None:
    one_input = corpora.load_target(name).one_input
    for data in [b"", *corpora.inputs(name)]:
        one_input(data)


@pytest.mark.parametrize("name", corpora.target_names())
def test_mutations(name: str) -> None:
    one_input = corpora.load_target(name).one_input
    known = corpora.inputs(name) or [b""]
    rng = random.Random(1)
    end = time.monotonic() + SECONDS
    for _ in range(MUTATIONS):
        data = mutated(rng.choice(known), known, rng)
        try:
            one_input(data)
        except Exception as exc:
            exc.add_note(f"input: {data!r}")
            raise
        if time.monotonic() > end:
            break


def test_size_of_corpora() -> None:
    sizes = [path.stat().st_size for path in corpora.HERE.glob("corpus/*.zip")]
    assert sum(sizes) < 1_000_000
