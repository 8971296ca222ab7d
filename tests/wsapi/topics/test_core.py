"""The core of topics: what is delivered, held, read, and told, with time as an argument."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsapi.topics import _core
from wsapi.topics._core import Core
from wsapi.topics._history import History
from wsapi.topics._requests import Follow, Read, Request, Unfollow
from wsapi.topics._subscribers import Happening, State, Step, Subscriber
from wsapi.topics.bus import Message, Notice, Page
from wsapi.topics.exceptions import BusUnavailable, TopicLimitExceeded
from wsapi.topics.positions import Position
from wsproto_fast import Backpressure, PreparedMessage

TERMS = Backpressure()
EPOCH = "x"


class Sink:
    """Keeps what it is given."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.messages: list[Message] = []
        self.result: bool | Exception = True

    def broadcast(
        self, message: PreparedMessage, compress: bool | None, terms: Backpressure
    ) -> bool:
        assert isinstance(message, PreparedMessage)
        assert terms is TERMS
        if isinstance(self.result, Exception):
            raise self.result
        if self.result:
            assert self.core.payload is not None
            self.messages.append(self.core.payload)
        return self.result


class Client(Subscriber):
    """A subscriber that is advanced as far as possible, and tells what came of it."""

    __slots__ = ("core", "steps")

    def __init__(self, core: Core) -> None:
        super().__init__(Sink(core), None, TERMS)
        self.core = core
        self.steps: list[str] = []

    @property
    def messages(self) -> list[Message]:
        assert isinstance(self.sink, Sink)
        return self.sink.messages

    def go(self, now: float = 0.0) -> str:
        """Advance it until it waits or is live; return its steps, shortly."""
        steps = []
        while not steps or steps[-1] not in ("wait", "live"):
            step = self.core.advance(self, now)
            if isinstance(step, list):
                self.messages.extend(entry.message for entry in step)
                steps.append(str(len(step)))
            else:
                steps.append(step.name.lower())
        return " ".join(steps)


def at(offset: int, epoch: str = EPOCH) -> Position:
    return Position(epoch, offset)


def note(offset: int, previous: int | None = None, epoch: str = EPOCH, mark: str = "") -> Notice:
    before = offset - 1 if previous is None else previous
    return Notice("t", f"m{offset}", at(offset, epoch), before, (mark or f"{offset}").encode())


def notes(first: int, last: int) -> list[Notice]:
    return [note(offset) for offset in range(first, last + 1)]


def names(first: int, last: int) -> list[Message]:
    return [f"m{offset}" for offset in range(first, last + 1)]


def page(first: int, last: int, latest: int | None = None) -> Page:
    """Return a page with these messages, which are all if ``latest`` isn't said."""
    return Page(notes(first, last), True, at(last if latest is None else latest))


LOST = Page([], False, at(50))


def make(bus: bool = True, messages: int = 100, **options: Any) -> Core:
    return Core(bus=bus, history=History(messages), epoch="e", **options)


def join(core: Core, since: Position | None = None, now: float = 0.0, name: str = "t") -> Client:
    client = Client(core)
    core.subscribe(name, client, since, now)
    return client


def following(core: Core, offset: int | None = 4) -> Client:
    """Return a client that is live on a topic that is followed."""
    client = join(core)
    assert client.go() == "wait"
    core.followed(pop(core, Follow), None if offset is None else at(offset), 0.0)
    told(core, "READY")
    assert client.go() == "known live"
    return client


def pop(core: Core, kind: type[Any]) -> Any:
    """Take the only request to the bus, of this kind."""
    (request,) = core.outbox
    core.outbox.clear()
    assert type(request) is kind
    assert repr(request) == f"<{kind.__name__} 't'>"
    return request


def told(core: Core, *happenings: str) -> None:
    """Check what the front-end is told, and forget it."""
    assert [event.happening.name for event in core.events] == list(happenings)
    core.events.clear()


def bring(core: Core, notices: Iterable[Notice], now: float = 0.0) -> None:
    for notice in notices:
        core.notice(notice, now)


# ---------------------------------------------------------------------- without a bus


def test_publishing_without_history() -> None:
    core = make(bus=False, messages=0)
    assert core.publish("t", "nobody", 0.0) is None
    clients = [join(core) for _ in range(3)]
    assert [client.go() for client in clients] == ["known live"] * 3
    assert [client.recovered for client in clients] == [None] * 3
    assert core.publish("t", "a", 0.0) is None
    core.unsubscribe(clients[1], 0.0)
    core.unsubscribe(clients[1], 0.0)
    assert core.publish("t", b"b", 0.0) is None
    assert [client.messages for client in clients] == [["a", b"b"], ["a"], ["a", b"b"]]
    assert clients[0].position is None
    for client in clients:
        core.unsubscribe(client, 0.0)
    assert core.topics == 0
    assert (core.counters.published, core.counters.delivered) == (3, 5)


def test_a_position_without_history_is_not_recovered() -> None:
    core = make(bus=False, messages=0)
    client = join(core, at(1))
    assert client.go() == "known live"
    assert client.recovered is False


def test_history() -> None:
    core = make(bus=False, messages=3)
    positions = [core.publish("t", f"m{number}", 0.0) for number in range(1, 6)]
    assert [position and position.offset for position in positions] == [1, 2, 3, 4, 5]
    assert len({position and position.epoch for position in positions}) == 1
    epoch = positions[0].epoch if positions[0] else ""
    for offset, steps, recovered in [
        (5, "known live", True),
        (3, "known 2 live", True),
        (2, "known 3 live", True),
        (1, "known live", False),
        (6, "known live", False),
        (2**53 - 1, "known live", False),
    ]:
        client = join(core, at(offset, epoch))
        assert (client.go(), client.recovered) == (steps, recovered)
        assert client.messages == (names(offset + 1, 5) if recovered else [])
        assert client.position == at(5, epoch)
    client = join(core, at(3, "foreign"))
    assert (client.go(), client.recovered) == ("known live", False)


def test_catching_up_while_publishing_goes_on() -> None:
    core = make(bus=False, messages=500)
    first = core.publish("t", "m1", 0.0)
    for number in range(2, 101):
        core.publish("t", f"m{number}", 0.0)
    client = join(core, first)
    assert core.advance(client, 0.0) is Step.KNOWN
    for number in range(101, 105):
        step = core.advance(client, 0.0)
        if isinstance(step, list):
            client.messages.extend(entry.message for entry in step)
        core.publish("t", f"m{number}", 0.0)
    client.go()
    core.publish("t", "m105", 0.0)
    assert client.messages == names(2, 105)
    assert core.counters.caught_up + core.counters.delivered == 104


def test_whoever_falls_out_of_the_ring_while_catching_up() -> None:
    core = make(bus=False, messages=2)
    first = core.publish("t", "m1", 0.0)
    core.publish("t", "m2", 0.0)
    client = join(core, first)
    assert core.advance(client, 0.0) is Step.KNOWN
    for number in range(3, 6):
        core.publish("t", f"m{number}", 0.0)
    assert client.go() == "gap live"
    assert client.recovered is True
    assert first is not None
    assert client.position == at(5, first.epoch)


def test_a_history_ends_with_its_last_message() -> None:
    core = Core(bus=False, history=History(10, seconds=10.0), epoch="e")
    first = core.publish("t", "m1", 0.0)
    core.publish("t", "m2", 5.0)
    assert core.next_timeout() == 15.0
    client = join(core, first, now=14.0)
    assert (client.go(14.0), client.messages) == ("known 1 live", ["m2"])
    core.unsubscribe(client, 14.0)
    core.handle_timeout(24.0)
    core.handle_timeout(24.0)
    assert core.topics == 0
    client = join(core, first, now=25.0)
    assert (client.go(25.0), client.recovered) == ("known live", False)
    assert core.publish("t", "m3", 25.0) != first


def test_topics_are_forgotten_without_being_asked_for() -> None:
    core = Core(bus=False, history=History(10, seconds=10.0), epoch="e")
    for number in range(1000):
        core.publish(f"t{number}", "m", float(number))
    assert core.topics <= 11
    core.subscribe("x", Client(core), None, 2000.0)
    assert core.topics == 1


def test_a_topic_whose_history_never_ends_stays() -> None:
    core = Core(bus=False, history=History(10, seconds=None), epoch="e")
    first = core.publish("t", "m1", 0.0)
    assert core.next_timeout() is None
    core.handle_timeout(1e9)
    assert core.position("t") == first


def test_an_envelope() -> None:
    def wrap(topic: str, position: Position | None, message: Message) -> Message:
        return f"{topic} {position} {message!r}"

    core = make(bus=False, messages=3, wrap=wrap)
    clients = [join(core), join(core)]
    for client in clients:
        client.go()
    first = core.publish("t", "a", 0.0)
    core.publish("t", b"b", 0.0)
    late = join(core, first)
    late.go()
    assert clients[0].messages == clients[1].messages == [f"t {first} 'a'", "t e1:2 b'b'"]
    assert late.messages == ["t e1:2 b'b'"]


def test_an_envelope_that_fails_changes_nothing() -> None:
    def wrap(topic: str, position: Position | None, message: Message) -> Message:
        if message == "bad":
            raise ZeroDivisionError
        return message

    core = make(bus=False, messages=3, wrap=wrap)
    with pytest.raises(ZeroDivisionError):
        core.publish("t", "bad", 0.0)
    assert core.topics == 0
    client = join(core)
    client.go()
    with pytest.raises(ZeroDivisionError):
        core.publish("t", "bad", 0.0)
    assert core.publish("t", "good", 0.0) == client.position
    assert client.position is not None
    assert (client.position.offset, client.messages) == (1, ["good"])
    core.unsubscribe(client, 0.0)
    with pytest.raises(ZeroDivisionError):
        core.publish("t", "bad", 0.0)
    assert core.position("t") == client.position
    assert core.counters.published == 1


def test_limits() -> None:
    core = make(bus=False, messages=0, max_topics=2, max_subscribers=2)
    one, two = join(core), join(core)
    with pytest.raises(TopicLimitExceeded, match="topic 't' has 2 subscribers already"):
        join(core)
    other = join(core, name="u")
    with pytest.raises(TopicLimitExceeded, match="there are 2 topics already"):
        join(core, name="v")
    for client in (one, two, other):
        assert client.go() == "known live"
    core.unsubscribe(two, 0.0)
    core.unsubscribe(other, 0.0)
    assert join(core, name="v").go() == "known live"
    assert join(core).go() == "known live"


def test_a_history_without_subscribers_makes_room() -> None:
    core = make(bus=False, messages=3, max_topics=2)
    core.publish("t", "m", 0.0)
    core.publish("u", "m", 0.0)
    core.publish("t", "m", 0.0)
    core.publish("v", "m", 0.0)
    assert (core.position("u"), core.topics) == (None, 2)
    join(core)
    join(core, name="v")
    with pytest.raises(TopicLimitExceeded):
        core.publish("w", "m", 0.0)


def test_what_is_kept_counts_as_it_is_sent() -> None:
    """Of text, bytes of UTF-8 count."""
    for text, kept in (("x" * 1000, 2), ("é" * 1000, 1)):
        core = Core(bus=False, history=History(10, bytes=2500), epoch="e")
        for _ in range(3):
            position = core.publish("t", text, 0.0)
        assert position is not None
        for count, found in ((kept, True), (kept + 1, False)):
            late = join(core, at(position.offset - count, position.epoch))
            late.go()
            assert (late.recovered, len(late.messages)) == (found, count * found)


def test_sinks_that_refuse() -> None:
    core = make(bus=False, messages=0)
    clients = [join(core) for _ in range(4)]
    for client, result in zip(clients, (True, False, OSError("x"), True), strict=True):
        assert isinstance(client.sink, Sink)
        client.sink.result = result
        client.go()
    core.publish("t", "a", 0.0)
    events = list(core.events)
    assert [(e.happening, e.subscriber) for e in events] == [
        (Happening.REFUSED, clients[1]),
        (Happening.REFUSED, clients[2]),
    ]
    assert events[0].reason is None
    assert isinstance(events[1].reason, OSError)
    assert [client.messages for client in clients] == [["a"], [], [], ["a"]]


# ---------------------------------------------------------------------- following


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


# ---------------------------------------------------------------------- filling


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


# ---------------------------------------------------------------------- coming back


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


# ---------------------------------------------------------------------- against a model


class Broker:
    """A bus's broker: one topic, a history, and what is on its way to the process."""

    def __init__(self) -> None:
        self.epochs = 0
        self.published = 0  # in all
        self.numbers: dict[Position, int] = {}  # of the last message at a position
        self.begin()

    def begin(self) -> None:
        """Lose all."""
        self.epochs += 1
        self.offset = 0
        self.history: list[Notice] = []
        self.numbers[self.position] = self.published

    @property
    def position(self) -> Position:
        return Position(f"e{self.epochs}", self.offset)

    def publish(self) -> Notice:
        self.published += 1
        previous = self.offset
        # Offsets have steps, as those of NATS.
        self.offset += 1 + self.published % 3 // 2
        self.numbers[self.position] = self.published
        mark = self.published.to_bytes(4, "big")
        notice = Notice("t", str(self.published), self.position, previous, mark)
        self.history.append(notice)
        return notice

    def read(self, since: Position, limit: int) -> Page:
        after = [n for n in self.history if n.position and n.position.offset > since.offset]
        known = since.epoch == self.position.epoch and since.offset <= self.offset
        reaches = known and (
            since.offset == self.offset or bool(after and after[0].previous <= since.offset)
        )
        return Page(after[:limit] if reaches else [], reaches, self.position)


class Follower:
    """A client, its account of what it got, and the rules for that."""

    def __init__(self, core: Core, since: Position | None, last: int | None) -> None:
        self.sink = ModelSink(self)
        self.subscriber = Subscriber(self.sink, None, TERMS)
        self.core = core
        self.since = since
        self.last = last  # number of the last message that it has, or needs not have
        self.seen: set[int] = set()
        self.position = since

    def take(self, payload: Message) -> None:
        assert isinstance(payload, str)
        number, position = payload.split("|")
        found = int(number)
        assert found not in self.seen, "twice"
        assert not self.seen or found > max(self.seen), "out of order"
        assert self.last is not None
        assert found == self.last + 1, "lost, or too early"
        self.seen.add(found)
        self.last = found
        self.position = Position.parse(position)

    def begin(self, broker: Broker) -> None:
        """Begin where the topic is, since what is before that isn't wanted, or is lost."""
        assert self.subscriber.position is not None
        self.last = broker.numbers[self.subscriber.position]


class ModelSink:
    def __init__(self, follower: Follower) -> None:
        self.follower = follower

    def broadcast(
        self, message: PreparedMessage, compress: bool | None, terms: Backpressure
    ) -> bool:
        payload = self.follower.core.payload
        assert payload is not None
        self.follower.take(payload)
        return True


class Process:
    """A process, what is on its way to it, and what it has asked for."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.followed = False  # the broker sends notices
        self.wire: deque[Notice] = deque()
        self.old: list[Notice] = []
        self.answers: deque[tuple[Request, Any]] = deque()


class World:
    """Two processes, a broker that fails in all ways, and clients that come and go, by chance.

    Args:
        seed: What chance begins with.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        choose = self.random.choice
        self.now = 0.0
        self.page_size = choose([2, 5, 256])
        self.broker = Broker()
        self.processes = [
            Process(
                Core(
                    bus=True,
                    history=History(choose([0, 3, 50]), seconds=None),
                    epoch="",
                    wrap=lambda topic, position, message: f"{message!s}|{position}",
                    unfollow_delay=choose([0.1, 1.0]),
                )
            )
            for _ in range(2)
        ]
        self.clients: list[Follower] = []
        self.gone: list[Follower] = []
        self.catching_up: list[Follower] = []
        self.caught_up = 0
        # What happens often, and what doesn't, differs from one world to another.
        rare = choose([0.0, 0.05, 0.3])
        self.acts: dict[Callable[[Process], None], float] = {
            self.publish: choose([1, 4]),
            self.arrive: choose([1, 4]),
            self.carry_out: choose([1, 4]),
            self.answer: choose([1, 4]),
            self.advance: choose([1, 4]),
            self.come: 0.3,
            self.come_back: choose([0.3, 1]),
            self.leave: choose([0.3, 1]),
            self.wait: choose([0.1, 1]),
            self.drop: rare,
            self.repeat: rare,
            self.reconnect: rare,
            self.suspect: rare,
            self.audit: rare,
            self.fail: rare,
            self.trim: choose([0.0, 0.05, 0.5]),
            self.restart: rare / 3,
        }

    def run(self, steps: int) -> None:
        """Have things happen, then come to rest."""
        for act in self.random.choices(list(self.acts), list(self.acts.values()), k=steps):
            act(self.random.choice(self.processes))
            self.look()
        self.settle()

    # -------------------------------------------------- the broker

    def publish(self, _: Process) -> None:
        for _ in range(self.random.randint(1, 3)):
            notice = self.broker.publish()
            for process in self.processes:
                if process.followed:
                    process.wire.append(notice)

    def arrive(self, process: Process) -> None:
        for _ in range(min(self.random.randint(1, 4), len(process.wire))):
            notice = process.wire.popleft()
            process.old.append(notice)
            process.core.notice(notice, self.now)

    def drop(self, process: Process) -> None:
        """Lose a notice in silence; what follows it shows that, or an audit."""
        if process.wire:
            process.old.append(process.wire.popleft())

    def repeat(self, process: Process) -> None:
        if process.old:
            back = self.random.randint(1, min(6, len(process.old)))
            process.core.notice(process.old[-back], self.now)

    def reconnect(self, process: Process) -> None:
        process.old.extend(process.wire)
        process.wire.clear()
        process.core.interrupted(self.now)
        process.core.resumed(self.now)

    def suspect(self, process: Process) -> None:
        process.core.suspect("t", self.now)

    def audit(self, process: Process) -> None:
        for name, cursor in process.core.audit(10):
            process.core.audited(name, cursor, self.broker.position, self.now)

    def trim(self, _: Process) -> None:
        del self.broker.history[: max(len(self.broker.history) - self.random.randint(0, 5), 0)]

    def restart(self, _: Process) -> None:
        """Lose all data; the connections are lost, too."""
        self.broker.begin()
        for process in self.processes:
            process.wire.clear()
            process.core.interrupted(self.now)
            process.core.resumed(self.now)

    # -------------------------------------------------- requests

    def carry_out(self, process: Process) -> None:
        """Have the broker do what was asked for; the answer takes its time."""
        if not process.core.outbox:
            return
        request = process.core.outbox.popleft()
        if isinstance(request, Read):
            limit = min(request.limit, self.page_size)
            process.answers.append((request, self.broker.read(request.since, limit)))
        elif isinstance(request, Follow):
            process.followed = True
            process.answers.append((request, self.broker.position))
        else:
            process.followed = False
            process.answers.append((request, None))

    def answer(self, process: Process) -> None:
        if not process.answers:
            return
        request, result = process.answers.popleft()
        if isinstance(request, Read):
            process.core.page(request, result, self.now)
        elif isinstance(request, Follow):
            process.core.followed(request, result, self.now)
        else:
            assert isinstance(request, Unfollow)
            process.core.unfollowed(request, self.now)

    def fail(self, process: Process) -> None:
        if process.core.outbox:
            process.core.failed(process.core.outbox.popleft(), BusUnavailable("no"), self.now)

    def wait(self, _: Process) -> None:
        self.now += self.random.choice([0.01, 0.1, 2.0])
        for process in self.processes:
            process.core.handle_timeout(self.now)

    # -------------------------------------------------- clients

    def _subscribe(self, follower: Follower, since: Position | None) -> None:
        follower.core.subscribe("t", follower.subscriber, since, self.now)
        self.catching_up.append(follower)

    def come(self, process: Process) -> None:
        if len(self.clients) + len(self.catching_up) < 5:
            self._subscribe(Follower(process.core, None, None), None)

    def come_back(self, process: Process) -> None:
        if not self.gone:
            return
        before = self.gone.pop(self.random.randrange(len(self.gone)))
        if before.position is None:
            return
        follower = Follower(process.core, before.position, before.last)
        follower.seen = before.seen
        self._subscribe(follower, before.position)

    def leave(self, _: Process) -> None:
        both = [*self.clients, *self.catching_up]
        if not both:
            return
        follower = self.random.choice(both)
        self._remove(follower)
        follower.core.unsubscribe(follower.subscriber, self.now)
        # After a gap, or without messages, it knows its place by the subscription.
        follower.position = follower.subscriber.position
        self.gone.append(follower)

    def _remove(self, follower: Follower) -> None:
        for others in (self.clients, self.catching_up):
            if follower in others:
                others.remove(follower)

    def advance(self, _: Process) -> None:
        """Take a step, though nothing may say that it is time for it."""
        if self.catching_up:
            self._advance(self.random.choice(self.catching_up))

    def _advance(self, follower: Follower) -> Step | None:
        try:
            step = follower.core.advance(follower.subscriber, self.now)
        except BusUnavailable:
            self._remove(follower)
            self.gone.append(follower)
            return Step.WAIT
        if isinstance(step, list):
            for entry in step:
                follower.take(entry.message)
                self.caught_up += 1
            return None
        if step is Step.KNOWN:
            assert follower.subscriber.recovered is not None or follower.since is None
            if not follower.subscriber.recovered:
                follower.begin(self.broker)
        elif step is Step.GAP:
            follower.begin(self.broker)
        elif step is Step.LIVE:
            self.catching_up.remove(follower)
            self.clients.append(follower)
        return step

    def look(self) -> None:
        """Do what the core says, at once, as a front-end does."""
        events = [event for process in self.processes for event in process.core.events]
        for process in self.processes:
            process.core.events.clear()
        for event in events:
            assert event.happening in (Happening.READY, Happening.GAP)
            if event.happening is Happening.GAP:
                for follower in list(self.clients):
                    if follower.subscriber is event.subscriber:
                        follower.begin(self.broker)
                        self.clients.remove(follower)
                        self.catching_up.append(follower)

    def settle(self) -> None:
        """Let all come to rest, by one means or the other: then everybody has everything."""
        self.publish(self.processes[0])
        audited = []
        for process in self.processes:
            if self.random.random() < 0.5:
                self.reconnect(process)
                continue
            audited.append(process)
            if process.wire:
                process.wire.pop()  # what nothing shows but an audit
        for _ in range(1000):
            for process in self.processes:
                self._finish(process)
            for follower in list(self.catching_up):
                while follower in self.catching_up:
                    if self._advance(follower) is Step.WAIT:
                        break
            self.look()
            self.now += 0.01
            cores = [process.core for process in self.processes]
            for process in self.processes:
                process.core.handle_timeout(self.now)
            for process in audited:
                self.audit(process)
            # While anybody subscribes, nothing has a time but what couldn't be read.
            if not (
                self.catching_up
                or any(core.outbox for core in cores)
                or any(core.subscribers("t") and core.next_timeout() for core in cores)
            ):
                break
        assert not self.catching_up
        for follower in self.clients:
            assert follower.subscriber.position == self.broker.position
            assert follower.last == self.broker.published

    def _finish(self, process: Process) -> None:
        while process.core.outbox or process.answers or process.wire:
            self.carry_out(process)
            self.answer(process)
            self.arrive(process)
            self.look()


@given(seed=st.integers(0, 2**64))
@settings(max_examples=1000, deadline=None)
def test_everybody_has_every_message_once_or_is_told(seed: int) -> None:
    World(seed).run(300)


def test_what_the_model_reaches() -> None:
    """Chance has to bring about all that the test above is for."""
    worlds = [World(seed) for seed in range(60)]
    for world in worlds:
        world.run(300)
    counters = [process.core.counters for world in worlds for process in world.processes]
    for name in ("delivered", "filled", "caught_up", "gaps", "duplicates", "resumed"):
        assert sum(getattr(c, name) for c in counters) > 20, name
    assert sum(c.caught_up for c in counters) == sum(world.caught_up for world in worlds)
