"""One connection at a time in its opening handshake, per address (RFC 6455 §4.1).

The line is one for the whole process. It knows nothing of event loops: whoever waits gives a
function that is called when its turn comes, from whichever thread leaves.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable

__all__ = ["Gate", "gate"]


class Gate:
    """Lets those with the same key pass one after the other, in the order in which they came."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # For each key that somebody has passed with and not left: who waits.
        self._waiting: dict[str, deque[Callable[[], None]]] = {}

    def enter(self, key: str, proceed: Callable[[], None]) -> bool:
        """Pass the gate, or get in line.

        Args:
            key: What there may be one of.
            proceed: Called when it is this caller's turn, unless it is at once.

        Returns:
            Whether it is this caller's turn at once.
        """
        with self._lock:
            line = self._waiting.get(key)
            if line is None:
                self._waiting[key] = deque()
                return True
            line.append(proceed)
            return False

    def leave(self, key: str) -> None:
        """Let the next one pass; whoever has passed must call this once."""
        while True:
            with self._lock:
                line = self._waiting[key]
                if not line:
                    del self._waiting[key]
                    return
                proceed = line.popleft()
            try:
                proceed()
            except RuntimeError:
                continue  # its event loop is closed, or its run of trio is over: it won't come
            return

    def give_up(self, key: str, proceed: Callable[[], None]) -> None:
        """Get out of line; or leave, if the turn has come meanwhile."""
        with self._lock:
            line = self._waiting[key]
            if proceed in line:
                line.remove(proceed)
                return
        self.leave(key)


gate = Gate()
"""The gate of this process."""

if hasattr(os, "register_at_fork"):
    # Those that have passed, and hold the lock, aren't in the child.
    os.register_at_fork(after_in_child=gate.__init__)  # type: ignore[misc] # it is made anew
