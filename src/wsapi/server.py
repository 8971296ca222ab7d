"""The state machine of a server, without I/O."""

from wsproto_fast import ServerProtocol

__all__ = [
    "ServerProtocol",
]
