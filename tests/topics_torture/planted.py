"""Mistakes that the judge has to find, each planted into a server process when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wsapi.topics._core import Core
from wsapi.topics._subscribers import Status
from wsapi.topics.bus import Notice

__all__ = ["PLANTED", "plant"]

_notice = Core.notice


def ignore_previous(self: Core, notice: Notice, now: float) -> None:
    """Take each message for the one that follows: what was missed doesn't show."""
    topic = self._topics.get(notice.topic)
    if topic is not None and topic.cursor is not None and notice.position is not None:
        notice = notice._replace(previous=topic.cursor.offset)
    _notice(self, notice, now)


def ignore_trouble(self: Core, now: float) -> None:
    """Read nothing after the bus was away."""


def ignore_all(self: Core, notice: Notice, now: float) -> None:
    """Be deaf to some topics."""
    if "room" not in notice.topic:
        _notice(self, notice, now)


def repeat(self: Core, notice: Notice, now: float) -> None:
    """Deliver some messages twice."""
    topic = self._topics.get(notice.topic)
    _notice(self, notice, now)
    position = notice.position
    if topic is not None and topic.status is Status.LIVE and topic.cursor == position is not None:
        for _ in range(position.offset % 64 == 0):
            self._deliver(topic, notice, now)


def _replace(name: str, function: Callable[..., Any]) -> Callable[[], None]:
    return lambda: setattr(Core, name, function)


PLANTED: dict[str, list[Callable[[], None]]] = {
    "ignore-previous": [
        _replace("notice", ignore_previous),
        _replace("resumed", ignore_trouble),
    ],
    "deaf": [
        _replace("notice", ignore_all),
        _replace("audited", lambda *args: True),
        _replace("resumed", ignore_trouble),
    ],
    "repeat": [_replace("notice", repeat)],
}


def plant(name: str) -> None:
    """Change what topics do in this process."""
    for change in PLANTED[name]:
        change()
