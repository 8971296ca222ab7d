"""What ``serve`` of every front-end has in common, without I/O.

Owns what arguments are acceptable, the opening handshake of connections, and what a server knows of
them. Front-ends own listening, the making of connections, and in what handlers run.
"""

from __future__ import annotations

import http
import inspect
import logging
import os
import socket
import ssl as ssl_module
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from wsproto_fast import ServerProtocol, Slow
from wsproto_fast.environment import default_logger
from wsproto_fast.exceptions import ConnectionClosed, InvalidState
from wsproto_fast.extensions.permessage_deflate import enable_server_permessage_deflate
from wsproto_fast.frames import State
from wsproto_fast.http11 import Request, Response
from wsproto_fast.typing import LoggerLike, StatusLike

from . import checks
from .budget import BufferBudget
from .connection import BaseConnection, forget_frames
from .door import Door, Refusal, Visit
from .leaving import Departure
from .statistics import ServerStats, Statistics
from .sweep import Sweep

__all__ = [
    "BaseServer",
    "ServerSettings",
    "ServerSide",
    "check_listening",
    "finish",
    "format_address",
]

# To look a member up in its class takes longer.
_CONNECTING = State.CONNECTING

# How many tasks or threads a line of the log names.
MAX_NAMES = 10

SHUTTING_DOWN = "Server is shutting down.\n"
FAILED_TO_OPEN = "Failed to open a WebSocket connection.\nSee server log for more information.\n"

T = TypeVar("T")
ConnectionT = TypeVar("ConnectionT", bound="ServerSide")


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that has nothing to wait for.

    What waits for nothing but awaitables of the application is written once, as a coroutine; this
    is for the front-end where there are none.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("a coroutine waits where none can")


class ServerSettings:
    """Settings of a server, checked.

    Args:
        handler: Called with each open connection.
        options: Options, among them all of ``SERVER_OPTIONS``.
        awaitables: Whether callbacks may return awaitables.

    Raises:
        TypeError, ValueError: If an argument isn't acceptable.
    """

    # Engine of connections; those of tests take the time from elsewhere.
    engine_class: Callable[..., ServerProtocol] = ServerProtocol

    def __init__(
        self,
        handler: Callable[..., Any],
        options: Mapping[str, Any],
        *,
        awaitables: bool = True,
    ) -> None:
        extensions, subprotocols = options["extensions"], options["subprotocols"]
        checks.check_callable("handler", handler, optional=False)
        checks.check_origins(options["origins"])
        checks.check_extensions(extensions, ["process_request_params"])
        checks.check_subprotocols(subprotocols)
        if checks.check_compression(options["compression"]):
            extensions = enable_server_permessage_deflate(extensions)
        for name in (
            "select_subprotocol",
            "process_request",
            "process_response",
            "create_connection",
        ):
            checks.check_callable(name, options[name])
        self.awaitables = awaitables
        self.process_request = options["process_request"]
        self.process_response = options["process_response"]
        checks.check_header("server_header", options["server_header"])
        self.server_header = options["server_header"] or None
        self.open_timeout = options["open_timeout"]
        self.close_timeout = options["close_timeout"]
        self.connection_options = checks.check_connection_options(options)
        self._rates = checks.check_rates(options)
        self.door: Door | None = options["door"]
        checks.check_instance("door", self.door, Door, "a Door")
        self.buffer_budget: BufferBudget | None = options["buffer_budget"]
        checks.check_instance("buffer_budget", self.buffer_budget, BufferBudget, "a BufferBudget")
        logger = options["logger"]
        checks.check_logger(logger)
        self.logger: LoggerLike = default_logger("server") if logger is None else logger
        self.log_connections = bool(options["log_connections"])
        self.create_connection = checks.checked_factory(
            "create_connection", options["create_connection"], ServerSide, "ServerConnection"
        )
        # Whether others have a say in responses, who may also close the connection.
        self.asks = (
            self.process_request is not None
            or self.process_response is not None
            or self.door is not None
            or options["select_subprotocol"] is not None
        )
        self._engine_options: dict[str, Any] = {
            "origins": options["origins"],
            "extensions": extensions,
            "subprotocols": subprotocols,
            "select_subprotocol": options["select_subprotocol"],
            "max_size": options["max_size"],
            "logger": self.logger,
            "server_header": self.server_header,
            "check_host": options["check_host"],
        }

    def new_protocol(self) -> ServerProtocol:
        """Return an engine for a connection."""
        protocol = self.engine_class(**self._engine_options)
        if self._rates is not None:
            protocol.limit_rates(*self._rates)
        return protocol


class ServerSide(BaseConnection):
    """The opening handshake of a server."""

    protocol: ServerProtocol
    server: Any
    username: str  # set by basic_auth()
    handler: Callable[..., Any]  # these two are set by route()
    handler_kwargs: Mapping[str, Any]
    _refusal: str | None = None  # why it was refused, if for what it costs
    _peer: Any = None  # its remote address, if that is logged
    _shed = False  # it was closed for what it held
    _visit: Visit | None = None  # what the server's door knows of it

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # A program may say that they are None at the beginning: they are.
        for name in ("request", "response"):
            if vars(cls).get(name, cls) is None:
                delattr(cls, name)

    if TYPE_CHECKING:

        @property
        def remote_address(self) -> Any: ...

    @property
    def client_address(self) -> str | None:
        """IP address of the client, as far as it is known.

        That is what the server's door was told, by a header or by the PROXY protocol, or else the
        address of the peer; None on Unix sockets.
        """
        if self._visit is not None and self._visit.client_address is not None:
            return self._visit.client_address
        address: object = self.remote_address
        return str(address[0]) if isinstance(address, tuple) and address else None

    @property
    def request(self) -> Request | None:
        """What the client sent; None before that is whole."""
        return self.protocol.request

    @request.setter
    def request(self, request: Request | None) -> None:
        self.protocol.request = request

    @property
    def response(self) -> Response | None:
        """What it was answered; None before."""
        return self.protocol.response

    @response.setter
    def response(self, response: Response | None) -> None:
        self.protocol.response = response

    def respond(self, status: StatusLike, text: str) -> Response:
        """Return a plain text response, for ``process_request`` and ``process_response``.

        Args:
            status: HTTP status code.
            text: Body.
        """
        return self.protocol.reject(status, text)

    def _receive_request(self) -> bool:
        """Take the request if it is there; return whether it is, now or since before."""
        return self.protocol.take_request() or self.protocol.request is not None

    def _count_dropped(self, slow: Slow, number: int) -> None:
        if (statistics := self._statistics) is not None:
            statistics.dropped(slow.value, number)

    def _is_late(self) -> bool:
        """Tell whether the server is closing by now, or on its way to it."""
        server = self.server
        try:
            late: bool = server._closing or server._departure is not None
        except AttributeError:
            return False  # it is of another kind
        return late

    def _leaving(self) -> Refusal | None:
        """Return what to tell clients if the server opens no more connections before it closes."""
        departure: Departure[Any] | None = getattr(self.server, "_departure", None)
        return None if departure is None else departure.refusal

    def _is_answered_alone(self, settings: ServerSettings) -> bool:
        """Tell whether the engine alone has a say in the response.

        Args:
            settings: How the server answers.
        """
        protocol = self.protocol
        return (
            not settings.asks
            and protocol.state is _CONNECTING
            and protocol.handshake_exc is None
            and not self._is_late()
        )

    def _time_to_answer(self, open_timeout: float | None) -> float | None:
        """Return the seconds that callbacks may take for the response, None for no limit.

        After them nobody is there who could get it.

        Args:
            open_timeout: Seconds that the opening handshake may last; None for no limit.
        """
        deadline = self.protocol.next_timeout()
        if deadline is None:
            return open_timeout  # the client may be gone already
        return max(0.0, deadline - self._now())

    def _answer_alone(self, settings: ServerSettings) -> Response | None:
        """Return the response to the request; None if callbacks have a say in it.

        Args:
            settings: How the server answers.
        """
        request = self.request
        assert request is not None
        late = self._is_late()
        if late and self._leaving() is not None and "Upgrade" in request.headers:
            return self._shutting_down()  # others may ask for what isn't a WebSocket connection
        if settings.door is not None:
            response = self._refused_at_door(request)
            if response is not None:
                return response
            late = self._is_late()
        if settings.process_request is not None or settings.process_response is not None:
            return None
        return self._shutting_down() if late else self.protocol.accept(request)

    async def _answer(self, settings: ServerSettings) -> Response:
        """Return the response to the request.

        Args:
            settings: How the server answers.
        """
        response = self._answer_alone(settings)
        if response is not None:
            return response
        request = self.request
        assert request is not None
        late = self._is_late()
        if settings.process_request is not None:
            response = await self._call("process_request", settings, request)
            late = self._is_late()
        if response is None:
            response = self._shutting_down() if late else self.protocol.accept(request)
        if settings.process_response is not None:
            replacement = await self._call("process_response", settings, request, response)
            if replacement is not None:
                response = replacement
            late = self._is_late()
        if late and response.status_code == 101:
            response = self._shutting_down()
        return response

    def _refused_at_door(self, request: Request) -> Response | None:
        """Return the response if the server's door doesn't let this connection in."""
        visit = self._visit
        if visit is None:
            return None
        try:
            visit.identify_request(self, request)
        except Exception as exc:
            return self._callback_failed("client_address", exc)
        if visit.refusal is None:
            return None
        assert self._statistics is not None  # of who has made the visit
        self._statistics.refused(visit.refusal.reason, self)
        # Nor may it stay for long when it has the response.
        self._close_timeout = visit.bounded(self._close_timeout)
        self._tell_timeouts()
        return visit.refusal.response(self.protocol)

    async def _call(self, name: str, settings: ServerSettings, *args: object) -> Response | None:
        """Call a callback, and complete the response that it returns."""
        try:
            response: object = self._invoke(getattr(settings, name), *args)
            if settings.awaitables and inspect.isawaitable(response):
                response = await response
            if response is not None and not isinstance(response, Response):
                if inspect.iscoroutine(response):
                    response.close()  # nobody is going to await it
                raise TypeError(
                    f"{name} must return a Response or None, not {type(response).__name__}"
                )
            # Responses that the engine makes have the header.
            if response is not None and settings.server_header and "Server" not in response.headers:
                response.headers["Server"] = settings.server_header
        except Exception as exc:
            return self._callback_failed(name, exc)
        return response

    def _callback_failed(self, name: str, exc: Exception) -> Response:
        self.protocol.handshake_exc = exc
        self.logger.error("%s failed", name, exc_info=exc)
        forget_frames(exc)
        return self._internal_error()

    def _invoke(self, callback: Callable[..., Any], *args: object) -> Any:
        """Call a callback; it may take its time."""
        return callback(self, *args)

    def _refuse(self) -> None:
        """Answer that the server is shutting down, unless there is a request: that is answered."""
        if self.request is None:
            self._respond(self._shutting_down())

    def _respond(self, response: Response) -> bool:
        """Send a response; return False if it is too late for one."""
        protocol = self.protocol
        if protocol.handshake_exc is not None:
            forget_frames(protocol.handshake_exc)  # nobody raises it
        if protocol.state is not _CONNECTING:
            return False
        # ASGI servers leave in their own way.
        server = getattr(self, "server", None)
        departure: Departure[Any] | None = getattr(server, "_departure", None)
        if departure is not None and response.status_code != 101:
            # Nor may it stay for long when it has the response.
            timeout = self._close_timeout
            lingering = departure.lingering
            self._close_timeout = lingering if timeout is None else min(timeout, lingering)
            self._tell_timeouts()
        try:
            protocol.send_response(response, self._now())
        except InvalidState:
            return False  # the engine gave an answer
        except Exception as exc:
            # The application made a response that can't be sent.
            self.logger.error("opening handshake failed", exc_info=True)
            forget_frames(exc)
            protocol.handshake_exc = exc
            response = self._internal_error()
            protocol.send_response(response, self._now())
        if self._visit is not None:
            self._visit.opened()
        return True

    @property
    def _statistics(self) -> Statistics[Any] | None:
        """Counts of the server; None if the connection is used without one."""
        statistics: Statistics[Any] | None = getattr(self.server, "_statistics", None)
        return statistics

    def _log_failure(self, exc: Exception) -> None:
        """Log what ended the handler, or an opening handshake of the program's own."""
        if self.protocol.state is State.CLOSED and self._is_own_end(exc):
            if self.protocol.logs(logging.INFO):
                self.logger.info("connection ended its handler: %s", self.protocol.close_exc)
        else:
            opened = self.protocol.response_status == 101
            failed = "connection handler failed" if opened else "opening handshake failed"
            self.logger.error(failed, exc_info=exc)

    def _is_own_end(self, exc: BaseException) -> bool:
        """Tell whether an exception says no more than that this connection was closed."""
        if isinstance(exc, BaseExceptionGroup):
            return all(map(self._is_own_end, exc.exceptions))
        protocol = self.protocol
        return (
            isinstance(exc, ConnectionClosed)
            and exc.rcvd is protocol.close_rcvd
            and exc.sent is protocol.close_sent
        )

    def _shutting_down(self) -> Response:
        refusal = self._leaving()
        if refusal is None:
            return self.protocol.reject(http.HTTPStatus.SERVICE_UNAVAILABLE, SHUTTING_DOWN)
        self._refusal = refusal.reason
        return refusal.response(self.protocol)

    def _internal_error(self) -> Response:
        return self.protocol.reject(http.HTTPStatus.INTERNAL_SERVER_ERROR, FAILED_TO_OPEN)


class BaseServer(Generic[ConnectionT]):
    """What servers know of their connections.

    Args:
        handler: Called with each open connection.
        logger: Logger; ``wsapi.server`` by default.
    """

    def __init__(
        self, handler: Callable[[ConnectionT], Any], logger: LoggerLike | None = None
    ) -> None:
        self.handler = handler
        self.logger: LoggerLike = default_logger("server") if logger is None else logger
        self._connections: set[ConnectionT] = set()
        self._statistics = Statistics(self._connections)
        self._sweep: Sweep | None = None
        self._closing = False  # what isn't answered yet is refused
        self._departure: Departure[ConnectionT] | None = None  # since drain() was called

    @property
    def connections(self) -> set[ConnectionT]:
        """Connections that are open at the moment."""
        return {
            connection
            for connection in self._connections.copy()
            if connection.protocol.state is State.OPEN
        }

    def _answered(self) -> list[ConnectionT]:
        """Return the connections whose requests were answered, and aren't WebSocket connections."""
        return [
            connection
            for connection in self._connections.copy()
            if connection.protocol.response_status != 101 and connection.response is not None
        ]

    def stats(self) -> ServerStats:
        """Return what was counted so far.

        It can be called at any time, from any thread, and also when the server is closed. It takes
        a few microseconds per hundred connections.
        """
        return self._statistics.read()

    def _keep(self, budget: BufferBudget | None) -> None:
        """Have a look taken, by the front-end, at what connections hold.

        Args:
            budget: What they may hold; None for no limit.
        """
        if budget is not None:
            self._sweep = Sweep(budget, self._connections, self._statistics, self.logger)

    def _creation_failed(self) -> None:
        """Log the exception that kept a connection from being made, and count it.

        It is the application's fault, and concerns no other connection.
        """
        self.logger.error("opening handshake failed", exc_info=True)
        self._statistics.refused("error")

    def _rest(self, handlers: Iterable[Any]) -> list[ConnectionT]:
        """Return the connections to abort when the server has drained for too long.

        Args:
            handlers: Tasks or threads that run handlers which haven't ended.
        """
        rest = list(self._connections)
        # Threads and tasks of trio have an attribute, tasks of asyncio a method.
        names = sorted(str(getattr(one, "name", None) or one.get_name()) for one in handlers)
        self.logger.warning(
            "server drained for too long: %d connections, %d handlers left: %s in %s",
            len(rest),
            len(names),
            getattr(self.handler, "__qualname__", None) or repr(self.handler),
            ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else ""),
        )
        return rest

    def _log_listening(self, sock: Any) -> None:
        self.logger.info("server listening on %s", format_address(sock))


def format_address(sock: Any) -> str:
    """Return the address of a listening socket, for logs."""
    name = sock.getsockname()
    if sock.family == socket.AF_INET:
        return f"{name[0]}:{name[1]}"
    if sock.family == socket.AF_INET6:
        return f"[{name[0]}]:{name[1]}"
    return str(name)


def check_listening(host: object, port: int | None, options: dict[str, Any]) -> None:
    """Check where a server is to listen; other options are for others to check.

    Args:
        host: Address, or addresses.
        port: TCP port.
        options: Other options: ``sock``, ``path`` and ``ssl`` are checked if they are there; the
            path becomes a str or bytes.

    Raises:
        TypeError, ValueError: If one isn't acceptable.
    """
    checks.check_port(port)
    checks.check_instance("ssl", options.get("ssl"), ssl_module.SSLContext, "an SSLContext")
    sock = options.get("sock")
    checks.check_instance("sock", sock, socket.socket, "a socket")
    if (sock is not None or "path" in options) and (host is not None or port is not None):
        raise ValueError("host and port must be None when sock or path says where to listen")
    if "path" in options:
        path = options["path"]
        checks.check_instance("path", path, (str, bytes, os.PathLike), "a str, bytes, path-like")
        if (path is None) == (sock is None):
            raise ValueError("exactly one of path and sock must be given")
        if path is not None:
            options["path"] = os.fspath(path)
