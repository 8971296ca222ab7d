"""Clients and servers for tests, connected in memory, with time and faults that a test decides on.

These are for asyncio. They need no sockets and no ports, and a test with a ``Clock`` doesn't wait
for time.
"""

from ._asyncio import (
    MemoryConnect,
    Serving,
    ServingASGI,
    pair,
    serving,
    serving_asgi,
)
from ._clock import Clock
from ._wires import Link, Wire, link

__all__ = [
    "Clock",
    "Link",
    "MemoryConnect",
    "Serving",
    "ServingASGI",
    "Wire",
    "link",
    "pair",
    "serving",
    "serving_asgi",
]
