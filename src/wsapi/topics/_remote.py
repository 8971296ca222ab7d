"""What topics have in common where there is no asyncio event loop: the bus lives in a thread.

The core lives with the front-end. The runner calls into it by a function of the front-end's, and
the front-end has the runner do things by submitting coroutines to the thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from abc import abstractmethod
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, Final, TypeVar

from ._base import OnHealth
from ._coroutines import CoroutineTopics
from ._runner import Runner
from ._thread import LoopThread
from .bus import Bus, Message
from .exceptions import BusUnavailable, PublishUncertain
from .positions import Position

__all__ = ["CLOSING_LIMIT", "RemoteTopics"]

T = TypeVar("T")

CLOSING_LIMIT: Final = 15.0
"""Seconds that closing the bus may take: more than the sum of what its parts may take."""


class RemoteTopics(CoroutineTopics):
    """Topics whose bus, if they have one, lives in a thread; front-ends document the arguments."""

    _thread: LoopThread | None = None

    def _use(self, bus: Bus, **options: Any) -> None:
        on_health: OnHealth | None = options.pop("on_health")

        def tell_health(good: bool, reason: str) -> None:
            self._call_back(self._tell_health, on_health, good, reason)

        self._runner = Runner(
            bus,
            self._core,
            roll=self._roll,
            on_health=None if on_health is None else tell_health,
            handle_events=self._look,
            call=self._call,
            time=monotonic,
            logger=self._logger,
            **options,
        )

    def _now(self) -> float:
        return monotonic()

    def _tell_health(self, on_health: OnHealth, good: bool, reason: str) -> None:
        try:
            on_health(good, reason)
        except Exception:
            self._logger.error("on_health failed", exc_info=True)

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run a coroutine in the thread of the bus.

        Raises:
            BusUnavailable: If there is none any more.
        """
        thread = self._thread
        try:
            if thread is not None:
                return thread.submit(coroutine)
        except RuntimeError:
            pass
        coroutine.close()
        raise BusUnavailable("topics are closed")

    async def _publish_there(self, topic: str, message: Message) -> Position | None:
        """Publish a message on the bus, in its thread."""
        assert self._runner is not None
        try:
            position = await self._runner.publish(topic, message)
        except asyncio.CancelledError:
            if not self._closed:
                raise  # nobody waits any more
            raise PublishUncertain("topics were closed before the broker answered") from None
        self._core.counters.published += 1  # nobody else counts them
        return position

    # ------------------------------------------------------------------ a front-end's business

    @abstractmethod
    def _call(self, function: Callable[..., object], *args: object) -> None:
        """Have a function called where the core lives; those that come first are called first."""

    @abstractmethod
    def _call_back(self, function: Callable[..., object], *args: object) -> None:
        """Have what calls back into the application called where that may take its time."""
