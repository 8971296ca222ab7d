"""Exceptions, in the tree that programs catch."""

from typing import TYPE_CHECKING

from wsproto_fast.aliases import fallback
from wsproto_fast.exceptions import *  # noqa: F403 # all of them have their names here
from wsproto_fast.exceptions import __all__ as __all__

if TYPE_CHECKING:
    from .legacy.exceptions import AbortHandshake as AbortHandshake
    from .legacy.exceptions import InvalidStatusCode as InvalidStatusCode
    from .legacy.exceptions import RedirectHandshake as RedirectHandshake
    from .legacy.exceptions import WebSocketProtocolError as WebSocketProtocolError
else:
    __getattr__ = fallback(__name__, "wsapi._names")
