"""The state machine of a connection, without I/O."""

from typing import TYPE_CHECKING, TypeAlias

from wsproto_fast import Frame, Protocol
from wsproto_fast.aliases import fallback
from wsproto_fast.frames import Side, State
from wsproto_fast.http11 import Request, Response

__all__ = [
    "CLIENT",
    "CLOSED",
    "CLOSING",
    "CONNECTING",
    "OPEN",
    "SEND_EOF",
    "SERVER",
    "Event",
    "Protocol",
    "Side",
    "State",
]

SEND_EOF = b""
"""What stands for the end of the stream in ``data_to_send()``."""

Event: TypeAlias = Request | Response | Frame
"""What ``events_received()`` gives."""

# Not documented, but programs use them.
SERVER, CLIENT = Side.SERVER, Side.CLIENT
CONNECTING, OPEN, CLOSING, CLOSED = State.CONNECTING, State.OPEN, State.CLOSING, State.CLOSED

if not TYPE_CHECKING:
    __getattr__ = fallback(__name__, "wsapi._names")
