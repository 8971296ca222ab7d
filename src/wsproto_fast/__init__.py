"""WebSocket protocol engine: bytes in, messages out, without sockets, threads, or a clock."""

from . import _loading  # noqa: F401 (lets Python find the compiled modules)
from ._backlog import Backpressure
from ._client import ClientProtocol
from ._deflate import Extension, PerMessageDeflate
from ._frames import Frame, apply_mask
from ._http11_response import ResponseParser
from ._listener import Listener
from ._protocol import Protocol
from ._sender import PreparedMessage
from ._server import ServerProtocol
from ._settings import check_close, check_settings
from ._statistics import Totals
from ._version import __version__
from .aliases import install as _install
from .datastructures import Headers, MultipleValuesError
from .exceptions import (
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidHandshake,
    InvalidState,
    PayloadTooBig,
    ProtocolError,
    RateExceeded,
    TooManyFragments,
    WebSocketException,
)
from .frames import Close, CloseCode, Opcode, Side, State
from .http11 import Request, Response
from .rates import Rate
from .slow import Slow
from .statistics import ConnectionStats, Traffic

__all__ = [
    "Backpressure",
    "ClientProtocol",
    "Close",
    "CloseCode",
    "ConcurrencyError",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "ConnectionStats",
    "Extension",
    "Frame",
    "Headers",
    "InvalidHandshake",
    "InvalidState",
    "Listener",
    "MultipleValuesError",
    "Opcode",
    "PayloadTooBig",
    "PerMessageDeflate",
    "PreparedMessage",
    "Protocol",
    "ProtocolError",
    "Rate",
    "RateExceeded",
    "Request",
    "Response",
    "ResponseParser",
    "ServerProtocol",
    "Side",
    "Slow",
    "State",
    "TooManyFragments",
    "Totals",
    "Traffic",
    "WebSocketException",
    "__version__",
    "apply_mask",
    "check_close",
    "check_settings",
    "install_as_wsproto",
]


def install_as_wsproto() -> None:
    """Make imports of ``wsproto``, from now on, imports of ``wsproto_fast.wsproto``.

    For programs whose imports can't be edited. It must come before the first of them. What isn't
    there can't be imported, even if the real package is installed.

    Raises:
        RuntimeError: If the real package was imported before.
    """
    _install("wsproto", f"{__name__}.wsproto")
