"""The state machine of a client, without I/O; when and how long after a failure to try again."""

import warnings
from typing import TYPE_CHECKING, Any

from wsproto_fast import ClientProtocol
from wsproto_fast.aliases import fallback

from ._shared.reconnection import (
    backoff,
    process_exception,
)

__all__ = [
    "ClientProtocol",
    "backoff",
    "process_exception",
]


class ClientConnection(ClientProtocol):
    """Deprecated name of :class:`ClientProtocol`; parameters are the same."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn(
            "ClientConnection was renamed to ClientProtocol", DeprecationWarning, stacklevel=2
        )
        super().__init__(*args, **kwargs)


if TYPE_CHECKING:
    from .legacy.client import WebSocketClientProtocol as WebSocketClientProtocol
    from .legacy.client import connect as connect
    from .legacy.client import unix_connect as unix_connect
else:
    __getattr__ = fallback(__name__, "wsapi._names")
