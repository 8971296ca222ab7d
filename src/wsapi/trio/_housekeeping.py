"""What the connections of one run of trio share.

One system task looks after all of them: it calls an engine when a time has come that it asked for,
notices a connection from which nobody reads any more, and sends what was held back in case more
followed. Hence an idle connection needs no task, and one that is in use no timer.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

import trio

from wsproto_fast.drivers.schedule import Schedule

if TYPE_CHECKING:
    from ._link import Link

__all__ = ["Housekeeper"]

# Connections receive through one buffer: what is in it matters only until the engine has seen it.
READ_BUFFER_SIZE = 256 * 1024

# Seconds. A connection from which nobody has read for at least this long, and at most twice this
# long, gets a task that reads: Pings are to be answered, and a close is to be noticed.
ATTENTION_SPAN = 0.01


class Housekeeper:
    """Looks after the connections of a run of trio."""

    def __init__(self) -> None:
        self.read_buffer = memoryview(bytearray(READ_BUFFER_SIZE))
        self._alarms: Schedule[weakref.ref[Link]] = Schedule(_is_outdated)
        self._outdated = 0
        self._watched: list[Link] = []
        self._next_look = inf
        self._unsent: list[Link] = []
        self._scope = trio.CancelScope()
        self._parked = False
        self._task = trio.lowlevel.spawn_system_task(self._run)

    @classmethod
    def current(cls) -> Housekeeper:
        """Return the one of this run of trio."""
        try:
            return _current.get()
        except LookupError:
            housekeeper = cls()
            _current.set(housekeeper)
            return housekeeper

    # ------------------------------------------------------------------ what connections ask for

    def set_alarm(self, connection: Link, time: float) -> None:
        """Have the engine of a connection called at a time, rather than at a later one."""
        if connection._alarm != inf:
            self._outdated += 1
        connection._alarm = time
        self._alarms.add(time, weakref.ref(connection))
        self._wake_by(time)

    def clear_alarm(self, connection: Link) -> None:
        """Forget the alarm of a connection."""
        if connection._alarm == inf:
            return
        connection._alarm = inf
        self._outdated += 1
        if self._alarms.clean(self._outdated):
            self._outdated = 0

    def watch(self, connection: Link) -> None:
        """Look at a connection from time to time, until it says that it isn't needed."""
        connection._watched = True
        self._watched.append(connection)
        if self._next_look == inf:
            self._next_look = trio.current_time() + ATTENTION_SPAN
            self._wake_by(self._next_look)

    def send_soon(self, connection: Link) -> None:
        """Have a connection send what it holds back, as soon as other tasks have had their turn."""
        self._unsent.append(connection)
        if self._parked:
            self._parked = False
            trio.lowlevel.reschedule(self._task)

    # ------------------------------------------------------------------ the task

    def _wake_by(self, time: float) -> None:
        if time < self._scope.deadline:
            self._scope.deadline = time

    async def _run(self) -> None:
        while True:
            self._end_turns()
            now = trio.current_time()
            self._ring(now)
            if self._next_look <= now:
                self._look()
                self._next_look = now + ATTENTION_SPAN if self._watched else inf
            deadline = min(self._next_look, self._alarms.next_time())
            with trio.CancelScope(deadline=deadline) as self._scope:
                self._parked = True
                await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, raise_cancel: object) -> trio.lowlevel.Abort:
        self._parked = False
        return trio.lowlevel.Abort.SUCCEEDED

    def _ring(self, now: float) -> None:
        """Call the engines that asked for it."""
        while self._alarms.next_time() <= now:
            time, reference = self._alarms.take()
            connection = reference()
            if connection is None or connection._alarm != time:
                self._outdated = max(0, self._outdated - 1)
                continue
            connection._alarm = inf
            _guarded(connection, connection._handle_timeout, now)

    def _end_turns(self) -> None:
        # Not in a task's frame, which would keep the last connection while the task sleeps.
        unsent, self._unsent = self._unsent, []
        for connection in unsent:
            _guarded(connection, connection._end_turn)

    def _look(self) -> None:
        watched, self._watched = self._watched, []
        for connection in watched:
            if _guarded(connection, connection._look):
                self._watched.append(connection)


def _is_outdated(time: float, reference: weakref.ref[Link]) -> bool:
    """Tell whether the connection of an alarm is gone, or waits for another time."""
    connection = reference()
    return connection is None or connection._alarm != time


def _guarded(connection: Link, function: Callable[..., Any], *args: object) -> Any:
    """Call a method of a connection, which may have a fault that mustn't harm the others."""
    try:
        return function(*args)
    except Exception as exc:
        connection.logger.error("housekeeping failed", exc_info=True)
        connection._abort(exc)


_current: trio.lowlevel.RunVar[Housekeeper] = trio.lowlevel.RunVar("wsapi.trio.housekeeper")
