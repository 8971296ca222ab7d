"""WebSocket URIs (RFC 6455 §3)."""

from __future__ import annotations

import dataclasses
import re
import urllib.parse

from .exceptions import InvalidURI
from .headers import build_host, is_valid_host
from .redaction import redact_repr, redact_url

__all__ = ["WebSocketURI", "parse_uri"]

# RFC 3987 §2.2 and §3.1: everything reserved keeps its meaning, and so do escapes already present.
_DELIMITERS = ":/?#[]@!$&'()*+,;=%"
_control = re.compile(r"[\x00-\x1f\x7f]")


@dataclasses.dataclass
class WebSocketURI:
    """A parsed WebSocket URI.

    Args:
        secure: Whether the scheme is ``wss``.
        host: Host in lower case; IPv6 addresses without brackets.
        port: Port, explicit or default.
        path: Path as given, perhaps empty.
        query: Query as given, without question mark.
        username: Decoded user name, None without credentials.
        password: Decoded password, None without credentials.
    """

    secure: bool
    host: str
    port: int
    path: str
    query: str
    username: str | None = None
    password: str | None = None

    __repr__ = redact_repr

    @property
    def resource_name(self) -> str:
        """Return what the request line asks for: path and query."""
        name = self.path or "/"
        return f"{name}?{self.query}" if self.query else name

    @property
    def user_info(self) -> tuple[str, str] | None:
        """Return user name and password, or None."""
        if self.username is None or self.password is None:
            return None
        return self.username, self.password


def parse_uri(uri: str) -> WebSocketURI:
    """Parse a WebSocket URI.

    Args:
        uri: URI or IRI; the latter is mapped to a URI (RFC 3987 §3.1, IDNA for the host), spaces
            in its path and query included.

    Raises:
        InvalidURI: If it isn't a WebSocket URI, or has characters that can't be sent.
        ValueError: If the port isn't a number below 65536, or an escape isn't UTF-8.
    """
    # urlparse would drop some of these in silence.
    if _control.search(uri) is not None:
        raise InvalidURI(uri, "control characters aren't allowed")
    if uri != uri.strip() or (uri.isascii() and " " in uri):
        raise InvalidURI(uri, "spaces aren't allowed")
    try:
        parsed = urllib.parse.urlparse(uri)
        port = parsed.port
    except ValueError:
        if redact_url(uri) == uri:
            raise
        # Its text may have a part of the password.
        raise ValueError(f"invalid host or port in {redact_url(uri)}") from None
    if parsed.scheme not in ("ws", "wss"):
        raise InvalidURI(uri, "scheme isn't ws or wss")
    if parsed.hostname is None:
        raise InvalidURI(uri, "hostname isn't provided")
    if parsed.fragment:
        raise InvalidURI(uri, "fragment identifier is meaningless")

    secure = parsed.scheme == "wss"
    host = parsed.hostname
    port = port or (443 if secure else 80)
    path = f"{parsed.path};{parsed.params}" if parsed.params else parsed.path
    query = parsed.query
    username = parsed.username
    password = parsed.password
    if username is not None:
        if password is None:
            raise InvalidURI(uri, "username provided without password")
        username = urllib.parse.unquote(username, errors="strict")
        password = urllib.parse.unquote(password, errors="strict")

    if not uri.isascii():
        if not host.isascii():
            host = host.encode("idna").decode()
        path = urllib.parse.quote(path, safe=_DELIMITERS)
        query = urllib.parse.quote(query, safe=_DELIMITERS)
    # With a port, since a colon may be the end of a host without one: in "[a]:b@[c:", "c:" is left.
    if not is_valid_host(build_host(host, port, secure, always_include_port=True)):
        raise InvalidURI(uri, "invalid hostname")

    return WebSocketURI(secure, host, port, path, query, username, password)
