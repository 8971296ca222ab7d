"""Load on a server: connections that send messages and take what comes back, in one process.

Messages are sent and taken in callbacks: no task takes part in one. What is measured begins when a
message is sent; with a rate, when it is due, whatever holds it up, so that a server that stands
still isn't spared the messages that it would have got meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import itertools
import os
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from wsproto_fast import Protocol
from wsproto_fast.exceptions import WebSocketException
from wsproto_fast.typing import Data

from ..asyncio.client import ClientConnection, connect
from ._bench_figures import FINE, FINE_BITS, Histogram

__all__ = ["Load", "Openings", "Plan", "Result", "new_loop", "payloads", "processor_time"]

SEED: Final = 6455
AT_ONCE: Final = 50
"""Connections of a process that are opened at a time."""
MAX_FAILURES: Final = 100
"""Connections that can't be opened after which no more are tried."""
MAX_OUTSTANDING: Final = 64 * 2**20
"""Bytes of messages without an answer, of a process, above which those that are due wait."""
MAX_PAYLOADS: Final = 64 * 2**20
"""Bytes of all different messages together."""
PATIENCE: Final = 10.0
"""Seconds without any answer after which there won't be one."""
GRACE: Final = 2.0
"""Seconds for answers to what was sent before the end."""
CLOSING: Final = 2.0
"""Seconds for the closing handshakes of all connections."""
TICK: Final = 0.1  # seconds between looks at how far it is
STEPS: Final = 4000  # times per second, at most, that messages become due
ENDLESS: Final = 1 << 62
NO_LIMIT: Final = 2**31 - 1  # of the write buffer, which uvloop has as an int: see MAX_OUTSTANDING


@dataclass(frozen=True)
class Plan:
    """What one process does.

    Args:
        connections: How many.
        window: Messages in flight on each, without a rate.
        rate: Messages per second, all connections together; None for as many as come back.
        sizes: Least and greatest size of a message in bytes.
        text: Send text.
        words: Send what can be compressed.
        verify: Compare what comes back.
        warmup: Seconds before those that count.
        seconds: Seconds that count; None for no end but that of ``messages``.
        messages: Messages after which it ends, without a rate; None for no end but that of
            ``seconds``.
        pids: Processes of the server whose processor time is read.
    """

    connections: int
    window: int = 1
    rate: float | None = None
    sizes: tuple[int, int] = (64, 64)
    text: bool = False
    words: bool = False
    verify: bool = True
    warmup: float = 1.0
    seconds: float | None = 10.0
    messages: int | None = None
    pids: tuple[int, ...] = ()


@dataclass
class Openings:
    """What came of opening connections.

    Args:
        opened: How many there are.
        seconds: How long it took for all of them.
        times: How long each took.
        errors: How many failed, by what it was.
        exception: The first failure.
    """

    opened: int = 0
    seconds: float = 0.0
    times: Histogram = field(default_factory=Histogram)
    errors: Counter[str] = field(default_factory=Counter)
    exception: Exception | None = None

    def add(self, other: Openings) -> None:
        """Add those of another process."""
        self.opened += other.opened
        self.seconds = max(self.seconds, other.seconds)
        self.times.add(other.times)
        self.errors += other.errors
        self.exception = self.exception or other.exception


@dataclass
class Result:
    """What came of sending messages, in the time that counts.

    Args:
        seconds: How long it was.
        cpu: Seconds of processor time of this process.
        server_cpu: Seconds of processor time of the server's processes.
        answered: Messages that came back.
        latencies: One for each of them, and for those that were due and didn't come back the time
            that they had waited.
        payload: Bytes of messages that came back.
        due: Messages that should have been sent, with a rate.
        unsent: Those of them that weren't sent.
        unanswered: Messages that were sent and didn't come back.
        late: How long after they were due messages were sent.
        errors: How often connections ended, by how.
        wrong: What came back that wasn't sent.
        stalled: Nothing came back any more.
        interrupted: It ended before its time.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    server_cpu: float = 0.0
    answered: int = 0
    latencies: Histogram = field(default_factory=Histogram)
    payload: float = 0.0
    due: int = 0
    unsent: int = 0
    unanswered: int = 0
    late: Histogram = field(default_factory=Histogram)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: str | None = None
    stalled: bool = False
    interrupted: bool = False

    def add(self, other: Result) -> None:
        """Add that of another process, which ran at the same time."""
        self.seconds = max(self.seconds, other.seconds)
        self.cpu = max(self.cpu, other.cpu)
        self.server_cpu = max(self.server_cpu, other.server_cpu)
        self.answered += other.answered
        self.latencies.add(other.latencies)
        self.late.add(other.late)
        self.payload += other.payload
        self.due += other.due
        self.unsent += other.unsent
        self.unanswered += other.unanswered
        self.errors += other.errors
        self.wrong = self.wrong or other.wrong
        self.stalled |= other.stalled
        self.interrupted |= other.interrupted


WORDS: Final = (
    *(
        "the",
        "server",
        "sends",
        "what",
        "it",
        "has",
        "received",
        "to",
        "all",
        "who",
        "are",
        "there",
    ),
    *("message", "number", "user", "price", "order", "time", "and", "nobody", "is", "kept", "out"),
)


def payloads(plan: Plan) -> list[bytes]:
    """Return the messages that are sent round and round, printable ASCII, different each."""
    generator = random.Random(SEED)
    low, high = plan.sizes
    number = max(2, min(16 if low == high else 64, MAX_PAYLOADS // max(high, 1)))
    # One of each part of the range, in no order.
    sizes = [low + (high - low) * (part + generator.random()) / number for part in range(number)]
    generator.shuffle(sizes)
    return [_payload(generator, round(size), plan.words) for size in sizes]


def _payload(generator: random.Random, size: int, words: bool) -> bytes:
    if words:
        # Longer than any window of DEFLATE, so that nothing is gained when it begins anew.
        text = " ".join(generator.choices(WORDS, k=min(size, 2**16) // 3 + 1)).encode()
        return (text * (size // len(text) + 1))[:size]
    return generator.randbytes(size).translate(_LETTERS)


_LETTERS: Final = bytes(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/" * 4)


def processor_time(pids: Iterable[int]) -> float:
    """Return the seconds of processor time, user and system, that processes have used together.

    Raises:
        OSError: If there is no such process; on other systems, always.
    """
    used = 0.0
    for pid in pids:
        try:
            # A number that Linux has for each process's clock: clock_getcpuclockid(3) makes it so.
            used += time.clock_gettime(~pid << 3 | 2)
        except (OverflowError, TypeError) as exc:  # it fits no int of C; a TypeError from 3.13 on
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from exc
    return used


def new_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop, uvloop's where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


class _Connection(ClientConnection):
    """A connection that says when it is lost."""

    def __init__(self, protocol: Protocol, *, load: Load, **options: Any) -> None:
        super().__init__(protocol, **options)
        self.load = load
        self.is_lost = False

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.is_lost = True
        self.load.lost(self)


class _Lane:
    """A connection, and how far it is.

    Args:
        connection: The connection.
        number: Its number, from 0.
        messages: What is sent, round and round.
    """

    __slots__ = (
        *("connection", "number", "open", "received", "sent", "times", "to_come", "to_send"),
    )

    def __init__(self, connection: ClientConnection, number: int, messages: list[Data]) -> None:
        self.connection = connection
        self.number = number
        start = number % len(messages)
        messages = messages[start:] + messages[:start]
        self.to_send = itertools.cycle(messages)
        self.to_come = itertools.cycle(messages)
        self.sent = 0  # with a rate
        self.received = 0
        self.times: deque[int] = deque()  # when those were sent that are in flight, without a rate
        self.open = True

    @property
    def in_flight(self) -> int:
        """Messages that have been sent and haven't come back."""
        return len(self.times) + self.sent - self.received

    def start(self) -> None:
        """Send a message, without a rate."""
        now = time.perf_counter_ns()
        self.connection.send_nowait(next(self.to_send))
        self.times.append(now)


class Load:
    """Connections of this process, and what is sent on them.

    Args:
        uri: URI of the server.
        arguments: Other arguments of ``connect``.
        plan: What to do.
    """

    def __init__(self, uri: str, arguments: dict[str, Any], plan: Plan) -> None:
        self.uri = uri
        self.plan = plan
        self.arguments = arguments | {
            "create_connection": partial(_Connection, load=self),
            "write_limit": NO_LIMIT,
        }
        data = payloads(plan)
        self.messages: list[Data] = [m.decode() for m in data] if plan.text else [*data]
        self.mean_size = sum(map(len, data)) / len(data)
        self.most_outstanding = max(1, int(MAX_OUTSTANDING / max(self.mean_size, 1)))
        self.lanes: list[_Lane] = []
        self._lane_of: dict[ClientConnection, _Lane] = {}  # of those that are open
        self.result = Result()
        self.latencies = self.result.latencies
        self.outstanding = 0  # with a rate
        self.budget = [ENDLESS]  # messages that may still be sent, without a rate
        self.going = [True]  # messages are sent for those that come back
        self._opening = True
        self._openers: list[asyncio.Task[None]] = []
        self._closing = False
        self._end = asyncio.Event()
        self._dues: _Dues | None = None

    # ------------------------------------------------------------------ connections

    async def open(self) -> Openings:
        """Open the connections."""
        openings = Openings()
        slots = asyncio.Semaphore(AT_ONCE)
        begin = time.perf_counter_ns()

        async def open_one() -> None:
            async with slots:
                if sum(openings.errors.values()) >= MAX_FAILURES:
                    return
                start = time.perf_counter_ns()
                try:
                    connection = await connect(self.uri, **self.arguments)
                except Exception as exc:
                    openings.errors[f"{type(exc).__name__}: {exc}"] += 1
                    openings.exception = openings.exception or exc
                    return
                openings.times.record(time.perf_counter_ns() - start)
                openings.opened += 1
                lane = _Lane(connection, len(self.lanes), self.messages)
                self.lanes.append(lane)
                self._lane_of[connection] = lane
                assert isinstance(connection, _Connection)
                if connection.is_lost:  # since it was opened, before this task went on
                    self.lost(connection)

        async with asyncio.TaskGroup() as group:
            if not self._end.is_set():
                for _ in range(self.plan.connections):
                    self._openers.append(group.create_task(open_one()))
        self._openers.clear()
        openings.seconds = (time.perf_counter_ns() - begin) / 1e9
        self._opening = False
        if not self._lane_of:
            self._end.set()
        return openings

    def lost(self, connection: ClientConnection) -> None:
        """Take note of the end of a connection."""
        lane = self._lane_of.pop(connection, None)
        if lane is None:
            return
        lane.open = False
        if not self._closing:
            self.result.errors[str(connection.protocol.close_exc)] += 1
            self.outstanding -= lane.sent - lane.received
            if not self._lane_of and not self._opening:
                self._end.set()

    async def close(self) -> None:
        """Close the connections, together, and not for long."""
        self._closing = True
        lanes = [lane for lane in self.lanes if lane.open]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSING):
                for start in range(0, len(lanes), 1000):
                    part = lanes[start : start + 1000]
                    await asyncio.gather(
                        *(lane.connection.close() for lane in part), return_exceptions=True
                    )
        for lane in lanes:
            if lane.open:
                lane.connection.transport.abort()

    # ------------------------------------------------------------------ sending

    def stop(self) -> None:
        """End it before its time; what there is until then is the result."""
        self._end.set()
        for opener in self._openers:
            opener.cancel()  # a server that doesn't answer isn't waited for

    async def run(self, progress: Callable[[float, int], object]) -> Result:
        """Send messages, and return what came of it.

        Args:
            progress: Called now and then with the share of the time that is over, and the number of
                messages that have come back.
        """
        plan, result = self.plan, self.result
        collecting = gc.isenabled()
        gc.collect()
        gc.disable()
        try:
            if plan.rate is None:
                self._listen(self._in_turn)
                if plan.warmup:
                    self._begin_all()
            else:
                self._dues = _Dues(self, plan.rate)
                self._listen(partial(self._in_time, self._dues))
                self._dues.start()
            if plan.warmup:
                await self._wait(plan.warmup, lambda share, count: progress(0.0, 0), ENDLESS)
            await self._measure(progress)
        finally:
            if self._dues is not None:
                self._dues.stop()
            if collecting:
                gc.enable()
        for lane in self.lanes:
            result.unanswered += lane.in_flight if lane.open else 0
        return result

    def _listen(self, callback: Callable[[_Lane], Callable[[Data], None]]) -> None:
        for lane in self.lanes:
            with contextlib.suppress(WebSocketException):  # it is closed, or about to be
                if lane.open:
                    lane.connection.listen(callback(lane))

    async def _measure(self, progress: Callable[[float, int], object]) -> None:
        plan, result = self.plan, self.result
        self.latencies.clear()
        result.late.clear()
        if self._dues is not None:
            self._dues.begin()
        elif plan.messages is not None:
            # Those that are in flight already are among them.
            self.budget[0] = max(plan.messages - sum(lane.in_flight for lane in self.lanes), 0)
        if plan.rate is None and not plan.warmup:
            self._begin_all()
        server = processor_time(plan.pids)
        cpu, begin = time.process_time(), time.perf_counter_ns()
        if not self._end.is_set():
            await self._wait(plan.seconds, progress, plan.messages or ENDLESS)
        result.seconds = (time.perf_counter_ns() - begin) / 1e9
        result.cpu = time.process_time() - cpu
        result.server_cpu = processor_time(plan.pids) - server
        self.going[0] = False
        if self._dues is not None:
            self._dues.end()
        in_time = self.latencies.copy()
        if result.wrong is None and not result.stalled:
            await self._last_answers()
        if self._dues is not None:
            result.answered = self.latencies.total
            self._dues.account(result)
        else:
            result.answered = in_time.total
            result.latencies = in_time
        result.payload = result.answered * self.mean_size

    async def _wait(
        self, seconds: float | None, progress: Callable[[float, int], object], messages: int
    ) -> None:
        """Wait until it is over, or it makes no sense to go on."""
        loop = asyncio.get_running_loop()
        begin = last = loop.time()
        end = begin + (ENDLESS if seconds is None else seconds)
        count = seen = self.latencies.total
        while not self._end.is_set() and loop.time() < end and count < messages:
            pause = max(min(end - loop.time(), TICK), 0)
            if messages < ENDLESS:
                pause = min(pause, TICK / 10)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._end.wait()
            now, count = loop.time(), self.latencies.total
            if count != seen:
                last, seen = now, count
            elif now - last > PATIENCE:
                self.result.stalled = True
                self._end.set()
            elif messages < ENDLESS and not any(lane.in_flight for lane in self._lane_of.values()):
                self._end.set()  # connections were lost with messages in flight
            share = count / messages if seconds is None else (now - begin) / seconds
            progress(min(share, 1.0), count)

    async def _last_answers(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + GRACE
        while loop.time() < end and any(lane.in_flight for lane in self.lanes if lane.open):
            await asyncio.sleep(TICK / 10)

    def _wrong(self, lane: _Lane, message: Data, expected: Data) -> None:
        if self.result.wrong is None:
            self.result.wrong = difference(lane.number, message, expected)
            self.going[0] = False
            self._end.set()

    # ------------------------------------------------------------------ as many as come back

    def _begin_all(self) -> None:
        """Send the first message of each connection."""
        for lane in self.lanes:
            if self.budget[0] > 0 and lane.open:
                self.budget[0] -= 1
                with contextlib.suppress(WebSocketException):  # it is closing
                    lane.start()

    def _in_turn(self, lane: _Lane) -> Callable[[Data], None]:
        """Return a callback that sends a message for each that comes back."""
        # This is the client's share of each message: no attribute is looked up in it.
        clock, send, times = time.perf_counter_ns, lane.connection.send_nowait, lane.times
        sent, take = times.append, times.popleft
        to_send, to_come = lane.to_send.__next__, lane.to_come.__next__
        fine, going = self.latencies.fine, self.going
        verify, record = self.plan.verify, self.latencies.record
        budget, missing = self.budget, self.plan.window - 1

        def on_message(message: Data) -> None:
            nonlocal missing
            if not times:
                return self._wrong(lane, message, "") if verify else None
            now = clock()
            latency = now - take()
            if latency < FINE:
                fine[latency >> FINE_BITS] += 1
            else:
                record(latency)
            if verify and message != (expected := to_come()):
                return self._wrong(lane, message, expected)
            if going[0]:
                sent(now)
                send(to_send())
                if missing:
                    # The rest of the first ones. What is sent in a callback leaves in one write.
                    for _ in range(min(missing, budget[0])):
                        budget[0] -= 1
                        lane.start()
                    missing = 0
            return None

        if self.plan.messages is None:
            return on_message

        def on_some(message: Data) -> None:
            if budget[0] > 0:
                budget[0] -= 1
            else:
                going[0] = False
            on_message(message)

        return on_some

    # ------------------------------------------------------------------ at a rate

    def _in_time(self, dues: _Dues, lane: _Lane) -> Callable[[Data], None]:
        """Return a callback that measures from when messages were due."""
        latencies, to_come = self.latencies, lane.to_come
        clock, verify = time.perf_counter_ns, self.plan.verify

        def on_message(message: Data) -> None:
            now = clock()
            received = lane.received
            if received >= lane.sent:
                return self._wrong(lane, message, "") if verify else None
            due = dues.of(lane, received)
            if dues.first <= due < dues.last:
                latencies.record(now - due)
            if verify and message != (expected := next(to_come)):
                return self._wrong(lane, message, expected)
            lane.received = received + 1
            self.outstanding -= 1
            if lane.sent < dues.count(lane):
                dues.send(lane)
            return None

        return on_message


class _Dues:
    """When messages are due: at a fixed rate, whatever becomes of those before.

    Message ``i`` of the process is sent on connection ``i`` modulo their number. Where there are
    more than `STEPS` a second, some are due at the same time. A thread of its own keeps time, since
    event loops do so to a millisecond only.

    Args:
        load: What sends.
        rate: Messages per second.
    """

    def __init__(self, load: Load, rate: float) -> None:
        self.load = load
        self.lanes = load.lanes
        self.together = max(1, -(-int(rate) // STEPS))
        self.step = self.together / rate * 1e9  # ns between times at which messages are due
        self.begun = 0  # ns
        self.next = 0  # number of the next message that becomes due
        self.first = ENDLESS  # ns: those that count are due from then on
        self.last = ENDLESS  # ns: and before that
        self._loop = asyncio.get_running_loop()
        self._ended = threading.Event()
        self._asked = False  # the event loop has something to do already
        self._thread = threading.Thread(target=self._keep_time, daemon=True)

    def of(self, lane: _Lane, number: int) -> int:
        """Return when a message of a connection is due, in ns; numbers begin with 0."""
        place = number * len(self.lanes) + lane.number
        return self.begun + int(place // self.together * self.step)

    def count(self, lane: _Lane) -> int:
        """Return how many messages of a connection have been due until now."""
        return (self.next - lane.number + len(self.lanes) - 1) // len(self.lanes)

    def start(self) -> None:
        """Begin."""
        self.begun = time.perf_counter_ns()
        self._thread.start()

    def begin(self) -> None:
        """From now on, they count; without warm-up, from the first one on."""
        self.first = time.perf_counter_ns() if self.load.plan.warmup else self.begun

    def end(self) -> None:
        """From now on, no more are due."""
        self.last = time.perf_counter_ns()
        # Those that this process was too slow to look at were due, too.
        self.next = max(self.next, self._due_until(self.last))
        self.stop()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()

    def _keep_time(self) -> None:
        step = 1
        while not self._ended.is_set():
            pause = self.begun + step * self.step - time.perf_counter_ns()
            if pause > 0:
                time.sleep(min(pause / 1e9, TICK))
            if time.perf_counter_ns() < self.begun + step * self.step:
                continue
            step = int((time.perf_counter_ns() - self.begun) / self.step) + 1
            if not self._asked:
                self._asked = True
                try:
                    self._loop.call_soon_threadsafe(self._send_what_is_due)
                except RuntimeError:  # the event loop is closed
                    return

    def _due_until(self, now: int) -> int:
        """Return how many messages are due until a time, in ns."""
        return (int((now - self.begun) / self.step) + 1) * self.together

    def _send_what_is_due(self) -> None:
        self._asked = False
        now = time.perf_counter_ns()
        if self._ended.is_set():
            return
        lanes, number = self.lanes, self.next
        self.next = until = self._due_until(now)
        for place in range(number, until):
            # The one that is due, or one before it that had to wait.
            self.send(lanes[place % len(lanes)])

    def send(self, lane: _Lane) -> None:
        """Send the next message of a connection, unless too much is out already."""
        load = self.load
        if load.outstanding >= load.most_outstanding or load._end.is_set() or not lane.open:
            return
        number, now = lane.sent, time.perf_counter_ns()
        try:
            lane.connection.send_nowait(next(lane.to_send))
        except WebSocketException:  # it is closing
            return
        lane.sent = number + 1
        load.outstanding += 1
        load.result.late.record(now - self.of(lane, number))

    def account(self, result: Result) -> None:
        """Count what was due; what hasn't come back counts with the time that it has waited."""
        now = time.perf_counter_ns()
        first = max(0, int((self.first - self.begun) / self.step)) * self.together
        for place in range(first, self.next):
            lane = self.lanes[place % len(self.lanes)]
            number = place // len(self.lanes)
            due = self.of(lane, number)
            if not self.first <= due < self.last:
                continue
            result.due += 1
            if number >= lane.sent:
                result.unsent += 1
            if number >= lane.received and lane.open:
                result.latencies.record(now - due)


def difference(number: int, message: Data, expected: Data) -> str:
    """Describe what came back instead of a message."""
    what = f"an answer on connection {number + 1}"
    if expected == "" and message:
        return f"{what}: {message[:40]!r}, when nothing was to come"
    if type(message) is not type(expected):
        names = {str: "text", bytes: "binary"}
        return f"{what} is {names[type(message)]}, not {names[type(expected)]}"
    pairs = zip(message, expected, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(message), len(expected)))
    return (
        f"{what} differs at {at} of {len(expected)}: {message[at : at + 16]!r} instead of "
        f"{expected[at : at + 16]!r}"
    )
