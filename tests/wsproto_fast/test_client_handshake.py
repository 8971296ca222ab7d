"""A client's side of the opening handshake: the request, and what answers it."""

import base64
import hashlib

import pytest

from wsproto_fast import ClientProtocol, ServerProtocol, activity, http11
from wsproto_fast import exceptions as e
from wsproto_fast._handshake import accept_key
from wsproto_fast.datastructures import Headers
from wsproto_fast.frames import Side, State
from wsproto_fast.http11 import Request
from wsproto_fast.uri import parse_uri

from .handshake_helpers import ACCEPT, EXTENSIONS, KEY, LONG, Factory, answer, connect, output


@pytest.mark.parametrize("received, action", [(b"", activity.CLOSE), (b"GET", activity.HALF_CLOSE)])
def test_refused_before_there_is_a_request(received, action):
    server = ServerProtocol()
    server.receive_data(received, 0.0)
    server.send_response(server.reject(503, "Server is shutting down.\n"), 1.0)
    assert server.data_to_send()[0].startswith(b"HTTP/1.1 503 ")
    assert server.transport_action == action


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
        # RFC 6455 section 4.1: they are unique.
        (
            "ws://h/",
            {"subprotocols": ("b", "a", "b")},
            "/",
            [("Host", "h"), None, ("Sec-WebSocket-Protocol", "b, a")],
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
    [wire] = output(client)
    assert wire == request.serialize()
    assert wire.startswith(f"GET {path} HTTP/1.1\r\n".encode())


def test_keys_are_random_nonces():
    keys = {ClientProtocol(parse_uri("ws://h/")).key for _ in range(50)}
    assert len(keys) == 50
    assert {len(base64.b64decode(key, validate=True)) for key in keys} == {16}


def test_accept_key():
    assert accept_key(KEY) == ACCEPT
    for size in (0, *range(15, 32), 80, 91, 92, 1000):
        key = ("+0aZ/" * 200)[:size]
        digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
        assert accept_key(key) == base64.b64encode(digest).decode()


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
        {"extensions": EXTENSIONS},
        {"extra": [("Sec-WebSocket-Extensions", "f"), ("Sec-WebSocket-Extensions", "g")]},
        e.NegotiationError,
        "Unsupported extension: name = g, params = []",
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
    client.receive_data(b"HTTP/1.1 100 Continue\r\n\r\n" * 16 + answer(client))
    assert client.state is State.OPEN
    client = connect()
    client.receive_data(b"HTTP/1.1 100 Continue\r\n\r\n" * 16 + b"HTTP/1.1 100 C\r\n")
    assert type(client.handshake_exc.__cause__) is e.SecurityError
    client = connect()
    client.receive_data(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
    assert type(client.handshake_exc) is e.InvalidMessage
    assert type(client.handshake_exc.__cause__) is e.SecurityError
    client = connect()
    client.receive_data(b"HTTP/1.1 100 Continue\r\n\r\n")
    client.receive_eof()
    assert type(client.handshake_exc.__cause__) is EOFError


@pytest.mark.parametrize("eof", [False, True])
def test_what_broke_the_connection_is_told(eof: bool) -> None:
    """Such as the alert of TLS 1.3 by which a server refuses a certificate after the handshake."""
    client = ClientProtocol(parse_uri("wss://example.com/"))
    client.send_request(client.connect())
    if eof:
        client.receive_eof()
    broken = OSError("alert")
    client.connection_lost(broken)
    assert type(client.handshake_exc) is e.InvalidMessage
    cause = client.handshake_exc.__cause__
    assert type(cause) is EOFError
    assert cause.__cause__ is broken


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
