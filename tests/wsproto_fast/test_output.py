"""Bytes that wait to be sent: in which pieces they are taken."""

import ctypes
import gc
import sys

import pytest

from wsproto_fast import Protocol, Side

from .helpers import BINARY, TEXT, Wire, output, parse

LARGE = 40_000


def test_frames_are_taken_whole() -> None:
    protocol = Protocol(Side.SERVER)
    for message in (b"a", b"b" * LARGE, b"c", "d" * LARGE, "é" * LARGE, b"e", b"f"):
        protocol.send(message)
    pieces = protocol.data_to_send()
    assert [len(parse(piece)) for piece in pieces] == [1, 1, 1, 1, 1, 2]
    assert [frame.payload for piece in pieces for frame in parse(piece)] == [
        b"a",
        b"b" * LARGE,
        b"c",
        b"d" * LARGE,
        "é".encode() * LARGE,
        b"e",
        b"f",
    ]


@pytest.mark.parametrize("message", [b"x" * LARGE, "x" * LARGE], ids=["bytes", "str"])
def test_size(message: bytes | str) -> None:
    protocol = Protocol(Side.SERVER)
    protocol.send("before")
    protocol.send(message)
    protocol.send("after")
    assert protocol.output_size == len("before") + len(message) + len("after") + 2 + 4 + 2
    wire = output(protocol)
    assert protocol.output_size == 0
    assert [frame.payload for frame in parse(wire)] == [b"before", b"x" * LARGE, b"after"]
    assert protocol.stats().wire_bytes_sent == len(wire)


@pytest.mark.parametrize("message", [bytearray(b"x" * LARGE), memoryview(bytearray(b"x" * LARGE))])
def test_what_can_change_is_copied(message: bytearray | memoryview) -> None:
    protocol = Protocol(Side.SERVER)
    protocol.send(message)
    message[:] = b"y" * LARGE
    assert parse(output(protocol)) == [Wire(BINARY, b"x" * LARGE)]


def test_subclass_of_str() -> None:
    class Text(str):
        pass

    protocol = Protocol(Side.SERVER)
    protocol.send(Text("x" * LARGE))
    assert parse(output(protocol)) == [Wire(TEXT, b"x" * LARGE)]


def test_clients_mask() -> None:
    protocol = Protocol(Side.CLIENT)
    protocol.send(b"x" * LARGE)
    assert parse(output(protocol)) == [Wire(BINARY, b"x" * LARGE, masked=True)]


def test_parts() -> None:
    protocol = Protocol(Side.SERVER)
    payload = b"x" * LARGE
    messages = [b"a", b"b", payload, "c", "d" * LARGE, "é" * LARGE, b"e", bytearray(LARGE)]
    for message in messages:
        protocol.send(message)
    size = protocol.output_size
    parts = protocol.take_output_parts()
    assert protocol.output_size == 0
    assert protocol.take_output_parts() == []
    assert sum(map(len, parts)) == size == protocol.stats().wire_bytes_sent
    assert any(part is payload for part in parts)
    assert [frame.payload for frame in parse(b"".join(parts))] == [
        message.encode() if isinstance(message, str) else bytes(message) for message in messages
    ]


def test_memory_of_text_among_parts() -> None:
    protocol = Protocol(Side.SERVER)
    protocol.send("".join(["x"] * LARGE))  # that nobody else refers to
    _, part = protocol.take_output_parts()
    gc.collect()
    assert isinstance(part, memoryview)
    assert part.readonly
    assert part == b"x" * LARGE


def test_owner_of_that_memory() -> None:
    protocol = Protocol(Side.SERVER)
    protocol.send("x" * LARGE)
    _, part = protocol.take_output_parts()
    assert isinstance(part, memoryview)
    with pytest.raises(BufferError, match="no text"):
        memoryview(type(part.obj)())
    with pytest.raises(TypeError, match="not writable"):
        (ctypes.c_char * LARGE).from_buffer(part.obj)
    before = sys.getrefcount(None)  # which stays the same where None is immortal
    views = [memoryview(part.obj) for _ in range(1000)]
    assert sys.getrefcount(None) - before < len(views) // 2


def test_parts_of_clients_are_masked() -> None:
    protocol = Protocol(Side.CLIENT)
    protocol.send(b"x" * LARGE)
    (part,) = protocol.take_output_parts()
    assert parse(part) == [Wire(BINARY, b"x" * LARGE, masked=True)]


def test_what_is_given_up_is_forgotten() -> None:
    protocol = Protocol(Side.SERVER)
    protocol.send(b"x" * LARGE)
    protocol.give_up(None, abort=True)
    assert protocol.output_size == 0
    assert output(protocol) == b""
