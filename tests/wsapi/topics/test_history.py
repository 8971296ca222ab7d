"""The ring of a topic: limits, and what is found in it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsapi.topics._history import ENTRY_OVERHEAD, Entry, History, Ring


def ring(messages: int = 3, size: int = 2**20, seconds: float | None = None, base: int = 0) -> Ring:
    return Ring(History(messages, size, seconds), base)


def fill(ring: Ring, *offsets: int, now: float = 0.0, size: int = 1) -> Ring:
    for offset in offsets:
        ring.add(offset, f"m{offset}", size, b"%d" % offset, now)
    return ring


def offsets(entries: list[Entry]) -> list[int]:
    return [entry.offset for entry in entries]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"messages": -1}, ValueError, "messages of a history must be 0 or more; got -1"),
        ({"messages": 1.0}, TypeError, "messages of a history must be int; got float"),
        ({"messages": True}, TypeError, "messages of a history must be int; got bool"),
        ({"bytes": None}, TypeError, "bytes of a history must be int; got NoneType"),
        ({"seconds": 0}, ValueError, "seconds of a history must be more than 0; got 0"),
        ({"seconds": math.nan}, ValueError, "must be more than 0; got nan"),
        ({"seconds": math.inf}, ValueError, "must be more than 0; got inf"),
        ({"seconds": "1"}, TypeError, "must be a number or None; got str"),
        ({"seconds": True}, TypeError, "must be a number or None; got bool"),
    ],
)
def test_wrong_limits(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        History(**arguments)


def test_messages() -> None:
    kept = fill(ring(3), 1, 2, 3, 4, 5)
    assert offsets(kept.after(0, 100)) == [3, 4, 5]
    assert offsets(kept.after(3, 100)) == [4, 5]
    assert offsets(kept.after(2, 2)) == [3, 4]
    assert kept.after(5, 100) == []
    assert [kept.reaches(offset) for offset in range(7)] == [False, False, *5 * [True]]
    assert kept.after(4, 1) == [Entry(5, "m5", b"5", 0.0, ENTRY_OVERHEAD + 1)]


def test_bytes() -> None:
    kept = ring(100, 3 * (ENTRY_OVERHEAD + 10))
    fill(kept, 1, 2, 3, 4, size=10)
    assert (offsets(kept.after(0, 9)), kept.size) == ([2, 3, 4], 3 * (ENTRY_OVERHEAD + 10))
    fill(kept, 5, size=11)
    assert offsets(kept.after(0, 9)) == [4, 5]
    # One that is larger than all of it isn't kept, and what was before it is no use then.
    fill(kept, 6, size=1000)
    assert (len(kept), kept.size, kept.base, kept.reaches(5)) == (0, 0, 6, False)
    assert kept.reaches(6)


def test_seconds() -> None:
    kept = ring(100, seconds=10.0)
    fill(kept, 1, now=0.0)
    fill(kept, 2, now=5.0)
    kept.expire(10.0)
    assert kept.reaches(0)
    kept.expire(10.5)
    assert not kept.reaches(0)
    assert offsets(kept.after(0, 9)) == [2]
    fill(kept, 3, now=20.0)
    assert offsets(kept.after(0, 9)) == [3]
    assert kept.latest == 20.0
    assert ring().latest == -math.inf


def test_marks() -> None:
    kept = fill(ring(3), 1, 3, 7, 9)
    assert [kept.mark(offset) for offset in (0, 1, 2, 3, 7, 8, 9, 10)] == [
        None,
        None,
        None,
        b"3",
        b"7",
        None,
        b"9",
        None,
    ]


def entries(*found: int, size: int = 1) -> list[Entry]:
    return [Entry(offset, f"m{offset}", b"", 0.0, ENTRY_OVERHEAD + size) for offset in found]


def test_what_precedes_is_kept_as_far_as_there_is_room() -> None:
    kept = fill(ring(4, base=5), 6, 7)
    kept.extend_back(entries(2, 3, 4, 5), 1)
    assert (offsets(kept.after(0, 9)), kept.base) == ([4, 5, 6, 7], 3)
    kept.extend_back(entries(2, 3), 1)
    assert (offsets(kept.after(0, 9)), kept.base) == ([4, 5, 6, 7], 3)
    kept = fill(ring(9, 3 * (ENTRY_OVERHEAD + 1), base=5), 6)
    kept.extend_back(entries(3, 4, 5), 2)
    assert (offsets(kept.after(0, 9)), kept.base, kept.size) == ([4, 5, 6], 3, kept.history.bytes)


def test_that_nothing_precedes_is_noted() -> None:
    kept = fill(ring(4, base=5), 6)
    kept.extend_back([], 2)
    assert (kept.base, kept.reaches(2), offsets(kept.after(2, 9))) == (2, True, [6])


def test_clearing() -> None:
    kept = fill(ring(3), 1, 2, 3, 4)
    kept.clear(7)
    assert (len(kept), kept.size, kept.base) == (0, 0, 7)
    fill(kept, 8)
    assert offsets(kept.after(0, 9)) == [8]


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 300), st.floats(0, 10)), max_size=60),
    st.integers(0, 8),
    st.integers(0, 3000),
)
def test_like_a_plain_list(added: list[tuple[int, int, float]], messages: int, size: int) -> None:
    kept = Ring(History(messages, size, 20.0), 0)
    plain: list[tuple[int, int, float]] = []
    base = offset = 0
    now = 0.0
    for step, payload, pause in added:
        offset += step
        now += pause
        kept.add(offset, "", payload, b"", now)
        plain.append((offset, payload + ENTRY_OVERHEAD, now))
        while plain and (
            len(plain) > messages
            or sum(entry[1] for entry in plain) > size
            or plain[0][2] < now - 20.0
        ):
            base = plain.pop(0)[0]
        assert offsets(kept.after(0, 100)) == [entry[0] for entry in plain]
        assert (len(kept), kept.base) == (len(plain), base)
        assert kept.size == sum(entry[1] for entry in plain)


def test_nothing_is_too_old_without_a_limit() -> None:
    full = fill(ring(seconds=None), 1, 2, 3, now=0.0)
    full.expire(1e9)
    again = fill(ring(seconds=10.0), 1, 2, 3, now=0.0)
    again.expire(1e9)
    assert (len(full), len(again)) == (3, 0)
