"""Bytes that wait to be sent: in which pieces they are taken."""

import ctypes
import gc
import sys
from functools import partial
from typing import Any

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


@pytest.mark.parametrize(
    ("sizes", "name"),
    [
        ([LARGE, 1, 1], "take_output"),
        ([1, LARGE, 600, 600, LARGE, 1, 1], "take_output_parts"),
        ([70_000, 100, 100], "take_output_parts"),
        ([], "send"),
        ([600, 600, 600], "send"),  # which makes more room
        ([5000, 5000, LARGE, 100], "send"),
    ],
)
def test_nothing_is_lost_without_memory(sizes: list[int], name: str) -> None:
    """What fails for lack of memory leaves what there is to send as it was."""
    testcapi = pytest.importorskip("_testcapi", reason="it has allocators fail, and isn't there")
    failures = 0
    for failing in range(40):
        protocol = Protocol(Side.SERVER)
        sent = [(TEXT if size % 200 else BINARY, b"m" * size) for size in sizes]
        for opcode, payload in sent:
            protocol.send(payload.decode() if opcode == TEXT else payload)
        message = b"another one" * 100
        call = partial(getattr(protocol, name), *[message] * (name == "send"))
        waiting = protocol.output_size
        result: Any = None
        failed = False
        try:
            testcapi.set_nomemory(failing, failing + 1)
            result = call()
        except MemoryError:
            failed = True
        finally:
            testcapi.remove_mem_hooks()
        if failed:
            failures += 1
            assert protocol.output_size == waiting
        elif name == "send":
            sent.append((BINARY, message))
        taken = (
            result if isinstance(result, list) else [result] if isinstance(result, bytes) else []
        )
        wire = b"".join([*taken, *protocol.take_output_parts()])
        assert [(frame.opcode, frame.payload) for frame in parse(wire)] == sent
    assert 0 < failures < 40


@pytest.mark.parametrize("name", ["send", "take_output", "take_output_parts"])
@pytest.mark.parametrize(
    "sizes", [[], [1], [600, 600], [LARGE, 600], [70_000, 600], [LARGE, 1, LARGE, 1]]
)
@pytest.mark.parametrize("other", [10, LARGE])
def test_finalizers_may_send(name: str, sizes: list[int], other: int) -> None:
    """In Python 3.11 each allocation may run finalizers, within whatever the engine does."""
    threshold = gc.get_threshold()
    gc.collect()
    gc.freeze()  # what else there is takes its time
    for tracked in range(1, 12):
        protocol = Protocol(Side.SERVER)
        sent = [f"{number}".ljust(size, "m") for number, size in enumerate(sizes)]
        for message in sent:
            protocol.send(message)

        class Sends:
            def __init__(self, protocol: Protocol, sent: list[str]) -> None:
                self.itself, self.protocol, self.sent = self, protocol, sent

            def __del__(self) -> None:
                self.protocol.send("of a finalizer".ljust(other))
                self.sent.append("of a finalizer".ljust(other))

        gc.disable()
        gc.collect()
        Sends(protocol, sent)
        call = partial(getattr(protocol, name), *["another one".ljust(LARGE)] * (name == "send"))
        # What was freed before is used again, and isn't counted.
        kept: Any = [[] for _ in range(200)], [(each, each) for each in range(50)]
        try:
            gc.set_threshold(gc.get_count()[0] + tracked)
            gc.enable()
            result = call()
        finally:
            gc.set_threshold(*threshold)
            gc.enable()
            gc.collect()
        del kept
        if name == "send":
            sent.append("another one".ljust(LARGE))
        taken = {"send": [], "take_output": [result]}.get(name, result)
        wire = b"".join([*taken, *protocol.take_output_parts()])
        assert sorted(frame.payload.decode() for frame in parse(wire)) == sorted(sent)
    gc.unfreeze()
