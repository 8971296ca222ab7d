"""What carries out, on a bus, what the core of topics wants, and watches whether the bus is there.

A runner lives in one event loop, that of its bus. The core may live elsewhere: the front-end gives
a function by which the runner calls into it. Trouble is found in three ways: the bus tells of it; a
beat that the process publishes to a transient topic of its own doesn't come back; the position of a
topic, asked for in turn, isn't where its subscribers are.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from wsproto_fast.typing import LoggerLike

from ._core import Core
from ._health import Health, Lines
from ._publishing import CLOSING_TIME, Publisher
from ._requests import Follow, Read, Request, Unfollow
from .bus import TRANSIENT, Bus, Message, Notice, is_transient
from .exceptions import BusError, BusUnavailable
from .positions import Position
from .presence import ALL, Roll

__all__ = ["Runner"]

REQUEST_TIMEOUT: Final = 10.0
"""Seconds that a request to the bus may take, waiting for its turn included."""

MAX_REQUESTS: Final = 64
"""Requests that are under way at once."""

OPENING_TIME: Final = 30.0
"""Seconds that the bus may take to open."""

AUDITED_TOPICS: Final = 32
"""Topics whose positions are compared with each beat, at least."""

MAX_LOST_LATELY: Final = 1_000
"""Topics of which it is remembered that messages were missing since the bus was back."""

AUDIT_BEATS: Final = 60
"""Beats in which each topic has its turn."""

MAX_TELLING: Final = 1_000
"""Messages about who is on which topics that wait to be published; others ask for what is more."""

MAX_NOTICES_AHEAD: Final = 10_000
"""Notices that wait for a core in another thread; what is more is read from the bus."""

Call = Callable[..., object]


class Runner:
    """Has a bus do what a core wants, and the core know what the bus tells.

    But for ``flush``, ``healthy``, and ``stats``, all is to be called in the bus's event loop.

    Args:
        bus: The bus.
        core: The core.
        roll: Who is on which topics; it lives where the core does. None if nobody wants to know.
        heartbeat: Seconds between beats; the process is deaf after two without one.
        publish_queue: Messages that may wait while the bus is away; 0: they fail at once.
        publish_timeout: Seconds that publishing a message may take.
        on_health: Called when the bus goes and comes, with whether all is well, and a reason;
            in the bus's event loop.
        handle_events: Called after calls into the core that left events, where those are made.
        call: ``call(function, *args)`` calls a function in the core's thread, now or later, one
            after the other; None if the core lives in the bus's event loop.
        time: The clock of all calls into the core; None for that of the event loop.
        logger: Logger; ``wsapi.topics`` by default.
    """

    def __init__(
        self,
        bus: Bus,
        core: Core,
        *,
        roll: Roll | None = None,
        heartbeat: float = 5.0,
        publish_queue: int = 0,
        publish_timeout: float = 10.0,
        on_health: Callable[[bool, str], object] | None = None,
        handle_events: Callable[[], object] | None = None,
        call: Call | None = None,
        time: Callable[[], float] | None = None,
        logger: LoggerLike | None = None,
    ) -> None:
        self._bus = bus
        self._core = core
        self._roll = roll
        self._heartbeat = heartbeat
        self._publisher = Publisher(bus, publish_queue, publish_timeout)
        self._handle_events = handle_events
        self._call = call
        self._time = time
        logger = logging.getLogger("wsapi.topics") if logger is None else logger
        self._lines = Lines(logger, self._clock)
        self._health = Health(on_health, self._lines, self._clock)
        # Whoever calls in from another thread looks at the state, and is sure that the event loop
        # still takes something, under the lock.
        self._lock = threading.Lock()
        self._state = "new"
        self._error = BusUnavailable("topics aren't open")
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None
        # Requests that wait for their turn, and when they are given up; those under way.
        self._requests: deque[tuple[Request, float]] = deque()
        self._under_way: set[Request] = set()
        self._core_timer: asyncio.TimerHandle | None = None
        self._core_time: float | None = None
        # Notices for a core elsewhere.
        self._notices_ahead = 0
        self._left_out: set[str] = set()
        self._transient: dict[str, Callable[[Message], object]] = {}
        if roll is not None:
            self._transient = dict.fromkeys((ALL, roll.topic), self._take_presence)
        # What other processes are told of who is on which topics.
        self._to_tell: deque[tuple[str, str]] = deque()
        self._telling = False
        # The heartbeat. Beats are numbered: of these, which was the last one?
        self._alive = f"{TRANSIENT}alive.{secrets.token_hex(8)}"
        self._sent = 0
        self._answered = 0
        self._seen = 0
        self._seen_before = 0
        self._answered_before = 0
        self._needed = 1
        self._missed = 0
        self._silent = False
        self._beat_error: BaseException | None = None
        self._beating = False
        self._sent_at = 0.0
        self._lag = 0.0
        self._interrupted = False
        self._next_reconnection = 0.0
        self._tick_timer: asyncio.TimerHandle | None = None
        # The audit: cursors before, and what the bus said since; compared with the next beat.
        self._auditing = False
        self._answers: list[tuple[str, Position, Position | None]] = []
        self._audited = 0
        self._lost = 0
        self._lost_lately: set[str] = set()
        # What was filled before trouble, and whether the log will say what was since.
        self._before: tuple[int, int] = (0, 0)
        self._report: float | None = None

    # ------------------------------------------------------------------ for the front-end

    @property
    def healthy(self) -> bool:
        """Whether the bus is there, and brings what is published."""
        return self._state == "open" and self._health.good

    async def open(self) -> None:
        """Open the bus, and see that it brings what is published.

        Raises:
            BusUnavailable: If it doesn't; ``open`` may be called again.
            RuntimeError: If these topics, or others, have opened the bus; if they were closed.
        """
        if self._state == "closed":
            raise RuntimeError("these topics are closed for good: make others for the bus")
        if self._state != "new":
            raise RuntimeError(f"topics are {self._state} already")
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._now: Callable[[], float] = self._time or self._loop.time
        self._state = "opening"
        self._interrupted = False
        self._needed = self._sent + 1
        self._missed = 0
        self._silent = False
        self._beating = self._auditing = self._telling = False
        self._health.begin()
        self._transient[self._alive] = self._take_beat
        ours = True
        try:
            try:
                async with asyncio.timeout(OPENING_TIME):
                    try:
                        await self._bus.open(self)
                    except RuntimeError:
                        ours = False  # others have opened it, and go on with it
                        raise
                    for topic in self._transient:
                        await self._bus.follow(topic)
            except TimeoutError:
                raise BusUnavailable(
                    f"the bus didn't open within {OPENING_TIME:g} seconds"
                ) from None
            if self._state != "opening":
                raise self._error  # it was closed meanwhile
            self._state = "open"
            self._tick()
            try:
                await self._health.wait(2 * self._heartbeat)
            except TimeoutError:
                raise BusUnavailable("the bus doesn't bring what is published") from None
        except BaseException as exc:
            closed = self._state == "closed"
            await self._shut(BusUnavailable(f"the bus didn't open: {_text(exc)}"), ours)
            self._state = "closed" if closed else "new"
            raise
        self.flush()

    async def close(self) -> None:
        """End all that is under way, in bounded time, whatever the broker does.

        If this is cancelled, that goes on without it: nobody else would end the connections.
        """
        if self._closing is None:
            if self._state in ("new", "closed"):
                self._state = "closed"
                return
            self._closing = self._loop.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            if self.healthy:
                await self._take_leave()
            self._state = "closed"
            await self._publisher.close()
        finally:  # the event loop may end
            await self._shut(BusUnavailable("topics are closed"))

    async def publish(self, topic: str, message: Message) -> Position | None:
        """Publish a message.

        Raises:
            BusUnavailable: If it wasn't published.
            PublishUncertain: If that isn't known.
        """
        if self._state != "open":
            raise BusUnavailable("topics aren't open")
        return await self._publisher.publish(topic, message)

    async def wait_healthy(self, timeout: float | None) -> None:
        """Wait until the bus is there, and brings what is published.

        Args:
            timeout: Most seconds to wait; None for no limit.

        Raises:
            TimeoutError: If it isn't by then.
            BusUnavailable: If topics aren't open, or closed meanwhile.
        """
        if self._state != "open":
            raise BusUnavailable("topics aren't open")
        await self._health.wait(timeout)

    def flush(self) -> None:
        """Carry out what the core wants: called where the core lives, after calls into it."""
        if self._state in ("new", "opening"):
            return  # they wait until it is open
        outbox = self._core.outbox
        requests: list[Request] = []
        while outbox:
            requests.append(outbox.popleft())
        timeout = self._core.next_timeout()
        roll = self._roll
        if roll is not None:
            other = roll.next_timeout()
            if timeout is None or (other is not None and other < timeout):
                timeout = other
            if roll.outbox:
                self._in_loop(self._tell_others, list(roll.outbox))
                roll.outbox.clear()
        if (requests or timeout != self._core_time) and not self._in_loop(
            self._begin, requests, timeout
        ):
            for request in requests:
                self._core.failed(request, self._error, self._now())

    def stats(self) -> dict[str, float]:
        """Return what was counted.

        Returns:
            ``published``, ``unpublished``, ``uncertain``: messages of this process that the broker
            has, hasn't, and of which that isn't known; ``waiting``: messages that wait for the bus;
            ``trouble``: how often health became bad; ``lag``: seconds that the last beat took
            through the bus; ``audited``: positions that were compared; ``lost``: how many of them
            showed that messages had been lost in silence; ``requests``: those under way.
        """
        publisher = self._publisher
        return {
            "published": publisher.published,
            "unpublished": publisher.unpublished,
            "uncertain": publisher.uncertain,
            "waiting": publisher.waiting,
            "trouble": self._health.changes,
            "lag": self._lag,
            "audited": self._audited,
            "lost": self._lost,
            "requests": self._requests_under_way,
        }

    @property
    def _requests_under_way(self) -> int:
        return len(self._under_way) + len(self._requests)

    # ------------------------------------------------------------------ told by the bus

    def notice(self, notice: Notice) -> None:
        """Take a message of a followed topic."""
        if notice.topic[:1] == TRANSIENT:
            take = self._transient.get(notice.topic)
            if take is not None:
                take(notice.message)
        elif self._call is None:
            core = self._core
            core.notice(notice, self._now())
            if core.outbox or core.events:
                self._look()
        elif self._notices_ahead < MAX_NOTICES_AHEAD:
            self._notices_ahead += 1
            self._call(self._take_notice, notice)
        else:
            self._left_out.add(notice.topic)

    def interrupted(self, reason: Exception) -> None:
        """Note that messages may be missing from now on."""
        if self._state not in ("opening", "open"):
            return
        self._interrupted = True
        self._become_bad(f"the bus is away: {_text(reason)}")
        self._tell_core(self._core.interrupted)

    def resumed(self) -> None:
        """Note that all topics are followed again."""
        if self._state not in ("opening", "open"):
            return
        self._interrupted = False
        self._lost_lately.clear()
        # Only a beat from now on shows that it is so.
        self._needed = self._sent + 1
        self._missed = 0
        if not self._silent:
            self._publisher.resumed()
        self._tell_core(self._core.resumed)
        if self._state == "open":
            self._beat()

    def suspect(self, topic: str) -> None:
        """Note that messages of one topic may be missing."""
        if not is_transient(topic):
            self._tell_core(self._core.suspect, topic)

    # ------------------------------------------------------------------ calls into the core

    def _tell_core(self, function: Callable[..., object], *args: object) -> None:
        """Call the core with the time as the last argument, where it lives."""
        if self._call is None:
            self._call_core(function, *args)
        else:
            self._call(self._call_core, function, *args)

    def _call_core(self, function: Callable[..., object], *args: object) -> None:
        function(*args, self._now())
        self._look()

    def _look(self) -> None:
        """Take out what a call into the core has left there."""
        self.flush()
        events = self._core.events or (self._roll is not None and self._roll.events)
        if events and self._handle_events is not None:
            self._handle_events()

    def _take_notice(self, notice: Notice) -> None:
        self._notices_ahead -= 1
        self._core.notice(notice, self._now())
        if self._left_out and self._notices_ahead == 0:
            while self._left_out:
                self._core.suspect(self._left_out.pop(), self._now())
        if self._core.outbox or self._core.events:
            self._look()

    def _in_loop(self, function: Callable[..., object], *args: object) -> bool:
        """Call a function in the bus's event loop, now or later; return False if it is too late."""
        with self._lock:
            if self._state != "open":
                return False
            if threading.get_ident() != self._thread:
                self._loop.call_soon_threadsafe(function, *args)
                return True
        function(*args)
        return True

    # ------------------------------------------------------------------ requests

    def _begin(self, requests: list[Request], timeout: float | None) -> None:
        """Begin to carry out requests, and to wait for the core's next time."""
        deadline = self._loop.time() + REQUEST_TIMEOUT
        self._requests.extend((request, deadline) for request in requests)
        self._start_requests()
        if timeout != self._core_time:
            self._core_time = timeout
            if self._core_timer is not None:
                self._core_timer.cancel()
                self._core_timer = None
            if timeout is not None:
                delay = max(timeout - self._now(), 0.0)
                self._core_timer = self._loop.call_later(delay, self._core_timeout)

    def _core_timeout(self) -> None:
        self._core_timer = None
        self._core_time = None
        self._tell_core(self._handle_timeout)

    def _handle_timeout(self, now: float) -> None:
        self._core.handle_timeout(now)
        if self._roll is not None:
            self._roll.handle_timeout(now)

    def _start_requests(self) -> None:
        while self._requests and len(self._under_way) < MAX_REQUESTS:
            request, deadline = self._requests.popleft()
            self._under_way.add(request)
            self._spawn(self._carry_out(request, deadline))

    async def _carry_out(self, request: Request, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                match request:
                    case Follow():
                        position = await self._bus.follow(request.topic)
                        self._tell_core(self._core.followed, request, position)
                    case Unfollow():
                        await self._bus.unfollow(request.topic)
                        self._tell_core(self._core.unfollowed, request)
                    case Read():
                        page = await self._bus.read(request.topic, request.since, request.limit)
                        self._tell_core(self._core.page, request, page)
        except TimeoutError:
            self._fail(request, BusUnavailable("the broker didn't answer in time"))
        except Exception as exc:
            self._fail(request, exc)
        self._under_way.discard(request)
        self._start_requests()
        self._report_back()

    def _fail(self, request: Request, exc: Exception) -> None:
        if not self._interrupted:
            verb = type(request).__name__.lower()
            text = f"topics: couldn't {verb} {request.topic!r}: {_text(exc)}"
            if isinstance(exc, BusError):
                self._lines.write(logging.WARNING, "request", text)
            else:
                self._lines.write(logging.ERROR, "request", text, exc)
        self._tell_core(self._core.failed, request, exc)

    def _clock(self) -> float:
        return self._loop.time()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ------------------------------------------------------------------ health

    def _become_bad(self, reason: str) -> None:
        if self._health.good:
            counters = self._core.counters
            self._before = counters.filled, counters.gaps
            self._answers.clear()
            if self._roll is not None:
                self._tell_core(self._roll.interrupted)
        self._health.become_bad(reason)

    def _become_good(self) -> None:
        if not self._health.good and self._roll is not None:
            self._tell_core(self._roll.resumed)
        seconds = self._health.become_good()
        if seconds is not None:
            self._report = seconds
        self._report_back()

    def _report_back(self, *, now: bool = False) -> None:
        """Log that the bus is back, when what was missed has been read, or now."""
        if self._report is None or not (now or self._requests_under_way == 0):
            return
        counters, (filled, gaps) = self._core.counters, self._before
        self._lines.write(
            logging.INFO,
            "back",
            f"topics: the bus is back after {self._report:.1f} seconds; "
            f"messages filled: {counters.filled - filled}, gaps: {counters.gaps - gaps}",
        )
        self._report = None

    # ------------------------------------------------------------------ heartbeat

    def _tick(self) -> None:
        """Look after the bus: called in each interval, more often in trouble."""
        healthy = self._health.good
        interval = self._heartbeat if healthy else self._heartbeat / 4
        self._tick_timer = self._loop.call_later(interval, self._tick)
        self._health.remind()
        self._report_back(now=True)
        if self._interrupted:
            return  # the bus tells when it is back
        # A loop that stood still hasn't read its beat yet: intervals are counted, not seconds.
        if self._seen in (self._sent, self._seen_before):
            self._missed = 0 if self._seen == self._sent else self._missed + 1
        else:
            self._missed = 0
        if healthy and self._missed >= 2:
            self._diagnose()
        elif healthy:
            self._compare()
            self._audit()
        if not self._health.good and (self._silent or self._answered_before > self._seen):
            self._reconnect()
        self._seen_before, self._answered_before = self._seen, self._answered
        self._beat()

    def _diagnose(self) -> None:
        """Say why there was no beat in two intervals."""
        seconds = 2 * self._heartbeat
        if self._answered > self._seen:
            self._core.counters.deaf += 1
            self._become_bad(f"deaf: what is published hasn't come for {seconds:g} seconds")
            self._next_reconnection = self._loop.time()
        elif self._beat_error is not None:
            self._become_bad(f"the broker takes nothing: {_text(self._beat_error)}")
        else:
            # It may stand still; but there may also be nobody any more where this connection leads.
            reason = f"the broker hasn't answered for {seconds:g} seconds"
            self._become_bad(reason)
            self._publisher.silent(reason)
            self._silent = True
            self._next_reconnection = self._loop.time() + seconds

    def _reconnect(self) -> None:
        now = self._loop.time()
        if now >= self._next_reconnection:
            self._next_reconnection = now + 2 * self._heartbeat
            self._bus.reconnect()

    def _beat(self) -> None:
        if not self._beating:
            self._beating = True
            self._spawn(self._send_beat())

    async def _send_beat(self) -> None:
        try:
            while True:
                self._sent += 1
                number, self._sent_at = self._sent, self._loop.time()
                try:
                    async with asyncio.timeout(REQUEST_TIMEOUT):
                        await self._bus.publish(self._alive, str(number))
                except Exception as exc:
                    self._beat_error = exc
                    if not isinstance(exc, (BusError, TimeoutError)):
                        self._lines.write(logging.ERROR, "beat", "topics: no beat", exc)
                else:
                    self._answered = number
                    self._beat_error = None
                    self._publisher.resumed()
                # The bus has come back meanwhile, and that is to be seen at once.
                if number >= self._needed or self._interrupted:
                    break
        finally:
            self._beating = False

    def _take_beat(self, message: Message) -> None:
        try:
            number = int(message)
        except ValueError:
            return  # whoever wrote this isn't of our family
        if not self._seen < number <= self._sent:
            return
        self._seen = number
        if number == self._sent:
            self._lag = self._loop.time() - self._sent_at
        if number >= self._needed and not self._interrupted and self._state == "open":
            self._missed = 0
            self._silent = False
            self._become_good()

    # ------------------------------------------------------------------ audit

    def _audit(self) -> None:
        """Ask for the positions of some topics."""
        if not self._auditing:
            self._auditing = True
            limit = max(AUDITED_TOPICS, self._core.topics // AUDIT_BEATS)
            if self._call is None:
                self._choose(limit)
            else:
                self._call(self._choose, limit)

    def _choose(self, limit: int) -> None:
        self._in_loop(self._begin_audit, self._core.audit(limit))

    def _begin_audit(self, topics: list[tuple[str, Position]]) -> None:
        self._spawn(self._ask(topics))

    async def _ask(self, topics: list[tuple[str, Position]]) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                positions = await asyncio.gather(
                    *(self._bus.position(name) for name, _ in topics), return_exceptions=True
                )
        except TimeoutError:
            return  # the heartbeat shows what is wrong
        finally:
            self._auditing = False
        for (name, cursor), position in zip(topics, positions, strict=True):
            if not isinstance(position, BaseException):
                self._answers.append((name, cursor, position))

    def _compare(self) -> None:
        """Compare the positions that were asked for a beat ago: their notices have come since."""
        answers, self._answers = self._answers, []
        self._audited += len(answers)
        for answer in answers:
            self._tell_core(self._compare_one, *answer)

    def _compare_one(
        self, name: str, before: Position, position: Position | None, now: float
    ) -> None:
        if not self._core.audited(name, before, position, now):
            self._lost += 1
            self._in_loop(self._note_loss, name)

    def _note_loss(self, name: str) -> None:
        text = f"topics: messages of {name!r} hadn't come, and nothing told so; they are read now"
        self._lines.write(logging.WARNING, "lost", text)
        if name in self._lost_lately:
            # It seems that the broker doesn't know any more that it is followed.
            self._reconnect()
        elif len(self._lost_lately) < MAX_LOST_LATELY:
            self._lost_lately.add(name)

    # ------------------------------------------------------------------ presence

    def _take_presence(self, message: Message) -> None:
        assert self._roll is not None
        self._tell_core(self._roll.receive, message)

    def _tell_others(self, messages: list[tuple[str, str]]) -> None:
        """Publish what other processes are to know; they see for themselves if it gets lost."""
        if len(self._to_tell) < MAX_TELLING:
            self._to_tell.extend(messages)
        if not self._telling:
            self._telling = True
            self._spawn(self._tell_all())

    async def _tell_all(self) -> None:
        assert self._roll is not None
        while self._to_tell:
            topic, message = self._to_tell.popleft()
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT):
                    await self._bus.publish(topic, message)
            except (BusError, TimeoutError):
                pass
            except Exception as exc:
                self._lines.write(logging.ERROR, "presence", "topics: no presence told", exc)
        self._telling = False
        self._tell_core(self._roll.drained)

    async def _take_leave(self) -> None:
        """Tell other processes that this one ends, if that can be done at once."""
        farewell = None if self._roll is None else self._roll.close()
        if farewell is not None:
            try:
                async with asyncio.timeout(CLOSING_TIME):
                    await self._bus.publish(ALL, farewell)
            except Exception:
                pass  # they will miss it

    # ------------------------------------------------------------------ end

    async def _shut(self, error: BusUnavailable, close_bus: bool = True) -> None:
        """End what is under way; wait no longer than it has to take."""
        with self._lock:
            self._state = "closed"
            self._error = error
        self._health.end(error)
        for timer in (self._tick_timer, self._core_timer):
            if timer is not None:
                timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=CLOSING_TIME)
        finally:  # the event loop may end
            if close_bus:
                await self._close_bus()
        requests = [*self._under_way, *(request for request, _ in self._requests)]
        self._under_way.clear()
        self._requests.clear()
        for request in requests:
            self._tell_core(self._core.failed, request, error)
        if self._call is None:
            self.flush()
        else:
            self._call(self.flush)
        await asyncio.sleep(0)  # what another thread has left here before

    async def _close_bus(self) -> None:
        try:
            async with asyncio.timeout(CLOSING_TIME):
                await self._bus.close()
        except Exception as exc:
            text = f"topics: the bus didn't close well: {_text(exc)}"
            self._lines.write(logging.WARNING, "close", text)


def _text(exc: BaseException) -> str:
    """Return the text of an exception, or its name if it has none."""
    return str(exc) or type(exc).__name__
