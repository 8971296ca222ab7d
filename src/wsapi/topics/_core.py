"""What one process knows of its topics, without I/O, clock, locks, or event loop.

Three sides call it. The runner brings what the bus tells (``notice``, ``interrupted``, ``resumed``,
``suspect``) and carries out the requests in ``outbox``, whose results it brings back
(``followed``, ``unfollowed``, ``page``, ``failed``). The front-end brings who subscribes
(``subscribe``, ``advance``, ``unsubscribe``) and does what ``events`` say. Both may be filled by
any call: whoever has called looks into both afterwards. Calls must not overlap; ``now`` is the time
of any clock that never goes back, the same in all calls.

Messages go to subscribers by ``sink.broadcast(prepared, compress, terms)``, which never waits and
never calls back: the drivers of connections have it.

Each topic has a cursor, the position of its last message that was delivered here. A notice that
follows it is delivered; any other one is held, and what is missing is read. There is one request of
a topic under way at most, besides one read for subscribers that come back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final, TypeAlias

from wsproto_fast import PreparedMessage

from ._history import ENTRY_OVERHEAD, Entry, History, Ring
from ._requests import Follow, Read, Request, Unfollow
from ._subscribers import (
    Counters,
    Event,
    Happening,
    State,
    Status,
    Step,
    Subscriber,
    Topic,
    Wait,
)
from .bus import Message, Notice, Page
from .exceptions import BusUnavailable, TopicLimitExceeded
from .positions import Position

__all__ = ["Core"]

PAGE_SIZE: Final = 256
"""Messages that are read at once, at most."""

CHUNK_SIZE: Final = 64
"""Messages that a subscriber that catches up is given at once, at most."""

MAX_HELD: Final = 1024
"""Notices of a topic that are held while a hole before them is filled; then they are read, too."""

MAX_HELD_SIZE: Final = 2**20
"""Bytes of these notices."""

CATCH_UP_MESSAGES: Final = 1024
"""Messages of a topic that are kept for subscribers that catch up, whatever its history is."""

MAX_ATTEMPTS: Final = 6
"""Reads that fail, or don't find what was noticed, before a gap is told of."""

UNFOLLOW_RETRY: Final = 1.0
"""Seconds after which a topic is unfollowed again if that failed, at least."""

FIRST_RETRY: Final = 0.05
"""Seconds before the second of these reads; each of the next ones waits twice as long."""


Wrap: TypeAlias = Callable[[str, Position | None, Message], Message]


class Core:
    """The topics of one process.

    Args:
        bus: Whether there is a bus. Without one, whoever publishes calls ``publish``.
        history: What is kept of each topic; with a bus, what is kept in this process.
        epoch: What epochs of this process begin with, at random: letters and digits, 48 at most.
        wrap: Makes what subscribers get from the name of a topic, a position, and a message; None
            if that is the message.
        unfollow_delay: Seconds for which a topic is followed without subscribers.
        close_on_trouble: Whether all subscribers are to be closed after trouble.
        max_topics: Most topics; None for no limit.
        max_subscribers: Most subscribers of a topic; None for no limit.

    Attributes:
        outbox: Requests to the bus, in order; the runner takes them out.
        events: What the front-end is told of, in order; it takes them out.
        counters: What has happened so far.
        payload: What is being given to sinks, for those that need it as it was.
    """

    def __init__(
        self,
        *,
        bus: bool,
        history: History,
        epoch: str,
        wrap: Wrap | None = None,
        unfollow_delay: float = 10.0,
        close_on_trouble: bool = False,
        max_topics: int | None = None,
        max_subscribers: int | None = None,
    ) -> None:
        self.outbox: deque[Request] = deque()
        self.events: deque[Event] = deque()
        self.counters = Counters()
        self.payload: Message | None = None
        self._bus = bus
        self._history = history
        self._catch_up_history = History(CATCH_UP_MESSAGES, history.bytes, history.seconds)
        self._epoch = epoch
        self._epochs = 0
        self._wrap = wrap
        self._unfollow_delay = unfollow_delay
        self._close_on_trouble = close_on_trouble
        self._max_topics = max_topics
        self._max_subscribers = max_subscribers
        self._topics: dict[str, Topic] = {}
        # Topics without subscribers, and when they are forgotten: in order, since the delay is one.
        self._idle: dict[Topic, float] = {}
        self._retries: dict[Topic, float] = {}
        self._audited: list[str] = []  # names of topics that were not audited in this round

    # ----------------------------------------------------------------- for the runner: what happens

    def notice(self, notice: Notice, now: float) -> None:
        """Take a message of a followed topic."""
        topic = self._topics.get(notice.topic)
        if topic is None:
            return
        if topic.status is Status.LIVE:
            position, cursor = notice.position, topic.cursor
            if (
                position is None
                or cursor is None
                or (
                    notice.previous == cursor.offset < position.offset
                    and position.epoch == cursor.epoch
                )
            ):
                self._deliver(topic, notice, now)
            else:
                self._take_other(topic, notice, now)
        elif topic.status is not Status.UNFOLLOWING:
            self._hold(topic, notice)

    def interrupted(self, now: float) -> None:
        """Note that messages may be missing from now on."""

    def resumed(self, now: float) -> None:
        """Have read what came while the bus was away."""
        self.counters.resumed += 1
        for topic in list(self._topics.values()):
            if self._close_on_trouble:
                self._close_all(topic)
            self._fill(topic, now)

    def suspect(self, name: str, now: float) -> None:
        """Have read what may be missing of a topic."""
        topic = self._topics.get(name)
        if topic is not None:
            self._fill(topic, now)

    def audit(self, limit: int) -> list[tuple[str, Position]]:
        """Return topics whose positions are to be asked for, others each time, and their cursors.

        A last message that was lost shows nowhere else. What the bus answers goes to ``audited``.

        Args:
            limit: Most topics to return.
        """
        found: list[tuple[str, Position]] = []
        if not self._audited:
            self._audited = list(self._topics)
        while self._audited and len(found) < limit:
            topic = self._topics.get(self._audited.pop())
            if topic is not None and topic.status is Status.LIVE and topic.cursor is not None:
                found.append((topic.name, topic.cursor))
        return found

    def audited(self, name: str, before: Position, position: Position | None, now: float) -> bool:
        """Compare what the bus says with what is known here, and have read what is missing.

        Args:
            name: Name of the topic.
            before: Cursor, from ``audit``.
            position: Position of the topic's last message, from the bus.
            now: Current time.

        Returns:
            Whether they agree, as far as one can tell.
        """
        topic = self._topics.get(name)
        if topic is None or topic.cursor is None or topic.status is not Status.LIVE:
            return True
        if (
            position is not None
            and position.epoch == topic.cursor.epoch
            and min(before.offset, topic.cursor.offset) <= position.offset <= topic.cursor.offset
        ):
            return True
        if topic.cursor.epoch != before.epoch:
            return True  # it began anew meanwhile
        self._fill(topic, now)
        return False

    # ---------------------------------------------------------------- for the runner: what came out

    def followed(self, request: Follow, position: Position | None, now: float) -> None:
        """Take the result of ``Bus.follow``."""
        topic = self._topics.get(request.topic)
        if topic is None or topic.request is not request:
            return
        topic.request = None
        topic.status = Status.LIVE
        self._set_cursor(topic, position)
        self._wake(topic, Wait.FOLLOW)
        if not topic.interest:
            self._rest(topic, now)
        if topic.again:
            topic.again = False
            self._fill(topic, now)
            return
        topic.decided = 0
        self._take_held(topic, now)

    def unfollowed(self, request: Unfollow, now: float) -> None:
        """Take the result of ``Bus.unfollow``."""
        topic = self._topics.get(request.topic)
        if topic is None or topic.request is not request:
            return
        if topic.interest:
            self._follow(topic)
        else:
            del self._topics[topic.name]

    def page(self, request: Read, page: Page, now: float) -> None:
        """Take the result of ``Bus.read``."""
        topic = self._topics.get(request.topic)
        if topic is None:
            return
        if topic.request is request:
            topic.request = None
            self._take_page(topic, page, now)
        elif topic.reading is request:
            topic.reading = None
            self._serve_readers(topic, request, page, now)

    def failed(self, request: Request, exception: Exception, now: float) -> None:
        """Note that the bus didn't do it, or hasn't answered in time."""
        topic = self._topics.get(request.topic)
        if topic is None:
            return
        if topic.request is request:
            topic.request = None
            if isinstance(request, Follow):
                self._fail(topic, list(topic.catching_up), exception)
                del self._topics[topic.name]
            elif isinstance(request, Unfollow):
                # It is still followed, but its notices were ignored meanwhile.
                topic.status = Status.LIVE
                self._wake(topic, Wait.FOLLOW)
                if not topic.interest:
                    self._rest(topic, now, at_least=UNFOLLOW_RETRY)
                self._fill(topic, now)
            elif topic.again:
                topic.again = False
                self._fill(topic, now)
            else:
                # Those that live are behind, which the front-end says; these needn't begin so.
                ahead = [s for s in topic.catching_up if s._waiting is Wait.AHEAD]
                self._fail(topic, ahead, exception)
                self._retry(topic, now)
                topic.failures += 1
        elif topic.reading is request:
            topic.reading = None
            readers, topic.readers = topic.readers, None
            self._fail(topic, list(readers or ()), exception)

    def next_timeout(self) -> float | None:
        """Return when ``handle_timeout`` is to be called; None if that isn't necessary."""
        first = min(self._retries.values(), default=inf)
        for deadline in self._idle.values():
            first = min(first, deadline)
            break
        return None if first == inf else first

    def handle_timeout(self, now: float) -> None:
        """Do what is due: unfollow what nobody wants any more, and read what couldn't be read."""
        self._forget_idle(now)
        for topic in [topic for topic, when in self._retries.items() if when <= now]:
            del self._retries[topic]
            self._fill(topic, now)

    # ---------------------------------------------------------------------------- for the front-end

    def publish(self, name: str, message: Message, now: float) -> Position | None:
        """Publish a message to the subscribers of this process: all there are without a bus.

        Returns:
            Its position; None without history.

        Raises:
            TopicLimitExceeded: If there are too many topics with a history.
            Exception: What the envelope raises. Then nothing has changed.
        """
        assert not self._bus
        self._forget_idle(now)
        topic = self._topics.get(name)
        if topic is None:
            if not self._history.messages:
                self.counters.published += 1
                return None
            self._make_room(now)
            topic = self._begin(name)
        cursor = topic.cursor
        if cursor is not None:
            cursor = Position(cursor.epoch, cursor.offset + 1)
        try:
            payload = message if self._wrap is None else self._wrap(name, cursor, message)
            prepared = PreparedMessage(payload)
        except BaseException:
            if not topic.interest and cursor is not None and cursor.offset == 1:
                del self._topics[name]
            raise
        self.counters.published += 1
        self._keep(topic, cursor, payload, b"", now)
        self._send(topic, payload, prepared)
        if not topic.interest:
            self._rest(topic, now)
        return cursor

    def subscribe(
        self, name: str, subscriber: Subscriber, since: Position | None, now: float
    ) -> None:
        """Add a subscriber, which is to be advanced until it is live.

        Args:
            name: Name of the topic.
            subscriber: One that never subscribed before.
            since: Position after which it goes on; None to begin with what comes.
            now: Current time.

        Raises:
            TopicLimitExceeded: If there are too many topics, or subscribers of this one.
        """
        self._forget_idle(now)
        topic = self._topics.get(name)
        if topic is None:
            self._make_room(now)
            topic = self._begin(name)
        elif self._max_subscribers is not None and topic.interest >= self._max_subscribers:
            raise TopicLimitExceeded(
                f"topic {name!r} has {self._max_subscribers} subscribers already"
            )
        self._idle.pop(topic, None)
        subscriber._topic = topic
        subscriber._position = since
        subscriber.state = State.FRESH if since is None else State.SINCE
        topic.catching_up[subscriber] = None
        self._keep_ring(topic)

    def advance(self, subscriber: Subscriber, now: float) -> list[Entry] | Step:
        """Take a subscriber a step on, until it is live.

        Returns:
            Messages to be sent to it, all of them, before it is advanced again; or what else is to
            be done.

        Raises:
            Exception: Why it failed; it is gone then.
        """
        topic = subscriber._topic
        assert topic is not None
        self._stop_waiting(topic, subscriber)
        if subscriber.state is State.LIVE:
            return Step.LIVE
        if subscriber.state is State.FAILED:
            assert subscriber.error is not None
            self.unsubscribe(subscriber, now)
            raise subscriber.error
        assert subscriber.state is not State.GONE
        if topic.status in (Status.FOLLOWING, Status.UNFOLLOWING):
            subscriber._waiting = Wait.FOLLOW
            return Step.WAIT
        if subscriber.state is State.FRESH:
            subscriber._position = topic.cursor
            subscriber.state = State.CATCHING_UP
            return Step.KNOWN
        step = self._go_on(topic, subscriber, now)
        if step is Step.GAP:
            self._place(topic, subscriber)
        if subscriber.state is State.SINCE and step is not Step.WAIT:
            # Messages that were found are found again, or kept, until they are asked for.
            subscriber.recovered = step is not Step.GAP
            subscriber.state = State.CATCHING_UP
            return Step.KNOWN
        if step is Step.LIVE:
            self._end_catching_up(topic, subscriber)
            subscriber._position = None
            subscriber.state = State.LIVE
            topic.live[subscriber] = None
        elif isinstance(step, list):
            assert subscriber._position is not None
            subscriber._position = Position(subscriber._position.epoch, step[-1].offset)
            subscriber._page = None
            self.counters.caught_up += len(step)
        return step

    def unsubscribe(self, subscriber: Subscriber, now: float) -> None:
        """Remove a subscriber, wherever it is; nothing if it is gone."""
        topic = subscriber._topic
        if topic is None or subscriber.state is State.GONE:
            return
        subscriber._position = subscriber.position
        if subscriber.state is State.LIVE:
            del topic.live[subscriber]
        else:
            self._end_catching_up(topic, subscriber)
        subscriber.state = State.GONE
        subscriber._page = None
        if not topic.interest:
            self._rest(topic, now)

    def position(self, name: str) -> Position | None:
        """Return the cursor of a topic; None without history, or if it isn't known here."""
        topic = self._topics.get(name)
        return None if topic is None else topic.cursor

    def subscribers(self, name: str) -> int:
        """Return how many subscribers a topic has in this process."""
        topic = self._topics.get(name)
        return 0 if topic is None else topic.interest

    @property
    def topics(self) -> int:
        """How many topics are known here."""
        return len(self._topics)

    # --------------------------------------------------------------------------- topics: begin, end

    def _begin(self, name: str) -> Topic:
        topic = self._topics[name] = Topic(name, Status.LIVE, None)
        if self._bus:
            self._follow(topic)
        elif self._history.messages:
            self._epochs += 1
            self._set_cursor(topic, Position(f"{self._epoch}{self._epochs:x}", 0))
        return topic

    def _follow(self, topic: Topic) -> None:
        topic.status = Status.FOLLOWING
        topic.held, topic.held_size, topic.again = None, 0, False
        topic.request = Follow(topic.name)
        self.outbox.append(topic.request)

    def _rest(self, topic: Topic, now: float, at_least: float = 0.0) -> None:
        """Forget a topic that nobody subscribes to, later."""
        if self._topics.get(topic.name) is not topic:
            return
        if self._bus:
            if topic.status not in (Status.FOLLOWING, Status.UNFOLLOWING):
                self._idle.setdefault(topic, now + max(self._unfollow_delay, at_least))
            return
        if topic.ring is None or not len(topic.ring):
            # The history begins anew, and whoever comes with a position of this one is told so.
            self._idle.pop(topic, None)
            del self._topics[topic.name]
        elif self._history.seconds is not None:
            self._idle.pop(topic, None)
            self._idle[topic] = now + self._history.seconds
        else:
            self._idle[topic] = inf

    def _forget_idle(self, now: float) -> None:
        while self._idle:
            topic, deadline = next(iter(self._idle.items()))
            if deadline > now:
                break
            self._forget(topic)

    def _forget(self, topic: Topic) -> None:
        del self._idle[topic]
        if self._bus:
            self._retries.pop(topic, None)
            topic.status = Status.UNFOLLOWING
            topic.held, topic.held_size, topic.again = None, 0, False
            topic.request = Unfollow(topic.name)
            self.outbox.append(topic.request)
        else:
            del self._topics[topic.name]

    def _make_room(self, now: float) -> None:
        """See to it that there can be another topic."""
        if self._max_topics is None or len(self._topics) < self._max_topics:
            return
        if not self._idle:
            raise TopicLimitExceeded(f"there are {self._max_topics} topics already")
        self._forget(next(iter(self._idle)))

    def _set_cursor(self, topic: Topic, position: Position | None) -> None:
        """Begin anew at a position: what is before it isn't known here."""
        topic.cursor = position
        topic.mark = b""
        topic.ring = None
        topic.floor = 0
        if position is not None:
            topic.floor = position.offset
            if self._history.messages:
                topic.ring = Ring(self._history, position.offset)
            else:
                self._keep_ring(topic)

    def _keep_ring(self, topic: Topic) -> None:
        """Keep messages from now on if somebody has to catch up with them."""
        if topic.ring is None and topic.cursor is not None and topic.catching_up:
            topic.ring = Ring(self._catch_up_history, topic.cursor.offset)

    # ----------------------------------------------------------------------------------- delivering

    def _deliver(self, topic: Topic, notice: Notice, now: float) -> None:
        """Deliver what follows the cursor."""
        payload, prepared = notice.message, None
        try:
            if self._wrap is not None:
                payload = self._wrap(topic.name, notice.position, notice.message)
            prepared = PreparedMessage(payload)
        except Exception as exc:
            self.events.append(Event(Happening.ENVELOPE, reason=exc))
        if prepared is None:
            # It can't be delivered to anybody, which must not go unnoticed.
            self._lose(topic, notice.position)
            return
        self._keep(topic, notice.position, payload, notice.mark, now)
        self._send(topic, payload, prepared)

    def _keep(
        self, topic: Topic, position: Position | None, payload: Message, mark: bytes, now: float
    ) -> None:
        if position is None or topic.cursor is None:
            return
        topic.cursor = position
        topic.mark = mark
        if topic.ring is not None:
            topic.ring.add(position.offset, payload, _size(payload), mark, now)
        if topic.ahead:
            for subscriber in topic.catching_up:
                if subscriber._waiting is Wait.AHEAD:
                    assert subscriber._position is not None
                    if subscriber._position.offset <= position.offset:
                        self._ready(topic, subscriber)

    def _send(self, topic: Topic, payload: Message, prepared: PreparedMessage) -> None:
        self.payload = payload
        live = list(topic.live)
        for subscriber in live:
            try:
                if subscriber.sink.broadcast(prepared, subscriber.compress, subscriber.terms):
                    continue
                self.events.append(Event(Happening.REFUSED, subscriber))
            except Exception as exc:
                self.events.append(Event(Happening.REFUSED, subscriber, exc))
        self.payload = None
        self.counters.delivered += len(live)

    def _lose(self, topic: Topic, latest: Position | None) -> None:
        """Go on at a position, and tell all who are live that what is before it is lost."""
        self.counters.gaps += 1
        self._set_cursor(topic, latest)
        live, topic.live = topic.live, {}
        topic.catching_up.update(live)
        for subscriber in live:
            subscriber.state = State.CATCHING_UP
            subscriber._position = latest
            self.events.append(Event(Happening.GAP, subscriber))
        self._keep_ring(topic)
        self._wake(topic, Wait.AHEAD)

    def _close_all(self, topic: Topic) -> None:
        live, topic.live = topic.live, {}
        topic.catching_up.update(live)
        for subscriber in live:
            subscriber.state = State.CATCHING_UP
            subscriber._position = topic.cursor
            self.events.append(Event(Happening.CLOSE, subscriber))

    # -------------------------------------------------------------------------------------- filling

    def _take_other(self, topic: Topic, notice: Notice, now: float) -> None:
        """Take a notice that doesn't follow the cursor."""
        known = self._is_known(topic, notice)
        if known:
            self.counters.duplicates += 1
            return
        if known is None:
            self._distrust(topic)
        self._hold(topic, notice)
        self._fill(topic, now)

    def _is_known(self, topic: Topic, notice: Notice) -> bool | None:
        """Tell whether a message came before; None if another one had its position."""
        assert notice.position is not None
        assert topic.cursor is not None
        epoch, offset = notice.position
        if epoch != topic.cursor.epoch or offset > topic.cursor.offset:
            return False
        if offset <= topic.floor:
            return True
        mark = topic.mark if offset == topic.cursor.offset else None
        if mark is None and topic.ring is not None:
            mark = topic.ring.mark(offset)
        if mark is None:
            return False
        return True if mark == notice.mark else None

    def _distrust(self, topic: Topic) -> None:
        """Note that the broker has lost messages, and gives their positions to others."""
        topic.reused = True

    def _hold(self, topic: Topic, notice: Notice) -> None:
        if notice.position is None:
            return  # whoever subscribes is owed nothing of what comes before that is done
        if topic.held is None:
            topic.held, topic.held_size = deque(), 0
        topic.held.append(notice)
        topic.held_size += _size(notice.message) + ENTRY_OVERHEAD
        if len(topic.held) > MAX_HELD or topic.held_size > MAX_HELD_SIZE:
            topic.held, topic.held_size, topic.decided = None, 0, 0
            topic.again = True

    def _fill(self, topic: Topic, now: float) -> None:
        """Have read what follows the cursor."""
        if topic.status is Status.UNFOLLOWING or not self._bus:
            return
        self._retries.pop(topic, None)
        if topic.request is not None:
            topic.again = True
            return
        if topic.cursor is None:
            # Nobody can tell whether something is missing.
            self._lose(topic, None)
            return
        topic.status = Status.FILLING
        topic.decided = 0 if topic.held is None else len(topic.held)
        topic.request = Read(topic.name, topic.cursor, PAGE_SIZE)
        self.outbox.append(topic.request)

    def _retry(self, topic: Topic, now: float) -> None:
        """Have it read later, again and again."""
        count = topic.failures + topic.attempts
        self._retries[topic] = now + FIRST_RETRY * 2 ** min(count, MAX_ATTEMPTS)

    def _take_page(self, topic: Topic, page: Page, now: float) -> None:
        """Take what was missing."""
        topic.failures = 0
        cursor = topic.cursor
        assert cursor is not None
        if not page.reaches or topic.reused:
            if topic.reused:
                topic.reused = False
                topic.distrusted = page.latest
            self._lose(topic, page.latest)
        else:
            progress = False
            for notice in page.notices:
                position = notice.position
                if position is not None and position.offset > cursor.offset:
                    self.counters.filled += 1
                    self._deliver(topic, notice, now)
                    cursor = position
                    topic.attempts = 0
                    progress = True
            if page.latest.offset > cursor.offset:
                if progress or topic.attempts < MAX_ATTEMPTS:
                    self._go_on_filling(topic, now, at_once=progress)
                    return
                self._lose(topic, page.latest)
        if topic.again:
            topic.again = False
            self._fill(topic, now)
            return
        self._take_held(topic, now)

    def _go_on_filling(self, topic: Topic, now: float, *, at_once: bool) -> None:
        topic.again = False
        if at_once:
            self._fill(topic, now)
        else:
            self._retry(topic, now)
            topic.attempts += 1

    def _take_held(self, topic: Topic, now: float) -> None:
        """Deliver what was held, as far as it follows the cursor."""
        while topic.held:
            notice, cursor = topic.held[0], topic.cursor
            position = notice.position
            # What came before the read began, the read would have found.
            decided = topic.decided > 0
            if position is None or cursor is None:
                pass
            elif position.epoch != cursor.epoch:
                if not decided:
                    self._fill(topic, now)
                    return
            elif notice.previous == cursor.offset < position.offset:
                self._deliver(topic, notice, now)
            elif position.offset > cursor.offset:
                if not decided or topic.attempts < MAX_ATTEMPTS:
                    self._go_on_filling(topic, now, at_once=not decided)
                    return
                # The broker doesn't have what was before it any more.
                self._lose(topic, Position(cursor.epoch, notice.previous))
                continue
            else:
                known = self._is_known(topic, notice)
                if known:
                    self.counters.duplicates += 1
                elif known is None or not decided:
                    topic.reused = known is None
                    if known is None:
                        self._release(topic)
                    self._fill(topic, now)
                    return
            self._release(topic)
        topic.held, topic.held_size, topic.decided = None, 0, 0
        topic.attempts = 0
        topic.status = Status.LIVE
        if topic.ahead:
            # The bus knew their positions, and has lost them since: this was read later.
            for subscriber in topic.catching_up:
                if subscriber._waiting is Wait.AHEAD:
                    subscriber._lost = True
                    self._ready(topic, subscriber)

    def _release(self, topic: Topic) -> None:
        assert topic.held is not None
        notice = topic.held.popleft()
        topic.held_size -= _size(notice.message) + ENTRY_OVERHEAD
        topic.decided = max(topic.decided - 1, 0)

    # ---------------------------------------------------------------------------------- catching up

    def _go_on(self, topic: Topic, subscriber: Subscriber, now: float) -> list[Entry] | Step:
        """Return the next step of a subscriber that has a position."""
        cursor, position = topic.cursor, subscriber._position
        page = subscriber._page
        if subscriber._lost:
            return Step.GAP
        if page:
            return page
        if cursor is None or position is None:
            return Step.LIVE if cursor is position else Step.GAP
        distrusted = topic.distrusted
        if (
            distrusted is not None
            and distrusted.epoch == position.epoch
            and distrusted.offset > position.offset
        ):
            return Step.GAP
        if position == cursor:
            return Step.LIVE
        if position.epoch == cursor.epoch:
            if position.offset < cursor.offset:
                if topic.ring is not None:
                    topic.ring.expire(now)
                    if topic.ring.reaches(position.offset):
                        return topic.ring.after(position.offset, CHUNK_SIZE)
                if page is not None:
                    return Step.GAP  # the bus said that nothing follows
            elif page is not None or subscriber.state is State.CATCHING_UP:
                # The bus knows the position, and its notices haven't come.
                if subscriber.state is State.CATCHING_UP:
                    subscriber._waiting = Wait.AHEAD
                    topic.ahead += 1
                    self._fill(topic, now)
                return Step.WAIT if subscriber.state is State.CATCHING_UP else Step.KNOWN
        if not self._bus:
            return Step.GAP
        subscriber._waiting = Wait.READ
        if topic.readers is None:
            topic.readers = deque()
        topic.readers.append(subscriber)
        self._read_for(topic)
        return Step.WAIT

    def _read_for(self, topic: Topic) -> None:
        """Have read what the first one of those who wait for it needs."""
        if topic.reading is None and topic.readers:
            since = topic.readers[0]._position
            assert since is not None
            topic.reading = Read(topic.name, since, PAGE_SIZE)
            self.outbox.append(topic.reading)

    def _serve_readers(self, topic: Topic, request: Read, page: Page, now: float) -> None:
        """Give what was read to all whom it helps."""
        since = request.since
        try:
            entries = self._entries(topic, since, page, now)
        except Exception as exc:
            self.events.append(Event(Happening.ENVELOPE, reason=exc))
            readers, topic.readers = topic.readers, None
            self._fail(topic, list(readers or ()), exc)
            return
        if page.reaches:
            self._extend_back(topic, since, entries)
        last = entries[-1].offset if entries else since.offset
        readers, topic.readers = topic.readers, None
        others: deque[Subscriber] = deque()
        for subscriber in readers or ():
            position = subscriber._position
            assert position is not None
            if position == since and not page.reaches:
                subscriber._lost = True
                subscriber._latest = page.latest
            elif position == since:
                subscriber._page = entries
                if not page.notices:
                    # Another process may name the end of the topic by another number.
                    subscriber._position = page.latest
            elif page.reaches and (
                position.epoch == since.epoch and since.offset < position.offset < last
            ):
                subscriber._page = [entry for entry in entries if entry.offset > position.offset]
            else:
                others.append(subscriber)
                continue
            self._ready(topic, subscriber)
        if others:
            topic.readers = others
            self._read_for(topic)

    def _entries(self, topic: Topic, since: Position, page: Page, now: float) -> list[Entry]:
        """Return what was read, as subscribers get it."""
        entries: list[Entry] = []
        for notice in page.notices if page.reaches else ():
            position = notice.position
            if position is not None and position.offset > since.offset:
                payload = notice.message
                if self._wrap is not None:
                    payload = self._wrap(topic.name, position, payload)
                size = _size(payload) + ENTRY_OVERHEAD
                entries.append(Entry(position.offset, payload, notice.mark, now, size))
        return entries

    def _extend_back(self, topic: Topic, since: Position, entries: list[Entry]) -> None:
        """Keep what was read for the next one, if it joins what is kept."""
        ring, cursor = topic.ring, topic.cursor
        if ring is None or cursor is None or cursor.epoch != since.epoch:
            return
        last = entries[-1].offset if entries else since.offset
        if since.offset < ring.base <= last:
            ring.extend_back(
                [entry for entry in entries if entry.offset <= ring.base], since.offset
            )

    def _place(self, topic: Topic, subscriber: Subscriber) -> None:
        """Put a subscriber where its topic is, here or on the bus: it must not be sent back."""
        cursor, latest = topic.cursor, subscriber._latest
        if cursor and latest and latest.epoch == cursor.epoch and latest.offset > cursor.offset:
            cursor = latest
        subscriber._position = cursor
        subscriber._latest = None
        subscriber._page = None
        subscriber._lost = False

    def _end_catching_up(self, topic: Topic, subscriber: Subscriber) -> None:
        self._stop_waiting(topic, subscriber)
        del topic.catching_up[subscriber]
        if not topic.catching_up and not self._history.messages:
            topic.ring = None

    def _stop_waiting(self, topic: Topic, subscriber: Subscriber) -> None:
        if subscriber._waiting is Wait.AHEAD:
            topic.ahead -= 1
        elif subscriber._waiting is Wait.READ and topic.readers and subscriber in topic.readers:
            topic.readers.remove(subscriber)
        subscriber._waiting = None

    def _ready(self, topic: Topic, subscriber: Subscriber) -> None:
        self._stop_waiting(topic, subscriber)
        self.events.append(Event(Happening.READY, subscriber))

    def _wake(self, topic: Topic, reason: Wait) -> None:
        for subscriber in topic.catching_up:
            if subscriber._waiting is reason:
                self._ready(topic, subscriber)

    def _fail(self, topic: Topic, subscribers: list[Subscriber], exception: Exception) -> None:
        for subscriber in subscribers:
            error: Exception = BusUnavailable(str(exception))
            error.__cause__ = exception
            subscriber.state = State.FAILED
            subscriber.error = error
            self._ready(topic, subscriber)


def _size(message: Message) -> int:
    """Return the size of a message's payload."""
    if isinstance(message, bytes) or message.isascii():
        return len(message)
    return len(message.encode(errors="surrogatepass"))
