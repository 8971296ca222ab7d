"""Callbacks for what is received: messages, and frames without a copy."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wsproto_fast.helpers import frame, through_buffer
from wsproto_fast import Frame, PerMessageDeflate, Protocol, Side, State
from wsproto_fast.activity import ATTENTION
from wsproto_fast.frames import CloseCode, Opcode


def server(**kwargs: Any) -> Protocol:
    return Protocol(Side.SERVER, **kwargs)


def masked(opcode: int, payload: bytes, fin: bool = True, rsv: int = 0) -> bytes:
    return frame(Side.SERVER, opcode, payload, fin=fin, rsv=rsv)


def feed(protocol: Protocol, wire: bytes) -> None:
    """Have it received through the buffer, as transports do it."""
    through_buffer(protocol, [wire])


FEEDS: list[Callable[[Protocol, bytes], object]] = [feed, Protocol.receive_data]

WIRE = b"".join(
    [
        masked(Opcode.TEXT, b"one"),
        masked(Opcode.BINARY, b"\x00\x01two"),
        masked(Opcode.PING, b"are you there"),
        masked(Opcode.TEXT, "drei ⅓ ".encode(), fin=False),
        masked(Opcode.PONG, b""),
        masked(Opcode.CONT, b"und vier"),
        masked(Opcode.BINARY, b""),
        masked(Opcode.TEXT, b""),
        masked(Opcode.BINARY, bytes(range(256)) * 3),
    ]
)
MESSAGES = ["one", b"\x00\x01two", "drei ⅓ und vier", b"", "", bytes(range(256)) * 3]
FRAMES = [
    (1, b"one", True),
    (2, b"\x00\x01two", True),
    (1, "drei ⅓ ".encode(), False),
    (0, b"und vier", True),
    (2, b"", True),
    (1, b"", True),
    (2, bytes(range(256)) * 3, True),
]


def collect_frames(protocol: Protocol) -> list[tuple[int, bytes, bool]]:
    frames: list[tuple[int, bytes, bool]] = []
    protocol.listen(
        on_frame=lambda opcode, payload, fin: frames.append((opcode, bytes(payload), fin))
    )
    return frames


@pytest.mark.parametrize("receive", FEEDS)
def test_messages(receive: Callable[[Protocol, bytes], object]) -> None:
    protocol, messages = server(), list[Any]()
    protocol.listen(messages.append)
    receive(protocol, WIRE)
    assert messages == MESSAGES
    assert [type(message) for message in messages] == [type(message) for message in MESSAGES]
    assert protocol.events_received() == []
    assert b"are you there" in b"".join(protocol.data_to_send())


@pytest.mark.parametrize("receive", FEEDS)
def test_frames(receive: Callable[[Protocol, bytes], object]) -> None:
    protocol = server()
    frames = collect_frames(protocol)
    receive(protocol, WIRE)
    assert frames == FRAMES


@given(st.lists(st.integers(0, len(WIRE)), max_size=30), st.sampled_from(FEEDS))
def test_any_split(cuts: list[int], receive: Callable[[Protocol, bytes], object]) -> None:
    by_message, by_frame = server(), server()
    messages: list[Any] = []
    by_message.listen(messages.append)
    frames = collect_frames(by_frame)
    cuts = [0, *sorted(cuts), len(WIRE)]
    for start, end in itertools.pairwise(cuts):
        receive(by_message, WIRE[start:end])
        receive(by_frame, WIRE[start:end])
    assert messages == MESSAGES
    assert frames == FRAMES


def test_client() -> None:
    protocol = Protocol(Side.CLIENT)
    frames = collect_frames(protocol)
    feed(protocol, frame(Side.CLIENT, Opcode.BINARY, b"plain"))
    assert frames == [(2, b"plain", True)]


def test_payload_lies_in_the_read_buffer() -> None:
    protocol = server()
    memory = bytearray(4096)
    protocol.use_read_buffer(memoryview(memory))
    seen = []

    def on_frame(opcode: int, payload: memoryview, fin: bool) -> None:
        assert payload.obj is memory
        seen.append(memory.index(payload))

    protocol.listen(on_frame=on_frame)
    feed(protocol, masked(Opcode.BINARY, b"first") + masked(Opcode.BINARY, b"second"))
    assert seen == [6, 17]


def test_payload_is_released() -> None:
    protocol, views = server(), list[memoryview]()
    protocol.listen(on_frame=lambda opcode, payload, fin: views.append(payload))
    feed(protocol, masked(Opcode.BINARY, b"first"))
    with pytest.raises(ValueError, match="released"):
        bytes(views[0])


def test_payload_that_is_kept_in_part_reads_from_memory_that_exists() -> None:
    protocol, views = server(), list[memoryview]()
    protocol.listen(on_frame=lambda opcode, payload, fin: views.append(payload[1:]))
    feed(protocol, masked(Opcode.BINARY, b"first"))
    del protocol
    # The helper overwrites the buffer, as the next connection would.
    assert bytes(views[0]) == b"\xff" * 4


def test_queued_messages_come_first() -> None:
    protocol, messages = server(), list[Any]()
    protocol.queue_messages()
    feed(protocol, masked(Opcode.TEXT, b"a") + masked(Opcode.BINARY, b"b", fin=False))
    protocol.listen(messages.append)
    assert messages == ["a"]
    feed(protocol, masked(Opcode.CONT, b"c") + masked(Opcode.TEXT, b"d"))
    assert messages == ["a", b"bc", "d"]


def test_queued_frames_come_first() -> None:
    protocol = server()
    protocol.queue_messages()
    feed(protocol, masked(Opcode.TEXT, b"a", fin=False) + masked(Opcode.CONT, b"b", fin=False))
    frames = collect_frames(protocol)
    assert frames == [(1, b"a", False), (0, b"b", False)]
    feed(protocol, masked(Opcode.CONT, b"c"))
    assert frames[2:] == [(0, b"c", True)]


@pytest.mark.parametrize("there", [1, 2, 3])
@pytest.mark.parametrize("waited", [True, False])
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
@pytest.mark.parametrize("in_frames", [True, False])
@pytest.mark.parametrize("receive", FEEDS)
def test_rest_of_a_message_in_fragments_is_skipped(
    receive: Callable[[Protocol, bytes], object],
    in_frames: bool,
    opcode: Opcode,
    waited: bool,
    there: int,
) -> None:
    """Whoever calls back with it wouldn't know how it began."""
    protocol = server()
    protocol.queue_messages()
    wires = [masked(Opcode.CONT if i else opcode, b"%d" % i, fin=i == 2) for i in range(3)]
    receive(protocol, b"".join(wires[:there]))
    assert protocol.next_fragment(False) == (b"0", False)
    if waited:
        assert protocol.next_message() is None
    got: list[Any] = []
    if in_frames:
        got = collect_frames(protocol)
    else:
        protocol.listen(got.append)
    receive(protocol, b"".join(wires[there:]) + masked(Opcode.BINARY, b"next"))
    assert got == ([(Opcode.BINARY, b"next", True)] if in_frames else [b"next"])


def test_last_in_buffer() -> None:
    protocol, last = server(), list[tuple[Any, bool]]()
    protocol.listen(lambda message: last.append((message, protocol.last_in_buffer)))
    fragment = masked(Opcode.TEXT, b"unfinished", fin=False)
    ping = masked(Opcode.PING, b"")
    feed(protocol, masked(Opcode.TEXT, b"a") + ping + masked(Opcode.TEXT, b"b") + ping + fragment)
    feed(protocol, masked(Opcode.CONT, b"") + masked(Opcode.TEXT, b"c")[:-1])
    feed(protocol, masked(Opcode.TEXT, b"c")[-1:])
    assert last == [("a", False), ("b", True), ("unfinished", True), ("c", True)]
    assert protocol.last_in_buffer


def test_last_in_buffer_wherever_it_ends() -> None:
    """Also in the header of a frame, of which nothing is known then."""
    more = masked(Opcode.PING, b"") * 2 + masked(Opcode.TEXT, b"b")
    for end in range(len(more) + 1):
        protocol, last = server(), list[bool]()
        protocol.listen(lambda message, p=protocol, last=last: last.append(p.last_in_buffer))
        feed(protocol, masked(Opcode.TEXT, b"a") + more[:end])
        assert last == ([True] if end < len(more) else [False, True])


def test_last_frame_in_buffer() -> None:
    protocol, last = server(), list[bool]()
    protocol.listen(on_frame=lambda *args: last.append(protocol.last_in_buffer))
    feed(protocol, masked(Opcode.TEXT, b"a", fin=False) + masked(Opcode.CONT, b"b", fin=False))
    assert last == [False, True]


def test_echo_from_the_callback() -> None:
    protocol = server()
    protocol.listen(protocol.send)
    feed(protocol, masked(Opcode.TEXT, b"a") + masked(Opcode.BINARY, b"b"))
    assert protocol.data_to_send() == [b"\x81\x01a\x82\x01b"]


def test_close_from_the_callback_ends_the_callbacks() -> None:
    protocol, messages = server(), list[Any]()

    def on_message(message: object) -> None:
        messages.append(message)
        protocol.close(1000, "enough")

    protocol.listen(on_message)
    feed(
        protocol,
        masked(Opcode.TEXT, b"a") + masked(Opcode.TEXT, b"b") + masked(Opcode.CLOSE, b"\x03\xe8"),
    )
    assert messages == ["a"]
    assert protocol.close_rcvd is not None
    assert protocol.close_rcvd.code == 1000


def test_fail_from_the_callback() -> None:
    protocol, messages = server(), list[Any]()

    def on_message(message: object) -> None:
        messages.append(message)
        protocol.fail(1008, "no")

    protocol.listen(on_message)
    feed(protocol, masked(Opcode.TEXT, b"a") + masked(Opcode.TEXT, b"b"))
    assert messages == ["a"]
    assert protocol.close_sent is not None
    assert protocol.close_sent.code == 1008


@pytest.mark.parametrize("in_frames", [False, True])
def test_exception_in_a_callback(in_frames: bool, caplog: pytest.LogCaptureFixture) -> None:
    protocol, calls = server(), list[Any]()

    def callback(*args: object) -> None:
        calls.append(args)
        raise LookupError("mine")

    if in_frames:
        protocol.listen(on_frame=callback)
    else:
        protocol.listen(callback)
    with caplog.at_level(logging.ERROR, "wsproto_fast.server"):
        feed(protocol, masked(Opcode.TEXT, b"a") + masked(Opcode.TEXT, b"b"))
    assert len(calls) == 1
    assert protocol.close_sent is not None
    assert protocol.close_sent.code == CloseCode.INTERNAL_ERROR
    assert isinstance(protocol.parser_exc, LookupError)
    (record,) = caplog.records
    assert record.message == "callback failed"


def test_what_is_not_an_exception_passes_through() -> None:
    protocol = server()

    def on_message(message: object) -> None:
        raise KeyboardInterrupt

    protocol.listen(on_message)
    with pytest.raises(KeyboardInterrupt):
        feed(protocol, masked(Opcode.TEXT, b"a"))
    assert protocol.state is State.OPEN
    with pytest.raises(KeyboardInterrupt):
        protocol.receive_data(masked(Opcode.TEXT, b"b"))


@pytest.mark.parametrize("in_frames", [False, True])
@pytest.mark.parametrize("size", [1, 200, 70000])
@pytest.mark.parametrize("buffered", [False, True])
def test_what_follows_such_a_callback_comes_next(
    buffered: bool, size: int, in_frames: bool
) -> None:
    """It may have ended an event loop, which is run again: nothing is lost."""
    protocol, found = server(), list[int]()

    def on_frame(opcode: int, payload: memoryview, fin: bool) -> None:
        on_message(bytes(payload))

    def on_message(message: Any) -> None:
        found.append(message[0])
        if message[0] % 2:
            raise SystemExit

    if in_frames:
        protocol.listen(on_frame=on_frame)
    else:
        protocol.listen(on_message)
    wire = b"".join(masked(Opcode.BINARY, bytes([i]) * size) for i in range(9))
    wire += masked(Opcode.CLOSE, b"\x03\xe8")
    raised = 0
    while wire:
        room = protocol.get_buffer()
        count = min(len(room), len(wire), 50_001)
        room[:count] = wire[:count]
        try:
            if buffered:
                protocol.buffer_updated(count)
            else:
                protocol.receive_data(wire[:count])
        except SystemExit:
            raised += 1
        wire = wire[count:]
        assert protocol.reading_wanted == (protocol.next_timeout() is None)
    while protocol.next_timeout() == 0.0 and protocol.state is State.OPEN:
        try:
            protocol.handle_timeout(0.0)
        except SystemExit:
            raised += 1
    assert found == list(range(9))
    assert raised == 4
    assert protocol.close_rcvd is not None


@pytest.mark.parametrize("in_frames", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
def test_such_a_callback_while_what_is_queued_is_delivered(
    compressed: bool, in_frames: bool
) -> None:
    """Nothing listens then; what is queued stays, and comes before what follows."""
    protocol, found = Protocol(Side.SERVER), list[int]()
    wire = [masked(Opcode.BINARY, bytes([i])) for i in range(5)]
    if compressed:
        protocol.extensions = [PerMessageDeflate(False, False, 15, 15)]
        peer = Protocol(Side.CLIENT)
        peer.extensions = [PerMessageDeflate(False, False, 15, 15)]
        for i in range(5):
            peer.send(bytes([i]), compress=True)
            wire[i] = peer.take_output()
    protocol.queue_messages(1)
    protocol.receive_data(b"".join(wire[:3]))
    assert (protocol.queued_frames < 3) == compressed

    def on_frame(opcode: int, payload: memoryview, fin: bool) -> None:
        on_message(bytes(payload))

    def on_message(message: Any) -> None:
        found.append(message[0])
        if message[0] % 2 == 0:
            raise SystemExit

    def listen() -> None:
        if in_frames:
            protocol.listen(on_frame=on_frame)
        else:
            protocol.listen(on_message)

    with pytest.raises(SystemExit):
        listen()
    assert found == [0]
    protocol.receive_data(wire[3])
    assert found == [0]
    with pytest.raises(SystemExit):
        listen()
    assert found == [0, 1, 2]
    with pytest.raises(SystemExit):
        protocol.receive_data(wire[4])
        listen()
    assert found == [0, 1, 2, 3, 4]


def test_no_data_from_the_callback() -> None:
    protocol, failures = server(), list[str]()

    def on_message(message: object) -> None:
        for call in (lambda: protocol.receive_data(b"x"), lambda: protocol.buffer_updated(0)):
            with pytest.raises(RuntimeError) as info:
                call()
            failures.append(str(info.value))

    protocol.listen(on_message)
    feed(protocol, masked(Opcode.TEXT, b"a"))
    assert failures == ["a callback can't have more data processed"] * 2
    assert protocol.state is State.OPEN


def test_no_other_read_buffer_from_the_callback() -> None:
    protocol, received = server(), list[object]()
    shared = memoryview(bytearray(1000))
    protocol.use_read_buffer(shared)

    def on_message(message: object) -> None:
        with pytest.raises(RuntimeError, match="a callback can't change the read buffer"):
            protocol.use_read_buffer(bytearray(10))
        received.append(message)

    protocol.listen(on_message)
    for _ in range(2):
        wire = masked(Opcode.TEXT, b"a") + masked(Opcode.TEXT, b"b")
        protocol.get_buffer()[: len(wire)] = wire
        protocol.buffer_updated(len(wire))
    assert received == ["a", "b"] * 2
    assert protocol.get_buffer().obj is shared.obj


BAD = {
    "text": (masked(Opcode.TEXT, b"\xff"), 1007),
    "text in fragments": (
        masked(Opcode.TEXT, b"\xe2\x82", fin=False) + masked(Opcode.CONT, b"a"),
        1007,
    ),
    "unfinished text": (masked(Opcode.TEXT, b"\xe2\x82"), 1007),
    "size": (masked(Opcode.BINARY, bytes(1001)), 1009),
    "size of fragments": (
        masked(Opcode.BINARY, bytes(600), fin=False) + masked(Opcode.CONT, bytes(401)),
        1009,
    ),
    "continuation": (masked(Opcode.CONT, b""), 1002),
    "no masking": (frame(Side.CLIENT, Opcode.TEXT, b"a"), 1002),
}


@pytest.mark.parametrize("receive", FEEDS)
@pytest.mark.parametrize("in_frames", [False, True])
@pytest.mark.parametrize("wire, code", BAD.values(), ids=BAD)
def test_bad_input(
    wire: bytes, code: int, in_frames: bool, receive: Callable[[Protocol, bytes], object]
) -> None:
    protocol, received = server(max_size=1000), list[Any]()
    if in_frames:
        received = collect_frames(protocol)
    else:
        protocol.listen(received.append)
    receive(protocol, wire)
    assert protocol.close_sent is not None
    assert protocol.close_sent.code == code
    assert not [item for item in received if item is str or item[-1] is True]


@pytest.mark.parametrize("in_frames", [False, True])
def test_unchecked_text(in_frames: bool) -> None:
    protocol, received = server(), list[Any]()
    protocol.validate_text = False
    if in_frames:
        received = collect_frames(protocol)
    else:
        protocol.listen(received.append)
    feed(protocol, masked(Opcode.TEXT, b"good") + masked(Opcode.TEXT, b"\xff"))
    if in_frames:
        assert received == [(1, b"good", True), (1, b"\xff", True)]
        assert protocol.state is State.OPEN
    else:
        assert received == ["good"]
        assert protocol.close_sent is not None
        assert protocol.close_sent.code == 1007


def test_compressed() -> None:
    peer, by_message, by_frame = Protocol(Side.CLIENT), server(), server()
    for protocol in (peer, by_message, by_frame):
        protocol.extensions = [PerMessageDeflate(False, False, 15, 15)]
    text = "compressible " * 40
    peer.send(text, compress=True)
    peer.send_text(text, fin=False, compress=True)
    peer.send_continuation(text, fin=True)
    peer.send(b"plain", compress=False)
    wire = b"".join(peer.data_to_send())
    assert len(wire) < len(text)
    messages: list[Any] = []
    by_message.listen(messages.append)
    frames = collect_frames(by_frame)
    feed(by_message, wire)
    feed(by_frame, wire)
    assert messages == [text, text * 2, b"plain"]
    first, *rest, last = frames
    assert first == (1, text.encode(), True)
    assert last == (2, b"plain", True)
    assert b"".join(payload for _, payload, _ in rest) == text.encode() * 2
    assert [opcode for opcode, _, _ in rest] == [1, 0]


def test_foreign_extension() -> None:
    class Reverse:
        name = "x-reverse"

        def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
            return Frame(frame.opcode, bytes(frame.data)[::-1], frame.fin)

        def encode(self, frame: Frame) -> Frame:
            return frame

    protocol = server()
    protocol.extensions = [Reverse()]
    frames = collect_frames(protocol)
    feed(protocol, masked(Opcode.BINARY, b"abc"))
    assert frames == [(2, b"cba", True)]


def test_debug_log(caplog: pytest.LogCaptureFixture) -> None:
    protocol = server()
    frames = collect_frames(protocol)
    with caplog.at_level(logging.DEBUG, "wsproto_fast.server"):
        feed(protocol, masked(Opcode.TEXT, b"seen"))
    assert frames == [(1, b"seen", True)]
    assert "seen" in caplog.text


def test_reading_pauses_while_writing_is_paused() -> None:
    protocol = server()
    protocol.listen(protocol.send)
    assert protocol.reading_wanted
    protocol.pause_writing()
    assert not protocol.reading_wanted
    protocol.resume_writing()
    assert protocol.reading_wanted
    protocol.pause_writing()
    protocol.close()
    assert protocol.reading_wanted  # the peer's Close frame is awaited


def test_frames_larger_than_the_buffer() -> None:
    rng = random.Random(20)
    payload = rng.randbytes(100_000)
    by_message, by_frame = server(), server()
    messages: list[Any] = []
    by_message.listen(messages.append)
    frames = collect_frames(by_frame)
    for protocol in (by_message, by_frame):
        protocol.use_read_buffer(memoryview(bytearray(1000)))
        feed(protocol, masked(Opcode.BINARY, payload) + masked(Opcode.TEXT, b"next"))
    assert messages == [payload, "next"]
    assert frames == [(2, payload, True), (1, b"next", True)]


def test_activity() -> None:
    protocol = server()
    protocol.listen(lambda message: None)
    buffer = protocol.get_buffer()
    wire = masked(Opcode.TEXT, b"a")
    buffer[: len(wire)] = wire
    assert not protocol.buffer_updated(len(wire)) & ATTENTION


@pytest.mark.parametrize(
    "args, kwargs, message",
    [
        ((), {}, "listen() takes one of"),
        ((print,), {"on_frame": print}, "listen() takes one of"),
        ((1,), {}, "on_message must be callable, not int"),
        ((), {"on_frame": "x"}, "on_frame must be callable, not str"),
    ],
)
def test_misuse(args: tuple[Any, ...], kwargs: dict[str, Any], message: str) -> None:
    protocol = server()
    with pytest.raises(TypeError) as info:
        protocol.listen(*args, **kwargs)
    assert message in str(info.value)
    protocol.receive_data(masked(Opcode.TEXT, b"a"))
    assert len(protocol.events_received()) == 1
