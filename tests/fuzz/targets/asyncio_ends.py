"""A client and a server of wsapi.asyncio in memory, used in any order, while their network fails.

Bytes are split, delayed, held up, lost, and tampered with; streams end, connections are reset;
calls are cancelled at any time. Time is fake.

- Calls raise nothing but what is documented, and end once the connection is closed.
- What a side receives is what the slow model finds in the bytes that reached it, without a gap.
- What a side sends is what the slow model takes for frames: its messages in order, none twice, and
  none missing before a proper end.
- Close codes are those of the model, or 1006; who is silent is found out.
- Afterwards nothing is left: tasks, timers, complaints of the event loop or in logs.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from tests.fuzz.frames import Joining
from tests.fuzz.inputs import Input
from tests.fuzz.memory import LOGGER, OnPurpose, Operation, Tap, after_head, frame_of, run
from tests.fuzz.rfc6455 import Inflater, Limits, Reading, read
from wsapi.asyncio.connection import broadcast
from wsapi.exceptions import (
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidHandshake,
    InvalidState,
    ProtocolError,
)
from wsapi.testing import Link, link, serving
from wsproto_fast.frames import State

Message = str | bytes

MAX_STEPS = 80
MAX_SIZE = 6000
PIECES = (None, 1, 2, 7, 100, None, None, None)
DELAYS = (0.0, 0.011, 1.03, 8.07)  # no sum of which is a deadline
CODES = (1000, 1001, 3000, 4999)
MOST_ANSWERS = 200  # of a callback: if both ends answer, that would go on for ever
MOST_TIME = 300  # seconds that pass in steps; each may have a ping
PASSING = (0.0, 0.001, 0.5, 5.0, 25.0, 100.0)
KEEPALIVE = ((None, None), (20, 20), (20, None), (1, 3))

LONG = b"\xff" + b"x" * 255
SEEDS = [
    bytes(8) + b"\x00\x05hello\x80\x05world\x03\x83\x0a\x03\x83\x0a\x07\x00",
    b"\x01" + bytes(7) + b"\x02\x00\x02\x01a\x01b\x01c\x00\x84\x0a\x81\x05hello\x03\x0a\x87\x01",
    bytes(8) + b"\x02\x01\x01\x01a\x01b\x03\x0b\x00\x05hello\x83\x09\x04\x83\x09\x05\x83",
    bytes(8) + b"\x02\x01\x01\x01a\x01b\x03\x0b\x08\x00\x0a\x00\x05hello\x83\x0a\x83",
    b"\x08" + bytes(7) + (b"\x00" + LONG) * 6 + b"\x0a\x05\x19\x08\x02\x0a\x90\x09\x03",
    b"\x0a" + bytes(7) + b"\x0f" + (b"\x00" + LONG) * 4 + b"\x05\x0a\x0e\x0a\x83",
    b"\x40\x05" + bytes(6) + b"\x05\x0a\x8d\x85\x12\x09\x05\x83",
    b"\x24\x00\x01\x01\x03\x02"
    + bytes(2)
    + b"\x03\x08\x00\x83\x8c\x00\x00\x00\x03abc\x09\x04\x07\x00",
    bytes(8) + b"\x93\x81\x03abc\x03\x0a\x93\x88\x02\x03\xe8\x0a\x94\x04abcd\x0a",
    bytes(8) + b"\x98\x00\x05hello\x17\x05world\x83\x0a\x91\x03abc\x03\x1a\x9a\x16\x0a",
    bytes(6) + b"\x01\x40" + b"\x05",
    bytes(6) + b"\x07\x20" + b"\x05",
]


@dataclass
class Sent:
    """A message, and when the call that sent it began and returned."""

    message: Message
    begin: int
    end: float = math.inf

    @property
    def known(self) -> bool:
        return self.end < math.inf


class End:
    """One end of the connection, and what was done with it."""

    transport_keeps = False  # what is written waits before the wire sees it

    def __init__(self, session: Session, client: bool, outgoing: Tap, incoming: Tap) -> None:
        self.session = session
        self.client = client
        self.outgoing, self.incoming = outgoing, incoming
        self.connection: Any = None
        self.sent: list[Sent] = []
        self.received: list[Message] = []
        self.torn: set[int] = set()  # which of these aren't whole
        self.receivers = 0
        self.listening = False
        self.left = False  # it was closed by its program
        self.answers = False  # callbacks send

    def begin(self, message: Message) -> Sent:
        self.sent.append(Sent(message, self.session.tick()))
        return self.sent[-1]

    # ------------------------------------------------------------------ calls

    async def send(self, message: Message) -> None:
        await self.sending(message, message)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def send_fragments(self, pieces: list[Any], pause: float) -> None:
        async def fragments() -> AsyncIterator[Any]:
            for piece in pieces:
                yield piece
                await self.sleep(pause)

        async with aclosing(fragments()) as given:
            await self.sending(pieces[0][:0].join(pieces), given)

    async def sending(self, message: Message, given: Any) -> None:
        sent = self.begin(message)
        try:
            await self.connection.send(given)
        except ConnectionClosed:
            return
        sent.end = self.session.tick()

    async def recv(self) -> None:
        await self.receiving(self.recv_once)

    async def recv_once(self) -> None:
        self.received.append(await self.connection.recv())

    async def recv_streaming(self) -> None:
        await self.receiving(self.stream_once)

    async def stream_once(self) -> None:
        number = len(self.received)
        async for piece in self.connection.recv_streaming():
            if number == len(self.received):
                self.received.append(piece)
                self.torn.add(number)
            else:
                self.received[number] += piece
        assert number < len(self.received), "a message without a fragment"
        self.torn.remove(number)

    async def leave_streaming(self, pieces: int) -> None:
        await self.receiving(lambda: self.stream_some(pieces))

    async def stream_some(self, pieces: int) -> None:
        """Take a part of a message. The next call begins with the next message."""
        async with aclosing(self.connection.recv_streaming()) as given:
            number = len(self.received)
            async for piece in given:
                if number == len(self.received):
                    self.received.append(piece)
                    self.torn.add(number)
                else:
                    self.received[number] += piece
                pieces -= 1
                if not pieces:
                    break

    async def iterate(self) -> None:
        await self.receiving(self.iterate_all)

    async def iterate_all(self) -> None:
        async for message in self.connection:
            self.received.append(message)

    async def receiving(self, receive: Callable[[], Coroutine[Any, Any, None]]) -> None:
        alone = not self.receivers and not self.listening
        self.receivers += 1
        try:
            await receive()
        except ConnectionClosed:
            pass
        except ConcurrencyError:
            assert not alone, "nobody else receives"
        finally:
            self.receivers -= 1

    async def ping(self) -> None:
        try:
            assert await (await self.connection.ping()) >= 0
        except ConnectionClosed:
            pass

    async def pong(self) -> None:
        try:
            await self.connection.pong(b"x")
        except ConnectionClosed:
            pass

    async def close(self, code: int) -> None:
        self.left = True
        await self.connection.close(code, "why")

    async def close_too(self) -> None:
        """Close it, when all that was on its way has been taken."""
        await self.connection.close()

    async def wait_closed(self) -> None:
        await self.connection.wait_closed()

    async def drain(self) -> None:
        try:
            await self.connection.drain()
        except ConnectionClosed:
            pass

    def send_nowait(self, message: Message) -> None:
        try:
            self.connection.send_nowait(message)
        except (ConnectionClosed, InvalidState, ConcurrencyError):
            return
        self.begin(message).end = self.session.tick()

    def listen(self, how: int = 0) -> None:
        """Listen; ``how``: 1 answers, 2 takes frames, 4 closes, 8 fails with the third message."""

        def on_message(message: Message) -> None:
            self.received.append(message)
            if how & 1 and len(self.received) <= MOST_ANSWERS:
                self.send_nowait(self.session.text())
            if len(self.received) == 3:
                if how & 4:
                    self.session.close(self)
                if how & 8:
                    raise OnPurpose

        try:
            if how & 2:
                self.connection.listen(on_frame=Joining(on_message))
            else:
                self.connection.listen(on_message)
        except ConcurrencyError:
            assert self.receivers or self.listening
        else:
            self.listening, self.answers = True, bool(how & 1)

    # ------------------------------------------------------------------ what must hold

    def reading(self, data: bytearray, client: bool, max_size: int | None = MAX_SIZE) -> Reading:
        inflater = Inflater(15) if self.session.deflate else None
        limits = Limits(max_size, None, 4096)
        return read(after_head(data), client=client, limits=limits, inflater=inflater)

    def check_received(self, *, whole: bool) -> None:
        """Compare with what the model finds; ``whole`` if nothing may be left to receive."""
        expected = self.reading(self.incoming.arrived, self.client).messages()
        for number, message in enumerate(self.received):
            if number < len(expected):
                other = expected[number]
                assert type(message) is type(other), "of another type"
                if number in self.torn:
                    assert other.startswith(message)  # type: ignore[arg-type] # of the same type
                else:
                    assert message == other, "something else is received"
            else:
                assert number == len(expected), "more is received than was sent"
                assert number in self.torn, "what isn't whole is received"
        if whole:
            assert len(self.received) >= len(expected), "a message is lost"

    def check_sent(self) -> None:
        """Read what was sent as a peer does."""
        # What is too large for the peer is sent all the same.
        reading = self.reading(self.outgoing.written, not self.client, None)
        assert reading.codes == (), "a peer finds fault with what is sent"
        sent = {(type(each.message), each.message): each for each in self.sent}
        order = []
        for message in reading.messages():
            assert (type(message), message) in sent, "what is sent is nobody's, or was sent before"
            order.append(sent.pop((type(message), message)))
        # Calls that overlap may change places: one that begins when a message in fragments has just
        # been sent overtakes those that wait for that.
        for number, each in enumerate(order):
            for later in order[number + 1 :]:
                assert later.end > each.begin, "out of order"
        last = max((each.begin for each in order), default=0)
        self.unsent = [each for each in sent.values() if each.known]
        assert all(each.end > last for each in self.unsent), "a message is missing"

    def failed(self) -> bool:
        """Tell whether it may have failed by itself, and looked at nothing from then on."""
        if self.answers and self.session.harmed:
            return True  # an answer may have found no connection any more
        close = self.connection.protocol.close_sent
        return close is not None and close.code == 1011

    def check_fault(self) -> None:
        reading = self.reading(self.incoming.arrived, self.client)
        if reading.codes and not self.left and not self.session.harmed and not self.failed():
            protocol = self.connection.protocol
            # A Close frame behind what is compressed was answered before the fault's turn came.
            passed_by = self.session.deflate and protocol.close_rcvd and protocol.parser_exc
            assert passed_by or protocol.close_sent.code in reading.codes

    def check_end(self, peer: End) -> None:
        connection = self.connection
        assert connection.state is State.CLOSED
        exc = connection.protocol.close_exc
        reading = self.reading(self.incoming.arrived, self.client)
        if reading.close is None:
            # A Close frame doesn't wait for its turn behind what may be compressed, and at fault;
            # who closes drops what its queue is too full for, without inflating it.
            passed_by = exc.__cause__ is not None or self.left
            behind = reading.codes and self.session.deflate and passed_by
            assert connection.close_code == 1006 or behind
        elif not self.session.harmed and not self.failed():
            assert connection.close_code == reading.close[0]
        else:
            assert connection.close_code in (reading.close[0], 1006)
        if isinstance(exc, ConnectionClosedOK) and not self.incoming.tampered:
            # Of what the network, or the transport, keeps for good when a Close has been answered,
            # the peer is told.
            told = isinstance(peer.connection.protocol.close_exc, ConnectionClosedError)
            held = (self.outgoing.hold or self.transport_keeps) and told
            assert held or not self.unsent, "a message is lost without an error"
            if not peer.left and not self.outgoing.tampered and not self.session.harmed:
                assert len(peer.received) >= sum(each.known for each in self.sent)


class Session:
    """A connection, and its network."""

    end_class = End
    steps: list[Callable[[Any, Any], Any]]

    def __init__(self, source: Input, clock: Any) -> None:
        self.source = source
        self.clock = clock
        flags = source.byte()
        self.deflate = bool(flags & 1)
        self.server_closes = bool(flags & 32)
        self.impatient = bool(flags & 64)  # what goes on is cancelled, before all is closed
        options: dict[str, Any] = {
            "compression": "deflate" if self.deflate else None,
            "max_size": MAX_SIZE,
            "close_timeout": 10,
            "open_timeout": 10,
            "max_queue": (None, 16, 1, 2)[flags >> 1 & 3],
            "write_limit": (2**15, 100)[flags >> 3 & 1],
            "logger": LOGGER,
        }
        second = source.byte()
        self.keepalive = [KEEPALIVE[second & 3], KEEPALIVE[second >> 2 & 3]]
        self.options = [
            options | {"ping_interval": interval, "ping_timeout": timeout}
            for interval, timeout in self.keepalive
        ]
        wires = [Tap(source.choice(PIECES), source.choice(DELAYS)) for _ in range(2)]
        make = self.end_class
        self.ends = [make(self, True, *wires), make(self, False, *reversed(wires))]
        self.harmed = False  # the network did more than to split and to delay
        self.cut = False
        self.operations: list[Operation] = []
        self.count = self.ticks = 0
        self.passed = 0.0  # seconds, in steps

    @property
    def link(self) -> Any:
        return link(self.ends[0].connection)

    def tick(self) -> int:
        self.ticks += 1
        return self.ticks

    def operation(self, name: str, function: Callable[[], Coroutine[Any, Any, None]]) -> Any:
        return Operation(name, function)

    def start(self, name: str, function: Callable[..., Any], *args: Any) -> None:
        self.operations.append(self.operation(name, lambda: function(*args)))

    # ------------------------------------------------------------------ steps

    def text(self) -> str:
        self.count += 1
        return f"{self.count} {self.data().decode('latin-1')}"

    def bytes(self) -> bytes:
        self.count += 1
        return b"%d %s" % (self.count, self.data())

    def data(self) -> bytes:
        data = self.source.sized()
        return data * 15 if data[:1] == b"*" else data

    def send_text(self, end: End) -> None:
        self.start("send", end.send, self.text())

    def send_bytes(self, end: End) -> None:
        self.start("send", end.send, self.bytes())

    def send_fragments(self, end: End) -> None:
        one = self.source.choice([self.text, self.bytes])
        pieces = [one() for _ in range(1 + (self.source.byte() & 3))]
        pause = self.source.choice([0.0, 0.0, 0.5, 20.0])
        self.start("send fragments", end.send_fragments, pieces, pause)

    def recv(self, end: End) -> None:
        self.start("recv", end.recv)

    def recv_streaming(self, end: End) -> None:
        self.start("recv_streaming", end.recv_streaming)

    def ping(self, end: End) -> None:
        self.start("ping", end.ping)

    def pong(self, end: End) -> None:
        self.start("pong", end.pong)

    def close(self, end: End) -> None:
        self.start("close", end.close, self.source.choice(CODES))

    def cancel(self, end: End) -> None:
        if self.operations:
            self.source.choice(self.operations).cancel()

    async def time_passes(self, end: End) -> None:
        seconds = self.source.choice(PASSING)
        if self.passed < MOST_TIME:
            self.passed += seconds
            await self.clock.advance(seconds)

    async def settle(self, end: End) -> None:
        await self.clock.settle()

    async def turn(self, end: End) -> None:
        await asyncio.sleep(0)

    def split_and_delay(self, end: End) -> None:
        end.outgoing.split = self.source.choice(PIECES)
        end.outgoing.delay = self.source.choice(DELAYS)

    def lose_all(self, end: End) -> None:
        self.link.cut()
        self.harmed = self.cut = True

    def reset(self, end: End) -> None:
        self.link.reset()
        self.harmed = True

    def hold(self, end: End) -> None:
        end.outgoing.hold = not end.outgoing.hold
        self.harmed = True

    def iterate(self, end: End) -> None:
        self.start("async for", end.iterate)

    def send_nowait(self, end: End) -> None:
        end.send_nowait(self.text())

    def wait_closed(self, end: End) -> None:
        self.start("wait_closed", end.wait_closed)

    def tamper(self, end: End) -> None:
        first, payload = self.source.byte(), self.source.take(self.source.byte() & 127)
        end.outgoing.tamper(frame_of(first, payload, masked=end.client))

    def garbage(self, end: End) -> None:
        end.outgoing.tamper(self.source.sized())

    def end_of_stream(self, end: End) -> None:
        end.connection.transport.write_eof()
        self.harmed = True

    def abort(self, end: End) -> None:
        end.connection.transport.abort()
        self.harmed = True

    def broadcast(self, end: End) -> None:
        message = self.text()
        for each in self.ends:
            each.begin(message)
        broadcast([each.connection for each in self.ends], message)

    def listen(self, end: End) -> None:
        end.listen()

    def listen_and_act(self, end: End) -> None:
        end.listen(self.source.byte())

    def leave_streaming(self, end: End) -> None:
        self.start("recv_streaming", end.leave_streaming, 1 + (self.source.byte() & 3))

    def drain(self, end: End) -> None:
        self.start("drain", end.drain)

    async def misuse(self, end: End) -> None:
        """What raises, and does nothing."""
        connection = end.connection
        for name, *arguments in (
            ("close", 1006), ("close", 1000, "x" * 124), ("ping", b"x" * 126), ("send", 7),
            ("send", {"a": 1}),
        ):  # fmt: skip
            if connection.state is not State.OPEN or connection.transport.is_closing():
                return  # it makes no difference any more
            if connection._driver.sending_fragments:
                return
            try:
                await getattr(connection, name)(*arguments)
            except (ProtocolError, TypeError):
                continue
            raise AssertionError(f"misuse is accepted: {name}, {arguments}")

    # ------------------------------------------------------------------ the whole

    async def run(self) -> None:
        arrived: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def handler(connection: Any) -> None:
            arrived.set_result(connection)
            await connection.wait_closed()

        client, server = self.ends
        harm, place_of_harm = self.source.byte(), self.source.byte() * 2
        async with serving(handler, **self.options[1]) as place:
            connecting = asyncio.ensure_future(
                self.connect(
                    place.connect(
                        outgoing=client.outgoing, incoming=client.incoming, **self.options[0]
                    )
                )
            )
            await asyncio.sleep(0)
            if harm & 3:
                self.harm_opening(harm, place_of_harm)
            for _ in range(10):
                await self.clock.advance(10)
                if connecting.done():
                    break
            assert connecting.done(), "opening doesn't end"
            client.connection = await connecting
            if client.connection is not None and arrived.done():
                server.connection = await arrived
                await self.use()

    def harm_opening(self, harm: int, place: int) -> None:
        """Have something happen in the opening handshake."""
        wire = self.ends[harm >> 2 & 1].outgoing
        if not wire._received or wire._sender is None:
            return
        actions = [Link(wire._sender).reset, wire._sender.write_eof, wire.lose]
        self.harmed = True
        wire.harm = place, actions[(harm & 3) - 1]

    async def connect(self, connecting: Any) -> Any:
        try:
            return await connecting
        except (OSError, InvalidHandshake):
            assert self.harmed or any(end.outgoing.delay for end in self.ends)
            return None

    async def use(self) -> None:
        for _ in range(MAX_STEPS):
            if not self.source:
                break
            step = self.source.byte()
            done = self.steps[(step & 127) % len(self.steps)](self, self.ends[step >> 7])
            if done is not None:
                await done
            self.operations = [each for each in self.operations if not each.over()]
        # Nobody calls any more; all that arrived is taken.
        for operation in self.operations if self.impatient else ():
            operation.cancel()
        await self.clock.settle()
        for end in self.ends:
            await self.take_all(end)
        for end in self.ends:
            end.check_fault()
            if not end.left and not end.failed():
                end.check_received(whole=True)
        if self.cut and all(map(all, self.keepalive)):
            for _ in range(20):
                await self.clock.advance(10)
                # Whose queue is full doesn't read answers; what was under way may have filled it.
                for end in self.ends:
                    await self.take_all(end)
            for end in self.ends:
                assert end.connection.state is State.CLOSED, "who is silent isn't found out"
        # One closes, and the other one takes all that was on its way.
        closing, other = reversed(self.ends) if self.server_closes else self.ends
        self.operations.append(self.operation("async for", other.iterate))
        self.operations.append(self.operation("close", lambda: closing.close(1000)))
        await self.clock.advance(60)
        self.operations.append(self.operation("close", lambda: other.close_too()))
        await self.clock.advance(60)
        for operation in self.operations:
            assert self.has_ended(operation), f"{operation.name} doesn't end"
        for end in self.ends:
            await self.take_all(end)
            end.check_received(whole=False)
            end.check_sent()
        client, server = self.ends
        client.check_end(server)
        server.check_end(client)

    def has_ended(self, operation: Any) -> bool:
        ended: bool = operation.over()
        return ended

    async def take_all(self, end: End) -> None:
        while True:
            before = len(end.received)
            operation = self.operation("recv", end.recv)
            await self.clock.settle()
            if not operation.over():
                operation.cancel()
                await self.clock.settle()
                assert operation.over()
            if len(end.received) == before:
                return


Session.steps = [
    Session.send_text, Session.send_bytes, Session.send_fragments, Session.recv,
    Session.recv_streaming, Session.ping, Session.pong, Session.close, Session.cancel,
    Session.time_passes, Session.settle, Session.turn, Session.split_and_delay, Session.lose_all,
    Session.reset, Session.hold, Session.iterate, Session.send_nowait, Session.wait_closed,
    Session.tamper, Session.garbage, Session.end_of_stream, Session.abort, Session.broadcast,
    Session.listen, Session.drain, Session.misuse, Session.listen_and_act, Session.leave_streaming,
]  # fmt: skip


def one_input(data: bytes) -> None:
    run(lambda clock: Session(Input(data), clock).run())
