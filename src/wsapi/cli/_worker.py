"""A thread for calls that may block for ever: reading stdin, writing to a pipe that nobody empties.

Those of ``asyncio.to_thread`` are waited for when the interpreter ends; this one isn't.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["Worker"]

T = TypeVar("T")


class Worker:
    """Calls functions in a thread of its own, one after the other.

    Args:
        name: Name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()

    def stop(self) -> None:
        """End the thread when it has returned from what it was called for, if it ever does."""
        self._calls.put(None)

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function there, and return what it returns.

        When this is cancelled, the function isn't: what it returns is lost.

        Args:
            function: Function to call.
            *arguments: Its arguments.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def finish(result: T | None, exception: BaseException | None) -> None:
            if future.done():
                return
            if exception is not None:
                future.set_exception(exception)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def work() -> None:
            result: T | None = None
            exception: BaseException | None = None
            try:
                result = function(*arguments)
            except BaseException as exc:
                exception = exc
            try:
                loop.call_soon_threadsafe(finish, result, exception)
            except RuntimeError:
                pass  # the event loop is closed: nobody waits any more

        self._calls.put(work)
        return await future
