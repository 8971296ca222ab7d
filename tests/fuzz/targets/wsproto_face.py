"""The interface of wsproto, ours and theirs side by side: open connections, and requests.

Where the two differ on purpose is listed in tests/wsproto_fast/test_wsproto_reference.py. Above
all, ours finds faults at the first byte that shows them, and refuses more handshakes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import wsproto
import wsproto.connection
import wsproto.events
import wsproto.extensions

import wsproto_fast.wsproto
import wsproto_fast.wsproto.connection
import wsproto_fast.wsproto.events
import wsproto_fast.wsproto.extensions
from tests.fuzz.inputs import Input
from tests.fuzz.targets.requests import HEAD
from tests.fuzz.targets.websockets_face import frames_in

OURS, THEIRS = wsproto_fast.wsproto, wsproto
UPGRADE = re.compile(rb"\nupgrade:[ \t]*websocket[ \t]*\r?\n")
SEEDS = [
    b"\0" + b"\0\x81\x05hello\0\x89\x01x\0\x88\x02\x03\xe8\x0a",
    b"\1" + b"\2\x05hello\1\3\3abc\0\4\x01x\5\x01x\6\x02\0\7",
    b"\0" + b"\0\x01\x02ab\0\x00\x02cd\0\x80\x00\x0b\1\4\x81\xfe\x00\x01",
    b"\2" + HEAD + b"\r\n",
    b"\2" + HEAD + b"Sec-WebSocket-Protocol: a, b\r\nOrigin: x\r\n\r\n",
    b"\2" + HEAD + b"Sec-WebSocket-Protocol: a,,b\r\n\r\n",
]


def plain(event: Any) -> tuple[str, dict[str, Any]]:
    values = {name: getattr(event, name) for name in type(event).__match_args__}
    for name in ("data", "payload"):
        if isinstance(values.get(name), bytearray):
            values[name] = bytes(values[name])
    if "extensions" in values:
        values["extensions"] = [getattr(e, "name", e) for e in values["extensions"]]
    if "subprotocols" in values:
        # Theirs takes an empty element of a list for one.
        values["subprotocols"] = [name for name in values["subprotocols"] if name]
    return type(event).__name__, values


class Both:
    def __init__(self, source: Input, server: bool) -> None:
        self.source = source
        self.server = server
        role = "SERVER" if server else "CLIENT"
        self.ends: list[Any] = [
            module.connection.Connection(getattr(module.connection.ConnectionType, role))
            for module in (OURS, THEIRS)
        ]
        self.over = False

    def both(self, call: Callable[[Any, Any], Any]) -> None:
        outcomes = []
        for module, end in zip((OURS, THEIRS), self.ends, strict=True):
            try:
                outcomes.append(call(module, end))
            except Exception as exc:
                outcomes.append(type(exc).__name__)
        assert outcomes[0] == outcomes[1]

    def send(self, name: str, *args: Any, **kwargs: Any) -> None:
        def call(module: Any, end: Any) -> Any:
            return frames_in([end.send(getattr(module.events, name)(*args, **kwargs))])

        self.both(call)

    def receive_frame(self) -> None:
        first, payload = self.source.byte(), self.source.take(self.source.byte() & 127)
        masked = 0x80 if self.server else 0
        size = bytes([masked | len(payload)])
        if len(payload) > 125:
            size = bytes([masked | 126, 0, len(payload)])
        self.receive(bytes([first]) + size + bytes(4 if masked else 0) + payload)

    def receive_garbage(self) -> None:
        self.receive(self.source.sized())

    def receive(self, data: bytes | None) -> None:
        self.both(lambda _, end: end.receive_data(data))

    def send_text(self) -> None:
        text, fin = self.source.sized().decode("latin-1"), bool(self.source.byte() & 1)
        self.send("TextMessage", text, message_finished=fin)

    def send_bytes(self) -> None:
        data, fin = self.source.sized(), bool(self.source.byte() & 1)
        self.send("BytesMessage", data, message_finished=fin)

    def send_ping(self) -> None:
        self.send("Ping", self.source.take(self.source.byte() & 63))

    def send_pong(self) -> None:
        self.send("Pong", self.source.take(self.source.byte() & 63))

    def send_close(self) -> None:
        self.send("CloseConnection", self.source.choice([1000, 1001, 4999]), "why")

    def receive_end(self) -> None:
        self.receive(None)

    def same(self) -> bool:
        events: list[list[Any]] = []
        for end in self.ends:
            events.append([])
            try:
                events[-1] += map(plain, end.events())
            except Exception as exc:
                events[-1].append(type(exc).__name__)
        ours, theirs = self.ends
        faults = [fault(found, end) for found, end in zip(events, self.ends, strict=True)]
        if any(faults):
            # Ours knows it earlier, or of more faults in one Close frame.
            mine = events[0][:-1] if faults[0] else events[0]
            other = events[1][:-1] if faults[1] else events[1]
            if faults[0]:
                assert without_text(mine) == without_text(other)[: len(without_text(mine))]
            else:
                # The code was registered after theirs was written.
                assert events[0][-1][1]["code"] == 1014
            return False
        assert events[0] == events[1]
        assert ours.state.name == theirs.state.name
        return True


def without_text(events: list[Any]) -> list[Any]:
    """Leave pieces of text out: how much of a frame there is before a fault differs."""
    return [event for event in events if event[0] != "TextMessage"]


def fault(events: list[Any], end: Any) -> bool:
    """Tell whether what comes last stands for a fault of the peer's."""
    closed = "REMOTE_CLOSING", "CLOSED"
    return bool(events) and events[-1][0] == "CloseConnection" and end.state.name not in closed


STEPS: list[Callable[[Both], None]] = [
    Both.receive_frame, Both.receive_garbage, Both.send_text, Both.send_bytes, Both.send_ping,
    Both.send_pong, Both.send_close, Both.receive_end,
]  # fmt: skip


def accept(data: bytes) -> None:
    """What a server of ours takes for a request, theirs does, too, and both give the same event."""
    outcomes = []
    for module in (OURS, THEIRS):
        server = module.WSConnection(module.ConnectionType.SERVER)
        try:
            server.receive_data(data)
            found = [plain(event) for event in server.events()]
        except module.utilities.RemoteProtocolError:
            found = []
        except Exception:
            # Theirs lets some of Python's pass, such as those of "idna".
            if module is OURS:
                raise
            found = []
        outcomes.append([event for event in found if event[0] == "Request"] or None)
    # Of several lines, theirs looks at the last one, and in Upgrade it takes no list.
    lines = data.lower().count(b"\nconnection:")
    simple = lines == 1 and UPGRADE.search(data.lower())
    if outcomes[0] is not None and (simple or outcomes[1] is not None):
        assert outcomes[1] == outcomes[0]


def one_input(data: bytes) -> None:
    source = Input(data)
    kind = source.byte() & 3
    if kind == 2:
        accept(source.rest())
        return
    both = Both(source, kind == 0)
    for _ in range(100):
        if not source:
            break
        source.choice(STEPS)(both)
        if not both.same():
            return
