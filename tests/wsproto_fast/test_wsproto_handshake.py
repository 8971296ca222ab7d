"""The opening handshake as events, both sides."""

import re
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsproto_fast import Side
from wsproto_fast.wsproto import ConnectionState, ConnectionType, H11Handshake, WSConnection
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
from wsproto_fast.wsproto.extensions import Extension, PerMessageDeflate
from wsproto_fast.wsproto.handshake import (
    client_extensions_handshake,
    server_extensions_handshake,
)
from wsproto_fast.wsproto.utilities import (
    LocalProtocolError,
    RemoteProtocolError,
    generate_accept_token,
    generate_nonce,
    normed_header_dict,
    split_comma_header,
)

from .helpers import TEXT, chopped, frame

CONNECTING, OPEN = ConnectionState.CONNECTING, ConnectionState.OPEN
REJECTING, CLOSED = ConnectionState.REJECTING, ConnectionState.CLOSED
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
TOKEN = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 section 1.3

HEADERS = {
    "Host": "example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY.decode(),
    "Sec-WebSocket-Version": "13",
}


def request(start: str = "GET /chat?x=1 HTTP/1.1", **changes: str | None) -> bytes:
    """Write a request; ``_`` in names stands for ``-``, None leaves a header out."""
    headers: dict[str, str | None] = {**HEADERS}
    headers.update({name.replace("_", "-"): value for name, value in changes.items()})
    lines = [f"{name}: {value}\r\n" for name, value in headers.items() if value is not None]
    return (start + "\r\n" + "".join(lines) + "\r\n").encode()


def server(data: bytes = b"") -> WSConnection:
    connection = WSConnection(ConnectionType.SERVER)
    if data:
        connection.receive_data(data)
    return connection


def client(**options: Any) -> tuple[WSConnection, bytes]:
    """Return a client whose request was sent, and its key."""
    connection = WSConnection(ConnectionType.CLIENT)
    sent = connection.send(Request("example.com", "/", **options))
    match = re.search(rb"Sec-WebSocket-Key: (.*)\r\n", sent)
    assert match is not None
    return connection, match[1]


def response(key: bytes, **changes: str | None) -> bytes:
    headers: dict[str, str | None] = {
        "Upgrade": "WebSocket",
        "Connection": "keep-alive, Upgrade",
        "Sec-WebSocket-Accept": generate_accept_token(key).decode(),
    }
    headers.update({name.replace("_", "-"): value for name, value in changes.items()})
    lines = [f"{name}: {value}\r\n" for name, value in headers.items() if value is not None]
    return b"HTTP/1.1 101 Switching Protocols\r\n" + "".join(lines).encode() + b"\r\n"


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


# --- a client sends


def test_request_of_a_client() -> None:
    connection = WSConnection(ConnectionType.CLIENT)
    sent = connection.send(
        Request(
            host="bücher.example:8080",
            target="/chat?x=1",
            extensions=[PerMessageDeflate(client_no_context_takeover=True)],
            extra_headers=[(b"Origin", b"http://a")],
            subprotocols=["chat", "superchat"],
        )
    )
    assert re.sub(rb"Key: [A-Za-z0-9+/]{22}==\r", rb"Key: ...\r", sent) == (
        b"GET /chat?x=1 HTTP/1.1\r\n"
        b"Host: xn--bcher-kva.example:8080\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Key: ...\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Protocol: chat, superchat\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=15; "
        b"server_max_window_bits=15; client_no_context_takeover\r\n"
        b"Origin: http://a\r\n\r\n"
    )
    assert connection.state is CONNECTING
    assert connection.client is True
    with pytest.raises(LocalProtocolError, match="cannot be sent twice"):
        connection.send(Request("h", "/"))


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Request("h", "/a b"), "invalid request target"),
        (Request("h", ""), "invalid request target"),
        (Request("h", "/\u20ac"), "characters that can't be sent"),
        (Request("h" * 64, "/"), "characters that can't be sent"),
        (Request("h\r\nX: y", "/"), "invalid host"),
        (Request("h", "/", subprotocols=["\u20ac"]), "characters that can't be sent"),
        (Request("h", "/", subprotocols=["a\r\nb"]), "characters that can't be sent"),
        (Request("h", "/", extra_headers=[(b"", b"")]), "invalid name of a header"),
        (AcceptConnection(), "cannot be sent in state ConnectionState.CONNECTING"),
        (RejectConnection(), "cannot be sent in state ConnectionState.CONNECTING"),
        (TextMessage(""), "cannot be sent during the handshake"),
    ],
)
def test_bad_event_of_a_client(event: Event, text: str) -> None:
    connection = WSConnection(ConnectionType.CLIENT)
    with pytest.raises(LocalProtocolError, match=re.escape(text)):
        connection.send(event)
    assert connection.send(Request("h", "/")).startswith(b"GET / HTTP/1.1\r\n")


# --- a client receives


def test_accepted() -> None:
    extension = PerMessageDeflate()
    connection, key = client(subprotocols=["chat"], extensions=[extension])
    answer = response(
        key,
        Sec_WebSocket_Protocol="chat",
        Sec_WebSocket_Extensions='permessage-deflate; server_max_window_bits="10"',
        X_A="b",
    )
    connection.receive_data(answer + frame(Side.CLIENT, TEXT, b"early"))
    assert connection.state is OPEN
    assert list(connection.events()) == [
        AcceptConnection("chat", [extension], [(b"x-a", b"b")]),
        TextMessage("early"),
    ]
    assert extension.enabled()
    assert extension.server_max_window_bits == 10


@given(cuts=st.lists(st.integers(0, 200), max_size=8))
def test_accepted_in_pieces(cuts: list[int]) -> None:
    connection, key = client()
    events: list[Event] = []
    for piece in chopped(response(key) + frame(Side.CLIENT, TEXT, b""), cuts):
        connection.receive_data(piece)
        events += connection.events()
    assert events == [AcceptConnection(), TextMessage("")]


BAD_RESPONSES: dict[str, tuple[dict[str, str | None], str]] = {
    "no Connection": ({"Connection": None}, "Missing header, 'Connection: Upgrade'"),
    "bad Connection": ({"Connection": "close"}, "Missing header, 'Connection: Upgrade'"),
    "no Upgrade": ({"Upgrade": None}, "Missing header, 'Upgrade: websocket'"),
    "bad Upgrade": ({"Upgrade": "h2c"}, "Missing header, 'Upgrade: websocket'"),
    "no token": ({"Sec_WebSocket_Accept": None}, "Bad accept token"),
    "bad token": ({"Sec_WebSocket_Accept": "x"}, "Bad accept token"),
    "subprotocol": ({"Sec_WebSocket_Protocol": "x"}, "unrecognized subprotocol x"),
    "two subprotocols": (
        {"Sec_WebSocket_Protocol": "chat, chat"},
        "invalid Sec-WebSocket-Protocol header: multiple values: chat, chat",
    ),
    "extension": (
        {"Sec_WebSocket_Extensions": "x"},
        "unrecognized extension x",
    ),
    "extension twice": (
        {"Sec_WebSocket_Extensions": "permessage-deflate, permessage-deflate"},
        "Unsupported extension: name = permessage-deflate, params = []",
    ),
    "extension's parameter": (
        {"Sec_WebSocket_Extensions": "permessage-deflate; server_max_window_bits=99"},
        "Unsupported extension: name = permessage-deflate, "
        "params = [('server_max_window_bits', '99')]",
    ),
}


@pytest.mark.parametrize("case", BAD_RESPONSES)
def test_bad_response(case: str) -> None:
    changes, text = BAD_RESPONSES[case]
    connection, key = client(subprotocols=["chat"], extensions=[PerMessageDeflate()])
    with pytest.raises(RemoteProtocolError) as caught:
        connection.receive_data(response(key, **changes))
    assert str(caught.value) == text
    assert caught.value.event_hint == RejectConnection()
    assert connection.state is CONNECTING
    assert connection.connection is None
    assert list(connection.events()) == []


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 101 x\r\n\x00: a\r\n\r\n",
        b"HTTP/1.1 404 x\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 404 x\r\n" + b"A: b\r\n" * 200,
        b"HTTP/1.1 404 " + b"x" * 10000,
        b"",
        None,
    ],
)
def test_not_a_response(data: bytes | None) -> None:
    connection, _ = client()
    with pytest.raises(RemoteProtocolError, match="Bad HTTP message") as caught:
        connection.receive_data(data)
    assert caught.value.event_hint == RejectConnection()


def test_response_without_a_request() -> None:
    connection = WSConnection(ConnectionType.CLIENT)
    with pytest.raises(RemoteProtocolError, match="Bad HTTP message"):
        connection.receive_data(response(KEY))


REJECTIONS = {
    "length": (b"HTTP/1.1 403 Forbidden\r\nA: b\r\nContent-Length: 6\r\n\r\n", b"abcdef", False),
    "chunks": (
        b"HTTP/1.1 403 No\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"3\r\nabc\r\n2;x\r\nde\r\n1\r\nf\r\n0\r\n\r\n",
        False,
    ),
    "end of the stream": (b"HTTP/1.1 403 No\r\nA: b\r\n\r\n", b"abcdef", True),
}


@pytest.mark.parametrize("case", REJECTIONS)
@given(data=st.data())
def test_rejected(case: str, data: st.DataObject) -> None:
    head, body, needs_end = REJECTIONS[case]
    cuts = data.draw(st.lists(st.integers(0, len(head) + len(body)), max_size=8))
    connection, _ = client()
    events: list[Event] = []
    for piece in chopped(head + body, cuts):
        connection.receive_data(piece)
        events += connection.events()
    if needs_end:
        assert connection.state is REJECTING
        connection.receive_data(None)
        events += connection.events()
    rejection, *pieces, end = events
    assert isinstance(rejection, RejectConnection)
    assert rejection.status_code == 403
    assert rejection.has_body
    assert rejection.headers[0] == (b"a", b"b")
    assert all(isinstance(piece, RejectData) and not piece.body_finished for piece in pieces)
    assert b"".join(piece.data for piece in pieces if isinstance(piece, RejectData)) == b"abcdef"
    assert end == RejectData(b"", body_finished=True)
    assert connection.state is CLOSED
    connection.receive_data(b"ignored")
    assert list(connection.events()) == []


def test_rejected_piece_by_piece() -> None:
    connection, _ = client()
    connection.receive_data(b"HTTP/1.1 401 No\r\nContent-Length: 4\r\n\r\n")
    assert list(connection.events()) == [
        RejectConnection(401, [(b"content-length", b"4")], has_body=True)
    ]
    assert connection.state is REJECTING
    connection.receive_data(b"ab")
    assert list(connection.events()) == [RejectData(b"ab", body_finished=False)]
    connection.receive_data(b"cd")
    assert list(connection.events()) == [RejectData(b"cd", False), RejectData(b"", True)]


def test_rejected_without_a_body() -> None:
    connection, _ = client()
    connection.receive_data(b"HTTP/1.1 204 No\r\n\r\n")
    assert list(connection.events()) == [
        RejectConnection(204, [], has_body=True),
        RejectData(b"", body_finished=True),
    ]


def test_interim_responses_are_skipped() -> None:
    # RFC 9110 section 15.2. wsproto says RejectConnection first, and then AcceptConnection.
    connection, _ = client()
    connection.receive_data(b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 \r\n")
    assert list(connection.events()) == []
    connection.receive_data(b"\r\n")
    assert connection.state is CONNECTING
    connection.receive_data(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
    assert [type(event) for event in connection.events()] == [RejectConnection, RejectData]
    connection, _ = client()
    with pytest.raises(RemoteProtocolError, match="Bad HTTP message"):
        connection.receive_data(b"HTTP/1.1 103 Hints\r\n\r\n" * 100)


def test_large_rejection_is_not_kept() -> None:
    connection, _ = client()
    connection.receive_data(b"HTTP/1.1 403 No\r\n\r\n")
    size = 0
    for _ in range(40):
        connection.receive_data(bytes(65536))
        size += sum(len(e.data) for e in connection.events() if isinstance(e, RejectData))
    assert size == 40 * 65536
    connection.receive_data(None)
    assert list(connection.events()) == [RejectData(b"", True)]


def test_cut_rejection() -> None:
    connection, _ = client()
    connection.receive_data(b"HTTP/1.1 403 No\r\nContent-Length: 4\r\n\r\nab")
    with pytest.raises(RemoteProtocolError, match="Bad HTTP message"):
        connection.receive_data(None)


# --- the handshake alone


def test_handshake_object() -> None:
    handshake = H11Handshake(ConnectionType.SERVER)
    assert handshake.client is False
    assert handshake.connection is None
    assert handshake.state is CONNECTING
    assert repr(handshake) == "H11Handshake(client=False, state=ConnectionState.CONNECTING)"
    handshake.receive_data(request())
    assert [type(event) for event in handshake.events()] == [Request]
    handshake.send(AcceptConnection())
    assert handshake.state is OPEN
    assert handshake.connection is not None
    with pytest.raises(LocalProtocolError):
        handshake.send(AcceptConnection())
    handshake.receive_data(frame(Side.SERVER, TEXT, b"x"))
    assert list(handshake.connection.events()) == [TextMessage("x")]


def test_max_size() -> None:
    connection = WSConnection(ConnectionType.SERVER, max_size=10)
    connection.receive_data(request())
    connection.send(AcceptConnection())
    assert connection.connection is not None
    assert connection.connection.max_size == 10


# --- extensions


class Fixed(Extension):
    """An extension that accepts offers in a given way."""

    def __init__(self, name: str, answer: bool | str | None) -> None:
        self.name = name
        self.answer = answer
        self.seen: list[str] = []

    def offer(self) -> bool | str:
        return self.answer or False

    def accept(self, offer: str) -> bool | str | None:
        self.seen.append(offer)
        return self.answer

    def finalize(self, offer: str) -> None:
        if self.answer == "bad":
            raise ValueError("bad answer")
        self.seen.append(offer)


@pytest.mark.parametrize(
    ("offers", "answers", "header"),
    [
        ([], {"a": True}, None),
        (["a"], {"a": True}, b"a"),
        (["a"], {"a": ""}, b"a"),
        (["a; x"], {"a": "y; z=1"}, b"a; y; z=1"),
        (["a"], {"a": None}, None),
        (["a"], {"a": False}, None),
        (["b", "a"], {"a": True, "b": True}, b"b, a"),
        (["a; x", "a; y"], {"a": "1"}, b"a; 1"),
        (["c"], {"a": True}, None),
    ],
)
def test_server_extensions(
    offers: list[str], answers: dict[str, bool | str | None], header: bytes | None
) -> None:
    supported = [Fixed(name, answer) for name, answer in answers.items()]
    assert server_extensions_handshake(offers, supported) == header
    for extension in supported:
        mine = [offer for offer in offers if offer.split(";")[0] == extension.name]
        assert extension.seen == mine[:1]


def test_client_extensions() -> None:
    a, b = Fixed("a", True), Fixed("b", "bad")
    assert client_extensions_handshake([], [a, b]) == []
    assert client_extensions_handshake(["a; x=1"], [a, b]) == [a]
    assert a.seen == ["a; x=1"]
    for answers, text in ((["c"], "unrecognized extension c"), (["b"], "bad answer")):
        with pytest.raises(RemoteProtocolError, match=text) as caught:
            client_extensions_handshake(answers, [a, b])
        assert caught.value.event_hint == RejectConnection()
    with pytest.raises(RemoteProtocolError, match="unrecognized extension a"):
        client_extensions_handshake(["a", "a"], [a, b])


def test_offers_of_a_client() -> None:
    extensions = [Fixed("a", True), Fixed("b", "x=1"), Fixed("c", False)]
    sent = WSConnection(ConnectionType.CLIENT).send(Request("h", "/", extensions=extensions))
    assert b"\r\nSec-WebSocket-Extensions: a, b; x=1\r\n" in sent


# --- utilities


@pytest.mark.parametrize(
    ("value", "elements"),
    [
        (b"", [""]),
        (b"a", ["a"]),
        (b" a , b\t,c", ["a", "b", "c"]),
        (b"a,,b,", ["a", "", "b", ""]),
        (b'a; b="c,d", e', ['a; b="c,d"', "e"]),
        (b'a="\\",", b', ['a="\\","', "b"]),
        (b'a="b, c', ['a="b, c']),
    ],
)
def test_split_comma_header(value: bytes, elements: list[str]) -> None:
    assert split_comma_header(value) == elements


def test_other_utilities() -> None:
    assert generate_accept_token(KEY) == TOKEN
    assert re.fullmatch(rb"[A-Za-z0-9+/]{22}==", generate_nonce())
    assert generate_nonce() != generate_nonce()
    headers: Iterable[tuple[bytes, bytes]] = [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]
    assert normed_header_dict(headers) == {b"a": b"1, 3", b"b": b"2"}
