"""Takes the place of transports that aren't whole, such as those in tests of servers of HTTP."""

from __future__ import annotations

from typing import Any

__all__ = ["PartialTransport"]


class PartialTransport:
    """A transport that has only what servers of HTTP use, such as those of their tests.

    Args:
        transport: The transport.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing."""

    def get_write_buffer_size(self) -> int:
        """Return how much waits to be written: nothing, as far as is known."""
        return 0

    def is_reading(self) -> bool:
        """Tell whether it reads, as it does in the beginning."""
        return True

    def can_write_eof(self) -> bool:
        """Tell whether it can be closed for writing only."""
        return False

    def abort(self) -> None:
        """Close it."""
        self._transport.close()
