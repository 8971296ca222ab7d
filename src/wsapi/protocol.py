"""The state machine of a connection, without I/O."""

from wsproto_fast import Protocol
from wsproto_fast.frames import Side, State

__all__ = [
    "Protocol",
    "Side",
    "State",
]
