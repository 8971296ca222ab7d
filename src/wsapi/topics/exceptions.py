"""What goes wrong with topics."""

from __future__ import annotations

__all__ = [
    "BusError",
    "BusUnavailable",
    "NotAuthorized",
    "PublishUncertain",
    "TopicLimitExceeded",
    "TopicsError",
]


class TopicsError(Exception):
    """Base class of what goes wrong with topics."""


class TopicLimitExceeded(TopicsError):
    """Raised when a limit on topics or subscriptions leaves no room for another one."""


class NotAuthorized(TopicsError):
    """Raised when the application says that a connection mustn't do that with a topic."""


class BusError(TopicsError):
    """Base class of what goes wrong between this process and the broker."""


class BusUnavailable(BusError):
    """Raised when the broker can't be reached, or refuses; nothing was published."""


class PublishUncertain(BusError):
    """Raised when the connection to the broker ended before it answered.

    The message may have been published, or not: only who knows what it means can decide whether to
    publish it again.
    """
