"""Frames that stand for coroutines of compiled code.

What reads a coroutine, such as ``inspect.getcoroutinestate``, takes one without a frame for one
that has ended; and what prints stacks wants a number for each line, which compiled code lacks.
"""

from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

__all__ = ["ANEXT", "HANDLE", "RECV", "SEND"]


async def recv() -> None:
    """Receive a message."""


async def __anext__() -> None:
    """Receive the next message, when messages are iterated."""


async def send() -> None:
    """Send a message."""


async def _handle() -> None:
    """Open a connection of a server, call its handler, and close it."""


def frame_of(function: Callable[[], Coroutine[Any, Any, None]]) -> FrameType:
    """Return a frame of a coroutine function, which never runs.

    Args:
        function: The function.
    """
    coroutine: Any = function()
    frame: FrameType = coroutine.cr_frame
    coroutine.close()
    return frame


RECV = frame_of(recv)
ANEXT = frame_of(__anext__)
SEND = frame_of(send)
HANDLE = frame_of(_handle)
