"""What the operating system knows about a peer that is silent, or takes nothing.

Only Linux tells. Elsewhere, and on Unix sockets, a connection whose peer is gone ends when the
operating system gives it up.
"""

from __future__ import annotations

import socket
import struct
import sys
from math import inf
from typing import Any

__all__ = ["bytes_acknowledged", "network_silence"]

# The beginning of Linux's struct tcp_info: of its bytes, the state and the number of zero-window
# probes that aren't answered; of its 32-bit words, the number of segments that aren't acknowledged
# and the milliseconds since the last acknowledgement.
_INFO = struct.Struct("=B2xB4x16xI28xI")
_CLOSED = 7

# Behind it, since Linux 4.1, the number of bytes that were acknowledged.
_ACKNOWLEDGED = struct.Struct("=120xQ")

# Of zero-window probes, the last one may just be under way.
_MAX_PROBES = 1

# Seconds for which hosts may put off an acknowledgement (RFC 9293 section 3.8.6.3).
_MAX_DELAY = 0.5


def network_silence(sock: Any) -> float | None:
    """Return for how long the peer's host hasn't acknowledged what was sent.

    Args:
        sock: Socket, or what stands for one; None if there is none.

    Returns:
        Seconds since the last acknowledgement, 0 if nothing waits for one or it may just be put
        off, infinite if the connection is gone, None if it isn't known.
    """
    if sys.platform != "linux":
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
        state, probes, unacknowledged, last = _INFO.unpack(info)
    except (OSError, AttributeError, struct.error):
        return None
    if state == _CLOSED:
        return inf
    if unacknowledged == 0 and probes <= _MAX_PROBES:
        # A peer that doesn't read has acknowledged all that it let us send.
        return 0.0
    silence: float = last / 1000
    return silence if silence > _MAX_DELAY else 0.0


def bytes_acknowledged(sock: Any) -> int | None:
    """Return how many bytes the peer's host has acknowledged: it has taken them.

    Args:
        sock: Socket, or what stands for one; None if there is none.

    Returns:
        Number of bytes, or None if it isn't known.
    """
    if sys.platform != "linux":
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED.size)
        number: int = _ACKNOWLEDGED.unpack(info)[0]
    except (OSError, AttributeError, struct.error):
        return None
    return number
