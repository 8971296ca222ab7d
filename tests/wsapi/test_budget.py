"""Who goes when connections hold too much: the decision."""

from __future__ import annotations

import gc
import math
import threading
from typing import Any

import pytest

from wsapi._shared.budget import MAX_REPORTED, BufferBudget, choose

# Bytes that connections hold, those of other servers, what is too much, and who goes.
CASES: list[tuple[list[int], list[int], int, list[int]]] = [
    ([], [], 10, []),
    ([5], [], 0, []),
    ([5], [], -1, []),
    ([5], [], 1, [0]),
    ([5, 9, 7], [], 1, [1]),
    ([5, 9, 7], [], 9, [1]),
    ([5, 9, 7], [], 10, [1, 2]),
    ([5, 9, 7], [], 17, [1, 2, 0]),
    ([5, 9, 7], [], 1000, [1, 2, 0]),
    ([0, 9, 0], [], 1000, [1]),
    ([7, 7, 7], [], 8, [0, 1]),
    # Those of others that hold more go there.
    ([5, 9, 7], [10], 10, []),
    ([5, 9, 7], [10], 11, [1]),
    ([5, 9, 7], [10, 8], 20, [1]),
    ([5, 9, 7], [10, 8], 28, [1, 2]),
    ([5], [100, 100], 200, []),
    ([5], [1], 5, [0]),
    ([5], [0, 0], 7, [0]),
]


@pytest.mark.parametrize(("sizes", "others", "excess", "chosen"), CASES)
def test_choose(sizes: list[int], others: list[int], excess: int, chosen: list[int]) -> None:
    assert choose(sizes, others, excess) == chosen


class Member:
    """Stands in for what looks at the connections of a server."""


def test_judge() -> None:
    budget, member = BufferBudget(10), Member()
    assert budget.judge(member, [5, 5]) == (10, [])
    assert budget.buffered_bytes == 10
    assert budget.judge(member, [5, 6]) == (11, [1])
    assert budget.buffered_bytes == 5
    budget.leave(member)
    budget.leave(member)
    assert budget.buffered_bytes == 0


def test_members_together() -> None:
    """Each closes its own; the one that looks first closes no more because of it."""
    budget, one, other = BufferBudget(10), Member(), Member()
    assert budget.judge(one, [3, 6]) == (9, [])
    assert budget.judge(other, [4, 1]) == (14, [])
    assert budget.judge(one, [3, 6]) == (14, [1])
    assert budget.judge(other, [4, 1]) == (8, [])
    assert budget.buffered_bytes == 8
    del one
    gc.collect()
    assert budget.buffered_bytes == 5


def test_what_others_are_told_is_bounded() -> None:
    budget, member = BufferBudget(1), Member()
    budget.max_bytes = 10 * MAX_REPORTED
    budget.judge(member, [1] * MAX_REPORTED + [2] * 5)
    ((total, heaviest),) = budget._seen.values()
    assert total == MAX_REPORTED + 10
    assert heaviest == [2] * 5 + [1] * (MAX_REPORTED - 5)


@pytest.mark.parametrize(
    ("args", "options", "error"),
    [
        ((0,), {}, ValueError),
        ((-1,), {}, ValueError),
        ((1.0,), {}, TypeError),
        ((True,), {}, TypeError),
        ((None,), {}, TypeError),
        ((1,), {"interval": 0}, ValueError),
        ((1,), {"interval": math.inf}, ValueError),
        ((1,), {"interval": math.nan}, ValueError),
        ((1,), {"interval": "1"}, TypeError),
        ((1,), {"interval": True}, TypeError),
        ((1,), {"interval": None}, TypeError),
    ],
)
def test_arguments(args: Any, options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        BufferBudget(*args, **options)


def test_signal_handlers_may_ask_while_their_thread_looks() -> None:
    budget, answers = BufferBudget(1), list[int]()

    def interrupted() -> None:
        with budget._lock:
            answers.append(budget.buffered_bytes)

    thread = threading.Thread(target=interrupted, daemon=True)
    thread.start()
    thread.join(5)
    assert answers == [0]
