"""WebSocket servers for threads: one per connection, for its handler."""

from __future__ import annotations

import logging
import re
import selectors
import signal
import socket
import ssl as ssl_module
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from math import inf
from time import monotonic, sleep
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypedDict, Unpack

from wsproto_fast import ServerProtocol, check_close
from wsproto_fast.aliases import fallback
from wsproto_fast.exceptions import InvalidMessage, InvalidStatus
from wsproto_fast.frames import CloseCode, State
from wsproto_fast.http11 import SERVER, Request, Response
from wsproto_fast.rates import RateLike
from wsproto_fast.typing import LoggerLike, Origin, PathLike, Subprotocol

from .._shared import checks
from .._shared.basic_auth import basic_auth_sync
from .._shared.budget import BufferBudget
from .._shared.connection import FAILURE
from .._shared.door import Door, Refusal, Visit
from .._shared.leaving import Departure
from .._shared.options import SERVER_OPTIONS, Limits, OnDrop, arguments, defaults
from .._shared.server import BaseServer, ServerSettings, ServerSide, check_listening, finish
from ..limits import MAX_BACKLOG, Slow
from ._channel import Channel, Deadline
from .connection import Connection, broadcast

__all__ = ["Server", "ServerConnection", "basic_auth", "broadcast", "serve", "unix_serve"]

# Programs know it by this module, although it works for connections of clients, too.
broadcast.__module__ = __name__
basic_auth = basic_auth_sync

Handler: TypeAlias = "Callable[[ServerConnection], None]"

# How long a server that can't accept connections waits before it tries again, in seconds.
ACCEPT_PAUSE = 0.1
# How often it logs that, in seconds.
ACCEPT_LOG_INTERVAL = 1.0
# How long the main thread waits at most before it looks for signals, in seconds. One that comes
# right before a system call doesn't interrupt it; nor does one that another thread takes.
SIGNAL_INTERVAL = 0.5


class TransportOptions(TypedDict, total=False):
    """Options of ``serve`` that say where to listen and how."""

    family: int
    backlog: int
    reuse_port: bool
    dualstack_ipv6: bool
    ssl_context: ssl_module.SSLContext | None


class _TransportOptions(TransportOptions, total=False):
    path: PathLike | None


class ServerConnection(ServerSide, Connection):
    """A connection accepted by a server.

    Args:
        sock: Connected TCP or Unix socket.
        protocol: Engine of the connection.
        server: Server that accepted the connection.
        ping_interval: Seconds between keepalive pings; None for none.
        ping_timeout: Seconds after a keepalive ping in which something must be received, and in
            four times as many its answer, unless it is all one frame; None for no limit. While
            reading is paused, it is enough that the peer's host acknowledges what is sent, which
            Linux tells; elsewhere nothing is expected then.
        close_timeout: Seconds that closing may last; None for no limit.
        max_queue: Number of received frames in the queue above which reading pauses, or a pair of
            this and of the number at which it resumes; None for no limit.
        slow: What becomes of messages while the peer doesn't read as fast as they come; by default,
            who sends waits.
        max_backlog: Bytes of messages that may wait then, unless ``slow`` is ``Slow.WAIT``; None
            for no limit.
        write_deadline: Seconds for which the peer may take nothing of what waits to be sent; None
            for no limit.
        on_drop: Called with the connection and a number of messages when ``slow`` has them dropped.
    """

    _opening = True

    def __init__(
        self,
        sock: Any,
        protocol: ServerProtocol,
        server: Server,
        *,
        ping_interval: float | None = 20,
        ping_timeout: float | None = 20,
        close_timeout: float | None = 10,
        max_queue: Limits = 16,
        slow: Slow = Slow.WAIT,
        max_backlog: int | None = MAX_BACKLOG,
        write_deadline: float | None = None,
        on_drop: OnDrop | None = None,
    ) -> None:
        super().__init__(
            sock,
            protocol,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            close_timeout=close_timeout,
            max_queue=max_queue,
            slow=slow,
            max_backlog=max_backlog,
            write_deadline=write_deadline,
            on_drop=on_drop,
        )
        self.server = server

    def handshake(
        self,
        process_request: Callable[[ServerConnection, Request], Response | None] | None = None,
        process_response: Callable[[ServerConnection, Request, Response], Response | None]
        | None = None,
        server_header: str | None = SERVER,
        timeout: float | None = None,
    ) -> None:
        """Perform the opening handshake, of a connection that ``serve`` hasn't made.

        Such a connection belongs to a server of another kind, which has accepted the socket.

        Args:
            process_request: Called with the connection and the request; returns a response to be
                sent instead of the usual one, or None.
            process_response: Called with the connection, the request, and the response; returns a
                response to be sent instead, or None.
            server_header: Value of the Server header of responses; None for none.
            timeout: Seconds that it may last, None for no limit.

        Raises:
            InvalidHandshake: If the request isn't accepted; or what a callback raised.
            TimeoutError: If there is no request in time.
        """
        options = defaults(SERVER_OPTIONS)
        options |= {"process_request": process_request, "process_response": process_response}
        options |= {"server_header": server_header, "compression": None}
        settings = ServerSettings(ServerConnection.handshake, options, awaitables=False)
        self.protocol.server_header = settings.server_header
        self._handshake(settings, Deadline(timeout))
        if self.response is None or self.response.status_code != 101:
            self._driver.finish()
            exc = self.protocol.handshake_exc
            if exc is None:
                assert self.response is not None  # a callback chose it
                exc = InvalidStatus(self.response)
            try:
                raise exc
            finally:
                del self, exc  # the traceback mustn't hold what holds the exception
        self._driver.watch()

    def _handshake(self, settings: ServerSettings, deadline: Deadline) -> None:
        """Receive the request and answer it; the engine does the latter if it isn't a sound one."""
        driver, protocol = self._driver, self.protocol
        now = monotonic()
        # What came before may have taken all the time.
        open_timeout = None if deadline.time == inf else max(0.0, deadline.time - now)
        driver.call(self._set_timeouts, now, open_timeout)
        while not driver.call(self._receive_request):
            if driver.lost or protocol.close_expected():
                return
            driver.progress(inf)
        if isinstance(self.server, Server):  # it may be of another kind
            self.server._arriving.discard(threading.current_thread())
        driver.enter()
        try:
            self._respond(finish(self._answer(settings)))
        finally:
            driver.leave()

    def _invoke(self, callback: Callable[..., Any], *args: object) -> Any:
        self._driver.leave()
        try:
            return super()._invoke(callback, *args)
        finally:
            self._driver.enter()

    def _refuse(self) -> None:
        self._driver.call(super()._refuse)


class Server(BaseServer[ServerConnection]):
    """A WebSocket server; what ``serve`` returns.

    It accepts connections while ``serve_forever`` runs. Leaving it as a context manager shuts it
    down.

    Args:
        sock: Listening socket.
        handler: Called in a new thread with the socket and the address of each connection.
        logger: Logger; ``wsapi.server`` by default.

    Attributes:
        draining: Event that is set when the server begins to drain or to close, for handlers.
    """

    def __init__(
        self,
        sock: socket.socket,
        handler: Callable[[socket.socket, Any], None],
        logger: LoggerLike | None = None,
    ) -> None:
        super().__init__(handler, logger)  # type: ignore[arg-type] # here it is given a socket
        self.socket = sock
        self.draining = threading.Event()
        self._lock = threading.RLock()  # a signal handler may call shutdown()
        self._changed = threading.Condition(self._lock)  # for who waits for threads
        self._threads: set[threading.Thread] = set()
        self._arriving: set[threading.Thread] = set()  # those that have no request yet
        self._shutting: set[threading.Thread] = set()  # those that wait for the others
        self._opening: set[socket.socket] = set()  # in their TLS handshake, or before it
        self._door: Door | None = None
        self._stopped = threading.Event()  # nothing is accepted any more
        self._serving: threading.Thread | None = None
        self._ringer: socket.socket | None = None  # ends its sleep
        self._deferred: tuple[bool, int, str] | None = None  # how it is to shut the server down
        self._deferred_drain: Departure[ServerConnection] | None = None  # how before that
        self._drain_thread: threading.Thread | None = None  # does that
        self._drained = threading.Event()
        self._signals: dict[int, Any] = {}  # and what handled them before
        self._accept_log_time = -inf
        self._look_time: float | None = None

    # ------------------------------------------------------------------ life cycle

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shutdown()

    def fileno(self) -> int:
        """Return the file descriptor of the listening socket."""
        return self.socket.fileno()

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

    def _ending(self) -> bool:
        return self._closing or self._deferred is not None

    def _accept(self) -> None:
        """Accept the connections that wait."""
        while not self._ending():
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
                self.handler(sock, address, *known)  # type: ignore[call-arg,arg-type] # see __init__
            finally:
                self._forget(thread)

        thread = threading.Thread(target=run, name=f"wsapi-handler-{address}")
        with self._lock:
            self._arriving.add(thread)
            self._threads.add(thread)
        try:
            thread.start()
        except Exception:
            # Not if a signal handler's exception interrupts it: the thread may run.
            self._forget(thread)
            for visit in known:
                visit.leave()
            raise

    def _forget(self, thread: threading.Thread) -> None:
        """Take note that a thread has ended, or won't start."""
        with self._lock:
            self._arriving.discard(thread)
            self._threads.discard(thread)
            self._changed.notify_all()

    # ------------------------------------------------------------------ connections

    def _handle(
        self,
        settings: ServerSettings,
        handler: Handler,
        ssl: ssl_module.SSLContext | None,
        sock: socket.socket,
        visit: Visit | None,
    ) -> None:
        """Open a connection, run the handler, close the connection.

        Args:
            settings: How the server answers.
            handler: The handler.
            ssl: Configuration of TLS; None for no TLS.
            sock: Socket of the connection.
            visit: What the server's door knows of it.
        """
        try:
            self._serve(settings, handler, ssl, sock, visit)
        finally:
            if visit is not None:
                visit.leave()

    def _serve(
        self,
        settings: ServerSettings,
        handler: Handler,
        ssl: ssl_module.SSLContext | None,
        sock: socket.socket,
        visit: Visit | None,
    ) -> None:
        open_timeout = settings.open_timeout
        deadline = Deadline(open_timeout if visit is None else visit.bounded(open_timeout))
        connection = self._open(settings, ssl, sock, visit, deadline)
        if connection is None:
            return
        entered = False
        try:
            connection._handshake(settings, deadline)
            if connection.response is None or connection.response.status_code != 101:
                connection._driver.finish()
                return
            connection._driver.watch()
            with connection:
                entered = True
                handler(connection)
        except Exception as exc:
            connection._log_failure(exc)
        finally:
            try:
                if not entered:
                    connection.close(FAILURE)
            finally:
                self._statistics.ended(connection)

    def _open(
        self,
        settings: ServerSettings,
        ssl: ssl_module.SSLContext | None,
        sock: socket.socket,
        visit: Visit | None,
        deadline: Deadline,
    ) -> ServerConnection | None:
        """Return a connection after the TLS handshake, None if there won't be one."""
        channel = Channel(sock, deadline)
        refusal = "tls"
        try:
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            proxied = visit is not None and visit.proxied
            if ssl is not None or proxied:
                with self._lock:
                    self._opening.add(sock)
                try:
                    if visit is not None and proxied:
                        refusal = "proxy_protocol"
                        visit.identify_header(channel.read_proxy_header())
                        refusal = "tls"
                    if ssl is not None:
                        channel.start_tls(ssl, server_side=True)
                finally:
                    with self._lock:
                        self._opening.discard(sock)
            create = settings.create_connection or ServerConnection
            connection: ServerConnection = create(
                channel.secured(), settings.new_protocol(), self, **settings.connection_options
            )
            if visit is not None:
                connection._visit = visit
        except Exception as exc:
            expected = isinstance(exc, (OSError, InvalidMessage))
            level = logging.DEBUG if expected else logging.ERROR
            self.logger.log(level, "opening handshake failed", exc_info=True)
            self._statistics.refused(refusal if expected else "error")
            sock.close()
            return None
        with self._lock:
            self._statistics.accepted(connection)
        if self._closing:
            connection._refuse()
        return connection

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
        departure = Departure[ServerConnection](timeout, spread, code, reason, retry_after)
        thread = threading.current_thread()
        with self._lock:
            if thread in self._shutting:
                return  # a signal handler has interrupted this very method
            if self._serving is thread:
                self._defer(departure)
                return
            self._shutting.add(thread)
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
                self._shutting.discard(thread)

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

        def departure() -> Departure[ServerConnection]:
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

    def _defer(self, departure: Departure[ServerConnection]) -> None:
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

    def _drain(self, departure: Departure[ServerConnection]) -> None:
        with self._lock:
            leaving = self._threads - self._arriving
            departure.begin(self.connections, monotonic())
        if not self._closing:
            self.logger.info("server draining")
            self.draining.set()
        while not self._closing:
            now = monotonic()
            for connection in departure.due(now, lambda: self.connections):
                connection._driver.close(departure.code, departure.reason)
            if now >= departure.deadline:
                break
            with self._lock:
                if not self._waits_for(leaving):
                    break
                self._wait_for_change(departure.next_time())
        try:
            self._shut_down(True, departure.code, departure.reason, departure)
        finally:
            self._drained.set()

    def _wait_drained(self) -> None:
        while not self._drained.wait(SIGNAL_INTERVAL):
            pass  # signal handlers run

    def _waits_for(self, threads: Iterable[threading.Thread]) -> bool:
        """Tell whether there are some among threads that haven't ended, nor wait for the others."""
        waiting = (thread in self._threads and thread not in self._shutting for thread in threads)
        return not self._closing and any(waiting)

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
            if thread in self._shutting:
                return  # a signal handler has interrupted this very method
            if self._serving is thread:
                # A signal handler has interrupted serve_forever(), which may hold any lock.
                if self._deferred is None:
                    self._deferred = (close_connections, code, reason)
                    self._ring()
                return
            self._shutting.add(thread)
            self._changed.notify_all()
        try:
            self._shut_down(close_connections, code, reason)
        finally:
            with self._lock:
                self._shutting.discard(thread)

    def _shut_down(
        self,
        close_connections: bool,
        code: int,
        reason: str,
        departure: Departure[ServerConnection] | None = None,
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
            for connection in self._rest():
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
                waiting = self._threads - self._shutting
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


def serve(
    handler: Handler,
    host: str | None = None,
    port: int | None = None,
    *,
    sock: socket.socket | None = None,
    ssl: ssl_module.SSLContext | None = None,
    origins: Sequence[Origin | re.Pattern[str] | None] | None = None,
    extensions: Sequence[Any] | None = None,
    subprotocols: Sequence[Subprotocol] | None = None,
    select_subprotocol: Callable[[ServerConnection, Sequence[Subprotocol]], Subprotocol | None]
    | None = None,
    compression: str | None = "deflate",
    process_request: Callable[[ServerConnection, Request], Response | None] | None = None,
    process_response: Callable[[ServerConnection, Request, Response], Response | None]
    | None = None,
    server_header: str | None = SERVER,
    check_host: bool = True,
    door: Door | None = None,
    buffer_budget: BufferBudget | None = None,
    open_timeout: float | None = 10,
    ping_interval: float | None = 20,
    ping_timeout: float | None = 20,
    close_timeout: float | None = 10,
    max_size: Limits = 2**20,
    message_rate: RateLike = None,
    byte_rate: RateLike = None,
    max_queue: Limits = 16,
    slow: Slow = Slow.WAIT,
    max_backlog: int | None = MAX_BACKLOG,
    write_deadline: float | None = None,
    on_drop: OnDrop | None = None,
    logger: LoggerLike | None = None,
    log_connections: bool = False,
    create_connection: Callable[..., ServerConnection] | None = None,
    **kwargs: Unpack[_TransportOptions],
) -> Server:
    """Create a WebSocket server, which listens at once.

    Args:
        handler: Called with each open connection; when it returns, the connection is closed with
            1000, when it raises, with 1011.
        host: Address to listen on; None for all.
        port: TCP port.
        sock: Listening socket, to be used instead of a new one.
        ssl: TLS configuration.
        origins: Acceptable values of the Origin header: strings, compiled regular expressions (full
            match), or None for requests without one. None instead of a sequence: don't check.
        extensions: Extension factories, in order of preference.
        subprotocols: Subprotocols, in order of preference.
        select_subprotocol: Called with the connection and the offered subprotocols; returns the one
            to use.
        compression: "deflate" or None.
        process_request: Called with the connection and the request; may return a response to be
            sent instead of accepting the connection.
        process_response: Called with the connection, the request and the response; may change the
            response or return another one.
        server_header: Value of the Server header; None for none.
        check_host: Refuse requests whose Host header is missing, repeated or malformed.
        door: Limits on the number of connections, and where their clients' addresses come from: a
            ``Door`` of ``wsapi.limits``; None for none.
        buffer_budget: Limit on what connections hold in memory together, above which those with
            most are closed: a ``BufferBudget`` of ``wsapi.limits``; None for no limit.
        open_timeout: Seconds that the opening handshake may last; None for no limit.
        ping_interval: Seconds between keepalive pings; None for none.
        ping_timeout: Seconds after a keepalive ping in which something must be received, and in
            four times as many its answer, unless it is all one frame; None for no limit. While
            reading is paused, it is enough that the peer's host acknowledges what is sent, which
            Linux tells; elsewhere nothing is expected then.
        close_timeout: Seconds that closing may last; None for no limit.
        max_size: Limit on incoming messages in bytes, or a pair of limits on messages and on
            fragments; None for no limit.
        message_rate: Limit on what the peer sends, in messages and Pings: a ``Rate`` of
            ``wsapi.limits``, or a number per second, above which it waits; None for no limit.
        byte_rate: Limit on the bytes of their payloads, as they are received, in the same form.
        max_queue: Number of received frames in the queue above which reading pauses, or a pair of
            this and of the number at which it resumes; None for no limit.
        slow: What becomes of messages while the peer doesn't read as fast as they come; by default,
            who sends waits.
        max_backlog: Bytes of messages that may wait then, unless ``slow`` is ``Slow.WAIT``; None
            for no limit.
        write_deadline: Seconds for which the peer may take nothing of what waits to be sent; None
            for no limit.
        on_drop: Called with the connection and a number of messages when ``slow`` has them dropped.
        logger: Logger; ``wsapi.server`` by default.
        log_connections: Log a line with level INFO at the end of each connection: address, path,
            code, reason, duration, messages and bytes.
        create_connection: Class of connections, or factory called like it.
        **kwargs: Passed on to ``socket.create_server``.

    Raises:
        TypeError, ValueError: If an argument isn't acceptable.
        OSError: If it can't listen there.
    """
    settings = ServerSettings(handler, locals(), awaitables=False)
    transport: dict[str, Any] = checks.check_names(
        "serve", kwargs, _TransportOptions.__annotations__
    )
    if "ssl_context" in transport:
        warnings.warn("ssl_context was renamed to ssl", DeprecationWarning, stacklevel=2)
        context = transport.pop("ssl_context")
        ssl = ssl or context
    checked = {**transport, "sock": sock, "ssl": ssl}
    check_listening(host, port, checked)
    if "path" in transport:
        transport["path"] = checked["path"]
    if sock is None:
        sock = _listen(host, port, transport)

    def handle(sock: socket.socket, address: Any, visit: Visit | None = None) -> None:
        server = reference()
        assert server is not None
        server._handle(settings, handler, ssl, sock, visit)

    server = Server(sock, handle, settings.logger)
    server._statistics.log_connections = settings.log_connections
    server._door = settings.door
    server._keep(settings.buffer_budget)
    reference = weakref.ref(server)  # the server has the function
    server._log_listening(sock)
    return server


def _listen(host: str | None, port: int | None, options: dict[str, Any]) -> socket.socket:
    if options.get("path") is not None:
        path = options.pop("path")
        return socket.create_server(path, family=socket.AF_UNIX, **options)
    if port is None:
        raise ValueError("missing port argument")
    if not host and "family" not in options:
        if socket.has_dualstack_ipv6():
            options.setdefault("dualstack_ipv6", True)
            options["family"] = socket.AF_INET6
    elif "family" not in options:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        options["family"] = infos[0][0]
    return socket.create_server((host or "", port), **options)


def unix_serve(
    handler: Handler,
    path: PathLike | None = None,
    *,
    sock: socket.socket | None = None,
    ssl: ssl_module.SSLContext | None = None,
    origins: Sequence[Origin | re.Pattern[str] | None] | None = None,
    extensions: Sequence[Any] | None = None,
    subprotocols: Sequence[Subprotocol] | None = None,
    select_subprotocol: Callable[[ServerConnection, Sequence[Subprotocol]], Subprotocol | None]
    | None = None,
    compression: str | None = "deflate",
    process_request: Callable[[ServerConnection, Request], Response | None] | None = None,
    process_response: Callable[[ServerConnection, Request, Response], Response | None]
    | None = None,
    server_header: str | None = SERVER,
    check_host: bool = True,
    door: Door | None = None,
    buffer_budget: BufferBudget | None = None,
    open_timeout: float | None = 10,
    ping_interval: float | None = 20,
    ping_timeout: float | None = 20,
    close_timeout: float | None = 10,
    max_size: Limits = 2**20,
    message_rate: RateLike = None,
    byte_rate: RateLike = None,
    max_queue: Limits = 16,
    slow: Slow = Slow.WAIT,
    max_backlog: int | None = MAX_BACKLOG,
    write_deadline: float | None = None,
    on_drop: OnDrop | None = None,
    logger: LoggerLike | None = None,
    log_connections: bool = False,
    create_connection: Callable[..., ServerConnection] | None = None,
    **kwargs: Unpack[TransportOptions],
) -> Server:
    """Create a WebSocket server that listens on a Unix socket.

    Args:
        handler: As for ``serve``.
        path: Path of the socket.
        **kwargs: As for ``serve``, as are those that aren't listed here.
    """
    return serve(**arguments(locals()))


if not TYPE_CHECKING:
    __getattr__ = fallback(__name__, "wsapi._names")
