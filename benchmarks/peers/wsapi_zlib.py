"""Ours with the standard library's zlib, which is all that differs from the peer ``wsapi``."""

from __future__ import annotations

import zlib
from importlib.metadata import version as distribution_version

from . import Running, wsapi

label = "wsapi, zlib"
websocket = True


def version() -> str:
    return f"{distribution_version('wsproto-fast')} (zlib {zlib.ZLIB_RUNTIME_VERSION})"


async def echo(deflate: bool) -> Running:
    return await wsapi.echo(deflate, "zlib")


async def broadcast(deflate: bool) -> Running:
    return await wsapi.broadcast(deflate, "zlib")
