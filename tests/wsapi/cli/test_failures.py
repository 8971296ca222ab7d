"""What exceptions mean for a user: each has a status, one line, and no secret."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Any

import pytest

from wsapi.cli._failures import describe_close, explain, status_of_close
from wsapi.cli._terminal import CommandError, Status
from wsapi.exceptions import (
    ConnectionClosedError,
    InvalidHandshake,
    InvalidMessage,
    InvalidProxy,
    InvalidProxyMessage,
    InvalidProxyStatus,
    InvalidStatus,
    NegotiationError,
    SecurityError,
)
from wsapi.frames import Close
from wsapi.http11 import Headers, Response

URI = "ws://user:secret@localhost/?token=secret"
SECURE = "wss://localhost/"


def caused(exc: BaseException, cause: BaseException) -> BaseException:
    exc.__cause__ = cause
    return exc


def tls(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


@pytest.mark.parametrize(
    "exc, uri, status, kind, text",
    [
        (InvalidProxyStatus(Response(407, "", Headers())), URI, 3, "proxy", "(the proxy wants"),
        (InvalidProxyStatus(Response(502, "", Headers())), URI, 3, "proxy", "HTTP 502"),
        (InvalidProxyMessage("x"), URI, 3, "proxy", "the proxy failed: x (--no-proxy"),
        (InvalidProxy("http://u:secret@x", "no"), URI, 3, "proxy", "the proxy failed: "),
        (TimeoutError("timed out"), URI, 7, "timeout", "didn't answer in time"),
        (TimeoutError(errno.ETIMEDOUT, "Timed out"), URI, 3, "unreachable", "Timed out"),
        (tls("WRONG_VERSION_NUMBER"), SECURE, 4, "tls", "try ws://"),
        (tls("RECORD_LAYER_FAILURE"), SECURE, 4, "tls", "try ws://"),
        (tls("TLSV13_ALERT_CERTIFICATE_REQUIRED"), SECURE, 4, "tls", "--cert"),
        (tls("INTERNAL_ERROR"), SECURE, 4, "tls", "no TLS with wss://localhost/: internal error"),
        (ConnectionResetError(), SECURE, 4, "tls", "before TLS was there"),
        (ConnectionResetError(104, "Reset"), URI, 3, "unreachable", "Reset"),
        (socket.gaierror(-2, "Name not known"), URI, 3, "dns", "can't find the host"),
        (ConnectionRefusedError(111, "x"), URI, 3, "refused", "refuses connections"),
        (OSError(errno.ENETUNREACH, "No network"), URI, 3, "unreachable", "No network"),
        (OSError("several"), URI, 3, "unreachable", "several"),
        (InvalidMessage("junk"), SECURE, 6, "handshake", "(is this a web server?)"),
        (caused(InvalidMessage("x"), EOFError()), SECURE, 6, "handshake", "without an answer\n"),
        (SecurityError("more than 10 redirects"), URI, 6, "security", "more than 10 redirects"),
        (NegotiationError("x"), URI, 6, "negotiation", "no agreement with"),
        (InvalidHandshake("x"), URI, 6, "handshake", "as a WebSocket server: x (-v shows"),
        (ConnectionClosedError(None, None), URI, 6, "close", "1006 (abnormal closure"),
        (ConnectionClosedError(Close(4000, "x"), None), URI, 8, "close", "4000 (private use) x"),
        (ImportError("connecting through a SOCKS proxy requires python-socks"), URI, 1, "", ""),
        (ValueError("bad"), URI, 1, "failure", "bad"),
        (
            UnicodeError("label empty"),
            "ws://a..b/",
            3,
            "dns",
            "host of ws://a..b/: label empty (is",
        ),
        (InvalidStatus(Response(300, "", Headers())), URI, 5, "redirect", "HTTP 300\n"),
        (
            InvalidStatus(Response(400, "", Headers(), b"sent to an HTTPS port")),
            URI,
            5,
            "http",
            "it speaks TLS: try wss://",
        ),
        (
            InvalidStatus(Response(301, "", Headers(Location="http://u:secret@x/"))),
            URI,
            5,
            "redirect",
            "it points to http://u:***@x/",
        ),
        (InvalidStatus(Response(599, "Odd\x1b", Headers())), URI, 5, "http", "has a problem"),
        (InvalidStatus(Response(418, "", Headers())), URI, 5, "http", "HTTP 418\n"),
    ],
)
def test_explanations(exc: BaseException, uri: str, status: int, kind: str, text: str) -> None:
    error = explain(exc, uri)
    assert error.status == status
    assert kind in error.kind
    assert text in f"{error}\n"
    assert "secret" not in str(error)


MANY = OSError(
    "Multiple exceptions: [Errno 111] Connect call failed ('::1', 9, 0, 0), "
    "[Errno 111] Connect call failed ('127.0.0.1', 9)"
)


@pytest.mark.parametrize(
    "exc, arguments, text",
    [
        (
            ConnectionRefusedError(111, "x"),
            {"path": "/run/x"},
            "the socket /run/x refuses connections (is the server running?)",
        ),
        (FileNotFoundError(2, "No such file"), {"path": "/run/x"}, "to the socket /run/x: No such"),
        (ConnectionRefusedError(111, "x"), {"host": "a", "port": 9}, "a:9 refuses connections"),
        (
            ConnectionRefusedError(111, "x"),
            {"proxy": "http://u:secret@p:1"},
            "the proxy http://u:***@p:1 refuses connections (--no-proxy connects without it)",
        ),
        (ConnectionResetError(), {"proxy": None}, "localhost/?token=***: the connection was reset"),
        (OSError("several [Errno 111], [Errno 113]"), {}, "can't connect to"),
        pytest.param(
            MANY,
            {},
            "refuses connections",
            marks=pytest.mark.skipif(errno.ECONNREFUSED != 111, reason="another number"),
        ),
    ],
)
def test_places(exc: OSError, arguments: dict[str, Any], text: str) -> None:
    error = explain(exc, URI, arguments)
    assert error.status == Status.UNREACHABLE
    assert text in str(error)
    assert "secret" not in str(error)


def test_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://u:secret@p:1")
    error = explain(ConnectionRefusedError(111, "x"), "ws://example.com/", {})
    assert str(error).startswith("the proxy http://u:***@p:1 refuses connections")


@pytest.mark.parametrize(
    "code, text, hint",
    [
        (18, "self-signed certificate", "--ca FILE trusts its issuer, "),
        (10, "certificate has expired", ""),
        (62, "Hostname mismatch.", "--server-name NAME expects another name, "),
        (64, "IP address mismatch.", "--server-name NAME expects another name, "),
    ],
)
def test_certificate(code: int, text: str, hint: str) -> None:
    exc = ssl.SSLCertVerificationError(1, "x")
    exc.verify_code, exc.verify_message = code, text
    error = explain(exc, SECURE)
    assert (error.status, error.kind) == (Status.TLS, "certificate")
    assert error.message.endswith(f" isn't trusted: {text.rstrip('.')}")
    assert error.hint == f"{hint}--insecure trusts anybody"


def test_errors_that_are_explained_already() -> None:
    error = CommandError(Status.USAGE, "x")
    assert explain(error, URI) is error


def test_bugs_are_not_explained() -> None:
    with pytest.raises(ZeroDivisionError):
        explain(ZeroDivisionError(), URI)


@pytest.mark.parametrize(
    "code, status",
    [(1000, Status.OK), (1001, Status.OK), (1005, Status.OK), (1002, Status.CLOSED)],
)
def test_codes(code: int, status: Status) -> None:
    assert status_of_close(code) is status


def test_descriptions() -> None:
    assert describe_close(None) == "1006 (abnormal closure [internal])"
    assert describe_close(Close(1000, "")) == "1000 (OK)"
