"""How servers for threads accept connections: each gets a thread of its own."""

from __future__ import annotations

import selectors
import signal
import socket
import threading
from collections.abc import Callable
from math import inf
from time import monotonic, sleep
from typing import Any

from wsproto_fast.typing import LoggerLike

from .._shared.door import Door, Refusal, Visit
from ._leaving import SIGNAL_INTERVAL, ConnectionT, LeavingServer

__all__ = ["AcceptingServer"]

# How long a server that can't accept connections waits before it tries again, in seconds.
ACCEPT_PAUSE = 0.1
# How often it logs that, in seconds.
ACCEPT_LOG_INTERVAL = 1.0


class AcceptingServer(LeavingServer[ConnectionT]):
    """A server that accepts connections; what is done with them is up to its handler.

    Args:
        sock: Listening socket.
        handler: Called in a new thread with the socket and the address of each connection.
        logger: As for ``BaseServer``.
    """

    def __init__(
        self,
        sock: socket.socket,
        handler: Callable[..., None],
        logger: LoggerLike | None = None,
    ) -> None:
        super().__init__(sock, handler, logger)
        self._door: Door | None = None
        self._accept_log_time = -inf
        self._look_time: float | None = None

    def serve_forever(self) -> None:
        """Accept connections until the server is shut down.

        Raises:
            RuntimeError: If it is running already.
        """
        try:
            try:
                self._accept_until_closing()
            finally:
                # Whatever a signal handler did after it had called drain() or shutdown().
                if self._deferred is None and self._drain_if_deferred():
                    self._wait_drained()
                if self._deferred is not None:
                    self.shutdown(*self._deferred)
            if self._drain_thread is not None:
                self._wait_drained()
        finally:
            if threading.current_thread() is threading.main_thread():
                while self._signals:
                    signal.signal(*self._signals.popitem())

    def _accept_until_closing(self) -> None:
        bell, ringer = socket.socketpair()
        with selectors.DefaultSelector() as selector, bell, ringer:
            with self._lock:
                if self._ending():
                    return
                if self._serving is not None:
                    raise RuntimeError("serve_forever() is running already")
                self._serving, self._ringer = threading.current_thread(), ringer
            try:
                self.socket.setblocking(False)
                selector.register(self.socket, selectors.EVENT_READ)
                selector.register(bell, selectors.EVENT_READ)
                while not self._ending():
                    if self._deferred_drain is not None:
                        self._drain_if_deferred()
                    for key, _ in selector.select(min(SIGNAL_INTERVAL, self._look())):
                        if key.fileobj is bell:
                            bell.recv(64)
                    self._accept()
            finally:
                if self._sweep is not None:
                    self._sweep.end()
                with self._lock:
                    if self._closing:
                        self._stopped.set()
                    self._serving = self._ringer = None

    def _look(self) -> float:
        """Look at what connections hold if it is time; return the seconds until it is again."""
        if self._sweep is None:
            return inf
        now = monotonic()
        if self._look_time is None:
            self._look_time = now + self._sweep.budget.interval
        elif self._look_time <= now:
            self._look_time = now + self._sweep.step()
        return max(0.0, self._look_time - now)

    def _accept(self) -> None:
        """Accept the connections that wait."""
        while not self._ending():
            if self._deferred_drain is not None:
                self._drain_if_deferred()
            try:
                sock, address = self.socket.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # it was given up meanwhile
            except OSError:
                if self._ending():
                    return
                # There are too many open files, most likely.
                self._accepting_failed()
                return
            try:
                self._start(sock, address)
            except RuntimeError:
                # There are too many threads.
                sock.close()
                self._accepting_failed()
                return

    def _accepting_failed(self) -> None:
        now = monotonic()
        if now >= self._accept_log_time:
            self._accept_log_time = now + ACCEPT_LOG_INTERVAL
            self.logger.error("accepting a connection failed", exc_info=True)
        sleep(ACCEPT_PAUSE)

    def _start(self, sock: socket.socket, address: Any) -> None:
        known: tuple[Visit, ...] = ()
        if self._door is not None:
            visit = self._door.arrive(address)
            if isinstance(visit, Refusal):
                self._statistics.refused(visit.reason)
                sock.close()
                return
            known = (visit,)

        def run() -> None:
            try:
                self.handler(sock, address, *known)  # type: ignore[call-arg,arg-type] # it is given a socket here
            finally:
                self._forget(thread)

        thread = threading.Thread(target=run, name=f"wsapi-handler-{address}")
        with self._lock:
            self._handlers.arriving.add(thread)
            self._handlers.add(thread)
        try:
            thread.start()
        except Exception:
            # Not if a signal handler's exception interrupts it: the thread may run.
            self._forget(thread)
            for visit in known:
                visit.leave()
            raise
