"""The opening handshake as events: the object alone, extensions of both sides, utilities."""

import re
from collections.abc import Iterable

import pytest

from wsproto_fast import Side
from wsproto_fast.wsproto import ConnectionType, H11Handshake, WSConnection
from wsproto_fast.wsproto.events import AcceptConnection, RejectConnection, Request, TextMessage
from wsproto_fast.wsproto.extensions import Extension
from wsproto_fast.wsproto.handshake import client_extensions_handshake, server_extensions_handshake
from wsproto_fast.wsproto.utilities import (
    LocalProtocolError,
    RemoteProtocolError,
    generate_accept_token,
    generate_nonce,
    normed_header_dict,
    split_comma_header,
)

from .helpers import TEXT, frame
from .wsproto_helpers import CONNECTING, KEY, OPEN, TOKEN, request

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
    handshake.receive_data(None)  # the end of the stream is for the connection to be told
    assert list(handshake.events()) == list(handshake.connection.events()) == []
    assert handshake.connection.state is OPEN


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
