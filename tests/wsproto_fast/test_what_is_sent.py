"""What our client sends, our server accepts and sees the same; the rest is refused before."""

from __future__ import annotations

import dataclasses

from hypothesis import example, given
from hypothesis import strategies as st

from wsapi.proxy import ConnectProtocol, parse_proxy
from wsproto_fast import ClientProtocol, ServerProtocol, State
from wsproto_fast._http11 import RequestParser
from wsproto_fast.exceptions import InvalidHandshake, InvalidURI
from wsproto_fast.headers import is_valid_host, parse_authorization_basic
from wsproto_fast.uri import WebSocketURI, parse_uri
from wsproto_fast.wsproto import ConnectionType, WSConnection
from wsproto_fast.wsproto.events import AcceptConnection
from wsproto_fast.wsproto.events import Request as RequestEvent
from wsproto_fast.wsproto.utilities import LocalProtocolError

TOKEN = "!#$%&'*+-.^_`|~09azAZ"
NASTY = '\0\t\n\r \x7f\x80\xa0\xff\u0130\u2028\u20ac\ud800"(),/:;<=>?@[\\]{}%#'

tokens = st.text(TOKEN, min_size=1, max_size=5)
texts = st.text(TOKEN + NASTY, max_size=6)
parts = st.one_of(tokens, texts)
hosts = st.one_of(
    st.sampled_from(
        [
            "h",
            "a.b-c.example",
            "127.0.0.1",
            "[::1]",
            "[fe80::1%25eth0]",
            "[v1.x]",
            "b\xfccher.example",
        ]
    ),
    parts,
)
ports = st.one_of(st.just(""), st.integers(0, 70000).map(lambda port: f":{port}"))
user_infos = st.one_of(st.just(""), st.builds("{}:{}@".format, parts, parts))
paths = st.one_of(st.just(""), st.lists(parts, max_size=3).map(lambda p: "/" + "/".join(p)))
queries = st.one_of(st.just(""), parts.map("?{}".format))
uris = st.builds("{}://{}{}{}{}{}".format, st.sampled_from(["ws", "wss"]), user_infos, hosts, ports,
                 paths, queries)  # fmt: skip
header_pairs = st.lists(st.tuples(st.one_of(tokens.map("X-{}".format), texts), parts), max_size=3)

# What refuses an input. A UnicodeError is a ValueError.
REFUSALS = (InvalidURI, InvalidHandshake, ValueError)


def receive(data):
    server = ServerProtocol(check_host=True, extensions=[], subprotocols=None)
    server.receive_data(data)
    assert server.handshake_exc is None
    (request,) = server.events_received()
    return server, request


@given(uris, header_pairs, st.none() | parts, st.lists(parts, max_size=3))
@example("ws://h/a b", [], None, [])
@example("ws://h/\xe9 b", [], None, [])
@example("ws://h/\r\nA: b", [], None, [])
@example("ws://[fe80::1%25eth0]:8/", [], None, [])
@example("ws://u:p@b\xfccher.example:8/?\u20ac", [("X-A", " b ")], "http://o", ["a", "b"])
@example("ws://h/", [("A\r\nB", "c")], None, [])
@example("ws://h/", [("A", "b\r\nC: d")], None, [])
@example("ws://h/", [], "a\r\nb", [])
@example("ws://h/", [], None, ["a, b"])
def test_requests_of_clients(uri, pairs, origin, subprotocols):
    client = None
    try:
        parsed = parse_uri(uri)
        client = ClientProtocol(parsed, origin=origin, subprotocols=subprotocols)
        request = client.connect()
        request.headers.update(pairs)
        client.send_request(request)
    except REFUSALS:
        assert client is None or client.data_to_send() == []
        return
    data = b"".join(client.data_to_send())
    assert data.endswith(b"\r\n\r\n")
    server, seen = receive(data)
    assert (seen.method, seen.path, seen.protocol) == ("GET", parsed.resource_name, "HTTP/1.1")
    assert seen.path.isascii()
    # Blanks around a value aren't part of it (RFC 9110 section 5.5).
    assert list(seen.headers.raw_items()) == [
        (name, value.strip(" \t")) for name, value in request.headers.raw_items()
    ]
    assert is_valid_host(seen.headers["Host"])
    if parsed.user_info is not None:
        credentials = seen.headers.get_all("Authorization")[0]
        assert parse_authorization_basic(credentials) == parsed.user_info
    response = server.accept(seen)
    assert response.status_code == 101, response.body
    assert (server.origin or None) == ((origin or "").strip(" \t") or None)
    server.send_response(response)
    client.receive_data(b"".join(server.data_to_send()))
    assert client.handshake_exc is None
    assert client.state is server.state is State.OPEN


@given(hosts, paths, parts, header_pairs, st.lists(parts, max_size=3))
def test_uris_that_nobody_parsed(host, path, query, pairs, subprotocols):
    client = ClientProtocol(WebSocketURI(False, host, 80, path, query), subprotocols=subprotocols)
    try:
        request = client.connect()
        request.headers.update(pairs)
        client.send_request(request)
    except REFUSALS:
        assert client.data_to_send() == []
        return
    _, seen = receive(b"".join(client.data_to_send()))
    assert seen.path == request.path
    assert len(list(seen.headers.raw_items())) == len(list(request.headers.raw_items()))


@given(hosts, st.one_of(paths, parts), header_pairs, st.lists(parts, max_size=3))
def test_requests_of_the_other_face(host, target, pairs, subprotocols):
    headers = [(name.encode("utf-8", "replace"), value.encode("latin-1", "replace"))
               for name, value in pairs]  # fmt: skip
    client = WSConnection(ConnectionType.CLIENT)
    try:
        data = client.send(
            RequestEvent(host, target, extra_headers=headers, subprotocols=subprotocols)
        )
    except LocalProtocolError:
        return
    server, seen = receive(data)
    assert seen.path == target
    assert server.accept(seen).status_code == 101
    other = WSConnection(ConnectionType.SERVER)
    other.receive_data(data)
    (event,) = other.events()
    assert (event.target, event.subprotocols) == (target, list(dict.fromkeys(subprotocols)))
    client.receive_data(other.send(AcceptConnection()))
    assert [type(event) for event in client.events()] == [AcceptConnection]


@given(uris, user_infos, st.none() | parts)
def test_requests_to_proxies(uri, user_info, user_agent):
    try:
        parsed = parse_uri(uri)
        proxy = parse_proxy("http://proxy:8080")
        if user_info:
            username, _, password = user_info[:-1].partition(":")
            proxy = dataclasses.replace(proxy, username=username, password=password)
        data = ConnectProtocol(proxy, parsed.host, parsed.port, user_agent).request
    except REFUSALS:
        return
    parser = RequestParser()
    assert parser.feed_data(data) == len(data)
    seen = parser.message
    assert seen is not None
    assert seen.method == "CONNECT"
    assert seen.path == seen.headers["Host"]
    assert is_valid_host(seen.path)
    assert {name for name, _ in seen.headers.raw_items()} <= {
        "Host", "User-Agent", "Proxy-Authorization",
    }  # fmt: skip
