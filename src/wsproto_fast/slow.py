"""What becomes of messages for a peer that doesn't read as fast as they come."""

from __future__ import annotations

import enum

__all__ = ["Slow"]


class Slow(enum.Enum):
    """What becomes of messages for a peer that doesn't read as fast as they come.

    What may be dropped waits unframed, in a backlog with a limit in bytes, while the network takes
    no more. What leaves, leaves in order.
    """

    WAIT = "wait"
    """Who sends waits. What nobody waits for, as in ``broadcast``, piles up to the limit, beyond
    which the connection is aborted."""
    DROP_NEWEST = "drop newest"
    """What finds no room is dropped."""
    DROP_OLDEST = "drop oldest"
    """What has waited longest gives up its room."""
    LATEST = "latest"
    """A message takes the place of the one with the same key that still waits; where there is none,
    and no room, what has waited longest gives up its room."""
    CLOSE = "close"
    """What finds no room closes the connection with 1013 (try again later), in place of what
    waits."""
