"""The core of topics: what is missing between notices is read, or there is a gap."""

from __future__ import annotations

import pytest

from tests.wsapi.topics.core_helpers import (
    LOST,
    Client,
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
from wsapi.topics import _core
from wsapi.topics._requests import Read
from wsapi.topics.bus import Message, Page
from wsapi.topics.exceptions import BusUnavailable
from wsapi.topics.positions import Position


def test_a_missing_notice_is_read() -> None:
    core = make()
    client = following(core)
    bring(core, [note(5), note(7), note(8)])
    request = pop(core, Read)
    assert (request.since, request.limit) == (at(5), _core.PAGE_SIZE)
    assert client.messages == ["m5"]
    bring(core, [note(9)])
    core.page(request, page(6, 7), 0.0)
    assert client.messages == names(5, 9)
    assert (core.counters.filled, core.counters.duplicates) == (2, 1)
    bring(core, [note(10)])
    assert client.messages == names(5, 10)
    assert not core.outbox


def test_offsets_with_steps() -> None:
    core = make()
    client = following(core)
    bring(core, [note(9, 4), note(20, 9)])
    assert (client.messages, client.position) == (["m9", "m20"], at(20))
    bring(core, [note(22, 21)])
    core.page(pop(core, Read), Page([note(21), note(22)], True, at(22)), 0.0)
    assert client.messages == ["m9", "m20", "m21", "m22"]


def test_many_pages() -> None:
    core = make()
    client = following(core)
    core.resumed(0.0)
    core.page(pop(core, Read), page(5, 7, 10), 0.0)
    request = pop(core, Read)
    assert request.since == at(7)
    bring(core, [note(11)])
    core.page(request, page(8, 10), 0.0)
    assert client.messages == names(5, 11)
    assert not core.outbox


def test_duplicates() -> None:
    core = make()
    client = following(core)
    bring(core, [*notes(5, 7), *notes(5, 7), *notes(8, 8), *notes(8, 8)])
    assert client.messages == names(5, 8)
    assert core.counters.duplicates == 4
    assert not core.outbox


def test_a_duplicate_that_the_ring_does_not_know_is_asked_for() -> None:
    core = make(messages=2)
    client = following(core)
    bring(core, [*notes(5, 8), note(5)])
    core.page(pop(core, Read), Page([], True, at(8)), 0.0)
    bring(core, notes(9, 9))
    assert client.messages == names(5, 9)
    assert not core.outbox


def test_trouble_while_it_is_read_is_read_again() -> None:
    core = make()
    client = following(core)
    core.resumed(0.0)
    request = pop(core, Read)
    core.resumed(0.0)
    core.suspect("t", 0.0)
    assert not core.outbox
    core.page(request, page(5, 6), 0.0)
    core.page(pop(core, Read), page(7, 7), 0.0)
    assert client.messages == names(5, 7)
    assert core.counters.resumed == 2
    core.resumed(0.0)
    request = pop(core, Read)
    core.resumed(0.0)
    core.failed(request, BusUnavailable(""), 0.0)
    core.page(pop(core, Read), page(8, 8), 0.0)
    assert client.messages == names(5, 8)


def test_reads_that_fail_are_repeated() -> None:
    core = make()
    client = following(core)
    core.resumed(0.0)
    now, waits = 0.0, []
    for _ in range(10):
        core.failed(pop(core, Read), BusUnavailable(""), now)
        then = core.next_timeout()
        assert then is not None
        core.handle_timeout(then - 0.001)
        assert not core.outbox
        waits.append(round(then - now, 3))
        now = then
        core.handle_timeout(now)
    assert waits == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, *4 * [3.2]]
    core.page(pop(core, Read), page(5, 6), now)
    assert client.messages == names(5, 6)
    assert core.next_timeout() is None
    core.resumed(now)
    core.failed(pop(core, Read), BusUnavailable(""), now)
    # The bus is back: at once.
    core.resumed(now)
    core.page(pop(core, Read), page(7, 7), now)
    assert client.messages == names(5, 7)
    assert core.next_timeout() is None


def test_a_gap() -> None:
    core = make()
    client, other = following(core), join(core)
    other.go()
    bring(core, [note(7)])
    core.page(pop(core, Read), LOST, 0.0)
    told(core, "GAP", "GAP")
    assert client.messages == []
    bring(core, [note(51)])
    # Whoever is told goes on where the topic was, and misses nothing meanwhile.
    assert client.go() == "1 live"
    bring(core, [note(52)])
    assert client.messages == names(51, 52)
    core.unsubscribe(other, 0.0)
    assert (other.position, other.messages) == (at(50), [])
    assert core.counters.gaps == 1
    late = join(core, at(5))
    assert late.go() == "wait"


def test_a_new_epoch() -> None:
    core = make()
    client = following(core)
    bring(core, [note(1, 0, "y")])
    request = pop(core, Read)
    bring(core, [note(2, 1, "y"), note(3, 2, "y")])
    core.page(request, Page([], False, at(2, "y")), 0.0)
    told(core, "GAP")
    assert client.go() == "1 live"
    assert (client.messages, client.position) == (["m3"], at(3, "y"))
    # A late notice from before: the bus is asked once.
    bring(core, [note(5)])
    core.page(pop(core, Read), Page([], True, at(3, "y")), 0.0)
    assert not core.outbox
    assert client.messages == ["m3"]


def test_a_new_epoch_that_comes_after_the_read_began() -> None:
    core = make()
    following(core)
    bring(core, [note(6)])
    request = pop(core, Read)
    bring(core, [note(1, 0, "y")])
    core.page(request, page(5, 6), 0.0)
    core.page(pop(core, Read), Page([], False, at(1, "y")), 0.0)
    told(core, "GAP")
    assert core.position("t") == at(1, "y")
    assert not core.outbox


def test_positions_that_were_given_twice() -> None:
    core = make()
    client = following(core)
    bring(core, notes(5, 8))
    # The broker came back with an older state, and gives 7 to another message.
    bring(core, [note(7, 6, mark="other")])
    core.page(pop(core, Read), Page([], True, at(7)), 0.0)
    told(core, "GAP")
    assert client.go() == "live"
    bring(core, [note(8, 7, mark="other")])
    assert client.messages == [*names(5, 8), "m8"]
    # Nobody can tell which 6 somebody has.
    late = join(core, at(6))
    assert (late.go(), late.recovered) == ("known live", False)
    late = join(core, at(7))
    assert (late.go(), late.recovered) == ("known 1 live", True)


def test_the_last_position_was_given_twice() -> None:
    core = make(messages=0)
    client = following(core)
    bring(core, notes(5, 6))
    bring(core, [note(6, 5, mark="other")])
    core.page(pop(core, Read), Page([], True, at(6)), 0.0)
    told(core, "GAP")
    assert client.go() == "live"


def test_positions_given_twice_among_what_is_held() -> None:
    core = make()
    following(core)
    bring(core, [*notes(5, 6), note(8)])
    request = pop(core, Read)
    bring(core, [note(6, 5, mark="other"), note(7, 6, mark="other")])
    core.page(request, page(7, 8), 0.0)
    core.page(pop(core, Read), Page([], True, at(9)), 0.0)
    told(core, "GAP")
    assert core.position("t") == at(9)
    assert not core.outbox


def test_what_was_noticed_is_not_found() -> None:
    core = make()
    client = following(core)
    bring(core, [note(7)])
    now = 0.0
    for _ in range(_core.MAX_ATTEMPTS):
        core.page(pop(core, Read), Page([], True, at(4)), now)
        then = core.next_timeout()
        assert then is not None
        now = then
        core.handle_timeout(now)
    core.page(pop(core, Read), Page([], True, at(4)), now)
    told(core, "GAP")
    assert client.go() == "1 live"
    assert client.messages == ["m7"]
    assert core.next_timeout() is None


def test_reads_that_failed_before_do_not_count_as_attempts() -> None:
    core = make()
    client = following(core)
    bring(core, [note(7)])
    now = 0.0
    for _ in range(2 * _core.MAX_ATTEMPTS):
        core.failed(pop(core, Read), BusUnavailable(""), now)
        now = core.next_timeout() or 0.0
        core.handle_timeout(now)
    core.page(pop(core, Read), Page([], True, at(4)), now)
    told(core)
    core.handle_timeout(core.next_timeout() or 0.0)
    core.page(pop(core, Read), page(5, 7), now)
    assert client.messages == names(5, 7)


def test_a_bus_that_returns_what_is_known() -> None:
    core = make()
    following(core)
    core.suspect("t", 0.0)
    core.page(pop(core, Read), page(3, 4, 9), 0.0)
    assert not core.outbox
    assert core.next_timeout() is not None


def test_a_bus_that_contradicts_itself() -> None:
    core = make()
    client = following(core)
    core.suspect("t", 0.0)
    now = 0.0
    for _ in range(_core.MAX_ATTEMPTS):
        core.page(pop(core, Read), Page([], True, at(9)), now)
        then = core.next_timeout()
        assert then is not None
        now = then
        core.handle_timeout(now)
    core.page(pop(core, Read), Page([], True, at(9)), now)
    told(core, "GAP")
    assert client.go() == "live"
    assert client.position == at(9)


def test_what_is_held_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "MAX_HELD", 10)
    core = make()
    client = following(core)
    bring(core, notes(6, 30))
    core.page(pop(core, Read), page(5, 20), 0.0)
    core.page(pop(core, Read), page(21, 30), 0.0)
    assert client.messages == names(5, 30)
    assert not core.outbox
    monkeypatch.setattr(_core, "MAX_HELD_SIZE", 1000)
    core.suspect("t", 0.0)
    request = pop(core, Read)
    bring(core, [note(31)._replace(message="x" * 2000)])
    core.page(request, Page([], True, at(30)), 0.0)
    core.page(pop(core, Read), page(31, 31), 0.0)
    assert client.messages == names(5, 31)


def test_an_envelope_that_fails_is_a_gap() -> None:
    def wrap(topic: str, position: Position | None, message: Message) -> Message:
        if message == "m5":
            raise ZeroDivisionError
        return message

    core = make(wrap=wrap)
    client = following(core)
    bring(core, notes(5, 6))
    told(core, "ENVELOPE", "GAP")
    assert client.go() == "1 live"
    assert client.messages == ["m6"]
    # Whoever would need it can't have it.
    late = join(core, at(4))
    late.go()
    core.page(pop(core, Read), page(5, 6), 0.0)
    told(core, "ENVELOPE", "READY")
    with pytest.raises(BusUnavailable):
        late.go()


def test_closing_all_after_trouble() -> None:
    core = make(close_on_trouble=True)
    client, late = following(core), join(core)
    core.resumed(0.0)
    # Whoever hasn't begun, begins after that.
    told(core, "CLOSE")
    assert late.go() == "known live"
    core.page(pop(core, Read), page(5, 6), 0.0)
    assert (client.messages, late.messages) == ([], names(5, 6))
    for subscriber in (client, late):
        core.unsubscribe(subscriber, 0.0)
    # They come back, and find what they missed.
    back = join(core, client.position)
    assert (back.go(), back.messages) == ("known 2 live", names(5, 6))


def test_whoever_is_closed_after_trouble_may_go_on_meanwhile() -> None:
    core = make(messages=0, close_on_trouble=True)
    client = following(core)
    core.resumed(0.0)
    told(core, "CLOSE")
    core.page(pop(core, Read), page(5, 6), 0.0)
    # Nothing was kept for it.
    assert client.go() == "wait"
    core.page(pop(core, Read), page(5, 6), 0.0)
    told(core, "READY")
    assert (client.go(), client.messages) == ("2 live", names(5, 6))


def test_audit() -> None:
    core = make()
    client = following(core)
    core.subscribe("u", Client(core), None, 0.0)
    core.outbox.clear()
    assert core.audit(10) == [("t", at(4))]
    assert core.audited("t", at(4), at(4), 0.0)
    assert core.audit(1) == [("t", at(4))]
    bring(core, notes(5, 5))
    assert core.audited("t", at(4), at(4), 0.0)  # it was asked before
    assert core.audited("t", at(4), at(5), 0.0)
    assert core.audited("u", at(4), at(5), 0.0)
    assert core.audited("v", at(4), at(5), 0.0)
    assert not core.audited("t", at(5), at(6), 0.0)
    core.page(pop(core, Read), page(6, 6), 0.0)
    assert client.messages == names(5, 6)
    assert not core.audited("t", at(6), at(5), 0.0)  # it has lost one
    core.page(pop(core, Read), Page([], False, at(5)), 0.0)
    told(core, "GAP")
    assert core.audited("t", at(6), at(5), 0.0)
    assert not core.audited("t", at(5), at(5, "y"), 0.0)
    core.page(pop(core, Read), Page([], False, at(5, "y")), 0.0)
    assert core.audited("t", at(5), at(6), 0.0)  # that was before
    assert not core.audited("t", at(5, "y"), None, 0.0)


def test_audits_take_turns() -> None:
    core = make()
    names = ["a", "b", "c"]
    for name in names:
        join(core, name=name)
        core.followed(core.outbox.popleft(), at(4), 0.0)
    for _ in range(2):
        found = core.audit(2) + core.audit(2)
        assert sorted(name for name, _ in found) == names
    assert len(core.audit(10)) == 3
