"""What brokers do for topics: five calls, and what they tell meanwhile.

A bus owns the connections to one broker, and how a topic's messages, offsets and history are kept
there. It knows nothing of WebSocket connections, nor of who subscribes: a process follows each
topic once, however many subscribe to it. Buses run on asyncio; front-ends without an event loop run
one for them in a thread.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol, TypeAlias

from .positions import Position

__all__ = ["TRANSIENT", "Bus", "BusReceiver", "Message", "Notice", "Page", "is_transient"]

Message: TypeAlias = str | bytes
"""What is published: a text or a binary message."""

TRANSIENT: Final = "\0"
"""What the names of transient topics begin with, and no name of an application contains."""


def is_transient(topic: str) -> bool:
    """Tell whether a topic has neither offsets nor history, whatever the settings of the bus.

    Such topics carry what processes tell each other: that they live, who comes and goes.

    Args:
        topic: Name of the topic.
    """
    return topic.startswith(TRANSIENT)


class Notice(NamedTuple):
    """A message of a topic, as the bus brings it.

    Args:
        topic: Name of the topic.
        message: The message.
        position: Where it stands in the topic's history; None if there is none.
        previous: Offset of the message before it in the topic, 0 if it is the first one: what was
            missed shows here.
        mark: What tells it from another message that got the same position after the broker lost
            some; empty if that can't be.
    """

    topic: str
    message: Message
    position: Position | None = None
    previous: int = 0
    mark: bytes = b""


class Page(NamedTuple):
    """What a topic's history has after a position.

    Args:
        notices: Messages after the position, in order; the first ones, if they are more than were
            asked for.
        reaches: Whether they begin with the one that followed the position: False if that is of
            another epoch, unknown, or further back than the history. Then ``notices`` is empty.
        latest: Position of the topic's last message. With ``reaches`` and no notices, it stands for
            the same place as the position that was asked for, and may be another number, before or
            after that: of a topic without messages, each process may have another one.
    """

    notices: list[Notice]
    reaches: bool
    latest: Position


class BusReceiver(Protocol):
    """Whom a bus tells. All calls are made in its event loop, none of them waits or raises."""

    def notice(self, notice: Notice) -> None:
        """Take a message of a followed topic. Those of one topic come in the broker's order.

        Args:
            notice: The message, and where it stands.
        """

    def interrupted(self, reason: Exception) -> None:
        """Note that messages may be missing from now on: the connection is lost.

        Args:
            reason: What happened.
        """

    def resumed(self) -> None:
        """Note that all followed topics are followed again; what came meanwhile is to be read."""

    def suspect(self, topic: str) -> None:
        """Note that messages of one topic may be missing.

        Args:
            topic: Name of the topic.
        """


class Bus(Protocol):
    """What a broker does for topics.

    Each method may raise ``BusUnavailable``; then nothing was done. None waits longer than the
    bus's own deadline, which its constructor takes. After the connection was lost, the bus connects
    again by itself, with full jitter, for as long as it is open, follows what it followed, and
    tells the receiver.
    """

    async def open(self, receiver: BusReceiver) -> None:
        """Connect, and say from now on what happens.

        Args:
            receiver: Whom to tell.

        Raises:
            BusUnavailable: If that isn't possible; ``open`` may be called again.
            RuntimeError: If the bus is open: it has one receiver, which keeps it.
        """

    async def close(self) -> None:
        """End all connections and tasks; nothing is told any more."""

    async def publish(self, topic: str, message: Message) -> Position | None:
        """Publish a message; return its position, or None without history.

        Calls that are made while others wait for the broker share its next round trip, in order.

        Args:
            topic: Name of the topic.
            message: The message.

        Raises:
            BusUnavailable: If it wasn't published.
            PublishUncertain: If that isn't known.
        """

    async def follow(self, topic: str) -> Position | None:
        """Have messages of a topic noticed from now on.

        Args:
            topic: Name of the topic.

        Returns:
            Position of the last message before some moment of this call: all messages after it are
            noticed, and some before it may be. None without history.

        Raises:
            BusUnavailable: If that isn't possible now.
        """

    async def unfollow(self, topic: str) -> None:
        """Have messages of a topic noticed no more.

        Args:
            topic: Name of the topic.
        """

    async def position(self, topic: str) -> Position | None:
        """Return the position of the last message; None without history.

        A topic without messages has one, too: offset 0 of an epoch that stays.

        Args:
            topic: Name of the topic.

        Raises:
            BusUnavailable: If the broker can't be asked.
        """

    async def read(self, topic: str, since: Position, limit: int) -> Page:
        """Return what the history has after a position.

        Args:
            topic: Name of the topic.
            since: Position of the last message that is known.
            limit: Most messages to return, at least 1.

        Raises:
            BusUnavailable: If the broker can't be asked.
            ValueError: If the topic has no history.
        """

    def reconnect(self) -> None:
        """Give up the connection that brings notices, and make another one: it seems to be deaf."""
