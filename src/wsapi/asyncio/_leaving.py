"""How servers on an asyncio event loop end: drained, or closed at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from wsproto_fast import check_close
from wsproto_fast.frames import CloseCode
from wsproto_fast.typing import LoggerLike

from .._shared.leaving import Departure, Handlers
from .._shared.server import BaseServer

if TYPE_CHECKING:
    from ._reception import Reception
    from ._timer import Timer
    from .server import ServerConnection

__all__ = ["LeavingServer"]

NOT_STARTED = "server isn't started: await it first"

ConnectionT = TypeVar("ConnectionT", bound="ServerConnection")


class LeavingServer(BaseServer[ConnectionT]):
    """A server that can be drained and closed; how it begins is up to a subclass.

    Args:
        handler: As for ``BaseServer``.
        logger: As for ``BaseServer``.

    Attributes:
        draining: Event that is set when the server begins to drain or to close, for handlers.
    """

    def __init__(
        self, handler: Callable[[ConnectionT], Any], logger: LoggerLike | None = None
    ) -> None:
        super().__init__(handler, logger)
        self._server: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handlers: Handlers[asyncio.Task[Any]] = Handlers()
        self._receptions: set[Reception] = set()
        self._timer: Timer | None = None
        self.draining = asyncio.Event()
        self._changed: asyncio.Future[None] | None = None  # for who waits for connections, handlers
        self._signals: list[int] = []
        self._drain_task: asyncio.Task[None] | None = None
        self._close_task: asyncio.Task[None] | None = None
        self._close_waiter: asyncio.Future[None] | None = None

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop of the server.

        Raises:
            RuntimeError: If the server hasn't started.
        """
        if self._loop is None:
            raise RuntimeError(NOT_STARTED)
        return self._loop

    def _started(self) -> asyncio.Server:
        if self._server is None:
            raise RuntimeError(NOT_STARTED if not self._closing else "server is closed")
        return self._server

    def _end_handler(self, task: asyncio.Task[None]) -> None:
        self._handlers.end(task)
        self._notify()

    def _notify(self) -> None:
        """Have those look again who wait for connections and handlers."""
        if self._changed is not None:
            changed, self._changed = self._changed, None
            changed.set_result(None)

    async def _change(self, timeout: float | None = None) -> None:
        """Wait until a connection or a handler ends, or somebody doesn't wait for handlers."""
        if self._changed is None:
            self._changed = self.get_loop().create_future()
        await asyncio.wait([self._changed], timeout=timeout)

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

        If this runs already, wait for it. ``close`` closes the rest at once; so does cancelling
        this. A handler may await it: it isn't waited for, then.

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
            RuntimeError: If the server isn't started.
        """
        task = self._start_draining(Departure(timeout, spread, code, reason, retry_after))
        try:
            await self._wait_for(task)
        except asyncio.CancelledError:
            self.close(code=code, reason=reason)
            await self.wait_closed()
            raise

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

        The event loop calls one function for each signal: with several servers, let it call
        ``drain`` of each. When the server is closed, it calls none.

        Args:
            *signals: Numbers of signals; SIGTERM by default.
            timeout: As for ``drain``, as are those that aren't listed here.

        Raises:
            RuntimeError: If the server isn't started, or this isn't the main thread.
            NotImplementedError: If the event loop has no handlers of signals, as on Windows.
        """
        Departure[ConnectionT](timeout, spread, code, reason, retry_after)  # for its errors
        self._started()

        def received() -> None:
            if self._drain_task is not None:
                self.close(code=code, reason=reason)
            else:
                self._start_draining(Departure(timeout, spread, code, reason, retry_after))

        for number in signals or (signal.SIGTERM,):
            self.get_loop().add_signal_handler(number, received)
            self._signals.append(number)

    def _start_draining(self, departure: Departure[ConnectionT]) -> asyncio.Task[None]:
        if self._drain_task is None:
            departure.begin(self.connections, self.get_loop().time())
            if not self._closing:
                self._started()
                self.logger.info("server draining")
                self._departure = departure
                self.draining.set()
            self._handlers.leave()
            self._drain_task = self.get_loop().create_task(self._drain(departure))
        return self._drain_task

    async def _drain(self, departure: Departure[ConnectionT]) -> None:
        while not self._closing and self._handlers.are_leaving():
            now = self.get_loop().time()
            for connection in departure.due(now, lambda: self.connections):
                connection._driver.begin_closing(departure.code, departure.reason)
            for connection in departure.overdue(now, self._answered):
                connection._transport.abort()
            if now >= departure.deadline:
                break
            await self._change(departure.time_left(now, departure.next_time()))
        self.close(code=departure.code, reason=departure.reason)
        assert self._close_task is not None
        left = departure.time_left(self.get_loop().time(), departure.deadline)
        _, closing = await asyncio.wait([self._close_task], timeout=left)
        if closing:
            for connection in self._rest(self._handlers.waiting()):
                connection._transport.abort()
            _, closing = await asyncio.wait([self._close_task], timeout=departure.grace)
        if closing:
            for task in self._handlers.waiting():
                task.cancel()
            await asyncio.wait(closing)

    # ------------------------------------------------------------------ closing

    def close(
        self,
        close_connections: bool = True,
        code: int = CloseCode.GOING_AWAY,
        reason: str = "",
    ) -> None:
        """Close the server, in the background; ``wait_closed`` waits for it.

        Stops listening, refuses connections that are in their opening handshake with 503, closes
        the open ones, and waits for their handlers.

        Args:
            close_connections: Whether to close open connections.
            code: Close code for them.
            reason: Close reason for them.

        Raises:
            ProtocolError: If the code or the reason isn't allowed.
        """
        # Rather than fail later, in the background.
        check_close(code, reason)
        if not self._closing:
            self._close_task = self.get_loop().create_task(
                self._close(close_connections, code, reason)
            )
            if self._timer is not None:
                self._close_task.add_done_callback(self._timer.stop)
            self._closing = True
            self.draining.set()
            self._notify()
            if self._close_waiter is not None:
                self._close_waiter.set_result(None)

    async def _close(self, close_connections: bool, code: int, reason: str) -> None:
        server = self._started()
        self.logger.info("server closing")
        # asyncio drops, without closing it, a connection that it has just accepted if the server is
        # closed before there is a transport. So accept no more, and let those have theirs.
        for sock in server.sockets:
            try:
                server.get_loop().remove_reader(sock.fileno())
            except NotImplementedError:  # pragma: no cover: on Windows, where a loop has no readers
                pass
        await asyncio.sleep(0)
        server.close()
        # Connections that were accepted in this turn of the loop get their connection_made() first.
        await asyncio.sleep(0)
        for reception in list(self._receptions):
            reception.abort()
        for connection in list(self._connections):
            connection._refuse()
        if close_connections:
            await asyncio.gather(
                *(connection.close(code, reason) for connection in self.connections),
                return_exceptions=True,
            )
        while self._connections or self._handlers.are_left():
            await self._change()
        await server.wait_closed()
        for number in self._signals:
            server.get_loop().remove_signal_handler(number)
        self._server = None  # it refers to this object
        self.logger.info("server closed")

    async def wait_closed(self) -> None:
        """Wait until the server is closed and its handlers have finished.

        A handler may await it: it isn't waited for, then.
        """
        if not self._closing:
            if self._close_waiter is None:
                self._close_waiter = self.get_loop().create_future()
            await asyncio.shield(self._close_waiter)
        assert self._close_task is not None
        await self._wait_for(self._close_task)
        if self._drain_task is not None:
            await asyncio.shield(self._drain_task)

    async def _wait_for(self, ending: asyncio.Task[None]) -> None:
        """Wait for what waits for handlers."""
        task = asyncio.current_task()
        if task is None or task not in self._handlers:
            return await asyncio.shield(ending)
        self._handlers.excused.add(task)
        self._notify()
        try:
            await asyncio.shield(ending)
        finally:
            self._handlers.excused.discard(task)
