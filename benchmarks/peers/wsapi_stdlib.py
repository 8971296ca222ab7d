"""Ours without the extra ``fast``: what the peer ``wsapi`` is where only it is installed."""

from __future__ import annotations

import sys
from importlib.metadata import version as distribution_version
from types import ModuleType
from typing import cast

from . import Running

label = "wsapi, no extra"
websocket = True


def version() -> str:
    return f"{distribution_version('wsproto-fast')} (native, stdlib)"


def without_extra() -> ModuleType:
    """Import ours, in a process that hasn't yet, as if those libraries weren't there."""
    modules = cast("dict[str, ModuleType | None]", sys.modules)
    modules["isal"] = modules["zlib_ng"] = None
    from . import wsapi

    return wsapi


async def echo(deflate: bool) -> Running:
    running: Running = await without_extra().echo(deflate)
    return running


async def broadcast(deflate: bool) -> Running:
    running: Running = await without_extra().broadcast(deflate)
    return running
