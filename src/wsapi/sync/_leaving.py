"""How servers for threads end: drained, or shut down at once, by signals too."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from wsproto_fast import check_close
from wsproto_fast.frames import CloseCode, State
from wsproto_fast.typing import LoggerLike

from .._shared.leaving import Departure, Handlers
from .._shared.server import BaseServer

if TYPE_CHECKING:
    from .server import ServerConnection

__all__ = ["SIGNAL_INTERVAL", "LeavingServer"]

# How long the main thread waits at most before it looks for signals, in seconds. One that comes
# right before a system call doesn't interrupt it; nor does one that another thread takes.
SIGNAL_INTERVAL = 0.5

ConnectionT = TypeVar("ConnectionT", bound="ServerConnection")


class LeavingServer(BaseServer[ConnectionT]):
    """A server that can be drained and shut down; how it accepts connections is up to a subclass.

    Args:
        sock: Listening socket.
        handler: As for ``BaseServer``.
        logger: As for ``BaseServer``.

    Attributes:
        draining: Event that is set when the server begins to drain or to close, for handlers.
    """

    def __init__(
        self,
        sock: socket.socket,
        handler: Callable[[ConnectionT], Any],
        logger: LoggerLike | None = None,
    ) -> None:
        super().__init__(handler, logger)
        self.socket = sock
        self.draining = threading.Event()
        self._lock = threading.RLock()  # a signal handler may call shutdown()
        self._changed = threading.Condition(self._lock)  # for who waits for threads
        self._handlers: Handlers[threading.Thread] = Handlers()
        self._opening: set[socket.socket] = set()  # in their TLS handshake, or before it
        self._stopped = threading.Event()  # nothing is accepted any more
        self._serving: threading.Thread | None = None
        self._ringer: socket.socket | None = None  # ends its sleep
        self._deferred: tuple[bool, int, str] | None = None  # how it is to shut the server down
        self._deferred_drain: Departure[ConnectionT] | None = None  # how before that
        self._drain_thread: threading.Thread | None = None  # does that
        self._drained = threading.Event()
        self._signals: dict[int, Any] = {}  # and what handled them before

    def _ending(self) -> bool:
        return self._closing or self._deferred is not None

    def _forget(self, thread: threading.Thread) -> None:
        """Take note that a thread has ended, or won't start."""
        with self._lock:
            self._handlers.end(thread)
            if self._departure is not None:
                self._changed.notify_all()

    # ------------------------------------------------------------------ leaving

    def drain(
        self,
        timeout: float | None = 30,
        spread: float = 5,
        code: int = CloseCode.SERVICE_RESTART,
        reason: str = "",
        *,
        retry_after: int = 1,
    ) -> None:
        """Shut the server down in such a way that its clients find another one, one by one.

        It goes on listening, and answers 503 with ``Retry-After``. ``draining`` is set, so that
        handlers can end by themselves. Connections are closed at times that chance chooses. When
        all handlers have ended, the server is shut down, and this returns.

        If this runs already, wait for it. ``shutdown`` closes the rest at once. A handler may call
        this; it doesn't wait for that handler then. In a signal handler that interrupts
        ``serve_forever`` it returns at once, and ``serve_forever`` when it is done.

        Args:
            timeout: Seconds after which connections are aborted, and the server is shut down.
                Handlers that don't end within a second then aren't waited for. None for no limit.
            spread: Seconds in which connections are closed; at most 80 % of ``timeout``, so that
                the last ones can answer.
            code: Close code for them.
            reason: Close reason for them.
            retry_after: Seconds after which clients that are refused may try again.

        Raises:
            ProtocolError: If the code or the reason isn't allowed.
            TypeError, ValueError: If another argument isn't acceptable.
        """
        departure = Departure[ConnectionT](timeout, spread, code, reason, retry_after)
        thread = threading.current_thread()
        with self._lock:
            if thread in self._handlers.excused:
                return  # a signal handler has interrupted this very method
            if self._serving is thread:
                self._defer(departure)
                return
            self._handlers.excused.add(thread)
            self._changed.notify_all()
            first = self._departure is None
            if first:
                self._departure = departure
        try:
            if first:
                self._drain(departure)
            else:
                self._wait_drained()
        finally:
            with self._lock:
                self._handlers.excused.discard(thread)

    def drain_on_signal(
        self,
        *signals: int,
        timeout: float | None = 30,
        spread: float = 5,
        code: int = CloseCode.SERVICE_RESTART,
        reason: str = "",
        retry_after: int = 1,
    ) -> None:
        """Have the server drained when the process gets a signal, and closed if it gets another.

        ``serve_forever``, in whatever thread, sees to it, and returns when it is done. When it
        runs in the main thread, the previous handlers of the signals are there again then.

        Args:
            *signals: Numbers of signals; SIGTERM by default.
            timeout: As for ``drain``, as are those that aren't listed here.

        Raises:
            ValueError: If this isn't the main thread.
        """

        def departure() -> Departure[ConnectionT]:
            return Departure(timeout, spread, code, reason, retry_after)

        def received(*args: object) -> None:
            with self._lock:
                if self._deferred_drain is None and self._departure is None:
                    self._defer(departure())
                elif self._deferred is None:
                    self._deferred = (True, code, reason)
                    self._ring()

        departure()  # for its errors
        for number in signals or (signal.SIGTERM,):
            previous = signal.signal(number, received)
            self._signals.setdefault(number, signal.SIG_DFL if previous is None else previous)

    def _defer(self, departure: Departure[ConnectionT]) -> None:
        """Have ``serve_forever`` begin to drain: a signal handler may have interrupted anything."""
        if self._deferred_drain is None:
            self._deferred_drain = departure
            self._ring()

    def _ring(self) -> None:
        if self._ringer is not None:
            self._ringer.send(b"\0")

    def _drain_if_deferred(self) -> bool:
        """Drain in another thread, while this one goes on accepting connections.

        Returns:
            Whether this began it.
        """
        departure = self._deferred_drain
        if departure is None or self._drain_thread is not None:
            return False

        def drain() -> None:
            with self._lock:
                first = self._departure is None
                if first:
                    self._departure = departure
            if first:
                self._drain(departure)

        self._drain_thread = threading.Thread(target=drain, name="wsapi-drain")
        try:
            self._drain_thread.start()
        except RuntimeError:
            # There are too many threads.
            self._drain_thread = None
            self._deferred = (True, departure.code, departure.reason)
            return False
        return True

    def _drain(self, departure: Departure[ConnectionT]) -> None:
        with self._lock:
            self._handlers.leave()
            departure.begin(self.connections, monotonic())
        if not self._closing:
            self.logger.info("server draining")
            self.draining.set()
        while not self._closing:
            now = monotonic()
            for connection in departure.due(now, lambda: self.connections):
                connection._driver.close(departure.code, departure.reason)
            for connection in departure.overdue(now, self._answered):
                connection._driver.abort()
            if now >= departure.deadline:
                break
            with self._lock:
                if not self._drains():
                    break
                self._wait_for_change(departure.next_time())
        try:
            self._shut_down(True, departure.code, departure.reason, departure)
        finally:
            self._drained.set()

    def _drains(self) -> bool:
        """Tell whether there is somebody to wait for before the server is closed."""
        return not self._closing and self._handlers.are_leaving()

    def _wait_drained(self) -> None:
        while not self._drained.wait(SIGNAL_INTERVAL):
            pass  # signal handlers run

    def _wait_for_change(self, until: float) -> None:
        """Wait, with the lock held, until a thread ends, waits for others, or signal handlers run.

        Args:
            until: Time until which to wait at most.
        """
        self._changed.wait(max(0.0, min(SIGNAL_INTERVAL, until - monotonic())))

    # ------------------------------------------------------------------ closing

    def shutdown(
        self,
        close_connections: bool = True,
        code: int = CloseCode.GOING_AWAY,
        reason: str = "",
    ) -> None:
        """Shut the server down; return when that is done.

        A handler may call this; it doesn't wait for that handler then. In a signal handler that
        interrupts ``serve_forever`` it returns at once, and ``serve_forever`` when it is done.

        Stops listening, refuses connections that are in their opening handshake with 503, closes
        the open ones, and waits for their handlers.

        Args:
            close_connections: Whether to close open connections.
            code: Close code for them.
            reason: Close reason for them.

        Raises:
            ProtocolError: If the code or the reason isn't allowed.
        """
        check_close(code, reason)
        thread = threading.current_thread()
        with self._lock:
            if thread in self._handlers.excused:
                return  # a signal handler has interrupted this very method
            if self._serving is thread:
                # A signal handler has interrupted serve_forever(), which may hold any lock.
                if self._deferred is None:
                    self._deferred = (close_connections, code, reason)
                    self._ring()
                return
            self._handlers.excused.add(thread)
            self._changed.notify_all()
        try:
            self._shut_down(close_connections, code, reason)
        finally:
            with self._lock:
                self._handlers.excused.discard(thread)

    def _shut_down(
        self,
        close_connections: bool,
        code: int,
        reason: str,
        departure: Departure[ConnectionT] | None = None,
    ) -> None:
        with self._lock:
            first = not self._closing
            self._closing = True
            self._changed.notify_all()
            if self._ringer is None:
                self._stopped.set()
            else:
                self._ring()
        self.draining.set()
        if first:
            self.logger.info("server closing")
        while not self._stopped.wait(SIGNAL_INTERVAL):
            pass  # signal handlers run
        self.socket.close()
        if first or departure is None:
            # The first call may be one that leaves connections open, or have been interrupted.
            self._close_connections(close_connections, code, reason)
        if departure is None:
            self._wait_for_handlers(inf)
        elif not self._wait_for_handlers(departure.deadline):
            for connection in self._rest(self._handlers.waiting()):
                connection._driver.abort()
            if not self._wait_for_handlers(monotonic() + departure.grace):
                self.logger.error("handlers of a server that has drained are still running")
        if first:
            self.logger.info("server closed")

    def _close_connections(self, close_connections: bool, code: int, reason: str) -> None:
        with self._lock:
            connections = list(self._connections)
            # None is closed meanwhile: its descriptor might be that of another connection.
            for sock in self._opening:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it is gone already
        for connection in connections:
            if connection.state is State.CONNECTING:
                connection._refuse()
            # It may have been opened meanwhile.
            if connection.state is State.OPEN and close_connections:
                connection._driver.close(code, reason)

    def _wait_for_handlers(self, deadline: float) -> bool:
        """Wait until a time for threads of handlers; return whether all have ended."""
        while True:
            with self._lock:
                waiting = self._handlers.waiting()
            if not waiting:
                return True
            for thread in waiting:
                left = deadline - monotonic()
                if left <= 0:
                    return False
                try:
                    thread.join(min(SIGNAL_INTERVAL, left))
                except RuntimeError:
                    # An exception of a signal handler kept it from starting.
                    self._forget(thread)
