"""What the parts of the kit for asyncio, threads, and trio share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from wsproto_fast.uri import WebSocketURI

from ._wires import Wire

__all__ = ["GRACE", "URI", "MemoryClient", "prepared", "refuse"]

URI = "ws://localhost/"

# Seconds that connections and handlers may take to end properly, unless a test has the time stand
# still. Then connections are aborted.
GRACE = 1.0


def refuse(options: Iterable[str]) -> None:
    """Refuse options that are for sockets and TLS.

    Args:
        options: Their names.

    Raises:
        ValueError: If there are any.
    """
    if names := sorted(options):
        raise ValueError(f"in memory there is no use for {', '.join(names)}")


class MemoryClient:
    """What connects to a server in memory; beside a front-end's ``connect``."""

    _options: dict[str, Any]
    _wires: tuple[Wire | None, Wire | None]

    def _gate_key(self, uri: WebSocketURI) -> str | None:
        return uri.host

    def _take_wires(self) -> tuple[Wire, Wire]:
        """Return the outgoing and the incoming wire of the next connection."""
        outgoing, incoming = self._wires
        self._wires = None, None  # a connection that is made again has others
        return outgoing or Wire(), incoming or Wire()


ClientT = TypeVar("ClientT", bound=MemoryClient)


def prepared(connecting: ClientT, outgoing: Wire | None, incoming: Wire | None) -> ClientT:
    """Return what connects, with the wires of its first connection.

    Args:
        connecting: What connects.
        outgoing: Wire to the server; None for a new one.
        incoming: Wire from the server.

    Raises:
        ValueError: If one of its options has no use in memory.
    """
    refuse(connecting._options)
    connecting._wires = outgoing, incoming
    return connecting
