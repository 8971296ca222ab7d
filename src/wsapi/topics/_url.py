"""Buses that are named by a URL."""

from __future__ import annotations

from typing import cast

from .bus import Bus

__all__ = ["bus_of"]

# Schemes of URLs -> where the class of the bus is; imported when it is needed.
_CLASSES = {
    "redis": ("redis", "RedisBus"),
    "rediss": ("redis", "RedisBus"),
    "unix": ("redis", "RedisBus"),
    "nats": ("nats", "NatsBus"),
    "tls": ("nats", "NatsBus"),
}


def bus_of(url: str) -> Bus:
    """Return a bus with its defaults.

    Args:
        url: URL of a broker.

    Raises:
        ValueError: If no bus takes such a URL.
        ImportError: If the extra isn't installed.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in _CLASSES:
        # Not the whole URL: it may have a password.
        known = ", ".join(f"{scheme}://" for scheme in _CLASSES)
        raise ValueError(f"the URL of a bus begins with one of {known}; got {scheme[:20]!r}")
    from importlib import import_module

    module, name = _CLASSES[scheme]
    return cast(Bus, getattr(import_module(f".{module}", __package__), name)(url))
