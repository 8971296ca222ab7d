"""Topics on an asyncio event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import random
import weakref
from collections.abc import Coroutine, Mapping
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

from wsproto_fast import Backpressure, PreparedMessage, Slow
from wsproto_fast.frames import CloseCode
from wsproto_fast.frames import State as ConnectionState
from wsproto_fast.typing import DataLike

from .._shared.connection import BaseConnection, SkippedBroadcasts
from .._shared.leaving import departure_time
from ..asyncio.connection import Connection
from ._base import Announce, OnGap, Recipient, Subscription
from ._coroutines import CoroutineTopics, Subscribing, WaitingRecipient
from ._names import check_name
from ._runner import Runner
from ._sinks import QueueRecipient
from ._subscribers import Step
from .bus import Bus, Message
from .exceptions import BusUnavailable
from .positions import Position

__all__ = ["Topics"]

T = TypeVar("T")

# A task that does nothing but publish lets others run after so many messages.
TURN_SIZE = 32


class _ConnectionRecipient(WaitingRecipient):
    """A connection of ``wsapi.asyncio``: its driver is the sink."""

    __slots__ = ("_lost", "_topics")

    connection: Connection

    def __init__(self, topics: Topics, connection: Connection) -> None:
        super().__init__(connection, connection._driver)
        self._topics = topics
        self._lost: asyncio.Future[None] | None = None

    @property
    def open(self) -> bool:
        return self.connection.state is ConnectionState.OPEN

    def watch(self) -> None:
        """Have the topics told when the connection is lost."""
        self._lost = self.connection._when_lost()
        self._lost.add_done_callback(self._connection_lost)

    def _connection_lost(self, lost: asyncio.Future[None]) -> None:
        self._topics._ended(self)

    def forget(self) -> None:
        assert self._lost is not None  # it is watched as long as it subscribes
        self._lost.remove_done_callback(self._connection_lost)
        self._lost.cancel()
        self._lost = None

    def tell(self, message: Message, compress: bool | None, terms: Backpressure) -> bool:
        return self.sink.broadcast(PreparedMessage(message), compress, terms)

    def explain(self, reason: Exception | None, skipped: SkippedBroadcasts) -> None:
        failure = self.connection._driver.failure if reason is None else reason
        if failure is None:
            skipped.refused(self.connection)
        else:
            skipped.add(self.connection, failure)

    async def check_open(self) -> None:
        if self.connection.state is ConnectionState.CONNECTING:
            raise RuntimeError("the WebSocket isn't accepted yet")
        if not self.open:
            await self.raise_closed()

    async def send(self, message: Message, compress: bool | None) -> None:
        if compress is None:
            await self.connection.send(message)  # which subclasses may have without options
        else:
            await self.connection.send(message, compress=compress)
        # Where messages may be dropped or the connection closed, that doesn't wait.
        await self.connection.drain()

    def close(self, code: CloseCode, reason: str) -> None:
        if self.open:
            self.connection._begin_closing(code, reason)

    async def raise_closed(self) -> NoReturn:
        await self.connection._raise_closed()


def _served(connection: Any) -> Any:
    """Return the connection of ours that an ASGI framework's object stands for, or that object.

    Messages go to it directly then, without a queue and a task, whatever is around its ``send``.
    """
    scope = getattr(connection, "scope", None)
    if isinstance(scope, Mapping):
        ours = (scope.get("extensions") or {}).get("wsapi")
        if ours is not None:
            return ours["connection"]() or connection
    return connection


class Topics(CoroutineTopics):
    """Topics: what is published on one goes to all who subscribe to it.

    Without a bus, these are subscribers of this process. With one, they are those of all processes
    that use the same broker; it is connected by ``async with topics:``, in which subscriptions
    live. An object belongs to the event loop that uses it first.

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

    _loop: asyncio.AbstractEventLoop | None = None
    _publisher: weakref.ref[asyncio.Task[Any]] | None = None  # what has published last
    _in_turn = 0  # how often, without a pause that is known of

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

        Topics that were closed can be opened again if they have no bus. With one, new topics take
        their place, which may have the same bus.

        Raises:
            BusUnavailable: If it can't be reached, or doesn't bring what is published.
            RuntimeError: If these topics, or others with the same bus, are open, or these were
                closed.
        """
        self._bind()
        if self._runner is not None:
            await self._runner.open()
        self._opened = True
        self._closed = False

    async def aclose(self) -> None:
        """End all subscriptions, and close their connections with 1012; nothing if it was done.

        Nobody would send them anything any more, and they wouldn't know. If this is cancelled, the
        connection to the broker ends nevertheless, within a few seconds.
        """
        self._end_all()
        if self._runner is not None:
            await self._runner.close()

    def _bind(self) -> asyncio.AbstractEventLoop:
        """Return the running event loop, to which these topics belong.

        Raises:
            RuntimeError: If they belong to another one.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if self._loop is not None and (
                self._recipients or (self._runner is not None and self._opened)
            ):
                raise RuntimeError("these topics belong to another event loop")
            self._loop = loop
        return loop

    # ------------------------------------------------------------------ health

    async def wait_healthy(self, timeout: float | None = None) -> None:
        """Wait until the bus brings what is published; not at all without one.

        Args:
            timeout: Seconds; None for no limit.

        Raises:
            TimeoutError: If it takes longer.
            BusUnavailable: If the topics aren't open, or closed meanwhile.
        """
        if self._runner is not None:
            await self._runner.wait_healthy(timeout)

    # ------------------------------------------------------------------ publishing

    async def publish(
        self, topic: str, message: DataLike, *, connection: Any = None
    ) -> Position | None:
        """Publish a message.

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
        if self._runner is not None:
            return await self._publish_on_bus(self._runner, topic, message)
        task = asyncio.current_task()
        if self._publisher is None or self._publisher() is not task:
            self._publisher = None if task is None else weakref.ref(task)
            self._in_turn = 0
        elif self._in_turn < TURN_SIZE:
            self._in_turn += 1
        else:
            # Before it is published: whoever cancels this knows that it isn't.
            self._in_turn = 0
            await asyncio.sleep(0)
        return self._publish_here(topic, message)

    async def _publish_on_bus(
        self, runner: Runner, topic: str, message: Message
    ) -> Position | None:
        self._check_running()
        position = await runner.publish(topic, message)
        self._core.counters.published += 1
        return position

    def _publish_here(self, topic: str, message: Message) -> Position | None:
        self._check_running()
        assert self._loop is not None
        try:
            return self._core.publish(topic, message, self._loop.time())
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
            RuntimeError: If no event loop has used these topics, or it is closed.
        """
        check_name(topic)
        message = self._check_message(message)
        if self._loop is None:
            raise RuntimeError("no event loop has used these topics yet: enter them first")
        future: concurrent.futures.Future[Position | None] = concurrent.futures.Future()
        self._loop.call_soon_threadsafe(self._publish_for, future, topic, message)
        return future

    def _publish_for(
        self, future: concurrent.futures.Future[Position | None], topic: str, message: Message
    ) -> None:
        """Publish what another thread wants published."""
        if not future.set_running_or_notify_cancel():
            return
        try:
            if self._runner is None:
                future.set_result(self._publish_here(topic, message))
                return
            self._check_running()  # while the event loop ends, no task may have a turn
            task = self._spawn(self._publish_on_bus(self._runner, topic, message))
        except BaseException as exc:
            future.set_exception(exc)
        else:
            # Called, too, if the task is cancelled before it begins.
            task.add_done_callback(functools.partial(_tell_result, future))

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
        awaiting this gives the subscription, which ``unsubscribe()`` ends before.

        Args:
            connection: Connection of ``wsapi.asyncio``, or another object that sends: a WebSocket
                of Starlette or FastAPI, something with a coroutine method ``send``.
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
            RuntimeError: If the topics are closed, or have a bus and aren't open; if the connection
                isn't accepted yet.
        """
        if since is not None:
            since = Position.parse(since)
        subscription = self._make_subscription(
            connection, topic, slow, max_backlog, compress, announce, on_gap, member
        )
        return Subscribing(self, subscription, topic, since)

    # ------------------------------------------------------------------ for the base class

    def _set_up(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        # Of objects that send, those that have been sent something; by the identity of the object.
        self._queues: weakref.WeakValueDictionary[int, QueueRecipient] = (
            weakref.WeakValueDictionary()
        )

    def _use(self, bus: Bus, **options: Any) -> None:
        self._runner = Runner(
            bus,
            self._core,
            roll=self._roll,
            handle_events=self._look,
            logger=self._logger,
            **options,
        )

    def _check_running(self) -> None:
        self._bind()
        super()._check_running()

    def _now(self) -> float:
        return self._bind().time()

    def _known(self, connection: Any) -> Recipient | None:
        known = super()._known(connection)
        if known is None:
            # What waits for one that has left is sent before anything else.
            queue = self._queues.get(id(connection))
            if queue is not None and queue.sending:
                return queue
        return known

    def _recipient(self, connection: Any) -> Recipient:
        real = _served(connection)
        if isinstance(connection, BaseConnection) and not isinstance(connection, Connection):
            raise TypeError(
                f"connection must be one of wsapi.asyncio; {connection!r} is of another front-end"
            )
        known = self._known(real)
        if known is not None:
            return known
        if isinstance(real, Connection):
            return _ConnectionRecipient(self, real)
        return QueueRecipient(self, real)

    def _watch(self, recipient: Recipient) -> None:
        if isinstance(recipient, _ConnectionRecipient):
            recipient.watch()

    def _make_waiter(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    async def _wait(self, subscription: Subscription) -> None:
        await subscription._waiter

    def _wake(self, subscription: Subscription) -> None:
        waiter = subscription._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _go_on(self, subscription: Subscription) -> None:
        # Most often, there is nothing to wait for.
        step = self._core.advance(subscription, self._now())
        if step is not Step.LIVE:
            self._spawn(self._advance_alone(subscription, step if isinstance(step, list) else None))

    def _spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something in the background."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _close_recipient(
        self, recipient: Recipient, code: CloseCode, reason: str, spread: float
    ) -> None:
        if spread:
            delay = departure_time(0.0, spread, random.random)
            asyncio.get_running_loop().call_later(delay, recipient.close, code, reason)
        else:
            recipient.close(code, reason)


def _tell_result(
    future: concurrent.futures.Future[Position | None], task: asyncio.Task[Position | None]
) -> None:
    """Give the result of a task to another thread."""
    if task.cancelled():
        future.set_exception(BusUnavailable("topics are closed"))
    elif (exc := task.exception()) is not None:
        future.set_exception(exc)
    else:
        future.set_result(task.result())
