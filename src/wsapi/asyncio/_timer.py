"""When the connections of a server are looked at."""

from __future__ import annotations

import asyncio

from .._shared.sweep import Sweep

__all__ = ["Timer"]


class Timer:
    """Calls a sweep at its times, until it is stopped.

    Args:
        loop: Event loop of the connections.
        sweep: The sweep.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sweep: Sweep) -> None:
        self._loop = loop
        self._sweep = sweep
        self._handle = loop.call_later(sweep.budget.interval, self._call)

    def stop(self, _: object = None) -> None:
        """Call the sweep no more."""
        self._handle.cancel()
        self._sweep.end()

    def _call(self) -> None:
        self._handle = self._loop.call_later(self._sweep.step(), self._call)
