"""A thread with an event loop, in which buses of front-ends without one live."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from .exceptions import BusUnavailable

__all__ = ["LoopThread"]

T = TypeVar("T")

STOPPING_TIME: Final = 10.0
"""Seconds in which what runs has to end when it is cancelled."""


class LoopThread:
    """A thread that runs coroutines for others until it is stopped.

    It doesn't keep the process alive.

    Args:
        name: Name of the thread.
    """

    def __init__(self, name: str = "wsapi-topics") -> None:
        self._loop = asyncio.new_event_loop()
        # A signal handler may have interrupted the thread that has it.
        self._lock = threading.RLock()
        self._stopping = False
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run a coroutine there; may be called in any thread.

        Args:
            coroutine: The coroutine.

        Returns:
            Its result. Cancelling it cancels the coroutine.

        Raises:
            RuntimeError: If the thread is stopped, or stops.
            BusUnavailable: If it is another process's, of which this one was forked.
        """
        if os.getpid() != self._process:
            coroutine.close()
            raise BusUnavailable("topics that are open don't survive a fork: open them after it")
        with self._lock:
            if self._stopping:
                coroutine.close()
                raise RuntimeError("the event loop of topics is stopped")
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call_later(self, delay: float, function: Callable[..., object], *args: object) -> None:
        """Call a function there, later; not at all if the thread is stopped by then.

        Args:
            delay: Seconds.
            function: The function.
            args: Its arguments.
        """
        with self._lock:
            if not self._stopping:
                self._loop.call_soon_threadsafe(self._loop.call_later, delay, function, *args)

    def stop(self, timeout: float | None = STOPPING_TIME) -> None:
        """Cancel what runs, and wait for the end of the thread.

        Args:
            timeout: Most seconds to wait; None for no limit.
        """
        with self._lock:
            if not self._stopping:
                self._stopping = True
                self._loop.call_soon_threadsafe(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _run(self) -> None:
        loop = self._loop
        try:
            loop.run_forever()
            # What was submitted before begins now, and is cancelled with the rest.
            loop.run_until_complete(self._cancel_all())
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    async def _cancel_all(self) -> None:
        await asyncio.sleep(0)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STOPPING_TIME)
        # Callbacks of these tasks tell those who wait in other threads.
        await asyncio.sleep(0)
