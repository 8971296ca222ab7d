"""Topics: messages for all who subscribed, in one process or on many hosts.

    topics = Topics()

    async def handler(connection):
        async with topics.subscribe(connection, "news"):
            async for message in connection:
                await topics.publish("news", message)

These are topics on asyncio. What connects several processes is a bus, in ``wsapi.topics.redis`` and
``wsapi.topics.nats``.
"""

from typing import TYPE_CHECKING

from wsproto_fast import Slow

from ._base import Subscription, TopicsStats
from ._history import History
from ._subscribers import Counters
from .bus import Bus, Message
from .exceptions import (
    BusError,
    BusUnavailable,
    NotAuthorized,
    PublishUncertain,
    TopicLimitExceeded,
    TopicsError,
)
from .positions import Position

if TYPE_CHECKING:
    from ._asyncio import Topics
else:
    # The same for the interpreter, each when it is needed: other front-ends have topics, too.
    from importlib import import_module as _import_module

    _LAZY = {"Topics": "_asyncio"}

    def __getattr__(name: str) -> object:
        try:
            module = _LAZY[name]
        except KeyError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
        value = globals()[name] = getattr(_import_module(f".{module}", __name__), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LAZY})


__all__ = [
    "Bus",
    "BusError",
    "BusUnavailable",
    "Counters",
    "History",
    "Message",
    "NotAuthorized",
    "Position",
    "PublishUncertain",
    "Slow",
    "Subscription",
    "TopicLimitExceeded",
    "Topics",
    "TopicsError",
    "TopicsStats",
]
