"""Grammar of the headers of the opening handshake.

Owns parsing and building of ``Connection``, ``Upgrade``, ``Sec-WebSocket-Extensions``,
``Sec-WebSocket-Protocol``, ``Host``, ``Authorization`` and ``WWW-Authenticate`` (RFC 9110, RFC
7617, RFC 6455 §9.1 and §11.3). Says whether a value is well formed, not whether it is acceptable.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from .exceptions import InvalidHeaderFormat, InvalidHeaderValue
from .redaction import redact_header
from .typing import (
    ConnectionOption,
    ExtensionHeader,
    ExtensionName,
    ExtensionParameter,
    Subprotocol,
    UpgradeProtocol,
)

__all__ = [
    "build_authorization_basic",
    "build_extension",
    "build_host",
    "build_subprotocol",
    "build_www_authenticate_basic",
    "is_valid_host",
    "parse_authorization_basic",
    "parse_connection",
    "parse_extension",
    "parse_subprotocol",
    "parse_upgrade",
    "validate_subprotocols",
]

T = TypeVar("T")

_TOKEN = r"[-!#$%&'*+.^_`|~0-9a-zA-Z]+"
_token = re.compile(_TOKEN)
_quoted_string = re.compile(r'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"')
_quoted_pair = re.compile(r"\\(.)", re.DOTALL)
_token68 = re.compile(r"[-._~+/0-9a-zA-Z]+=*")
_protocol = re.compile(rf"{_TOKEN}(?:/{_TOKEN})?")
_blanks = re.compile(r"[\t ]*")
# Between elements of a list, empty elements may stand (RFC 9110 §5.6.1.2).
_separators = re.compile(r"[\t ]*(?:,[\t ]*)*")
_host = re.compile(
    r"(?:\[(?:[0-9a-fA-F:.]+|v[0-9a-fA-F]+\.[-.~!$&'()*+,;=:\w]+)\]"
    r"|(?:[-._~!$&'()*+,;=0-9a-zA-Z]|%[0-9a-fA-F]{2})+)(?::[0-9]*)?",
    re.ASCII,
)
_unquotable = re.compile(r"[^\t\x20-\x7e\x80-\xff]")


def _skip(pattern: re.Pattern[str], header: str, pos: int) -> int:
    match = pattern.match(header, pos)
    return pos if match is None else match.end()


def _parse_token(name: str, header: str, pos: int) -> tuple[str, int]:
    match = _token.match(header, pos)
    if match is None:
        raise InvalidHeaderFormat(name, "expected token", header, pos)
    return match.group(), match.end()


def _parse_list(
    name: str, header: str, parse_item: Callable[[str, str, int], tuple[T, int]]
) -> list[T]:
    """Parse ``1#item``, blanks around the value not included (RFC 9110 §5.6.1)."""
    pos = _skip(_separators, header, 0) if header.startswith(",") else 0
    items: list[T] = []
    while True:
        item, pos = parse_item(name, header, pos)
        items.append(item)
        pos = _skip(_blanks, header, pos)
        if pos == len(header):
            return items
        if header[pos] != ",":
            raise InvalidHeaderFormat(name, "expected comma", header, pos)
        pos = _skip(_separators, header, pos)
        if pos == len(header):
            return items


def _parse_protocol(name: str, header: str, pos: int) -> tuple[UpgradeProtocol, int]:
    match = _protocol.match(header, pos)
    if match is None:
        raise InvalidHeaderFormat(name, "expected protocol", header, pos)
    return UpgradeProtocol(match.group()), match.end()


def _parse_parameter(name: str, header: str, pos: int) -> tuple[ExtensionParameter, int]:
    parameter, pos = _parse_token(name, header, pos)
    pos = _skip(_blanks, header, pos)
    if not header.startswith("=", pos):
        return (parameter, None), pos
    pos = _skip(_blanks, header, pos + 1)
    if not header.startswith('"', pos):
        value, pos = _parse_token(name, header, pos)
        return (parameter, value), pos
    start = pos
    match = _quoted_string.match(header, pos)
    if match is None:
        raise InvalidHeaderFormat(name, "expected quoted string", header, pos)
    value = _quoted_pair.sub(r"\1", match.group()[1:-1])
    # RFC 6455 §9.1: once unquoted, the value must still be a token.
    if _token.fullmatch(value) is None:
        raise InvalidHeaderFormat(name, "invalid quoted header content", header, start)
    return (parameter, value), match.end()


def _parse_extension(name: str, header: str, pos: int) -> tuple[ExtensionHeader, int]:
    extension, pos = _parse_token(name, header, pos)
    pos = _skip(_blanks, header, pos)
    parameters: list[ExtensionParameter] = []
    while header.startswith(";", pos):
        pos = _skip(_blanks, header, pos + 1)
        parameter, pos = _parse_parameter(name, header, pos)
        parameters.append(parameter)
        pos = _skip(_blanks, header, pos)
    return (ExtensionName(extension), parameters), pos


def parse_connection(header: str) -> list[ConnectionOption]:
    """Parse a ``Connection`` header.

    Args:
        header: Value of the header.

    Raises:
        InvalidHeaderFormat: If it is malformed.
    """
    return cast(list[ConnectionOption], _parse_list("Connection", header, _parse_token))


def parse_upgrade(header: str) -> list[UpgradeProtocol]:
    """Parse an ``Upgrade`` header.

    Args:
        header: Value of the header.

    Raises:
        InvalidHeaderFormat: If it is malformed.
    """
    return _parse_list("Upgrade", header, _parse_protocol)


def parse_extension(header: str) -> list[ExtensionHeader]:
    """Parse a ``Sec-WebSocket-Extensions`` header.

    Args:
        header: Value of the header.

    Returns:
        Pairs of the extension's name and the list of its parameters, which are pairs of name and
        value or None.

    Raises:
        InvalidHeaderFormat: If it is malformed.
    """
    return _parse_list("Sec-WebSocket-Extensions", header, _parse_extension)


def parse_subprotocol(header: str) -> list[Subprotocol]:
    """Parse a ``Sec-WebSocket-Protocol`` header.

    Args:
        header: Value of the header.

    Raises:
        InvalidHeaderFormat: If it is malformed.
    """
    return cast(list[Subprotocol], _parse_list("Sec-WebSocket-Protocol", header, _parse_token))


def build_extension(extensions: Sequence[ExtensionHeader]) -> str:
    """Build a ``Sec-WebSocket-Extensions`` header.

    Args:
        extensions: Pairs as :func:`parse_extension` returns them.

    Raises:
        ValueError: If a name, or the name or value of a parameter, isn't a token.
    """
    for name, parameters in extensions:
        for token in (name, *(part for pair in parameters for part in pair if part is not None)):
            if _token.fullmatch(str(token)) is None:
                raise ValueError(f"invalid extension: {name!r} with parameters {parameters!r}")
    return ", ".join(
        "; ".join(
            [name, *(key if value is None else f"{key}={value}" for key, value in parameters)]
        )
        for name, parameters in extensions
    )


def build_subprotocol(subprotocols: Sequence[Subprotocol]) -> str:
    """Build a ``Sec-WebSocket-Protocol`` header.

    Args:
        subprotocols: Names in order of preference.

    Raises:
        TypeError: If it isn't a sequence of str.
        ValueError: If a name isn't a token.
    """
    validate_subprotocols(subprotocols)
    return ", ".join(subprotocols)


def validate_subprotocols(subprotocols: Sequence[Subprotocol]) -> None:
    """Check an argument that lists subprotocols.

    Args:
        subprotocols: The argument.

    Raises:
        TypeError: If it isn't a sequence of str.
        ValueError: If a name isn't a token.
    """
    if not isinstance(subprotocols, Sequence):
        raise TypeError("subprotocols must be a list")
    if isinstance(subprotocols, str):
        raise TypeError("subprotocols must be a list, not a str")
    for subprotocol in subprotocols:
        if _token.fullmatch(subprotocol) is None:
            raise ValueError(f"invalid subprotocol: {subprotocol}")


def build_host(host: str, port: int, secure: bool, *, always_include_port: bool = False) -> str:
    """Build a ``Host`` header.

    Args:
        host: Name or address; IPv6 addresses without brackets.
        port: Port.
        secure: Whether the connection uses TLS, which sets the default port.
        always_include_port: Include the port even if it is the default.
    """
    # RFC 3986 §3.2.2: only IPv6 addresses are bracketed; a colon is enough to tell.
    if ":" in host:
        # RFC 6874 §4: what is behind "%" has a meaning on this machine only, and isn't sent.
        address = host.partition("%")[0]
        try:
            ipaddress.IPv6Address(address)
        except ValueError:
            pass
        else:
            host = f"[{address}]"
    if always_include_port or port != (443 if secure else 80):
        return f"{host}:{port}"
    return host


def is_valid_host(header: str) -> bool:
    """Tell whether a ``Host`` header is well formed and not empty (RFC 9110 §7.2, RFC 3986 §3.2.2).

    Args:
        header: Value of the header.
    """
    return _host.fullmatch(header) is not None


def build_authorization_basic(username: str, password: str) -> str:
    """Build an ``Authorization`` header for HTTP Basic Authentication (RFC 7617 §2).

    Args:
        username: User name, without colon.
        password: Password.

    Raises:
        ValueError: If the user name has a colon.
    """
    if ":" in username:
        raise ValueError("username contains a colon")
    credentials = f"{username}:{password}".encode("utf-8", "surrogateescape")
    return "Basic " + base64.b64encode(credentials).decode()


def parse_authorization_basic(header: str) -> tuple[str, str]:
    """Parse an ``Authorization`` header for HTTP Basic Authentication (RFC 7617 §2).

    Args:
        header: Value of the header.

    Returns:
        User name and password. Bytes that aren't UTF-8 become surrogate escapes.

    Raises:
        InvalidHeaderFormat: If it is malformed.
        InvalidHeaderValue: If the scheme isn't Basic or the credentials are unusable.
    """
    # What is wrong is told without what is secret.
    shown = redact_header("Authorization", header)
    match = _token.match(header)
    if match is None:
        raise InvalidHeaderFormat("Authorization", "expected token", shown, 0)
    scheme, pos = match.group(), match.end()
    if scheme.lower() != "basic":
        shown = redact_header("Authorization", scheme)
        raise InvalidHeaderValue("Authorization", f"unsupported scheme: {shown}")
    if not header.startswith(" ", pos):
        raise InvalidHeaderFormat("Authorization", "expected space after scheme", shown, pos)
    match = _token68.match(header, pos + 1)
    if match is None:
        raise InvalidHeaderFormat("Authorization", "expected token68", shown, pos + 1)
    if match.end() != len(header):
        raise InvalidHeaderFormat("Authorization", "trailing data", shown, match.end())
    try:
        credentials = base64.b64decode(match.group(), validate=True)
    except binascii.Error:
        raise InvalidHeaderValue("Authorization", "expected base64-encoded credentials") from None
    username, colon, password = credentials.decode("utf-8", "surrogateescape").partition(":")
    if not colon:
        raise InvalidHeaderValue("Authorization", "expected username:password credentials")
    return username, password


def build_www_authenticate_basic(realm: str) -> str:
    """Build a ``WWW-Authenticate`` header for HTTP Basic Authentication (RFC 7617 §2).

    Args:
        realm: Name of the protection space.

    Raises:
        ValueError: If the realm has control characters or characters outside ISO-8859-1.
    """
    if _unquotable.search(realm) is not None:
        raise ValueError("invalid characters for quoted-string encoding")
    escaped = realm.replace("\\", "\\\\").replace('"', '\\"')
    return f'Basic realm="{escaped}", charset="UTF-8"'
