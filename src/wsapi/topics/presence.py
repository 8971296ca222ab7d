"""Who is on a topic, over all processes.

Each process tells all others who is on its topics, and each knows all of it: a count is answered at
once, without asking anybody. What processes tell travels over transient topics of the bus, whatever
that is; nothing is kept in the broker. Keys that expire, one for each member, would have to be
refreshed one by one, and counted by the broker for each question; who comes and goes would have to
be told besides; and each kind of broker would need a way of its own. Here a process refreshes all
of its members with one short message. The price: each process has all names in its memory.

A process numbers what it tells. Whoever misses a number, or hears of a process for the first time,
asks that one for all that it has. So the counts of a process are right

- after ``TELL_INTERVAL``, and the time that the bus takes, if nothing goes wrong;
- after ``REFRESH_INTERVAL`` more, if a message was lost;
- after ``FORGET_INTERVALS`` and one more of these, if a process was killed: until then, its members
  are counted. One that leaves in order says so.

While a process can't hear the others, it forgets none of them: its counts are those of before,
with ``settled`` False.
"""

from __future__ import annotations

import json
import secrets
from collections import deque
from dataclasses import dataclass
from math import inf
from typing import Any, Final, NamedTuple, TypeAlias

from ._names import check_name
from .bus import TRANSIENT, Message
from .exceptions import TopicLimitExceeded

__all__ = ["MAX_MEMBERS", "Presence", "PresenceEvent"]

MAX_MEMBERS: Final = 10_000
"""Members of a topic in one process, at most."""

MAX_PROCESSES: Final = 1_000
"""Other processes that one knows of, at most."""

MAX_KNOWN: Final = 1_000_000
"""Members that one process knows of, over all topics and processes, at most."""

MAX_CHANGED: Final = 10_000
"""Changes that wait to be told, at most; with more, others ask for all that there is."""

MAX_TOLD: Final = 500
"""Members in one message to other processes, at most."""

MAX_HELD: Final = 100
"""Messages of a process that are held until it has told all that it has, at most."""

TELL_INTERVAL: Final = 0.1
"""Seconds in which changes are told together."""

REFRESH_INTERVAL: Final = 4.0
"""Seconds after which a process says again that it is there, and how often it told something."""

FORGET_INTERVALS: Final = 3
"""Whole intervals without a word after which a process is forgotten."""

SETTLING_TIME: Final = 1.0
"""Seconds in which all processes that there are have told what they know, if nothing goes wrong."""

ALL: Final = f"{TRANSIENT}presence"
"""The topic on which all processes tell what changes."""

Counts: TypeAlias = dict[str, dict[str, int]]  # of subscriptions, by topic and member


class Presence(NamedTuple):
    """Who is on a topic.

    Args:
        subscriptions: Subscriptions with a member's name, in all processes.
        members: How many different names these have.
        settled: Whether all processes are known, as far as one can tell: False for a moment after
            this one began, while the bus is away, and while something is known to be missing.
        names: The names, sorted; None if they weren't asked for.
    """

    subscriptions: int
    members: int
    settled: bool
    names: tuple[str, ...] | None = None


class PresenceEvent(NamedTuple):
    """Somebody has come, or gone: with the first, or the last subscription of that name.

    Args:
        topic: Name of the topic.
        member: Name of the member.
        present: True if they came, False if they went.
    """

    topic: str
    member: str
    present: bool


@dataclass(slots=True)
class _Total:
    """All that is known of a topic."""

    subscriptions: int
    members: dict[str, int]


class _Other:
    """What another process has told.

    Attributes:
        version: Number of the last message that was heeded.
        counts: Who is there.
        silent: Intervals without a word.
        asked: Whether it has been asked for all that it has.
        held: What it told since then, by number.
        parts: Those of its answer that came so far, and which version that is of.
    """

    __slots__ = ("asked", "counts", "held", "parts", "parts_version", "silent", "version")

    def __init__(self) -> None:
        self.version = 0
        self.counts: Counts = {}
        self.silent = 0
        self.asked = False
        self.held: dict[int, Counts] = {}
        self.parts: list[Counts] = []
        self.parts_version = 0


class Roll:
    """Who is on which topics, as one process knows it; without I/O, clock, or locks.

    The front-end calls ``join``, ``leave``, ``watch``, ``presence``; the runner brings what others
    tell and publishes what is in ``outbox``. Both look into ``events`` after each call.

    Args:
        alone: Whether there are no other processes.

    Attributes:
        topic: Transient topic of this process, to be followed besides ``ALL``.
        outbox: Transient topics, and messages to be published there, in order.
        events: Who came and went on topics that are watched.
        left_out: Members and processes that weren't counted, since there are too many.
    """

    def __init__(self, *, alone: bool = False) -> None:
        self._id = secrets.token_hex(8)
        self.topic = f"{ALL}.{self._id}"
        self.outbox: deque[tuple[str, str]] = deque()
        self.events: deque[PresenceEvent] = deque()
        self.left_out = 0
        self._own: Counts = {}
        self._totals: dict[str, _Total] = {}
        self._known = 0
        self._others: dict[str, _Other] = {}
        self._watched: dict[str, int] = {}
        self._alone = alone
        # Whether others can be heard.
        self._connected = False
        self._settled_at = inf
        # What changed since it was told, and the number of the last message that told something.
        self._changed: dict[tuple[str, str], None] = {}
        self._version = 0
        self._tell_at = inf
        self._refresh_at = inf
        self._answer_all = False
        self._askers: dict[str, None] = {}

    # ------------------------------------------------------------------ for the front-end

    def join(self, topic: str, member: str, now: float) -> None:
        """Count a subscription.

        Args:
            topic: Name of the topic.
            member: Name of the member: 1 to 255 bytes of text, without control characters.
            now: Current time.

        Raises:
            TypeError, ValueError: If the name isn't acceptable.
            TopicLimitExceeded: If the topic has too many members in this process.
        """
        check_name(member, "a member")
        members = self._own.get(topic)
        if members is None:
            members = self._own[topic] = {}
        if member not in members and len(members) >= MAX_MEMBERS:
            raise TopicLimitExceeded(f"topic {topic!r} has {MAX_MEMBERS} members here already")
        members[member] = members.get(member, 0) + 1
        self._add(topic, member, 1)
        self._note_change(topic, member, now)

    def leave(self, topic: str, member: str, now: float) -> None:
        """Count a subscription no more that was counted."""
        members = self._own[topic]
        members[member] -= 1
        if not members[member]:
            del members[member]
            if not members:
                del self._own[topic]
        self._add(topic, member, -1)
        self._note_change(topic, member, now)

    def presence(self, topic: str, now: float, *, names: bool = False) -> Presence:
        """Return who is on a topic.

        Args:
            topic: Name of the topic.
            now: Current time.
            names: Whether to return the members' names.
        """
        total = self._totals.get(topic)
        settled = self._alone or (
            self._connected
            and now >= self._settled_at
            and not any(other.asked for other in self._others.values())
        )
        if total is None:
            return Presence(0, 0, settled, () if names else None)
        return Presence(
            total.subscriptions,
            len(total.members),
            settled,
            tuple(sorted(total.members)) if names else None,
        )

    def watch(self, topic: str) -> None:
        """Have events of a topic in ``events`` from now on; as often as that is called."""
        self._watched[topic] = self._watched.get(topic, 0) + 1

    def unwatch(self, topic: str) -> None:
        """Have them there no more."""
        self._watched[topic] -= 1
        if not self._watched[topic]:
            del self._watched[topic]

    def close(self) -> str | None:
        """Return what to tell all others, who needn't wait until this process is forgotten."""
        return None if self._alone else self._message(bye=True)

    # ------------------------------------------------------------------ for the runner

    def resumed(self, now: float) -> None:
        """Note that others can be heard: ask all of them how far they are, and tell it, too."""
        if self._alone:
            return
        self._connected = True
        self._settled_at = now + SETTLING_TIME
        self._refresh_at = now + REFRESH_INTERVAL
        for other in self._others.values():
            other.silent = 0
        self._tell_at = now
        self.outbox.append((ALL, self._message(ask=True)))

    def interrupted(self, now: float) -> None:
        """Note that others can't be heard; they may hear this process all the same."""
        self._connected = False

    def next_timeout(self) -> float | None:
        """Return when ``handle_timeout`` is to be called; None if that isn't necessary."""
        first = min(self._tell_at, self._refresh_at)
        return None if first == inf else first

    def handle_timeout(self, now: float) -> None:
        """Tell what changed; forget who said nothing for long."""
        if self._tell_at <= now:
            self._tell_at = inf
            self._tell()
        if self._refresh_at <= now:
            self._refresh_at = now + REFRESH_INTERVAL
            self._answer_all = True
            for name, other in list(self._others.items()):
                # Intervals are counted: a process that stood still hasn't heard the others.
                other.silent += self._connected
                if other.silent > FORGET_INTERVALS:
                    self._forget(name)
                elif other.asked:
                    self._ask(name, other)
        if self._answer_all:
            self._answer_all = False
            # A process that never had anybody to tell of needn't be known.
            if self._version:
                self.outbox.append((ALL, self._message()))

    def drained(self, now: float) -> None:
        """Note that all of ``outbox`` is published: one of those who asked can be answered."""
        if self._askers:
            name = next(iter(self._askers))
            del self._askers[name]
            parts = _portions(
                (topic, member, count)
                for topic, members in self._own.items()
                for member, count in members.items()
            )
            for number, members in enumerate(parts):
                self.outbox.append(
                    (
                        f"{ALL}.{name}",
                        self._message(part=number, parts=len(parts), members=members),
                    )
                )

    def receive(self, message: Message, now: float) -> None:
        """Take what another process tells; anything else is ignored."""
        try:
            told = json.loads(message)
            name, version = told["from"], told["version"]
            if not (isinstance(name, str) and len(name) <= 64 and isinstance(version, int)):
                return
            members = None if told.get("members") is None else _checked(told["members"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return
        if name == self._id:
            return
        if told.get("bye"):
            self._forget(name)
            return
        other = self._others.get(name)
        if other is None:
            if len(self._others) >= MAX_PROCESSES:
                self.left_out += 1
                return
            other = self._others[name] = _Other()
        other.silent = 0
        if told.get("ask"):
            self._answer_all = True
            self._tell_soon(now)
        if told.get("all"):
            self._askers[name] = None
            if not self.outbox:
                self.drained(now)
            return
        if members is None:
            if version > other.version and not other.asked:
                self._ask(name, other)
        elif "part" in told:
            self._take_part(name, other, version, told, members)
        elif version == other.version + 1 and not other.asked:
            other.version = version
            self._apply(other, members)
        elif version > other.version:
            if len(other.held) < MAX_HELD:
                other.held[version] = members
            if not other.asked:
                self._ask(name, other)

    # ------------------------------------------------------------------ what is told

    def _message(self, **content: Any) -> str:
        told = {"from": self._id, "version": self._version, **content}
        return json.dumps(told, ensure_ascii=False, separators=(",", ":"))

    def _note_change(self, topic: str, member: str, now: float) -> None:
        if self._alone:
            return
        self._changed[topic, member] = None
        if len(self._changed) > MAX_CHANGED:
            # A number that nobody hears of: all ask.
            self._changed.clear()
            self._version += 1
            self._answer_all = True
        self._tell_soon(now)

    def _tell_soon(self, now: float) -> None:
        if self._tell_at == inf:
            self._tell_at = now + TELL_INTERVAL

    def _tell(self) -> None:
        changed, self._changed = self._changed, {}
        if not changed:
            return
        own = self._own
        for members in _portions(
            (topic, member, own.get(topic, {}).get(member, 0)) for topic, member in changed
        ):
            self._version += 1
            self.outbox.append((ALL, self._message(members=members)))

    # ------------------------------------------------------------------ what others tell

    def _ask(self, name: str, other: _Other) -> None:
        """Ask a process for all that it has."""
        other.asked = True
        other.parts = []
        self.outbox.append((f"{ALL}.{name}", self._message(all=True)))

    def _take_part(
        self, name: str, other: _Other, version: int, told: dict[str, Any], members: Counts
    ) -> None:
        part, parts = told.get("part"), told.get("parts")
        if not other.asked or version < other.version:
            return
        if part == 0:
            other.parts, other.parts_version = [], version
        elif part != len(other.parts) or version != other.parts_version:
            return  # some are missing; it is asked again
        other.parts.append(members)
        if len(other.parts) != parts:
            return
        counts: Counts = {}
        for told_members in other.parts:
            for topic, of_topic in told_members.items():
                counts.setdefault(topic, {}).update(of_topic)
        gone = {
            topic: {member: 0 for member in of_topic if member not in counts.get(topic, {})}
            for topic, of_topic in other.counts.items()
        }
        other.parts = []
        other.asked = False
        other.version = version
        self._apply(other, gone)
        self._apply(other, counts)
        held, other.held = other.held, {}
        for held_version in sorted(held):
            if held_version == other.version + 1:
                other.version = held_version
                self._apply(other, held[held_version])
            elif held_version > other.version:
                self._ask(name, other)
                break

    def _apply(self, other: _Other, members: Counts) -> None:
        """Count what another process has."""
        for topic, of_topic in members.items():
            known = other.counts.get(topic)
            if known is None:
                known = other.counts[topic] = {}
            for member, count in of_topic.items():
                before = known.get(member, 0)
                if count and not before and self._known >= MAX_KNOWN:
                    self.left_out += 1
                    continue
                if count:
                    known[member] = count
                else:
                    known.pop(member, None)
                self._add(topic, member, count - before)
            if not known:
                del other.counts[topic]

    def _forget(self, name: str) -> None:
        other = self._others.pop(name, None)
        self._askers.pop(name, None)
        if other is not None:
            for topic, of_topic in other.counts.items():
                for member, count in of_topic.items():
                    self._add(topic, member, -count)

    def _add(self, topic: str, member: str, number: int) -> None:
        """Add to what is counted of a member, over all processes."""
        if not number:
            return
        total = self._totals.get(topic)
        if total is None:
            total = self._totals[topic] = _Total(0, {})
        before = total.members.get(member, 0)
        total.subscriptions += number
        if before + number:
            total.members[member] = before + number
        else:
            del total.members[member]
            self._known -= 1
            if not total.members:
                del self._totals[topic]
        if not before:
            self._known += 1
        if (not before or not before + number) and topic in self._watched:
            self.events.append(PresenceEvent(topic, member, not before))


def _portions(entries: Any) -> list[Counts]:
    """Return entries of topic, member, and count in portions for one message each, one at least."""
    portions: list[Counts] = [{}]
    size = 0
    for topic, member, count in entries:
        if size == MAX_TOLD:
            portions.append({})
            size = 0
        portions[-1].setdefault(topic, {})[member] = count
        size += 1
    return portions


def _checked(members: Any) -> Counts:
    """Return what a process tells of members, if it can be that.

    Raises:
        ValueError, TypeError, AttributeError: If it can't.
    """
    for of_topic in members.values():
        for member, count in of_topic.items():
            if not isinstance(count, int) or not 0 <= count <= 2**31:
                raise ValueError(f"no count: {count!r}")
            check_name(member, "a member")
    checked: Counts = members
    return checked
