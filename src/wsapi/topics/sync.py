"""Topics for threads."""

from __future__ import annotations

import concurrent.futures
import random
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Final, NoReturn, Self, TypeVar

from wsproto_fast import Backpressure, PreparedMessage, Slow
from wsproto_fast.frames import CloseCode, State
from wsproto_fast.typing import DataLike

from .._shared.connection import SkippedBroadcasts
from .._shared.leaving import departure_time
from ..sync.connection import Connection
from . import _base
from ._base import BEHIND, LOST, Announce, OnGap, OnPresence, Recipient
from ._coroutines import WaitingRecipient, drive
from ._desk import Desk, Flag, Helper, Outcome
from ._history import Entry
from ._names import check_name
from ._remote import CLOSING_LIMIT, RemoteTopics
from ._subscribers import Step
from ._thread import LoopThread
from .bus import Message
from .exceptions import BusUnavailable, TopicLimitExceeded, TopicsError
from .positions import Position
from .presence import Presence, PresenceEvent

__all__ = ["Subscription", "Topics"]

T = TypeVar("T")

MAX_WAITING: Final = 10_000
"""What may wait for ``publish_threadsafe``, or for callbacks for presence, at most."""


class Subscription(_base.Subscription):
    """What a connection has subscribed to; ``Topics.subscribe`` makes it.

    A context manager, at whose end it ends.
    """

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.unsubscribe()


class _ConnectionRecipient(WaitingRecipient):
    """A connection of ``wsapi.sync``: its driver is the sink."""

    __slots__ = ("_topics",)

    connection: Connection

    def __init__(self, topics: Topics, connection: Connection) -> None:
        super().__init__(connection, connection._driver)
        self._topics = topics

    @property
    def open(self) -> bool:
        return self.connection.state is State.OPEN

    def watch(self) -> None:
        """Have the topics told when the connection is lost."""
        if not self.connection._driver.call_at_end(self):
            self._topics._ended(self)

    def set(self) -> None:
        """Note that the connection is lost: its driver calls this, as it sets events."""
        self._topics._desk.post(self._topics._ended, self)

    def forget(self) -> None:
        self.connection._driver.call_no_more(self)

    def tell(self, message: Message, compress: bool | None, terms: Backpressure) -> bool:
        return self.sink.broadcast(PreparedMessage(message), compress, terms)

    def explain(self, reason: Exception | None, skipped: SkippedBroadcasts) -> None:
        if reason is None:
            skipped.refused(self.connection)
        else:
            skipped.add(self.connection, reason)

    async def check_open(self) -> None:
        if not self.open:
            self.connection._raise_closed()

    async def send(self, message: Message, compress: bool | None) -> None:
        if compress is None:
            self.connection.send(message)  # which subclasses may have without options
        else:
            self.connection.send(message, compress=compress)
        # Where messages may be dropped or the connection closed, that doesn't wait.
        self.connection._driver.drain()

    def close(self, code: CloseCode, reason: str) -> None:
        if self.open:
            self.connection._driver.close(code, reason)

    async def raise_closed(self) -> NoReturn:
        self.connection._raise_closed()


class _GoingOn:
    """What waits for a subscription without a thread that does."""

    __slots__ = ("_subscription", "_topics")

    def __init__(self, topics: Topics, subscription: _base.Subscription) -> None:
        self._topics = topics
        self._subscription = subscription

    def set(self) -> None:
        self._topics._desk.post(self._topics._go_on, self._subscription)


class Topics(RemoteTopics):
    """Topics: what is published on one goes to all who subscribe to it.

    Without a bus, these are subscribers of this process. With one, they are those of all processes
    that use the same broker; it is connected by ``with topics:``, in which subscriptions live, and
    used in a thread of its own. Any thread may use an object, and so may a signal handler, whatever
    it interrupts. For the main thread, which signal handlers interrupt anywhere, another one does
    what must not be interrupted.

    Args:
        bus: What connects processes: a ``RedisBus``, a ``NatsBus``, or the URL of its
            broker, for its defaults; None for this process alone.
        history: What is kept of each topic for who comes back; by default nothing without a bus.
            With one, what the broker keeps is a setting of the bus, and this is what the process
            keeps of it for itself: by default, 1024 messages, for 300 seconds, in 1 MiB.
        slow: What becomes of messages for a subscriber that doesn't read as fast as they come.
        max_backlog: Bytes that may wait for each one.
        on_gap: "fill" to read what was missed while the bus was away; "close" to close all
            connections that have subscribed then, with 1012.
        spread: Seconds in which connections are closed after trouble, each at a time that chance
            chooses, so that not all clients come back at once.
        max_message_size: Bytes of a message that is published here, in UTF-8 if it is text.
        max_topics: Most topics in this process; None for no limit.
        max_subscribers: Most subscribers of a topic in this process; None for no limit.
        max_subscriptions: Most subscriptions of a connection; None for no limit.
        unfollow_delay: Seconds for which a topic that nobody subscribes to any more stays followed
            on the bus, so that a client that comes back finds all of it here.
        publish_queue: Messages that may wait for the bus while it is away; 0 to raise
            ``BusUnavailable`` at once.
        publish_timeout: Seconds for which one may wait.
        heartbeat: Seconds between messages by which the process sees that the bus brings what is
            published; after twice as long without one, it connects to the broker again.
        authorize: Called with a connection, the name of a topic, and "subscribe" or "publish";
            returns whether it may do that. With None, each may.
        envelope: Called with the name of a topic, a position or None, and a message; returns what
            subscribers are sent, once for all of a process. With None, that is the message. Clients
            that are to come back need the position. All who publish wait for it, so that it must
            wait for nobody; nor may it use the topics.
        on_health: Called with whether the bus brings what is published, and why, each time that
            this changes; in a thread of its own, one call after the other.
        logger: Logger; ``wsapi.topics`` by default.

    Raises:
        TypeError, ValueError: If an argument isn't acceptable.
    """

    _MANAGER = "with"
    _subscription_class = Subscription

    # ------------------------------------------------------------------ beginning and end

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def open(self) -> None:
        """Connect to the broker; what ``with`` does.

        Topics that were closed can be opened again if they have no bus. With one, new topics take
        their place, which may have the same bus.

        Raises:
            BusUnavailable: If it can't be reached, or doesn't bring what is published.
            RuntimeError: If these topics, or others with the same bus, are open, or these were
                closed.
        """
        if self._runner is not None:
            thread = LoopThread()
            try:
                _result(thread, self._runner.open())
            except BaseException:
                thread.stop()
                raise
            self._thread = thread
        self._opened = True
        self._closed = False

    def close(self) -> None:
        """End all subscriptions, and close their connections with 1012; nothing if it was done.

        Nobody would send them anything any more, and they wouldn't know. If the broker doesn't
        answer, this takes a few seconds.
        """
        self._desk.call(self._end_all)
        thread, self._thread = self._thread, None
        if self._runner is not None and thread is not None:
            try:
                _result(thread, self._runner.close(), CLOSING_LIMIT)
            finally:
                thread.stop()

    def _end_all(self) -> None:
        super()._end_all()
        for recipient in list(self._departing):
            self._depart(recipient)  # it would be nobody's business any more

    # ------------------------------------------------------------------ health

    def wait_healthy(self, timeout: float | None = None) -> None:
        """Wait until the bus brings what is published; not at all without one.

        Args:
            timeout: Seconds; None for no limit.

        Raises:
            TimeoutError: If it takes longer.
            BusUnavailable: If the topics aren't open, or closed meanwhile.
        """
        if self._runner is not None:
            self._there(self._runner.wait_healthy(timeout))

    def _there(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the thread of the bus, and wait for its result."""
        outcome: Outcome[T] = Outcome()
        try:
            future = self._submit(outcome.take_later(coroutine))
        except BusUnavailable:
            coroutine.close()
            raise
        try:
            return outcome.wait()
        except BaseException:
            future.cancel()
            raise

    # ------------------------------------------------------------------ publishing

    def publish(self, topic: str, message: DataLike, *, connection: Any = None) -> Position | None:
        """Publish a message; those of one thread stay in order.

        Args:
            topic: Name of the topic.
            message: str for a text message, bytes-like object for a binary one.
            connection: Who wants it published, for ``authorize``; None to ask nobody.

        Returns:
            Position of the message; None without history.

        Raises:
            TypeError, ValueError: If the name or the message isn't acceptable.
            NotAuthorized: If the connection mustn't publish there.
            BusUnavailable: If the bus can't be reached; it wasn't published.
            PublishUncertain: If the bus was lost before it answered.
            TopicLimitExceeded: If there are too many topics with a history.
            RuntimeError: If the topics are closed, or have a bus and aren't open.
        """
        check_name(topic)
        message = self._check_message(message)
        if connection is not None:
            drive(self._ask(connection, topic, "publish"))
        self._check_running()
        if self._desk.mine:
            raise RuntimeError("an envelope must not publish")
        if self._runner is not None:
            return self._there(self._publish_there(topic, message))
        return self._desk.call(self._publish_here, topic, message)

    def _publish_here(self, topic: str, message: Message) -> Position | None:
        self._check_running()
        try:
            return self._core.publish(topic, message, self._now())
        finally:
            self._handle_events()

    def publish_threadsafe(
        self, topic: str, message: DataLike
    ) -> concurrent.futures.Future[Position | None]:
        """Publish a message without waiting for anybody; those of one thread stay in order.

        It is for those who mustn't wait. Handlers of logging are among them: connections log while
        others wait for them.

        Args:
            topic: Name of the topic.
            message: As for ``publish``.

        Returns:
            A future for what ``publish`` returns or raises.

        Raises:
            TypeError, ValueError: If the name or the message isn't acceptable.
            TopicLimitExceeded: If too many wait already.
            RuntimeError, BusUnavailable: If the topics aren't open.
        """
        check_name(topic)
        message = self._check_message(message)
        self._check_running()
        if self._runner is not None:
            return self._submit(self._publish_there(topic, message))
        if len(self._desk) >= MAX_WAITING:
            raise TopicLimitExceeded(f"{MAX_WAITING} messages wait to be published already")
        future: concurrent.futures.Future[Position | None] = concurrent.futures.Future()
        self._desk.post_to_helper(self._publish_for, future, topic, message)
        return future

    def _publish_for(
        self, future: concurrent.futures.Future[Position | None], topic: str, message: Message
    ) -> None:
        """Publish what somebody else wants published."""
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(self._publish_here(topic, message))
            except Exception as exc:
                future.set_exception(exc)

    # ------------------------------------------------------------------ subscribing

    def subscribe(
        self,
        connection: Any,
        topic: str,
        *,
        since: Position | tuple[str, int] | str | None = None,
        slow: Slow | None = None,
        max_backlog: int | None = None,
        compress: bool | None = None,
        announce: Announce | None = None,
        on_gap: OnGap | None = None,
        member: str | None = None,
    ) -> Subscription:
        """Subscribe a connection to a topic, until the connection ends, or the subscription.

        However the connection ends, its subscriptions end with it. What this returns is a context
        manager, at whose end it ends; or ``unsubscribe()`` ends it. If this raises an exception,
        nothing is subscribed; messages that were missed may have been sent.

        Args:
            connection: Connection of ``wsapi.sync``.
            topic: Name of the topic.
            since: Position of the last message that the client has; those after it are sent first.
                None to begin with what is published from now on.
            slow: What becomes of messages while the peer doesn't read as fast as they come; None
                for the policy of the topics. With ``Slow.LATEST``, a topic's latest message counts.
            max_backlog: Bytes that may wait then; None for the limit of the topics.
            compress: As for ``send``.
            announce: Called with the subscription as soon as ``recovered`` and ``position`` are
                known; what it returns, unless that is None, is sent before all messages.
            on_gap: Called with the subscription if messages were lost; what it returns, unless
                that is None, is sent in their place. With None, the connection is closed, with
                1012 (service restart) or, if it was too slow in catching up, 1013 (try again
                later). It is called in another thread.
            member: Name of who is present on the topic by this subscription, for ``presence``; None
                for nobody.

        Returns:
            The subscription, which gets messages from now on.

        Raises:
            TypeError, ValueError: If an argument isn't acceptable, or the connection has
                subscribed to the topic.
            NotAuthorized: If the connection mustn't.
            TopicLimitExceeded: If there are too many topics or subscriptions.
            BusUnavailable: If the bus can't be reached, and the topic isn't followed yet.
            ConnectionClosed: When the connection is closed.
            RuntimeError: If the topics are closed, or have a bus and aren't open.
        """
        if since is not None:
            since = Position.parse(since)
        subscription = self._make_subscription(
            connection, topic, slow, max_backlog, compress, announce, on_gap, member
        )
        assert isinstance(subscription, Subscription)
        drive(self._subscribe(subscription, topic, since))
        return subscription

    def presence(self, topic: str, *, names: bool = False) -> Presence:
        """Return who is on a topic, in all processes: subscriptions with ``member=``.

        Each process knows that of all others: nobody is asked.

        Args:
            topic: Name of the topic.
            names: Whether to return the members' names, besides their number.
        """
        return self._desk.call(lambda: super(Topics, self).presence(topic, names=names))

    def watch_presence(self, topic: str, callback: OnPresence) -> Callable[[], None]:
        """Have a callback called when members come to a topic, and go.

        It is called in a thread of its own, one call after the other. If that takes so long that
        10,000 calls wait, more of them are left out, with an error in the log.

        Args:
            topic: Name of the topic.
            callback: Called with a ``PresenceEvent``.

        Returns:
            A function that ends that.
        """
        end = self._desk.call(super().watch_presence, topic, callback)
        return lambda: self._desk.call(end)

    # ------------------------------------------------------------------ for the base classes

    def _set_up(self) -> None:
        self._desk = Desk("wsapi-topics-desk", self._logger)
        self._callbacks = Helper("wsapi-topics-callbacks", self._logger)
        # Connections whose sinks have refused something, and why; to be told of elsewhere.
        self._refused: dict[Recipient, Exception | None] = {}
        self._reporting = False
        # Connections that are closed later, and how.
        self._departing: dict[Recipient, tuple[CloseCode, str]] = {}
        self._left_out = False

    async def _resolve(self, awaitable: Awaitable[T]) -> T:
        if isinstance(awaitable, Coroutine):
            awaitable.close()
        raise TypeError("authorize must not be a coroutine function: these are topics for threads")

    def _join(self, subscription: _base.Subscription, topic: str, since: Position | None) -> None:
        self._desk.call(super()._join, subscription, topic, since)

    def _leave(self, subscription: _base.Subscription) -> None:
        self._desk.call(super()._leave, subscription)

    def _take_step(self, subscription: _base.Subscription) -> list[Entry] | Step | None:
        return self._desk.call(super()._take_step, subscription)

    def _recipient(self, connection: Any) -> Recipient:
        if not isinstance(connection, Connection):
            raise TypeError(f"connection must be one of wsapi.sync; got {connection!r}")
        return self._recipients.get(id(connection)) or _ConnectionRecipient(self, connection)

    def _watch(self, recipient: Recipient) -> None:
        assert isinstance(recipient, _ConnectionRecipient)
        recipient.watch()

    def _make_waiter(self) -> Flag:
        return Flag()

    async def _wait(self, subscription: _base.Subscription) -> None:
        subscription._waiter.wait()

    def _wake(self, subscription: _base.Subscription) -> None:
        if subscription._waiter is not None:
            subscription._waiter.set()

    def _go_on(self, subscription: _base.Subscription) -> None:
        """Advance a subscription that was live, without waiting: it has no thread.

        What it has missed since is as what would have come meanwhile: its policy is applied.
        """
        subscription._waiter = None
        while subscription.active:
            try:
                step = self._core.advance(subscription, self._now())
            except TopicsError:
                self._expel(subscription, CloseCode.SERVICE_RESTART, LOST, self._spread)
                return
            if step is Step.WAIT:
                subscription._waiter = _GoingOn(self, subscription)
                return
            if step is Step.LIVE:
                return
            if isinstance(step, list):
                for entry in step:
                    self._offer(subscription, entry.message, subscription.terms)
            else:
                # It doesn't go on here: whoever is told of it is told in another thread.
                self._tell_of_gap(subscription, CloseCode.TRY_AGAIN_LATER, BEHIND, 0.0)
                return

    def _close_recipient(
        self, recipient: Recipient, code: CloseCode, reason: str, spread: float
    ) -> None:
        thread = self._thread
        if spread and thread is not None:
            self._departing[recipient] = code, reason
            delay = departure_time(0.0, spread, random.random)
            thread.call_later(delay, self._depart, recipient)
        else:
            recipient.close(code, reason)

    def _depart(self, recipient: Recipient) -> None:
        """Close a connection whose time has come, unless that has been done."""
        how = self._departing.pop(recipient, None)
        if how is not None:
            recipient.close(*how)

    def _call(self, function: Callable[..., object], *args: object) -> None:
        self._desk.post(function, *args)

    def _call_back(self, function: Callable[..., object], *args: object) -> None:
        self._callbacks.post(function, *args)

    # ------------------------------------------------------------------ callbacks, in their thread

    def _tell_of_gap(
        self, subscription: _base.Subscription, code: CloseCode, reason: str, spread: float
    ) -> bool:
        if subscription._on_gap is not None and self._desk.mine:
            self._call_back(self._call_on_gap, subscription, code, reason, spread)
            return False
        return super()._tell_of_gap(subscription, code, reason, spread)

    def _call_on_gap(
        self, subscription: _base.Subscription, code: CloseCode, reason: str, spread: float
    ) -> None:
        if subscription.active and super()._tell_of_gap(subscription, code, reason, spread):
            self._desk.call(self._go_on, subscription)

    def _call_watcher(self, callback: OnPresence, event: PresenceEvent) -> None:
        if len(self._callbacks) < MAX_WAITING:
            self._left_out = False
            self._call_back(super()._call_watcher, callback, event)
        elif not self._left_out:
            self._left_out = True
            self._logger.error("callbacks for presence take too long: some are left out")

    def _report(self, refused: list[tuple[Recipient, Exception | None]]) -> None:
        for recipient, reason in refused:
            if reason is not None or recipient not in self._refused:
                self._refused[recipient] = reason
        if not self._reporting:
            self._reporting = True
            self._call_back(self._report_all)

    def _report_all(self) -> None:
        self._reporting = False  # from now on, somebody else has to come
        refused = []
        while self._refused:
            refused.append(self._refused.popitem())
        super()._report(refused)


def _result(thread: LoopThread, coroutine: Coroutine[Any, Any, T], timeout: float = -1) -> T:
    """Run a coroutine in the thread of a bus, and wait for its result."""
    outcome: Outcome[T] = Outcome()
    try:
        thread.submit(outcome.take_later(coroutine))
    except BusUnavailable:
        coroutine.close()
        raise
    return outcome.wait(timeout)
