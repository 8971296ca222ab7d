"""WebSocket URIs (RFC 6455 section 3)."""

from wsproto_fast.uri import WebSocketURI, parse_uri

__all__ = [
    "WebSocketURI",
    "parse_uri",
]
