"""Messages that wait for the network, by policy: which leave, in which order, what is counted."""

from __future__ import annotations

import random
from collections.abc import Container
from typing import Any

import pytest

from wsproto_fast import Backpressure, PreparedMessage, Protocol, Side, Slow, State
from wsproto_fast.activity import ATTENTION

from .helpers import output, parse

OVERHEAD = 160


def payloads(protocol: Protocol) -> list[str]:
    """Take what is to be sent, one message per frame."""
    return [wire.payload.decode() for wire in parse(output(protocol))]


def room(messages: int, size: int = 1) -> int:
    """Return a limit that leaves room for messages of a size."""
    return messages * (OVERHEAD + size)


def offer(
    protocol: Protocol, message: str, slow: Slow | None, limit: int | None, key: Any = None
) -> int:
    return protocol.offer(PreparedMessage(message), Backpressure(slow, limit, key=key))


# Policy, room for so many messages, messages with keys that come while writing is paused, what
# leaves, and how many were dropped.
CASES: list[tuple[Slow, int, str, str, int]] = [
    (Slow.DROP_NEWEST, 3, "a b c d e", "a b c", 2),
    (Slow.DROP_NEWEST, 9, "a b c", "a b c", 0),
    (Slow.DROP_NEWEST, 0, "a b c", "", 3),
    (Slow.DROP_OLDEST, 3, "a b c d e", "c d e", 2),
    (Slow.DROP_OLDEST, 1, "a b c", "c", 2),
    (Slow.DROP_OLDEST, 0, "a b c", "", 3),
    (Slow.LATEST, 9, "a=1 b=2 a=3 b=4 c=5 a=6", "6 4 5", 3),
    (Slow.LATEST, 2, "a=1 b=2 c=3 b=4 d=5", "3 5", 3),
    (Slow.LATEST, 2, "1 2 3", "3", 2),
    (Slow.LATEST, 0, "a=1 a=2", "", 2),
    (Slow.CLOSE, 3, "a b c", "a b c", 0),
    (Slow.WAIT, 9, "a b c", "a b c", 0),
]


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize(("slow", "messages", "sent", "left", "dropped"), CASES)
def test_policies(
    side: Side, slow: Slow, messages: int, sent: str, left: str, dropped: int
) -> None:
    protocol = Protocol(side)
    protocol.pause_writing()
    told = 0
    for word in sent.split():
        key, _, message = word.rpartition("=")
        bits = offer(protocol, message, slow, room(messages), key)
        now_dropped = sum(protocol.dropped_messages().values())
        assert bool(bits & ATTENTION) == (now_dropped > 0)
        told += now_dropped
    protocol.resume_writing()
    assert payloads(protocol) == left.split()
    assert protocol.dropped == ({slow: dropped} if dropped else {})
    assert told == dropped
    assert protocol.backlog_size == protocol.backlog_messages == 0


@pytest.mark.parametrize("slow", [slow for slow in Slow if slow is not Slow.WAIT])
def test_the_policy_of_the_connection(slow: Slow) -> None:
    """It is that of what is sent to it alone, and of broadcasts that have none of their own."""
    protocol = Protocol(Side.SERVER)
    protocol.set_backpressure(Backpressure(slow, room(2)))
    assert not protocol.waits_to_send
    protocol.send("first")
    assert payloads(protocol) == ["first"]
    protocol.pause_writing()
    protocol.send("a")
    protocol.send_prepared(PreparedMessage("b"))
    offer(protocol, "c", None, None)
    left = {
        Slow.DROP_NEWEST: ["a", "b"],
        Slow.DROP_OLDEST: ["b", "c"],
        Slow.LATEST: ["c"],
        Slow.CLOSE: [],
    }[slow]
    if slow is Slow.CLOSE:
        assert protocol.state is State.CLOSING
        return
    assert payloads(protocol) == []
    protocol.resume_writing()
    assert payloads(protocol) == left


def test_who_waits_comes_behind_what_waits() -> None:
    protocol = Protocol(Side.SERVER)
    protocol.pause_writing()
    protocol.send("a")
    assert payloads(protocol) == ["a"]  # nothing waits before it
    offer(protocol, "b", Slow.DROP_OLDEST, room(1))
    protocol.send("c")
    protocol.send_prepared(PreparedMessage("d"))
    offer(protocol, "e", Slow.WAIT, None)
    mark = protocol.backlog_mark
    offer(protocol, "f", Slow.DROP_OLDEST, room(4))
    assert payloads(protocol) == []
    assert protocol.is_waiting(mark)
    protocol.resume_writing()
    assert not protocol.is_waiting(mark)
    assert payloads(protocol) == ["c", "d", "e", "f"]
    assert protocol.dropped == {Slow.DROP_OLDEST: 1}


def test_what_must_not_be_dropped_stays() -> None:
    """Nor is anything dropped for what finds no room nevertheless."""
    protocol = Protocol(Side.SERVER)
    protocol.pause_writing()
    offer(protocol, "a", Slow.LATEST, room(5), "key")
    for message in "bcd":
        protocol.send(message)
    offer(protocol, "e", Slow.DROP_OLDEST, room(3))
    offer(protocol, "f", Slow.LATEST, room(3), "key")
    offer(protocol, "g" * 300, Slow.LATEST, room(4), "key")
    offer(protocol, "h", Slow.DROP_OLDEST, room(4))
    assert protocol.dropped == {Slow.DROP_OLDEST: 2, Slow.LATEST: 2}
    assert protocol.backlog_messages == 4
    protocol.resume_writing()
    assert payloads(protocol) == ["b", "c", "d", "h"]


def test_the_latest_may_be_larger() -> None:
    """It makes others give up their room, never itself."""
    protocol = Protocol(Side.SERVER)
    protocol.pause_writing()
    for key in "abcd":
        offer(protocol, key, Slow.LATEST, room(4), key)
    offer(protocol, "a" * 100, Slow.LATEST, room(4), "a")
    assert protocol.backlog_size <= room(4)
    protocol.resume_writing()
    assert payloads(protocol) == ["a" * 100, "c", "d"]
    assert protocol.dropped == {Slow.LATEST: 2}


def test_a_key_that_left_begins_anew() -> None:
    protocol = Protocol(Side.SERVER)
    for message in "ab":
        protocol.pause_writing()
        offer(protocol, message, Slow.LATEST, None, "key")
        protocol.resume_writing()
        assert payloads(protocol) == [message]
    assert protocol.dropped == {}


@pytest.mark.parametrize("seed", range(20))
def test_bound_and_order(seed: int) -> None:
    """No more waits than may; what leaves is in order, and what mustn't be dropped is there."""
    numbers = random.Random(seed)
    limit = room(20, 50)
    protocol = Protocol(Side.SERVER)
    droppable = [Slow.DROP_NEWEST, Slow.DROP_OLDEST]
    sent: list[str] = []
    left: list[str] = []
    kept = []
    for number in range(2000):
        step = numbers.random()
        if step < 0.02:
            protocol.pause_writing()
        elif step < 0.03:
            protocol.resume_writing()
        message = f"{number} ".ljust(numbers.randrange(8, 100), "x")
        sent.append(message)
        if step > 0.99:
            protocol.send(message)
            kept.append(message)
        else:
            before = protocol.backlog_size
            offer(protocol, message, numbers.choice(droppable), limit)
            assert protocol.backlog_size <= max(limit, before)
        if numbers.random() < 0.5:
            left += payloads(protocol)
    protocol.resume_writing()
    left += payloads(protocol)
    assert left == [message for message in sent if message in set(left)]
    assert set(kept) <= set(left)
    assert len(sent) - len(left) == sum(protocol.dropped.values())


class Model:
    """What waits, as a list that is looked through for everything."""

    def __init__(self) -> None:
        self.waiting: list[list[Any]] = []  # message, policy, key

    def size(self, slows: Container[Slow] = tuple(Slow)) -> int:
        return sum(room(1, len(message)) for message, slow, _ in self.waiting if slow in slows)

    def add(self, message: str, slow: Slow, limit: int, key: int) -> int | None:
        """Return how many messages are dropped; None if the connection is closed."""
        size, undroppable = room(1, len(message)), self.size((Slow.WAIT, Slow.CLOSE))
        for entry in self.waiting:
            if entry[1:] == [Slow.LATEST, key] and slow is Slow.LATEST:
                if undroppable + size > limit:
                    return 1
                entry[0] = message
                return 1 + self.drop_oldest(limit, entry)
        dropped = 0
        if slow is not Slow.WAIT and self.size() + size > limit:
            if slow is Slow.CLOSE:
                return None
            if slow is Slow.DROP_NEWEST or undroppable + size > limit:
                return 1
            dropped = self.drop_oldest(limit - size)
        self.waiting.append([message, slow, key])
        return dropped

    def drop_oldest(self, limit: int, spared: list[Any] | None = None) -> int:
        droppable = [
            entry
            for entry in self.waiting
            if entry[1] not in (Slow.WAIT, Slow.CLOSE) and entry is not spared
        ]
        dropped = 0
        while self.size() > limit:
            self.waiting.remove(droppable[dropped])
            dropped += 1
        return dropped


@pytest.mark.parametrize("seed", range(30))
def test_all_policies_together(seed: int) -> None:
    """What waits, what leaves first, and what is dropped is what a plain model says."""
    chance = random.Random(seed)
    protocol, model = Protocol(Side.SERVER), Model()
    protocol.pause_writing()
    protocol.send("first")
    assert payloads(protocol) == ["first"]
    offer(protocol, "second", Slow.DROP_OLDEST, None)
    model.add("second", Slow.DROP_OLDEST, 2**62, 0)
    slows = [slow for slow in Slow if slow is not Slow.CLOSE]
    for number in range(400):
        if chance.random() < 0.02:
            # A burst leaves, or everything.
            protocol.resume_writing()
            protocol.pause_writing()
            left = payloads(protocol)
            assert left == [message for message, _, _ in model.waiting[: len(left)]]
            del model.waiting[: len(left)]
        message = f"{number} ".ljust(chance.choice([5, 5, 300, 9000]), "x")
        slow, key = chance.choice([*slows, Slow.CLOSE] if number > 300 else slows), number % 3
        limit = chance.choice([2**62, chance.randrange(20_000), chance.randrange(100_000)])
        if slow is Slow.WAIT:
            limit = 2**62
            if not model.waiting:
                continue  # it wouldn't wait
        before = sum(protocol.dropped.values())
        offer(protocol, message, slow, limit, key)
        dropped = model.add(message, slow, limit, key)
        if dropped is None:
            assert protocol.state is State.CLOSING
            return
        assert sum(protocol.dropped.values()) - before == dropped
        assert protocol.backlog_size == model.size()
        assert protocol.backlog_messages == len(model.waiting)
    protocol.resume_writing()
    left = []
    while protocol.output_size:
        left += payloads(protocol)
    assert left == [message for message, _, _ in model.waiting]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"slow": "wait"}, TypeError),
        ({"slow": 1}, TypeError),
        ({"max_backlog": -1}, ValueError),
        ({"max_backlog": 1.5}, TypeError),
        ({"max_backlog": True}, TypeError),
        ({"key": []}, TypeError),
    ],
)
def test_wrong_terms(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Backpressure(**arguments)


def test_terms() -> None:
    terms = Backpressure(Slow.LATEST, 5, key="k")
    assert (terms.slow, terms.max_backlog, terms.key) == (Slow.LATEST, 5, "k")
    terms = Backpressure()
    assert (terms.slow, terms.max_backlog, terms.key) == (None, 2**25, None)


def test_what_is_dropped_in_the_middle() -> None:
    """Behind what mustn't be dropped, over and over: order, numbers, and sizes stay right."""
    protocol = Protocol(Side.SERVER)
    protocol.pause_writing()
    chance = random.Random(1)
    kept: list[str] = []
    droppable: list[str] = []
    for number in range(2000):
        if chance.random() < 0.1:
            offer(protocol, f"w{number:04}", Slow.WAIT, None)
            kept.append(f"w{number:04}")
            continue
        limit = protocol.backlog_size + room(0) if len(droppable) == 10 else None
        offer(protocol, f"d{number:04}", Slow.DROP_OLDEST, limit)
        droppable.append(f"d{number:04}")
        del droppable[:-10]
        assert protocol.backlog_messages == len(kept) + len(droppable)
        assert protocol.backlog_size == room(len(kept) + len(droppable), 5)
    mark = protocol.backlog_mark
    protocol.resume_writing()
    left: list[str] = []
    while protocol.output_size:
        assert protocol.is_waiting(mark) or not protocol.backlog_messages
        left += payloads(protocol)
    assert left == sorted(kept + droppable, key=lambda message: message[1:])
    assert protocol.backlog_messages == protocol.backlog_size == 0


def test_the_latest_is_spared_in_the_middle() -> None:
    protocol = Protocol(Side.SERVER)
    protocol.pause_writing()
    offer(protocol, "o", Slow.DROP_OLDEST, None)
    offer(protocol, "w", Slow.WAIT, None)
    offer(protocol, "1", Slow.LATEST, None, "a")
    offer(protocol, "o", Slow.DROP_OLDEST, None)
    offer(protocol, "2", Slow.LATEST, None, "b")
    # It stays in its place; what is dropped to make room comes behind it.
    offer(protocol, "3" * 100, Slow.LATEST, room(2) + 160 + 100, "a")
    assert protocol.dropped == {Slow.LATEST: 3}
    offer(protocol, "p", Slow.DROP_OLDEST, None)
    offer(protocol, "4", Slow.LATEST, room(4), "b")
    assert protocol.dropped == {Slow.LATEST: 5}
    protocol.resume_writing()
    assert payloads(protocol) == ["w", "4", "p"]
