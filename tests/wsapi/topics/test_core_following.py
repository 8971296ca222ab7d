"""The core of topics: when it follows a topic of the bus, and when it leaves it."""

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
from wsapi.topics._requests import Follow, Read, Unfollow
from wsapi.topics._subscribers import State
from wsapi.topics.bus import Notice
from wsapi.topics.exceptions import BusUnavailable


def test_one_follow_for_all() -> None:
    core = make()
    clients = [join(core) for _ in range(3)]
    assert [client.go() for client in clients] == ["wait"] * 3
    core.followed(pop(core, Follow), at(4), 0.0)
    told(core, "READY", "READY", "READY")
    assert [client.go() for client in clients] == ["known live"] * 3
    late = join(core)
    assert late.go() == "known live"
    bring(core, notes(5, 6))
    assert all(client.messages == names(5, 6) for client in (*clients, late))
    assert not core.outbox


def test_notices_that_come_before_the_position_is_known() -> None:
    core = make()
    client = join(core)
    client.go()
    bring(core, notes(3, 6))
    core.followed(pop(core, Follow), at(4), 0.0)
    # What came meanwhile, and comes before it is advanced, isn't lost.
    bring(core, notes(7, 7))
    assert client.go() == "known live" or client.messages == names(5, 7)
    bring(core, notes(8, 8))
    assert client.messages[-1] == "m8"
    assert not core.outbox


def test_late_notices_from_before_the_position() -> None:
    core = make()
    client = following(core)
    bring(core, notes(2, 5))
    assert (client.messages, core.counters.duplicates) == (["m5"], 3)
    assert not core.outbox


def test_without_positions() -> None:
    core = make()
    client = following(core, None)
    bring(core, [Notice("t", "a"), Notice("t", "a")])
    assert client.messages == ["a", "a"]
    assert client.position is None
    late = join(core, at(3))
    assert (late.go(), late.recovered) == ("known live", False)
    # Nobody knows what was lost when the bus was.
    core.resumed(0.0)
    told(core, "GAP", "GAP")
    assert [client.go(), late.go()] == ["live", "live"]


def test_a_topic_that_is_not_followed() -> None:
    core = make()
    core.notice(Notice("u", "a"), 0.0)
    core.suspect("u", 0.0)
    core.resumed(0.0)
    assert core.position("u") is None
    assert core.subscribers("u") == 0
    assert not core.outbox
    assert not core.events


def test_notices_without_positions_before_it_is_followed() -> None:
    core = make()
    client = join(core)
    client.go()
    core.notice(Notice("t", "a"), 0.0)
    core.notice(note(5), 0.0)  # from a bus that can't make up its mind
    core.followed(pop(core, Follow), None, 0.0)
    assert (client.go(), client.go(), client.messages) == ("known live", "live", [])
    core.notice(Notice("t", "b"), 0.0)
    assert client.messages == ["b"]


def test_results_that_nobody_waits_for() -> None:
    core = make()
    for request in (Read("u", at(1), 1), Follow("u"), Unfollow("u")):
        core.failed(request, BusUnavailable(""), 0.0)
    core.page(Read("u", at(1), 1), LOST, 0.0)
    client = following(core)
    core.page(Read("t", at(1), 1), LOST, 0.0)
    core.failed(Read("t", at(1), 1), BusUnavailable(""), 0.0)
    assert client.position == at(4)
    told(core)


def test_following_fails() -> None:
    core = make()
    clients = [join(core), join(core, at(3))]
    for client in clients:
        client.go()
    request = pop(core, Follow)
    core.failed(request, BusUnavailable("gone"), 0.0)
    told(core, "READY", "READY")
    for client in clients:
        with pytest.raises(BusUnavailable, match="gone"):
            client.go()
        assert client.state is State.GONE
    assert core.topics == 0
    # Whoever comes next tries again; what comes too late doesn't matter.
    client = join(core)
    client.go()
    core.followed(request, at(99), 0.0)
    core.failed(request, BusUnavailable(""), 0.0)
    core.unfollowed(request, 0.0)  # type: ignore[arg-type] # it names what it isn't
    core.followed(pop(core, Follow), at(4), 0.0)
    assert client.go() == "known live"
    assert client.position == at(4)


def test_unfollowing_is_delayed() -> None:
    core = make(unfollow_delay=10.0)
    client = following(core)
    core.unsubscribe(client, 100.0)
    assert core.next_timeout() == 110.0
    bring(core, notes(5, 6))
    # A client that comes back finds all of it here.
    back = join(core, at(4), now=105.0)
    assert (back.go(), back.messages) == ("known 2 live", names(5, 6))
    assert core.next_timeout() is None
    core.unsubscribe(back, 106.0)
    core.handle_timeout(115.9)
    assert not core.outbox
    core.handle_timeout(116.0)
    request = pop(core, Unfollow)
    bring(core, notes(7, 7))
    core.unfollowed(request, 117.0)
    assert core.topics == 0


def test_interest_that_comes_while_unfollowing() -> None:
    core = make(unfollow_delay=0.0)
    core.unsubscribe(following(core), 0.0)
    core.handle_timeout(0.0)
    request = pop(core, Unfollow)
    client = join(core)
    assert client.go() == "wait"
    core.unfollowed(request, 0.0)
    follow = pop(core, Follow)
    assert client.go() == "wait"
    core.followed(follow, at(9), 0.0)
    assert client.go() == "known live"
    assert client.position == at(9)


def test_unfollowing_fails() -> None:
    core = make(unfollow_delay=1.0)
    core.unsubscribe(following(core), 0.0)
    core.handle_timeout(1.0)
    core.failed(pop(core, Unfollow), BusUnavailable(""), 1.0)
    # It is followed still, but what came meanwhile was ignored.
    core.page(pop(core, Read), page(5, 5), 1.0)
    assert core.position("t") == at(5)
    core.handle_timeout(2.0)
    request = pop(core, Unfollow)
    client = join(core, now=2.0)
    assert client.go(2.0) == "wait"
    core.failed(request, BusUnavailable(""), 2.0)
    told(core, "READY")
    assert client.go(2.0) == "known live"
    core.page(pop(core, Read), page(6, 7), 2.0)
    assert client.messages == names(6, 7)
    assert core.next_timeout() is None


def test_all_leave_while_following() -> None:
    core = make(unfollow_delay=1.0)
    client = join(core)
    client.go()
    core.unsubscribe(client, 0.0)
    assert core.next_timeout() is None
    core.followed(pop(core, Follow), at(4), 5.0)
    assert core.next_timeout() == 6.0
    core.handle_timeout(6.0)
    core.unfollowed(pop(core, Unfollow), 6.0)
    assert core.topics == 0
