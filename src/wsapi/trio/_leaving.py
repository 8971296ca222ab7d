"""How servers on trio end: drained, or closed at once, by signals too."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from wsproto_fast import check_close
from wsproto_fast.frames import CloseCode
from wsproto_fast.typing import LoggerLike

from .._shared.leaving import Departure, Handlers
from .._shared.server import BaseServer

if TYPE_CHECKING:
    from .server import ServerConnection

__all__ = ["LeavingServer"]

ConnectionT = TypeVar("ConnectionT", bound="ServerConnection")


class LeavingServer(BaseServer[ConnectionT]):
    """A server that can be drained and closed; how it accepts connections is up to a subclass.

    Args:
        listeners: Listeners, which the server closes.
        handler: As for ``BaseServer``.
        logger: As for ``BaseServer``.

    Attributes:
        draining: Event that is set when the server begins to drain or to close, for handlers.
    """

    def __init__(
        self,
        listeners: Sequence[trio.abc.Listener[Any]],
        handler: Callable[[ConnectionT], Any],
        logger: LoggerLike | None = None,
    ) -> None:
        super().__init__(handler, logger)
        self.listeners = list(listeners)
        self._nursery: trio.Nursery | None = None  # of connections, and what serves them
        self._accepting = trio.CancelScope()
        self._handlers: Handlers[trio.lowlevel.Task] = Handlers()
        self._scopes: dict[trio.lowlevel.Task, trio.CancelScope] = {}  # of these
        self._preparing: set[trio.CancelScope] = set()  # what comes before opening handshakes
        self._watching: set[trio.CancelScope] = set()  # for signals
        self._changed = trio.lowlevel.ParkingLot()  # for who waits for tasks
        self.draining = trio.Event()
        self._dismissed = trio.Event()  # nothing is accepted any more, and Close frames are sent
        self._closed = trio.Event()

    # ------------------------------------------------------------------ leaving

    async def drain(
        self,
        timeout: float | None = 30,
        spread: float = 5,
        code: int = CloseCode.SERVICE_RESTART,
        reason: str = "",
        *,
        retry_after: int = 1,
    ) -> None:
        """Close the server in such a way that its clients find another one, one by one.

        It goes on listening, and answers 503 with ``Retry-After``. ``draining`` is set, so that
        handlers can end by themselves. Connections are closed at times that chance chooses. When
        all handlers have ended, the server is closed.

        If this runs already, wait for it. ``aclose`` closes the rest at once; cancelling this
        closes all at once, as it does there. A handler may call this: it isn't waited for, then.

        Args:
            timeout: Seconds after which connections are aborted, and the server is closed. Handlers
                that don't end within a second then are cancelled. None for no limit.
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
        if self._nursery is None:
            return await self.aclose(code=code, reason=reason)
        self._start_draining(departure)
        await self._wait_closed(code)

    async def drain_on_signal(
        self,
        *signals: int,
        timeout: float | None = 30,
        spread: float = 5,
        code: int = CloseCode.SERVICE_RESTART,
        reason: str = "",
        retry_after: int = 1,
    ) -> None:
        """Have the server drained when the process gets a signal, and closed if it gets another.

        This returns when it is so, until the server is closed.

        Args:
            *signals: Numbers of signals; SIGTERM by default.
            timeout: As for ``drain``, as are those that aren't listed here.

        Raises:
            RuntimeError: If the server isn't running, or this isn't the main thread.
        """

        def departure() -> Departure[ConnectionT]:
            return Departure(timeout, spread, code, reason, retry_after)

        departure()  # for its errors
        if self._nursery is None or self._closing:
            raise RuntimeError("server isn't running")
        await self._nursery.start(self._watch_signals, signals or (signal.SIGTERM,), departure)

    async def _watch_signals(
        self,
        signals: Sequence[int],
        departure: Callable[[], Departure[ConnectionT]],
        task_status: trio.TaskStatus[None],
    ) -> None:
        with trio.CancelScope() as scope, trio.open_signal_receiver(*signals) as received:
            self._watching.add(scope)
            task_status.started()
            async for _ in received:
                if self._departure is None:
                    self._start_draining(departure())
                else:
                    await self._close(True, self._departure.code, self._departure.reason)

    def _start_draining(self, departure: Departure[ConnectionT]) -> None:
        assert self._nursery is not None
        if self._departure is None and not self._closed.is_set():
            departure.begin(self.connections, trio.current_time())
            self._handlers.leave()
            self._departure = departure
            if not self._closing:
                self.logger.info("server draining")
                self.draining.set()
            self._nursery.start_soon(self._drain, departure)

    async def _drain(self, departure: Departure[ConnectionT]) -> None:
        assert self._nursery is not None
        while not self._closing and self._handlers.are_leaving():
            now = trio.current_time()
            for connection in departure.due(now, lambda: self.connections):
                self._begin_closing(connection, departure.code, departure.reason)
            for connection in departure.overdue(now, self._answered):
                connection._abort()
            if now >= departure.deadline:
                break
            with trio.CancelScope(deadline=departure.next_time()):
                await self._changed.park()
        await self._close(True, departure.code, departure.reason)
        with trio.CancelScope(deadline=departure.deadline):
            await self._wait_for_tasks()
            return
        for connection in self._rest(self._handlers.waiting()):
            connection._abort()
        with trio.CancelScope(deadline=trio.current_time() + departure.grace):
            await self._wait_for_tasks()
            return
        for task in self._handlers.waiting():
            self._scopes[task].cancel()

    async def _wait_for_tasks(self) -> None:
        while self._handlers.are_left():
            await self._changed.park()

    # ------------------------------------------------------------------ closing

    async def aclose(
        self,
        close_connections: bool = True,
        code: int = CloseCode.GOING_AWAY,
        reason: str = "",
    ) -> None:
        """Close the server.

        A handler may call this: it isn't waited for, then. Cancelling this closes all at once.

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
        await self._wait_closed(code, close_connections, reason)

    async def _wait_closed(
        self, code: int, close_connections: bool | None = None, reason: str = ""
    ) -> None:
        """Wait until the server is closed; close it before that unless it closes by itself."""
        task = trio.lowlevel.current_task()
        try:
            if close_connections is not None:
                await self._close(close_connections, code, reason)
            if task in self._handlers:
                self._handlers.excused.add(task)
                self._changed.unpark_all()
                await self._dismissed.wait()
                await self._wait_for_tasks()
            elif self._nursery is not None:
                await self._closed.wait()
        except BaseException:
            for connection in list(self._connections):
                connection._drop(code)
            if self._nursery is not None:
                self._nursery.cancel_scope.cancel()
            raise
        finally:
            self._handlers.excused.discard(task)

    async def _close(self, close_connections: bool, code: int, reason: str) -> None:
        if self._closing:
            return
        self._closing = True
        self.draining.set()
        self._changed.unpark_all()
        self.logger.info("server closing")
        self._accepting.cancel()
        for listener in self.listeners:
            await listener.aclose()
        for scope in self._preparing:
            scope.cancel()
        for connection in list(self._connections):
            connection._refuse()
        if close_connections and self._nursery is not None:
            for connection in self.connections:
                self._begin_closing(connection, code, reason)
        self._dismissed.set()
        for scope in self._watching:
            scope.cancel()

    def _begin_closing(self, connection: ConnectionT, code: int, reason: str) -> None:
        assert self._nursery is not None
        # Now, whatever the handler does next.
        connection._begin_closing(code, reason)
        self._nursery.start_soon(connection.aclose, code, reason)
