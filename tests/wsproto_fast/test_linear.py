"""The work that input makes grows as its size does, however it is cut.

Sizes are such that what grows with their square would never be done within a test's time; what is
linear takes a second or two.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from wsapi._shared.authentication import parse_challenges
from wsapi._shared.door import forwarded_for
from wsproto_fast import Protocol, Side
from wsproto_fast.datastructures import Headers
from wsproto_fast.exceptions import InvalidHandshake, InvalidURI
from wsproto_fast.frames import describe_frame
from wsproto_fast.headers import (
    is_valid_host,
    parse_authorization_basic,
    parse_connection,
    parse_extension,
    parse_subprotocol,
    parse_upgrade,
)
from wsproto_fast.http11 import Request
from wsproto_fast.redaction import escape, redact_header, redact_line, redact_url
from wsproto_fast.uri import parse_uri

from .helpers import BINARY, CONT, PING, TEXT, frame, run_apart

LARGE = 4_000_000


def address(header: str) -> object:
    headers = Headers._from_raw_items([("X-Forwarded-For", header)])
    return forwarded_for()(None, Request("/", headers))


# Beginnings, what is repeated, and ends that make all before it useless.
HEADERS: dict[Callable[[str], object], list[tuple[str, str, str]]] = {
    parse_connection: [("", "a", "\0"), ("", ",", "\0"), ("", " ", "\0"), ("", "a,", "\0")],
    parse_upgrade: [("", "a", "/\0"), ("a", "/", ""), ("", "a/a,", "\0")],
    parse_extension: [
        ("", "a", "\0"),
        ("a", ";", ""),
        ("a", "; ", "\0"),
        ("a", ";a", "\0"),
        ("a; b", " ", "\0"),
        ('a; b="', "c", ""),
        ('a; b="', "\\c", ""),
        ('a; b="', "\\", ""),
        ('a; b="', '"', ""),
        ("a, ", "\t ", "\0"),
    ],
    parse_subprotocol: [("", "a", "\0"), ("", ", ", "\0"), ("a", ",", "\0")],
    parse_authorization_basic: [("Basic ", "a", "\0"), ("Basic ", "=", ""), ("", "a", "\0")],
    parse_challenges: [
        ("", "a", "\0"),
        ("", "a ", "\0"),
        ("", "a,", "\0"),
        ("a ", "b", "\0"),
        ("a ", "b=", "\0"),
        ("a ", "=", "\0"),
        ("a b", " ", "\0"),
        ('a b="', "c", ""),
        ('a b="', "\\", ""),
        ('a b="', "\\c", ""),
        ("", "a b,", "\0"),
    ],
    is_valid_host: [
        ("", "a", "/"),
        ("[", "a", ""),
        ("[", ":", "]x"),
        ("", "%aa", "%"),
        ("", "1", ":"),
    ],
    address: [("", ",", ""), ("", "a", ""), ("", " ", ""), ("", '"', ""), ("", ":", "")],
    parse_uri: [
        ("ws://", "a", "\0"),
        ("ws://", "@", ""),
        ("ws://h/", "?", "#"),
        ("ws://", ":", ""),
    ],
    redact_url: [("", "/", "@"), ("", "@", ""), ("a", ":", "@"), ("//", "a", "@"), ("", "//", "@")],
    redact_line: [("", " ", "a"), ("", "a", ""), ("cookie", " ", "a")],
    escape: [("", "\x9b", ""), ("", "a", "")],
}


@pytest.mark.parametrize(
    "parse, begin, unit, end",
    [(parse, *parts) for parse, attacks in HEADERS.items() for parts in attacks],
)
def test_texts(parse: Callable[[str], object], begin: str, unit: str, end: str) -> None:
    text = begin + unit * (LARGE // 4 // len(unit)) + end
    with contextlib.suppress(InvalidHandshake, InvalidURI, ValueError):
        parse(text)


def test_headers_in_logs() -> None:
    for name in ("Cookie", "Origin"):
        assert len(redact_header(name, "://@" * (LARGE // 4))) < LARGE + 9


def test_frames_in_logs() -> None:
    for opcode in (TEXT, BINARY, CONT):
        for data in (b"\x80" * LARGE, "é".encode() * (LARGE // 2), b"\n" * LARGE):
            assert len(describe_frame(opcode, data, False)) < 200


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("side", Side)
def test_message_byte_by_byte(side: Side, opcode: int) -> None:
    """A frame, masked or not, that comes in reads of one byte."""
    protocol = Protocol(side, max_size=None)
    protocol.queue_messages()
    size = LARGE // 4
    for byte in frame(side, opcode, b"a" * size):
        protocol.receive_data(byte.to_bytes())
    message = protocol.next_message()
    assert message is not None
    assert len(message) == size


def test_message_in_fragments_of_a_byte() -> None:
    """With Pings between them."""
    protocol = Protocol(Side.SERVER, max_size=None)
    protocol.queue_messages(None, max_bytes=None, max_fragments=None)
    count = 2**18
    piece = frame(Side.SERVER, CONT, b"a", fin=False) + frame(Side.SERVER, PING)
    protocol.receive_data(frame(Side.SERVER, TEXT, b"a", fin=False))
    for _ in range(count // 64):
        protocol.receive_data(piece * 64)
        protocol.take_output()
    protocol.receive_data(frame(Side.SERVER, CONT))
    assert protocol.next_message() == "a" * (count + 1)


def test_head_byte_by_byte() -> None:
    """A line that is far longer than the limit allows, which is set in another process."""
    printed = run_apart(
        f"""
        import os
        os.environ["WSPROTO_FAST_MAX_LINE_LENGTH"] = "{LARGE}"
        from wsproto_fast import ServerProtocol
        server = ServerProtocol()
        server.receive_data(b"GET / HTTP/1.1\\r\\nHost: localhost\\r\\nX: ")
        for _ in range({LARGE // 2}):
            server.receive_data(b"a")
        server.receive_data(b"\\r\\n\\r\\n")
        [request] = server.events_received()
        print(len(request.headers["X"]))
        """
    )
    assert int(printed) == LARGE // 2
