"""The core of topics: who comes back gets what was missed, or is told."""

from __future__ import annotations

import pytest

from tests.wsapi.topics.core_helpers import (
    LOST,
    at,
    bring,
    following,
    join,
    make,
    names,
    note,
    notes,
    page,
    pop,
    told,
)
from wsapi.topics._requests import Read
from wsapi.topics.bus import Page
from wsapi.topics.exceptions import BusUnavailable


def test_the_ring_reaches_back() -> None:
    core = make()
    following(core)
    bring(core, notes(5, 9))
    late = join(core, at(6))
    assert (late.go(), late.messages, late.recovered) == ("known 3 live", names(7, 9), True)
    assert not core.outbox


def test_what_the_ring_does_not_have_is_read() -> None:
    core = make()
    following(core)
    bring(core, notes(5, 6))
    late = join(core, at(2))
    assert late.go() == "wait"
    request = pop(core, Read)
    assert request.since == at(2)
    bring(core, notes(7, 7))
    core.page(request, page(3, 6), 0.0)
    told(core, "READY")
    assert (late.go(), late.messages, late.recovered) == ("known 4 1 live", names(3, 7), True)
    # It is kept for the next one.
    late = join(core, at(2))
    assert (late.go(), late.messages) == ("known 5 live", names(3, 7))


def test_pages_one_after_the_other() -> None:
    core = make(messages=0)
    following(core, 100)
    late = join(core, at(2))
    late.go()
    core.page(pop(core, Read), page(3, 50, 100), 0.0)
    assert late.go() == "known 48 wait"
    bring(core, notes(101, 101))
    core.page(pop(core, Read), page(51, 99, 101), 0.0)
    assert late.go() == "49 wait"
    core.page(pop(core, Read), page(100, 101), 0.0)
    assert late.go() == "2 live"
    bring(core, notes(102, 102))
    assert late.messages == names(3, 102)


def test_one_read_for_all_who_come_back() -> None:
    core = make(messages=0)
    following(core, 10)
    early, late, later, last, foreign = (
        join(core, since) for since in (at(5), at(5), at(7), at(2), at(5, "y"))
    )
    for client in (early, late, later, last, foreign):
        assert client.go() == "wait"
    core.page(pop(core, Read), page(6, 10), 0.0)
    told(core, "READY", "READY", "READY")
    for client in (early, late, later):
        client.go()
    assert [early.messages, late.messages, later.messages] == [
        names(6, 10),
        names(6, 10),
        names(8, 10),
    ]
    core.page(pop(core, Read), Page([], False, at(10)), 0.0)
    told(core, "READY")
    assert (last.go(), last.recovered) == ("known live", False)
    core.page(pop(core, Read), Page([], False, at(10)), 0.0)
    assert (foreign.go(), foreign.recovered) == ("known live", False)
    assert not core.outbox


def test_whoever_waits_for_a_read_may_leave() -> None:
    core = make(messages=0)
    following(core, 10)
    one, two = join(core, at(5)), join(core, at(4))
    one.go()
    two.go()
    core.unsubscribe(one, 0.0)
    core.page(pop(core, Read), page(6, 10), 0.0)
    request = pop(core, Read)
    core.unsubscribe(two, 0.0)
    core.page(request, page(5, 10), 0.0)
    told(core)
    assert not core.outbox
    assert two.position == at(4)


def test_reading_fails_for_who_comes_back() -> None:
    core = make(messages=0)
    live = following(core, 10)
    late = join(core, at(5))
    late.go()
    core.failed(pop(core, Read), BusUnavailable("no"), 0.0)
    told(core, "READY")
    with pytest.raises(BusUnavailable, match="no"):
        late.go()
    assert core.subscribers("t") == 1
    bring(core, notes(11, 11))
    assert live.messages == ["m11"]


def test_a_client_that_is_ahead_of_this_process() -> None:
    core = make()
    live = following(core)
    ahead = join(core, at(6))
    assert ahead.go() == "wait"
    core.page(pop(core, Read), Page([], True, at(6)), 0.0)
    told(core, "READY")
    assert ahead.go() == "known wait"
    assert ahead.recovered is True
    request = pop(core, Read)
    core.page(request, page(5, 7), 0.0)
    told(core, "READY")
    assert (ahead.go(), ahead.messages) == ("1 live", ["m7"])
    assert live.messages == names(5, 7)


@pytest.mark.parametrize("since", [2, 6])
def test_a_place_has_another_number_elsewhere(since: int) -> None:
    """As on buses where the position of a topic without messages isn't the same for all."""
    core = make()
    live = following(core, 4)
    moved = join(core, at(since))
    assert moved.go() == "wait"
    core.page(pop(core, Read), Page([], True, at(4)), 0.0)
    told(core, "READY")
    assert (moved.go(), moved.recovered, moved.position) == ("known live", True, at(4))
    bring(core, [note(9, 4)])
    assert live.messages == moved.messages == ["m9"]
    assert not core.outbox


def test_a_place_that_has_another_number_is_left_meanwhile() -> None:
    core = make()
    live = following(core, 4)
    moved = join(core, at(2))
    moved.go()
    bring(core, [note(9, 4)])
    core.page(pop(core, Read), Page([], True, at(4)), 0.0)
    assert moved.go() == "known 1 live"
    assert live.messages == moved.messages == ["m9"]


def test_a_client_that_is_ahead_of_a_broker_that_has_lost_that() -> None:
    core = make()
    following(core)
    ahead = join(core, at(6))
    ahead.go()
    core.page(pop(core, Read), Page([], True, at(6)), 0.0)
    assert ahead.go() == "known wait"
    told(core, "READY")
    request = core.outbox.popleft()
    behind = join(core, at(2))
    assert behind.go() == "wait"
    core.page(request, page(5, 5), 0.0)
    told(core, "READY")
    assert (ahead.go(), ahead.position) == ("gap live", at(5))
    # Whoever waits for something else isn't concerned.
    core.page(pop(core, Read), page(3, 5), 0.0)
    told(core, "READY")
    assert (behind.go(), behind.recovered) == ("known 3 live", True)


def test_a_client_that_is_ahead_and_leaves() -> None:
    core = make()
    following(core)
    ahead = join(core, at(6))
    ahead.go()
    core.page(pop(core, Read), Page([], True, at(6)), 0.0)
    ahead.go()
    core.unsubscribe(ahead, 0.0)
    told(core, "READY")
    core.page(pop(core, Read), page(5, 7), 0.0)
    told(core)


def test_a_client_that_is_ahead_while_the_bus_goes() -> None:
    core = make()
    live = following(core)
    ahead = join(core, at(6))
    ahead.go()
    core.page(pop(core, Read), Page([], True, at(6)), 0.0)
    ahead.go()
    told(core, "READY")
    core.failed(pop(core, Read), BusUnavailable("no"), 0.0)
    told(core, "READY")
    with pytest.raises(BusUnavailable, match="no"):
        ahead.go()
    then = core.next_timeout()
    assert then is not None
    core.handle_timeout(then)
    core.page(pop(core, Read), page(5, 5), 0.0)
    assert live.messages == ["m5"]


def test_a_position_that_never_was() -> None:
    core = make()
    following(core)
    client = join(core, at(2**53 - 1))
    client.go()
    core.page(pop(core, Read), Page([], False, at(4)), 0.0)
    assert (client.go(), client.recovered) == ("known live", False)


def test_nothing_follows_though_something_has_come() -> None:
    core = make(messages=2)
    following(core)
    late = join(core, at(2))
    late.go()
    bring(core, notes(5, 9))
    core.page(pop(core, Read), Page([], True, at(2)), 0.0)
    assert (late.go(), late.recovered) == ("known live", False)


def test_a_page_that_begins_too_early() -> None:
    core = make(messages=0)
    following(core, 10)
    late = join(core, at(7))
    late.go()
    core.page(pop(core, Read), page(5, 10), 0.0)
    assert (late.go(), late.messages) == ("known 3 live", names(8, 10))


def test_a_gap_while_catching_up() -> None:
    core = make()
    following(core)
    late = join(core, at(2))
    late.go()
    core.page(pop(core, Read), page(3, 3, 4), 0.0)
    assert late.go() == "known 1 wait"
    request = pop(core, Read)
    core.resumed(0.0)
    core.page(pop(core, Read), LOST, 0.0)
    told(core, "READY", "GAP")
    core.page(request, LOST, 0.0)
    assert late.go() == "gap live"
    assert late.recovered is True
    assert late.position == at(50)


def test_a_history_in_the_process_that_is_there_only_while_somebody_needs_it() -> None:
    core = make(messages=0)
    live = following(core, 10)
    bring(core, notes(11, 12))
    topic = core._topics["t"]
    assert topic.ring is None
    late = join(core, at(9))
    late.go()
    bring(core, notes(13, 14))
    core.page(pop(core, Read), page(10, 12), 0.0)
    assert late.go() == "known 3 2 live"
    assert topic.ring is None
    bring(core, notes(15, 15))
    assert late.messages == names(10, 15)
    assert live.messages == names(11, 15)
