"""Requests that open a connection: by any split, against h11, and against RFC 6455 section 4.2.1.

Ours is the stricter parser. What it accepts, h11 accepts, but for Host, which handshakes look at;
what h11 accepts is refused for the reasons in STRICTER.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from typing import Any

import h11

from tests.fuzz.inputs import Input, cut, single_bytes
from wsproto_fast import ServerProtocol, State
from wsproto_fast._http11 import RequestParser
from wsproto_fast.exceptions import SecurityError

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

HEAD = (
    b"GET /chat?x=1 HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
SEEDS = [
    b"\0\0" + HEAD + b"\r\n\x81\x80\0\0\0\0",
    b"\1\1" + HEAD + b"Origin: http://a\r\nSec-WebSocket-Protocol: a, chat\r\n\r\n",
    b"\3\2"
    + HEAD
    + b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n",
    b"\0\3GET / HTTP/1.0\r\nA:\tb \r\n\r\n",
    b"\1\1" + HEAD + b" user:secret@host\r\n\r\n",
    b"\0\3POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
]

# Why ours refuses what h11 accepts.
STRICTER = {
    "bare line feed": rb"(^|[^\r])\n",
    "empty lines before": rb"^\r\n",
    "continued header line": rb"\r\n[ \t]",
    "body": rb"(?i)\r\n(content-length:[ \t]*0*[1-9]|transfer-encoding:)",
    "long Content-Length": rb"(?i)\r\ncontent-length:[ \t]*\d{19}",
    "list of lengths": rb"(?i)\r\ncontent-length:[^\r]*,",
    "control character": rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]",
    "version": rb"^[^\r\n]* HTTP/(0|1\.[2-9]|[2-9])",
    "target": rb"^[^ ]* [^ \r]*[^\x21-\x7e\r ]",
}


def feed(parser: Any, pieces: Iterable[bytes]) -> tuple[Any, int]:
    """Return the message, or the error, or None; and how many bytes were taken."""
    taken = 0
    for piece in pieces:
        try:
            used = parser.feed_data(piece)
        except (ValueError, SecurityError, NotImplementedError) as exc:
            assert not parser.complete
            return exc, 0
        taken += used
        if parser.complete:
            break
        assert used == len(piece)
    return parser.message if parser.complete else None, taken


def same(one: Any, other: Any) -> bool:
    """Compare outcomes; errors quote what was there of a line, without what may be a password."""
    if isinstance(one, Exception) and isinstance(other, Exception):
        texts = sorted((str(exc).partition("***")[0] for exc in (one, other)), key=len)
        return type(one) is type(other) and texts[1].startswith(texts[0].removesuffix("..."))
    if isinstance(one, Exception) or isinstance(other, Exception):
        return False
    return bool(one == other)


def plain(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return headers but for those that h11 rewrites."""
    rewritten = b"content-length", b"transfer-encoding"
    return [(name.lower(), value) for name, value in headers if name.lower() not in rewritten]


def ours_plain(message: Any) -> list[tuple[bytes, bytes]]:
    raw = message.headers.raw_items()
    return plain((name.encode(), value.encode("latin-1")) for name, value in raw)


def check_against_h11(data: bytes, ours: Any) -> None:
    theirs: Any
    if not data:
        return  # to h11, the end
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1_000_000)
    try:
        connection.receive_data(data)
        theirs = connection.next_event()
    except h11.RemoteProtocolError as exc:
        if ours is not None and not isinstance(ours, Exception):
            assert "Host" in str(exc), exc
        return
    if ours is None:
        assert theirs is h11.NEED_DATA or b"\n" in re.sub(rb"\r\n", b"", data)
    elif isinstance(ours, SecurityError):
        pass  # limits differ
    elif isinstance(ours, Exception):
        # Ours may know at once what h11 finds out at the end of the head.
        if isinstance(theirs, h11.Request):
            head = data[: len(data) - len(connection.trailing_data[0])]
            assert any(re.search(why, head) for why in STRICTER.values()), ours
    else:
        assert isinstance(theirs, h11.Request)
        assert theirs.method.decode() == ours.method
        assert theirs.target.decode("latin-1") == ours.path
        assert ours_plain(ours) == plain(theirs.headers)


def server(options: int) -> ServerProtocol:
    from wsproto_fast.extensions.permessage_deflate import ServerPerMessageDeflateFactory

    protocol = ServerProtocol(
        origins=["http://a", None] if options & 1 else None,
        extensions=[ServerPerMessageDeflateFactory()] if options & 2 else None,
        subprotocols=["chat"] if options & 4 else None,
        check_host=bool(options & 8),
    )
    protocol.set_timeouts(open_timeout=10, now=1)
    return protocol


def may_be_accepted(request: Any) -> bool:
    """Tell whether RFC 6455 section 4.2.1 is fulfilled, loosely."""
    headers = request.headers
    tokens = ",".join(headers.get_all("Connection")).lower().split(",")
    upgrade = ",".join(headers.get_all("Upgrade")).lower()
    try:
        key = base64.b64decode(headers["Sec-WebSocket-Key"], validate=True)
    except (LookupError, binascii.Error, ValueError):
        return False
    return (
        request.method == "GET"
        and request.protocol == "HTTP/1.1"
        and "upgrade" in [token.strip(" \t") for token in tokens]
        and "websocket" in upgrade
        and len(key) == 16
        and headers.get_all("Sec-WebSocket-Version") == ["13"]
    )


def handshake(options: int, pieces: Iterable[bytes]) -> tuple[Any, ...]:
    """Answer a request; return all that one can see of it."""
    protocol = server(options)
    request = response = None
    for piece in pieces:
        protocol.receive_data(piece)
        for event in protocol.events_received():
            assert request is None
            request = event
    if request is not None:
        response = protocol.accept(request)
        protocol.send_response(response)
        accepted = response.status_code == 101
        assert accepted is (protocol.state is not State.CONNECTING)
        if accepted:
            assert may_be_accepted(request)
            key = request.headers["Sec-WebSocket-Key"].encode()
            token = base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()
            assert response.headers["Sec-WebSocket-Accept"] == token
    frames = [str(event) for event in protocol.events_received()]
    sent = re.sub(rb"Date: [^\r]*\r\n", b"", b"".join(protocol.data_to_send()))
    if sent and response is not None:
        check_response(sent)
    exc = protocol.handshake_exc
    if request is None and exc is not None:
        assert protocol.transport_action or protocol.state is State.CONNECTING
    protocol.receive_eof()
    assert protocol.state is State.CLOSED
    request_seen = None if request is None else (request.path, list(request.headers.raw_items()))
    return request_seen, frames, sent, protocol.state, type(exc), exc


def check_response(sent: bytes) -> None:
    """See that h11 takes it for one response."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(
        h11.Request(
            method="GET",
            target="/",
            headers=[("Host", "a"), ("Connection", "Upgrade"), ("Upgrade", "websocket")],
        )
    )
    connection.receive_data(sent)
    event = connection.next_event()
    assert isinstance(event, h11.InformationalResponse | h11.Response)


def one_input(data: bytes) -> None:
    source = Input(data)
    options, rng = source.byte(), source.random()
    wire = source.rest()
    whole = feed(RequestParser(), [wire])
    for pieces in (cut(wire, rng), single_bytes(wire)):
        outcome = feed(RequestParser(), pieces)
        assert same(outcome[0], whole[0])
        assert outcome[1] == whole[1] or isinstance(whole[0], Exception)
    check_against_h11(wire, whole[0])
    outcome = handshake(options, [wire])
    for pieces in (cut(wire, rng), single_bytes(wire)):
        other = handshake(options, pieces)
        assert other[:-1] == outcome[:-1] or (
            outcome[-1] is not None and other[3:5] == outcome[3:5]
        )
