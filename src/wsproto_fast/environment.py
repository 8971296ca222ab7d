"""What the engine is to a program: a name, which loggers have, and settings in the environment.

A package on top of the engine tells its own name, by ``identify``. The engine alone is
``wsproto_fast``, and reads ``WSPROTO_FAST_X`` first, then ``WEBSOCKETS_X``, which others use.
"""

import logging
import math
import os
from collections.abc import Callable

__all__ = [
    "default_logger",
    "follow",
    "getenv",
    "getenv_float",
    "getenv_int",
    "identify",
    "name",
    "package",
]

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


def _find(setting: str) -> tuple[str, str | None]:
    """Return the name of the variable that is set, or could be, and its value."""
    own, theirs = f"{name.upper()}_{setting}", f"WEBSOCKETS_{setting}"
    variable = theirs if own not in os.environ and theirs in os.environ else own
    return variable, os.environ.get(variable)


def getenv(setting: str) -> str | None:
    """Return the variable ``setting``; None if it isn't set.

    Args:
        setting: Name of the variable, without its prefix.
    """
    return _find(setting)[1]


def getenv_int(setting: str, default: int) -> int:
    """Return the variable ``setting`` as an integer, or ``default`` if it isn't set or empty.

    Args:
        setting: Name of the variable, without its prefix.
        default: Value where there is none.

    Raises:
        ValueError: If it isn't an integer, or less than zero; the text names the variable.
    """
    variable, value = _find(setting)
    if not value:
        return default
    try:
        number = int(value)
    except ValueError:
        number = -1
    if number < 0:
        raise ValueError(f"{variable} in the environment must be an integer >= 0; got {value!r}")
    return number


def getenv_float(setting: str, default: float) -> float:
    """Return the variable ``setting`` as a number, or ``default`` if it isn't set or empty.

    Args:
        setting: Name of the variable, without its prefix.
        default: Value where there is none.

    Raises:
        ValueError: If it isn't a finite number, or less than zero; the text names the variable.
    """
    variable, value = _find(setting)
    if not value:
        return default
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError(f"{variable} in the environment must be a number >= 0; got {value!r}")
    return number


def default_logger(side: str) -> logging.Logger:
    """Return the logger of those that have none of their own.

    Args:
        side: "client" or "server".
    """
    return logging.getLogger(f"{package}.{side}")
