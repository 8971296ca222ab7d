"""What the topics of a process want of the bus."""

from __future__ import annotations

from .positions import Position

__all__ = ["Follow", "Read", "Request", "Unfollow"]


class Request:
    """What is wanted of the bus.

    Its result names it: each is an object of its own, and what comes too late isn't mistaken.

    Args:
        topic: Name of the topic.
    """

    __slots__ = ("topic",)

    def __init__(self, topic: str) -> None:
        self.topic = topic

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.topic!r}>"


class Follow(Request):
    """Follow a topic; then call ``followed`` or ``failed``."""

    __slots__ = ()


class Unfollow(Request):
    """Follow a topic no more, at once; then call ``unfollowed`` or ``failed``."""

    __slots__ = ()


class Read(Request):
    """Read what follows a position; then call ``page`` or ``failed``.

    Args:
        topic: Name of the topic.
        since: Position.
        limit: Most messages to read.
    """

    __slots__ = ("limit", "since")

    def __init__(self, topic: str, since: Position, limit: int) -> None:
        super().__init__(topic)
        self.since = since
        self.limit = limit
