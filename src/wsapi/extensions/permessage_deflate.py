"""Compression of messages."""

from typing import TYPE_CHECKING

from wsproto_fast.aliases import fallback
from wsproto_fast.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
    enable_client_permessage_deflate,
    enable_server_permessage_deflate,
)

__all__ = [
    "ClientPerMessageDeflateFactory",
    "PerMessageDeflate",
    "ServerPerMessageDeflateFactory",
    "enable_client_permessage_deflate",
    "enable_server_permessage_deflate",
]

if not TYPE_CHECKING:
    __getattr__ = fallback(__name__, "wsapi._names")
