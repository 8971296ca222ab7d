"""What texts for people and logs leave out: passwords, tokens, and cookies; and what they escape.

Owns which headers hold secrets, and how texts show them: the values of ``Authorization``,
``Proxy-Authorization``, ``Cookie``, and ``Set-Cookie``, and the credentials in a URL, become
``***``; in the ``repr`` of headers, too. Attributes of objects keep what they hold; only texts
change. Control characters, which could begin another line of a log, are escaped in what a peer
chose.

The variable ``WSPROTO_FAST_LOG_SECRETS=1`` in the environment, or the same with the name of a
package on top, shows them; it is read when the package is imported. Neither messages nor the query
of a URL are looked at, so that what is secret there shows in lines with level DEBUG.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from . import environment

__all__ = [
    "LOG_SECRETS",
    "MASK",
    "escape",
    "is_secret",
    "redact_header",
    "redact_line",
    "redact_repr",
    "redact_url",
]

MASK = "***"
"""What stands in the place of a secret."""

LOG_SECRETS: bool
"""Whether texts show secrets."""

_SECRETS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie"})
# Any other word may be a token whose scheme was forgotten.
_SCHEMES = frozenset({"basic", "bearer", "digest", "negotiate", "ntlm", "token"})
_secret_line = re.compile(rf"\s*({'|'.join(sorted(_SECRETS))})\b", re.IGNORECASE)
_ipv6 = re.compile(r"\[[0-9a-fA-F:.]*\](:[0-9]*)?").fullmatch
_end_of_authority = re.compile(r"[/?#]|$")
# Control characters, what else ends a line, and what changes the direction of writing.
_controls = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def _read_settings() -> None:
    global LOG_SECRETS
    LOG_SECRETS = environment.getenv("LOG_SECRETS") not in (None, "", "0")


environment.follow(_read_settings)


def escape(text: str) -> str:
    """Return a peer's text as texts show it: in one line, without what could control a terminal.

    Args:
        text: The text.
    """
    return _controls.sub(lambda match: ascii(match.group())[1:-1], text)


def is_secret(name: str) -> bool:
    """Tell whether texts don't show the values of a header.

    Args:
        name: Name of the header, in any case.
    """
    return not LOG_SECRETS and name.lower() in _SECRETS


def redact_header(name: str, value: str) -> str:
    """Return the value of a header as texts show it.

    Args:
        name: Name of the header, in any case.
        value: Its value.
    """
    if not value or not is_secret(name):
        return redact_url(value) if "://" in value else value
    scheme, space, _ = value.partition(" ")
    if scheme.lower() in _SCHEMES and "authorization" in name.lower():
        return f"{scheme} {MASK}" if space else scheme
    return MASK


def redact_line(line: str) -> str:
    """Return a header line, or a part of one, as texts show it.

    Args:
        line: The line, which needn't be valid.
    """
    match = _secret_line.match(line)
    if LOG_SECRETS or match is None:
        return line
    return f"{match.group()}: {MASK}"


def redact_url(url: str) -> str:
    """Return a URL as texts show it: without its password, or what may be one.

    Args:
        url: The URL, which needn't be valid.
    """
    if LOG_SECRETS or "@" not in url:
        return url
    start = url.find("//", 0, url.index("@"))
    start = 0 if start < 0 else start + 2
    rest = url[start:]
    end = _end_of_authority.search(rest)
    assert end is not None
    authority = rest[: end.start()]
    at = authority.rfind("@")
    if at < 0:
        # A password may have a delimiter that isn't escaped: what seems to be a port isn't one.
        _, colon, port = authority.partition(":")
        if not colon or port.isdecimal() or _ipv6(authority):
            return url
        at = rest.rfind("@")
    user, colon, _ = rest[:at].partition(":")
    return f"{url[:start]}{f'{user}:{MASK}' if colon else MASK}{rest[at:]}"


def redact_repr(instance: Any) -> str:
    """Return the ``repr`` of an instance of a dataclass, without its ``password``.

    Args:
        instance: The instance.
    """
    shown = []
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if field.name == "password" and value is not None and not LOG_SECRETS:
            value = MASK
        shown.append(f"{field.name}={value!r}")
    return f"{type(instance).__qualname__}({', '.join(shown)})"
