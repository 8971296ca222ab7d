"""What the engine is to a program: a name, which loggers have, and settings in the environment.

A package on top of the engine tells its own name, by ``identify``. The engine alone is
``wsproto_fast``, and reads ``WSPROTO_FAST_X`` first, then ``WEBSOCKETS_X``, which others use.
"""

import logging
import os
from collections.abc import Callable

__all__ = ["default_logger", "follow", "getenv", "getenv_int", "identify", "name", "package"]

name = "wsproto_fast"
"""Name of what programs use: in ``User-Agent`` and ``Server``, and before that of a setting."""

package = "wsproto_fast"
"""Name under which programs import it: that of loggers, and in warnings."""

_followers: list[Callable[[], object]] = []


def identify(own: str, *, imported_as: str | None = None) -> None:
    """Tell the name of the package by which a program uses the engine; settings are read again.

    Args:
        own: Its name; variables in the environment begin with it, in capital letters.
        imported_as: Name under which programs import it, ``own`` by default.

    """
    global name, package
    package = own if imported_as is None else imported_as
    if own != name:
        name = own
        for read in _followers:
            read()


def follow(read: Callable[[], object]) -> None:
    """Call what reads settings, now and whenever ``identify`` changes where they are.

    Args:
        read: A function.
    """
    _followers.append(read)
    read()


def getenv(setting: str) -> str | None:
    """Return the variable ``setting``, given without its prefix; None if it isn't set."""
    return os.environ.get(f"{name.upper()}_{setting}", os.environ.get(f"WEBSOCKETS_{setting}"))


def getenv_int(setting: str, default: int) -> int:
    """Return the variable ``setting`` as an integer, or ``default`` if it isn't set or empty."""
    value = getenv(setting)
    return int(value) if value else default


def default_logger(side: str) -> logging.Logger:
    """Return the logger of those that have none of their own.

    Args:
        side: "client" or "server".
    """
    return logging.getLogger(f"{package}.{side}")
