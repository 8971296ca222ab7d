"""The state machine of a server, without I/O."""

from wsproto_fast import ServerProtocol

from ._basic_auth import BasicAuth

__all__ = [
    "BasicAuth",
    "ServerProtocol",
]
