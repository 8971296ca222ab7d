"""What tests of an open connection have in common."""

import pytest

from wsproto_fast import Close, Protocol, Side

from .helpers import BINARY, CLOSE, CONT, PATHS, PING, PONG, SIDES, TEXT, frame

LIMIT = 1000

both_sides = pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)

all_paths = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)

both_sinks = pytest.mark.parametrize("queue", [False, True], ids=["events", "queue"])


def other(side: Side) -> Side:
    return Side(1 - side)


def close_payload(code: int, reason: str = "") -> bytes:
    return code.to_bytes(2, "big") + reason.encode()


def closed(side: Side, rcvd: Close | None, sent: Close | None) -> Protocol:
    """Return a connection that was closed with these Close frames, ours second."""
    protocol = Protocol(side)
    if rcvd is not None:
        protocol.receive_data(frame(side, CLOSE, rcvd.serialize()))
    elif sent is not None:
        protocol.send_close(sent.code, sent.reason)
    protocol.receive_eof()
    return protocol


# Name, frames (opcode, payload, fin), messages. Every data frame is an event, too.
GOOD: list[tuple[str, list[tuple[int, bytes, bool]], list[str | bytes]]] = [
    ("nothing", [], []),
    ("text", [(TEXT, b"hello", True)], ["hello"]),
    ("empty text", [(TEXT, b"", True)], [""]),
    ("empty binary", [(BINARY, b"", True)], [b""]),
    ("one byte", [(BINARY, b"\xff", True)], [b"\xff"]),
    ("text beyond ASCII", [(TEXT, "žluťoučký 😀".encode(), True)], ["žluťoučký 😀"]),
    ("long ASCII", [(TEXT, b"abcdefghij" * 90, True)], ["abcdefghij" * 90]),
    ("binary that isn't text", [(BINARY, bytes(range(256)), True)], [bytes(range(256))]),
    ("16-bit length", [(BINARY, b"x" * 126, True)], [b"x" * 126]),
    ("message at the limit", [(BINARY, b"x" * LIMIT, True)], [b"x" * LIMIT]),
    ("two", [(TEXT, b"a", True), (BINARY, b"b", True)], ["a", b"b"]),
    ("fragments", [(TEXT, b"a", False), (CONT, b"b", False), (CONT, b"c", True)], ["abc"]),
    ("binary fragments", [(BINARY, b"\x80", False), (CONT, b"\x81", True)], [b"\x80\x81"]),
    ("empty fragments", [(TEXT, b"", False), (CONT, b"", False), (CONT, b"", True)], [""]),
    (
        "character over fragments",
        [(TEXT, b"\xf0", False), (CONT, b"\x9f\x98", False), (CONT, b"\x80", True)],
        ["😀"],
    ),
    (
        "fragments up to the limit",
        [(BINARY, b"x" * 500, False), (CONT, b"y" * 500, True)],
        [b"x" * 500 + b"y" * 500],
    ),
    ("ping", [(PING, b"?", True), (TEXT, b"a", True)], ["a"]),
    ("longest ping", [(PING, b"p" * 125, True)], []),
    ("unsolicited pong", [(PONG, b"!", True), (TEXT, b"a", True)], ["a"]),
    (
        "ping that isn't text inside text",
        [(TEXT, b"a", False), (PING, b"\xff\xfe", True), (CONT, b"b", True)],
        ["ab"],
    ),
    (
        "pings between fragments",
        [
            (TEXT, b"a", False),
            (PING, b"1", True),
            (CONT, b"b", False),
            (PING, b"", True),
            (PONG, b"x", True),
            (CONT, b"c", True),
        ],
        ["abc"],
    ),
    (
        "ping inside a character",
        [(TEXT, b"\xe2", False), (PING, b"\xff", True), (CONT, b"\x82\xac", True)],
        ["€"],
    ),
    (
        "messages after fragments",
        [(TEXT, b"\xc3", False), (CONT, b"\xa9", True), (TEXT, b"b", True), (BINARY, b"c", True)],
        ["é", "b", b"c"],
    ),
]
