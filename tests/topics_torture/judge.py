"""What publishers and subscribers tell, and whether both can be true.

Publishers write down what they are about to publish, and what came of it. Subscribers write down
what they got, and each time that they were told that something may be missing. From one such time
to the next a subscription is a ``Stretch``: it must have, in order and once each, all messages that
are known to have stood in the topic's history between its first position and its last one. Known
are messages that were acknowledged, and those that anybody got: a message whose publisher never
learned what became of it is there for all, or for nobody.

Nothing here has a clock or does I/O: times are arguments.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from math import inf

from wsapi.topics.positions import Position

__all__ = ["Account", "Judge", "Loss", "Stretch", "make_payload", "read_payload"]

MOST_FAILURES = 200
"""Failures that are kept; more are only counted."""


def make_payload(name: str, size: int, *, binary: bool) -> str | bytes:
    """Return a message that says who published it, and whether it is whole."""
    text = f"{name} {size} ".ljust(size, "*")
    return text.encode() if binary else text


def read_payload(payload: str | bytes) -> str | None:
    """Return the name of a message; None if that isn't what was published."""
    text = payload.decode("ascii", "replace") if isinstance(payload, bytes) else payload
    name, _, rest = text.partition(" ")
    size = rest.partition(" ")[0]
    if not size.isdigit() or make_payload(name, int(size), binary=False) != text:
        return None
    return name


@dataclass(frozen=True, slots=True)
class Loss:
    """The broker came back with an older state.

    What was published in between is lost, though it had acknowledged it, and brought it to some.

    Args:
        saved: When that state began to be saved.
        down: When the broker ended.
    """

    saved: float
    down: float


@dataclass(slots=True)
class Stretch:
    """What a subscriber got without being told that something is missing.

    Attributes:
        who: Name of the subscriber.
        start: Position after which it begins.
        offsets: Offsets of the messages.
        names: Names of the messages.
        times: When they came.
        told: When the subscriber was told that what follows may be missing; None if it wasn't.
    """

    who: str
    topic: str
    start: Position
    offsets: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    told: float | None = None

    @property
    def last(self) -> Position:
        return Position(self.start.epoch, self.offsets[-1] if self.offsets else self.start.offset)


class Account:
    """What one subscriber got of one topic, over all its connections.

    Attributes:
        position: Position with which it comes back; None before the first one.
        stretches: What it got since the judge looked.
        failures: What was wrong by itself.
        told: How it was told that something is missing; what it came with was known to be no good,
            if that isn't there.
    """

    def __init__(self, who: str, topic: str) -> None:
        self.who = who
        self.topic = topic
        self.position: Position | None = None
        self.stretches: list[Stretch] = []
        self.failures: list[str] = []
        self.told: list[str] = []
        self.counts: Counter[str] = Counter()
        self._now: Stretch | None = None  # while it is subscribed

    def announced(
        self,
        since: Position | None,
        recovered: bool | None,
        position: Position,
        now: float,
        *,
        hostile: bool = False,
    ) -> None:
        """Note the beginning of a subscription.

        Args:
            since: Position that it came with.
            recovered: What it was told.
            position: Where it begins, if that isn't ``since``.
            now: Current time.
            hostile: Whether ``since`` is a position that never was, or is an old one.
        """
        if (recovered is None) != (since is None):
            self._fail(f"came with {since}, and was told recovered={recovered}")
        if recovered and since is not None:
            self.counts["recovered"] += 1
            position = since
        elif recovered is False:
            self.counts["unknown positions" if hostile else "lost"] += 1
            if not hostile:
                self.told.append(f"came with {since}, and begins at {position}")
            self._tell(now)
        self._begin(position)

    def message(self, position: Position, name: str, now: float) -> None:
        """Note a message."""
        stretch = self._now
        if stretch is None:
            self._fail(f"got {name} at {position} without being subscribed")
            return
        last = stretch.last
        if position.epoch != last.epoch:
            self._fail(f"got {name} at {position} after {last}: a new epoch without a word")
            stretch = self._begin(Position(position.epoch, position.offset - 1))
        elif position.offset <= last.offset:
            twice = position.offset in stretch.offsets
            kind = "twice" if twice else "out of order"
            self._fail(f"got {name} at {position} after {last}: {kind}")
            return
        stretch.offsets.append(position.offset)
        stretch.names.append(name)
        stretch.times.append(now)
        self.position = position
        self.counts["deliveries"] += 1

    def gap(self, position: Position, now: float) -> None:
        """Note that the subscriber was told of a gap, and where it goes on."""
        self.counts["gaps"] += 1
        self.told.append(f"goes on at {position}, after {self.position}")
        self._tell(now)
        self._begin(position)

    def ended(self) -> None:
        """Note the end of the subscription; what follows is asked for, or not."""
        self._now = None

    def begin_anew(self) -> None:
        """Note that nothing is asked for of what came since: the next one has no ``since``."""
        self._tell(inf)  # it wouldn't be told of what it passed over
        self._now = None
        self.position = None

    def take(self) -> list[Stretch]:
        """Return what is to be judged; what is going on goes on from where it is."""
        stretches, self.stretches = self.stretches, []
        if self._now is not None:
            now = self._now
            self._begin(now.last)
        return stretches

    def _begin(self, position: Position) -> Stretch:
        self._now = Stretch(self.who, self.topic, position)
        self.stretches.append(self._now)
        self.position = position
        return self._now

    def _tell(self, now: float) -> None:
        for stretch in self.stretches:
            if stretch.told is None:
                stretch.told = now

    def _fail(self, text: str) -> None:
        self.failures.append(f"{self.who}, {self.topic}: {text}")


@dataclass(slots=True)
class _Known:
    """A message of which it is known where it stands."""

    name: str
    acknowledged: float | None = None
    seen: float = 0.0  # when somebody got it last


class Judge:
    """Compares what all have told.

    Attributes:
        failures: What can't be, as sentences; ``more`` are not there.
        counts: What there was.
    """

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.more = 0
        self.counts: Counter[str] = Counter()
        self._known: dict[tuple[str, str], dict[int, _Known]] = defaultdict(dict)
        self._where: dict[str, tuple[str, Position]] = {}
        self._begun: dict[str, tuple[str, float]] = {}  # topics and times of messages
        self._refused: set[str] = set()
        self._losses: list[Loss] = []
        self._latest: dict[tuple[str, str, str], tuple[int, int]] = {}

    def fail(self, text: str) -> None:
        """Note a failure."""
        if len(self.failures) < MOST_FAILURES:
            self.failures.append(text)
        else:
            self.more += 1

    # ------------------------------------------------------------------ what publishers tell

    def begun(self, topic: str, name: str, now: float) -> None:
        """Note that a message is about to be published."""
        self._begun[name] = topic, now
        self.counts["begun"] += 1

    def acknowledged(self, topic: str, name: str, position: Position, now: float) -> None:
        """Note that a message was published."""
        self.counts["acknowledged"] += 1
        known = self._place(topic, name, position, "its publisher")
        if known is not None:
            known.acknowledged = now
        publisher, _, number = name.rpartition(".")
        key = publisher, topic, position.epoch
        latest = self._latest.setdefault(key, (int(number), position.offset))
        if (int(number) > latest[0]) != (position.offset > latest[1]) and int(number) != latest[0]:
            self.fail(
                f"{topic}: {name} was acknowledged at {position}, "
                f"{publisher}.{latest[0]} at {latest[1]}"
            )
        self._latest[key] = max(latest, (int(number), position.offset))

    def uncertain(self, name: str) -> None:
        """Note that the publisher doesn't know what became of a message."""
        self.counts["uncertain"] += 1

    def refused(self, name: str) -> None:
        """Note that a message was not published."""
        self.counts["refused"] += 1
        self._refused.add(name)

    def lost(self, loss: Loss) -> None:
        """Note that the broker came back with an older state."""
        self._losses.append(loss)

    # ------------------------------------------------------------------ judging

    def judge(self, stretches: list[Stretch]) -> None:
        """Judge what subscribers got, after all that publishers told up to then."""
        for stretch in stretches:
            for offset, name, when in zip(
                stretch.offsets, stretch.names, stretch.times, strict=True
            ):
                position = Position(stretch.start.epoch, offset)
                known = self._place(stretch.topic, name, position, stretch.who)
                if known is not None:
                    known.seen = max(known.seen, when)
        sorted_offsets: dict[tuple[str, str], list[int]] = {}
        for stretch in stretches:
            key = stretch.topic, stretch.start.epoch
            if key not in sorted_offsets:
                sorted_offsets[key] = sorted(self._known.get(key, ()))
            self._compare(stretch, sorted_offsets[key])

    def forget(self, topic: str, position: Position) -> None:
        """Forget what no stretch will reach any more: other epochs, and what is before this."""
        for key in [key for key in self._known if key[0] == topic]:
            known = self._known[key]
            gone = [o for o in known if key[1] != position.epoch or o <= position.offset]
            for offset in gone:
                name = known.pop(offset).name
                self._where.pop(name, None)
                self._begun.pop(name, None)
            if not known:
                del self._known[key]
        self._latest = {
            key: value
            for key, value in self._latest.items()
            if key[1] != topic or key[2] == position.epoch
        }

    def _place(self, topic: str, name: str, position: Position, who: str) -> _Known | None:
        """Note where somebody says that a message stands."""
        if self._begun.get(name, ("",))[0] != topic:
            self.fail(f"{topic}: {who} has {name} at {position}, which nobody published there")
            return None
        if name in self._refused:
            self.fail(f"{topic}: {who} has {name} at {position}, which was refused")
        known = self._known[topic, position.epoch]
        there = known.get(position.offset)
        if there is not None and there.name != name:
            self.fail(f"{topic}: {who} has {name} at {position}, where {there.name} is for others")
            return None
        where = self._where.setdefault(name, (topic, position))
        if where != (topic, position):
            self.fail(f"{topic}: {who} has {name} at {position}, others at {where[1]}")
            return None
        if there is None:
            there = known[position.offset] = _Known(name)
        return there

    def _compare(self, stretch: Stretch, offsets: list[int]) -> None:
        """Judge whether a stretch has all that is known to have been there."""
        first = bisect_right(offsets, stretch.start.offset)
        last = bisect_right(offsets, stretch.last.offset)
        got = set(stretch.offsets)
        missing = [offset for offset in offsets[first:last] if offset not in got]
        if not missing:
            return
        known = self._known[stretch.topic, stretch.start.epoch]
        untold = []
        for offset in missing:
            if self._told_late(stretch, known[offset], offset):
                self.counts["told late"] += 1
            else:
                untold.append(offset)
        if untold:
            names = ", ".join(
                f"{known[offset].name} at {offset}"
                + ("" if known[offset].acknowledged is not None else " (not acknowledged)")
                for offset in untold[:3]
            )
            self.fail(
                f"{stretch.who}, {stretch.topic}: {len(untold)} missing between {stretch.start} "
                f"and {stretch.last.offset}, without a word: {names}; told {stretch.told}"
            )

    def _told_late(self, stretch: Stretch, missing: _Known, offset: int) -> bool:
        """Tell whether the broker lost a message itself, and the subscriber was told soon after.

        Whoever hadn't got it before goes on without it: nobody but those who had, or who published
        it, can know that it was there. They end the epoch, which all are told of.
        """
        place = bisect_left(stretch.offsets, offset)
        passed = stretch.times[place]
        if stretch.told is None or stretch.told < passed:
            return False
        begun = self._begun[missing.name][1]
        published = missing.seen if missing.acknowledged is None else missing.acknowledged
        return any(
            begun <= loss.down <= passed and loss.saved <= published for loss in self._losses
        )
