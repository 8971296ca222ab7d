"""One connection, called in any order, with anything, at any time.

- Nothing but what is documented is raised; after that, all is as it was.
- What is sent is what a peer may get: whole frames, messages in order, one Close frame, nothing
  behind the end of the stream.
- What is received is what the slow model finds in the same bytes.
- Timers that are served are over; the end has a deadline until the connection is lost.
- What waits is bounded by what was sent and received.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

from tests.fuzz.frames import Joining
from tests.fuzz.inputs import Input
from tests.fuzz.rfc6455 import Inflater, Limits, read
from wsproto_fast import (
    Backpressure,
    ConcurrencyError,
    Extension,
    Frame,
    InvalidState,
    PerMessageDeflate,
    PreparedMessage,
    Protocol,
    ProtocolError,
    Side,
    Slow,
    State,
    activity,
)

TEXT, BINARY, CLOSE = 1, 2, 8
MAX_STEPS = 200
MAX_SIZE = 1000
CODES = (1000, 1001, 1006, 1011, 3000, 4999, 5000, 0, None, 1005)
BAD: tuple[Any, ...] = (None, 7, object(), ["a"], 1.5)
POLICIES = (*Slow, None)
COMPRESS = (None, True, False)
INFLATED = 1100  # times as large as what was received, at most (RFC 1951)

SEEDS = [
    b"\x00\x00" + b"\x00\x03abc\x02\x03def" * 3 + b"\x0a\x00\x10\x88\x02\x03\xe8\x12\x13",
    b"\x03\x01" + b"\x1a\x10\x10\x01\x05hello\x14\x16\x14\x14\x10\x09\x01x\x15\x09",
    b"\x02\x03" + b"\x18\x01\x1b\x02\x20\x00\x05hello\x00\x05hello\x19\x15",
    b"\x04\x05" + b"\x04\x00\x01\x03abc\x06\x02de\x06\x81ff\x07\x01a\x08\x01b",
    b"\x08\x00" + b"\x1d\x01\x10\x81\x03abc\x10\x82\x02xy\x10\x89\x00",
    b"\x01\x07" + b"\x1c\x05\x0a\x10\x81\x03abc\x10\x81\x03abc\x14\x14\x0d\x01\x0c\x00\x0f",
]


class Leaving(BaseException):
    """Ends the event loop, as SystemExit does."""


class Nothing(Extension):
    """An extension of the program, which changes nothing."""

    name = "nothing"

    def encode(self, frame: Frame) -> Frame:
        return frame

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        assert max_size is None or max_size >= 0
        return frame


class Log(logging.Handler):
    """Formats what is logged, as one would. The parser doesn't fail."""

    def emit(self, record: logging.LogRecord) -> None:
        assert "parser failed" not in record.getMessage()


def logger(level: int) -> logging.Logger:
    made = logging.Logger("fuzz", level)
    made.addHandler(Log())
    return made


ERRORS, EVERYTHING = logger(logging.ERROR), logger(logging.DEBUG)


class Session:
    """A connection, and what was done with it."""

    def __init__(self, source: Input) -> None:
        first, second = source.byte(), source.byte()
        self.source = source
        self.rng = source.random() if first & 128 else Input(b"").random()
        self.side = Side(first & 1)
        self.now = 1.0
        logger = EVERYTHING if first & 64 else ERRORS
        self.protocol = protocol = Protocol(self.side, max_size=MAX_SIZE, logger=logger)
        self.deflate = bool(first & 2)
        if self.deflate:
            protocol.extensions = [PerMessageDeflate(False, False, 15, 15)]
        elif first & 32:
            protocol.extensions = [Nothing()]
        self.queued = bool(first & 4)
        protocol.queue_messages(
            (16, 2, None, 0)[second & 3], max_bytes=(None, 2**22, 500, 0)[second >> 2 & 3]
        )
        protocol.set_timeouts(
            ping_interval=20 if first & 8 else None,
            ping_timeout=20 if first & 16 else None,
            close_timeout=10,
            now=self.now,
        )
        protocol.use_read_buffer(memoryview(bytearray(64)))
        self.received = bytearray()
        self.messages: list[Any] = []
        self.whole = True  # nobody looked at fragments, nothing was dropped
        self.listening = False
        self.sent = bytearray()
        self.size_sent = 0
        self.ended = False  # all is sent, and the end of the stream
        self.lost = False
        self.eof = False
        self.waiters: list[int] = []
        self.acknowledged: list[int] = []
        self.receiving = False

    # ------------------------------------------------------------------ looking

    def snapshot(self) -> tuple[Any, ...]:
        protocol = self.protocol
        stats = protocol.stats(now=self.now)
        return (
            protocol.state,
            protocol.output_size,
            protocol.transport_action,
            protocol.close_sent,
            protocol.close_rcvd,
            protocol.parser_exc,
            protocol.queued_frames,
            protocol.next_timeout(),
            protocol.reading_wanted,
            protocol.backlog_size,
            protocol.backlog_messages,
            protocol.waits_to_send,
            protocol.latency,
            protocol.max_size,
            stats,
        )

    def look(self) -> None:
        """Check what must hold at any time."""
        protocol = self.protocol
        state = protocol.state
        due = protocol.next_timeout()
        if state is State.OPEN:
            assert protocol.transport_action == activity.KEEP
        else:
            assert protocol.close_sent or protocol.parser_exc or state >= State.CLOSING
        if self.lost:
            assert state is State.CLOSED
            assert due is None
            assert protocol.output_size == 0
        if state is State.CLOSED:
            assert protocol.close_code is not None
            assert protocol.close_exc is not None
        else:
            assert protocol.close_code is None
        if self.ended:
            assert protocol.output_size == 0, "something is sent behind the end of the stream"
        bound = len(self.received) * (INFLATED if self.deflate else 100) + 20_000
        assert protocol.buffered_bytes() <= bound + self.size_sent * 2 + 400 * MAX_STEPS
        for waiter, latency in protocol.acknowledged_pings():
            assert latency >= 0
            self.acknowledged.append(waiter)
        assert self.acknowledged == self.waiters[: len(self.acknowledged)]

    def take(self) -> None:
        protocol = self.protocol
        in_parts = self.rng.randrange(2)
        while protocol.output_size:
            assert not self.ended, "something is sent behind the end of the stream"
            if in_parts:
                self.sent += b"".join(protocol.take_output_parts())
            else:
                self.sent += protocol.take_output()
        if protocol.transport_action >= activity.HALF_CLOSE:
            self.ended = True

    def call(
        self, function: Callable[..., Any], *args: Any, raises: Any = (), **kwargs: Any
    ) -> Any:
        """Call, and check that an exception is among what is documented and has changed nothing."""
        before = self.snapshot()
        try:
            return function(*args, **kwargs)
        except raises:
            assert self.snapshot() == before
            return None

    # ------------------------------------------------------------------ what can be done

    def data(self) -> bytes:
        data = self.source.sized()
        if data[:1] == b"*":
            data *= 20
        self.size_sent += len(data)
        return data

    def text(self) -> str:
        return self.data().decode("utf-8", "replace")

    def send_text(self) -> None:
        raises = InvalidState, ConcurrencyError
        self.call(self.protocol.send, self.text(), raises=raises)

    def send_bytes(self) -> None:
        kind = self.source.choice([bytes, bytearray, memoryview])
        compress = self.source.choice(COMPRESS)
        raises = InvalidState, ConcurrencyError
        self.call(self.protocol.send, kind(self.data()), compress=compress, raises=raises)

    def send_nonsense(self) -> None:
        raises = InvalidState, ConcurrencyError, TypeError
        value = self.source.choice(BAD)
        for name in ("send", "send_text", "send_ping"):
            before = self.snapshot()
            try:
                getattr(self.protocol, name)(value)
            except (*raises, ProtocolError):
                assert self.snapshot() == before
            else:
                raise AssertionError(f"{name}({value!r}) is accepted")

    def send_bytes_as_text(self) -> None:
        raises = InvalidState, ConcurrencyError, UnicodeError
        self.call(self.protocol.send, self.data(), True, raises=raises)

    def send_text_frame(self) -> None:
        raises = InvalidState, ProtocolError, UnicodeError
        fin = self.source.choice([False, True])
        self.call(self.protocol.send_text, self.data(), fin, raises=raises)

    def send_binary_frame(self) -> None:
        fin = self.source.choice([False, True])
        self.call(self.protocol.send_binary, self.data(), fin, raises=(InvalidState, ProtocolError))

    def send_continuation(self) -> None:
        fin = self.source.choice([False, True])
        raises = InvalidState, ProtocolError, UnicodeError
        self.call(self.protocol.send_continuation, self.data(), fin, raises=raises)

    def ping(self) -> None:
        number = len(self.waiters)
        raises = InvalidState, ProtocolError, ConcurrencyError
        data = self.source.choice([None, b"", self.data()])
        if self.call(self.protocol.ping, data, number, now=self.now, raises=raises) is not None:
            self.waiters.append(number)

    def send_ping(self) -> None:
        self.call(self.protocol.send_ping, self.data(), raises=(InvalidState, ProtocolError))

    def send_pong(self) -> None:
        self.call(self.protocol.send_pong, self.data(), raises=(InvalidState, ProtocolError))

    def close(self) -> None:
        code = self.source.choice(CODES)
        self.call(self.protocol.close, code, self.text(), now=self.now, raises=ProtocolError)

    def send_close(self) -> None:
        code, raises = self.source.choice(CODES), (ProtocolError, InvalidState)
        self.call(self.protocol.send_close, code, self.text(), now=self.now, raises=raises)

    def fail(self) -> None:
        code = self.source.choice([1002, 1006, 1011])
        self.protocol.fail(code, self.text(), now=self.now)
        assert self.protocol.state >= State.CLOSING

    def give_up(self) -> None:
        self.protocol.give_up(OSError(), abort=bool(self.source.byte() & 1), now=self.now)
        assert self.protocol.output_size == 0
        self.ended = True

    def shed(self) -> None:
        self.protocol.shed(OSError(), unsent=self.source.byte(), now=self.now)
        self.whole = False
        assert self.protocol.state >= State.CLOSING
        self.take()

    def feed(self, data: bytes, buffered: bool) -> None:
        if self.eof or self.protocol.state is State.CLOSED:
            if self.eof:
                try:
                    self.protocol.receive_data(data, self.now)
                except EOFError:
                    return
                raise AssertionError("data is taken behind the end of the stream")
            return
        while data:
            size = len(data)
            if buffered:
                buffer = self.protocol.get_buffer()
                size = min(len(buffer), size)
                buffer[:size] = data[:size]
            self.received += data[:size]  # before a callback ends the event loop
            if buffered:
                self.protocol.buffer_updated(size, self.now)
            else:
                kind = self.rng.choice([bytes, bytearray, memoryview])
                self.protocol.receive_data(kind(data), self.now)
            data = data[size:]

    def receive_garbage(self) -> None:
        self.feed(self.source.sized(), bool(self.rng.randrange(2)))

    def receive_frame(self) -> None:
        first = self.source.byte()
        payload = self.source.sized()
        frame = bytes([first])
        masked = 0x80 if self.side == Side.SERVER else 0
        if len(payload) < 126:
            frame += bytes([masked | len(payload)])
        else:
            frame += bytes([masked | 126, 0, len(payload)])
        frame += bytes(4) if masked else b""
        self.feed(frame + payload, bool(self.source.byte() & 1))

    def receive_nothing(self) -> None:
        self.feed(b"", False)
        buffer = self.protocol.get_buffer()
        if not self.eof:
            self.call(self.protocol.buffer_updated, len(buffer) + 1, self.now, raises=ValueError)

    def receive_eof(self) -> None:
        self.protocol.receive_eof(self.now)
        self.eof = True

    def connection_lost(self) -> None:
        self.lose(self.source.choice([None, ConnectionResetError()]))

    def lose(self, exc: Exception | None) -> None:
        while not self.lost:
            with contextlib.suppress(Leaving):
                self.protocol.connection_lost(exc, now=self.now)
                # What it said before and wasn't taken is lost.
                self.lost = self.eof = self.ended = True

    def time_passes(self) -> None:
        self.now += self.source.choice([0.0, 0.1, 1.0, 5.0, 30.0, 1000.0])
        self.serve_timers()

    def next_timer(self) -> None:
        due = self.protocol.next_timeout()
        if due is not None:
            self.now = max(self.now, due)
        self.serve_timers()

    def serve_timers(self) -> None:
        for _ in range(8):
            with contextlib.suppress(Leaving):
                self.protocol.handle_timeout(self.now, 0.0, None)
            due = self.protocol.next_timeout()
            if due is None or due > self.now:
                return
            if self.protocol.can_receive_kept:
                return
        raise AssertionError("a timer is due again and again")

    def next_message(self) -> None:
        message = self.protocol.next_message(now=self.now)
        if message is not None:
            self.messages.append(message)

    def next_fragment(self) -> None:
        if self.protocol.next_fragment(now=self.now) is not None:
            self.whole = False

    def stop_waiting(self) -> None:
        self.protocol.stop_waiting()

    def receive_kept(self) -> None:
        self.protocol.receive_kept(self.now)

    def pause_writing(self) -> None:
        self.protocol.pause_writing(self.source.byte())

    def resume_writing(self) -> None:
        self.protocol.resume_writing()

    def set_timeouts(self) -> None:
        interval, timeout = self.source.choice([None, 0.5, 20]), self.source.choice([None, 0.5, 20])
        self.protocol.set_timeouts(
            ping_interval=interval, ping_timeout=timeout, close_timeout=10, now=self.now
        )
        for bad in (-1, float("nan"), "x"):
            self.call(
                self.protocol.set_timeouts, ping_interval=bad, now=self.now + 1,
                raises=(ValueError, TypeError),
            )  # fmt: skip

    def limit_rates(self) -> None:
        messages = self.source.choice([None, 1, 100])
        size = self.source.choice([None, 10, 10**6])
        self.protocol.limit_rates(messages, size, now=self.now)
        self.whole = False  # the model knows no rates

    def set_backpressure(self) -> None:
        policy = self.source.choice(POLICIES)
        terms = Backpressure(policy, 500) if policy is not None else None
        deadline = self.source.choice([None, 3])
        self.protocol.set_backpressure(terms, write_deadline=deadline)
        self.call(self.protocol.set_backpressure, Backpressure(None), raises=ValueError)

    def broadcast(self) -> None:
        message = PreparedMessage(self.data())
        compress = self.source.choice(COMPRESS)
        raises = InvalidState, ConcurrencyError
        self.call(self.protocol.send_prepared, message, compress=compress, raises=raises)

    def offer(self) -> None:
        message = PreparedMessage(self.text())
        terms = Backpressure(self.source.choice(POLICIES), 500, key=1)
        raises = InvalidState, ConcurrencyError
        self.call(self.protocol.offer, message, terms, now=self.now, raises=raises)
        assert self.protocol.dropped_messages() is not None

    def listen(self) -> None:
        if self.listening:
            return
        how = self.source.byte()
        answer, in_frames, often = how & 1, how & 2, how >> 2 & 3
        failure = Leaving if how & 16 else LookupError

        def on_message(message: Any) -> None:
            self.messages.append(message)
            self.call_from_callback()
            if answer and self.protocol.state is State.OPEN:
                try:
                    self.protocol.send(message)
                    self.size_sent += len(message) * 3
                except ConcurrencyError:
                    pass
            assert self.protocol.last_in_buffer in (False, True)
            if often and len(self.messages) % 4 < often:
                raise failure

        if in_frames:
            self.protocol.listen(on_frame=Joining(on_message), now=self.now)
        else:
            self.protocol.listen(on_message, now=self.now)
        self.listening = True

    def call_from_callback(self) -> None:
        """What a callback may not do."""
        for call in (
            lambda: self.protocol.receive_data(b"x", self.now),
            lambda: self.protocol.buffer_updated(0, self.now),
            lambda: self.protocol.use_read_buffer(bytearray(10)),
        ):
            try:
                call()
            except (RuntimeError, EOFError):
                continue
            raise AssertionError("a callback may do this")

    def look_at_all(self) -> None:
        for name in dir(self.protocol):
            if name != "close_exc" and not name.startswith("_"):
                getattr(self.protocol, name)
        assert self.protocol.abandoned_pings() is not None
        # Their waiters are forgotten with them.
        self.waiters = self.waiters[: len(self.acknowledged)]


STEPS: list[Callable[[Session], None]] = [
    Session.send_text, Session.send_bytes, Session.send_bytes_as_text, Session.send_nonsense,
    Session.send_text_frame, Session.send_binary_frame, Session.send_continuation, Session.ping,
    Session.send_ping, Session.send_pong, Session.close, Session.send_close, Session.fail,
    Session.give_up, Session.shed, Session.receive_garbage, Session.receive_frame,
    Session.receive_nothing, Session.receive_eof, Session.connection_lost, Session.time_passes,
    Session.next_timer, Session.next_message, Session.next_fragment, Session.stop_waiting,
    Session.take, Session.pause_writing, Session.resume_writing, Session.set_timeouts,
    Session.limit_rates, Session.set_backpressure, Session.broadcast, Session.offer,
    Session.listen, Session.look_at_all, Session.receive_kept,
]  # fmt: skip


def check_sent(session: Session) -> None:
    """Read what was sent as the peer does."""
    data, side = bytes(session.sent), session.side
    reading = read(
        data,
        client=side == Side.SERVER,
        limits=Limits(),
        inflater=Inflater(15) if session.deflate else None,
    )
    assert reading.codes == (), "a peer finds fault with what is sent"
    # Behind a Close frame the model reads nothing; there are only control frames.
    closes = 0
    while data:
        size, start = data[1] & 127, 2
        if size > 125:
            start += 2 if size == 126 else 8
            size = int.from_bytes(data[2:start], "big")
        start += 4 if data[1] & 128 else 0
        assert len(data) >= start + size, "a frame is cut"
        assert not closes or data[0] & 8, "data behind a Close frame"
        closes += data[0] & 15 == CLOSE
        data = data[start + size :]
    assert closes <= 1
    if closes:
        assert session.protocol.close_sent is not None


def check_received(session: Session) -> None:
    if not session.whole:
        return
    reading = read(
        bytes(session.received),
        client=session.side == Side.CLIENT,
        limits=Limits(MAX_SIZE, None, 4096),
        inflater=Inflater(15) if session.deflate else None,
    )
    expected = reading.messages()
    assert session.messages == expected[: len(session.messages)]


def one_input(data: bytes) -> None:
    source = Input(data)
    session = Session(source)
    for _ in range(MAX_STEPS):
        if not source:
            break
        with contextlib.suppress(Leaving):
            source.choice(STEPS)(session)
        session.look()
    session.take()
    session.look()
    # The end comes, whatever was before.
    protocol = session.protocol
    if not session.lost:
        protocol.close(now=session.now)
        for _ in range(100):
            due = protocol.next_timeout()
            if due is None or protocol.transport_action == activity.ABORT:
                break
            session.now = max(session.now, due)
            with contextlib.suppress(Leaving):
                protocol.handle_timeout(session.now, 0.0, None)
        assert protocol.transport_action == activity.ABORT, "the end doesn't come"
        session.take()
        session.lose(None)
        session.look()
    while (message := protocol.next_message()) is not None:
        session.messages.append(message)
    check_sent(session)
    check_received(session)
