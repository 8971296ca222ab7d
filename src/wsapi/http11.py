"""Requests and responses of the opening handshake."""

from typing import TYPE_CHECKING

from wsproto_fast.aliases import fallback
from wsproto_fast.http11 import (
    MAX_BODY_SIZE,
    MAX_LINE_LENGTH,
    MAX_NUM_HEADERS,
    SERVER,
    USER_AGENT,
    Request,
    Response,
)

__all__ = [
    "MAX_BODY_SIZE",
    "MAX_LINE_LENGTH",
    "MAX_NUM_HEADERS",
    "SERVER",
    "USER_AGENT",
    "Request",
    "Response",
]

if not TYPE_CHECKING:
    __getattr__ = fallback(__name__, "wsapi._names")
