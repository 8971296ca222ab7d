"""When the connections of a server are looked at, or those that share a budget without a server."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Any

from wsproto_fast.typing import LoggerLike

from .._shared.budget import BufferBudget
from .._shared.statistics import Statistics
from .._shared.sweep import Sweep

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["Timer", "forget", "keep"]


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


# Event loops of this process -> budgets -> connections there that share one, and who looks at them.
_budgets: weakref.WeakKeyDictionary[
    asyncio.AbstractEventLoop, dict[BufferBudget, tuple[set[Any], Timer]]
] = weakref.WeakKeyDictionary()


def keep(
    budget: BufferBudget, connection: Connection, statistics: Statistics[Any], logger: LoggerLike
) -> None:
    """Add a connection to those that share a budget.

    Args:
        budget: What it and others may hold.
        connection: The connection.
        statistics: Where those that are closed for what they hold are counted.
        logger: Logger for a line about them.
    """
    budgets = _budgets.setdefault(connection.loop, {})
    if budget not in budgets:
        connections: set[Any] = set()
        sweep = Sweep(budget, connections, statistics, logger)
        budgets[budget] = connections, Timer(connection.loop, sweep)
    budgets[budget][0].add(connection)


def forget(budget: BufferBudget, connection: Connection) -> None:
    """Forget a connection that has ended; with the last one, the budget.

    Args:
        budget: As for ``keep``.
        connection: The connection.
    """
    budgets = _budgets[connection.loop]
    connections, timer = budgets[budget]
    connections.discard(connection)
    if not connections:
        timer.stop()
        del budgets[budget]
