"""WebSocket clients and servers for asyncio, with the interface of ``websockets``."""

from wsproto_fast import __version__

__all__ = ["__version__"]
