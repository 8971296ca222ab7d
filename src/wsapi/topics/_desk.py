"""Where threads have things done one after the other, whichever of them does it.

A lock is not enough. A signal handler interrupts the main thread anywhere in Python code: it may
want the lock that its own thread holds, and may leave by an exception what was under way half done.
And whoever notes the end of a connection mustn't wait for threads that publish. Hence what is to be
done waits in a queue, and whoever has the lock does all of it; the main thread never has it, and
lets a helper do its part.

A process that is forked has none of these threads: nothing waits there, and nobody has a lock.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

from wsproto_fast.typing import LoggerLike

__all__ = ["Desk", "Flag", "Helper", "Outcome"]

T = TypeVar("T")

LINGER: Final = 1.0
"""Seconds for which a helper's thread stays when there is nothing to do."""


class Flag:
    """What one thread waits for, once, until another one sets it.

    Other than an event, or a future, it is safe where a signal handler interrupts who waits: there
    is no lock that the handler's thread has, and the other one needs.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Let who waits go on; it may be called again."""
        try:
            self._lock.release()
        except RuntimeError:
            pass  # it is set already

    def wait(self, timeout: float = -1) -> bool:
        """Wait until it is set; return whether it is.

        Args:
            timeout: Seconds; negative for no limit.
        """
        return self._lock.acquire(timeout=timeout)


class Outcome(Generic[T]):
    """What one thread waits for, and another one brings."""

    __slots__ = ("_done", "_error", "_result")

    _result: T

    def __init__(self) -> None:
        self._error: BaseException | None = None
        self._done = Flag()

    def take(self, function: Callable[..., T], *args: Any) -> None:
        """Bring what a function returns, or raises."""
        try:
            self._result = function(*args)
        except BaseException as exc:
            self._error = exc
        self._done.set()

    async def take_later(self, coroutine: Coroutine[Any, Any, T]) -> None:
        """Bring what a coroutine returns, or raises."""
        try:
            self._result = await coroutine
        except BaseException as exc:
            self._error = exc
        self._done.set()

    def wait(self, timeout: float = -1) -> T:
        """Return, or raise, what is brought.

        Args:
            timeout: Seconds; negative for no limit.

        Raises:
            TimeoutError: If it takes longer.
        """
        if not self._done.wait(timeout):
            raise TimeoutError("it took too long")
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback leads here
        return self._result


class Helper:
    """A thread that is there when there is something to do.

    It is safe to use in signal handlers, whatever they interrupt: no lock is waited for.

    Args:
        name: Name of the thread.
        logger: Told of what fails.
    """

    def __init__(self, name: str, logger: LoggerLike) -> None:
        self._name = name
        self._logger = logger
        self._begin()
        _begun.add(self)

    def _begin(self) -> None:
        self._queue: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._working = threading.Lock()  # the thread that works has it
        self._awake = False  # it looks into the queue before it ends
        self._bell = Flag()

    def __len__(self) -> int:
        return len(self._queue)

    def post(self, function: Callable[..., object], *args: object) -> None:
        """Have a function called in the thread, after those before."""
        self._queue.append((function, args))
        if not self._awake:
            # Those that are too many find that out.
            try:
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
            except RuntimeError:
                # There can't be any more; at the interpreter's end, say.
                self._run(linger=0)
            return
        self._bell.set()

    def _run(self, linger: float = LINGER) -> None:
        while self._queue and self._working.acquire(blocking=False):
            self._awake = True
            try:
                self._work()
                while self._bell.wait(linger):
                    self._work()
            finally:
                self._awake = False
                self._working.release()

    def _work(self) -> None:
        while self._queue:
            function, args = self._queue.popleft()
            try:
                function(*args)
            except Exception:
                self._logger.error("topics failed", exc_info=True)
            del function, args  # what they refer to isn't kept while there is nothing to do


class Desk:
    """Has functions called one after the other.

    Args:
        name: Name of the thread that calls those of the main thread.
        logger: Told of what fails.
    """

    def __init__(self, name: str, logger: LoggerLike) -> None:
        self._logger = logger
        self._helper = Helper(name, logger)
        self._begin()
        _begun.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._owner = 0  # thread that has the lock; never the main thread
        self._queue: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()

    @property
    def mine(self) -> bool:
        """Whether one of the functions is being called by the calling thread."""
        return self._owner == threading.get_ident()

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function; return what it returns.

        Called by one of the functions itself, that happens at once.
        """
        thread = threading.get_ident()
        if self._owner == thread:
            return function(*args)
        if thread == threading.main_thread().ident:
            return self._call_by_helper(function, *args)
        try:
            with self._lock:
                self._owner = thread
                try:
                    self._work()
                    return function(*args)
                finally:
                    self._owner = 0
        finally:
            self._serve_now()

    def post(self, function: Callable[..., object], *args: object) -> None:
        """Have a function called, now or by whoever has the lock; this waits for nobody."""
        self._queue.append((function, args))
        thread = threading.get_ident()
        if thread == threading.main_thread().ident:
            self._helper.post(self._serve)
        elif self._owner != thread:
            self._serve_now()

    def post_to_helper(self, function: Callable[..., object], *args: object) -> None:
        """Have a function called, but not by the calling thread."""
        self._queue.append((function, args))
        self._helper.post(self._serve)

    def __len__(self) -> int:
        return len(self._queue)

    def _call_by_helper(self, function: Callable[..., T], *args: Any) -> T:
        outcome: Outcome[T] = Outcome()
        self.post_to_helper(outcome.take, function, *args)
        return outcome.wait()

    def _serve_now(self) -> None:
        """Do what waits now; leave what comes meanwhile to the helper: this thread has to go on."""
        if self._serve_once() and self._queue:
            self._helper.post(self._serve)

    def _serve(self) -> None:
        """Do what waits, and what comes meanwhile."""
        while self._serve_once():
            pass

    def _serve_once(self) -> bool:
        """Do what waits now; return False if there is nothing, or another thread does it."""
        if not (self._queue and self._lock.acquire(blocking=False)):
            return False
        self._owner = threading.get_ident()
        try:
            self._work()
        finally:
            self._owner = 0
            self._lock.release()
        return True

    def _work(self) -> None:
        for _ in range(len(self._queue)):
            function, args = self._queue.popleft()
            try:
                function(*args)
            except Exception:
                self._logger.error("topics failed", exc_info=True)


_begun: Final[weakref.WeakSet[Desk | Helper]] = weakref.WeakSet()


def _begin_anew() -> None:
    """Forget, in a process that was forked, what threads of the other one do."""
    for one in list(_begun):
        one._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
