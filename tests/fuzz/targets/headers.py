"""Values of headers and URIs: what is parsed can be built and parsed again, the rest is refused."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from tests.fuzz.inputs import Input
from wsproto_fast import headers
from wsproto_fast.datastructures import Headers
from wsproto_fast.exceptions import InvalidHeader, InvalidHeaderFormat, InvalidURI, NegotiationError
from wsproto_fast.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)
from wsproto_fast.redaction import redact_header, redact_url
from wsproto_fast.uri import parse_uri

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
SEEDS = [
    b"\0keep-alive, Upgrade",
    b"\1websocket, HTTP/2.0",
    b'\2permessage-deflate; client_max_window_bits; server_max_window_bits="10", x; a=b',
    b"\3chat, superchat",
    b"\4Basic dXNlcjpwYXNz",
    b"\5example.com:80",
    b"\5[2001:db8::1]:443",
    b"\6wss://user:p%40ss@[2001:db8::1%25eth0]:443/a%20b?c=d&e",
    "\6ws://exämple.com/ü ö?ß".encode(),
    b"\7permessage-deflate; client_no_context_takeover; server_max_window_bits=9",
    b"\x08Sec-WebSocket-Key: x",
]


def connection(text: str) -> None:
    for option in headers.parse_connection(text):
        assert TOKEN.fullmatch(option)


def upgrade(text: str) -> None:
    for protocol in headers.parse_upgrade(text):
        assert all(TOKEN.fullmatch(part) for part in protocol.split("/", 1))


def extension(text: str) -> None:
    found = headers.parse_extension(text)
    assert found
    assert headers.parse_extension(headers.build_extension(found)) == found


def subprotocol(text: str) -> None:
    found = headers.parse_subprotocol(text)
    assert headers.parse_subprotocol(headers.build_subprotocol(found)) == found


def basic(text: str) -> None:
    username, password = headers.parse_authorization_basic(text)
    value = headers.build_authorization_basic(username, password)
    assert headers.parse_authorization_basic(value) == (username, password)
    assert password not in redact_header("Authorization", value) or len(password) < 5


def host(text: str) -> None:
    if headers.is_valid_host(text):
        assert text.isascii()
        assert text.isprintable()
        assert " " not in text
        assert "@" not in text
        assert "/" not in text


def uri(text: str) -> None:
    try:
        found = parse_uri(text)
    except ValueError:
        redact_url(text)
        return
    # A request is made of these: no space, no line end, nothing beyond ASCII.
    assert re.fullmatch(r"[\x21-\x7e]+", found.resource_name)
    assert found.resource_name.startswith("/") or not found.path
    value = headers.build_host(found.host, found.port, found.secure)
    assert headers.is_valid_host(value)
    assert 0 <= found.port < 65536
    assert (found.username is None) is (found.password is None)
    if found.password is not None and len(found.password) > 4:
        # Something else may be the same.
        others = repr(dataclasses.replace(found, password=None))
        assert found.password not in repr(found) or found.password in others


def deflate(text: str) -> None:
    """Negotiate with both sides; the server's answer suits the client."""
    for name, parameters in headers.parse_extension(text):
        if name != "permessage-deflate":
            continue
        for factory in (
            ServerPerMessageDeflateFactory(),
            ServerPerMessageDeflateFactory(True, True, 10, 12),
            ServerPerMessageDeflateFactory(False, False, 9, 9, require_client_max_window_bits=True),
        ):
            try:
                answer, ours = factory.process_request_params(parameters, [])
            except NegotiationError:
                continue
            assert 8 <= ours.local_max_window_bits <= 15
            offered = dict(parameters)
            answered = dict(answer)
            # RFC 7692 section 7.1.2.2: only with a hint in the offer.
            assert "client_max_window_bits" not in answered or "client_max_window_bits" in offered
            if offered.get("client_max_window_bits") == "8":
                continue  # clients of ours have at least 9
            client = ClientPerMessageDeflateFactory(
                "server_no_context_takeover" in offered,
                "client_no_context_takeover" in offered,
                int(offered["server_max_window_bits"] or 15)
                if "server_max_window_bits" in offered
                else None,
                int(offered["client_max_window_bits"] or 15)
                if offered.get("client_max_window_bits")
                else "client_max_window_bits" in offered or None,
            )
            theirs = client.process_response_params(list(answer), [])
            assert theirs.remote_max_window_bits == ours.local_max_window_bits
            assert theirs.local_max_window_bits <= ours.remote_max_window_bits
            assert theirs.remote_no_context_takeover == ours.local_no_context_takeover
            assert theirs.local_no_context_takeover or not ours.remote_no_context_takeover
        try:
            ClientPerMessageDeflateFactory().process_response_params(parameters, [])
        except NegotiationError:
            pass


def lines(text: str) -> None:
    """Headers of a program: what they accept, makes whole lines."""
    made = Headers()
    for line in text.split("\0"):
        name, _, value = line.partition("=")
        try:
            made[name] = value
        except (InvalidHeader, ValueError):
            continue
    written = str(made)
    assert written.endswith("\r\n")
    assert written.count("\r\n") == len(list(made.raw_items())) + 1
    assert written.count("\n") == written.count("\r") == written.count("\r\n")
    for name, value in made.raw_items():
        assert value in made.get_all(name.upper())


KINDS: list[Callable[[str], Any]] = [
    connection, upgrade, extension, subprotocol, basic, host, uri, deflate, lines,
]  # fmt: skip


def one_input(data: bytes) -> None:
    source = Input(data)
    kind = source.choice(KINDS)
    rest = source.rest()
    texts = {rest.decode("latin-1"), rest.decode("utf-8", "replace")}
    for text in sorted(texts):
        try:
            kind(text)
        except (InvalidHeaderFormat, InvalidHeader, InvalidURI) as exc:
            assert str(exc)
