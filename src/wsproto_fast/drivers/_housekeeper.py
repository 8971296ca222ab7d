"""The housekeeper: the one thread that looks after connections while no thread of the program does.

It reads from those that nobody reads from, so that pings are answered and a close is noticed;
writes what the network didn't take at once; and calls engines at their deadlines. It sleeps the
rest of the time, never blocks on a connection, and ends when there are none.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
import threading
from math import inf
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Protocol

from ._inbox import READ, WRITE, Inbox, set_inbox
from .schedule import Schedule

if TYPE_CHECKING:
    from .threads import SocketDriver

__all__ = ["Housekeeper", "Round"]

# How long the thread stays after the last connection was closed, in seconds.
LINGER = 0.2
# How long it waits before it goes on where memory lacked, in seconds.
RECOVERY = 0.05


class Selector(Protocol):
    """What a housekeeper wants of a selector."""

    def register(self, sock: Any, events: int, data: Any, /) -> object: ...
    def modify(self, sock: Any, events: int, data: Any, /) -> object: ...
    def unregister(self, sock: Any, /) -> object: ...


class Housekeeper:
    """Owns the inbox in which threads leave what is to be done, and the thread that does it."""

    def __init__(self) -> None:
        self.inbox = Inbox(self._start)
        self._resources: tuple[selectors.BaseSelector, socket.socket, socket.socket] | None = None

    def _start(self) -> None:
        """Start the thread; what it needs is opened here, where a failure can be told."""
        selector = selectors.DefaultSelector()
        try:
            bell, ringer = socket.socketpair()
        except BaseException:
            selector.close()
            raise
        self._resources = selector, bell, ringer
        try:
            bell.setblocking(False)
            ringer.setblocking(False)
            selector.register(bell, selectors.EVENT_READ)
            threading.Thread(
                target=self._run, args=self._resources, name="wsproto_fast-housekeeper", daemon=True
            ).start()
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        """Close what a thread used that doesn't run, or doesn't exist in this process."""
        if self._resources is not None:
            for resource in self._resources:
                resource.close()

    def _run(
        self, selector: selectors.BaseSelector, bell: socket.socket, ringer: socket.socket
    ) -> None:
        with selector, bell, ringer:
            self.inbox.wake = ringer.send
            round_ = Round(self.inbox, selector)
            going = True
            while going:
                try:
                    going = self._turn(selector, bell, round_)
                except MemoryError:
                    # Nobody else keeps deadlines. What wasn't done is still there.
                    self.inbox.awake()
                    sleep(RECOVERY)

    def _turn(self, selector: selectors.BaseSelector, bell: socket.socket, round_: Round) -> bool:
        """Do what is due, and sleep; return whether to go on."""
        until = round_.work()
        if self.inbox.live == 0:
            until = min(until, monotonic() + LINGER)
        if not self.inbox.sleep(until):
            return True
        timeout = None if until == inf else max(until - monotonic(), 0)
        return self._attend(selector, timeout, bell, round_)

    def _attend(
        self,
        selector: selectors.BaseSelector,
        timeout: float | None,
        bell: socket.socket,
        round_: Round,
    ) -> bool:
        """Tend what is ready; return whether to go on.

        While the thread sleeps, no frame of it keeps a connection that it has tended before.
        """
        events = selector.select(timeout)
        self.inbox.awake()
        if not events and self.inbox.finish():
            return False
        for key, mask in events:
            if key.data is None:
                bell.recv(4096)
            else:
                round_.tend(key.data, mask)
        return True


class Round:
    """What one thread of a housekeeper knows: the schedule, and what it watches.

    Args:
        inbox: Where threads leave what is to be done.
        selector: What watches sockets.
    """

    def __init__(self, inbox: Inbox, selector: Selector) -> None:
        self._inbox = inbox
        self._selector = selector
        self._time = monotonic if inbox.clock is None else inbox.clock.time
        self._schedule: Schedule[SocketDriver] = Schedule(lambda time, driver: driver.closed)
        self._watched: dict[SocketDriver, int] = {}
        self._posts: list[tuple[float, SocketDriver]] = []

    def work(self) -> float:
        """Do what is due; return when there is something to do again."""
        schedule = self._schedule
        while True:
            if not self._posts:
                self._posts = self._inbox.take()
                self._posts.reverse()
            while self._posts:
                schedule.add(*self._posts[-1])  # without memory, it is still there
                self._posts.pop()
            now = self._time()
            if schedule.next_time() > now:
                break
            while schedule.next_time() <= now:
                self.tend(schedule.take()[1], 0)
        if schedule.clean(self._inbox.gone):
            self._inbox.forget()
        return schedule.next_time()

    def tend(self, driver: SocketDriver, mask: int) -> None:
        """Tend a connection.

        Args:
            driver: Its driver.
            mask: Events that its socket is ready for.
        """
        if driver.closed:
            return
        try:
            wanted = driver.tend(
                self._time(), bool(mask & selectors.EVENT_READ), bool(mask & selectors.EVENT_WRITE)
            )
            self._watch(driver, wanted)
        except Exception:
            # A logging handler or an extension of the program fails; others aren't concerned.
            sys.excepthook(*sys.exc_info())

    def _watch(self, driver: SocketDriver, wanted: int) -> None:
        watched = self._watched.get(driver, 0)
        if wanted == watched:
            return
        events = (selectors.EVENT_READ if wanted & READ else 0) | (
            selectors.EVENT_WRITE if wanted & WRITE else 0
        )
        try:
            if not watched:
                self._selector.register(driver.socket, events, driver)
            elif wanted:
                self._selector.modify(driver.socket, events, driver)
            else:
                self._selector.unregister(driver.socket)
        except (KeyError, OSError, ValueError) as exc:
            # The program has closed the socket, or the system has no room for another one to watch.
            # Nobody would notice any more what happens to the connection, nor its deadlines.
            self._watched.pop(driver, None)
            driver.cannot_watch(exc)
            return
        if wanted:
            self._watched[driver] = wanted
        else:
            del self._watched[driver]
            driver.unwatched()


housekeeper = Housekeeper()


def _start_anew() -> None:
    """Forget the parent's connections after a fork; those that the child uses come back."""
    global housekeeper
    housekeeper.inbox.abandon()
    housekeeper.close()
    housekeeper = Housekeeper()
    set_inbox(housekeeper.inbox)


set_inbox(housekeeper.inbox)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)
