"""Forms of import that programs use, guarded ones among them."""

import importlib
import importlib.util
from typing import TYPE_CHECKING

try:
    from websockets.asyncio.client import ClientConnection, connect
except ImportError:  # before 13.0
    from websockets.client import WebSocketClientProtocol as ClientConnection
    from websockets.client import connect

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

import websockets
import websockets.asyncio.server as ws_server
import websockets.exceptions as errors
from websockets import ConnectionClosed, Headers, Origin, Subprotocol, frames  # noqa: F401
from websockets.datastructures import Headers as SameHeaders
from websockets.http11 import Request
from websockets.protocol import CLIENT, OPEN, SERVER, State
from websockets.version import version


def annotated(websocket: "ServerConnection") -> None:
    """Have an annotation that nothing looks at."""


print(importlib.util.find_spec("websockets") is not None)
print(websockets.connect is connect, websockets.Headers is SameHeaders is Headers)
print(ClientConnection.__name__, ws_server.serve.__name__, Request.__name__)
print(tuple(int(part) for part in version.split(".")) >= (13, 0), websockets.__version__ == version)
print(State.OPEN is OPEN, State.OPEN.name, int(State.CLOSED), CLIENT is not SERVER)
print(importlib.import_module("websockets.sync.client").connect.__name__)
print(hasattr(websockets, "broadcast"), hasattr(websockets, "Missing"))
print(websockets.frames.CloseCode.GOING_AWAY, frames.Opcode.TEXT.name)
print(issubclass(ConnectionClosed, errors.WebSocketException))
for name in ("websockets.missing", "websockets.asyncio.missing"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as exc:
        print(exc.name, type(exc).__name__)
try:
    from websockets import missing  # noqa: F401
except ImportError as exc:
    print(exc.name, str(exc).split("(")[0])
print(sorted(name for name in websockets.__all__ if name.startswith("Conn")))
