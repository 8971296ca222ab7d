"""How threads wait, in the time of the operating system or in one that a test decides on."""

from __future__ import annotations

import math
import sys
import threading
from _thread import allocate_lock
from collections.abc import Callable, Iterable
from contextvars import ContextVar, Token
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Self

__all__ = ["Clock", "Expelled", "Time", "Waiter", "current_clock"]

# Seconds between two looks at threads that don't rest yet.
PAUSE = 0.0002

# A thread that stays at one place of its program for so many seconds waits for something that isn't
# the kit's, such as a queue. The second is for a place where it has been found waiting before.
STILL = 0.02
STILL_AGAIN = 0.002

# Seconds of the operating system that threads may take to come to rest. More is an error.
PATIENCE = 30.0

# How long the main thread blocks at most before it runs signal handlers, in seconds.
SIGNAL_INTERVAL = 0.5

# After so many of these times, in which all threads wait and nobody advances the clock, it is an
# error. The second is for when some of them wait for something that isn't the kit's.
HOPELESS = 6
HOPELESS_STILL = 60


class Expelled(SystemExit):
    """Raised where a handler sleeps that its server doesn't wait for."""


class Waiter:
    """What one thread waits with, once; another one releases it.

    Args:
        time: The time that it goes by.
    """

    def __init__(self, time: Time) -> None:
        self._time = time
        self._lock = allocate_lock()
        self._lock.acquire()
        self.released = False
        self.deadline = math.inf
        self.thread = 0
        self.expelled = False  # its thread is to end

    def release(self) -> None:
        """Let the thread go on."""
        with self._time.lock:
            self.release_locked()

    def release_locked(self) -> None:
        """Do what ``release`` does, with the lock of the time held."""
        self.released = True
        self.let_go()

    def let_go(self) -> None:
        """Let the thread look at the time; the lock is held."""
        if self in self._time.waiting:
            # From here on it isn't at rest any more, whenever it gets to run.
            del self._time.waiting[self]
            self._lock.release()

    def wait(self, deadline: float) -> bool:
        """Wait until a time at most; return whether it was released before.

        Args:
            deadline: That time; may be infinite.
        """
        time = self._time
        with time.lock:
            if self.released:
                return True
            if deadline <= time.time():
                return False
            self.deadline, self.thread = deadline, threading.get_ident()
            time.waiting[self] = None
        try:
            time._block(self)
        finally:
            with time.lock:
                time.waiting.pop(self, None)
        return self.released

    def end_if_expelled(self) -> None:
        """Have the handler end whose server doesn't wait for it any more."""
        if self.expelled:
            raise Expelled

    def block(self, timeout: float) -> None:
        """Block until the thread is let go, or for some seconds of the operating system.

        Args:
            timeout: These seconds; -1 for no limit.
        """
        self._lock.acquire(timeout=min(timeout, threading.TIMEOUT_MAX))


class Time:
    """The time of the operating system.

    Attributes:
        lock: Held while anything changes that threads wait for.
        waiting: The threads that wait, at rest.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting: dict[Waiter, None] = {}

    def time(self) -> float:
        """Return the current time, in seconds."""
        return monotonic()

    def waiter(self) -> Waiter:
        """Return what the calling thread can wait with."""
        return Waiter(self)

    def _block(self, waiter: Waiter) -> None:
        """Block until a waiter is let go, or its time has come."""
        waiter.block(max(waiter.deadline - monotonic(), 0.0))


class Clock(Time):
    """A clock that stands still until it is advanced: ``with Clock() as clock:``.

    Within the block it is the time of connections that ``pair`` and ``serving`` make in the thread
    that has entered it: of their keepalive, deadlines, timeouts, limits on rates, and latencies,
    and of what is under way on their wires. ``time.sleep`` and ``threading`` keep the time of the
    operating system: a program under test takes ``clock.sleep``.

    Args:
        autojump: Whether time jumps to what is due next as soon as the thread that has entered the
            clock waits for a connection of the kit, or in ``sleep``, and all others are at rest.
    """

    def __init__(self, *, autojump: bool = False) -> None:
        super().__init__()
        self._autojump = autojump
        self._now = 0.0
        self._in_use = False
        self._moving = threading.Lock()  # held by who changes the time
        self._token: Token[Clock | None] | None = None
        self._owner = 0
        self._known: set[threading.Thread] = set()  # those that were there before
        self._met: set[int] = set()  # those that have waited here nevertheless
        self._places: dict[int, tuple[object, float, bool]] = {}  # where threads are, since when

    def __enter__(self) -> Self:
        if self._in_use or current_clock() is not None:
            raise RuntimeError("there is a Clock in use already")
        self._now = monotonic()
        self._owner = threading.get_ident()
        self._known = set(threading.enumerate())
        self._in_use = True
        self._token = _current.set(self)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._token is not None
        _current.reset(self._token)
        self._in_use = False
        self._known.clear()
        self._places.clear()

    # ------------------------------------------------------------------ for tests

    def time(self) -> float:
        """Return the current time, in seconds."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Wait until so much time has passed.

        In a handler that is still waiting when its server ends, this raises a ``SystemExit``.

        Args:
            seconds: How much; 0 or less doesn't wait.

        Raises:
            RuntimeError: If the clock isn't in use.
        """
        self._check_in_use()
        waiter = self.waiter()
        waiter.wait(self._now + seconds)
        waiter.end_if_expelled()

    def settle(self) -> None:
        """Let other threads run, without time passing, until none has anything to do at once.

        These are the threads that were started since the clock is in use. One that waits for
        something else, such as a queue, is given a few milliseconds.

        Raises:
            RuntimeError: If the clock isn't in use, or threads don't come to rest.
        """
        self._check_in_use()
        self._settle()

    def advance(self, seconds: float) -> None:
        """Let time pass: what is due meanwhile happens in its order, each at its time.

        When this returns, no thread has anything to do until more time passes.

        Args:
            seconds: How much time passes; 0 or more.

        Raises:
            ValueError: If that is negative, or not finite.
            RuntimeError: If the clock isn't in use, or threads don't come to rest; or if another
                thread advances it.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"seconds must be 0 or more, and finite; got {seconds}")
        self._check_in_use()
        if not self._moving.acquire(blocking=False):
            raise RuntimeError("another thread advances the clock")
        try:
            end = self._now + seconds
            self._settle()
            while (due := self._next()) <= end:
                self._jump(due)
                self._settle()
            self._now = end
        finally:
            self._moving.release()

    def _check_in_use(self) -> None:
        if not self._in_use:
            raise RuntimeError("the clock isn't in use: enter it by `with`")

    # ------------------------------------------------------------------ what passes

    def _next(self) -> float:
        """Return when the next thread wants to go on; infinite if none does by itself."""
        with self.lock:
            return min((waiter.deadline for waiter in self.waiting), default=math.inf)

    def _jump(self, time: float) -> None:
        """Have it be a time, and those go on that have waited for it."""
        with self.lock:
            self._now = max(self._now, time)
            for waiter in [each for each in self.waiting if each.deadline <= self._now]:
                waiter.let_go()

    def _block(self, waiter: Waiter) -> None:
        """Block until a waiter is let go."""
        thread = threading.get_ident()
        self._met.add(thread)
        if thread != self._owner:
            waiter.block(-1)
            return
        if not self._autojump:
            self._block_owner(waiter)
            return
        while waiter in self.waiting:
            self._settle(lambda: waiter not in self.waiting)
            with self._moving:
                due = self._next()
                if due < math.inf and waiter in self.waiting:
                    self._jump(due)
                    continue
            waiter.block(SIGNAL_INTERVAL)  # for what a thread does that waits for something else

    def _block_owner(self, waiter: Waiter) -> None:
        """Block the thread that has entered the clock, unless nobody is left to advance it."""
        waits = stills = 0
        while waiter in self.waiting:
            waiter.block(SIGNAL_INTERVAL)
            moving, busy = self._moving.locked(), self._busy()
            waits = 0 if busy or moving else waits + 1
            # What they wait for may come by itself, but most likely they are those of an executor.
            stills = stills + 1 if not moving and self._are_still(busy) else 0
            if (waits == HOPELESS or stills == HOPELESS_STILL) and waiter in self.waiting:
                raise RuntimeError(
                    "all threads wait while the clock stands still: "
                    "advance it, in another thread, or take Clock(autojump=True)"
                )

    def _expel(self, threads: Iterable[threading.Thread]) -> None:
        """Have threads that sleep end."""
        idents = {thread.ident for thread in threads}
        with self.lock:
            for waiter in [each for each in self.waiting if each.thread in idents]:
                waiter.expelled = True
                waiter.let_go()

    # ------------------------------------------------------------------ who rests

    def _settle(
        self, unless: Callable[[], bool] = lambda: False, *, also: Iterable[int] = ()
    ) -> None:
        """Wait until all threads are at rest.

        Args:
            unless: Tells whether to end this before.
            also: Threads that were there before, and have to be at rest, too.
        """
        patience = monotonic() + PATIENCE
        while busy := self._busy(also):
            if unless() or self._are_still(busy):
                return
            if monotonic() > patience:
                names = ", ".join(sorted(thread.name for thread in busy))
                raise RuntimeError(f"threads don't come to rest: {names}")
            sleep(PAUSE)

    def _busy(self, also: Iterable[int] = ()) -> list[threading.Thread]:
        """Return the threads that don't wait for anything of the kit."""
        with self.lock:
            resting = {waiter.thread for waiter in self.waiting}
        # Not before: what is busy then may start others, and come to rest.
        me = threading.get_ident()
        concerned = self._met.union(also)
        return [
            thread
            for thread in threading.enumerate()
            if (thread not in self._known or thread.ident in concerned)
            and thread.ident not in resting
            and thread.ident != me
        ]

    def _are_still(self, threads: Iterable[threading.Thread]) -> bool:
        """Tell whether threads wait for something else: they haven't moved for a while."""
        frames = sys._current_frames()
        now = monotonic()
        still = True
        for thread in threads:
            ident = thread.ident
            frame = None if ident is None else frames.get(ident)
            if ident is None or frame is None:
                still = False
                continue
            place = id(frame), frame.f_lasti
            before, since, waited = self._places.get(ident, (None, now, False))
            if place != before or _runs(thread):
                self._places[ident] = place, now, False
                still = False
            elif now - since >= (STILL_AGAIN if waited else STILL):
                self._places[ident] = place, since, True
            else:
                still = False
        return still


def _runs(thread: threading.Thread) -> bool:
    """Tell whether a thread is running, or would if there was a processor for it; Linux tells."""
    try:
        stat = Path(f"/proc/self/task/{thread.native_id}/stat").read_text("ascii", "replace")
    except OSError:  # pragma: no cover: on other systems, or if the thread has just ended
        return False
    return stat[stat.rindex(")") + 2] in "RD"


_current: ContextVar[Clock | None] = ContextVar("wsapi.testing.clock", default=None)


def current_clock() -> Clock | None:
    """Return the clock that the calling thread has entered, if any."""
    return _current.get()
