"""The servers that are compared: one small module per peer.

Each module has

- ``label``: its name in the tables;
- ``websocket``: whether it speaks WebSocket (the raw peers echo bytes);
- ``version()``: what is measured, as text;
- ``echo(deflate)`` and ``broadcast(deflate)``: start a server on a free port of 127.0.0.1 and
  return it. The first sends each message back; the second sends each message to every open
  connection. Both have compression off, or, with ``deflate``, permessage-deflate on with the peer's
  own settings; a peer outside of ``DEFLATE`` ignores it. All else is left at the peer's defaults.
"""

from __future__ import annotations

import importlib
import socket
from collections.abc import Sequence
from typing import Any, Final, Protocol

HOST: Final = "127.0.0.1"

# In the order of the tables; "wsapi" is ours.
NAMES: Final = (
    "raw",
    "raw_buffered",
    "websockets",
    "picows",
    "picows_websockets",
    "aiohttp",
    "wsapi",
    "wsapi_callbacks",
    "wsapi_aiofastnet",
    "wsapi_callbacks_aiofastnet",
    "wsapi_stdlib",
    "wsapi_zlib",
    "wsapi_zlib_ng",
    "wsapi_isal",
)
RAW: Final = ("raw", "raw_buffered")
OURS: Final = "wsapi"
# Ours, each with another implementation of DEFLATE: all the same if nothing is compressed.
BACKENDS: Final = ("wsapi_stdlib", "wsapi_zlib", "wsapi_zlib_ng", "wsapi_isal")
# Which peers run where nothing is compressed, and where everything is.
PLAIN: Final = tuple(name for name in NAMES if name not in BACKENDS)
DEFLATE: Final = ("websockets", "picows_websockets", "aiohttp", "wsapi", *BACKENDS)


class Running(Protocol):
    """A server that listens, as asyncio and all the libraries present it."""

    @property
    def sockets(self) -> Sequence[socket.socket]: ...


class Peer(Protocol):
    """What a module of this package provides."""

    label: str
    websocket: bool

    def version(self) -> str: ...

    async def echo(self, deflate: bool) -> Running: ...

    async def broadcast(self, deflate: bool) -> Running: ...


def load(name: str) -> Peer:
    """Import a peer.

    Raises:
        ImportError: the library that it measures isn't installed.

    """
    if name not in NAMES:
        raise ValueError(f"unknown peer {name!r}, expected one of {', '.join(NAMES)}")
    module: Any = importlib.import_module(f"{__name__}.{name}")
    peer: Peer = module
    return peer
