"""When connections of a server that leaves are closed: no clock, no connection."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest

from wsapi._shared.leaving import ANSWERING, Departure, departure_time
from wsapi.exceptions import ProtocolError

OPTIONS: dict[str, Any] = {
    "timeout": 30,
    "spread": 10,
    "code": 1012,
    "reason": "",
    "retry_after": 1,
}


def departure(drawn: Iterable[float] = (), **options: Any) -> Departure[str]:
    leaving: Departure[str] = Departure(**OPTIONS | options, random=iter(drawn).__next__)
    leaving.lingering = math.inf  # for the times of the others
    return leaving


def none() -> list[Any]:
    raise AssertionError("it isn't the last time")


def test_departure_time() -> None:
    assert departure_time(100, 10, lambda: 0.25) == 102.5


def test_connections_are_closed_one_by_one() -> None:
    leaving = departure([0.5, 0.1, 0.9, 0.1])
    leaving.begin(["a", "b", "c", "d"], 100)
    assert leaving.next_time() == 101
    assert leaving.due(100, none) == []
    assert leaving.due(101, none) == ["d", "b"]
    assert leaving.next_time() == 105
    assert leaving.due(104, none) == []
    assert leaving.due(109.5, none) == ["a", "c"]
    assert leaving.due(109.9, none) == []
    # What has come in between, although it wasn't there in the beginning.
    assert leaving.next_time() == 110
    assert leaving.due(110, lambda: ["e"]) == ["e"]
    assert leaving.next_time() == leaving.deadline == 130
    assert leaving.due(130, none) == []


@pytest.mark.parametrize(
    ("timeout", "lingering"), [(30, 1.0), (None, 1.0), (2, 2 * ANSWERING), (0, 0.0)]
)
def test_who_has_an_answer_goes(timeout: float | None, lingering: float) -> None:
    leaving: Departure[str] = Departure(**OPTIONS | {"timeout": timeout})
    assert leaving.lingering == lingering
    assert leaving.overdue(100, none) == []
    leaving.begin([], 100)
    assert leaving.next_time() == 100 + min(lingering, leaving.spread)
    assert leaving.overdue(100 + lingering - 0.01, none) == []
    assert leaving.overdue(100 + lingering, lambda: ["a", "b"]) == ["a", "b"]
    assert leaving.overdue(100 + lingering, none) == []
    assert leaving.next_time() == 100 + leaving.spread


def test_who_is_late_closes_all() -> None:
    leaving = departure([0.5, 0.1])
    leaving.begin(["a", "b"], 100)
    assert leaving.due(1000, lambda: ["a", "e"]) == ["a", "e"]
    assert leaving.next_time() == 130


def test_nothing_to_close() -> None:
    leaving = departure()
    leaving.begin([], 100)
    assert leaving.next_time() == 110
    assert leaving.due(110, list) == []


def test_without_spread() -> None:
    leaving = departure([0.5], spread=0)
    leaving.begin(["a"], 100)
    assert leaving.next_time() == 100
    assert leaving.due(100, lambda: ["a"]) == ["a"]


def test_no_connection_is_closed_after_the_timeout() -> None:
    leaving = departure([1], timeout=5)
    leaving.begin(["a"], 100)
    assert leaving.next_time() == 104  # a fifth of the time is for its answer
    assert leaving.due(104, lambda: ["a"]) == ["a"]
    assert leaving.next_time() == leaving.deadline == 105


def test_without_timeout() -> None:
    leaving = departure(timeout=None)
    leaving.begin([], 100)
    assert leaving.next_time() == 110
    assert leaving.due(110, list) == []
    assert leaving.next_time() == leaving.deadline == math.inf


def test_time_left() -> None:
    leaving = departure()
    assert leaving.time_left(100, 105) == 5
    assert leaving.time_left(105, 100) == 0
    assert leaving.time_left(105, math.inf) is None


def test_before_it_begins() -> None:
    leaving = departure()
    assert leaving.next_time() == math.inf
    assert leaving.due(100, none) == []


def test_times_are_spread_by_chance() -> None:
    numbers = range(1000)
    leaving = Departure[int](**OPTIONS)
    leaving.begin(numbers, 0)
    per_second = [len(leaving.due(second, none)) for second in range(1, 10)]
    assert all(number > 50 for number in per_second)
    others = [Departure[int](**OPTIONS) for _ in range(2)]
    for other in others:
        other.begin(numbers, 0)
    assert others[0].due(5, none) != others[1].due(5, none)


@pytest.mark.parametrize(
    "options, error",
    [
        ({"timeout": "1"}, TypeError),
        ({"timeout": True}, TypeError),
        ({"timeout": -1}, ValueError),
        ({"timeout": math.inf}, ValueError),
        ({"spread": None}, TypeError),
        ({"spread": -0.1}, ValueError),
        ({"spread": math.nan}, ValueError),
        ({"code": 999}, ProtocolError),
        ({"code": 1006}, ProtocolError),
        ({"reason": "x" * 124}, ProtocolError),
        ({"retry_after": 1.5}, TypeError),
        ({"retry_after": True}, TypeError),
        ({"retry_after": -1}, ValueError),
    ],
)
def test_arguments(options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        departure(**options)
