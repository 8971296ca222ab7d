"""Received frames, by any way in and any split, against the slow model of RFC 6455."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.fuzz.inputs import Input, cut, single_bytes
from tests.fuzz.rfc6455 import CLOSE, PONG, Inflater, Limits, Reading, read
from wsproto_fast import (
    ConnectionClosedOK,
    PerMessageDeflate,
    Protocol,
    Side,
    State,
    activity,
)

MESSAGE_LIMITS = (None, 2**20, 125, 20)
FRAGMENT_LIMITS = (None, 60)
FRAGMENT_COUNTS = (None, 4096, 3, 1)
SINKS = ("queue", "events", "messages", "frames")
OK = 1000, 1001, 1005
LARGE = 3000  # beyond this, bytes aren't fed one by one


class Setting:
    """What an input says about the connection that reads its frames."""

    def __init__(self, source: Input) -> None:
        first, second = source.byte(), source.byte()
        self.side = Side(first & 1)
        self.sink = SINKS[first >> 1 & 3]
        self.bits = 8 + (first >> 3 & 7) if second & 1 else None
        message = MESSAGE_LIMITS[second >> 1 & 3]
        fragment = FRAGMENT_LIMITS[second >> 3 & 1]
        # Only queues and callbacks have this limit.
        count = FRAGMENT_COUNTS[second >> 4 & 3] if self.sink != "events" else None
        self.limits = Limits(message, fragment, count)
        self.seed = source.random()

    def model(self, wire: bytes) -> Reading | None:
        """Return what the wire means; None if it has a fault that zlib finds or not."""
        inflater = None if self.bits is None else Inflater(self.bits)
        client = self.side == Side.CLIENT
        reading = read(wire, client=client, limits=self.limits, inflater=inflater)
        return None if inflater is not None and inflater.too_far else reading


class End:
    """A connection, and all that comes out of it."""

    def __init__(self, setting: Setting, read_size: int = 0) -> None:
        self.sink = setting.sink
        limits = setting.limits
        self.protocol = protocol = Protocol(
            setting.side, max_size=(limits.message, limits.fragment)
        )
        if setting.bits is not None:
            protocol.extensions = [PerMessageDeflate(False, False, setting.bits, 15)]
        self.found: list[Any] = []
        if self.sink != "events":
            protocol.queue_messages(None, max_bytes=None, max_fragments=limits.fragments)
        if self.sink == "messages":
            protocol.listen(self.found.append)
        elif self.sink == "frames":
            protocol.listen(on_frame=self.frame)
        if read_size:
            protocol.use_read_buffer(memoryview(bytearray(read_size)))
        self.sent = bytearray()

    def frame(self, opcode: int, payload: memoryview, fin: bool) -> None:
        self.found.append((opcode, bytes(payload), fin))

    def feed(self, pieces: Iterable[bytes], buffered: bool) -> None:
        for piece in pieces:
            if buffered:
                while piece:
                    buffer = self.protocol.get_buffer()
                    size = min(len(buffer), len(piece))
                    buffer[:size] = piece[:size]
                    self.protocol.buffer_updated(size)
                    piece = piece[size:]
                    self.take()
            else:
                self.protocol.receive_data(piece)
                self.take()

    def take(self) -> None:
        protocol = self.protocol
        if self.sink == "queue":
            self.found += iter(protocol.next_message, None)
        while data := protocol.take_output():
            self.sent += data
        while protocol.can_receive_kept:
            protocol.receive_kept()
            if self.sink == "queue":
                self.found += iter(protocol.next_message, None)
            while data := protocol.take_output():
                self.sent += data

    def finish(self) -> None:
        self.protocol.receive_eof()
        self.take()
        if self.sink == "events":
            self.found = [
                (event.opcode, bytes(event.data), event.fin)
                for event in self.protocol.events_received()
            ]

    def outcome(self) -> tuple[Any, ...]:
        protocol = self.protocol
        exc = protocol.parser_exc
        return (
            self.found,
            frames_of(bytes(self.sent)),
            protocol.close_rcvd,
            protocol.close_sent,
            type(exc),
            str(exc),
            type(protocol.close_exc),
        )


def frames_of(data: bytes) -> list[tuple[int, bytes]]:
    """Read what was sent: whole control frames."""
    found = []
    while data:
        assert data[0] & 0xF0 == 0x80, "what is sent isn't a whole control frame"
        size, start = data[1] & 127, 2
        assert size <= 125
        key = bytes(4)
        if data[1] & 128:
            key, start = data[2:6], 6
        payload = bytes(byte ^ key[i % 4] for i, byte in enumerate(data[start : start + size]))
        assert len(payload) == size
        found.append((data[0] & 15, payload))
        data = data[start + size :]
    return found


def check(setting: Setting, wire: bytes, end: End) -> None:
    """Compare what came out with what the model says."""
    expected = setting.model(wire)
    if expected is None:
        return
    protocol = end.protocol
    if setting.sink in ("queue", "messages"):
        assert end.found == expected.messages()
    else:
        frames = end.found
        if setting.sink == "events":
            controls = [(opcode, data) for opcode, data, _ in frames if opcode & 8]
            assert controls == expected.controls
            frames = [frame for frame in frames if not frame[0] & 8]
        assert frames == expected.frames
    sent = frames_of(bytes(end.sent))
    pongs = [payload for opcode, payload in sent if opcode == PONG]
    assert pongs == expected.pongs
    rest = sent[len(pongs) :]
    assert all(opcode == PONG for opcode, _ in sent[: len(pongs)])
    assert protocol.state is State.CLOSED
    if expected.codes:
        [(opcode, payload)] = rest
        assert opcode == CLOSE
        assert int.from_bytes(payload[:2], "big") in expected.codes
        payload[2:].decode()
        assert protocol.close_rcvd is None
        assert protocol.close_code == 1006
        assert protocol.parser_exc is not None
    elif expected.close is not None:
        assert rest == [expected.controls[-1]]
        assert protocol.close_rcvd is not None
        assert (protocol.close_code, protocol.close_reason) == expected.close
        clean = expected.close[0] in OK and not expected.cut
        assert (type(protocol.close_exc) is ConnectionClosedOK) is clean
        assert protocol.parser_exc is None
    else:
        assert rest == []
        assert isinstance(protocol.parser_exc, EOFError)
        assert protocol.close_code == 1006


def one_input(data: bytes) -> None:
    source = Input(data)
    setting = Setting(source)
    wire = source.rest()
    end = End(setting)
    end.feed([wire], False)
    end.finish()
    check(setting, wire, end)
    outcome = end.outcome()
    assert end.protocol.transport_action >= activity.HALF_CLOSE
    ways = [(0, cut(wire, setting.seed)), (4096, [wire]), (16, cut(wire, setting.seed))]
    if len(wire) <= LARGE:
        ways.append((setting.seed.choice([0, 1]), single_bytes(wire)))
    for read_size, pieces in ways:
        end = End(setting, read_size)
        end.feed(pieces, bool(read_size))
        end.finish()
        assert end.outcome() == outcome
