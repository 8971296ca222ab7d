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
        bulk: Backend that compresses large messages in its place, each on its own.
    """

    name: str
    new_compressor: Callable[[int, dict[str, Any]], Any]
    new_decompressor: Callable[[int, bytes], Any]
    errors: tuple[type[Exception], ...]
    bulk: Backend | None = None


def _zlib_like(name: str, module: Any, defaults: dict[str, Any]) -> Backend:
    def new_compressor(window_bits: int, settings: dict[str, Any]) -> Any:
        return module.compressobj(wbits=-window_bits, **{**defaults, **settings})

    def new_decompressor(window_bits: int, window: bytes) -> Any:
        if window:
            return module.decompressobj(wbits=-window_bits, zdict=window)
        return module.decompressobj(wbits=-window_bits)

    found = _library(name, module)
    return Backend(name, new_compressor, found.new if found else new_decompressor, (module.error,))


def _library(name: str, module: Any) -> Any:
    """Return the C functions of a module's library, which spare its objects; None without them."""
    if name not in ("zlib", "zlib-ng"):
        return None
    compiled = importlib.import_module("._inflater", __package__)
    try:
        return compiled.Library(getattr(module, "__file__", None), name == "zlib-ng", module.error)
    except LookupError:
        return None


# memLevel 5 is what WebSocket libraries use: 16 KiB of hash chains instead of 128. Level 5 instead
# of 6 costs 3 % of size and saves an eighth of the time for 16 KiB of JSON, little for 1 KiB.
_ZLIB = _zlib_like("zlib", zlib, {"level": 5, "memLevel": 5})

# Module, and settings that the measurements in benchmarks/ favour. Level 1 of isal has smaller
# tables than level 2 at the same ratio: what doesn't fit into caches is what connections wait for.
_MODULES: dict[str, tuple[str, dict[str, Any]]] = {
    "zlib-ng": ("zlib_ng.zlib_ng", {"level": 2, "memLevel": 5}),
    "isal": ("isal.isal_zlib", {"level": 1, "memLevel": 3}),
}


def _native() -> Backend:
    compressor = importlib.import_module("._compressor", __package__).Compressor
    available = available_backends()
    inflating = get_backend("zlib-ng" if "zlib-ng" in available else "zlib")
    bulk = get_backend("isal") if "isal" in available else None

    def new_compressor(window_bits: int, settings: dict[str, Any]) -> Any:
        # memLevel is among the default settings.
        unknown = sorted(settings.keys() - {"memLevel"})
        if unknown:
            raise TypeError(
                f"backend 'native' has no setting {unknown[0]!r}; give the backend 'zlib', or none"
            )
        return compressor(window_bits)

    return Backend("native", new_compressor, inflating.new_decompressor, inflating.errors, bulk)


_NAMES = ("native", "zlib", "zlib-ng", "isal")
_loaded: dict[str, Backend] = {"zlib": _ZLIB}


def get_backend(name: str | None = None) -> Backend:
    """Return the backend called ``name``, or the default one.

    Args:
        name: "native", "zlib", "zlib-ng", "isal"; None for "native". That one compresses with a
            compressor of our own, made for short messages that resemble those before them. It
            leaves large ones to isal and inflates with zlib-ng where these are installed, and
            otherwise does the former itself and the latter with zlib. It has no settings.
            The first two are always there, the extra ``fast`` brings the others.

    Raises:
        ValueError: If there is no such backend.
        ImportError: If its package isn't installed.
    """
    if name is None:
        return _default
    if name in _loaded:
        return _loaded[name]
    if name == "native":
        backend = _native()
    elif name in _MODULES:
        module, settings = _MODULES[name]
        backend = _zlib_like(name, importlib.import_module(module), settings)
    else:
        known = ", ".join(_NAMES)
        raise ValueError(f"unknown compression backend: {name!r}; there are {known}")
    _loaded[name] = backend
    return backend


def available_backends() -> list[str]:
    """Return the names of the backends that can be used here, the default one first."""
    installed = [name for name, (module, _) in _MODULES.items() if _is_installed(module)]
    return ["native", "zlib", *installed]


def _is_installed(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


_default = get_backend("native")
