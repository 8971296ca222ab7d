"""Ours on the transports of aiofastnet, which is all that differs from the peer ``wsapi``."""

from __future__ import annotations

import asyncio
from importlib.metadata import version as distribution_version

import aiofastnet

from . import Running, wsapi

label = "wsapi + aiofastnet"
websocket = True


def version() -> str:
    return f"{wsapi.version()} + aiofastnet {distribution_version('aiofastnet')}"


async def echo(deflate: bool) -> Running:
    aiofastnet.patch_loop(asyncio.get_running_loop())
    return await wsapi.echo(deflate)


async def broadcast(deflate: bool) -> Running:
    aiofastnet.patch_loop(asyncio.get_running_loop())
    return await wsapi.broadcast(deflate)
