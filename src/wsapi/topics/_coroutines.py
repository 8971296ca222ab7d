"""What topics do where one may have to wait, written once: as coroutines.

Front-ends own the waiting. On threads these coroutines never suspend, since what they await blocks:
``drive`` runs each of them to its end.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Awaitable, Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from wsproto_fast.exceptions import ConnectionClosed
from wsproto_fast.frames import CloseCode

from ._base import BEHIND, LEAVING, LOST, Action, BaseTopics, Recipient, Subscription
from ._history import Entry
from ._subscribers import Step
from .bus import Message
from .exceptions import BusError, NotAuthorized, TopicsError
from .positions import Position

if TYPE_CHECKING:
    from ._runner import Runner

__all__ = ["CoroutineTopics", "Subscribing", "WaitingRecipient", "drive", "recipient_of"]

T = TypeVar("T")


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as exc:
        result: T = exc.value
        return result
    coroutine.close()
    raise AssertionError("something suspends where there is no event loop")


class WaitingRecipient(Recipient):
    """A connection that subscribes, for which one can wait."""

    __slots__ = ()

    @abstractmethod
    async def check_open(self) -> None:
        """Refuse a connection to which nothing can be sent.

        Raises:
            ConnectionClosed: If it is closed.
        """

    @abstractmethod
    async def send(self, message: Message, compress: bool | None) -> None:
        """Send a message of this connection's own, and wait until it takes another one.

        Raises:
            ConnectionClosed: If that isn't possible any more.
        """

    @abstractmethod
    async def raise_closed(self) -> NoReturn:
        """Wait until the connection is closed; raise what says so."""


class CoroutineTopics(BaseTopics):
    """Topics of one process; front-ends document the arguments."""

    _runner: Runner | None = None
    _opened = False
    _closed = False
    _MANAGER = "async with"

    @property
    def healthy(self) -> bool:
        """Whether the bus brings what is published; always True without one."""
        return self._runner is None or self._runner.healthy

    def _bus_stats(self) -> dict[str, float]:
        return {} if self._runner is None else self._runner.stats()

    def _flush(self) -> None:
        if self._runner is not None:
            self._runner.flush()

    def _check_running(self) -> None:
        """Refuse what needs topics that are open.

        Raises:
            RuntimeError: If they aren't.
        """
        if self._closed:
            raise RuntimeError("these topics are closed")
        if self._runner is not None and not self._opened:
            raise RuntimeError(f"these topics have a bus: enter them first, by {self._MANAGER}")

    def _end_all(self) -> None:
        """End all subscriptions, and close their connections."""
        self._closed = True
        for recipient in list(self._recipients.values()):
            self._ended(recipient)
            self._close_recipient(recipient, CloseCode.SERVICE_RESTART, LEAVING, 0.0)

    async def _ask(self, connection: Any, topic: str, action: Action) -> None:
        """Ask the application whether a connection may do something.

        Raises:
            NotAuthorized: If it mustn't.
        """
        if self._authorize is None:
            return
        allowed = self._authorize(connection, topic, action)
        if inspect.isawaitable(allowed):
            allowed = await self._resolve(allowed)
        if not allowed:
            raise NotAuthorized(f"the connection may not {action} to {topic!r}")

    async def _resolve(self, awaitable: Awaitable[T]) -> T:
        """Return the result of what a callback has returned."""
        return await awaitable

    # ------------------------------------------------------------------ subscribing

    async def _subscribe(
        self, subscription: Subscription, topic: str, since: Position | None
    ) -> Subscription:
        """Subscribe; return when the subscription is live."""
        self._check_running()
        await self._ask(subscription.connection, topic, "subscribe")
        await recipient_of(subscription).check_open()
        try:
            self._join(subscription, topic, since)
            await self._advance(subscription)
        except BaseException:
            self._leave(subscription)
            raise
        return subscription

    def _join(self, subscription: Subscription, topic: str, since: Position | None) -> None:
        # They may have been closed since: the application has been asked meanwhile.
        self._check_running()
        super()._join(subscription, topic, since)

    async def _advance(
        self, subscription: Subscription, entries: list[Entry] | None = None
    ) -> None:
        """Take a subscription on until it is live.

        Args:
            subscription: The subscription.
            entries: Messages that it is to be sent first.

        Raises:
            ConnectionClosed: If the connection is closed meanwhile.
            BusUnavailable: If what it needs can't be read.
        """
        step: list[Entry] | Step | None = entries
        while True:
            if not subscription.active:
                await self._raise_ended(subscription)
            if step is None:
                step = self._take_step(subscription)
            if step is None:
                continue  # other threads may end it at any time
            if step is Step.WAIT:
                try:
                    await self._wait(subscription)
                finally:
                    subscription._waiter = None
            elif isinstance(step, list):
                await self._send_entries(subscription, step)
            elif step is Step.KNOWN:
                self._tell_of_announcement(subscription)
            elif step is Step.LIVE:
                return
            elif not self._tell_of_gap(subscription, CloseCode.TRY_AGAIN_LATER, BEHIND, 0.0):
                await self._raise_ended(subscription)
            step = None

    def _take_step(self, subscription: Subscription) -> list[Entry] | Step | None:
        """Advance a subscription once; if it has to wait, ``_wake`` ends that from now on.

        Returns:
            What it has to do next; None if it has ended.
        """
        if not subscription.active:
            return None
        step = self._core.advance(subscription, self._now())
        if step is Step.WAIT:
            subscription._waiter = self._make_waiter()
        self._look()
        return step

    async def _send_entries(self, subscription: Subscription, entries: list[Entry]) -> None:
        recipient = recipient_of(subscription)
        for entry in entries:
            await recipient.send(entry.message, subscription.compress)
            if not subscription.active:
                break

    async def _raise_ended(self, subscription: Subscription) -> NoReturn:
        recipient = recipient_of(subscription)
        if not recipient.open:
            await recipient.raise_closed()
        raise TopicsError("the subscription was ended before it began")

    async def _advance_alone(self, subscription: Subscription, entries: list[Entry] | None) -> None:
        """Take a subscription on that was live before."""
        try:
            await self._advance(subscription, entries)
        except ConnectionClosed:
            self._leave(subscription)
        except TopicsError as exc:
            if subscription.active or isinstance(exc, BusError):
                self._expel(subscription, CloseCode.SERVICE_RESTART, LOST, self._spread)
        except BaseException:
            self._leave(subscription)
            raise

    # ------------------------------------------------------------------ a front-end's business

    @abstractmethod
    def _make_waiter(self) -> Any:
        """Return what a subscription's task or thread can wait for."""

    @abstractmethod
    async def _wait(self, subscription: Subscription) -> None:
        """Wait until ``_wake`` is called for a subscription, or was since it has its waiter."""


def recipient_of(subscription: Subscription) -> WaitingRecipient:
    recipient = subscription._recipient
    assert isinstance(recipient, WaitingRecipient)
    return recipient


class Subscribing:
    """What ``subscribe`` returns: to be awaited, or to be used as a context manager."""

    def __init__(
        self,
        topics: CoroutineTopics,
        subscription: Subscription,
        topic: str,
        since: Position | None,
    ) -> None:
        self._topics = topics
        self._subscription = subscription
        self._topic = topic
        self._since = since

    def __await__(self) -> Generator[Any, None, Subscription]:
        return self._topics._subscribe(self._subscription, self._topic, self._since).__await__()

    async def __aenter__(self) -> Subscription:
        return await self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._subscription.unsubscribe()
