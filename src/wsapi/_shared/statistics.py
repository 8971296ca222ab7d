"""What a server counts of its connections, whatever it waits by.

Whoever does something to connections tells it here, once per connection or event: nothing is
counted per message above the engine, whose numbers are added when a connection ends.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from .server import ServerSide

__all__ = ["Statistics"]

ConnectionT = TypeVar("ConnectionT", bound="ServerSide")


class Statistics(Generic[ConnectionT]):
    """The counts of one server. Any thread may count, and read them.

    Args:
        connections: Set that holds the server's connections from ``accepted`` to ``ended``.
    """

    def __init__(self, connections: set[ConnectionT]) -> None:
        self._connections = connections
        self._lock = threading.RLock()  # a signal handler may read while this thread counts
        self._accepted = 0
        self._refused: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()

    def accepted(self, connection: ConnectionT) -> None:
        """Count a connection that was accepted, and keep it among those of the server.

        Args:
            connection: Connection whose opening handshake begins.
        """
        with self._lock:
            self._accepted += 1
            self._connections.add(connection)

    def ended(self, connection: ConnectionT) -> None:
        """Note that the TCP connection is gone; again does nothing.

        Args:
            connection: What ``accepted`` was told of.
        """
        with self._lock:
            self._connections.discard(connection)

    def refused(self, reason: str, connection: ConnectionT | None = None) -> None:
        """Count a connection that was refused for a reason other than what it asked for.

        Args:
            reason: Name of the limit, most often that of the option, or ``"tls"``.
            connection: The connection, if there is one: it is counted when it ends, by this reason
                and not by the status of its response. Without one it counts as accepted, too.
        """
        if connection is not None:
            connection._refusal = reason
            return
        with self._lock:
            self._accepted += 1
            self._refused[reason] += 1

    def dropped(self, policy: str, number: int = 1) -> None:
        """Count messages that a policy for slow peers kept from being sent.

        Args:
            policy: Name of the policy.
            number: How many messages.
        """
        with self._lock:
            self._dropped[policy] += number
