"""Opening handshake of both sides: requests, responses, negotiation, logs."""

import base64
import hashlib
import itertools
import logging
import re
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsproto_fast import ClientProtocol, ServerProtocol, activity, http11
from wsproto_fast import exceptions as e
from wsproto_fast._handshake import accept_key
from wsproto_fast.datastructures import Headers
from wsproto_fast.frames import Side, State
from wsproto_fast.http11 import MAX_LINE_LENGTH, Request, Response
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


# Server: good requests


def test_accept():
    server = ServerProtocol()
    assert (server.side, server.state) == (Side.SERVER, State.CONNECTING)
    request = received(server, head())
    assert request == Request("/", Headers(BASE))
    response = server.accept(request)
    assert (response.status_code, response.reason_phrase) == (101, "Switching Protocols")
    assert [name for name, _ in response.headers.raw_items()] == [
        "Date",
        "Upgrade",
        "Connection",
        "Sec-WebSocket-Accept",
    ]
    date = response.headers["Date"]
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", date)
    assert server.state is State.CONNECTING
    assert output(server) == []
    server.send_response(response)
    assert server.state is State.OPEN
    assert server.handshake_exc is None
    assert not server.close_expected()
    assert output(server) == [
        f"HTTP/1.1 101 Switching Protocols\r\nDate: {date}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n".encode()
    ]
    for attribute in ("origin", "subprotocol"):
        assert getattr(server, attribute) is None
    assert server.extensions == []


@pytest.mark.parametrize(
    "data",
    [
        head(Connection="upgrade"),
        head(Connection="keep-alive, Upgrade"),
        head(Connection="keep-alive", extra=[("connection", "x, UPGRADE")]),
        head(Upgrade="WebSocket"),
        head(Upgrade=",websocket"),
        head(Host=None),
        head(Host="???"),
        head("GET /chat?a=b HTTP/1.1"),
        head(extra=[("Origin", "null"), ("Sec-WebSocket-Protocol", "a, b")]),
        head(extra=[("Sec-WebSocket-Extensions", "(")]),
        head(extra=[("Content-Length", "0")]),
        head(Sec_WebSocket_Key="+/" + KEY[2:]),
    ],
)
def test_acceptable_requests(data):
    server = ServerProtocol()
    response = server.accept(received(server, data))
    assert response.status_code == 101
    assert server.handshake_exc is None


def test_frames_after_the_request():
    for data in (head() + TEXT_FRAME, head() + TEXT_FRAME[:3]):
        server = ServerProtocol()
        request = received(server, data)
        server.receive_data((head() + TEXT_FRAME)[len(data) :])
        assert server.events_received() == []
        server.send_response(server.accept(request))
        (frame,) = server.events_received()
        assert bytes(frame.data) == b"hello"


@given(st.lists(st.integers(0, 250), max_size=8))
def test_any_cut_of_the_input(positions):
    data = head(extra=[("Origin", "o")]) + TEXT_FRAME
    edges = [0, *sorted(min(position, len(data)) for position in positions), len(data)]
    server = ServerProtocol()
    events = []
    for start, end in itertools.pairwise(edges):
        if start < end:
            server.receive_data(data[start:end])
        for event in server.events_received():
            events.append(event)
            if isinstance(event, Request):
                server.send_response(server.accept(event))
    events += server.events_received()
    assert [type(event).__name__ for event in events] == ["Request", "Frame"]


# Server: bad requests

BROWSER = (
    "\n\nYou cannot access a WebSocket server directly with a browser. You need a WebSocket client"
)

# Keyword arguments of the server, request, status, exception, text of the body.
REFUSED = [
    ({}, head("POST / HTTP/1.1"), 405, e.InvalidMethod, "unsupported HTTP method: POST"),
    ({}, head("HEAD / HTTP/1.0"), 405, e.InvalidMethod, "unsupported HTTP method: HEAD"),
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


@pytest.mark.parametrize(("kwargs", "data", "status", "error", "text"), REFUSED)
def test_refused_requests(kwargs, data, status, error, text):
    server = ServerProtocol(**kwargs)
    response = server.accept(received(server, data))
    assert response.status_code == status
    assert type(server.handshake_exc) is error
    if text is not None:
        assert response.body == f"Failed to open a WebSocket connection: {text}.\n".encode()
    names = [name for name, _ in response.headers.raw_items()]
    assert names[:4] == ["Date", "Connection", "Content-Length", "Content-Type"]
    assert response.headers["Connection"] == "close"
    assert response.headers["Content-Length"] == str(len(response.body))
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    extra = {405: ["Allow"], 426: ["Upgrade"]}.get(status, [])
    if text is not None and "Sec-WebSocket-Version" in text:
        extra = ["Sec-WebSocket-Version"]
        assert response.headers["Sec-WebSocket-Version"] == "13"
    assert names[4:] == extra

    server.send_response(response)
    assert server.state is State.CONNECTING
    assert server.close_expected()
    sent = output(server)
    assert b"".join(sent) == response.serialize()
    assert sent[-1] == b""
    server.receive_data(TEXT_FRAME)
    assert server.events_received() == output(server) == []
    server.receive_eof()
    assert server.state is State.CLOSED
    assert type(server.handshake_exc) is error


def test_checks_come_in_order():
    # Each header in turn is repaired; what is still wrong then is reported.
    broken = dict.fromkeys(BASE, "(") | {"Origin": "x", "Sec-WebSocket-Extensions": "("}
    broken["Sec-WebSocket-Protocol"] = "("
    broken["Host"] = "/"
    fixed = BASE | {"Origin": "o", "Sec-WebSocket-Extensions": "e", "Sec-WebSocket-Protocol": "s"}
    method, version = "POST", "HTTP/1.0"
    texts = []
    for repair in ["method", "version", *fixed, None]:
        server = ServerProtocol(
            origins=["o"], extensions=[Factory("e")], subprotocols=["s"], check_host=True
        )
        response = server.accept(Request("/", Headers(broken), method, version))
        texts.append(
            "" if server.handshake_exc is None else str(server.handshake_exc).split(":")[0]
        )
        if repair == "method":
            method = "GET"
        elif repair == "version":
            version = "HTTP/1.1"
        elif repair is not None:
            broken[repair] = fixed[repair]
    assert texts == [
        "unsupported HTTP method",
        "unsupported HTTP version",
        "invalid Host header",
        "invalid Connection header",
        "invalid Upgrade header",
        "invalid Sec-WebSocket-Key header",
        "invalid Sec-WebSocket-Version header",
        "invalid Origin header",
        "invalid Sec-WebSocket-Extensions header",
        "invalid Sec-WebSocket-Protocol header",
        "",
    ]
    assert response.status_code == 101


LONG = b"x" * (MAX_LINE_LENGTH + 1)


@pytest.mark.parametrize(
    ("data", "status", "error"),
    [
        (LONG, 414, e.RequestLineTooLong),
        (b"GET /" + LONG, 414, e.RequestLineTooLong),
        (b"GET / HTTP/1.1\r\n" + LONG, 431, e.HeaderLineTooLong),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 129, 431, e.TooManyHeaders),
    ],
)
def test_limits_are_answered(data, status, error):
    server = ServerProtocol(server_header="s")
    server.receive_data(data)
    sent = output(server)
    assert sent[-1] == b""
    answer = b"".join(sent)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.endswith(f"connection: {server.handshake_exc}.\n".encode())
    assert b"\r\nServer: s\r\n" in answer
    assert type(server.handshake_exc) is error
    assert server.close_expected()
    server.receive_data(data)
    assert server.events_received() == output(server) == []


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"\x16\x03\x01", ValueError),
        (b"PRI * HTTP/2.0\r\n\r\n", ValueError),
        (b"GET / HTTP/1.1\n", ValueError),
        (b"GET / HTTP/1.1\r\nA b\r\n", ValueError),
        (head(extra=[("Content-Length", "1")]), ValueError),
        (head(extra=[("Transfer-Encoding", "chunked")]), NotImplementedError),
    ],
)
def test_garbage_is_not_answered(data, cause):
    server = ServerProtocol()
    server.receive_data(data + b"more")
    assert type(server.handshake_exc) is e.InvalidMessage
    assert str(server.handshake_exc) == "did not receive a valid HTTP request"
    assert type(server.handshake_exc.__cause__) is cause
    assert server.events_received() == []
    assert output(server) == [b""]
    assert server.close_expected()
    server.receive_eof()
    assert server.state is State.CLOSED


@pytest.mark.parametrize("data", [b"", b"GET", head()[:-1]])
def test_end_of_stream_within_the_request(data):
    server = ServerProtocol()
    if data:
        server.receive_data(data)
    server.receive_eof()
    assert server.state is State.CLOSED
    assert type(server.handshake_exc) is e.InvalidMessage
    assert type(server.handshake_exc.__cause__) is EOFError
    assert output(server) == [b""]
    assert type(server.close_exc) is e.ConnectionClosedError


def test_end_of_stream_before_the_answer():
    server = ServerProtocol()
    request = received(server, head())
    server.receive_eof()
    response = server.accept(request)
    with pytest.raises(e.InvalidState, match="connection is closed"):
        server.send_response(response)
    assert output(server) == [b""]


def test_unexpected_error(caplog):
    server = ServerProtocol(select_subprotocol=lambda protocol, offered: 1 / 0)
    response = server.accept(received(server, head()))
    assert response.status_code == 500
    assert response.body == (
        b"Failed to open a WebSocket connection.\nSee server log for more information.\n"
    )
    assert type(server.handshake_exc) is ZeroDivisionError
    (record,) = caplog.records
    assert record.getMessage() == "opening handshake failed"
    assert record.name == "wsproto_fast.server"
    assert record.exc_info[0] is ZeroDivisionError


def test_reject():
    server = ServerProtocol()
    received(server, head())
    response = server.reject(404, "café\n")
    assert (response.status_code, response.reason_phrase) == (404, "Not Found")
    assert response.body == "café\n".encode()
    assert response.headers["Content-Length"] == "6"
    assert server.handshake_exc is None
    server.send_response(response)
    assert output(server)[-1] == b""
    assert server.state is State.CONNECTING
    with pytest.raises(e.InvalidState, match="answered already"):
        server.send_response(response)
    assert output(server) == []
    with pytest.raises(ValueError, match="999"):
        server.reject(999, "")


def test_responses_of_other_makes():
    server = ServerProtocol()
    received(server, head())
    server.send_response(Response(302, "Found", Headers(Location="/x"), b"go"))
    assert output(server) == [b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\ngo", b""]


def test_second_answer():
    server = ServerProtocol()
    response = server.accept(received(server, head()))
    server.send_response(response)
    with pytest.raises(AssertionError, match="connection is open"):
        server.send_response(response)


def test_server_header():
    server = ServerProtocol(server_header="Server/1", subprotocols=["a"])
    request = received(server, head(extra=[("Sec-WebSocket-Protocol", "a")]))
    assert list(server.accept(request).headers.raw_items())[-2:] == [
        ("Sec-WebSocket-Protocol", "a"),
        ("Server", "Server/1"),
    ]
    assert server.reject(503, "").headers["Server"] == "Server/1"


@pytest.mark.parametrize(
    ("origins", "origin", "accepted"),
    [
        (None, "x", True),
        (None, None, True),
        ([None], None, True),
        ([None], "x", False),
        (["a", "b"], "b", True),
        (["a"], "A", False),
        ([re.compile(r"http://(a|b)\.c")], "http://a.c", True),
        ([re.compile(r"http://(a|b)\.c")], "http://a.c.d", False),
        ([re.compile("")], None, False),
        ([], "a", False),
    ],
)
def test_origins(origins, origin, accepted):
    server = ServerProtocol(origins=origins)
    request = received(server, head(extra=[] if origin is None else [("Origin", origin)]))
    assert server.accept(request).status_code == (101 if accepted else 403)
    assert server.origin == (origin if accepted else None)


@pytest.mark.parametrize(
    ("supported", "offered", "chosen"),
    [
        (None, ["a"], None),
        (None, [], None),
        ([], ["a"], None),
        (["a", "b"], ["b, a"], "a"),
        (["a", "b"], ["c", "b"], "b"),
        (["A", "a"], ["a"], "a"),
    ],
)
def test_subprotocols(supported, offered, chosen):
    server = ServerProtocol(subprotocols=supported)
    request = received(server, head(extra=[("Sec-WebSocket-Protocol", value) for value in offered]))
    response = server.accept(request)
    assert response.status_code == 101
    assert response.headers.get("Sec-WebSocket-Protocol") == chosen
    assert server.subprotocol == chosen


def test_own_choice_of_subprotocol():
    calls = []

    def select(protocol, offered):
        calls.append((protocol, offered))
        return "not-offered"

    server = ServerProtocol(subprotocols=["a"], select_subprotocol=select)
    response = server.accept(received(server, head(extra=[("Sec-WebSocket-Protocol", "x, y")])))
    assert response.headers["Sec-WebSocket-Protocol"] == "not-offered"
    assert calls == [(server, ["x", "y"])]
    assert server.select_subprotocol(["z"]) == "not-offered"


def test_choice_of_subprotocol_by_the_connection():
    class Connection:
        def select(self, offered):
            return offered[1]

    server = ServerProtocol(select_subprotocol=Connection.select)
    connection = Connection()
    server.attach_to(connection)
    response = server.accept(received(server, head(extra=[("Sec-WebSocket-Protocol", "x, y")])))
    assert response.headers["Sec-WebSocket-Protocol"] == "y"
    gone = weakref.ref(connection)
    del connection
    assert gone() is None


@pytest.mark.parametrize("choice", ["a\r\nB: c", "a b", "a, b", "", "\xe9"])
def test_choice_of_subprotocol_that_is_no_token(choice):
    server = ServerProtocol(select_subprotocol=lambda protocol, offered: choice)
    response = server.accept(received(server, head()))
    assert response.status_code == 500
    assert type(server.handshake_exc) is ValueError
    assert server.subprotocol is None
    assert choice not in response.serialize().decode("latin-1") or not choice.strip("\xe9")


@pytest.mark.parametrize("name", ["a\r\nB: c", "a b", "a, b", "", "\xe9"])
def test_extensions_that_are_no_tokens(name):
    for factory in (Factory(name), Factory("a", [(name, None)]), Factory("a", [("x", name)])):
        client = ClientProtocol(parse_uri("ws://h/"), extensions=[factory])
        with pytest.raises(ValueError):
            client.connect()
        assert output(client) == []


@pytest.mark.parametrize(
    ("factories", "offers", "answer", "names"),
    [
        (None, ["a"], None, []),
        ([], ["a"], None, []),
        ([Factory("a")], [], None, []),
        ([Factory("a")], ["b, a; x"], None, []),
        ([Factory("a")], ["b, a"], "a; answered", ["a"]),
        (
            [Factory("a"), Factory("b", [("x", "1")])],
            ['b; x="1"', "a"],
            "b; x=1; answered, a; answered",
            ["b", "a"],
        ),
        ([Factory("a", [("x", None)]), Factory("a")], ["a"], "a; answered", ["a"]),
        ([Factory("a"), Factory("a", [("x", None)])], ["a; y, a; x"], "a; x; answered", ["a"]),
    ],
)
def test_extensions(factories, offers, answer, names):
    for _ in range(2):  # results of earlier parsing must not be affected by factories
        server = ServerProtocol(extensions=factories)
        request = received(
            server, head(extra=[("Sec-WebSocket-Extensions", offer) for offer in offers])
        )
        response = server.accept(request)
        assert response.headers.get("Sec-WebSocket-Extensions") == answer
        server.send_response(response)
        assert [extension.name for extension in server.extensions] == names


# Server: time


def test_timeout_within_the_request():
    server = ServerProtocol()
    server.set_timeouts(open_timeout=10, now=100.0)
    server.receive_data(head()[:5], now=101.0)
    assert server.timeout_response().status_code == 408
    server.handle_timeout(now=110.0)
    sent = output(server)
    assert sent[0].startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert sent[-1] == b""
    assert type(server.handshake_exc) is TimeoutError
    assert server.transport_action == 2


@pytest.mark.parametrize("data", [b"", head()])
def test_timeout_outside_the_request(data):
    server = ServerProtocol()
    server.set_timeouts(open_timeout=10, now=100.0)
    if data:
        server.receive_data(data, now=101.0)
    assert server.timeout_response() is None
    server.handle_timeout(now=110.0)
    assert output(server) == []
    assert type(server.handshake_exc) is TimeoutError
    assert server.transport_action == 3


def test_time_of_the_answer_starts_the_keepalive():
    server = ServerProtocol()
    server.set_timeouts(open_timeout=10, ping_interval=20, now=100.0)
    request = received(server, head())
    server.send_response(server.accept(request), now=105)
    assert server.next_timeout() == 125.0


# Client


def connect(**kwargs):
    client = ClientProtocol(parse_uri("ws://example.com/"), **kwargs)
    client.send_request(client.connect())
    output(client)
    return client


ANSWER = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Accept": None}


@pytest.mark.parametrize("received, action", [(b"", activity.CLOSE), (b"GET", activity.HALF_CLOSE)])
def test_refused_before_there_is_a_request(received, action):
    server = ServerProtocol()
    server.receive_data(received, 0.0)
    server.send_response(server.reject(503, "Server is shutting down.\n"), 1.0)
    assert server.data_to_send()[0].startswith(b"HTTP/1.1 503 ")
    assert server.transport_action == action


def answer(client, extra=(), start="HTTP/1.1 101 Switching Protocols", **changes):
    base = ANSWER | {"Sec-WebSocket-Accept": accept_key(client.key)}
    return head(start, extra, base, **changes)


@pytest.mark.parametrize(
    ("uri", "kwargs", "path", "items"),
    [
        ("ws://h", {}, "/", [("Host", "h"), None]),
        ("wss://h:443/a?b", {}, "/a?b", [("Host", "h"), None]),
        ("ws://[::1]:443", {}, "/", [("Host", "[::1]:443"), None]),
        (
            "ws://u:p@h/",
            {"origin": "o"},
            "/",
            [("Host", "h"), ("Authorization", "Basic dTpw"), ("Origin", "o"), None],
        ),
        ("ws://h/", {"extensions": [], "subprotocols": []}, "/", [("Host", "h"), None]),
        (
            "ws://h/",
            {
                "extensions": [Factory("e", [("x", "1")]), Factory("f")],
                "subprotocols": ["a", "b"],
            },
            "/",
            [
                ("Host", "h"),
                None,
                ("Sec-WebSocket-Extensions", "e; x=1, f"),
                ("Sec-WebSocket-Protocol", "a, b"),
            ],
        ),
    ],
)
def test_request(uri, kwargs, path, items):
    client = ClientProtocol(parse_uri(uri), **kwargs)
    assert (client.side, client.state) == (Side.CLIENT, State.CONNECTING)
    common = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", client.key),
        ("Sec-WebSocket-Version", "13"),
    ]
    place = items.index(None)
    request = client.connect()
    assert request == Request(path, Headers([*items[:place], *common, *items[place + 1 :]]))
    assert list(request.headers.raw_items()) == [*items[:place], *common, *items[place + 1 :]]
    assert output(client) == []
    client.send_request(request)
    assert output(client) == [request.serialize()]


def test_keys_are_random_nonces():
    keys = {ClientProtocol(parse_uri("ws://h/")).key for _ in range(50)}
    assert len(keys) == 50
    assert {len(base64.b64decode(key, validate=True)) for key in keys} == {16}


def test_accept_key():
    assert accept_key(KEY) == ACCEPT


def test_origin_that_would_split_the_request():
    with pytest.raises(e.InvalidHeaderValue):
        ClientProtocol(parse_uri("ws://h/"), origin="a\r\nB: c").connect()


@pytest.mark.parametrize("rest", [b"", b"\x81\x05hello"])
def test_good_response(rest):
    for size in (1, 7, 1000):
        client = connect()
        data = answer(client, [("A", "b")]) + rest
        for start in range(0, len(data), size):
            client.receive_data(data[start : start + size])
        assert client.state is State.OPEN
        assert client.handshake_exc is None
        response, *frames = client.events_received()
        assert response.status_code == 101
        assert response.headers["A"] == "b"
        assert [bytes(frame.data) for frame in frames] == ([b"hello"] if rest else [])
        assert output(client) == []


EXTENSIONS = [Factory("e"), Factory("e", [("x", None)]), Factory("f")]

# Keyword arguments of the client, changes of the answer, exception and its text.
WRONG_ANSWERS = [
    ({}, {"Connection": None}, e.InvalidUpgrade, "missing Connection header"),
    ({}, {"Connection": "a, b"}, e.InvalidUpgrade, "invalid Connection header: a, b"),
    (
        {},
        {"Connection": "("},
        e.InvalidHeaderFormat,
        "invalid Connection header: expected token at 0 in (",
    ),
    ({}, {"Upgrade": None}, e.InvalidUpgrade, "missing Upgrade header"),
    ({}, {"Upgrade": "h2c"}, e.InvalidUpgrade, "invalid Upgrade header: h2c"),
    (
        {},
        {"extra": [("Upgrade", "websocket")]},
        e.InvalidUpgrade,
        "invalid Upgrade header: websocket, websocket",
    ),
    ({}, {"Sec_WebSocket_Accept": None}, e.InvalidHeader, "missing Sec-WebSocket-Accept header"),
    (
        {},
        {"extra": [("Sec-WebSocket-Accept", "x")]},
        e.InvalidHeader,
        "invalid Sec-WebSocket-Accept header: multiple values",
    ),
    (
        {},
        {"Sec_WebSocket_Accept": ACCEPT},
        e.InvalidHeaderValue,
        f"invalid Sec-WebSocket-Accept header: {ACCEPT}",
    ),
    (
        {},
        {"extra": [("Sec-WebSocket-Extensions", "e")]},
        e.NegotiationError,
        "no extensions supported",
    ),
    (
        {"extensions": EXTENSIONS},
        {"extra": [("Sec-WebSocket-Extensions", "g")]},
        e.NegotiationError,
        "Unsupported extension: name = g, params = []",
    ),
    (
        {"extensions": EXTENSIONS},
        {"extra": [("Sec-WebSocket-Extensions", "e; y=1")]},
        e.NegotiationError,
        "Unsupported extension: name = e, params = [('y', '1')]",
    ),
    (
        {"extensions": EXTENSIONS},
        {"extra": [("Sec-WebSocket-Extensions", "f, f")]},
        e.NegotiationError,
        "Unsupported extension: name = f, params = []",
    ),
    (
        {"extensions": EXTENSIONS},
        {"extra": [("Sec-WebSocket-Extensions", "(")]},
        e.InvalidHeaderFormat,
        "invalid Sec-WebSocket-Extensions header: expected token at 0 in (",
    ),
    (
        {},
        {"extra": [("Sec-WebSocket-Protocol", "a")]},
        e.NegotiationError,
        "no subprotocols supported",
    ),
    (
        {"subprotocols": ["a"]},
        {"extra": [("Sec-WebSocket-Protocol", "b")]},
        e.NegotiationError,
        "unsupported subprotocol: b",
    ),
    (
        {"subprotocols": ["a", "b"]},
        {"extra": [("Sec-WebSocket-Protocol", "a"), ("Sec-WebSocket-Protocol", "b")]},
        e.InvalidHeader,
        "invalid Sec-WebSocket-Protocol header: multiple values: a, b",
    ),
]


@pytest.mark.parametrize(("kwargs", "changes", "error", "text"), WRONG_ANSWERS)
def test_wrong_answers(kwargs, changes, error, text):
    client = connect(**kwargs)
    client.receive_data(answer(client, **changes) + b"\x81\x05hello")
    assert type(client.handshake_exc) is error
    assert str(client.handshake_exc) == text
    assert client.state is State.CONNECTING
    assert client.close_expected()
    (response,) = client.events_received()
    assert response.status_code == 101
    assert output(client) == [b""]
    client.receive_eof()
    assert client.state is State.CLOSED
    assert type(client.handshake_exc) is error


@pytest.mark.parametrize("status", [200, 204, 301, 404, 503])
def test_other_status(status):
    client = connect()
    body = b"" if status == 204 else b"abc"
    data = answer(client, [("Content-Length", str(len(body)))], start=f"HTTP/1.1 {status} Reason")
    client.receive_data(data + body[:1])
    client.receive_data(body[1:] + b"dropped")
    (response,) = client.events_received()
    assert (response.status_code, response.reason_phrase, response.body) == (status, "Reason", body)
    assert type(client.handshake_exc) is e.InvalidStatus
    assert client.handshake_exc.response is response
    assert output(client) == [b""]


def test_body_that_ends_with_the_stream():
    client = connect()
    client.receive_data(b"HTTP/1.1 404 Not Found\r\n\r\nab")
    client.receive_data(b"c")
    assert client.handshake_exc is None
    client.receive_eof()
    (response,) = client.events_received()
    assert response.body == b"abc"
    assert type(client.handshake_exc) is e.InvalidStatus
    assert client.state is State.CLOSED


def test_interim_responses(caplog):
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    for pieces in (1, 1000):
        caplog.clear()
        client = connect()
        data = interim + answer(client) + b"\x81\x02hi"
        size = len(data) // pieces + 1
        with caplog.at_level("DEBUG", "wsproto_fast.client"):
            for start in range(0, len(data), size):
                client.receive_data(data[start : start + size])
        response, frame = client.events_received()
        assert response.status_code == 101
        assert frame.data == b"hi"
        assert client.state is State.OPEN
        lines = [record.getMessage() for record in caplog.records]
        assert "< HTTP/1.1 100 Continue" in lines
        assert "< Link: </a>" in lines
        assert lines.count("- skipped an interim response") == 2


def test_interim_responses_without_end():
    client = connect()
    client.receive_data(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
    assert type(client.handshake_exc) is e.InvalidMessage
    assert type(client.handshake_exc.__cause__) is e.SecurityError
    client = connect()
    client.receive_data(b"HTTP/1.1 100 Continue\r\n\r\n")
    client.receive_eof()
    assert type(client.handshake_exc.__cause__) is EOFError


UNFINISHED = [
    (b"", b"ab"),
    (b"Content-Length: 5\r\n", b"ab"),
    (b"Transfer-Encoding: chunked\r\n", b"2\r\nab\r\n"),
    (b"Transfer-Encoding: chunked\r\n", b"5\r\nab"),
]


@pytest.mark.parametrize(("headers", "body"), UNFINISHED)
def test_body_that_does_not_end(headers, body):
    client = ClientProtocol(parse_uri("ws://example.com/"))
    client.set_timeouts(close_timeout=10, now=100.0)
    client.send_request(client.connect())
    client.receive_data(b"HTTP/1.1 403 Forbidden\r\n" + headers + b"\r\n", now=101.0)
    assert client.next_timeout() == 101.0 + http11.BODY_PART_TIMEOUT
    client.receive_data(body, now=101.5)
    assert client.next_timeout() == 101.5 + http11.BODY_PART_TIMEOUT
    client.handle_timeout(102.0)
    assert client.events_received() == []
    assert client.handle_timeout(102.5)
    (response,) = client.events_received()
    assert (response.status_code, response.body) == (403, b"ab")
    assert type(client.handshake_exc) is e.InvalidStatus
    assert client.handshake_exc.response is response
    assert client.close_expected()
    assert client.next_timeout() == 112.5
    client.receive_data(b"more", now=103.0)
    assert client.events_received() == []


def test_body_that_comes_slowly():
    client = ClientProtocol(parse_uri("ws://example.com/"))
    client.set_timeouts(now=100.0)
    client.send_request(client.connect())
    client.receive_data(b"HTTP/1.1 403 Forbidden\r\n\r\n", now=100.0)
    now, size = 100.0, 0
    while client.handshake_exc is None:
        now, size = now + 0.5, size + 1
        client.receive_data(b"x", now=now)
        client.handle_timeout(now)
    assert now == 100.0 + http11.BODY_TIMEOUT
    assert client.handshake_exc.response.body == b"x" * size


def test_body_after_the_opening_timeout():
    client = ClientProtocol(parse_uri("ws://example.com/"))
    client.set_timeouts(open_timeout=0.5, now=100.0)
    client.send_request(client.connect())
    client.receive_data(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\na", now=100.1)
    assert client.next_timeout() == 100.5
    client.handle_timeout(100.5)
    assert client.handshake_exc.response.body == b"a"


def test_opening_timeout_before_the_body():
    client = ClientProtocol(parse_uri("ws://example.com/"))
    client.set_timeouts(open_timeout=0.5, now=100.0)
    client.send_request(client.connect())
    client.receive_data(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n", now=100.1)
    client.handle_timeout(100.5)
    assert type(client.handshake_exc) is TimeoutError


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"SSH-2.0\r\n", ValueError),
        (b"HTTP/1.0 101 Switching Protocols\r\n", ValueError),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 9999999\r\n\r\n", e.SecurityError),
        (b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: gzip\r\n\r\n", NotImplementedError),
        (b"HTTP/1.1 101 \r\n" + LONG, e.HeaderLineTooLong),
        (b"HTTP/1.1 101 \r\n" + b"a: b\r\n" * 129, e.TooManyHeaders),
        (b"", EOFError),
        (b"HTTP/1.1 101", EOFError),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nab", EOFError),
    ],
)
def test_unparseable_responses(data, cause):
    client = connect()
    if data:
        client.receive_data(data)
    client.receive_eof()
    assert type(client.handshake_exc) is e.InvalidMessage
    assert str(client.handshake_exc) == "did not receive a valid HTTP response"
    assert type(client.handshake_exc.__cause__) is cause
    assert client.events_received() == []
    assert output(client) == [b""]


def test_status_line_too_long():
    client = connect()
    client.receive_data(b"HTTP/1.1 200 " + LONG)
    assert type(client.handshake_exc) is e.StatusLineTooLong


def test_request_in_the_wrong_state():
    client = connect()
    request = client.connect()
    client.receive_data(answer(client))
    with pytest.raises(e.InvalidState, match="connection is open"):
        client.send_request(request)


def test_negotiated():
    client = connect(extensions=EXTENSIONS, subprotocols=["a", "b"])
    client.receive_data(
        answer(
            client,
            [("Sec-WebSocket-Extensions", "f, e;x"), ("Sec-WebSocket-Protocol", "b")],
        )
    )
    assert client.handshake_exc is None
    assert client.state is State.OPEN
    assert [extension.name for extension in client.extensions] == ["f", "e"]
    assert client.subprotocol == "b"


# Subclasses, logs, memory, peers


def test_subclasses_in_python():
    class Server(ServerProtocol):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.steps = []

        def process_origin(self, headers):
            self.steps.append("origin")
            return super().process_origin(headers)

        def process_extensions(self, headers):
            self.steps.append("extensions")
            return "own", [Extension("own")]

        def process_subprotocol(self, headers):
            self.steps.append("subprotocol")
            return "own"

    class Client(ClientProtocol):
        def process_extensions(self, headers):
            return [Extension(value) for value in headers.get_all("Sec-WebSocket-Extensions")]

        def process_subprotocol(self, headers):
            return headers["Sec-WebSocket-Protocol"]

    client = Client(parse_uri("ws://h/"), origin="o")
    client.own = 1
    client.send_request(client.connect())
    server = Server()
    request = received(server, b"".join(output(client)))
    server.send_response(server.accept(request))
    client.receive_data(b"".join(output(server)))
    assert client.state is server.state is State.OPEN
    assert client.subprotocol == server.subprotocol == "own"
    assert client.extensions[0].name == server.extensions[0].name == "own"
    assert server.steps == ["origin", "extensions", "subprotocol"]
    assert server.origin == "o"


def test_own_process_request():
    class Server(ServerProtocol):
        def process_request(self, request):
            if request.path == "/closed":
                raise e.InvalidHandshake("closed")
            return super().process_request(request)

    for path, status in [("/", 101), ("/closed", 400)]:
        server = Server()
        assert server.accept(received(server, head(f"GET {path} HTTP/1.1"))).status_code == status


def test_logs(caplog):
    caplog.set_level(logging.DEBUG)
    client = ClientProtocol(parse_uri("ws://h/"))
    client.send_request(client.connect())
    server = ServerProtocol(logger=logging.getLogger("own"))
    request = received(server, b"".join(output(client)))
    server.send_response(server.accept(request))
    client.receive_data(b"".join(output(server)))
    lines = [(record.name, record.getMessage()) for record in caplog.records]
    for line in [
        ("wsproto_fast.client", "> GET / HTTP/1.1"),
        ("wsproto_fast.client", "> Host: h"),
        ("own", "< GET / HTTP/1.1"),
        ("own", "< Host: h"),
        ("own", "> HTTP/1.1 101 Switching Protocols"),
        ("own", "> Upgrade: websocket"),
        ("own", "= connection is OPEN"),
        ("own", "connection open"),
        ("wsproto_fast.client", "< HTTP/1.1 101 Switching Protocols"),
        ("wsproto_fast.client", "< Upgrade: websocket"),
        ("wsproto_fast.client", "= connection is OPEN"),
    ]:
        assert line in lines


@pytest.mark.parametrize(
    ("data", "debug", "info"),
    [
        (
            head("POST / HTTP/1.1"),
            "! invalid method",
            "connection rejected (405 Method Not Allowed)",
        ),
        (
            head("GET / HTTP/1.0"),
            "! invalid protocol",
            "connection rejected (505 HTTP Version Not Supported)",
        ),
        (head(Upgrade=None), "! invalid upgrade", "connection rejected (426 Upgrade Required)"),
        (head(), "! invalid origin", "connection rejected (403 Forbidden)"),
        (
            head(Sec_WebSocket_Version=None),
            "! invalid handshake",
            "connection rejected (400 Bad Request)",
        ),
        (LONG, "! request line too long", None),
        (b"GET / HTTP/1.1\r\n" + LONG, "! header fields too large", None),
        (b"\r\n", "! no valid HTTP request", None),
    ],
)
def test_logs_of_refusals(caplog, data, debug, info):
    caplog.set_level(logging.DEBUG)
    server = ServerProtocol(origins=["o"])
    server.receive_data(data)
    for request in server.events_received():
        server.send_response(server.accept(request))
    records = {record.getMessage(): record for record in caplog.records}
    assert records[debug].levelno == logging.DEBUG
    assert records[debug].exc_info is not None
    if info is not None:
        assert records[info].levelno == logging.INFO
        assert any(re.fullmatch(r"> \[body\] \(\d+ bytes\)", text) for text in records)


def test_log_of_own_response(caplog):
    caplog.set_level(logging.INFO)
    server = ServerProtocol()
    received(server, head())
    server.send_response(server.reject(404, ""))
    assert [record.getMessage() for record in caplog.records] == [
        "HTTP response sent (404 Not Found)"
    ]


PEER_SERVER = pytest.importorskip("websockets.server")
PEER_CLIENT = pytest.importorskip("websockets.client")
PEER_URI = pytest.importorskip("websockets.uri")


@pytest.mark.parametrize("theirs", ["client", "server"])
@pytest.mark.parametrize("subprotocols", [None, ["b", "a"]])
def test_handshake_with_websockets(theirs, subprotocols):
    uri = "ws://user:pass@example.com:8000/path?query"
    kwargs = {"subprotocols": subprotocols}
    if theirs == "client":
        client = PEER_CLIENT.ClientProtocol(PEER_URI.parse_uri(uri), origin="http://o", **kwargs)
        server = ServerProtocol(origins=["http://o"], check_host=True, **kwargs)
    else:
        client = ClientProtocol(parse_uri(uri), origin="http://o", **kwargs)
        server = PEER_SERVER.ServerProtocol(origins=["http://o"], **kwargs)
    client.send_request(client.connect())
    server.receive_data(b"".join(client.data_to_send()))
    (request,) = server.events_received()
    assert request.path == "/path?query"
    server.send_response(server.accept(request))
    client.receive_data(b"".join(server.data_to_send()))
    (response,) = client.events_received()
    assert response.status_code == 101
    assert client.state.name == server.state.name == "OPEN"
    assert client.subprotocol == server.subprotocol == (subprotocols and "b")
    client.send_text(b"hello")
    server.receive_data(b"".join(client.data_to_send()))
    (frame,) = server.events_received()
    assert bytes(frame.data) == b"hello"


@pytest.mark.parametrize("theirs", ["client", "server"])
def test_refusal_with_websockets(theirs):
    if theirs == "client":
        client = PEER_CLIENT.ClientProtocol(PEER_URI.parse_uri("ws://h/"))
        server = ServerProtocol(origins=["http://o"])
    else:
        client = ClientProtocol(parse_uri("ws://h/"))
        server = PEER_SERVER.ServerProtocol(origins=["http://o"])
    client.send_request(client.connect())
    server.receive_data(b"".join(client.data_to_send()))
    (request,) = server.events_received()
    response = server.accept(request)
    server.send_response(response)
    client.receive_data(b"".join(server.data_to_send()))
    client.receive_eof()
    (event,) = client.events_received()
    assert event.status_code == 403
    assert event.body == response.body
    assert type(client.handshake_exc).__name__ == "InvalidStatus"


def test_same_answers_as_websockets():
    for kwargs, data, *_ in REFUSED:
        if "check_host" in kwargs:
            continue
        ours = ServerProtocol(**kwargs)
        theirs = PEER_SERVER.ServerProtocol(**kwargs)
        answers = []
        for server in (ours, theirs):
            server.receive_data(data)
            (request,) = server.events_received()
            response = server.accept(request)
            answers.append(
                (
                    response.status_code,
                    response.reason_phrase,
                    [
                        item
                        for item in response.headers.raw_items()
                        # Theirs doesn't tell which version it knows.
                        if item[0] not in ("Date", "Sec-WebSocket-Version")
                    ],
                    response.body,
                    type(server.handshake_exc).__name__,
                )
            )
        if b"\xe9" not in data:
            assert answers[0] == answers[1]


def test_accept_value_is_what_the_rfc_says():
    digest = hashlib.sha1((KEY + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
    assert base64.b64encode(digest).decode() == ACCEPT


def test_empty_lists_send_no_headers() -> None:
    client = ClientProtocol(parse_uri("ws://localhost/"), extensions=[], subprotocols=[])
    request = client.connect()
    assert "Sec-WebSocket-Extensions" not in request.headers
    assert "Sec-WebSocket-Protocol" not in request.headers
