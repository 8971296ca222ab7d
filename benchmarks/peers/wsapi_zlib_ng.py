"""Ours with the backend zlib-ng, which is all that differs from the peer ``wsapi``."""

from __future__ import annotations

from importlib.metadata import version as distribution_version

from . import Running, wsapi

label = "wsapi, zlib-ng"
websocket = True


def version() -> str:
    return f"{distribution_version('wsproto-fast')} (zlib-ng {distribution_version('zlib-ng')})"


async def echo(deflate: bool) -> Running:
    return await wsapi.echo(deflate, "zlib-ng")


async def broadcast(deflate: bool) -> Running:
    return await wsapi.broadcast(deflate, "zlib-ng")
