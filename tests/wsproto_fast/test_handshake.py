"""Opening handshake of both sides: states, subclasses, logs, other implementations."""

import base64
import hashlib
import logging
import re

import pytest

from wsproto_fast import ClientProtocol, ServerProtocol
from wsproto_fast import exceptions as e
from wsproto_fast._handshake import _parse_extension_cached
from wsproto_fast.datastructures import Headers
from wsproto_fast.frames import State
from wsproto_fast.uri import parse_uri

from .handshake_helpers import (
    ACCEPT,
    EXTENSIONS,
    KEY,
    LONG,
    REFUSED,
    Extension,
    answer,
    connect,
    head,
    output,
    received,
)


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


def test_long_offers_are_not_kept():
    """Values that others chose: few are kept, and none that is long."""
    server = ServerProtocol(extensions=EXTENSIONS)
    known = _parse_extension_cached.cache_info()
    for number in range(100):
        value = f"x{number}; a={'b' * 300}"
        server.process_extensions(Headers([("Sec-WebSocket-Extensions", value)]))
    assert _parse_extension_cached.cache_info().misses == known.misses
    assert known.maxsize == 64
