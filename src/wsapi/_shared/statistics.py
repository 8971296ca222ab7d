"""What a server counts of its connections, whatever it waits by.

Whoever does something to connections tells it here, once per connection or event: nothing is
counted per message above the engine, whose numbers are added when a connection ends.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from wsproto_fast import ServerProtocol, Totals
from wsproto_fast.statistics import HANDSHAKE_BOUNDS, Traffic

if TYPE_CHECKING:
    from .server import ServerSide

__all__ = [
    "HANDSHAKE_BOUNDS",
    "Histogram",
    "ServerStats",
    "Statistics",
    "log_end",
    "remember_peer",
]

ConnectionT = TypeVar("ConnectionT", bound="ServerSide")


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often something took how long.

    Attributes:
        buckets: Pairs of an upper bound in seconds, which is included, and of how often it took at
            most that; the last bound is infinite.
        sum: Seconds in all.
    """

    buckets: tuple[tuple[float, int], ...]
    sum: float

    @property
    def count(self) -> int:
        """How often it happened."""
        return self.buckets[-1][1]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStats(Traffic):
    """What a server has counted.

    The numbers of ``Traffic`` are sums over its connections: over all that there have been, or, of
    what there is now, over those that there are. ``accepted`` is the sum of ``opening``, ``open``,
    ``closing``, and what is in ``refused`` and ``closed``.

    Attributes:
        accepted: Connections that came in. With TLS on asyncio, and no ``door``, they are counted
            when their TLS handshake is complete.
        opening: Connections that are in their opening handshake, now.
        open: Connections that are open, now.
        closing: Connections whose end has begun and isn't complete, now; on threads, their handlers
            may also still run.
        refused: How many didn't become WebSocket connections, by reason: the status code of the
            response, or the name of the limit; ``"timeout"``, ``"malformed"`` (no request), or
            ``"gone"`` (the client left) without a response; ``"tls"`` and ``"error"`` before there
            was a connection.
        closed: How many WebSocket connections have ended, by close code: the one received, or else
            the one sent; 1006 without either.
        given_up: How many WebSocket connections the server has closed for what they cost, by name
            of the limit: ``"buffer_budget"``.
        dropped: How many messages weren't sent because their receiver is slow, by policy.
        handshakes: Durations of opening handshakes that succeeded, without that of TLS.
    """

    accepted: int = 0
    opening: int = 0
    open: int = 0
    closing: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    closed: Mapping[int, int] = field(default_factory=dict)
    given_up: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    handshakes: Histogram = Histogram(tuple((bound, 0) for bound in HANDSHAKE_BOUNDS), 0.0)


class Statistics(Generic[ConnectionT]):
    """The counts of one server. Any thread may count, and read them.

    Args:
        connections: Set that holds the server's connections from ``accepted`` to ``ended``.

    Attributes:
        log_connections: Whether to log a line about each connection that was open, when it ends.
    """

    def __init__(self, connections: set[ConnectionT]) -> None:
        self.log_connections = False
        self._connections = connections
        self._lock = threading.RLock()  # a signal handler may read while this thread counts
        self._refused: Counter[str] = Counter()
        self._closed: Counter[int] = Counter()
        self._given_up: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._ended = Totals()

    def accepted(self, connection: ConnectionT) -> None:
        """Count a connection that was accepted, and keep it among those of the server.

        Args:
            connection: Connection whose opening handshake begins.
        """
        if self.log_connections:
            remember_peer(connection)
        self._connections.add(connection)  # all that there is to count for now

    def ended(self, connection: ConnectionT) -> int:
        """Add what a connection has counted, once, when the TCP connection is gone.

        Args:
            connection: What ``accepted`` was told of.

        Returns:
            Its close code if it was a WebSocket connection that wasn't added before, else 0.
        """
        with self._lock:
            try:
                self._connections.remove(connection)
            except KeyError:
                return 0
            code = self._ended.add_past(connection.protocol)
            if code:
                self._closed[code] += 1
            else:
                self._refused[_refusal(connection)] += 1
        if code and self.log_connections:
            log_end(connection, code)
        return code

    def refused(self, reason: str, connection: ConnectionT | None = None) -> None:
        """Count a connection that was refused for a reason other than what it asked for.

        Args:
            reason: Name of the limit, most often that of the option, or ``"tls"``.
            connection: The connection, if there is one: it is counted when it ends, by this reason
                and not by the status of its response. Without one it counts as accepted, too.
        """
        if connection is not None:
            connection._refusal = reason
            return
        with self._lock:
            self._refused[reason] += 1

    def given_up(self, reason: str) -> None:
        """Count a WebSocket connection that the server closes for what it costs.

        Args:
            reason: Name of the limit.
        """
        with self._lock:
            self._given_up[reason] += 1

    def dropped(self, policy: str, number: int = 1) -> None:
        """Count messages that a policy for slow peers kept from being sent.

        Args:
            policy: Name of the policy.
            number: How many messages.
        """
        with self._lock:
            self._dropped[policy] += number

    def read(self) -> ServerStats:
        """Return what was counted so far."""
        with self._lock:
            connections = list(self._connections)
            totals = self._ended.copy()
            own: dict[str, Any] = {
                "refused": dict(self._refused),
                "closed": dict(self._closed),
                "given_up": dict(self._given_up),
                "dropped": dict(self._dropped),
            }
        own["accepted"] = (
            len(connections) + sum(own["refused"].values()) + sum(own["closed"].values())
        )
        # One that ends meanwhile isn't among the others yet.
        for connection in connections:
            # Most have nothing to write, and needn't be asked.
            if totals.add(connection.protocol):
                totals.add_unsent(connection._waiting_bytes())
        counts = accumulate(totals.handshakes)
        own["handshakes"] = Histogram(
            tuple(zip(HANDSHAKE_BOUNDS, counts, strict=True)), totals.handshake_seconds
        )
        own |= totals.counts()
        return ServerStats(
            **own,
            opening=totals.opening,
            open=totals.open,
            closing=totals.closing,
        )


def _refusal(connection: ServerSide) -> str:
    """Return why a connection didn't become a WebSocket connection."""
    protocol = connection.protocol
    if connection._refusal is not None:
        return connection._refusal
    if protocol.response_status:
        return str(protocol.response_status)
    exc = protocol.handshake_exc
    if isinstance(exc, TimeoutError):
        return "timeout"
    # Whoever leaves in the middle of its request sent no valid one, because it left.
    if exc is None or isinstance(exc, OSError) or isinstance(exc.__cause__, EOFError):
        return "gone"
    return "malformed"


def _reason(protocol: ServerProtocol) -> str:
    """Return the reason of the end of a WebSocket connection that tells people most."""
    for close in (protocol.close_rcvd, protocol.close_sent):
        if close is not None:
            return close.reason
    exc = protocol.parser_exc
    return "" if exc is None else str(exc)


def remember_peer(connection: ServerSide) -> None:
    """Keep the address of the peer for ``log_end``, before which it is gone."""
    with suppress(OSError):  # it may be gone already
        connection._peer = connection.remote_address


def log_end(connection: ServerSide, code: int) -> None:
    """Log what a connection was, for people and for tools that look for ``name=value``.

    Args:
        connection: The connection, whose peer was remembered.
        code: Its close code.
    """
    protocol, request = connection.protocol, connection.request
    stats = protocol.stats()
    connection.logger.info(
        # What the peer chose may hold anything: it is quoted.
        "connection ended: address=%s path=%a code=%d reason=%a seconds=%.3f "
        "messages_received=%d bytes_received=%d messages_sent=%d bytes_sent=%d",
        _address(connection),
        # There may be secrets in the query.
        "" if request is None else request.path.partition("?")[0],
        code,
        _reason(protocol),
        stats.open_seconds,
        stats.messages_received,
        stats.message_bytes_received,
        stats.messages_sent,
        stats.message_bytes_sent,
    )


def _address(connection: ServerSide) -> str:
    """Return the address of the client: that of the peer, unless it is known to be a proxy."""
    peer, visit = connection._peer, connection._visit
    host = peer[0] if isinstance(peer, tuple) and peer else None
    client = None if visit is None else visit.client_address
    if client is not None and client != host:
        return ascii(client)[1:-1]  # an application may take it from a header
    if host is None:
        return "unix" if isinstance(peer, (str, bytes)) else "unknown"
    return f"[{host}]:{peer[1]}" if ":" in host else f"{host}:{peer[1]}"
