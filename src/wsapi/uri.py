"""WebSocket URIs (RFC 6455 section 3)."""

from typing import TYPE_CHECKING

from wsproto_fast.aliases import fallback
from wsproto_fast.uri import WebSocketURI, parse_uri

__all__ = [
    "WebSocketURI",
    "parse_uri",
]

if not TYPE_CHECKING:
    __getattr__ = fallback(__name__, "wsapi._names")
