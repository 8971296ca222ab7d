"""The core of topics without a bus, with time as an argument: histories, envelopes, limits."""

from __future__ import annotations

import pytest

from tests.wsapi.topics.core_helpers import Client, Sink, at, join, make, names
from wsapi.topics._core import Core
from wsapi.topics._history import History
from wsapi.topics._subscribers import Happening, Step
from wsapi.topics.bus import Message
from wsapi.topics.exceptions import TopicLimitExceeded
from wsapi.topics.positions import Position


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
