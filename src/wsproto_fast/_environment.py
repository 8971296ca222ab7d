"""What this package is to the program: its settings in the environment, and its name.

Settings are ``WSAPI_X`` first, then ``WEBSOCKETS_X``, which others use.
"""

import logging
import os

__all__ = ["default_logger", "getenv", "getenv_int", "package"]

package = "wsapi"
"""Name under which programs know the interface: that of loggers, and in warnings."""


def getenv(name: str) -> str | None:
    """Return the variable ``name``, given without its prefix; None if it isn't set."""
    return os.environ.get(f"WSAPI_{name}", os.environ.get(f"WEBSOCKETS_{name}"))


def getenv_int(name: str, default: int) -> int:
    """Return the variable ``name`` as an integer, or ``default`` if it isn't set or empty."""
    value = getenv(name)
    return int(value) if value else default


def default_logger(side: str) -> logging.Logger:
    """Return the logger of those that have none of their own.

    Args:
        side: "client" or "server".
    """
    return logging.getLogger(f"{package}.{side}")
