"""What tests of the opening handshake have in common."""

import re

from wsproto_fast import ClientProtocol
from wsproto_fast import exceptions as e
from wsproto_fast._handshake import accept_key
from wsproto_fast.http11 import MAX_LINE_LENGTH
from wsproto_fast.uri import parse_uri

KEY = "dGhlIHNhbXBsZSBub25jZQ=="

ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # both from RFC 6455 section 1.3

BASE = {
    "Host": "example.com",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}

TEXT_FRAME = b"\x81\x85\0\0\0\0hello"


def head(start="GET / HTTP/1.1", extra=(), base=BASE, **changes):
    """Return a message; a change of None leaves a header out."""
    items = [
        (name, changes.get(name.replace("-", "_"), value))
        for name, value in base.items()
        if changes.get(name.replace("-", "_"), value) is not None
    ]
    lines = [start, *(f"{name}: {value}" for name, value in [*items, *extra])]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def output(protocol):
    return protocol.data_to_send()


def received(server, data):
    server.receive_data(data)
    (request,) = server.events_received()
    return request


class Extension:
    def __init__(self, name):
        self.name = name

    def encode(self, frame):
        return frame

    def decode(self, frame, *, max_size=None):
        return frame


class Factory:
    """Factory of both sides; accepts offers with its parameters only."""

    def __init__(self, name, params=()):
        self.name = name
        self.params = list(params)

    def get_request_params(self):
        return self.params

    def process_request_params(self, params, accepted):
        if params != self.params:
            raise e.NegotiationError("no")
        params.append(("answered", None))
        return params, Extension(self.name)

    def process_response_params(self, params, accepted):
        if params != self.params or any(other.name == self.name for other in accepted):
            raise e.NegotiationError("no")
        return Extension(self.name)


BROWSER = (
    "\n\nYou cannot access a WebSocket server directly with a browser. You need a WebSocket client"
)

# Keyword arguments of the server, request, status, exception, text of the body.
REFUSED = [
    ({}, head("POST / HTTP/1.1"), 405, e.InvalidMethod, "unsupported HTTP method: POST"),
    ({}, head("PUT / HTTP/1.0"), 405, e.InvalidMethod, "unsupported HTTP method: PUT"),
    ({}, head("GET / HTTP/1.0"), 505, e.InvalidProtocol, "unsupported HTTP version: HTTP/1.0"),
    ({}, head(Connection=None), 426, e.InvalidUpgrade, f"missing Connection header.{BROWSER}"),
    (
        {},
        head(Connection="close, x"),
        426,
        e.InvalidUpgrade,
        f"invalid Connection header: close, x.{BROWSER}",
    ),
    ({}, head(Upgrade=None), 426, e.InvalidUpgrade, f"missing Upgrade header.{BROWSER}"),
    ({}, head(Upgrade="h2c"), 426, e.InvalidUpgrade, f"invalid Upgrade header: h2c.{BROWSER}"),
    (
        {},
        head(extra=[("Upgrade", "websocket")]),
        426,
        e.InvalidUpgrade,
        f"invalid Upgrade header: websocket, websocket.{BROWSER}",
    ),
    (
        {},
        head(Connection="("),
        400,
        e.InvalidHeaderFormat,
        "invalid Connection header: expected token at 0 in (",
    ),
    (
        {},
        head(Upgrade=""),
        400,
        e.InvalidHeaderFormat,
        "invalid Upgrade header: expected protocol at 0 in ",
    ),
    ({}, head(Sec_WebSocket_Key=None), 400, e.InvalidHeader, "missing Sec-WebSocket-Key header"),
    (
        {},
        head(extra=[("Sec-WebSocket-Key", KEY)]),
        400,
        e.InvalidHeader,
        "invalid Sec-WebSocket-Key header: multiple values",
    ),
    (
        {},
        head(Sec_WebSocket_Key=""),
        400,
        e.InvalidHeaderValue,
        "empty Sec-WebSocket-Key header",
    ),
    (
        {},
        head(Sec_WebSocket_Key="YQ=="),
        400,
        e.InvalidHeaderValue,
        "invalid Sec-WebSocket-Key header: YQ==",
    ),
    (
        {},
        head(Sec_WebSocket_Key=KEY + "YQ=="),
        400,
        e.InvalidHeaderValue,
        None,
    ),
    (
        {},
        head(Sec_WebSocket_Key="!" + KEY[1:]),
        400,
        e.InvalidHeaderValue,
        f"invalid Sec-WebSocket-Key header: !{KEY[1:]}; Only base64 data is allowed",
    ),
    ({}, head(Sec_WebSocket_Key="\xe9" + KEY[1:]), 400, e.InvalidHeaderValue, None),
    ({}, head(Sec_WebSocket_Key="A" * 24), 400, e.InvalidHeaderValue, None),
    (
        {},
        head(Sec_WebSocket_Version=None),
        400,
        e.InvalidHeader,
        "missing Sec-WebSocket-Version header",
    ),
    (
        {},
        head(extra=[("Sec-WebSocket-Version", "13")]),
        400,
        e.InvalidHeader,
        "invalid Sec-WebSocket-Version header: multiple values",
    ),
    (
        {},
        head(Sec_WebSocket_Version="8"),
        400,
        e.InvalidHeaderValue,
        "invalid Sec-WebSocket-Version header: 8",
    ),
    (
        {},
        head(extra=[("Origin", "a"), ("Origin", "a")]),
        400,
        e.InvalidHeader,
        "invalid Origin header: multiple values",
    ),
    ({"origins": ["a"]}, head(), 403, e.InvalidOrigin, "missing Origin header"),
    (
        {"origins": [None, "a", re.compile("c")]},
        head(extra=[("Origin", "cc")]),
        403,
        e.InvalidOrigin,
        "invalid Origin header: cc",
    ),
    (
        {"extensions": [Factory("x")]},
        head(extra=[("Sec-WebSocket-Extensions", "(")]),
        400,
        e.InvalidHeaderFormat,
        "invalid Sec-WebSocket-Extensions header: expected token at 0 in (",
    ),
    (
        {},
        head(extra=[("Sec-WebSocket-Protocol", "(")]),
        400,
        e.InvalidHeaderFormat,
        "invalid Sec-WebSocket-Protocol header: expected token at 0 in (",
    ),
    ({"subprotocols": ["a"]}, head(), 400, e.NegotiationError, "missing subprotocol"),
    (
        {"subprotocols": ["a", "b"]},
        head(extra=[("Sec-WebSocket-Protocol", "c, d")]),
        400,
        e.NegotiationError,
        "invalid subprotocol; expected one of a, b",
    ),
    ({"check_host": True}, head(Host=None), 400, e.InvalidHeader, "missing Host header"),
    (
        {"check_host": True},
        head(extra=[("Host", "x")]),
        400,
        e.InvalidHeader,
        "invalid Host header: multiple values",
    ),
    (
        {"check_host": True},
        head(Host="a/b"),
        400,
        e.InvalidHeaderValue,
        "invalid Host header: a/b",
    ),
]


LONG = b"x" * (MAX_LINE_LENGTH + 1)


def connect(**kwargs):
    client = ClientProtocol(parse_uri("ws://example.com/"), **kwargs)
    client.send_request(client.connect())
    output(client)
    return client


ANSWER = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Accept": None}


def answer(client, extra=(), start="HTTP/1.1 101 Switching Protocols", **changes):
    base = ANSWER | {"Sec-WebSocket-Accept": accept_key(client.key)}
    return head(start, extra, base, **changes)


EXTENSIONS = [Factory("e"), Factory("e", [("x", None)]), Factory("f")]
