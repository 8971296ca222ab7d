"""Responses to an opening handshake, also of proxies: by any split, and against h11.

What ours accepts, h11 accepts; what h11 accepts is refused for the reasons in STRICTER.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import h11

from tests.fuzz.inputs import Input, cut, single_bytes
from tests.fuzz.targets.requests import ours_plain, plain, same
from wsproto_fast import ClientProtocol, ResponseParser, State
from wsproto_fast.exceptions import SecurityError
from wsproto_fast.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from wsproto_fast.uri import parse_uri

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HEAD = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
)
SEEDS = [
    b"\0\0" + HEAD + b"\r\n\x81\x02hi",
    b"\3\1" + HEAD + b"Sec-WebSocket-Protocol: chat\r\n\r\n",
    b"\1\1"
    + HEAD
    + b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9\r\n\r\n",
    b"\0\2HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nabc",
    b"\0\3HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nA: b\r\n\r\n",
    b"\0\3HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\nbody",
    b"\0\3HTTP/1.1 200 OK\r\nA: b \r\n c\r\n\r\nbody",
    b"\4\3HTTP/1.0 200 Connection established\r\n\r\n\x16\x03",
]
STRICTER = {
    "bare line feed": rb"(^|[^\r])\n",
    "empty lines before": rb"^\r\n",
    "control character": rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]",
    "no space behind the status": rb"(^|\n)HTTP/1.1 \d{3}\r\n",
    "version": rb"(^|\n)HTTP/(0|1\.[02-9]|[2-9])",
    "status": rb"(^|\n)HTTP/1\.1 [^1-5]",
    "coding": rb"(?i)\r\ntransfer-encoding:",
    "long Content-Length": rb"(?i)\r\ncontent-length:[ \t]*\d{19}",
    "list of lengths": rb"(?i)\r\ncontent-length:[^\r]*,",
    "chunk": rb"(?i)\r\ntransfer-encoding:[^\r]*chunked",
}


def parse(make: Any, pieces: Iterable[bytes]) -> tuple[Any, int]:
    """Return the message or the error, and how many bytes were taken."""
    parser = make()
    taken = 0
    try:
        for piece in pieces:
            used = parser.feed_data(piece)
            taken += used
            if parser.complete:
                break
            assert used == len(piece)
        if not parser.complete:
            parser.feed_eof()
    except (ValueError, SecurityError, NotImplementedError, EOFError) as exc:
        assert not parser.complete
        return exc, 0
    return parser.message, taken


def check_against_h11(data: bytes, ours: Any) -> None:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1_000_000)
    connection.send(
        h11.Request(
            method="GET",
            target="/",
            headers=[("Host", "a"), ("Connection", "Upgrade"), ("Upgrade", "websocket")],
        )
    )
    connection.send(h11.EndOfMessage())
    head: Any = None
    body = b""
    try:
        if data:
            connection.receive_data(data)
        connection.receive_data(b"")
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Response) or (
                isinstance(event, h11.InformationalResponse) and event.status_code == 101
            ):
                head = event
            if isinstance(event, h11.Data):
                body += event.data
            if event in (h11.NEED_DATA, h11.PAUSED) or isinstance(
                event, h11.EndOfMessage | h11.ConnectionClosed
            ):
                break
        whole = head is not None
    except h11.RemoteProtocolError as exc:
        framing = "Content-Length" in str(exc) or "Transfer-Encoding" in str(exc)
        if framing and not isinstance(ours, Exception):
            # Ours doesn't look at those of responses without a body, interim ones, and trailers.
            assert ours.body == b"" or "Transfer-Encoding" in ours.headers
            return
        whole = False
    if isinstance(ours, SecurityError):
        return  # limits differ
    if isinstance(ours, Exception):
        assert not whole or any(re.search(why, data) for why in STRICTER.values()), ours
        return
    assert whole, "h11 refuses it"
    assert head.status_code == ours.status_code
    assert head.reason.decode("latin-1") == ours.reason_phrase
    assert folded(ours_plain(ours)) == folded(plain(head.headers))
    assert body == ours.body


def folded(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Make one of the blanks around a line's end within a value: h11 keeps those before it."""
    return [(name, re.sub(rb"[ \t]+", b" ", value)) for name, value in headers]


def client(options: int) -> ClientProtocol:
    protocol = ClientProtocol(
        parse_uri("ws://example.com/chat"),
        extensions=[ClientPerMessageDeflateFactory()] if options & 1 else None,
        subprotocols=["chat"] if options & 2 else None,
    )
    protocol.key = KEY
    protocol.set_timeouts(open_timeout=10, now=1)
    protocol.send_request(protocol.connect())
    return protocol


def handshake(options: int, pieces: Iterable[bytes]) -> tuple[Any, ...]:
    protocol = client(options)
    protocol.key = KEY
    protocol.data_to_send()
    for piece in pieces:
        protocol.receive_data(piece)
    state = protocol.state
    protocol.receive_eof()
    events = protocol.events_received()
    assert protocol.state is State.CLOSED
    exc = protocol.handshake_exc
    assert (exc is None) is (state is not State.CONNECTING)
    response = None
    if events and not hasattr(events[0], "opcode"):
        first = events.pop(0)
        response = first.status_code, list(first.headers.raw_items()), first.body
    if state is not State.CONNECTING:
        assert response is not None
        assert response[0] == 101
    else:
        assert events == []
    return response, [str(event) for event in events], state, type(exc), exc


def one_input(data: bytes) -> None:
    source = Input(data)
    options, rng = source.byte(), source.random()
    wire = source.rest()

    def make() -> ResponseParser:
        return ResponseParser(allow_http10=bool(options & 4), read_body=not options & 8)

    whole = parse(make, [wire])
    for pieces in (cut(wire, rng), single_bytes(wire)):
        outcome = parse(make, pieces)
        assert same(outcome[0], whole[0])
        assert outcome[1] == whole[1] or isinstance(whole[0], Exception)
    if not options & 12:
        check_against_h11(wire, whole[0])
    found = handshake(options, [wire])
    for pieces in (cut(wire, rng), single_bytes(wire)):
        assert handshake(options, pieces)[:-1] == found[:-1]
