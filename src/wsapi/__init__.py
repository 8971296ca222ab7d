"""WebSocket clients and servers for asyncio, with the interface of ``websockets``.

All documented names are here: what talks to the network is asyncio's. It is imported when it is
used first, so that a program with another front-end never pays for it.
"""

from typing import TYPE_CHECKING

from wsproto_fast import __version__

from . import _identity as _identity  # before the others, which have settings
from .client import ClientProtocol
from .datastructures import Headers, HeadersLike, MultipleValuesError
from .exceptions import (
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    DuplicateParameter,
    HeaderLineTooLong,
    InvalidHandshake,
    InvalidHeader,
    InvalidHeaderFormat,
    InvalidHeaderValue,
    InvalidMessage,
    InvalidMethod,
    InvalidOrigin,
    InvalidParameterName,
    InvalidParameterValue,
    InvalidProtocol,
    InvalidProxy,
    InvalidProxyMessage,
    InvalidProxyStatus,
    InvalidState,
    InvalidStatus,
    InvalidUpgrade,
    InvalidURI,
    NegotiationError,
    PayloadTooBig,
    ProtocolError,
    ProxyError,
    RateExceeded,
    RequestLineTooLong,
    SecurityError,
    StatusLineTooLong,
    TooManyFragments,
    TooManyHeaders,
    WebSocketException,
)
from .frames import Close, CloseCode, Frame, Opcode
from .http11 import Request, Response
from .protocol import Protocol, Side, State
from .server import ServerProtocol
from .typing import (
    Data,
    ExtensionName,
    ExtensionParameter,
    LoggerLike,
    Origin,
    StatusLike,
    Subprotocol,
)

if TYPE_CHECKING:
    from ._install import install_as_websockets as install_as_websockets
    from .asyncio.client import ClientConnection, connect, unix_connect
    from .asyncio.router import Router, route, unix_route
    from .asyncio.server import Server, ServerConnection, basic_auth, broadcast, serve, unix_serve
    from .legacy.auth import BasicAuthWebSocketServerProtocol as BasicAuthWebSocketServerProtocol
    from .legacy.auth import basic_auth_protocol_factory as basic_auth_protocol_factory
    from .legacy.client import WebSocketClientProtocol as WebSocketClientProtocol
    from .legacy.exceptions import AbortHandshake as AbortHandshake
    from .legacy.exceptions import InvalidStatusCode as InvalidStatusCode
    from .legacy.exceptions import RedirectHandshake as RedirectHandshake
    from .legacy.exceptions import WebSocketProtocolError as WebSocketProtocolError
    from .legacy.protocol import WebSocketCommonProtocol as WebSocketCommonProtocol
    from .legacy.server import WebSocketServer as WebSocketServer
    from .legacy.server import WebSocketServerProtocol as WebSocketServerProtocol
else:
    # The same for the interpreter, each when it is needed.
    from importlib import import_module as _import_module

    _LAZY = {
        "ClientConnection": "asyncio.client",
        "connect": "asyncio.client",
        "unix_connect": "asyncio.client",
        "Router": "asyncio.router",
        "route": "asyncio.router",
        "unix_route": "asyncio.router",
        "Server": "asyncio.server",
        "ServerConnection": "asyncio.server",
        "basic_auth": "asyncio.server",
        "broadcast": "asyncio.server",
        "serve": "asyncio.server",
        "unix_serve": "asyncio.server",
        "install_as_websockets": "_install",
    }

    def __getattr__(name: str) -> object:
        try:
            module = _LAZY[name]
        except KeyError:
            if name.startswith("_"):  # the import system asks for modules, too
                raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
            from ._names import resolve

            return resolve(__name__, name)
        value = globals()[name] = getattr(_import_module(f".{module}", __name__), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LAZY})


__all__ = [
    "ClientConnection",
    "ClientProtocol",
    "Close",
    "CloseCode",
    "ConcurrencyError",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "Data",
    "DuplicateParameter",
    "ExtensionName",
    "ExtensionParameter",
    "Frame",
    "HeaderLineTooLong",
    "Headers",
    "HeadersLike",
    "InvalidHandshake",
    "InvalidHeader",
    "InvalidHeaderFormat",
    "InvalidHeaderValue",
    "InvalidMessage",
    "InvalidMethod",
    "InvalidOrigin",
    "InvalidParameterName",
    "InvalidParameterValue",
    "InvalidProtocol",
    "InvalidProxy",
    "InvalidProxyMessage",
    "InvalidProxyStatus",
    "InvalidState",
    "InvalidStatus",
    "InvalidURI",
    "InvalidUpgrade",
    "LoggerLike",
    "MultipleValuesError",
    "NegotiationError",
    "Opcode",
    "Origin",
    "PayloadTooBig",
    "Protocol",
    "ProtocolError",
    "ProxyError",
    "RateExceeded",
    "Request",
    "RequestLineTooLong",
    "Response",
    "Router",
    "SecurityError",
    "Server",
    "ServerConnection",
    "ServerProtocol",
    "Side",
    "State",
    "StatusLike",
    "StatusLineTooLong",
    "Subprotocol",
    "TooManyFragments",
    "TooManyHeaders",
    "WebSocketException",
    "__version__",
    "basic_auth",
    "broadcast",
    "connect",
    "route",
    "serve",
    "unix_connect",
    "unix_route",
    "unix_serve",
]
