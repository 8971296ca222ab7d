"""A look at the connections of one server, now and then: do they hold too much in memory?

Owns how far the look is. Front-ends own the timer; what a connection holds, and how one is closed
that holds too much, is the engine's.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from wsproto_fast.frames import State
from wsproto_fast.typing import LoggerLike

from .. import limits
from .budget import BufferBudget
from .connection import forget_frames

if TYPE_CHECKING:
    from .server import ServerSide
    from .statistics import Statistics

__all__ = ["PAUSE", "SLICE", "Sweep"]

SLICE: Final = 500
"""Connections that are looked at in one go."""

PAUSE: Final = 0.01
"""Seconds from there to the next ones."""


class Sweep:
    """Looks at connections, in slices, and closes those that have to go.

    Args:
        budget: What they may hold.
        connections: Set of the connections.
        statistics: Where it is counted.
        logger: Logger for a line about those that are closed.
    """

    def __init__(
        self,
        budget: BufferBudget,
        connections: AbstractSet[Any],
        statistics: Statistics[Any],
        logger: LoggerLike,
    ) -> None:
        self.budget = budget
        self._connections = connections
        self._statistics = statistics
        self._logger = logger
        # Nothing is kept here from one look to the next: connections are to be freed when they end.
        self._left: list[ServerSide] = []
        self._seen: list[ServerSide] = []
        self._sizes: list[int] = []

    def step(self) -> float:
        """Look at the next connections; return the seconds until this is to be called again."""
        if not self._left:
            self._left = list(self._connections)
        for connection in self._left[-SLICE:]:
            size = connection._buffered_bytes()
            if size:
                self._seen.append(connection)
                self._sizes.append(size)
        del self._left[-SLICE:]
        if self._left:
            return PAUSE
        seen, sizes = self._seen, self._sizes
        self._seen, self._sizes = [], []
        self._judge(seen, sizes)
        return self.budget.interval

    def end(self) -> None:
        """Forget everything."""
        self._left, self._seen, self._sizes = [], [], []
        self.budget.leave(self)

    def _judge(self, connections: list[ServerSide], sizes: list[int]) -> None:
        total, chosen = self.budget.judge(self, sizes)
        number = 0
        for place in chosen:
            connection = connections[place]
            # It may hold less by now if there are many.
            size = connection._buffered_bytes()
            if 2 * size >= sizes[place]:
                number += self._close(connection, size, total)
        if number:
            limits.over_budget.add(number, self._logger)

    def _close(self, connection: ServerSide, size: int, total: int) -> bool:
        """Close a connection; return whether it hasn't been before."""
        protocol = connection.protocol
        first, connection._shed = not connection._shed, True
        if first and protocol.state is State.CONNECTING:
            self._statistics.refused("buffer_budget", connection)
        elif first:
            self._statistics.given_up("buffer_budget")
        exc = ConnectionAbortedError(
            f"too much waits: {size} bytes on this connection, and {total} of "
            f"{self.budget.max_bytes} in all"
        )
        try:
            connection._change(
                partial(
                    protocol.shed, exc, unsent=connection._waiting_bytes(), now=connection._now()
                )
            )
        except Exception as error:
            # An extension or a logging handler of the program fails; others aren't concerned.
            connection.logger.error("closing a connection failed", exc_info=True)
            forget_frames(error)
        return first
