"""Implementations of DEFLATE (RFC 1951) that permessage-deflate can use, behind one seam.

All of them have the interface of the standard library's ``zlib``. What differs is how fast they are
and how well they compress; which one serves a connection can be chosen by name.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Backend", "available_backends", "get_backend"]


@dataclass(frozen=True)
class Backend:
    """An implementation of DEFLATE.

    Args:
        name: Name, for selecting it.
        new_compressor: Called with the window bits and the settings given by the application
            (keywords of ``zlib.compressobj``); returns an object with ``compress`` and ``flush``.
        new_decompressor: Called with the window bits and the window's contents, maybe empty;
            returns an object like those of ``zlib.decompressobj``.
        errors: Exceptions that mean invalid data.
    """

    name: str
    new_compressor: Callable[[int, dict[str, Any]], Any]
    new_decompressor: Callable[[int, bytes], Any]
    errors: tuple[type[Exception], ...]


def _zlib_like(name: str, module: Any, defaults: dict[str, Any]) -> Backend:
    def new_compressor(window_bits: int, settings: dict[str, Any]) -> Any:
        return module.compressobj(wbits=-window_bits, **{**defaults, **settings})

    def new_decompressor(window_bits: int, window: bytes) -> Any:
        if window:
            return module.decompressobj(wbits=-window_bits, zdict=window)
        return module.decompressobj(wbits=-window_bits)

    return Backend(name, new_compressor, new_decompressor, (module.error,))


# memLevel 5 is what WebSocket libraries use: 16 KiB of hash chains instead of 128. Level 5 instead
# of 6 costs 3 % of size and saves an eighth of the time for 16 KiB of JSON, little for 1 KiB.
_ZLIB = _zlib_like("zlib", zlib, {"level": 5, "memLevel": 5})

# Module, and settings that the measurements in benchmarks/ favour. Level 1 of isal has smaller
# tables than level 2 at the same ratio: what doesn't fit into caches is what connections wait for.
_MODULES: dict[str, tuple[str, dict[str, Any]]] = {
    "zlib-ng": ("zlib_ng.zlib_ng", {"level": 2, "memLevel": 5}),
    "isal": ("isal.isal_zlib", {"level": 1, "memLevel": 3}),
}


def _load(name: str) -> Backend:
    if name == "fast":
        # isal is the slowest of all at inflating short messages.
        isal, zlib_ng = get_backend("isal"), get_backend("zlib-ng")
        errors = (*isal.errors, *zlib_ng.errors)
        return Backend(name, isal.new_compressor, zlib_ng.new_decompressor, errors)
    module_name, settings = _MODULES[name]
    return _zlib_like(name, importlib.import_module(module_name), settings)


# Best first: what serves by default is the first one whose packages are installed.
_NAMES = ("fast", "isal", "zlib-ng", "zlib")
_loaded: dict[str, Backend] = {"zlib": _ZLIB}


def get_backend(name: str | None = None) -> Backend:
    """Return the backend called ``name``, or the default one.

    Args:
        name: "zlib" (always there), "zlib-ng", "isal", or "fast", which compresses with isal and
            inflates with zlib-ng (the extra ``fast`` brings both); None for the first that is
            installed of "fast", "isal", "zlib-ng", "zlib".

    Raises:
        ValueError: If there is no such backend.
        ImportError: If its package isn't installed.
    """
    if name is None:
        return _default
    if name in _loaded:
        return _loaded[name]
    if name not in _NAMES:
        known = ", ".join(reversed(_NAMES))
        raise ValueError(f"unknown compression backend: {name!r}; there are {known}")
    backend = _loaded[name] = _load(name)
    return backend


def available_backends() -> list[str]:
    """Return the names of the backends that can be used here, the default one last."""
    names = []
    for name in reversed(_NAMES):
        try:
            get_backend(name)
        except ImportError:
            continue
        names.append(name)
    return names


_default = get_backend(available_backends()[-1])
