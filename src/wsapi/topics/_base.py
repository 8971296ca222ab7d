"""What the topics of all front-ends have in common, without an event loop or threads.

Owns the options, who has subscribed by which connection, and what follows from the events of the
core. Front-ends own how one waits, and how a connection is sent to and closed.
"""

from __future__ import annotations

import logging
import secrets
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

from wsproto_fast import Backpressure, Slow
from wsproto_fast.frames import CloseCode
from wsproto_fast.typing import LoggerLike

from .._shared.checks import check_callable, check_instance, check_logger
from .._shared.connection import SkippedBroadcasts
from .._shared.leaving import check_seconds
from ._core import Core
from ._history import History
from ._names import check_name
from ._subscribers import Counters, Event, Happening, Sink, State, Subscriber
from ._url import bus_of
from .bus import Bus, Message
from .exceptions import TopicLimitExceeded
from .positions import Position
from .presence import Presence, PresenceEvent, Roll

__all__ = ["Action", "BaseTopics", "Recipient", "Subscription", "TopicsStats"]

Action: TypeAlias = Literal["subscribe", "publish"]

Authorize: TypeAlias = Callable[[Any, str, Action], bool | Awaitable[bool]]

Envelope: TypeAlias = Callable[[str, Position | None, Message], Message]

OnPresence: TypeAlias = Callable[[PresenceEvent], object]

OnHealth: TypeAlias = Callable[[bool, str], object]

BUS_HISTORY: Final = History(messages=1024)
"""What a process keeps of a topic if there is a bus, unless it is told otherwise."""

LOST: Final = "messages may be missing: come again"
BEHIND: Final = "too far behind: come again"
LEAVING: Final = "topics are closed: come again"

_BUS_METHODS: Final = ("open", "close", "publish", "follow", "unfollow", "position", "read")


class Subscription(Subscriber):
    """What a connection has subscribed to; ``Topics.subscribe`` makes it.

    Attributes:
        connection: The connection, or whatever was given for it.
        member: Name of the member that it makes present on the topic; None if none.
        recovered: Whether all messages after the position that it came with were sent, or are on
            their way: if it is False, the history doesn't reach back, and what the client knows is
            to be loaded anew. None if it came without a position.
    """

    __slots__ = ("_announce", "_on_gap", "_recipient", "_topics", "_waiter", "connection", "member")

    def __init__(
        self,
        topics: BaseTopics,
        connection: Any,
        recipient: Recipient,
        *,
        compress: bool | None,
        terms: Backpressure,
        announce: Announce | None,
        on_gap: OnGap | None,
        member: str | None,
    ) -> None:
        super().__init__(recipient.sink, compress, terms)
        self.connection = connection
        self.member = member
        self._topics = topics
        self._recipient = recipient
        self._announce = announce
        self._on_gap = on_gap
        self._waiter: Any = None  # what the front-end waits on until it can be advanced

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.topic!r} {self.state.name} {self.connection!r}>"

    @property
    def topic(self) -> str | None:
        """Name of the topic; None before it is subscribed to."""
        return None if self._topic is None else self._topic.name

    @property
    def active(self) -> bool:
        """Whether it is, or will be, given messages."""
        return self.state is not State.GONE

    def unsubscribe(self) -> None:
        """End it: no message is sent any more that isn't on its way. Nothing if it has ended."""
        self._topics._leave(self)


Announce: TypeAlias = Callable[[Subscription], Message | None]

OnGap: TypeAlias = Callable[[Subscription], Message | None]


class Recipient:
    """A connection that subscribes, whatever it is.

    Args:
        connection: The connection.
        sink: What takes messages for it.
    """

    __slots__ = ("connection", "sink", "subscriptions")

    def __init__(self, connection: Any, sink: Sink) -> None:
        self.connection = connection
        self.sink = sink
        self.subscriptions: list[Subscription] = []

    @property
    @abstractmethod
    def open(self) -> bool:
        """Whether messages can be sent to it."""

    @abstractmethod
    def tell(self, message: Message, compress: bool | None, terms: Backpressure) -> bool:
        """Send a message of this connection's own, without waiting; return as a sink does."""

    @abstractmethod
    def explain(self, reason: Exception | None, skipped: SkippedBroadcasts) -> None:
        """Note why the sink returned False, or raised ``reason``."""

    @abstractmethod
    def close(self, code: CloseCode, reason: str) -> None:
        """Begin to close the connection, without waiting."""

    @abstractmethod
    def forget(self) -> None:
        """Note that it has no subscription any more."""


@dataclass(frozen=True, slots=True)
class TopicsStats:
    """What the topics of this process have, and have done.

    Attributes:
        topics: Topics that somebody subscribes to, or did until lately, or that have a history.
        connections: Connections that have subscribed.
        subscriptions: Their subscriptions.
        healthy: Whether the bus brings what is published.
        counters: What has happened so far.
        bus: What else was counted about the bus; empty without one.
    """

    topics: int
    connections: int
    subscriptions: int
    healthy: bool
    counters: Counters
    bus: Mapping[str, float]


class BaseTopics:
    """Topics of one process, whatever one waits by; front-ends document the arguments."""

    _subscription_class = Subscription

    def __init__(
        self,
        bus: Bus | str | None = None,
        *,
        history: History | None = None,
        slow: Slow = Slow.CLOSE,
        max_backlog: int | None = 2**20,
        on_gap: Literal["fill", "close"] = "fill",
        spread: float = 5.0,
        max_message_size: int = 2**20,
        max_topics: int | None = None,
        max_subscribers: int | None = None,
        max_subscriptions: int | None = 100,
        unfollow_delay: float = 10.0,
        publish_queue: int = 0,
        publish_timeout: float = 10.0,
        heartbeat: float = 5.0,
        authorize: Authorize | None = None,
        envelope: Envelope | None = None,
        on_health: OnHealth | None = None,
        logger: LoggerLike | None = None,
    ) -> None:
        if isinstance(bus, str):
            bus = bus_of(bus)
        if isinstance(bus, type):
            raise TypeError(f"bus must be an instance of a class; {bus.__name__} is the class")
        missing = [name for name in _BUS_METHODS if not callable(getattr(bus, name, None))]
        if bus is not None and missing:
            raise TypeError(f"bus must be a Bus, a URL, or None; {bus!r} has no {missing[0]}()")
        check_instance("history", history, History, "a History")
        if not isinstance(slow, Slow):
            raise TypeError(f"slow must be a member of Slow; got {slow!r}")
        if on_gap not in ("fill", "close"):
            raise ValueError(f"on_gap must be 'fill' or 'close'; got {on_gap!r}")
        for name, seconds in {
            "spread": spread,
            "unfollow_delay": unfollow_delay,
            "publish_timeout": publish_timeout,
            "heartbeat": heartbeat,
        }.items():
            check_seconds(name, seconds)
            if not seconds and name not in ("spread", "unfollow_delay"):
                raise ValueError(f"{name} must be more than 0; got {seconds}")
        _check_number("max_message_size", max_message_size, least=1)
        _check_number("publish_queue", publish_queue, least=0)
        for name, limit in {
            "max_topics": max_topics,
            "max_subscribers": max_subscribers,
            "max_subscriptions": max_subscriptions,
        }.items():
            if limit is not None:
                _check_number(name, limit, least=1, optional=True)
        check_callable("authorize", authorize)
        check_callable("envelope", envelope)
        check_callable("on_health", on_health)
        check_logger(logger)
        if history is None:
            history = History() if bus is None else BUS_HISTORY
        self._terms = Backpressure(slow, max_backlog)
        self._own_terms = Backpressure(Slow.CLOSE, max_backlog)
        self._spread = spread
        self._max_message_size = max_message_size
        self._max_subscriptions = max_subscriptions
        self._authorize = authorize
        self._logger = logging.getLogger("wsapi.topics") if logger is None else logger
        self._core = Core(
            bus=bus is not None,
            history=history,
            epoch=secrets.token_hex(8) + "x",
            wrap=envelope,
            unfollow_delay=unfollow_delay,
            close_on_trouble=on_gap == "close",
            max_topics=max_topics,
            max_subscribers=max_subscribers,
        )
        self._recipients: dict[int, Recipient] = {}  # by the identity of the connection
        self._subscriptions = 0
        self._roll = Roll(alone=bus is None)
        self._watchers: dict[str, list[OnPresence]] = {}
        self._handling = False
        self._set_up()
        if bus is not None:
            self._use(
                bus,
                heartbeat=heartbeat,
                publish_queue=publish_queue,
                publish_timeout=publish_timeout,
                on_health=on_health,
            )

    # ------------------------------------------------------------------ for everybody

    def stats(self) -> TopicsStats:
        """Return what there is, and what has happened so far."""
        return TopicsStats(
            topics=self._core.topics,
            connections=len(self._recipients),
            subscriptions=self._subscriptions,
            healthy=self.healthy,
            counters=replace(self._core.counters),
            bus=self._bus_stats(),
        )

    @property
    @abstractmethod
    def healthy(self) -> bool:
        """Whether the bus brings what is published; always True without one."""

    def subscribers(self, topic: str) -> int:
        """Return how many connections of this process subscribe to a topic.

        Args:
            topic: Name of the topic.
        """
        return self._core.subscribers(check_name(topic))

    def presence(self, topic: str, *, names: bool = False) -> Presence:
        """Return who is on a topic, in all processes: subscriptions with ``member=``.

        Each process knows that of all others: nobody is asked.

        Args:
            topic: Name of the topic.
            names: Whether to return the members' names, besides their number.
        """
        return self._roll.presence(check_name(topic), self._now(), names=names)

    def watch_presence(self, topic: str, callback: OnPresence) -> Callable[[], None]:
        """Have a callback called when members come to a topic, and go.

        Args:
            topic: Name of the topic.
            callback: Called with a ``PresenceEvent``.

        Returns:
            A function that ends that.
        """
        check_name(topic)
        check_callable("callback", callback, optional=False)
        self._watchers.setdefault(topic, []).append(callback)
        self._roll.watch(topic)
        ended = False

        def end() -> None:
            nonlocal ended
            if not ended:
                ended = True
                self._watchers[topic].remove(callback)
                if not self._watchers[topic]:
                    del self._watchers[topic]
                self._roll.unwatch(topic)

        return end

    # ------------------------------------------------------------------ checks

    def _check_message(self, message: Any) -> Message:
        """Return what can be published.

        Raises:
            TypeError, ValueError: If it can't.
        """
        if isinstance(message, str):
            # This says what is wrong with surrogates, too.
            size = len(message) if message.isascii() else len(message.encode())
        elif isinstance(message, (bytes, bytearray, memoryview)):
            message = bytes(message)
            size = len(message)
        else:
            raise TypeError(f"message must be str or bytes-like, not {type(message).__name__}")
        if size > self._max_message_size:
            raise ValueError(
                f"message has {size} bytes; max_message_size is {self._max_message_size}"
            )
        checked: Message = message
        return checked

    def _make_terms(self, topic: str, slow: Slow | None, max_backlog: int | None) -> Backpressure:
        """Return what becomes of messages while the peer doesn't read."""
        check_instance("slow", slow, Slow, "a member of Slow")
        if slow is None and max_backlog is None and self._terms.slow is not Slow.LATEST:
            return self._terms  # one object for most subscriptions
        return Backpressure(
            self._terms.slow if slow is None else slow,
            self._terms.max_backlog if max_backlog is None else max_backlog,
            key=topic,
        )

    # ------------------------------------------------------------------ who subscribes

    def _make_subscription(
        self,
        connection: Any,
        topic: str,
        slow: Slow | None,
        max_backlog: int | None,
        compress: bool | None,
        announce: Announce | None,
        on_gap: OnGap | None,
        member: str | None,
    ) -> Subscription:
        """Check the arguments of ``subscribe``, and return what isn't subscribed yet."""
        check_name(topic)
        terms = self._make_terms(topic, slow, max_backlog)
        check_instance("compress", compress, bool, "a bool")
        check_callable("announce", announce)
        check_callable("on_gap", on_gap)
        if member is not None:
            check_name(member, "a member")
        return self._subscription_class(
            self,
            connection,
            self._recipient(connection),
            compress=compress,
            terms=terms,
            announce=announce,
            on_gap=on_gap,
            member=member,
        )

    def _join(self, subscription: Subscription, topic: str, since: Position | None) -> None:
        """Subscribe; who has called advances the subscription.

        Raises:
            TopicLimitExceeded: If that is too much.
            ValueError: If the connection has subscribed to the topic.
        """
        # Others may have subscribed since it was made, or all have left.
        recipient = subscription._recipient
        recipient = subscription._recipient = self._known(recipient.connection) or recipient
        subscription.sink = recipient.sink
        limit = self._max_subscriptions
        if limit is not None and len(recipient.subscriptions) >= limit:
            raise TopicLimitExceeded(f"the connection has {limit} subscriptions already")
        if any(other.topic == topic for other in recipient.subscriptions):
            raise ValueError(f"the connection has subscribed to {topic!r} already")
        now = self._now()
        if subscription.member is not None:
            self._roll.join(topic, subscription.member, now)
        try:
            self._core.subscribe(topic, subscription, since, now)
        except BaseException:
            if subscription.member is not None:
                self._roll.leave(topic, subscription.member, now)
            raise
        recipient.subscriptions.append(subscription)
        self._subscriptions += 1
        if len(recipient.subscriptions) == 1:
            self._recipients[id(recipient.connection)] = recipient
            self._watch(recipient)

    def _leave(self, subscription: Subscription) -> None:
        """Unsubscribe; nothing if that has been done."""
        recipient = subscription._recipient
        now = self._now()
        self._core.unsubscribe(subscription, now)
        if subscription in recipient.subscriptions:
            if subscription.member is not None:
                assert subscription.topic is not None
                self._roll.leave(subscription.topic, subscription.member, now)
            recipient.subscriptions.remove(subscription)
            self._subscriptions -= 1
            if not recipient.subscriptions:
                del self._recipients[id(recipient.connection)]
                recipient.forget()
            self._wake(subscription)
        self._look()

    def _ended(self, recipient: Recipient) -> None:
        """Note that a connection is closed."""
        for subscription in list(recipient.subscriptions):
            self._leave(subscription)

    # ------------------------------------------------------------------ what the core tells

    def _look(self) -> None:
        """Do what follows from a call of the core."""
        self._handle_events()
        self._flush()

    def _handle_events(self) -> None:
        """Do what the core, and who knows of presence, tell."""
        if self._handling or not (self._core.events or self._roll.events):
            return
        self._handling = True
        refused: list[tuple[Recipient, Exception | None]] = []
        try:
            while self._core.events:
                self._handle(self._core.events.popleft(), refused)
            while self._roll.events:
                event = self._roll.events.popleft()
                for callback in self._watchers.get(event.topic, ())[:]:
                    self._call_watcher(callback, event)
        finally:
            self._handling = False
        if refused:
            self._report(refused)

    def _handle(self, event: Event, refused: list[tuple[Recipient, Exception | None]]) -> None:
        if event.happening is Happening.ENVELOPE:
            self._logger.error("envelope failed", exc_info=event.reason)
            return
        subscription = event.subscriber
        assert isinstance(subscription, Subscription)
        if event.happening is Happening.REFUSED:
            refused.append((subscription._recipient, event.reason))
        elif not subscription.active:
            pass  # it has left meanwhile
        elif event.happening is Happening.READY:
            self._wake(subscription)
        elif event.happening is Happening.CLOSE:
            self._expel(subscription, CloseCode.SERVICE_RESTART, LOST, self._spread)
        elif self._tell_of_gap(subscription, CloseCode.SERVICE_RESTART, LOST, self._spread):
            self._go_on(subscription)

    def _call_watcher(self, callback: OnPresence, event: PresenceEvent) -> None:
        try:
            callback(event)
        except Exception:
            self._logger.error("a callback for presence failed", exc_info=True)

    def _report(self, refused: list[tuple[Recipient, Exception | None]]) -> None:
        skipped = SkippedBroadcasts(raise_exceptions=False)
        for recipient, reason in refused:
            recipient.explain(reason, skipped)
        skipped.finish()
        for recipient, reason in refused:
            if not recipient.open:
                self._ended(recipient)  # who was given up, before it is closed
            elif reason is not None and recipient.subscriptions:
                # It hasn't got a message, and wouldn't know.
                self._ended(recipient)
                self._close_recipient(recipient, CloseCode.SERVICE_RESTART, LOST, 0.0)

    def _tell(self, subscription: Subscription, message: object, name: str) -> None:
        """Send what a callback has returned, at once: before what is published from now on."""
        if message is None:
            return
        if not isinstance(message, (str, bytes)):
            raise TypeError(f"{name} must return str, bytes, or None, not {type(message).__name__}")
        self._offer(subscription, message, self._own_terms)

    def _offer(self, subscription: Subscription, message: Message, terms: Backpressure) -> None:
        """Send a message that goes to one subscriber alone, without waiting."""
        recipient = subscription._recipient
        reason = None
        try:
            if recipient.tell(message, subscription.compress, terms):
                return
        except Exception as exc:
            reason = exc
        self._report([(recipient, reason)])

    def _tell_of_announcement(self, subscription: Subscription) -> None:
        """Call back, now that it is known whether the subscription was recovered."""
        if subscription._announce is not None:
            self._tell(subscription, subscription._announce(subscription), "announce")
            subscription._announce = None

    def _tell_of_gap(
        self, subscription: Subscription, code: CloseCode, reason: str, spread: float
    ) -> bool:
        """Tell a subscriber that messages are missing, or close its connection.

        Returns:
            Whether it goes on.
        """
        if subscription._on_gap is not None:
            try:
                self._tell(subscription, subscription._on_gap(subscription), "on_gap")
            except Exception:
                self._logger.error("on_gap failed", exc_info=True)
            else:
                return subscription.active
        self._expel(subscription, code, reason, spread)
        return False

    def _expel(
        self, subscription: Subscription, code: CloseCode, reason: str, spread: float
    ) -> None:
        """End a subscription, and close its connection within ``spread`` seconds."""
        self._leave(subscription)
        self._close_recipient(subscription._recipient, code, reason, spread)

    # ------------------------------------------------------------------ a front-end's business

    def _set_up(self) -> None:
        """Make what a front-end needs besides."""

    @abstractmethod
    def _use(self, bus: Bus, **options: Any) -> None:
        """Make what runs the bus; ``options`` are its options of these names."""

    @abstractmethod
    def _bus_stats(self) -> dict[str, float]:
        """Return what was counted about the bus."""

    @abstractmethod
    def _flush(self) -> None:
        """Have the bus do what the core wants, if there is a bus."""

    @abstractmethod
    def _now(self) -> float:
        """Return the current time."""

    def _known(self, connection: Any) -> Recipient | None:
        """Return what is known of a connection that subscribes."""
        return self._recipients.get(id(connection))

    @abstractmethod
    def _recipient(self, connection: Any) -> Recipient:
        """Return what is known of a connection, or what is made of it.

        Raises:
            TypeError: If it is nothing that can subscribe.
        """

    @abstractmethod
    def _watch(self, recipient: Recipient) -> None:
        """See to it that ``_ended`` is called when the connection is closed."""

    @abstractmethod
    def _wake(self, subscription: Subscription) -> None:
        """Let who waits for a subscription go on: it can be advanced, or has ended."""

    @abstractmethod
    def _go_on(self, subscription: Subscription) -> None:
        """Advance a subscription until it is live, without waiting for that here."""

    @abstractmethod
    def _close_recipient(
        self, recipient: Recipient, code: CloseCode, reason: str, spread: float
    ) -> None:
        """Close a connection at a random time within ``spread`` seconds."""


def _check_number(name: str, value: object, *, least: int, optional: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be int{' or None' * optional}; got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more{', or None' * optional}; got {value}")
