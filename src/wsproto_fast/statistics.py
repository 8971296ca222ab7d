"""What a connection has counted: ``Protocol.stats()``.

Numbers only grow, but for those that say what there is now. Nothing resets them, and they can be
read after the end, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

__all__ = ["HANDSHAKE_BOUNDS", "ConnectionStats", "Traffic"]

HANDSHAKE_BOUNDS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    inf,
)
"""Upper bounds of durations of opening handshakes in ``Totals``, in seconds; they are included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What passed on a connection, or on several together.

    Attributes:
        messages_sent: Messages whose last frame was written.
        messages_received: Messages whose last frame was received, wanted or not.
        message_bytes_sent: Bytes of messages, text as UTF-8, before they are compressed.
        message_bytes_received: The same after they are decompressed.
        payload_bytes_sent: Bytes of messages as they are in frames, compressed or not.
        payload_bytes_received: The same for what was received.
        frames_sent: Frames of all kinds.
        frames_received: Frames of all kinds.
        wire_bytes_sent: Bytes given to the network, those of opening handshake and headers of
            frames included, those of TLS not.
        wire_bytes_received: Bytes got from the network.
        pings_sent: Ping frames, those of keepalive included.
        pings_received: Ping frames.
        pongs_sent: Pong frames.
        pongs_received: Pong frames.
        messages_dropped: Messages that a policy for slow peers kept from being sent.
        queued_frames: Received frames that wait for the application, now.
        queued_bytes: Bytes of them, now; each frame costs 72 besides its payload.
        max_queued_frames: The most frames that waited on one connection.
        max_queued_bytes: The most bytes that waited on one connection.
        write_buffer_bytes: Bytes that wait for the network to take them, now; a message that waits
            unframed, and may be dropped, costs 160 besides its payload.
        max_write_buffer_bytes: The most bytes that waited on one connection when that was looked
            at: when some were taken, and when the network took no more.
    """

    messages_sent: int = 0
    messages_received: int = 0
    message_bytes_sent: int = 0
    message_bytes_received: int = 0
    payload_bytes_sent: int = 0
    payload_bytes_received: int = 0
    frames_sent: int = 0
    frames_received: int = 0
    wire_bytes_sent: int = 0
    wire_bytes_received: int = 0
    pings_sent: int = 0
    pings_received: int = 0
    pongs_sent: int = 0
    pongs_received: int = 0
    messages_dropped: int = 0
    queued_frames: int = 0
    queued_bytes: int = 0
    max_queued_frames: int = 0
    max_queued_bytes: int = 0
    write_buffer_bytes: int = 0
    max_write_buffer_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionStats(Traffic):
    """What a connection has counted and measured.

    Attributes:
        latency: Round-trip time of the last answered Ping in seconds; 0 before the first one.
        handshake_seconds: Duration of the opening handshake, from when the engine was told its time
            limit to when the connection was open; None before that, or without a handshake.
        open_seconds: How long the connection has been open, or was; 0 if it wasn't.
    """

    latency: float = 0.0
    handshake_seconds: float | None = None
    open_seconds: float = 0.0
