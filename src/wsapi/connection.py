"""Deprecated name of ``wsapi.protocol``, in which ``Protocol`` was called ``Connection``."""

import warnings

from wsproto_fast import environment

from .protocol import SEND_EOF, Side, State
from .protocol import Protocol as Connection

__all__ = ["SEND_EOF", "Connection", "Side", "State"]

warnings.warn(
    f"{environment.package}.connection was renamed to {environment.package}.protocol "
    "and Connection was renamed to Protocol",
    DeprecationWarning,
    stacklevel=2,
)
