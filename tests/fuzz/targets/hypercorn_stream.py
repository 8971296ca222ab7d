"""Hypercorn's WebSocket streams, on our engine and on wsproto side by side, without a network.

The same requests, bytes, and events of an application in any order: both streams tell the
application the same, send the same, and raise the same. Of ours, the slow model also says what must
be received, and takes what is sent, with permessage-deflate, too. Where the two engines differ on
purpose is listed in tests/wsproto_fast/test_wsproto_reference.py.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

from hypercorn.protocol import events

from tests.fuzz.inputs import Input
from tests.fuzz.memory import frame_of
from tests.fuzz.rfc6455 import Inflater, Limits, Reading, read

LARGE = 100_000
MAX_STEPS = 80
UPGRADE = [
    (b"host", b"localhost"), (b"connection", b"Upgrade"), (b"upgrade", b"websocket"),
    (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="), (b"sec-websocket-version", b"13"),
]  # fmt: skip
MORE: tuple[list[tuple[bytes, bytes]], ...] = (
    [],
    [(b"sec-websocket-extensions", b"permessage-deflate")],
    [(b"sec-websocket-extensions", b"permessage-deflate; server_no_context_takeover")],
    [(b"sec-websocket-protocol", b"a, b")],
    [(b"sec-websocket-extensions", b"x-webkit; a=1")],
    [(b"sec-websocket-protocol", b"a,,b"), (b"x", b"y")],
)
SEEDS = [
    b"\x00\x00\x02\x00\x00\x81\x05hello\x04\x05world\x00\x88\x02\x03\xe8\x08",
    b"\x01\x00\x02\x00\x00\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00\x04\x05hello\x04\x05hello\x05\x03abc",
    b"\x02\x00\x02\x00\x00\x01\x02ab\x00\x89\x01x\x00\x80\x02cd\x06\x03\x08",
    b"\x03\x00\x02\x01\x01\x04\x81\xfe\x00\x01\x07\x02\x00\x0a",
    b"\x00\x00\x07\x01\x07\x02\x08\x0b",
    b"\x05\x00\x02\x00\x03\x04\x81\x85\x00\x00\x09",
]


PARTS = ("connection", "events", "extensions", "frame_protocol", "handshake", "utilities")


def load(wsproto_package: str) -> Any:
    """Load Hypercorn's module on an implementation of wsproto."""
    found = importlib.util.find_spec("hypercorn.protocol.ws_stream")
    assert found is not None and found.origin is not None
    name = "hypercorn.protocol.ws_stream_on_" + wsproto_package.partition(".")[0]
    spec = importlib.util.spec_from_file_location(name, found.origin)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    for part in PARTS:
        importlib.import_module(f"{wsproto_package}.{part}")
    before = {key: value for key, value in sys.modules.items() if is_wsproto(key)}
    try:
        for key, value in list(sys.modules.items()):
            if key == wsproto_package or key.startswith(wsproto_package + "."):
                sys.modules["wsproto" + key.removeprefix(wsproto_package)] = value
        spec.loader.exec_module(module)
    finally:
        for key in [key for key in sys.modules if is_wsproto(key)]:
            del sys.modules[key]
        sys.modules.update(before)
    return module


def is_wsproto(name: str) -> bool:
    return name == "wsproto" or name.startswith("wsproto.")


STREAMS = [load("wsproto_fast.wsproto"), load("wsproto")]
assert STREAMS[0].Connection is not STREAMS[1].Connection


class Log:
    async def access(self, *arguments: Any) -> None:
        """Nobody reads it."""


CONFIG = SimpleNamespace(
    root_path="", websocket_max_message_size=LARGE, websocket_ping_interval=None,
    server_names=[], log=Log(),
)  # fmt: skip


def complete(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run what never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


class Stream:
    """A stream on one implementation, and what came of it."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.sent: list[Any] = []
        self.told: list[Any] = []
        self.scope: Any = None
        group = SimpleNamespace(spawn_app=self.spawn_app)
        self.stream = module.WSStream(
            None, CONFIG, None, group, False, ("127.0.0.1", 1), ("127.0.0.1", 2), self.send, 1
        )

    async def spawn_app(self, app: Any, config: Any, scope: Any, send: Any) -> Any:
        self.scope = scope
        return self.tell

    async def tell(self, event: Any) -> None:
        self.told.append(event)

    async def send(self, event: Any) -> None:
        self.sent.append(event)

    @property
    def closed(self) -> bool:
        return any(isinstance(event, events.StreamClosed) for event in self.sent)

    def output(self) -> bytes:
        return b"".join(event.data for event in self.sent if isinstance(event, events.Data))


class Both:
    def __init__(self, source: Input) -> None:
        self.source = source
        self.offered = source.choice(MORE)
        self.deflate = False
        self.streams = [Stream(module) for module in STREAMS]
        self.input = bytearray()
        self.messages: list[Any] = []
        self.left = False  # the application or the network has closed it

    def both(self, call: Callable[[Stream], Coroutine[Any, Any, Any]]) -> str:
        outcomes = []
        for stream in self.streams:
            try:
                complete(call(stream))
            except Exception as exc:
                outcomes.append(type(exc).__name__)
            else:
                outcomes.append("")
        if not any(stream.closed for stream in self.streams):
            assert outcomes[0] == outcomes[1]
        return outcomes[0]

    def handle(self, event: Any) -> None:
        self.both(lambda stream: stream.stream.handle(event))

    def from_app(self, event: Any) -> str:
        if self.streams[0].scope is None:
            return ""  # no application is called for a request that is wrong
        return self.both(lambda stream: stream.stream.app_send(event))

    # ------------------------------------------------------------------ steps

    def request(self) -> None:
        headers = [*UPGRADE, *self.offered]
        if self.source.byte() & 7 == 7:
            del headers[self.source.byte() % len(headers)]
        self.deflate = any(b"permessage" in value for _, value in headers)
        self.handle(
            events.Request(
                stream_id=1, headers=headers, http_version="1.1", method="GET",
                raw_path=b"/a%20b?c=d", state={},
            )
        )  # fmt: skip

    def receive(self, data: bytes) -> None:
        ours = self.streams[0].stream
        if not ours.closed and getattr(ours, "handshake", None) and ours.handshake.accepted:
            self.input += data
        self.handle(events.Data(stream_id=1, data=data))

    def receive_frame(self) -> None:
        first, payload = self.source.byte(), self.source.take(self.source.byte() & 127)
        self.receive(frame_of(first, payload, masked=True))

    def receive_garbage(self) -> None:
        self.receive(self.source.sized())

    def accept(self) -> None:
        event: dict[str, Any] = {"type": "websocket.accept"}
        event["subprotocol"] = self.source.choice([None, None, "a", "c"])
        self.from_app(event)

    def receive_in_pieces(self) -> None:
        first, payload = self.source.byte(), self.source.take(self.source.byte() & 127)
        for byte in frame_of(first, payload, masked=True):
            if not any(stream.closed for stream in self.streams):
                self.receive(bytes([byte]))

    def send_text(self) -> None:
        self.send({"text": self.source.sized().decode("latin-1")}, "text")

    def send_bytes(self) -> None:
        self.send({"bytes": self.source.sized()}, "bytes")

    def send(self, event: Any, kind: str) -> None:
        before = len(self.streams[0].sent)
        self.from_app({"type": "websocket.send"} | event)
        if len(self.streams[0].sent) > before:
            self.messages.append(event[kind])

    def ping(self) -> None:
        """What its task does at each interval."""
        if all(hasattr(stream.stream, "connection") for stream in self.streams):
            self.both(lambda one: one.stream._send_wsproto_event(one.module.Ping()))

    def deny(self) -> None:
        status = self.source.choice([200, 403, 204])
        headers = [(b"x", b"y")]
        self.from_app(
            {"type": "websocket.http.response.start", "status": status, "headers": headers}
        )

    def send_body(self) -> None:
        more = bool(self.source.byte() & 1)
        self.from_app({"type": "websocket.http.response.body", "body": b"no", "more_body": more})

    def close(self) -> None:
        self.left = True
        code = self.source.choice([1000, 1001, 4999, 3000])
        self.from_app({"type": "websocket.close", "code": code, "reason": "why"})

    def app_ends(self) -> None:
        self.left = True
        self.from_app(None)

    def stream_closed(self) -> None:
        self.left = True
        self.handle(events.StreamClosed(stream_id=1))

    # ------------------------------------------------------------------ what must hold

    def same(self) -> bool:
        """Compare; return False where the two may go different ways from now on."""
        ours, theirs = self.streams
        if ours.closed or theirs.closed:
            # Ours knows of a fault earlier; the code 1014 was registered after theirs was written.
            assert ours.told == theirs.told[: len(ours.told)] or self.deflate
            return False
        assert responses(ours) == responses(theirs)
        if self.deflate:
            return True
        assert without_empty(ours.scope) == without_empty(theirs.scope)
        assert ours.told == theirs.told
        assert ours.sent == theirs.sent
        assert ours.stream.state.name == theirs.stream.state.name
        return True

    def reading(self, data: bytes, *, client: bool) -> Reading:
        inflater = Inflater(15) if self.deflate else None
        return read(data, client=client, limits=Limits(), inflater=inflater)

    def check_ours(self) -> None:
        ours = self.streams[0]
        if any(isinstance(event, events.Response) for event in ours.sent):
            reading = self.reading(ours.output(), client=True)
            assert reading.codes == (), "a client finds fault with what is sent"
            messages = list(reading.messages())
            assert messages == self.messages[: len(messages)]
            if reading.close is None:
                assert len(messages) == len(self.messages), "a message is missing"
        told = [event for event in ours.told if event["type"] == "websocket.receive"]
        found = [event["bytes"] if event["text"] is None else event["text"] for event in told]
        expected = self.reading(bytes(self.input), client=False).messages()
        assert found == expected[: len(found)], "something else is received"
        if not self.left:
            assert len(found) == len(expected), "a message is lost"


def responses(stream: Stream) -> list[Any]:
    return [event for event in stream.sent if isinstance(event, events.Response)]


def without_empty(scope: Any) -> Any:
    """Leave out elements of a list that are empty: theirs takes one for a subprotocol."""
    if scope is None:
        return None
    return scope | {"subprotocols": [name for name in scope["subprotocols"] if name]}


STEPS: list[Callable[[Both], None]] = [
    Both.receive_frame, Both.receive_garbage, Both.accept, Both.receive_in_pieces, Both.send_text,
    Both.send_bytes, Both.ping, Both.deny, Both.send_body, Both.close, Both.app_ends,
    Both.stream_closed,
]  # fmt: skip


def one_input(data: bytes) -> None:
    both = Both(Input(data))
    both.request()
    for _ in range(MAX_STEPS):
        if not both.source or not both.same():
            break
        both.source.choice(STEPS)(both)
    both.check_ours()
