"""The state machine of a server, without I/O."""

import warnings
from typing import TYPE_CHECKING, Any

from wsproto_fast import ServerProtocol
from wsproto_fast.aliases import fallback

from ._shared.basic_auth import BasicAuth

__all__ = [
    "BasicAuth",
    "ServerProtocol",
]


class ServerConnection(ServerProtocol):
    """Deprecated name of :class:`ServerProtocol`; parameters are the same."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn(
            "ServerConnection was renamed to ServerProtocol", DeprecationWarning, stacklevel=2
        )
        super().__init__(*args, **kwargs)


if TYPE_CHECKING:
    from .legacy.server import WebSocketServer as WebSocketServer
    from .legacy.server import WebSocketServerProtocol as WebSocketServerProtocol
    from .legacy.server import broadcast as broadcast
    from .legacy.server import serve as serve
    from .legacy.server import unix_serve as unix_serve
else:
    __getattr__ = fallback(__name__, "wsapi._names")
