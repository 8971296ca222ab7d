"""The class for uvicorn, behind each of uvicorn's parsers, with an application that does anything.

A client in memory sends a request, frames, and garbage, in any pieces; the application receives
and sends any events in any order, is cancelled, returns, or raises; the server shuts down. Time is
fake.

- The application gets what ASGI says: one ``connect``, the messages that the slow model finds, then
  ``disconnect`` for ever. Its ``send`` raises nothing but what is documented.
- The client gets one whole response, as h11 reads it, or frames with what the application sent, in
  order and without a gap, as the slow model reads them.
- Afterwards nothing is left: tasks, timers, connections, complaints.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import h11
import uvicorn
from uvicorn.server import ServerState

import wsapi.uvicorn
from tests.fuzz.inputs import Input
from tests.fuzz.memory import COMPLAINTS, HEAD_END, Operation, Tap, after_head, frame_of, run
from tests.fuzz.rfc6455 import Inflater, Limits, Reading, read
from tests.fuzz.targets.requests import HEAD
from wsapi.asgi import ClientDisconnected
from wsapi.exceptions import ConcurrencyError, InvalidHeader, ProtocolError
from wsapi.testing import Clock, Link
from wsapi.testing._asyncio import _follow_loop, _new_server_engine
from wsapi.testing._memory import connected

MAX_STEPS = 60
MAX_SIZE = 6000
PIECES = (None, 1, 2, 7, 100, None, None, None)
DELAYS = (0.0, 0.0, 0.01, 1.0)
PASSING = (0.0, 0.001, 0.5, 5.0, 25.0, 100.0)
CODES = (1000, 1001, 3000, 4999, 1006, 7)
MORE_HEADERS = (
    b"",
    b"Sec-WebSocket-Extensions: permessage-deflate\r\n",
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n",
    b"Sec-WebSocket-Protocol: a, b\r\n",
    b"Sec-WebSocket-Version: 12\r\n",
    b"Sec-WebSocket-Extensions: \xff;=\r\n",
)
HEADERS: tuple[Any, ...] = (
    [],
    [(b"X-A", b"1"), (b"x-a", b"2")],
    [(b"content-length", b"7"), (b"transfer-encoding", b"chunked"), (b"connection", b"close")],
    [(b"x", b"a\r\nb: c")],
    [(b"a b", b"c")],
    [(b"Server", b"x"), (b"sec-websocket-accept", b"x")],
)
BODIES = (b"", b"no", b"x" * 3000)
EXPECTED = ("ASGI callable ", "Exception in ASGI application")

PARSERS = ("h11", "httptools" if find_spec("httptools") else "h11")

logger = logging.getLogger("uvicorn.error")

OPENED = b"\x04\x05\x00\x00\x0f"
SEEDS = [
    bytes(4)
    + OPENED
    + b"\x01\x81\x05hello\x0f\x04\x06\x05world\x0f\x04\x01\x88\x02\x03\xe8\x0f\x04\x0d\x00",
    b"\x01\x01\x02\x01"
    + OPENED
    + b"\x01\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00\x0f\x04\x07\x03abc\x0a\x00",
    b"\x02\x00\x00\x00" + b"\x04\x08\x03\x01\x0f\x09\x01\x01\x09\x01\x00\x0f\x04\x0d\x03",
    b"\x08\x03\x00\x00"
    + OPENED
    + b"\x03"
    + (b"\x06\xff" + b"x" * 255) * 5
    + b"\x0f\x0c\x01\x03\x0e\x04",
    b"\x05\x00\x00\x00" + OPENED + b"\x10\x0f\x04\x0e\x05\x04",
    bytes(4) + OPENED + b"\x11\x02\x0f\x04\x06\x01a\x0f\x04",
    bytes(4) + OPENED + b"\x0a\x00\x0f\x04\x01\x81\x01a\x0f\x04\x01\x88\x02\x03\xe8\x0f\x04",
    b"\x00\x04\x00\x00" + b"\x04\x0a\x00\x0f\x04",
    bytes(4) + b"\x04\x10\x0f\x04\x0d\x01",
]


class Clocked(wsapi.uvicorn.WebSocketProtocol):
    """On the clock of the event loop."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        _follow_loop(self)


class Client(asyncio.Protocol):
    """Only writes; its wire keeps what arrives."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport


class LeftByError(Exception):
    """What applications raise."""


async def app(scope: Any, receive: Any, send: Any) -> Any:
    return await Session.current.application(scope, receive, send)


configs: dict[Any, Any] = {}


def config_of(http: str, deflate: bool, queue: int, interval: float | None) -> Any:
    key = http, deflate, queue, interval
    if key not in configs:
        config = uvicorn.Config(
            app, http=http, ws=Clocked, lifespan="off", proxy_headers=False, log_config=None,
            ws_max_size=MAX_SIZE, ws_max_queue=queue, ws_ping_interval=interval, ws_ping_timeout=20,
            ws_per_message_deflate=deflate,
        )  # fmt: skip
        config.load()
        configs[key] = config
    return configs[key]


class Session:
    """A connection of uvicorn's, the client, and the application."""

    current: Session

    def __init__(self, source: Input, clock: Clock) -> None:
        Session.current = self
        self.source = source
        self.clock = clock
        flags = source.byte()
        self.offered = source.choice(MORE_HEADERS)
        self.deflate = not flags & 2
        self.config = config_of(
            PARSERS[flags & 1],
            self.deflate,
            (16, 1)[flags >> 2 & 1],
            (None, 20)[flags >> 3 & 1],
        )
        self.state = ServerState()
        self.to_server = Tap(source.choice(PIECES), source.choice(DELAYS))
        self.to_client = Tap()
        self.scope: Any = None
        self.operations: list[Operation] = []
        self.over = False
        self.result: Any = None
        self.harmed = False
        self.received: list[Any] = []
        self.disconnect: Any = None
        self.receivers = 0
        self.sent: list[tuple[str | bytes, bool]] = []  # with whether it is known to have been sent
        self.count = 0

    # ------------------------------------------------------------------ the application

    async def application(self, scope: Any, receive: Any, send: Any) -> Any:
        self.scope, self.receive, self.send = scope, receive, send
        self.leaving = asyncio.get_running_loop().create_future()
        self.task = asyncio.current_task()
        return await self.leaving

    async def receive_one(self) -> None:
        alone = not self.receivers
        self.receivers += 1
        try:
            event = await self.receive()
        except ConcurrencyError:
            assert not alone
            return
        finally:
            self.receivers -= 1
        if event["type"] == "websocket.disconnect":
            assert self.disconnect in (None, event), "another end"
            self.disconnect = event
        else:
            assert self.disconnect is None, "something after the end"
            self.received.append(event)

    async def send_one(self, event: Any, *documented: type[Exception]) -> None:
        try:
            await self.send(event)
        except (ClientDisconnected, RuntimeError, *documented):
            return

    async def send_message(self, message: Any, name: str) -> None:
        number = len(self.sent)
        self.sent.append((message, False))
        opening = self.connection._opening
        try:
            await self.send({"type": "websocket.send", name: message})
        except ClientDisconnected:
            return
        except RuntimeError:
            assert opening or self.connection._finished
            return
        self.sent[number] = message, True

    # ------------------------------------------------------------------ steps

    def data(self) -> bytes:
        data = self.source.sized()
        return data * 15 if data[:1] == b"*" else data

    def start(self, name: str, function: Callable[..., Any], *args: Any) -> None:
        if not self.leaving.done():
            self.operations.append(Operation(name, lambda: function(*args)))

    def client_sends_frame(self) -> None:
        first, payload = self.source.byte(), self.source.take(self.source.byte() & 127)
        self.to_server.tamper(frame_of(first, payload, masked=True))

    def client_sends_garbage(self) -> None:
        self.to_server.tamper(self.source.sized())

    def client_reads_or_not(self) -> None:
        self.to_client.hold = not self.to_client.hold

    def client_ends(self) -> None:
        self.harmed = True
        self.source.choice([
            self.client.transport.write_eof, self.client.transport.abort,
            Link(self.client.transport).reset, Link(self.client.transport).cut,
        ])()  # fmt: skip

    def receives(self) -> None:
        self.start("receive", self.receive_one)

    def accepts(self) -> None:
        event = {"type": "websocket.accept", "headers": self.source.choice(HEADERS)}
        event["subprotocol"] = self.source.choice([None, None, "a", "c", "a\r\nb"])
        self.start("send accept", self.send_one, event, ValueError, InvalidHeader)

    def sends_text(self) -> None:
        self.count += 1
        text = f"{self.count} {self.data().decode('latin-1')}"
        self.start("send text", self.send_message, text, "text")

    def sends_bytes(self) -> None:
        self.count += 1
        self.start("send bytes", self.send_message, b"%d %s" % (self.count, self.data()), "bytes")

    def denies(self) -> None:
        event = {
            "type": "websocket.http.response.start",
            "status": self.source.choice([200, 204, 304, 404, 599, 99, 101, 600]),
            "headers": self.source.choice(HEADERS),
        }
        self.start("send response", self.send_one, event, ValueError, InvalidHeader)

    def sends_body(self) -> None:
        body = self.source.choice(BODIES)
        more = bool(self.source.byte() & 1)
        event = {"type": "websocket.http.response.body", "body": body, "more_body": more}
        self.start("send body", self.send_one, event, ValueError, InvalidHeader)

    def closes(self) -> None:
        event = {"type": "websocket.close", "code": self.source.choice(CODES), "reason": "why"}
        self.start("send close", self.send_one, event, ProtocolError)

    def sends_nonsense(self) -> None:
        event = self.source.choice([
            {"type": "x"}, {"type": "websocket.send"}, {"type": "websocket.send", "text": 7},
            {"type": "websocket.send", "bytes": ["a"]}, {"type": "http.response.start"},
            {"type": "websocket.send", "text": "\ud800"},
        ])  # fmt: skip
        self.start("send nonsense", self.send_one, event, TypeError, UnicodeError)

    def cancels(self) -> None:
        if self.operations:
            self.source.choice(self.operations).cancel()

    def leaves(self) -> None:
        if not self.leaving.done():
            how = self.source.byte() & 3
            if how == 3:
                self.leaving.set_exception(LeftByError())
            elif how == 2:
                self.leaving.cancel()
            else:
                self.leaving.set_result([None, "result"][how])

    async def time_passes(self) -> None:
        await self.clock.advance(self.source.choice(PASSING))

    async def settle(self) -> None:
        await self.clock.settle()

    async def turn(self) -> None:
        await asyncio.sleep(0)

    def shuts_down(self) -> None:
        self.harmed = True
        self.connection.shutdown()

    # ------------------------------------------------------------------ the whole

    async def run(self) -> None:
        self.client = Client()
        http = self.config.http_protocol_class(
            config=self.config, server_state=self.state, app_state={}
        )
        connected(self.client, http, self.to_server, self.to_client)
        self.client.transport.write(HEAD + self.offered + b"\r\n")
        await self.clock.advance(1000)
        self.connection = server = self.client.transport._peer.get_protocol()
        if isinstance(server, Clocked) and self.scope is not None:
            await self.use()
        self.client.transport.abort()
        self.to_client.hold = False
        await self.clock.advance(100)
        assert not self.state.connections, "a connection is left"
        assert not self.state.tasks, "a task is left"
        assert isinstance(server, Clocked) or self.scope is None
        self.check_complaints()

    async def use(self) -> None:
        for _ in range(MAX_STEPS):
            if not self.source:
                break
            done = self.source.choice(STEPS)(self)
            if done is not None:
                await done
            self.operations = [each for each in self.operations if not each.over()]
        for operation in self.operations:
            operation.cancel()
        await self.clock.settle()
        if not self.leaving.done():
            await self.take_all()
            self.check_received()
            if not self.disconnect:
                # It closes the connection; who doesn't answer is left.
                self.leaving.set_result(None)
        await self.clock.advance(100)
        assert self.task is not None
        if self.leaving.done():
            assert self.task.done(), "the application goes on"
        self.to_client.hold = False
        await self.clock.advance(100)
        if self.leaving.done() or self.disconnect:
            assert self.connection._lost, "the connection isn't closed"
        if not self.leaving.done():
            self.leaving.set_result(None)
        await self.clock.settle()
        self.check_output()

    async def take_all(self) -> None:
        while self.disconnect is None:
            before = len(self.received)
            operation = Operation("receive", self.receive_one)
            await self.clock.settle()
            if not operation.over():
                operation.cancel()
                await self.clock.settle()
                assert operation.over()
            if len(self.received) == before:
                return
        await self.receive_one()  # the same again

    def reading(self, data: bytes, *, client: bool) -> Reading:
        inflater = Inflater(15) if self.deflate and b"permessage" in self.offered else None
        limits = Limits(MAX_SIZE, None, 4096)
        return read(data, client=client, limits=limits, inflater=inflater)

    def check_received(self) -> None:
        expected = self.reading(after_head(self.to_server.arrived), client=False).messages()
        if not self.received:
            assert self.disconnect is None or self.harmed
            return
        assert self.received[0] == {"type": "websocket.connect"}
        found = []
        for event in self.received[1:]:
            assert event["type"] == "websocket.receive"
            assert (event.get("text") is None) is not (event.get("bytes") is None)
            found.append(event["bytes"] if event.get("text") is None else event["text"])
        assert found == expected[: len(found)], "something else is received"
        if self.connection._opening or self.connection._finished or self.harmed:
            return
        close = self.connection.protocol.close_sent
        if close is None or close.code != 1011:  # it may have failed by itself, and looks no more
            assert len(found) == len(expected), "a message is lost"

    def check_output(self) -> None:
        data = bytes(self.to_client.written)
        head, end, rest = data.partition(HEAD_END)
        if not data:
            # An application may leave after half a response.
            assert self.harmed or self.connection._denial, "there is no response"
            return
        assert end, "a head is cut"
        if head.startswith(b"HTTP/1.1 101 "):
            reading = self.reading(rest, client=True)
            assert reading.codes == (), "a client finds fault with what is sent"
            sent = iter(self.sent)
            for message in reading.messages():
                for other, known in sent:
                    if other == message:
                        break
                    assert not known, "a message is missing"
                else:
                    raise AssertionError("what is sent is nobody's, or out of order")
            return
        peer = h11.Connection(h11.CLIENT)
        peer.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        peer.send(h11.EndOfMessage())
        peer.receive_data(data)
        peer.receive_data(b"")
        while (event := peer.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            if isinstance(event, h11.ConnectionClosed | h11.EndOfMessage):
                break
        assert isinstance(event, h11.EndOfMessage | h11.ConnectionClosed), event
        assert not peer.trailing_data[0], "something behind the response"

    def check_complaints(self) -> None:
        """Only what the application did wrong is complained of."""
        lines = COMPLAINTS.lines
        COMPLAINTS.lines = [line for line in lines if not line.startswith(EXPECTED)]
        if len(lines) > 1:
            raise AssertionError(lines)


STEPS: list[Callable[[Session], Any]] = [
    Session.turn, Session.client_sends_frame, Session.client_sends_garbage,
    Session.client_reads_or_not, Session.receives, Session.accepts, Session.sends_text,
    Session.sends_bytes, Session.denies, Session.sends_body, Session.closes,
    Session.sends_nonsense, Session.cancels, Session.leaves, Session.time_passes, Session.settle,
    Session.shuts_down, Session.client_ends,
]  # fmt: skip


def one_input(data: bytes) -> None:
    engine, wsapi.uvicorn.ServerProtocol = wsapi.uvicorn.ServerProtocol, _new_server_engine  # type: ignore[assignment, misc, attr-defined]
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(COMPLAINTS)
    try:
        run(lambda clock: Session(Input(data), clock).run())
    finally:
        wsapi.uvicorn.ServerProtocol = engine  # type: ignore[misc, attr-defined]
        logger.removeHandler(COMPLAINTS)
        logger.propagate = propagate
