"""Ours with the backend isal, which is all that differs from the peer ``wsapi``."""

from __future__ import annotations

from importlib.metadata import version as distribution_version

from . import Running, wsapi

label = "wsapi, isal"
websocket = True


def version() -> str:
    return f"{distribution_version('wsproto-fast')} (isal {distribution_version('isal')})"


async def echo(deflate: bool) -> Running:
    return await wsapi.echo(deflate, "isal")


async def broadcast(deflate: bool) -> Running:
    return await wsapi.broadcast(deflate, "isal")
