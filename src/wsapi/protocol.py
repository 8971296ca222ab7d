"""The state machine of a connection, without I/O."""

from typing import TypeAlias

from wsproto_fast import Frame, Protocol
from wsproto_fast.frames import Side, State
from wsproto_fast.http11 import Request, Response

__all__ = [
    "SEND_EOF",
    "Event",
    "Protocol",
    "Side",
    "State",
]

SEND_EOF = b""
"""What stands for the end of the stream in ``data_to_send()``."""

Event: TypeAlias = Request | Response | Frame
"""What ``events_received()`` gives."""
