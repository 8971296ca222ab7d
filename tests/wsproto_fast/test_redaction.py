"""What texts leave out: passwords in URLs, and headers with secrets."""

import logging
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsproto_fast import ClientProtocol, ResponseParser, ServerProtocol
from wsproto_fast import redaction as r
from wsproto_fast._http11 import RequestParser
from wsproto_fast.datastructures import Headers
from wsproto_fast.exceptions import (
    InvalidHeader,
    InvalidProxy,
    InvalidProxyStatus,
    InvalidStatus,
    InvalidURI,
)
from wsproto_fast.headers import parse_authorization_basic
from wsproto_fast.http11 import Response
from wsproto_fast.uri import WebSocketURI, parse_uri


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ws://user:pw@host/path", "ws://user:***@host/path"),
        ("ws://user:@host/", "ws://user:***@host/"),
        ("ws://token@host/", "ws://***@host/"),
        ("ws://user:p@w@host/?a@b", "ws://user:***@host/?a@b"),
        ("ws://user:p w@host/", "ws://user:***@host/"),
        # Delimiters that should have been escaped.
        ("ws://user:p/w@host/", "ws://user:***@host/"),
        ("ws://user:p#w@host/", "ws://user:***@host/"),
        ("ws://user:p?w@host/", "ws://user:***@host/"),
        ("ws://user:p:/w@host/", "ws://user:***@host/"),
        ("ws://user:/w@host/", "ws://user:***@host/"),
        # No scheme, or no slashes.
        ("user:pw@proxy:80", "user:***@proxy:80"),
        ("http:user:pw@proxy", "http:***@proxy"),
        ("/?next=ws://user:pw@host/", "/?next=ws://user:***@host/"),
        # Nothing to hide.
        ("ws://host/@me", "ws://host/@me"),
        ("ws://host:80/@me", "ws://host:80/@me"),
        ("ws://[::1]/@me", "ws://[::1]/@me"),
        ("ws://[::1]:80/@me", "ws://[::1]:80/@me"),
        ("/users/@me?at=a:b", "/users/@me?at=a:b"),
        ("ws://host/", "ws://host/"),
        ("", ""),
        ("@", "***@"),
        ("//user:secret@host/", "//user:***@host/"),  # as in Location
    ],
)
def test_url(url: str, shown: str) -> None:
    assert r.redact_url(url) == shown


@given(st.text(max_size=20), st.text(st.sampled_from("ab:/?#[] é%"), min_size=1, max_size=12))
def test_no_password_is_left(user: str, password: str) -> None:
    password = f"<{password}>"
    url = f"wss://{user.translate(dict.fromkeys(map(ord, ':/?#@<>')))}:{password}@host/"
    shown = r.redact_url(url)
    assert "<" not in shown
    assert shown.endswith(f":{r.MASK}@host/")


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("Authorization", "Basic dTpw", "Basic ***"),
        ("authorization", "bearer abc def", "bearer ***"),
        ("AUTHORIZATION", "Digest", "Digest"),
        ("Authorization", "mytoken", "***"),
        ("Authorization", "my token", "***"),
        ("Proxy-Authorization", "Basic dTpw", "Basic ***"),
        ("Cookie", "a=b; c=d", "***"),
        ("Cookie", "basic a=b", "***"),
        ("Set-Cookie", "a=b; Path=/", "***"),
        ("Cookie", "", ""),
        ("WWW-Authenticate", "Basic realm=a", "Basic realm=a"),
        ("Sec-WebSocket-Protocol", "chat", "chat"),
        ("Location", "wss://u:p@h/", "wss://u:***@h/"),
        ("X-Contact", "a:b@c", "a:b@c"),
    ],
)
def test_header(name: str, value: str, shown: str) -> None:
    assert r.redact_header(name, value) == shown


def test_shown_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(r, "LOG_SECRETS", True)
    assert r.redact_url("ws://u:p@h/") == "ws://u:p@h/"
    assert r.redact_header("Cookie", "a=b") == "a=b"
    assert r.redact_line("Cookie: a=b") == "Cookie: a=b"
    assert not r.is_secret("Cookie")
    assert "password='p'" in repr(parse_uri("ws://u:p@h/"))


@pytest.mark.parametrize(
    ("variable", "value", "shows"),
    [
        ("WSPROTO_FAST_LOG_SECRETS", "1", True),
        ("WEBSOCKETS_LOG_SECRETS", "yes", True),
        ("WSPROTO_FAST_LOG_SECRETS", "0", False),
        ("WSPROTO_FAST_LOG_SECRETS", "", False),
        ("WSAPI_LOG_SECRETS", "1", False),
    ],
)
def test_variable(variable: str, value: str, shows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.endswith("_LOG_SECRETS")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(variable, value)
    code = "from wsproto_fast import redaction; print(redaction.LOG_SECRETS)"
    shown = subprocess.check_output([sys.executable, "-c", code], text=True).strip()
    assert shown == str(shows)


@pytest.mark.parametrize("error", [InvalidURI, InvalidProxy])
def test_exceptions(error: type[InvalidURI | InvalidProxy]) -> None:
    exc = error("ws://user:hunter2@host/", "reason")
    assert str(exc).startswith("ws://user:***@host/ isn't a valid ")
    assert repr(exc) == f"{error.__name__}('ws://user:***@host/', 'reason')"
    assert exc.args == ("ws://user:hunter2@host/", "reason")


@pytest.mark.parametrize(
    "uri",
    [
        "http://user:hunter2@host/",
        "ws://hunter2@host/",
        "ws://user:hunter2@host/#f",
        "ws://user:hunter2@host:port/",
        "ws://user:hunter2@host:99999/",
        "ws://user:hun/ter2@host/",
        "ws://user:hunter2@[host/",
        "ws://user:hunter2@ho\u2100st/",
        "ws://user:hunter2 @host/",
        "ws://user:hunter2\n@host/",
        "ws://user:hunter2%ff@host/",
    ],
)
def test_parsing_a_uri_tells_no_password(uri: str) -> None:
    with pytest.raises((InvalidURI, ValueError)) as caught:
        parse_uri(uri)
    exc: BaseException | None = caught.value
    while exc is not None:
        assert "hun" not in str(exc)
        exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)


def test_settings() -> None:
    assert repr(parse_uri("ws://u:hunter2@h/")) == (
        "WebSocketURI(secure=False, host='h', port=80, path='/', query='', username='u', "
        "password='***')"
    )
    uri = WebSocketURI(True, "h", 443, "", "")
    assert repr(uri).endswith("username=None, password=None)")


def test_headers() -> None:
    headers = Headers({"Set-Cookie": "a=hunter2", "Location": "ws://u:hunter2@h/", "X": "y"})
    response = Response(401, "no", headers)
    shown = "Headers([('Set-Cookie', '***'), ('Location', 'ws://u:***@h/'), ('X', 'y')])"
    assert repr(headers) == shown
    for exc in (InvalidStatus(response), InvalidProxyStatus(response)):
        assert shown in repr(exc)
        assert exc.response.headers["Set-Cookie"] == "a=hunter2"
    assert "hunter2" in str(headers)  # what is sent


@pytest.mark.parametrize("name", ["Authorization", "Cookie"])
def test_headers_that_cannot_be_sent(name: str) -> None:
    headers = Headers()
    with pytest.raises(InvalidHeader) as caught:
        headers[name] = "Bearer hunter2\n"
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(caught.value)


@pytest.mark.parametrize("header", ['"hunter2"', "hunter2", "Basic hunter2?", "Basic hunter2 x"])
def test_malformed_credentials(header: str) -> None:
    with pytest.raises(InvalidHeader) as caught:
        parse_authorization_basic(header)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("Authorization : Bearer hunter2", "Authorization: ***"),
        ("cookie\t: a=hunter2", "cookie: ***"),
        ("Cookie: a=hunter2\x01", "Cookie: ***"),
        (" Cookie: a=hunter2", " Cookie: ***"),
        ("Cookies : 1", "Cookies : 1"),
        ("Proxy-Authorization hunter2", "Proxy-Authorization: ***"),
    ],
)
def test_malformed_lines(line: str, shown: str) -> None:
    parser = RequestParser()
    with pytest.raises(ValueError, match="invalid HTTP header line: ") as caught:
        parser.feed_data(f"GET / HTTP/1.1\r\n{line}\r\n\r\n".encode())
    assert str(caught.value) == f"invalid HTTP header line: {shown}"


def test_malformed_continuation() -> None:
    parser = ResponseParser()
    with pytest.raises(ValueError, match="invalid HTTP header line: ") as caught:
        parser.feed_data(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b;\r\n c=hunter2\x01\r\n")
    assert str(caught.value) == "invalid HTTP header line: ***"


def test_debug_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    protocol = ServerProtocol()
    protocol.receive_data(
        b"GET /?to=ws://u:hunter2@h/ HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer hunter2\r\n"
        b"Cookie: a=hunter2\r\nX: y\r\n\r\n"
    )
    response = protocol.reject(401, "no")
    response.headers["Set-Cookie"] = "a=hunter2"
    protocol.send_response(response)
    lines = [record.getMessage() for record in caplog.records]
    assert "hunter2" not in caplog.text
    assert lines[1:6] == [
        "< GET /?to=ws://u:***@h/ HTTP/1.1",
        "< Host: h",
        "< Authorization: Bearer ***",
        "< Cookie: ***",
        "< X: y",
    ]
    assert "> Set-Cookie: ***" in lines


def test_debug_lines_of_a_response(caplog: pytest.LogCaptureFixture) -> None:
    """Values of headers, and reasons, may have bytes that control terminals."""
    caplog.set_level(logging.DEBUG)
    protocol = ClientProtocol(parse_uri("ws://h/"))
    protocol.receive_data(b"HTTP/1.1 403 \x9b2J\r\nX: \x9bA\tB\r\nContent-Length: 0\r\n\r\n")
    lines = [record.getMessage() for record in caplog.records]
    assert lines[1:3] == ["< HTTP/1.1 403 \\x9b2J", "< X: \\x9bA\\tB"]


def test_escape() -> None:
    plain = "é € 日本 🙂 \\ ' \xa0"
    assert r.escape(plain) == plain
    assert r.escape("a\r\n\t\0\x1b\x7f\x85\x9b") == r"a\r\n\t\x00\x1b\x7f\x85\x9b"
    assert r.escape("\u2028\u2029\u202e\u2066") == r"\u2028\u2029\u202e\u2066"
