"""The buffer that goes with parsers of data that arrives piecemeal."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from wsapi.frames import Frame, Opcode
from wsapi.http11 import Request
from wsapi.streams import StreamReader

WAITS = object()


def step(generator: Generator[None, None, Any]) -> Any:
    """Run a generator up to where it waits; return what it returned."""
    try:
        next(generator)
    except StopIteration as exc:
        return exc.value
    return WAITS


def test_lines() -> None:
    reader = StreamReader()
    reading = reader.read_line(10)
    assert step(reading) is WAITS
    reader.feed_data(b"abc")
    assert step(reading) is WAITS
    reader.feed_data(b"def\ngh")
    assert step(reading) == b"abcdef\n"
    assert step(reader.read_line(10)) is WAITS
    reader.feed_eof()
    with pytest.raises(EOFError, match=r"^stream ends after 2 bytes, before end of line$"):
        step(reader.read_line(10))


@pytest.mark.parametrize("data", [b"abcd", b"abc\n"])
def test_lines_that_are_too_long(data: bytes) -> None:
    reader = StreamReader()
    reader.feed_data(data)
    text = r"^read 4 bytes, expected no more than 3 bytes$"
    with pytest.raises(RuntimeError, match=text):
        step(reader.read_line(3))
    with pytest.raises(KeyError):
        step(reader.read_line(3, KeyError))


def test_numbers_of_bytes() -> None:
    reader = StreamReader()
    reading = reader.read_exact(3)
    reader.feed_data(b"ab")
    assert step(reading) is WAITS
    reader.feed_data(bytearray(b"cd"))
    assert step(reading) == b"abc"
    reader.feed_eof()
    with pytest.raises(EOFError, match=r"^stream ends after 1 bytes, expected 2 bytes$"):
        step(reader.read_exact(2))


def test_the_end() -> None:
    reader = StreamReader()
    reading, asking = reader.read_to_eof(3), reader.at_eof()
    assert (step(reading), step(asking)) == (WAITS, WAITS)
    reader.feed_data(b"abc")
    assert step(reading) is WAITS
    assert step(asking) is False
    reader.feed_eof()
    with pytest.raises(RuntimeError, match=r"^read 3 bytes, expected no more than 2 bytes$"):
        step(reader.read_to_eof(2))
    assert step(reading) == b"abc"
    assert step(reader.at_eof()) is True
    for feed in (reader.feed_eof, lambda: reader.feed_data(b"")):
        with pytest.raises(EOFError, match=r"^stream ended$"):
            feed()


def test_discarding() -> None:
    reader = StreamReader()
    reader.feed_data(b"abc")
    reader.discard()
    reader.feed_eof()
    assert step(reader.read_to_eof(0)) == b""


def test_with_parsers() -> None:
    reader = StreamReader()
    reader.feed_data(b"GET /a HTTP/1.1\r\nHost: b\r\n\r\n")
    assert step(Request.parse(reader.read_line)).path == "/a"
    reader.feed_data(Frame(Opcode.TEXT, b"abc").serialize(mask=False))
    assert step(Frame.parse(reader.read_exact, mask=False)) == Frame(Opcode.TEXT, b"abc")
