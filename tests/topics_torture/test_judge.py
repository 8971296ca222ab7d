import random

import pytest

from tests.topics_torture.judge import Account, Judge, Loss, make_payload, read_payload
from tests.topics_torture.run import CONTROL_COMPLAINTS, is_harmless, plan, what_grows
from wsapi.topics.positions import Position

E = "epoch"


def at(offset, epoch=E):
    return Position(epoch, offset)


class Story:
    """What publishers and subscribers tell, at one time each."""

    def __init__(self):
        self.judge = Judge()
        self.accounts = {}
        self.now = 0.0

    def publish(self, *offsets, epoch=E, acknowledged=True, publisher="p"):
        for offset in offsets:
            self.now += 1
            name = f"{publisher}.{offset}"
            self.judge.begun("t", name, self.now)
            if acknowledged:
                self.judge.acknowledged("t", name, at(offset, epoch), self.now)
            else:
                self.judge.uncertain(name)

    def subscribe(self, who, offset, since=None, recovered=None, epoch=E):
        account = self.accounts.setdefault(who, Account(who, "t"))
        self.now += 1
        account.announced(since, recovered, at(offset, epoch), self.now)
        return account

    def get(self, who, *offsets, epoch=E, publisher="p"):
        for offset in offsets:
            self.now += 1
            self.accounts[who].message(at(offset, epoch), f"{publisher}.{offset}", self.now)

    def verdict(self):
        stretches = []
        for account in self.accounts.values():
            stretches += account.take()
            self.judge.failures += account.failures
        self.judge.judge(stretches)
        return self.judge.failures


@pytest.fixture
def story():
    return Story()


def test_all_messages(story):
    story.publish(1, 2, 3, 4)
    story.subscribe("a", 0)
    story.get("a", 1, 2, 3, 4)
    story.subscribe("b", 2)
    story.get("b", 3, 4)
    assert not story.verdict()


def test_offsets_may_leap(story):
    story.publish(1, 2, 900)
    story.subscribe("a", 0)
    story.get("a", 1, 2, 900)
    assert not story.verdict()


def test_missing_message(story):
    story.publish(1, 2, 3)
    story.subscribe("a", 0)
    story.get("a", 1, 3)
    (failure,) = story.verdict()
    assert "1 missing between epoch:0 and 3, without a word: p.2 at 2" in failure


def test_missing_at_the_beginning(story):
    story.publish(1, 2, 3)
    story.subscribe("a", 0)
    story.get("a", 2, 3)
    assert len(story.verdict()) == 1


def test_after_the_end_nothing_is_missing(story):
    story.publish(1, 2, 3)
    story.subscribe("a", 0)
    story.get("a", 1)
    story.accounts["a"].ended()
    assert not story.verdict()


def test_missing_between_connections(story):
    story.publish(1, 2, 3)
    account = story.subscribe("a", 0)
    story.get("a", 1)
    account.ended()
    story.subscribe("a", 2, since=account.position, recovered=True)
    story.get("a", 3)
    assert len(story.verdict()) == 1


def test_recovered(story):
    story.publish(1, 2, 3)
    account = story.subscribe("a", 0)
    story.get("a", 1)
    account.ended()
    story.subscribe("a", 1, since=account.position, recovered=True)
    story.get("a", 2, 3)
    assert not story.verdict()


def test_told_of_what_is_lost(story):
    story.publish(1, 2, 3)
    account = story.subscribe("a", 0)
    story.get("a", 1)
    account.ended()
    story.subscribe("a", 2, since=account.position, recovered=False)
    story.get("a", 3)
    assert not story.verdict()
    assert account.counts["lost"] == 1


def test_gap_notice(story):
    story.publish(1, 2, 3, 4)
    account = story.subscribe("a", 0)
    story.get("a", 1)
    account.gap(at(3), story.now)
    story.get("a", 4)
    assert not story.verdict()


def test_missing_after_a_gap_notice(story):
    story.publish(1, 2, 3, 4)
    account = story.subscribe("a", 0)
    story.get("a", 1)
    account.gap(at(2), story.now)
    story.get("a", 4)
    assert len(story.verdict()) == 1


@pytest.mark.parametrize("offsets", [(1, 1), (1, 2, 1), (2, 1)])
def test_twice_or_out_of_order(story, offsets):
    story.publish(1, 2)
    story.subscribe("a", 0)
    story.get("a", *offsets)
    assert any("twice" in line or "out of order" in line for line in story.verdict())


def test_new_epoch_without_a_word(story):
    story.publish(1)
    story.publish(5, epoch="other")
    story.subscribe("a", 0)
    story.get("a", 1)
    story.get("a", 5, epoch="other")
    (failure,) = story.verdict()
    assert "new epoch" in failure


def test_recovered_says_nothing_of_no_position(story):
    story.subscribe("a", 0, recovered=True)
    assert story.verdict()


def test_position_without_an_answer(story):
    story.subscribe("a", 0, since=at(0))
    assert story.verdict()


def test_message_before_subscribing(story):
    account = story.accounts["a"] = Account("a", "t")
    account.message(at(1), "p.1", 0.0)
    assert "without being subscribed" in story.verdict()[0]


def test_uncertain_message_for_all(story):
    story.publish(1, 3)
    story.publish(2, acknowledged=False, publisher="q")
    for who in "ab":
        story.subscribe(who, 0)
        story.get(who, 1)
        story.get(who, 2, publisher="q")
        story.get(who, 3)
    assert not story.verdict()


def test_uncertain_message_for_nobody(story):
    story.publish(1, 3)
    story.publish(2, acknowledged=False, publisher="q")
    for who in "ab":
        story.subscribe(who, 0)
        story.get(who, 1, 3)
    assert not story.verdict()


def test_uncertain_message_for_some(story):
    story.publish(1, 3)
    story.publish(2, acknowledged=False, publisher="q")
    story.subscribe("a", 0)
    story.get("a", 1)
    story.get("a", 2, publisher="q")
    story.get("a", 3)
    story.subscribe("b", 0)
    story.get("b", 1, 3)
    (failure,) = story.verdict()
    assert "b, t: 1 missing" in failure
    assert "not acknowledged" in failure


def test_refused_message(story):
    story.judge.begun("t", "p.1", 0.0)
    story.judge.refused("p.1")
    story.subscribe("a", 0)
    story.get("a", 1)
    assert "refused" in story.verdict()[0]


def test_message_of_another_topic(story):
    story.judge.begun("u", "p.1", 0.0)
    story.subscribe("a", 0)
    story.get("a", 1)
    assert "nobody published there" in story.verdict()[0]


def test_position_given_twice(story):
    story.publish(1)
    story.publish(1, publisher="q")
    assert "where p.1 is for others" in story.verdict()[0]


def test_message_at_two_positions(story):
    story.publish(1)
    story.subscribe("a", 0)
    story.accounts["a"].message(at(2), "p.1", 9.0)
    assert "others at epoch:1" in story.verdict()[0]


def test_publisher_out_of_order(story):
    for name in ("p.1", "p.2", "p.3"):
        story.judge.begun("t", name, 0.0)
    story.judge.acknowledged("t", "p.1", at(1), 0.0)
    story.judge.acknowledged("t", "p.3", at(2), 0.0)
    story.judge.acknowledged("t", "p.2", at(3), 0.0)
    assert "p.2 was acknowledged at epoch:3" in story.verdict()[0]


def test_answers_may_come_in_another_order(story):
    for name in ("p.1", "p.2"):
        story.judge.begun("t", name, 0.0)
    story.judge.acknowledged("t", "p.2", at(2), 0.0)
    story.judge.acknowledged("t", "p.1", at(1), 0.0)
    assert not story.verdict()


class TestOlderState:
    """The broker loses what it has acknowledged, and nobody but the publisher knows."""

    def begin(self, story, saved):
        account = story.subscribe("a", 0)
        story.publish(1)
        story.get("a", 1)
        story.publish(2)
        story.judge.lost(Loss(story.now - saved, story.now + 1))
        story.now += 2
        story.publish(900, publisher="q")
        story.get("a", 900, publisher="q")
        return account

    def test_told_later(self, story):
        account = self.begin(story, 0.5)
        account.gap(Position("other", 0), story.now + 1)
        assert not story.verdict()
        assert story.judge.counts["told late"] == 1

    def test_never_told(self, story):
        self.begin(story, 0.5)
        assert len(story.verdict()) == 1

    def test_nobody_to_be_told(self, story):
        account = self.begin(story, 0.5)
        account.ended()
        account.begin_anew()
        assert not story.verdict()

    def test_what_was_saved_is_not_lost(self, story):
        account = self.begin(story, -0.5)
        account.gap(Position("other", 0), story.now + 1)
        assert len(story.verdict()) == 1

    def test_passed_before_the_broker_ended(self, story):
        account = story.subscribe("a", 0)
        story.publish(1, 2, 3)
        story.get("a", 1, 3)
        story.judge.lost(Loss(0.0, story.now + 1))
        account.gap(Position("other", 0), story.now + 2)
        assert len(story.verdict()) == 1


def test_judged_round_by_round(story):
    story.publish(1, 2)
    story.subscribe("a", 0)
    story.get("a", 1, 2)
    assert not story.verdict()
    story.judge.forget("t", at(2))
    story.publish(3, 4)
    story.get("a", 4)
    assert len(story.verdict()) == 1


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("size", [1, 20, 1000])
def test_payload(size, binary):
    payload = make_payload("s1p2.34", size, binary=binary)
    assert isinstance(payload, bytes) is binary
    assert read_payload(payload) == "s1p2.34"
    assert read_payload(payload[:-1]) is None
    assert read_payload(payload + payload[:1]) is None


def test_plan_follows_from_the_seed():
    assert plan(random.Random("1/2"), 0, 60) == plan(random.Random("1/2"), 0, 60)
    assert plan(random.Random("1/2"), 0, 60) != plan(random.Random("1/3"), 0, 60)


def test_broker_loses_nothing_in_some_rounds():
    losing = {"lose", "age", "trim", "forget", "overflow"}
    assert losing <= {act.kind for act in plan(random.Random(1), 0, 600)}
    assert is_harmless(2)
    assert not losing & {act.kind for act in plan(random.Random(1), 2, 600)}


@pytest.mark.parametrize(
    "memory, flat",
    [
        ([], True),
        ([10_000] * 30, True),
        ([5_000, 20_000] + [50_000] * 28, True),
        (list(range(50_000, 80_000, 1000)), False),
    ],
)
def test_memory(memory, flat):
    assert (what_grows(memory) == "") is flat


def test_complaints_of_the_control_are_not_ours():
    ours = b"Task exception was never retrieved\nfuture: <Task finished coro=<f() at /src/a.py>>\n"
    theirs = (
        b"Task exception was never retrieved\n"
        b"future: <Task finished coro=<f() at /lib/site-packages/nats/aio/client.py:1>>\n"
        b"Traceback (most recent call last):\n  File\nConnectionResetError: lost\n\n"
        b"During handling of the above exception, another exception occurred:\n\n"
        b"Traceback (most recent call last):\n  File\nBrokenPipeError: [Errno 32] Broken pipe\n"
    )
    assert CONTROL_COMPLAINTS.sub(b"", b"before\n" + theirs + ours) == b"before\n" + ours
