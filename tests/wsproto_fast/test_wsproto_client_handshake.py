"""A client's handshake with the interface of wsproto."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsproto_fast import Side
from wsproto_fast.wsproto import ConnectionType, WSConnection
from wsproto_fast.wsproto.events import (
    AcceptConnection,
    Event,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto_fast.wsproto.extensions import PerMessageDeflate
from wsproto_fast.wsproto.utilities import LocalProtocolError, RemoteProtocolError

from .helpers import TEXT, chopped, frame
from .wsproto_helpers import CLOSED, CONNECTING, KEY, OPEN, REJECTING, client, response

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


def test_subprotocols_are_offered_once() -> None:
    """RFC 6455 section 4.1: they are unique."""
    connection = WSConnection(ConnectionType.CLIENT)
    sent = connection.send(Request("h", "/", subprotocols=["b", "a", "b"]))
    assert b"\r\nSec-WebSocket-Protocol: b, a\r\n" in sent


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
    "extension's parameter, with a subprotocol": (
        {
            "Sec_WebSocket_Extensions": "permessage-deflate; server_max_window_bits=99",
            "Sec_WebSocket_Protocol": "chat",
        },
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
