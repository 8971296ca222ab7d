"""Requests and responses as users see them: without secrets."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from wsapi.cli import _heads
from wsapi.cli._heads import lines_of_heads, mask_head, masked_headers, masked_uri
from wsapi.http11 import Headers, Request, Response


@pytest.mark.parametrize(
    "uri, shown",
    [
        ("ws://localhost/path?a=b", "ws://localhost/path?a=b"),
        ("ws://user:secret@localhost/", "ws://user:***@localhost/"),
        ("/?token=secret&b=1", "/?token=***&b=1"),
        ("/?b=1&Access_Token=secret#x", "/?b=1&Access_Token=***#x"),
        ("/?api_key=secret&password=secret&n=1", "/?api_key=***&password=***&n=1"),
        ("/?monkey=banana&tokens=2", "/?monkey=banana&tokens=2"),
    ],
)
def test_uris(uri: str, shown: str) -> None:
    assert masked_uri(uri) == shown


def test_headers() -> None:
    headers = Headers(
        [
            ("Authorization", "Bearer secret"),
            ("Set-Cookie", "a=secret"),
            ("X-Api-Key", "secret"),
            ("X-Auth-Token", "secret"),
            ("X-Monkey", "banana"),
            ("Location", "wss://user:secret@localhost/?token=secret&b=1"),
            ("Referer", "/?b=1&key=secret"),
        ]
    )
    assert masked_headers(headers) == [
        ("Authorization", "Bearer ***"),
        ("Set-Cookie", "***"),
        ("X-Api-Key", "***"),
        ("X-Auth-Token", "***"),
        ("X-Monkey", "banana"),
        ("Location", "wss://user:***@localhost/?token=***&b=1"),
        ("Referer", "/?b=1&key=***"),
    ]


def test_shown_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_heads, "LOG_SECRETS", True)
    assert masked_uri("/?token=secret") == "/?token=secret"
    assert masked_headers(Headers({"X-Api-Key": "secret"})) == [("X-Api-Key", "secret")]


@pytest.mark.parametrize(
    "shows, template, args, shown",
    [
        (False, "%s %s", (">", "GET /?key=secret HTTP/1.1"), "> GET /?key=*** HTTP/1.1"),
        (False, "%s %s: %s", ("<", "X-Api-Key", "secret"), "< X-Api-Key: ***"),
        (False, "%s [body] (%d bytes)", ("<", 5), "< [body] (5 bytes)"),
        (False, "> %s", ("/?key=banana",), "> /?key=banana"),
        (False, "= connection is open", (), "= connection is open"),
        (False, "%(a)s", ({"a": "/?key=banana"},), "/?key=banana"),
        (True, "%s %s: %s", ("<", "X-Api-Key", "secret"), "< X-Api-Key: secret"),
    ],
)
def test_lines_of_the_engine(
    shows: bool,
    template: str,
    args: tuple[object, ...],
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_heads, "LOG_SECRETS", shows)
    record = logging.LogRecord("x", logging.DEBUG, "x.py", 1, template, args, None)
    assert mask_head(record)
    assert record.getMessage() == shown


def test_lines() -> None:
    request = Request("/?token=secret", Headers(Host="localhost"))
    response = Response(403, "Forbidden", Headers(Server="x"), b"no\n\xff\n" * 50)
    lines = list(lines_of_heads(SimpleNamespace(request=request, response=response)))
    assert lines[:6] == [
        "> GET /?token=*** HTTP/1.1",
        "> Host: localhost",
        ">",
        "< HTTP/1.1 403 Forbidden",
        "< Server: x",
        "<",
    ]
    assert lines[6:] == ["no", "\ufffd"] * 10
    assert list(lines_of_heads(SimpleNamespace(request=None, response=None))) == []
