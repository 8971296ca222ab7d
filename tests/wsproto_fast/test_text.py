"""Text that isn't UTF-8: refused before it is sent, unless the application takes that on itself."""

import itertools
import logging
from collections.abc import Callable, Iterable

import pytest

from wsproto_fast import Protocol, Side, State

from .helpers import PING, PONG, TEXT, chopped, frame, sent, through_buffer, through_data
from .protocol_helpers import both_sides


@pytest.mark.parametrize(
    "send",
    [
        lambda protocol: protocol.send(b"\xff", text=True),
        lambda protocol: protocol.send(b"caf\xc3", text=True),
        lambda protocol: protocol.send_text(b"caf\xc3"),
        lambda protocol: protocol.send_text(b"\xff", fin=False),
    ],
)
def test_bad_text_is_not_sent(send) -> None:
    protocol = Protocol(Side.SERVER)
    with pytest.raises(UnicodeDecodeError, match="invalid text message"):
        send(protocol)
    assert protocol.data_to_send() == []
    assert protocol.state is State.OPEN
    protocol.send("next")
    assert protocol.data_to_send() == [b"\x81\x04next"]


def test_characters_may_be_cut_by_fragmentation() -> None:
    protocol = Protocol(Side.SERVER)
    protocol.send_text(b"caf\xc3", fin=False)
    with pytest.raises(UnicodeDecodeError):
        protocol.send_continuation("x", fin=True)
    protocol.send_continuation(b"\xa9", fin=True)
    assert b"".join(protocol.data_to_send()) == b"\x01\x04caf\xc3\x80\x01\xa9"


def test_the_check_can_be_switched_off() -> None:
    protocol = Protocol(Side.SERVER)
    protocol.validate_text = False
    protocol.send(b"\xff", text=True)
    assert protocol.data_to_send() == [b"\x81\x01\xff"]


def test_received_text_is_then_checked_where_it_is_decoded() -> None:
    protocol = Protocol(Side.CLIENT)
    protocol.queue_messages()
    protocol.validate_text = False
    protocol.receive_data(b"\x81\x01\xff" + b"\x81\x01a" + b"\x81\x01\xff")
    assert protocol.next_message(decode=False) == b"\xff"
    assert protocol.next_message() == "a"
    assert protocol.state is State.OPEN
    assert protocol.next_message() is None
    assert protocol.close_sent.code == 1007


# ---------------------------------------------------------------------- text that arrives in pieces

TEXTS = ["ascii only " * 8, "ascii, then €", "ž, then ascii " * 8, "😀" * 20]
PATHS = {"data": (through_data, None), "small buffer": (through_buffer, 16)}
Feed = Callable[[Protocol, Iterable[bytes]], None]

both_paths = pytest.mark.parametrize(("feed", "read_size"), PATHS.values(), ids=PATHS)


def queueing(side: Side, read_size: int | None) -> Protocol:
    protocol = Protocol(side)
    protocol.queue_messages(None, max_bytes=None)
    if read_size:
        protocol.use_read_buffer(memoryview(bytearray(read_size)))
    return protocol


@both_sides
@both_paths
@pytest.mark.parametrize("text", TEXTS)
def test_cut_anywhere(side: Side, feed: Feed, read_size: int | None, text: str) -> None:
    wire = frame(side, TEXT, text.encode())
    for first, second in itertools.combinations(range(1, len(wire)), 2):
        protocol = queueing(side, read_size)
        feed(protocol, chopped(wire * 2, (first, second, len(wire) + first)))
        assert protocol.next_message() == text
        assert protocol.next_message() == text
        assert protocol.next_message() is None


@both_sides
@both_paths
@pytest.mark.parametrize("text", TEXTS)
def test_whatever_becomes_of_it(side: Side, feed: Feed, read_size: int | None, text: str) -> None:
    """It is received as it becomes a message, but for what has come meanwhile."""
    payload = text.encode()
    wire = frame(side, TEXT, payload)

    def frames(protocol: Protocol) -> list[object]:
        seen: list[object] = []
        protocol.listen(on_frame=lambda opcode, data, fin: seen.append((opcode, bytes(data), fin)))
        return seen

    def callbacks(protocol: Protocol) -> list[object]:
        seen: list[object] = []
        protocol.listen(seen.append)
        return seen

    def unchecked(protocol: Protocol) -> None:
        protocol.validate_text = False

    def debug(protocol: Protocol) -> None:
        protocol.logger = logging.getLogger("test_text")
        protocol.logger.setLevel(logging.DEBUG)

    for change, expected in (
        (frames, [(TEXT, payload, True)]),
        (callbacks, [text]),
        (unchecked, None),
        (debug, None),
    ):
        for cut in range(1, len(wire)):
            protocol = queueing(side, read_size)
            feed(protocol, [wire[:cut]])
            seen = change(protocol)
            feed(protocol, [wire[cut:]])
            assert seen == expected
            if expected is None:
                assert protocol.next_message() == text
            assert protocol.state is State.OPEN


@both_sides
@both_paths
def test_fails_at_the_first_bad_byte(side: Side, feed: Feed, read_size: int | None) -> None:
    payload = b"ascii, and more of it, and then \xff and what doesn't matter any more"
    wire = frame(side, TEXT, payload)
    bad = len(wire) - len(payload) + payload.index(0xFF)
    protocol = queueing(side, read_size)
    feed(protocol, (wire[i : i + 1] for i in range(bad)))
    assert protocol.state is State.OPEN
    feed(protocol, [wire[bad : bad + 1]])
    assert protocol.close_sent is not None
    assert (protocol.close_sent.code, protocol.close_sent.reason) == (
        1007,
        "invalid start byte at position 32",
    )
    feed(protocol, [wire[bad + 1 :]])
    assert protocol.next_message() is None


@both_sides
@both_paths
def test_text_in_fragments_is_bytes_until_it_is_whole(
    side: Side, feed: Feed, read_size: int | None
) -> None:
    payload = "fragment ž".encode() * 10
    wire = (
        frame(side, TEXT, payload[:70], fin=False)
        + frame(side, PING, b"between")
        + frame(side, 0, payload[70:])
    )
    for cut in range(1, len(wire)):
        protocol = queueing(side, read_size)
        feed(protocol, chopped(wire, (cut,)))
        assert protocol.next_message() == payload.decode()
        assert sent(protocol) == [(PONG, b"between")]
