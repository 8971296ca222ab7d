"""Proxies: which one is for a URI, and how to ask an HTTP proxy for a tunnel (RFC 9110 §9.3.6).

Does no I/O, but for asking the operating system about its settings. SOCKS is python-socks's
business; this finds it and translates its errors.
"""

from __future__ import annotations

import contextlib
import importlib
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsproto_fast import ResponseParser
from wsproto_fast.aliases import fallback
from wsproto_fast.datastructures import Headers
from wsproto_fast.exceptions import (
    InvalidProxy,
    InvalidProxyMessage,
    InvalidProxyStatus,
    ProxyError,
)
from wsproto_fast.headers import build_authorization_basic, build_host
from wsproto_fast.http11 import USER_AGENT, Request, Response
from wsproto_fast.redaction import redact_repr, redact_url
from wsproto_fast.uri import WebSocketURI

from ._shared.connection import forget_frames

__all__ = ["ConnectProtocol", "Proxy", "get_proxy", "parse_proxy"]

_DEFAULT_PORTS = {
    "http": 80,
    "https": 443,
    "socks4": 1080,
    "socks4a": 1080,
    "socks5": 1080,
    "socks5h": 1080,
}

# Keys of urllib.request.getproxies(), which are the schemes of URIs that a proxy is for, except
# for "socks", set by macOS and Windows. What serves https serves any TCP connection.
_KEYS = {True: ("wss", "socks", "https"), False: ("ws", "socks", "https", "http")}


@dataclass(frozen=True)
class Proxy:
    """Address of a proxy.

    Args:
        scheme: ``http``, ``https``, ``socks4``, ``socks4a``, ``socks5`` or ``socks5h``.
        host: Host; IPv6 addresses without brackets.
        port: Port, explicit or default.
        username: Decoded user name, None without credentials.
        password: Decoded password, None without credentials.
    """

    scheme: str
    host: str
    port: int
    username: str | None = None
    password: str | None = None

    __repr__ = redact_repr

    @property
    def user_info(self) -> tuple[str, str] | None:
        """Return user name and password, or None."""
        if self.username is None or self.password is None:
            return None
        return self.username, self.password

    @property
    def is_socks(self) -> bool:
        """Tell whether it speaks SOCKS rather than HTTP."""
        return self.scheme.startswith("socks")


def parse_proxy(proxy: str) -> Proxy:
    """Parse the URL of a proxy.

    Args:
        proxy: URL without path, query and fragment.

    Raises:
        InvalidProxy: If it isn't the URL of a supported proxy.
    """
    try:
        parsed = urllib.parse.urlsplit(proxy)
        port = parsed.port
    except ValueError as exc:
        if redact_url(proxy) == proxy:
            raise InvalidProxy(proxy, str(exc)) from exc
        # Its text may have a part of the password.
        raise InvalidProxy(proxy, "invalid host or port") from None
    if parsed.scheme not in _DEFAULT_PORTS:
        raise InvalidProxy(proxy, f"scheme {parsed.scheme} isn't supported")
    if parsed.hostname is None:
        raise InvalidProxy(proxy, "hostname isn't provided")
    if parsed.path not in ("", "/"):
        raise InvalidProxy(proxy, "path is meaningless")
    if parsed.query:
        raise InvalidProxy(proxy, "query component is meaningless")
    if parsed.fragment:
        raise InvalidProxy(proxy, "fragment identifier is meaningless")
    host, username, password = parsed.hostname, parsed.username, parsed.password
    try:
        if not host.isascii():
            host = host.encode("idna").decode()
        if username is not None:
            if password is None:
                raise InvalidProxy(proxy, "username provided without password")
            username = urllib.parse.unquote(username, errors="strict")
            password = urllib.parse.unquote(password, errors="strict")
    except UnicodeError as exc:
        raise InvalidProxy(proxy, str(exc)) from exc
    if username is not None and ":" in username and not parsed.scheme.startswith("socks"):
        raise InvalidProxy(proxy, "username contains a colon")
    return Proxy(parsed.scheme, host, port or _DEFAULT_PORTS[parsed.scheme], username, password)


def get_proxy(uri: WebSocketURI) -> str | None:
    """Return the URL of the proxy that the environment or the system has for a URI.

    Args:
        uri: Parsed URI.

    Returns:
        None when there is none, or when it isn't for this host.
    """
    from urllib.request import getproxies, proxy_bypass  # which import much that servers don't need

    proxies = getproxies()
    for key in _KEYS[uri.secure]:
        proxy = proxies.get(key)
        if proxy:
            break
    else:
        return None
    if proxy_bypass(f"{uri.host}:{uri.port}"):
        return None
    # macOS and Windows say where the SOCKS proxy is, not that it is one.
    if key == "socks" and proxy.startswith("http://"):
        return "socks5h://" + proxy.removeprefix("http://")
    return proxy


def select_proxy(proxy: str | bool | None, uri: WebSocketURI) -> Proxy | None:
    """Return the proxy to use, None for a direct connection.

    Args:
        proxy: URL of a proxy, True to look for one in the environment, None for none.
        uri: Parsed URI.

    Raises:
        InvalidProxy: If the URL isn't that of a supported proxy.
    """
    if proxy is True:
        proxy = get_proxy(uri)
    return parse_proxy(proxy) if isinstance(proxy, str) else None


class ConnectProtocol:
    """Client side of a CONNECT request to an HTTP proxy, without I/O.

    Send ``request``, then feed what is received to ``receive_data`` until it returns True.

    Args:
        proxy: The proxy.
        host: Host at the end of the tunnel.
        port: Port at the end of the tunnel.
        user_agent_header: Value of the User-Agent header; None for none.

    Attributes:
        request: The request, as sent.
        response: The answer once it is complete.
    """

    def __init__(
        self, proxy: Proxy, host: str, port: int, user_agent_header: str | None = USER_AGENT
    ) -> None:
        authority = build_host(host, port, False, always_include_port=True)
        headers = Headers()
        headers["Host"] = authority
        if user_agent_header:
            headers["User-Agent"] = user_agent_header
        if proxy.user_info is not None:
            headers["Proxy-Authorization"] = build_authorization_basic(*proxy.user_info)
        self.request = Request(authority, headers, "CONNECT").serialize()
        self.response: Response | None = None
        # RFC 9110 §9.3.6: the answer has no body, whatever its headers say; older proxies are
        # content with HTTP/1.0.
        self._parser = ResponseParser(allow_http10=True, read_body=False)

    def receive_data(self, data: bytes | memoryview) -> bool:
        """Process received data.

        Args:
            data: The data.

        Returns:
            Whether the tunnel is there.

        Raises:
            InvalidProxyMessage: If the answer isn't valid, or more than an answer.
            InvalidProxyStatus: If the proxy refuses.
        """
        try:
            taken = self._parser.feed_data(data)
        except Exception as exc:
            raise _invalid_message() from exc
        if self.response is None:
            self.response = self._parser.message
            if self.response is None:
                return False
            if not 200 <= self.response.status_code < 300:
                raise InvalidProxyStatus(self.response)
        if taken < len(data):
            # Servers wait for the request or the TLS handshake of the client.
            raise _invalid_message() from ValueError("unexpected data after the response")
        return True

    def receive_eof(self, exc: Exception | None = None) -> None:
        """Process the end of the connection, however it came.

        Args:
            exc: What broke the connection.

        Raises:
            InvalidProxyMessage: If the answer isn't complete; its cause is an `EOFError`, whose
                cause is ``exc``.
        """
        try:
            self._parser.feed_eof()
        except EOFError as eof:
            eof.__cause__ = exc
            raise _invalid_message() from eof


def _invalid_message() -> InvalidProxyMessage:
    return InvalidProxyMessage("did not receive a valid HTTP response from proxy")


def socks_proxy(module: str, proxy: Proxy, **options: object) -> Any:
    """Return the ``Proxy`` object of python-socks for a SOCKS proxy.

    Args:
        module: Module of python-socks, for instance ``sync`` or ``async_.asyncio``.
        proxy: The proxy. With ``socks4a`` and ``socks5h`` it resolves the names of hosts.
        **options: Other arguments of the object.

    Raises:
        ImportError: If python-socks isn't installed.
    """
    try:
        types = importlib.import_module("python_socks").ProxyType
        factory = importlib.import_module(f"python_socks.{module}").Proxy
    except ImportError as exc:
        raise ImportError(
            "python-socks is required to use a SOCKS proxy; install wsproto-fast[proxy]"
        ) from exc
    return factory(
        types.SOCKS5 if proxy.scheme.startswith("socks5") else types.SOCKS4,
        proxy.host,
        proxy.port,
        proxy.username,
        proxy.password,
        rdns=proxy.scheme in ("socks4a", "socks5h"),
        **options,
    )


def unreachable_proxy(proxy: Proxy, exc: OSError) -> OSError:
    """Return what python-socks raises when it can't connect to a SOCKS proxy.

    Args:
        proxy: The proxy.
        exc: Why not.
    """
    from python_socks import ProxyConnectionError

    text = f"Could not connect to proxy {proxy.host}:{proxy.port} [{exc.strerror}]"
    error: OSError = ProxyConnectionError(exc.errno, text)
    return error


@contextlib.contextmanager
def socks_errors() -> Iterator[None]:
    """Translate what python-socks raises.

    Raises:
        OSError, TimeoutError: As they are, up to the connection to the proxy.
        ProxyError: From anything else; its cause is an `EOFError` if the proxy closes the
            connection without an answer, in whichever way.
    """
    try:
        yield
    except ConnectionError as exc:
        raise ProxyError("failed to connect to SOCKS proxy") from _eof(exc)
    except OSError:
        raise
    except Exception as exc:
        if type(exc.__cause__).__name__ == "IncompleteReadError":  # of python-socks, private there
            raise ProxyError("failed to connect to SOCKS proxy") from _eof(exc)
        forget_frames(exc)  # the context manager's hold it
        raise ProxyError("failed to connect to SOCKS proxy") from exc


def _eof(exc: Exception) -> EOFError:
    forget_frames(exc)  # streams hold it
    eof = EOFError("connection closed by proxy")
    eof.__cause__ = exc
    return eof


if not TYPE_CHECKING:
    __getattr__ = fallback(__name__, "wsapi._names")
