"""A server's side of the opening handshake: requests, and what is answered."""

import itertools
import re
import weakref

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsproto_fast import ClientProtocol, ServerProtocol
from wsproto_fast import exceptions as e
from wsproto_fast._handshake import accept_key
from wsproto_fast.datastructures import Headers
from wsproto_fast.frames import Close, Side, State
from wsproto_fast.headers import is_valid_host
from wsproto_fast.http11 import Request, Response
from wsproto_fast.uri import parse_uri

from .handshake_helpers import (
    ACCEPT,
    BASE,
    KEY,
    LONG,
    REFUSED,
    TEXT_FRAME,
    Factory,
    head,
    output,
    received,
)

# Good requests


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


@given(st.text("aZ09.-:%[]@ é/", max_size=6))
@example("a:")
@example(":1")
@example("[::1]:1")
@example("a%20:80")
def test_hosts(host):
    server = ServerProtocol(check_host=True)
    request = Request("/", Headers({**BASE, "Host": host}))
    assert (server.accept(request).status_code == 101) == is_valid_host(host)


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


def test_pipelined_requests():
    """A connection has one request: what follows is frames, or nothing."""
    for accepted in (True, False):
        server = ServerProtocol()
        request = received(server, head() + head())
        response = server.accept(request) if accepted else server.reject(403, "")
        server.send_response(response)
        server.receive_data(head())
        assert server.events_received() == []
        assert server.close_sent == (Close(1002, "reserved bits must be 0") if accepted else None)


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


def test_responses_to_head_have_no_content():
    """RFC 9110 section 9.3.2: what follows the head would be taken for another response."""
    server = ServerProtocol()
    received(server, head("HEAD / HTTP/1.1"))
    response = server.reject(200, "ready")
    server.send_response(response)
    sent, end = output(server)
    assert (sent + b"ready", end) == (response.serialize(), b"")
    assert b"Content-Length: 5" in sent
    assert server.response.body == b"ready"  # as it was given
    server = ServerProtocol()
    received(server, head("HEAD / HTTP/1.1"))
    server.send_response(Response(204, "No Content", Headers()))
    assert output(server) == [b"HTTP/1.1 204 No Content\r\n\r\n", b""]


def test_second_answer():
    server = ServerProtocol()
    response = server.accept(received(server, head()))
    server.send_response(response)
    with pytest.raises(AssertionError, match="connection is open"):
        server.send_response(response)
    server = ServerProtocol()
    received(server, head())
    server.send_response(server.reject(403, "no"))
    output(server)
    with pytest.raises(AssertionError, match="answered already"):
        server.send_response(response)
    assert output(server) == []


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


# Time


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


# Requests that are accepted at once


def taken(data, **settings):
    server = ServerProtocol(**settings)
    server.receive_data(data)
    assert server.take_request()
    return server


OFFERS = {
    "Sec-WebSocket-Protocol": "a, b",
    "Sec-WebSocket-Extensions": "x-1; p",
    "User-Agent": "\xe9",
}
SETTINGS = {
    "subprotocols": ["b"],
    "extensions": [Factory("x-1", [("p", None)])],
    "server_header": "me",
    "check_host": True,
}


@pytest.mark.parametrize("look", [False, True])
@pytest.mark.parametrize(
    ("extra", "settings"), [({}, {}), (OFFERS, SETTINGS), (OFFERS, {"server_header": "me"})]
)
def test_answer(extra, settings, look):
    data = head("GET /a?b=c HTTP/1.1", extra.items())
    other = ServerProtocol(**settings)
    request = received(other, data)
    other.send_response(other.accept(request))

    server = taken(data, **settings)
    before = server.request if look else None
    assert server.response is None
    assert server.answer(5) is None
    assert server.state is State.OPEN
    assert (server.response_status, server.handshake_exc) == (101, None)
    assert server.subprotocol == other.subprotocol
    assert [one.name for one in server.extensions] == [one.name for one in other.extensions]
    assert server.response.serialize() == b"".join(output(server))
    for one in (server, other):
        one.response.headers.pop("Date")
    assert server.response == other.response
    assert [*server.response.headers.raw_items()] == [*other.response.headers.raw_items()]
    assert server.request == request
    assert [*server.request.headers.raw_items()] == [*request.headers.raw_items()]
    assert server.request is (before or server.request)
    server.receive_data(TEXT_FRAME)
    assert [frame.data for frame in server.events_received()] == [b"hello"]


@pytest.mark.parametrize("first", ["request", "response"])
def test_request_and_response_are_made_once(first):
    server = taken(head("GET /path HTTP/1.1"), server_header="me")
    server.answer()
    sent = b"".join(output(server))
    getattr(server, first)
    request, response = server.request, server.response
    assert (request.path, request.method, request.protocol) == ("/path", "GET", "HTTP/1.1")
    assert request.headers == Headers(BASE)
    assert response.serialize() == sent
    request.seen = True
    response.headers["More"] = "x"
    assert server.request is request
    assert server.response is response


def test_a_request_that_somebody_has_seen_stays():
    server = taken(head())
    request = server.request
    request.user = "me"
    del request
    server.answer()
    assert server.request.user == "me"


def test_a_request_that_somebody_has_stays():
    class Server(ServerProtocol):
        def process_request(self, request):
            request.headers["X"] = "y"
            return super().process_request(request)

    server = Server()
    server.receive_data(head())
    assert server.take_request()
    server.answer()
    assert server.request.headers["X"] == "y"
    assert server.response.headers["Sec-WebSocket-Accept"] == ACCEPT


def test_answers_share_what_is_the_same_in_a_second():
    def accepted(key, **settings):
        server = taken(head(Sec_WebSocket_Key=key), **settings)
        server.answer()
        [sent] = output(server)
        assert server.response.serialize() == sent
        return server.response.headers

    for settings in ({}, {"server_header": "me"}, {"server_header": "you"}, {}):
        for key in (KEY, "AAAAAAAAAAAAAAAAAAAAAA=="):
            headers = accepted(key, **settings)
            assert headers.get("Server") == settings.get("server_header")
            assert headers["Sec-WebSocket-Accept"] == accept_key(key)


def test_answer_refuses():
    server = taken(head(Upgrade=None))
    response = server.answer()
    assert response.status_code == 426
    assert server.response is None
    assert server.state is State.CONNECTING
    server.send_response(response)
    assert server.response is response
    assert server.request.path == "/"


def test_answer_in_vain():
    server = ServerProtocol()
    assert not server.take_request()
    with pytest.raises(e.InvalidState, match="no request"):
        server.answer()
    server = taken(head())
    assert not server.take_request()
    server.answer()
    with pytest.raises(e.InvalidState, match="open"):
        server.answer()
    server = taken(head())
    server.receive_eof()
    with pytest.raises(e.InvalidState, match="closed"):
        server.answer()
    assert server.response is None
    assert server.request.path == "/"


def test_what_the_engine_answers_by_itself_is_no_response():
    server = ServerProtocol()
    server.receive_data(b"GET /" + bytes([97]) * 10_000)
    assert server.response_status == 414
    assert server.response is None
    assert server.request is None


@pytest.mark.parametrize("name", ["request", "response"])
def test_request_and_response_can_be_set(name):
    for answer in (False, True):
        server = taken(head())
        if answer:
            server.answer()
        thing = object()
        setattr(server, name, thing)
        assert getattr(server, name) is thing
        other = server.response if name == "request" else server.request
        assert (other is None) == (name == "request" and not answer)
        server.request = server.response = None
        assert server.request is None
        assert server.response is None


def test_answer_with_a_log(caplog):
    caplog.set_level("DEBUG")
    server = taken(head())
    server.answer()
    assert "> HTTP/1.1 101 Switching Protocols" in caplog.text
    assert "connection open" in caplog.text
    assert server.response.serialize() == b"".join(output(server))


def test_settings_that_are_no_headers():
    for settings in ({"server_header": "\xe9"}, {"server_header": "a\tb"}):
        server = taken(head(), **settings)
        server.answer()
        assert server.response.headers["Server"] == settings["server_header"]
        assert server.response.serialize() == b"".join(output(server))
    server = taken(head(), server_header="a\nb")
    with pytest.raises(e.InvalidHeaderValue):
        server.answer()


# Whose it is


def test_a_connection_that_is_held_until_it_is_lost():
    class Connection:
        pass

    connection = Connection()
    reference = weakref.ref(connection)
    chosen = []
    server = ServerProtocol(select_subprotocol=lambda *them: chosen.append(them))
    server.attach_to(connection, until_lost=True)
    del connection
    server.receive_data(head())
    server.take_request()
    server.answer()
    assert chosen == [(reference(), [])]
    chosen.clear()
    assert server.logger.extra["websocket"].__class__ is Connection
    server.connection_lost()
    assert reference() is None


def test_a_connection_is_still_known_when_it_is_lost():
    class Connection:
        pass

    connection = Connection()
    server = ServerProtocol()
    server.attach_to(connection, until_lost=True)
    server.connection_lost()
    server.connection_lost()
    assert server.logger.extra["websocket"] == connection
