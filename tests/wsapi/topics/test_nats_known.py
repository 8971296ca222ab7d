"""What a process knows of a stream on NATS, without a server."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from wsapi.topics._nats_known import Known, Topic, message_of
from wsapi.topics._nats_stream import Stream
from wsapi.topics.bus import TRANSIENT, Notice
from wsapi.topics.positions import Position


def stream(epoch: str = "e", last: int = 0, **changes: Any) -> Stream:
    fields: dict[str, Any] = dict.fromkeys(Stream._fields, 0)
    fields |= {"epoch": epoch, "last": last, "replicas": 1, "leader": "here", **changes}
    return Stream(**fields)


class Process:
    """What is known, and what follows from it."""

    def __init__(self, *, server: str = "here") -> None:
        self.doubts = 0
        self.known = Known("p", self.doubt)
        self.known.connected()
        self.known.adopt(stream(), server)

    def doubt(self) -> None:
        self.doubts += 1

    def follow(self, name: str = "a", *, plain: bool = False) -> Topic:
        topic = self.known.topics[name] = self.known.topic(name, plain=plain)
        return topic

    def take(
        self, topic: Topic, sequence: int, previous: int, data: bytes = b"tx", subject: str = ""
    ) -> Notice | None:
        headers = (
            f"NATS/1.0\r\nNats-Stream: S\r\nNats-Subject: {subject or topic.kept.decode()}\r\n"
            f"Nats-Sequence: {sequence}\r\nNats-Time-Stamp: t{sequence}\r\n"
            f"Nats-Last-Sequence: {previous}\r\n\r\n"
        )
        return self.known.take(topic, data, headers.encode())


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"tx", "x"), (b"bx", b"x"), (b"t\xff", None), (b"x", None), (b"", None), (b"b", b"")],
)
def test_messages(data: bytes, message: str | bytes | None) -> None:
    assert message_of(data) == message


def test_subjects() -> None:
    known = Process().known
    assert (known.live("a"), known.live(f"{TRANSIENT}a")) == ("p.l.a", "p.t.a")
    assert known.kept("a") == "p.p.e.a"
    assert known.beats("me") == ("p.l.~me", "p.p.e.~me")


def test_topics_without_positions() -> None:
    process = Process()
    topic = process.follow(plain=True)
    assert process.known.take(topic, b"tx", None) == Notice("a", "x")
    assert process.known.take(topic, b"x", None) is None
    assert process.known.ignored == 1


def test_notices_follow_each_other() -> None:
    process = Process()
    topic = process.follow()
    first = process.take(topic, 3, 0)
    assert first == Notice("a", "x", Position("e", 3), 0, b"t3")
    assert process.take(topic, 5, 3, b"by") == Notice("a", b"y", Position("e", 5), 3, b"t5")
    assert (topic.last, topic.upto, topic.before) == (5, 5, None)
    known = process.known
    assert (known.noticed, known.seen, known.seen_time) == (5, 5, (5, b"t5"))


def test_a_notice_that_was_missed() -> None:
    """What was known before it stays known, until somebody has read what lies between."""
    process = Process()
    topic = process.follow()
    process.take(topic, 3, 0)
    missed = process.take(topic, 7, 5)
    assert missed is not None
    assert missed.previous == 5
    assert topic.before == (3, 3)
    process.take(topic, 9, 8)
    assert topic.before == (3, 3)


@pytest.mark.parametrize("server", ["here", "there"])
def test_what_was_before_a_message_is_not_there_any_more(server: str) -> None:
    """Where notices come in order, it follows what is known."""
    process = Process(server=server)
    topic = process.follow()
    process.take(topic, 3, 0)
    notice = process.take(topic, 8, 0)
    assert notice is not None
    assert notice.previous == (3 if server == "here" else 0)


def test_what_is_not_ours(caplog: pytest.LogCaptureFixture) -> None:
    process = Process()
    topic = process.follow()
    process.take(topic, 3, 0)
    with caplog.at_level(logging.WARNING, logger="wsapi.topics"):
        assert process.take(topic, 4, 3, b"garbage") is None
        assert process.known.take(topic, b"tx", b"no headers") is None
        assert process.take(topic, 6, 5, subject="elsewhere") is None
    assert process.known.ignored == 3
    assert len(caplog.records) == 1
    assert topic.garbage == 4
    notice = process.take(topic, 5, 4)
    assert notice is not None
    assert notice.previous == 3
    assert process.doubts == 0


def test_garbage_behind_what_was_missed_is_not_known() -> None:
    process = Process()
    topic = process.follow()
    process.take(topic, 3, 0)
    assert process.take(topic, 7, 5, b"garbage") is None
    assert topic.garbage == 0


def test_another_epoch() -> None:
    process = Process()
    topic = process.follow()
    process.take(topic, 3, 0)
    assert process.take(topic, 1, 0, subject="p.p.other.a") is None
    assert process.doubts == 1
    assert topic.last == 3
    process.known.adopt(stream("other", 9), "here")
    assert (topic.last, topic.upto, topic.kept) == (None, 0, b"p.p.other.a")
    assert (process.known.seen, process.known.noticed, process.known.seen_time) == (9, 0, None)
    notice = process.take(topic, 10, 4)
    assert notice is not None
    assert notice.position == Position("other", 10)


def test_what_is_known_of_silent_topics() -> None:
    """While notices come in order, a topic is known up to the last one of any."""
    process = Process()
    known = process.known
    topic, other, unknown = process.follow("a"), process.follow("b"), process.follow("c")
    process.take(topic, 3, 0)
    process.take(other, 8, 0)
    assert known.is_in_order(topic)
    assert (known.upto(topic), topic.upto) == (8, 3)
    known.lost()
    assert (topic.upto, unknown.upto) == (8, 0)
    known.connected()
    assert not known.is_in_order(topic)
    assert (known.upto(topic), known.noticed) == (8, 0)
    known.lost()  # nothing came in order with this one
    assert topic.upto == 8
    known.adopt(stream("e", 12), "here")
    topic.know(8, 12, known.generation)
    assert known.upto(topic) == 12
    topic.garbage = 9
    topic.know(8, 13, known.generation)
    assert (topic.last, topic.upto, topic.garbage) == (8, 13, 9)
    topic.know(10, 3, known.generation)
    assert (topic.last, topic.upto, topic.garbage) == (10, 10, 0)


def test_notices_that_come_late() -> None:
    process = Process()
    topic, other = process.follow("a"), process.follow("b")
    process.known.seen = 20
    process.take(topic, 8, 0)
    process.take(other, 5, 0)
    known = process.known
    assert (known.noticed, known.seen, known.seen_time) == (8, 20, (8, b"t8"))
