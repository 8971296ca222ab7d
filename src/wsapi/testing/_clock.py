"""Time that passes when a test says so, on an asyncio event loop."""

from __future__ import annotations

import asyncio
import linecache
import math
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self

__all__ = ["Clock", "clock_of", "takes_clock", "time_of"]

# Turns of the event loop at one time. A program that never comes to rest is an error.
MAX_TURNS = 1_000_000

# Seconds of the operating system for which a call in a thread is waited for, and between two looks.
PATIENCE = 1.0
PAUSE = 0.0005

# How long the event loop waits for the operating system at a time while the clock stands still, in
# seconds. After so many of these times without any event, it is an error. The second is for when
# one may come from elsewhere: from a thread, from a socket.
INTERVAL = 0.5
HOPELESS = 6
HOPELESS_OUTSIDE = 60

# Packages whose lines aren't those of a test.
_LIBRARIES = frozenset({"asyncio", "contextlib", "wsapi", "wsproto_fast"})


class Clock:
    """A clock that stands still until it is advanced: ``async with Clock() as clock:``.

    Within the block it is the time of the running event loop, hence of ``asyncio.sleep``,
    ``asyncio.timeout``, and ``loop.call_later``; and of connections that ``pair`` and ``serving``
    make there: their keepalive, deadlines, limits on rates, and latencies. Connections on sockets
    keep the time of the operating system; no time passes while threads run for the event loop, by
    ``asyncio.to_thread`` or anyio, for a second of each call at most. After the block, time goes on
    from where it is then. It needs an event loop of asyncio, not uvloop.

    When nothing happens for three seconds of the operating system, or for 30 if sockets or threads
    that were started in the block may have something happen, the task that has entered the clock is
    cancelled, and the block raises a ``RuntimeError`` that tells what it waits for.
    """

    def __init__(self) -> None:
        self._loop: Any = None
        self._now = 0.0
        self._resolution = 0.0  # of the event loop's own clock
        self._moving = False
        self._slow = 0.0
        self._run: Any = None  # the event loop's run_in_executor()
        self._calls: set[object] = set()  # its calls
        self._waits: dict[object, float] = {}  # how long threads were waited for, by call
        self._select: Any = None  # that of the event loop's selector
        self._task: asyncio.Task[Any] | None = None  # who has entered it
        self._cancelling = 0  # how often that had been cancelled before
        self._known: set[threading.Thread] = set()  # threads that were there before
        self._despair: str | None = None  # what it was cancelled for

    async def __aenter__(self) -> Self:
        loop: Any = asyncio.get_running_loop()
        if not takes_clock(loop):
            raise TypeError(f"a Clock needs an event loop of asyncio, not {type(loop).__name__}")
        if self._loop is not None or clock_of(loop) is not None:
            raise RuntimeError("the event loop has a Clock already, or the Clock an event loop")
        self._now = loop.time()
        self._loop = loop
        loop.time = self.time
        # In debug mode, an event loop complains of callbacks that last long; those that time passes
        # in don't.
        self._slow, loop.slow_callback_duration = loop.slow_callback_duration, math.inf
        self._run, loop.run_in_executor = loop.run_in_executor, self._run_in_executor
        self._resolution = loop._clock_resolution
        self._select, loop._selector.select = loop._selector.select, self._wait
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        self._known = set(threading.enumerate())
        self._despair = None
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        loop, self._loop = self._loop, None
        del loop.time, loop.run_in_executor, loop._selector.select
        loop._clock_resolution = self._resolution
        loop.slow_callback_duration = self._slow
        self._waits.clear()
        # The time of an event loop doesn't go back: timers and wires that outlive the block would
        # wait as long as has passed in it.
        time = loop.time
        ahead = self._now - time()
        if ahead > 0:
            loop.time = lambda: time() + ahead
        task, self._task = self._task, None
        self._known.clear()
        if self._despair is not None:
            assert task is not None
            # As asyncio.timeout() does, if nobody else has cancelled it.
            alone = task.uncancel() <= self._cancelling
            if alone and exc_type in (None, asyncio.CancelledError):
                raise RuntimeError(self._despair) from exc_value

    def time(self) -> float:
        """Return the current time, in seconds; it begins with that of the event loop."""
        return self._now

    async def settle(self) -> None:
        """Let the event loop run, without time passing, until nothing is left to do at once.

        Raises:
            RuntimeError: If the clock isn't in use, or another task uses it, or the event loop
                doesn't come to rest.
        """
        with self._alone():
            await self._settle()

    async def advance(self, seconds: float) -> None:
        """Let time pass: what is due meanwhile happens in its order, each at its time.

        When this returns, nothing is left to do until more time passes.

        Args:
            seconds: How much time passes; 0 or more.

        Raises:
            ValueError: If that is negative, or not finite.
            RuntimeError: If the clock isn't in use, or another task uses it, or the event loop
                doesn't come to rest.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"seconds must be 0 or more, and finite; got {seconds}")
        with self._alone():
            end = self._now + seconds
            await self._settle()
            while (due := self._next()) <= end:
                self._now = max(self._now, due)
                await self._settle()
            self._now = max(self._now, end)
            await self._settle()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other task advance the clock: each would be what the other one waits for."""
        self._check_in_use()
        if self._moving:
            raise RuntimeError("another task advances the clock")
        self._moving = True
        try:
            yield
        finally:
            self._moving = False

    def _check_in_use(self) -> None:
        if self._loop is None:
            raise RuntimeError("the clock isn't in use: enter it by `async with`")

    def _next(self) -> float:
        """Return when the next timer is due; infinite if there is none."""
        timers = (timer.when() for timer in self._loop._scheduled if not timer.cancelled())
        return min(timers, default=math.inf)

    async def _settle(self) -> None:
        for _ in range(MAX_TURNS):
            # What is due now is called if it is before now and the resolution, which is less than a
            # number of this size can tell if the machine has run for half a year.
            self._loop._clock_resolution = max(self._resolution, math.ulp(self._now))
            await asyncio.sleep(0)
            self._check_in_use()  # still
            # The event loop calls what is due within the resolution of its clock. Who is called
            # and finds that it isn't time yet would have itself called again, for ever.
            for handle in self._loop._ready:
                if isinstance(handle, asyncio.TimerHandle):
                    self._now = max(self._now, handle.when())
            # What runs now isn't in there any more; timers that are due are after the next turn.
            if not self._loop._ready and self._next() > self._now and not self.wait_for_threads():
                return
        raise RuntimeError("the event loop doesn't come to rest")

    # ------------------------------------------------------------------ nothing happens

    def _wait(self, timeout: float | None = None) -> Any:
        """Stand for ``select`` of the selector, which would wait for what nobody has happen."""
        if timeout == 0:
            return self._select(0)
        for waits in range(1, HOPELESS_OUTSIDE + 1):
            events = self._select(INTERVAL)
            if events:
                return events
            if waits >= HOPELESS and not self._waits_for_others():
                break
        self._give_up()
        return []

    def _waits_for_others(self) -> bool:
        """Tell whether a thread or a socket may have something happen."""
        get_map = getattr(self._loop._selector, "get_map", None)
        # The event loop has one descriptor itself, by which others wake it.
        sockets = get_map is None or len(get_map()) > 1
        threads = bool(self._calls) or not self._known.issuperset(threading.enumerate())
        return sockets or threads

    def _give_up(self) -> None:
        """Cancel who waits for ever."""
        tasks = asyncio.all_tasks(self._loop)
        # Unless it was a fixture, in a task of its own.
        here = ""
        if self._task in tasks:
            tasks = {self._task}
            here = f", this one at {_place(self._task)}"
        due = self._next() - self._now
        timer = (
            "no timer is set" if due == math.inf else f"the next timer is due in {due:g} seconds"
        )
        self._despair = (
            f"all tasks wait while the clock stands still{here}, and {timer}: "
            "start what waits as a task, and advance the clock meanwhile"
        )
        for task in tasks:
            task.cancel(self._despair)

    # ------------------------------------------------------------------ threads

    def _run_in_executor(self, *args: Any) -> asyncio.Future[Any]:
        call: asyncio.Future[Any] = self._run(*args)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return call

    def wait_for_threads(self) -> bool:
        """Wait a moment, if threads run for the event loop; return whether they do.

        Those that take long aren't waited for any more: they may wait for what comes later.
        """
        calls = self._calls.union(_calls_of_anyio())
        self._waits = {call: self._waits.get(call, 0.0) for call in calls}
        running = [call for call, waited in self._waits.items() if waited < PATIENCE]
        if running:
            begin = monotonic()
            sleep(PAUSE)
            for call in running:
                self._waits[call] += monotonic() - begin
        return bool(running)


def _calls_of_anyio() -> Iterable[object]:
    """Return what stands for the calls in threads by anyio; FastAPI makes some."""
    module: Any = sys.modules.get("anyio.to_thread")
    if module is None:
        return ()
    borrowers: Iterable[object] = module.current_default_thread_limiter().statistics().borrowers
    return borrowers


def _place(task: asyncio.Task[Any]) -> str:
    """Return the line of a test, or what it calls, at which a task waits."""
    coroutine: Any = task.get_coro()
    place = "an unknown place"
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        path, number = frame.f_code.co_filename, frame.f_lineno
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package not in _LIBRARIES:
            place = f"{Path(path).name}:{number}: {linecache.getline(path, number).strip()}"
        coroutine = coroutine.cr_await
    return place


def takes_clock(loop: Any) -> bool:
    """Tell whether an event loop can have a clock."""
    return hasattr(loop, "_ready") and hasattr(loop, "_scheduled")


def time_of(loop: Any) -> Callable[[], float]:
    """Return what tells the time of an event loop, also when a clock comes and goes."""
    return lambda: loop.time()


def clock_of(loop: Any) -> Clock | None:
    """Return the clock of an event loop, if it has one."""
    owner = getattr(loop.time, "__self__", None)
    return owner if isinstance(owner, Clock) else None
