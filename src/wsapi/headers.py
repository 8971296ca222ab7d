"""Grammar of the headers of the opening handshake."""

from typing import TYPE_CHECKING

from wsproto_fast.aliases import fallback
from wsproto_fast.headers import (
    build_authorization_basic,
    build_extension,
    build_host,
    build_subprotocol,
    build_www_authenticate_basic,
    is_valid_host,
    parse_authorization_basic,
    parse_connection,
    parse_extension,
    parse_subprotocol,
    parse_upgrade,
    validate_subprotocols,
)

__all__ = [
    "build_authorization_basic",
    "build_extension",
    "build_host",
    "build_subprotocol",
    "build_www_authenticate_basic",
    "is_valid_host",
    "parse_authorization_basic",
    "parse_connection",
    "parse_extension",
    "parse_subprotocol",
    "parse_upgrade",
    "validate_subprotocols",
]

if not TYPE_CHECKING:
    __getattr__ = fallback(__name__, "wsapi._names")
