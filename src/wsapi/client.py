"""The state machine of a client, without I/O."""

from wsproto_fast import ClientProtocol

__all__ = [
    "ClientProtocol",
]
