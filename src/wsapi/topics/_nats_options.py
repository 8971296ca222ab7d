"""Checks of what the bus on NATS is given, and URIs of servers."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from math import isfinite
from urllib.parse import urlsplit

__all__ = [
    "check_int",
    "check_name",
    "check_seconds",
    "checked_servers",
    "discovered",
    "is_address",
    "shown",
]


def check_name(what: str, value: object, longest: int, *, dots: bool) -> None:
    """Check what is put into subjects as it is."""
    pattern = r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*" if dots else r"[A-Za-z0-9_-]+"
    if not isinstance(value, str):
        raise TypeError(f"{what} is a str; got {type(value).__name__}")
    if not (len(value) <= longest and re.fullmatch(pattern, value)):
        raise ValueError(
            f"{what} has 1 to {longest} ASCII letters, digits, - and _"
            f"{', with dots between them' if dots else ''}; got {value[:200]!r}"
        )


def check_int(what: str, value: object, least: int, most: int | None) -> None:
    """Check a number of something."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} is an int; got {type(value).__name__}")
    if value < least or (most is not None and value > most):
        rule = f"at least {least}" if most is None else f"between {least} and {most}"
        raise ValueError(f"{what} is {rule}; got {value!r:.50}")


def check_seconds(what: str, value: object, least: float) -> None:
    """Check a duration."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{what} is a number of seconds; got {type(value).__name__}")
    if not (isfinite(value) and value >= least):
        raise ValueError(f"{what} is finite, and at least {least}; got {value!r:.50}")


def _check_str(server: object) -> None:
    if not isinstance(server, str):
        raise TypeError(f"a server is a str; got {type(server).__name__}")


def checked_servers(servers: str | Sequence[str]) -> list[str]:
    """Return URIs with a scheme and a port."""
    if isinstance(servers, str):
        servers = [servers]
    checked: list[str] = []
    for server in servers:
        _check_str(server)
        if "://" not in server:
            server = f"nats://{server}"
        try:
            parts = urlsplit(server)
            port = parts.port
        except ValueError as exc:
            raise ValueError(f"{shown(server)} isn't the URI of a NATS server: {exc}") from None
        if parts.scheme not in ("nats", "tls", "ws", "wss") or not parts.hostname:
            raise ValueError(
                f"a server is nats://HOST:PORT, tls://, ws:// or wss://; got {shown(server)!r}"
            )
        if port is None and parts.scheme in ("nats", "tls"):
            server = parts._replace(netloc=f"{parts.netloc}:4222").geturl()
        checked.append(server)
    if not checked:
        raise ValueError("servers has at least one")
    if len({server.startswith("ws") for server in checked}) > 1:
        raise ValueError("servers have WebSocket URIs, or none of them has")
    return checked


def shown(server: str) -> str:
    """Return a URI without what nobody else may know."""
    scheme, _, rest = server.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"[:200]


def is_address(host: str) -> bool:
    """Tell whether a host is an IP address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def discovered(first: str, addresses: Sequence[str]) -> list[str]:
    """Return URIs of servers that a server tells of, as they don't have what clients need.

    Args:
        first: URI of a server, with the scheme and the credentials that go for all.
        addresses: Hosts and ports.
    """
    parts = urlsplit(first)
    user, at, _ = parts.netloc.rpartition("@")
    return [f"{parts.scheme}://{user}{at}{address.rpartition('@')[2]}" for address in addresses]
