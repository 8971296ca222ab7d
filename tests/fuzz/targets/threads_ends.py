"""A client and a server of wsapi.sync in memory: what asyncio_ends does, in threads.

Each call has a thread of its own, so that many wait at once. Half of the inputs wait until these
are at rest before the next call, and are the same whenever they run; the others don't. A call can't
be cancelled: some give up after a while instead.
"""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import closing
from typing import Any

from tests.fuzz.inputs import Input
from tests.fuzz.memory import COMPLAINTS, TIME, WINDOW
from tests.fuzz.targets import asyncio_ends
from wsapi.exceptions import ConcurrencyError, ConnectionClosed, InvalidHandshake
from wsapi.sync.connection import broadcast
from wsapi.testing import _wires
from wsapi.testing.sync import Clock, link, serving

SEEDS = asyncio_ends.SEEDS

TIMEOUTS = (0, 0.5, 20)
# Seconds after which a message has left that was held back since more were expected to follow.
HELD = 0.0057
# Seconds of the operating system that a call may take to end when all is over.
PATIENCE = 20


def finish(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that blocks instead of waiting."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")


class Blocking:
    """A connection whose methods block when they are awaited."""

    def __init__(self, connection: Any) -> None:
        self.blocking = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self.blocking, name)

    async def send(self, message: Any) -> None:
        self.blocking.send(fragments(message) if hasattr(message, "__anext__") else message)

    async def recv(self) -> Any:
        return self.blocking.recv()

    async def recv_streaming(self) -> AsyncIterator[Any]:
        with closing(self.blocking.recv_streaming()) as given:
            for piece in given:
                yield piece

    async def __aiter__(self) -> AsyncIterator[Any]:
        for message in self.blocking:
            yield message

    async def ping(self) -> Any:
        return self.blocking.ping(ack_on_close=True)

    async def pong(self, data: bytes) -> None:
        self.blocking.pong(data)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.blocking.close(code, reason)

    async def wait_closed(self) -> None:
        assert self.blocking.wait_closed()


def fragments(given: Any) -> Iterator[Any]:
    while True:
        try:
            given.__anext__().send(None)
        except StopIteration as exc:
            yield exc.value
        except StopAsyncIteration:
            return


class Operation:
    """A call that may take a while, in a thread."""

    def __init__(self, name: str, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.name = name
        self.function = function
        self.exc: BaseException | None = None
        self.thread = threading.Thread(target=self.run, name=name, daemon=True)
        self.thread.start()

    def run(self) -> None:
        try:
            finish(self.function())
        except BaseException as exc:
            self.exc = exc

    def cancel(self) -> None:
        """Nothing ends a thread."""

    def over(self) -> bool:
        """Tell whether it has ended; raise what it raised."""
        if self.exc is not None:
            raise self.exc
        return not self.thread.is_alive()


class FuzzClock:
    """The clock of the run, as sessions use it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def settle(self) -> None:
        self.clock.advance(HELD)


class End(asyncio_ends.End):
    """One end of the connection, in threads."""

    session: Session
    fragmenting = 0  # calls that send a message in fragments

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.receiver = threading.Lock()
        self.pings: list[threading.Event] = []

    async def sleep(self, seconds: float) -> None:
        self.session.clock.clock.sleep(seconds)

    async def ping(self) -> None:
        try:
            # Nobody waits for it: a thread that does isn't at rest, as far as the clock knows.
            self.pings.append(await self.connection.ping())
        except ConnectionClosed:
            pass

    async def send_fragments(self, pieces: list[Any], pause: float) -> None:
        self.fragmenting += 1
        try:
            await super().send_fragments(pieces, pause)
        finally:
            self.fragmenting -= 1

    async def sending(self, message: Any, given: Any) -> None:
        alone = self.fragmenting == (given is not message) and not self.session.hasty
        try:
            await super().sending(message, given)
        except ConcurrencyError:
            assert not alone, "nobody sends fragments"

    async def receiving(self, receive: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if not self.session.hasty:
            await super().receiving(receive)
        elif self.receiver.acquire(blocking=False):
            # Of two that receive at once nobody could tell whose message came first.
            try:
                await super().receiving(receive)
            finally:
                self.receiver.release()

    async def recv_for(self, timeout: float) -> None:
        async def once() -> None:
            try:
                self.received.append(self.connection.blocking.recv(timeout))
            except TimeoutError:
                pass

        await self.receiving(once)

    async def stream_for(self, timeout: float) -> None:
        """Take what comes of a message in a while, and leave the rest."""

        async def once() -> None:
            number = len(self.received)
            with closing(self.connection.blocking.recv_streaming(timeout=timeout)) as given:
                try:
                    for piece in given:
                        if number == len(self.received):
                            self.received.append(piece)
                            self.torn.add(number)
                        else:
                            self.received[number] += piece
                except TimeoutError:
                    return
            self.torn.remove(number)

        await self.receiving(once)

    async def wait_closed_for(self, timeout: float) -> None:
        self.connection.blocking.wait_closed(timeout)


class Session(asyncio_ends.Session):
    """A connection of threads, and its network."""

    end_class = End

    def __init__(self, source: Input, clock: Clock) -> None:
        super().__init__(source, FuzzClock(clock))
        self.hasty, self.impatient = self.impatient, False  # nothing can be cancelled
        self.counter = itertools.count(1)
        for options in self.options:
            del options["write_limit"]

    def tick(self) -> int:
        return next(self.counter)

    @property
    def link(self) -> Any:
        return link(self.ends[0].connection.blocking)

    def operation(self, name: str, function: Callable[[], Coroutine[Any, Any, None]]) -> Any:
        operation = Operation(name, function)
        if not self.hasty:
            self.clock.clock.settle()
        return operation

    def recv_for(self, end: Any) -> None:
        self.start("recv(timeout)", end.recv_for, self.source.choice(TIMEOUTS))

    def stream_for(self, end: Any) -> None:
        self.start("recv_streaming(timeout)", end.stream_for, self.source.choice(TIMEOUTS))

    def wait_closed_for(self, end: Any) -> None:
        self.start("wait_closed(timeout)", end.wait_closed_for, self.source.choice(TIMEOUTS))

    def broadcast(self, end: Any) -> None:
        message = self.text()
        for each in self.ends:
            each.begin(message)
        broadcast([each.connection.blocking for each in self.ends], message)

    def end_of_stream(self, end: Any) -> None:
        end.outgoing._write_eof()
        end.outgoing._changed()
        self.harmed = True

    def abort(self, end: Any) -> None:
        end.connection._driver.abort()
        end.left = self.harmed = True

    def has_ended(self, operation: Operation) -> bool:
        # A thread that is kept from running for long may be taken for one at rest.
        operation.thread.join(PATIENCE)
        return operation.over()

    async def take_all(self, end: Any) -> None:
        while True:
            before = len(end.received)
            operation = self.operation("recv(0)", lambda: end.recv_for(0))
            assert self.has_ended(operation), "recv(0) waits"
            if len(end.received) == before:
                return

    async def run(self) -> None:
        client, server = self.ends
        clock = self.clock.clock
        left = clock.waiter()

        def handler(connection: Any) -> None:
            server.connection = Blocking(connection)
            left.wait(float("inf"))

        async def connect() -> None:
            try:
                client.connection = Blocking(
                    place.connect(
                        legacy=True,
                        outgoing=client.outgoing,
                        incoming=client.incoming,
                        **self.options[0],
                    )
                )
            except (OSError, InvalidHandshake):
                assert any(end.outgoing.delay for end in self.ends)

        self.source.take(2)  # where others do harm to the opening handshake
        with serving(handler, **self.options[1]) as place:
            try:
                connecting = self.operation("connect", connect)
                for _ in range(10):
                    clock.advance(10)
                    if connecting.over() or (client.connection and server.connection):
                        break
                assert connecting.over(), "opening doesn't end"
                if client.connection and server.connection:
                    await self.use()
            finally:
                left.release()
        for end in self.ends:
            assert all(event.is_set() for event in end.pings), "waiting for a Pong doesn't end"


Session.steps = [
    Session.send_text, Session.send_bytes, Session.send_fragments, Session.recv,
    Session.recv_streaming, Session.ping, Session.pong, Session.close, Session.recv_for,
    Session.time_passes, Session.settle, Session.stream_for, Session.split_and_delay,
    Session.lose_all, Session.reset, Session.hold, Session.iterate, Session.wait_closed_for,
    Session.wait_closed, Session.tamper, Session.garbage, Session.end_of_stream, Session.abort,
    Session.broadcast, Session.leave_streaming,
]  # fmt: skip


def one_input(data: bytes) -> None:
    COMPLAINTS.lines.clear()
    failures: list[str] = []
    hook, threading.excepthook = threading.excepthook, lambda args: failures.append(repr(args))
    window, _wires.WINDOW = _wires.WINDOW, WINDOW
    before = set(threading.enumerate())
    gc.freeze()
    try:
        with Clock() as clock:
            clock._now = TIME  # the same whenever it runs
            finish(Session(Input(data), clock).run())
            clock.settle()
            left = [thread.name for thread in threading.enumerate() if thread not in before]
        gc.collect()
    finally:
        gc.unfreeze()
        _wires.WINDOW = window
        threading.excepthook = hook
    assert not left, f"threads are left: {left}"
    assert not failures, failures
    assert not COMPLAINTS.lines, COMPLAINTS.lines
