"""Enumerations and small types that all modules of this package share.

Below them all, the compiled one included. Programs find these names in ``connection`` and
``frame_protocol``.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from ..environment import getenv_int
from ..frames import EXTERNAL_CLOSE_CODES

DEFAULT_MAX_SIZE: int = getenv_int("WSPROTO_MAX_SIZE", 2**26)
"""Default limit on the size of received messages, inflated, in bytes."""


class ConnectionType(enum.Enum):
    """Role of an endpoint."""

    CLIENT = 1
    SERVER = 2


class ConnectionState(enum.Enum):
    """State of a connection, from the opening to the closing handshake."""

    CONNECTING = 0
    OPEN = 1
    REMOTE_CLOSING = 2
    """A Close frame was received and isn't answered yet."""
    LOCAL_CLOSING = 3
    """A Close frame was sent and isn't answered yet."""
    CLOSED = 4
    REJECTING = 5
    """The opening handshake was refused; the body of the response isn't finished yet."""


class Opcode(enum.IntEnum):
    """Opcodes of frames (RFC 6455 §5.2)."""

    CONTINUATION, TEXT, BINARY = 0x00, 0x01, 0x02
    CLOSE, PING, PONG = 0x08, 0x09, 0x0A

    def iscontrol(self) -> bool:
        """Tell whether frames with this opcode are control frames."""
        return self >= Opcode.CLOSE


class CloseReason(enum.IntEnum):
    """Close codes below 3000 (RFC 6455 §7.4.1 and the IANA registry)."""

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS_RCVD = 1005
    ABNORMAL_CLOSURE = 1006
    INVALID_FRAME_PAYLOAD_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXT = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE_FAILED = 1015


LOCAL_ONLY_CLOSE_REASONS = tuple(code for code in CloseReason if code not in EXTERNAL_CLOSE_CODES)
"""Close codes that stand for what happened locally and never travel in a frame."""


class RsvBits(NamedTuple):
    """Reserved bits of a frame's header (RFC 6455 §5.2).

    Args:
        rsv1: The first one, which permessage-deflate uses (RFC 7692 §7).
        rsv2: The second one.
        rsv3: The third one.
    """

    rsv1: bool
    rsv2: bool
    rsv3: bool
