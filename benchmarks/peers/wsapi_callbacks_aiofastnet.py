"""Ours with callbacks on the transports of aiofastnet, which picows takes by default."""

from __future__ import annotations

import asyncio

import aiofastnet

from . import Running, wsapi_aiofastnet, wsapi_callbacks

label = "wsapi callbacks + aiofastnet"
websocket = True
version = wsapi_aiofastnet.version


async def echo(deflate: bool) -> Running:
    aiofastnet.patch_loop(asyncio.get_running_loop())
    return await wsapi_callbacks.echo(deflate)


async def broadcast(deflate: bool) -> Running:
    aiofastnet.patch_loop(asyncio.get_running_loop())
    return await wsapi_callbacks.broadcast(deflate)
