"""Topics on trio."""

from __future__ import annotations

import concurrent.futures
import random
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

import trio

from wsproto_fast import Backpressure, PreparedMessage, Slow
from wsproto_fast.frames import CloseCode, State
from wsproto_fast.typing import DataLike

from .._shared.connection import SkippedBroadcasts
from .._shared.leaving import departure_time
from ..trio.connection import Connection
from ._base import Announce, OnGap, Recipient, Subscription
from ._coroutines import Subscribing, WaitingRecipient
from ._history import Entry
from ._names import check_name
from ._remote import RemoteTopics
from ._subscribers import Step
from ._thread import LoopThread
from .bus import Message
from .positions import Position

__all__ = ["Topics"]

T = TypeVar("T")


class _ConnectionRecipient(WaitingRecipient):
    """A connection of ``wsapi.trio``: a method of it is the sink's."""

    __slots__ = ("_topics", "broadcast")

    connection: Connection

    def __init__(self, topics: Topics, connection: Connection) -> None:
        super().__init__(connection, self)
        self._topics = topics
        self.broadcast = connection._broadcast

    @property
    def open(self) -> bool:
        return self.connection.state is State.OPEN

    def watch(self) -> None:
        """Have the topics told when the connection has ended."""
        self.connection._call_at_end(self._connection_ended)

    def _connection_ended(self) -> None:
        # Not now: something may be being published.
        self._topics._call(self._topics._ended, self)

    def forget(self) -> None:
        self.connection._call_no_more(self._connection_ended)

    def tell(self, message: Message, compress: bool | None, terms: Backpressure) -> bool:
        return self.broadcast(PreparedMessage(message), compress, terms)

    def explain(self, reason: Exception | None, skipped: SkippedBroadcasts) -> None:
        if reason is None:
            skipped.refused(self.connection)
        else:
            skipped.add(self.connection, reason)

    async def check_open(self) -> None:
        if not self.open:
            await self.raise_closed()

    async def send(self, message: Message, compress: bool | None) -> None:
        if compress is None:
            await self.connection.send(message)  # which subclasses may have without options
        else:
            await self.connection.send(message, compress=compress)
        # Where messages may be dropped or the connection closed, that doesn't wait.
        await self.connection._drain()

    def close(self, code: CloseCode, reason: str) -> None:
        if self.open:
            self.connection._begin_closing(code, reason)

    async def raise_closed(self) -> NoReturn:
        await self.connection._raise_closed()


class Topics(RemoteTopics):
    """Topics: what is published on one goes to all who subscribe to it.

    Without a bus, these are subscribers of this process. With one, they are those of all processes
    that use the same broker; it is connected by ``async with topics:``, in which subscriptions
    live, and used in a thread of its own. An object belongs to the run of trio that uses it first.

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
            returns, or is a coroutine function that returns, whether it may do that. With None,
            each may.
        envelope: Called with the name of a topic, a position or None, and a message; returns what
            subscribers are sent, once for all of a process. With None, that is the message. Clients
            that are to come back need the position.
        on_health: Called with whether the bus brings what is published, and why, each time that
            this changes.
        logger: Logger; ``wsapi.topics`` by default.

    Raises:
        TypeError, ValueError: If an argument isn't acceptable.
    """

    _token: trio.lowlevel.TrioToken | None = None

    # ------------------------------------------------------------------ beginning and end

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Connect to the broker; what ``async with`` does.

        Cancelling this leaves nothing open. Topics that were closed can be opened again if they
        have no bus. With one, new topics take their place, which may have the same bus.

        Raises:
            BusUnavailable: If it can't be reached, or doesn't bring what is published.
            RuntimeError: If these topics, or others with the same bus, are open, or these were
                closed.
        """
        self._bind()
        if self._runner is None:
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
            thread = LoopThread()
            try:
                # If this is cancelled, stopping the thread cancels that.
                await _ended(thread.submit(self._runner.open()))
            except BaseException:
                await _stop(thread)
                raise
            self._thread = thread
        self._opened = True
        self._closed = False

    async def aclose(self) -> None:
        """End all subscriptions, and close their connections with 1012; nothing if it was done.

        Nobody would send them anything any more, and they wouldn't know. Cancelling this doesn't
        end it before its time: a few seconds at most, if the broker doesn't answer.
        """
        self._end_all()
        thread, self._thread = self._thread, None
        if self._runner is not None and thread is not None:
            with trio.CancelScope(shield=True):
                try:
                    await _ended(thread.submit(self._runner.close()))
                finally:
                    await _stop(thread)
        await trio.lowlevel.checkpoint()

    def _bind(self) -> trio.lowlevel.TrioToken:
        """Return the token of the running trio, to which these topics belong.

        Raises:
            RuntimeError: If they belong to another run.
        """
        token = trio.lowlevel.current_trio_token()
        if token is not self._token:
            if self._token is not None and (self._recipients or self._thread is not None):
                raise RuntimeError("these topics belong to another run of trio")
            self._token = token
        return token

    def _check_running(self) -> None:
        self._bind()
        super()._check_running()

    # ------------------------------------------------------------------ health

    async def wait_healthy(self, timeout: float | None = None) -> None:
        """Wait until the bus brings what is published; not at all without one.

        Args:
            timeout: Seconds; None for no limit.

        Raises:
            TimeoutError: If it takes longer.
            BusUnavailable: If the topics aren't open, or closed meanwhile.
        """
        if self._runner is None:
            await trio.lowlevel.checkpoint()
        else:
            await self._there(self._runner.wait_healthy(timeout))

    async def _there(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the thread of the bus, and wait for its result."""
        future = self._submit(coroutine)
        try:
            return await _ended(future)
        except BaseException:
            future.cancel()
            raise

    # ------------------------------------------------------------------ publishing

    async def publish(
        self, topic: str, message: DataLike, *, connection: Any = None
    ) -> Position | None:
        """Publish a message.

        Other tasks get their turn before it is published. Cancelling this, nothing is published
        without a bus, and maybe something with one.

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
            await self._ask(connection, topic, "publish")
        if self._runner is None:
            await trio.lowlevel.checkpoint()
            return self._publish_here(topic, message)
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_running()
        return await self._there(self._publish_there(topic, message))

    @trio.lowlevel.enable_ki_protection
    def _publish_here(self, topic: str, message: Message) -> Position | None:
        self._check_running()
        try:
            return self._core.publish(topic, message, self._now())
        finally:
            self._handle_events()

    def publish_threadsafe(
        self, topic: str, message: DataLike
    ) -> concurrent.futures.Future[Position | None]:
        """Publish a message, from any thread; those of one thread stay in order.

        Args:
            topic: Name of the topic.
            message: As for ``publish``.

        Returns:
            A future for what ``publish`` returns or raises.

        Raises:
            TypeError, ValueError: If the name or the message isn't acceptable.
            RuntimeError: If no run of trio has used these topics, or it is over.
            BusUnavailable: If the topics are closed.
        """
        check_name(topic)
        message = self._check_message(message)
        if self._token is None:
            raise RuntimeError("no run of trio has used these topics yet: enter them first")
        if self._runner is not None:
            return self._submit(self._publish_there(topic, message))
        future: concurrent.futures.Future[Position | None] = concurrent.futures.Future()
        self._token.run_sync_soon(self._publish_for, future, topic, message)
        return future

    def _publish_for(
        self, future: concurrent.futures.Future[Position | None], topic: str, message: Message
    ) -> None:
        """Publish what another thread wants published."""
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
    ) -> Subscribing:
        """Subscribe a connection to a topic, for the time of an ``async with``, or until it ends.

        However the connection ends, its subscriptions end with it. Outside of an ``async with``,
        awaiting this gives the subscription, which ``unsubscribe()`` ends before. Cancelling it,
        nothing is subscribed; messages that were missed may have been sent.

        Args:
            connection: Connection of ``wsapi.trio``.
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
                later).
            member: Name of who is present on the topic by this subscription, for ``presence``; None
                for nobody.

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
        return Subscribing(self, subscription, topic, since)

    # ------------------------------------------------------------------ for the base classes

    async def _subscribe(
        self, subscription: Subscription, topic: str, since: Position | None
    ) -> Subscription:
        await trio.lowlevel.checkpoint()
        return await super()._subscribe(subscription, topic, since)

    # What changes the core is not to be left half done by Ctrl+C.
    _join = trio.lowlevel.enable_ki_protection(RemoteTopics._join)
    _leave = trio.lowlevel.enable_ki_protection(RemoteTopics._leave)
    _take_step = trio.lowlevel.enable_ki_protection(RemoteTopics._take_step)
    _end_all = trio.lowlevel.enable_ki_protection(RemoteTopics._end_all)

    def _recipient(self, connection: Any) -> Recipient:
        if not isinstance(connection, Connection):
            raise TypeError(f"connection must be one of wsapi.trio; got {connection!r}")
        return self._recipients.get(id(connection)) or _ConnectionRecipient(self, connection)

    def _watch(self, recipient: Recipient) -> None:
        assert isinstance(recipient, _ConnectionRecipient)
        recipient.watch()

    def _make_waiter(self) -> trio.Event:
        return trio.Event()

    async def _wait(self, subscription: Subscription) -> None:
        await subscription._waiter.wait()

    def _wake(self, subscription: Subscription) -> None:
        if subscription._waiter is not None:
            subscription._waiter.set()

    def _go_on(self, subscription: Subscription) -> None:
        # Most often, there is nothing to wait for.
        step = self._core.advance(subscription, self._now())
        if step is not Step.LIVE:
            entries = step if isinstance(step, list) else None
            trio.lowlevel.spawn_system_task(self._advance_guarded, subscription, entries)

    async def _advance_guarded(
        self, subscription: Subscription, entries: list[Entry] | None
    ) -> None:
        try:
            await self._advance_alone(subscription, entries)
        except Exception:
            self._logger.error("a subscription failed", exc_info=True)

    def _close_recipient(
        self, recipient: Recipient, code: CloseCode, reason: str, spread: float
    ) -> None:
        if spread:
            delay = departure_time(0.0, spread, random.random)
            trio.lowlevel.spawn_system_task(_close_later, recipient, delay, code, reason)
        else:
            recipient.close(code, reason)

    def _call(self, function: Callable[..., object], *args: object) -> None:
        assert self._token is not None
        try:
            self._token.run_sync_soon(self._guarded, function, *args)
        except trio.RunFinishedError:
            pass  # nobody is left who would be told

    _call_back = _call

    def _guarded(self, function: Callable[..., object], *args: object) -> None:
        """Call a function where an exception would end the program."""
        try:
            function(*args)
        except Exception:
            self._logger.error("topics failed", exc_info=True)


async def _close_later(recipient: Recipient, delay: float, code: CloseCode, reason: str) -> None:
    await trio.sleep(delay)
    recipient.close(code, reason)


async def _ended(future: concurrent.futures.Future[T]) -> T:
    """Wait for a result from another thread."""
    done = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def wake(future: concurrent.futures.Future[T]) -> None:
        try:
            token.run_sync_soon(done.set)
        except trio.RunFinishedError:
            pass

    future.add_done_callback(wake)
    await done.wait()
    return future.result()


async def _stop(thread: LoopThread) -> None:
    """Stop the thread of a bus; cancelling this doesn't end it before its time."""
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(thread.stop)
