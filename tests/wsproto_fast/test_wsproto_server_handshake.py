"""A server's handshake with the interface of wsproto."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsproto_fast import Side
from wsproto_fast.wsproto import ConnectionType, WSConnection
from wsproto_fast.wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto_fast.wsproto.utilities import LocalProtocolError, RemoteProtocolError

from .helpers import TEXT, chopped, frame
from .wsproto_helpers import (
    CLOSED,
    CONNECTING,
    HEADERS,
    KEY,
    OPEN,
    REJECTING,
    TOKEN,
    request,
    server,
)

# --- a server receives


def test_request() -> None:
    connection = server(
        request(
            Sec_WebSocket_Protocol="chat, superchat",
            Sec_WebSocket_Extensions='x; a="b", permessage-deflate; client_max_window_bits,',
            Origin="http://example.com",
            X_Name="caf\u00e9",
        )
        .replace(b"\xc3\xa9", b"\xe9")
        .replace(b"Origin:", b"sec-websocket-PROTOCOL: third\r\nOrigin:")
    )
    assert list(connection.events()) == [
        Request(
            host="example.com",
            target="/chat?x=1",
            extensions=['x; a="b"', "permessage-deflate; client_max_window_bits"],
            extra_headers=[
                (b"upgrade", b"websocket"),
                (b"connection", b"Upgrade"),
                (b"sec-websocket-key", KEY),
                (b"sec-websocket-version", b"13"),
                (b"origin", b"http://example.com"),
                (b"x-name", b"caf\xe9"),
            ],
            subprotocols=["chat", "superchat", "third"],
        )
    ]
    assert list(connection.events()) == []
    assert connection.state is CONNECTING
    assert connection.connection is None
    assert connection.client is False


@given(cuts=st.lists(st.integers(0, 300), max_size=8))
def test_request_in_pieces(cuts: list[int]) -> None:
    connection = server()
    events: list[Event] = []
    for piece in chopped(request(), cuts):
        connection.receive_data(piece)
        events += connection.events()
    assert events == list(server(request()).events())


def test_request_byte_by_byte() -> None:
    connection = server()
    for byte in request():
        assert list(connection.events()) == []
        connection.receive_data(bytes([byte]))
    assert len(list(connection.events())) == 1


BAD_REQUESTS = {
    "not HTTP": (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", "Bad HTTP message", 400, []),
    "garbage header": (request(Origin="a\x00b"), "Bad HTTP message", 400, []),
    "long line": (request(Origin="a" * 10000), "Bad HTTP message", 400, []),
    "many headers": (
        request(**{f"X{i}": "" for i in range(200)}),
        "Bad HTTP message",
        400,
        [],
    ),
    "body": (request(Content_Length="5"), "Bad HTTP message", 400, []),
    "no Host": (request(Host=None), "Bad HTTP message", 400, []),
    "bad Host": (request(Host="a b"), "Bad HTTP message", 400, []),
    "Host without meaning": (request(Host="xn--0"), "Bad HTTP message", 400, []),
    "POST": (request("POST / HTTP/1.1"), "Request method must be GET", 400, []),
    "HTTP/1.0": (request("GET / HTTP/1.0"), "unsupported HTTP version: HTTP/1.0", 505, []),
    "no Connection": (
        request(Connection=None),
        "Missing header, 'Connection: Upgrade'",
        400,
        [],
    ),
    "bad Connection": (
        request(Connection="close"),
        "Missing header, 'Connection: Upgrade'",
        400,
        [],
    ),
    "no Upgrade": (request(Upgrade=None), "Missing header, 'Upgrade: websocket'", 400, []),
    "bad Upgrade": (request(Upgrade="h2c"), "Missing header, 'Upgrade: websocket'", 400, []),
    "no key": (
        request(Sec_WebSocket_Key=None),
        "Missing header, 'Sec-WebSocket-Key'",
        400,
        [],
    ),
    "bad key": (
        request(Sec_WebSocket_Key="Zm9v"),
        "invalid Sec-WebSocket-Key header: Zm9v",
        400,
        [],
    ),
    "no version": (
        request(Sec_WebSocket_Version=None),
        "Missing header, 'Sec-WebSocket-Version'",
        400,
        [(b"Sec-WebSocket-Version", b"13")],
    ),
    "other version": (
        request(Sec_WebSocket_Version="8"),
        "Missing header, 'Sec-WebSocket-Version'",
        426,
        [(b"Sec-WebSocket-Version", b"13")],
    ),
    "bad subprotocol": (
        request(Sec_WebSocket_Protocol="a b"),
        "invalid Sec-WebSocket-Protocol header: expected comma at 2 in a b",
        400,
        [],
    ),
    "comma in a quoted string": (
        request(Sec_WebSocket_Extensions='a; b="c,d"'),
        'invalid Sec-WebSocket-Extensions header: invalid quoted header content at 5 in a; b="c,d"',
        400,
        [],
    ),
    "bad extension": (
        request(Sec_WebSocket_Extensions="a; =b"),
        "invalid Sec-WebSocket-Extensions header: expected token at 3 in a; =b",
        400,
        [],
    ),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_request(case: str) -> None:
    data, text, status_code, headers = BAD_REQUESTS[case]
    connection = server()
    with pytest.raises(RemoteProtocolError) as caught:
        connection.receive_data(data)
    assert str(caught.value) == text
    hint = caught.value.event_hint
    assert hint == RejectConnection(status_code=status_code, headers=headers)
    assert connection.state is CONNECTING
    assert list(connection.events()) == []
    # The hint can be sent.
    answer = connection.send(hint)
    assert answer.startswith(b"HTTP/1.1 %d " % status_code)
    assert connection.state is CLOSED


def test_end_of_the_stream_in_a_request() -> None:
    for end in (None, b""):
        connection = server(request()[:-1])
        with pytest.raises(RemoteProtocolError, match="Bad HTTP message"):
            connection.receive_data(end)
        connection = server()
        connection.receive_data(end)  # nobody wanted anything
        assert list(connection.events()) == []


# --- a server answers


def test_accept() -> None:
    connection = server(request(Sec_WebSocket_Protocol="chat"))
    event = AcceptConnection(subprotocol="chat", extra_headers=[(b"X-A", b"caf\xe9")])
    assert connection.send(event) == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + TOKEN + b"\r\n"
        b"Sec-WebSocket-Protocol: chat\r\n"
        b"X-A: caf\xe9\r\n\r\n"
    )
    assert connection.state is OPEN
    assert connection.connection is not None
    # Whether or not the request was taken.
    assert [type(event) for event in connection.events()] == [Request]


def test_early_frames() -> None:
    early = frame(Side.SERVER, TEXT, b"a") + frame(Side.SERVER, TEXT, b"b")
    connection = server(request() + early[:5])
    connection.receive_data(early[5:9])
    received: list[Event] = []
    for event in connection.events():
        received.append(event)
        if isinstance(event, Request):
            connection.send(AcceptConnection())
    connection.receive_data(early[9:])
    received += connection.events()
    assert "".join(event.data for event in received if isinstance(event, TextMessage)) == "ab"


def test_too_many_early_frames() -> None:
    connection = server(request() + bytes(60000))
    with pytest.raises(RemoteProtocolError, match="too much data") as caught:
        connection.receive_data(bytes(6000))
    assert caught.value.event_hint == RejectConnection()


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (AcceptConnection(subprotocol="other"), "unexpected subprotocol other"),
        (AcceptConnection(extra_headers=[(b"a b", b"")]), "invalid name of a header: b'a b'"),
        (AcceptConnection(extra_headers=[(b"a", b"\r\nb: c")]), "invalid value of header b'a'"),
        (RejectConnection(headers=[(b"a:", b"")]), "invalid name of a header"),
        (RejectConnection(status_code=200 - 1), "invalid status code of a rejection: 199"),
        (RejectConnection(headers=[(b"Content-Length", b"x")], has_body=True), "Content-Length"),
        (RejectData(b""), "cannot be sent in state ConnectionState.CONNECTING"),
        (Request("h", "/"), "cannot be sent in state ConnectionState.CONNECTING"),
        (TextMessage(""), "cannot be sent during the handshake"),
        (CloseConnection(1000), "cannot be sent during the handshake"),
        (Ping(), "cannot be sent during the handshake"),
    ],
)
def test_bad_answer(event: Event, text: str) -> None:
    connection = server(request())
    with pytest.raises(LocalProtocolError, match=re.escape(text)):
        connection.send(event)
    assert connection.state is CONNECTING
    assert connection.send(AcceptConnection()).startswith(b"HTTP/1.1 101 ")


def test_accept_without_a_request() -> None:
    connection = server()
    with pytest.raises(LocalProtocolError, match="before a Request is received"):
        connection.send(AcceptConnection())


def test_reject() -> None:
    connection = server(request())
    assert len(list(connection.events())) == 1
    event = RejectConnection(status_code=403, headers=[(b"X-A", b"b")])
    assert connection.send(event) == (
        b"HTTP/1.1 403 Forbidden\r\nX-A: b\r\ncontent-length: 0\r\n\r\n"
    )
    assert connection.state is CLOSED
    for event_ in (AcceptConnection(), RejectConnection(), RejectData(b"")):
        with pytest.raises(LocalProtocolError):
            connection.send(event_)
    connection.receive_data(b"ignored")
    assert list(connection.events()) == []


def test_reject_with_an_unusual_status() -> None:
    answer = server(request()).send(RejectConnection(status_code=499))
    assert answer.startswith(b"HTTP/1.1 499 \r\n")


def test_reject_with_a_body() -> None:
    connection = server(request())
    head = connection.send(
        RejectConnection(404, headers=[(b"Content-Length", b"5")], has_body=True)
    )
    assert head == b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\n"
    assert connection.state is REJECTING
    assert connection.send(RejectData(b"abc", body_finished=False)) == b"abc"
    for bad, text in ((RejectData(b"def"), "1 bytes too many"), (RejectData(b"d"), "too few")):
        with pytest.raises(LocalProtocolError, match=text):
            connection.send(bad)
    with pytest.raises(LocalProtocolError):
        connection.send(RejectConnection())
    assert connection.state is REJECTING
    assert connection.send(RejectData(b"de")) == b"de"
    assert connection.state is CLOSED
    with pytest.raises(LocalProtocolError):
        connection.send(RejectData(b""))


@pytest.mark.parametrize("headers", [[], [(b"Transfer-Encoding", b"chunked")]])
def test_reject_with_a_body_in_chunks(headers: list[tuple[bytes, bytes]]) -> None:
    connection = server(request())
    head = connection.send(RejectConnection(headers=headers, has_body=True))
    assert head.lower() == b"http/1.1 400 bad request\r\ntransfer-encoding: chunked\r\n\r\n"
    assert connection.send(RejectData(b"x" * 17, body_finished=False)) == (
        b"11\r\n" + b"x" * 17 + b"\r\n"
    )
    assert connection.send(RejectData(b"", body_finished=False)) == b""
    assert connection.send(RejectData(b"y")) == b"1\r\ny\r\n0\r\n\r\n"
    assert connection.state is CLOSED


# --- a request that was received elsewhere


@pytest.mark.parametrize("path", ["/chat?x=1", b"/chat?x=1"])
def test_initiate_upgrade_connection(path: str | bytes) -> None:
    connection = server()
    headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    connection.initiate_upgrade_connection(headers, path)
    assert list(connection.events()) == list(server(request()).events())
    assert connection.send(AcceptConnection()).startswith(b"HTTP/1.1 101 ")


def test_initiate_upgrade_connection_with_text() -> None:
    connection = server()
    headers: Any = list(HEADERS.items())
    connection.initiate_upgrade_connection(headers, "/chat?x=1")
    assert list(connection.events()) == list(server(request()).events())
    for name, value in [("a\u20ac", "b"), ("a", "\u20ac"), ("a b", "c"), ("a", "b\r\nc: d")]:
        with pytest.raises(LocalProtocolError):
            server().initiate_upgrade_connection([*headers, (name, value)], "/")


@pytest.mark.parametrize("path", ["", "/a b", "/a\r\nb", "/\xe9", b"/\xe9"])
def test_initiate_upgrade_connection_with_another_path(path: str | bytes) -> None:
    headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    with pytest.raises(RemoteProtocolError, match="Bad HTTP message"):
        server().initiate_upgrade_connection(headers, path)


# In the order in which programs are told.
FAULTS = [
    ({"Connection": "close"}, 400, "Missing header, 'Connection: Upgrade'"),
    ({"Sec_WebSocket_Version": "11"}, 426, "Missing header, 'Sec-WebSocket-Version'"),
    ({"Sec_WebSocket_Key": None}, 400, "Missing header, 'Sec-WebSocket-Key'"),
    ({"Upgrade": "h2c"}, 400, "Missing header, 'Upgrade: websocket'"),
]


@pytest.mark.parametrize("version", ["11", None])
@pytest.mark.parametrize("first", range(len(FAULTS)))
def test_order_of_faults(first: int, version: str | None) -> None:
    changes: dict[str, str | None] = {}
    for change, _, _ in FAULTS[first:]:
        changes |= change  # type: ignore[arg-type] # values of either kind
    _, status, text = FAULTS[first]
    if "Sec_WebSocket_Version" in changes:
        changes["Sec_WebSocket_Version"] = version
    with pytest.raises(RemoteProtocolError) as caught:
        server(request(**changes))
    assert str(caught.value) == text
    hint = caught.value.event_hint
    assert isinstance(hint, RejectConnection)
    if "Sec-WebSocket-Version" in text:
        assert hint.headers == [(b"Sec-WebSocket-Version", b"13")]
        assert hint.status_code == (400 if version is None else status)
    else:
        assert hint.headers == []
        assert hint.status_code == status


@pytest.mark.parametrize(
    "options",
    [
        {"host": "a b"},
        {"host": "a\r\nb"},
        {"host": "a/b"},
        {"target": "/a b"},
        {"target": "/\r\nA: b"},
        {"target": ""},
        {"subprotocols": ["a b"]},
        {"subprotocols": ["a\r\nb"]},
        {"extra_headers": [(b"a b", b"c")]},
        {"extra_headers": [(b"a", b"b\r\nc: d")]},
    ],
)
def test_requests_that_cant_be_sent(options: dict[str, Any]) -> None:
    connection = WSConnection(ConnectionType.CLIENT)
    with pytest.raises(LocalProtocolError):
        connection.send(Request(**({"host": "h", "target": "/"} | options)))
    assert connection.send(Request("h", "/")).startswith(b"GET / HTTP/1.1\r\n")


def test_initiate_bad_upgrade_connection() -> None:
    with pytest.raises(RemoteProtocolError, match="Bad HTTP message"):
        server().initiate_upgrade_connection([], "/")
    with pytest.raises(LocalProtocolError, match="acting as the client"):
        WSConnection(ConnectionType.CLIENT).initiate_upgrade_connection([], "/")
