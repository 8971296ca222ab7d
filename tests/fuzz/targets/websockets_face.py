"""The sans-I/O interface of websockets, ours and theirs side by side.

Where the two differ on purpose, or theirs leaves something out:

- Faults are found at the first byte that shows them; theirs waits for a whole header or frame.
- Theirs accepts lengths that aren't minimal, and leaves it to its layers above to check text.
- Theirs answers a Close frame inside a fragmented message with 1002.
- Theirs sends Pings and Pongs behind the end of the stream.
- Theirs leaves the connection open at ``fail(1006)``, and has ``fail()`` of a closed one raise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import websockets.frames
import websockets.protocol

from tests.fuzz.inputs import Input
from wsapi import frames, protocol
from wsproto_fast.frames import Side, State

MAX_SIZE = 300
SEEDS = [
    b"\0" + b"\0\x81\x05hello\0\x89\x01x\0\x88\x02\x03\xe8\x0a",
    b"\1" + b"\2\x05hello\4\2\3abc\6\x01x\x01\x02de\5\3xyz\7\2ab\x08\0",
    b"\0" + b"\0\x01\x02ab\0\x00\x02cd\0\x80\x00\x0b\1\4\x81\xfe\x00\x01",
    b"\1" + b"\0\x88\x00\x0a\2\x01a",
]


class Both:
    """A connection of each kind."""

    def __init__(self, source: Input) -> None:
        self.source = source
        self.side = Side(source.byte() & 1)
        side = websockets.protocol.Side(int(self.side == Side.CLIENT))
        if side.name != self.side.name:
            side = websockets.protocol.Side(int(self.side == Side.SERVER))
        self.ours: Any = protocol.Protocol(self.side, max_size=MAX_SIZE)
        self.theirs: Any = websockets.protocol.Protocol(
            side, state=websockets.protocol.State.OPEN, max_size=MAX_SIZE
        )
        self.opcode = 0
        self.ended = False

    def call(self, name: str, *args: Any) -> None:
        outcomes = []
        for end in (self.ours, self.theirs):
            try:
                getattr(end, name)(*args)
            except Exception as exc:
                outcomes.append(type(exc).__name__)
            else:
                outcomes.append("")
        # When both would do, theirs looks for fragments first.
        both = {"InvalidState", "ProtocolError"}
        assert outcomes[0] == outcomes[1] or set(outcomes) == both, (name, args, outcomes)

    def receive_frame(self) -> None:
        first, payload = self.source.byte(), self.source.take(self.source.byte() & 127)
        masked = 0x80 if self.side == Side.SERVER else 0
        size = bytes([masked | len(payload)])
        if len(payload) > 125:
            size = bytes([masked | 126, 0, len(payload)])
        self.receive(bytes([first]) + size + bytes(4 if masked else 0) + payload)

    def receive_garbage(self) -> None:
        self.receive(self.source.sized())

    def receive(self, data: bytes) -> None:
        if not self.ended:
            self.call("receive_data", data)

    def send_text(self) -> None:
        fin = bool(self.source.byte() & 1)
        self.call("send_text", self.source.sized().decode("latin-1").encode(), fin)

    def send_binary(self) -> None:
        self.call("send_binary", self.source.sized(), bool(self.source.byte() & 1))

    def send_continuation(self) -> None:
        data = self.source.sized().decode("latin-1").encode()
        self.call("send_continuation", data, bool(self.source.byte() & 1))

    def send_ping(self) -> None:
        self.control("send_ping")

    def send_pong(self) -> None:
        self.control("send_pong")

    def control(self, name: str) -> None:
        data = self.source.sized()
        if self.ours.state is State.OPEN or not self.ours.transport_action:
            self.call(name, data)

    def send_close(self) -> None:
        code = self.source.choice([None, 1000, 1001, 1006, 4999, 5000, 7])
        self.call("send_close", code, "why" if code is not None else "")

    def fail(self) -> None:
        code = self.source.choice([1002, 1011])
        if self.ours.state is not State.CLOSED:
            self.call("fail", code, "why")

    def receive_eof(self) -> None:
        self.ended = True
        self.call("receive_eof")

    # ------------------------------------------------------------------ comparing

    def same(self) -> bool:
        """Compare; return False where the two go different ways."""
        ours, theirs = self.ours, self.theirs
        events = [
            [(int(e.opcode), bytes(e.data), e.fin) for e in end.events_received()]
            for end in (ours, theirs)
        ]
        sent = [frames_in(end.data_to_send()) for end in (ours, theirs)]
        fault = ours.parser_exc
        if fault is not None and not isinstance(fault, EOFError):
            # Ours may know earlier, and of more faults.
            assert events[0] == events[1][: len(events[0])]
            if theirs.parser_exc is not None and not isinstance(theirs.parser_exc, EOFError):
                codes = [sent_code(end) for end in (ours, theirs)]
                # Theirs looks at the size of a frame before its other faults.
                assert codes[0] == codes[1] or 1007 in codes or codes[1] == 1009
            return False
        if theirs.parser_exc is not None and not isinstance(theirs.parser_exc, EOFError):
            if ours.close_rcvd is None:
                # Theirs looks at a length before the masking key is there.
                assert type(theirs.parser_exc).__name__ == "PayloadTooBig"
                return False
            assert str(theirs.parser_exc) == "incomplete fragmented message"
            return False
        assert events[0] == events[1]
        assert sent[0] == sent[1]
        assert ours.state.name == theirs.state.name
        assert ours.close_expected() == theirs.close_expected()
        assert type(ours.parser_exc) is type(theirs.parser_exc)
        for name in ("close_rcvd", "close_sent"):
            assert plain(getattr(ours, name)) == plain(getattr(theirs, name))
        assert ours.close_rcvd_then_sent == theirs.close_rcvd_then_sent
        assert (ours.close_code, ours.close_reason) == (theirs.close_code, theirs.close_reason)
        if ours.state is State.CLOSED:
            assert type(ours.close_exc).__name__ == type(theirs.close_exc).__name__
        return True


def plain(close: Any) -> tuple[int, str] | None:
    """Return code and reason; texts of exceptions escape what terminals would obey, here only."""
    return None if close is None else (int(close.code), close.reason)


def sent_code(end: Any) -> int | None:
    return None if end.close_sent is None else end.close_sent.code


def frames_in(pieces: list[bytes]) -> list[Any]:
    """Read what is to be sent, unmasked; None stands for the end of the stream."""
    found: list[Any] = []
    data = b"".join(pieces)
    while data:
        size, start = data[1] & 127, 2
        if size > 125:
            start += 2 if size == 126 else 8
            size = int.from_bytes(data[2:start], "big")
        key = bytes(4)
        if data[1] & 128:
            key, start = data[start : start + 4], start + 4
        payload = bytes(b ^ key[i % 4] for i, b in enumerate(data[start : start + size]))
        found.append((data[0], payload))
        data = data[start + size :]
    return [*found, None] if b"" in pieces else found


STEPS: list[Callable[[Both], None]] = [
    Both.receive_frame, Both.receive_garbage, Both.send_text, Both.send_binary,
    Both.send_continuation, Both.send_ping, Both.send_pong, Both.send_close, Both.fail,
    Both.receive_eof,
]  # fmt: skip


def one_input(data: bytes) -> None:
    source = Input(data)
    both = Both(source)
    assert frames.Opcode.TEXT == websockets.frames.Opcode.TEXT
    for _ in range(100):
        if not source:
            break
        source.choice(STEPS)(both)
        if not both.same():
            return
