"""Wires of the testing kit, without anything at their ends, in invented time."""

from __future__ import annotations

import math
from typing import Any

import pytest

from wsapi.testing._wires import WINDOW, End, Wire, join, link


class Now:
    """A time that is set."""

    def __init__(self) -> None:
        self.now = 100.0
        self.changes = 0

    def time(self) -> float:
        return self.now

    def changed(self) -> None:
        self.changes += 1


@pytest.fixture
def now() -> Now:
    return Now()


def attached(now: Now, **options: Any) -> Wire:
    wire = Wire(**options)
    wire._attach(now.time, now.changed)
    return wire


def test_what_is_written_arrives_at_once(now: Now) -> None:
    wire = attached(now)
    assert wire._next() == math.inf
    wire._write(b"one")
    wire._write(b"two")
    assert (wire.bytes_written, wire.bytes_under_way) == (6, 6)
    assert wire._next() == 100
    assert bytes(wire._take()) == b"onetwo"
    assert bytes(wire._take()) == b""
    assert (wire.bytes_written, wire.bytes_under_way) == (6, 0)


def test_a_delay_that_becomes_shorter_lets_nothing_overtake(now: Now) -> None:
    wire = attached(now, delay=5)
    wire._write(b"slow")
    wire.delay = 0
    wire._write(b"fast")
    wire._write_eof()
    now.now = 104.9
    assert bytes(wire._take()) == b""
    now.now = 105
    assert wire._next() == 105
    assert not wire._take_end()
    assert bytes(wire._take()) == b"slowfast"
    assert wire._take_end()


def test_splitting(now: Now) -> None:
    wire = attached(now, split=2)
    wire._write(b"abcde")
    assert [bytes(wire._take()) for _ in range(4)] == [b"ab", b"cd", b"e", b""]
    wire.split = None
    wire._write(b"abcde")
    assert bytes(wire._take(3)) == b"abc"
    assert bytes(wire._take(3)) == b"de"


def test_holding(now: Now) -> None:
    wire = attached(now, hold=True)
    wire._write(b"held")
    assert (wire._next(), bytes(wire._take())) == (math.inf, b"")
    wire.hold = False
    assert now.changes == 1
    assert bytes(wire._take()) == b"held"


def test_dropping(now: Now) -> None:
    wire = attached(now)
    wire._write(b"before")
    wire.drop = True
    wire._write(b"lost")
    wire._write_eof()
    wire.drop = False
    wire._write(b"after")
    assert bytes(wire._take()) == b"beforeafter"
    assert not wire._take_end()
    assert wire.bytes_written == 15


def test_a_bandwidth_lets_bytes_arrive_one_after_the_other(now: Now) -> None:
    wire = attached(now, bandwidth=1000, delay=1)
    wire._write(bytes(500))
    wire._write_eof()
    now.now = 101.25
    arrived = len(wire._take())
    assert 150 <= arrived <= 250
    now.now = 101.5
    while data := wire._take():
        arrived += len(data)
    assert arrived == 500
    assert wire._take_end()
    now.now = 110
    wire = attached(now, bandwidth=10)
    wire._write(b"0123456789")
    assert wire._next() == 111


def test_the_writer_has_to_wait_when_much_is_under_way(now: Now) -> None:
    wire = attached(now)
    wire._write(bytes(WINDOW - 1))
    assert wire._room == 1
    wire._write(bytes(11))
    assert wire._room == -10
    wire._forget_what_waits()
    assert wire._room == 0
    assert len(wire._take()) == WINDOW


def test_what_is_given_back_comes_first(now: Now) -> None:
    wire = attached(now)
    wire._write(b"abc")
    data = wire._take()
    wire._write(b"def")
    wire._give_back(data[1:])
    assert bytes(wire._take()) == b"bcdef"


def test_nobody_receives(now: Now) -> None:
    wire = attached(now)
    wire._write(b"abc")
    wire._write_eof()
    wire._close()
    wire._write(b"def")
    wire._give_back(memoryview(b"ghi"))
    assert (wire.bytes_under_way, wire._next()) == (0, math.inf)


@pytest.mark.parametrize(
    "name, value",
    [
        ("delay", -1),
        ("delay", math.nan),
        ("delay", math.inf),
        ("split", 0),
        ("split", 1.5),
        ("split", "2"),
        ("bandwidth", 0),
        ("bandwidth", math.nan),
    ],
)
def test_bad_values(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        Wire(**{name: value})  # type: ignore[arg-type]
    wire = Wire()
    before = getattr(wire, name)
    with pytest.raises(ValueError, match=name):
        setattr(wire, name, value)
    assert getattr(wire, name) == before


def test_a_wire_is_good_for_one_direction_of_one_connection(now: Now) -> None:
    used, wire = attached(now), Wire()
    for each in ((used, Wire()), (Wire(), used), (wire, wire)):
        with pytest.raises(ValueError, match="Wire of its own"):
            join(End(), End(), *each)


def test_what_is_not_in_memory_has_no_link() -> None:
    with pytest.raises(TypeError, match="in memory"):
        link(object())
