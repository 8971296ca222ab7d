"""What became of a connection, in words for a user: one line, a hint, an exit status."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wsproto_fast.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidProxy,
    InvalidProxyStatus,
    InvalidStatus,
    InvalidURI,
    NegotiationError,
    ProxyError,
    SecurityError,
    WebSocketException,
)
from wsproto_fast.uri import parse_uri

from ..proxy import get_proxy
from ._heads import masked_uri
from ._terminal import CommandError, Status

if TYPE_CHECKING:
    from wsproto_fast.frames import Close

__all__ = ["describe_close", "explain", "status_of_close"]

NORMAL = (1000, 1001, 1005)
"""Codes with which a connection ends as it should; 1005 stands for none."""

# X509_V_ERR_ of OpenSSL: of the host's name and address; not yet valid, and expired.
_NOT_ITS_NAME = (62, 64)
_NOT_NOW = (9, 10)

_HINTS_OF_STATUS = {
    400: "the server doesn't like the request: -v shows it",
    401: "credentials are missing or wrong: --auth, --bearer, or --header",
    403: "the server doesn't let you: perhaps it wants --origin or credentials",
    404: "is the path right?",
    405: "is this a WebSocket server?",
    407: "the proxy wants credentials: --proxy http://USER:PASSWORD@HOST:PORT",
    426: "the server wants another protocol than HTTP/1.1 with WebSocket version 13",
    429: "too many connections: try again later",
    502: "the server behind the proxy doesn't answer",
    503: "try again later",
    504: "the server behind the proxy doesn't answer in time",
}


def explain(
    exc: BaseException,
    uri: str,
    arguments: Mapping[str, Any] | None = None,
    target: str | None = None,
) -> CommandError:
    """Say what it means that connecting, or a connection, failed with an exception.

    Args:
        exc: What was raised.
        uri: URI that was to be connected to, as it was given.
        arguments: Keyword arguments of ``connect``, which may name another place.
        target: URI that redirects have led to.
    """
    if isinstance(exc, CommandError):
        return exc
    if target is not None and target != uri:
        error = explain(exc, target, arguments)
        error.message = f"{masked_uri(uri)} redirects: {error.message}"
        return error
    secure = uri.lower().startswith("wss:")
    where = masked_uri(uri)
    if isinstance(exc, InvalidStatus):
        return _of_status(exc, where)
    if isinstance(exc, InvalidProxyStatus):
        status = exc.response.status_code
        return CommandError(
            Status.UNREACHABLE,
            f"the proxy refuses to connect to {where}: HTTP {status}",
            _HINTS_OF_STATUS.get(status) if status == 407 else None,
            "proxy",
        )
    if isinstance(exc, (ProxyError, InvalidProxy)):
        return CommandError(
            Status.UNREACHABLE,
            f"the proxy failed: {_text(exc)}",
            "--no-proxy connects without one",
            "proxy",
        )
    if isinstance(exc, InvalidURI):
        return CommandError(
            Status.REFUSED,
            f"{where} redirects to {masked_uri(exc.uri)}: {exc.msg}",
            None,
            "redirect",
        )
    if isinstance(exc, TimeoutError):
        if exc.errno is not None:  # ETIMEDOUT
            return _of_network(exc, uri, arguments or {})
        return CommandError(
            Status.TIMEOUT,
            f"{where} didn't answer in time",
            "--open-timeout gives it longer",
        )
    if isinstance(exc, ssl.SSLError):
        return _of_tls(exc, where)
    if isinstance(exc, InvalidMessage):
        return _of_message(exc, where, secure)
    if isinstance(exc, SecurityError):
        return CommandError(Status.PROTOCOL, f"{where}: {_text(exc)}", None, "security")
    if isinstance(exc, NegotiationError):
        return CommandError(
            Status.PROTOCOL, f"no agreement with {where}: {_text(exc)}", None, "negotiation"
        )
    if isinstance(exc, InvalidHandshake):
        return CommandError(
            Status.PROTOCOL,
            f"{where} doesn't answer as a WebSocket server: {_text(exc)}",
            "-v shows its answer",
            "handshake",
        )
    if isinstance(exc, ConnectionClosed):
        close = exc.rcvd or exc.sent
        return CommandError(
            Status.PROTOCOL if exc.rcvd is None else status_of_close(exc.rcvd.code),
            f"the connection to {where} ended: {describe_close(close)}",
            None,
            "close",
        )
    if isinstance(exc, OSError):
        return _of_network(exc, uri, arguments or {})
    if isinstance(exc, ImportError):  # of what SOCKS needs
        return CommandError(Status.FAILURE, _text(exc))
    if isinstance(exc, UnicodeError):  # of IDNA
        return CommandError(
            Status.UNREACHABLE,
            f"can't find the host of {where}: {exc.__cause__ or exc}",
            "is the name right?",
            "dns",
        )
    if isinstance(exc, (WebSocketException, ValueError, TypeError)):
        return CommandError(Status.FAILURE, _text(exc))
    raise exc


def _text(exc: BaseException) -> str:
    text = str(exc) or type(exc).__name__
    return text if exc.__cause__ is None else f"{text}: {exc.__cause__}"


def _of_network(exc: OSError, uri: str, arguments: Mapping[str, Any]) -> CommandError:
    shown = masked_uri(uri)
    place, proxied = _place(uri, arguments)
    where = shown if place is None else place
    if isinstance(exc, socket.gaierror):
        return CommandError(
            Status.UNREACHABLE,
            f"can't find the host of {where}: {exc.strerror}",
            "is the name right?",
            "dns",
        )
    if _is_refusal(exc):
        hint = "is the server running, and the port right?"
        if arguments.get("path") is not None:
            hint = "is the server running?"
        return CommandError(
            Status.UNREACHABLE,
            f"{where} refuses connections",
            "--no-proxy connects without it" if proxied else hint,
            "refused",
        )
    if isinstance(exc, ConnectionError) and not proxied and uri.lower().startswith("wss:"):
        return CommandError(
            Status.TLS,
            f"{where} ended the connection before TLS was there",
            "does it speak TLS? ws:// is without",
            "tls",
        )
    reason = exc.strerror or str(exc) or "the connection was reset"
    return CommandError(Status.UNREACHABLE, f"can't connect to {where}: {reason}")


def _is_refusal(exc: OSError) -> bool:
    if isinstance(exc, ConnectionRefusedError):
        return True
    # asyncio joins the errors of several addresses.
    numbers = re.findall(r"\[Errno (\d+)\]", str(exc)) if exc.errno is None else []
    return bool(numbers) and set(map(int, numbers)) == {errno.ECONNREFUSED}


def _place(uri: str, arguments: Mapping[str, Any]) -> tuple[str | None, bool]:
    """Return what was connected to if it wasn't what the URI says, and whether it is a proxy."""
    if arguments.get("path") is not None:
        return f"the socket {arguments['path']}", False
    if arguments.get("host") is not None:
        return f"{arguments['host']}:{arguments['port']}", False
    proxy = arguments.get("proxy", True)
    if proxy is True:
        proxy = get_proxy(parse_uri(uri))
    return (None, False) if proxy is None else (f"the proxy {masked_uri(proxy)}", True)


def _of_status(exc: InvalidStatus, where: str) -> CommandError:
    response = exc.response
    status = response.status_code
    hint = _HINTS_OF_STATUS.get(status)
    kind = "http"
    headers = response.headers
    if 300 <= status < 400:
        location = headers.get_all("Location")
        kind = "redirect"
        hint = f"it points to {masked_uri(location[0])}" if location else None
    elif status == 200:
        hint = "there is a web server, but no WebSocket: is the path right?"
    elif status in (429, 503) and "Retry-After" in headers:
        hint = f"try again later; Retry-After: {headers.get_all('Retry-After')[0]}"
    elif status == 426 and "Upgrade" in headers:
        hint = f"it wants Upgrade: {headers.get_all('Upgrade')[0]}"
    elif status == 400 and b"HTTPS" in (response.body or b""):
        hint = "it speaks TLS: try wss://"
    elif status >= 500 and hint is None:
        hint = "the server has a problem"
    phrase = f" {response.reason_phrase}" if response.reason_phrase else ""
    message = f"{where} refuses: HTTP {status}{phrase}"
    return CommandError(Status.REFUSED, message, hint, kind, http=status)


def _of_tls(exc: ssl.SSLError, where: str) -> CommandError:
    if isinstance(exc, ssl.SSLCertVerificationError):
        advice = "--insecure trusts anybody"
        if exc.verify_code in _NOT_ITS_NAME:
            advice = f"--server-name NAME expects another name, {advice}"
        elif exc.verify_code not in _NOT_NOW:
            advice = f"--ca FILE trusts its issuer, {advice}"
        message = f"the certificate of {where} isn't trusted: {exc.verify_message.rstrip('.')}"
        return CommandError(Status.TLS, message, advice, "certificate")
    reason = (exc.reason or _text(exc)).replace("_", " ").lower()
    hint = None
    if exc.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
        hint = "it doesn't seem to speak TLS: try ws://"
    elif "CERTIFICATE_REQUIRED" in (exc.reason or "") or "HANDSHAKE_FAILURE" in (exc.reason or ""):
        hint = "it may want a certificate: --cert"
    return CommandError(Status.TLS, f"no TLS with {where}: {reason}", hint, "tls")


def _of_message(exc: InvalidMessage, where: str, secure: bool) -> CommandError:
    if isinstance(exc.__cause__, (EOFError, ConnectionError)):
        hint = None if secure else "perhaps it speaks TLS: try wss://"
        return CommandError(
            Status.PROTOCOL, f"{where} ended the connection without an answer", hint, "handshake"
        )
    hint = "is this a web server?" if secure else "is this a web server? perhaps with TLS: wss://"
    return CommandError(
        Status.PROTOCOL, f"{where} doesn't answer as HTTP does: {_text(exc)}", hint, "handshake"
    )


def status_of_close(code: int) -> Status:
    """Return the exit status for a code with which the server closed the connection."""
    return Status.OK if code in NORMAL else Status.CLOSED


def describe_close(close: Close | None) -> str:
    """Describe a Close frame, or that there was none."""
    return str(close) if close is not None else "1006 (abnormal closure [internal])"
