"""What is compared: the peers of each front-end, all in one table.

Those on event loops are made by a class ``Peer`` in a module here, from the options in the table.
`Peer` says what it has. Servers listen on a free port of 127.0.0.1; ``echo`` sends each message
back, ``broadcast`` sends each message to every open connection. Both have compression off, or,
with ``deflate``, permessage-deflate on with the peer's own settings. All else is left at the peer's
defaults. What uses threads or trio is in `threads` and `trio`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version as distribution_version
from typing import Any, Final, Protocol

HOST: Final = "127.0.0.1"
LOOPS: Final = ("asyncio", "uvloop")
FRONT_ENDS: Final = (*LOOPS, "threads", "trio")


class Running(Protocol):
    """A server that listens, as asyncio and all the libraries present it."""

    @property
    def sockets(self) -> Sequence[socket.socket]: ...


class Peer(Protocol):
    """What the modules of this package provide."""

    def version(self) -> str:
        """Return what is measured."""

    async def echo(
        self, deflate: bool, *, tls: ssl.SSLContext | None = None, max_size: int | None = None
    ) -> Running:
        """Start a server that sends each message back.

        Args:
            deflate: Whether it compresses.
            tls: Configuration of TLS, if it has that.
            max_size: Limit on the size of messages, if it isn't the peer's own.
        """

    async def broadcast(self, deflate: bool) -> Running:
        """Start a server that sends each message to all."""


@dataclass(frozen=True)
class Spec:
    """A peer in the table.

    Args:
        module: The module of this package.
        takes: What it takes part in: kinds of scenarios.
        needs: What must be installed.
        options: Arguments of its ``Peer``.
    """

    module: str
    takes: tuple[str, ...]
    needs: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def missing(self) -> str | None:
        """Why it can't run here, or None."""
        found = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return f"{', '.join(found)} not installed" if found else None

    def load(self) -> Peer:
        """Import and make a peer on event loops."""
        peer: Peer = importlib.import_module(f"{__name__}.{self.module}").Peer(**self.options)
        return peer


PING_INTERVAL: Final = "BENCHMARK_PING_INTERVAL"
"""Environment variable: seconds between keepalive Pings of servers like ``websockets``."""

# What such servers are given besides.
KEEPALIVE: Final = (
    {"ping_interval": float(os.environ[PING_INTERVAL])} if PING_INTERVAL in os.environ else {}
)

STANDSTILL: Final = "BENCHMARK_STANDSTILL"
"""Environment variable: no time passes on trio, for what is so slow that too much would."""

RAW: Final = ("raw", "accept", "plain")  # no WebSocket: bytes are echoed
PLAIN: Final = ("tls", "plain")
BOTH: Final = (*PLAIN, "deflate")
ALL: Final = (*BOTH, "client")
OURS: Final = ("wsapi", "uvicorn_wsapi")  # what the others are compared with


def _ours(*takes: str, needs: tuple[str, ...] = (), **options: Any) -> Spec:
    return Spec("wsapi", takes, ("wsapi", "wsproto_fast", *needs), options)


def _uvicorn(ws: str, *needs: str, aliases: str = "") -> Spec:
    options = {"ws": ws, "aliases": aliases}
    return Spec("uvicorn", ("uvicorn",), ("uvicorn", "starlette", *needs), options)


# In the order of the tables.
ON_LOOPS: Final = {
    "raw": Spec("raw", ("tls", *RAW, "client"), options={"buffered": False}),
    "raw_buffered": Spec("raw", ("tls", *RAW), options={"buffered": True}),
    # Steps from there to what waits for messages: see `large`.
    "raw_whole": Spec("raw", ("raw",), options={"whole": True}),
    "raw_unmasked": Spec("raw", ("raw",), options={"unmasked": True}),
    "websockets": Spec("drop_in", ALL, ("websockets",), {"package": "websockets"}),
    "picows": Spec("picows", (*PLAIN, "client"), ("picows",)),
    "picows_websockets": Spec("drop_in", ALL, ("picows",), {"package": "picows.websockets"}),
    "aiohttp": Spec("aiohttp", ALL, ("aiohttp",)),
    "wsapi": _ours(*ALL),
    "wsapi_callbacks": _ours(*PLAIN, callbacks=True),
    "wsapi_aiofastnet": _ours(*PLAIN, needs=("aiofastnet",), aiofastnet=True),
    "wsapi_callbacks_aiofastnet": _ours(
        *PLAIN, needs=("aiofastnet",), callbacks=True, aiofastnet=True
    ),
    # Each with another implementation of DEFLATE: all the same if nothing is compressed.
    "wsapi_stdlib": _ours("deflate", without=("isal", "zlib_ng")),
    "wsapi_zlib": _ours("deflate", backend="zlib"),
    "wsapi_zlib_ng": _ours("deflate", needs=("zlib_ng",), backend="zlib-ng"),
    "wsapi_isal": _ours("deflate", needs=("isal",), backend="isal"),
    # Under uvicorn: our class, its own ones, and its own ones with our packages in their place.
    "uvicorn_wsapi": _uvicorn("wsapi.uvicorn:WebSocketProtocol"),
    "uvicorn_websockets": _uvicorn("websockets-sansio", "websockets"),
    "uvicorn_alias_websockets": _uvicorn("websockets-sansio", aliases="websockets"),
    "uvicorn_wsproto": _uvicorn("wsproto", "wsproto"),
    "uvicorn_alias_wsproto": _uvicorn("wsproto", aliases="wsproto"),
}
ON_THREADS: Final = {
    "raw": Spec("threads", (*RAW, "client")),
    "wsapi": Spec("threads", ("plain", "client"), ("wsapi", "wsproto_fast")),
    "websockets": Spec("threads", ("plain", "client"), ("websockets",)),
    "websocket_client": Spec("threads", ("client",), ("websocket",)),
}
ON_TRIO: Final = {
    "raw": Spec("trio", (*RAW, "client"), ("trio",)),
    "wsapi": Spec("trio", ("plain", "client"), ("trio", "wsapi", "wsproto_fast")),
    "websockets": Spec("trio", ("plain", "client"), ("trio", "websockets")),
    "trio_websocket": Spec("trio", ("plain", "client"), ("trio", "trio_websocket")),
}
PEERS: Final = {
    "asyncio": ON_LOOPS,
    "uvloop": ON_LOOPS,
    "threads": ON_THREADS,
    "trio": ON_TRIO,
}
NAMES: Final = tuple(dict.fromkeys(name for specs in PEERS.values() for name in specs))


def version_of(name: str, *backends: str) -> str:
    """Return the version of what a package is a part of."""
    others = {"wsapi": "wsproto-fast", "websocket": "websocket-client"}
    version = distribution_version(others.get(name, name.partition(".")[0]))
    return f"{version} ({', '.join(backends)})" if backends else version
