"""Servers with the interface of `websockets` before its version 14."""

from __future__ import annotations

import asyncio
import functools
import inspect
import warnings
from collections.abc import Awaitable, Callable, Generator, Sequence
from email.utils import formatdate
from time import monotonic
from types import TracebackType
from typing import Any, TypeAlias, cast

from wsproto_fast import ServerProtocol
from wsproto_fast.datastructures import Headers, HeadersLike
from wsproto_fast.environment import default_logger
from wsproto_fast.exceptions import InvalidHandshake
from wsproto_fast.extensions.permessage_deflate import enable_server_permessage_deflate
from wsproto_fast.frames import CloseCode, Side
from wsproto_fast.headers import parse_subprotocol, validate_subprotocols
from wsproto_fast.http11 import SERVER, Request, Response
from wsproto_fast.typing import LoggerLike, Origin, PathLike, StatusLike, Subprotocol

from .._shared.door import Refusal
from .._shared.options import SERVER_OPTIONS, defaults
from .._shared.server import ServerSettings
from .._shared.statistics import Statistics
from ..asyncio._stand_in import StandIn
from ..asyncio.server import AcceptedConnection, Server
from .exceptions import AbortHandshake
from .protocol import WebSocketCommonProtocol, broadcast, completed, renamed, without_loop

__all__ = [
    "HTTPResponse",
    "HeadersLikeOrCallable",
    "Serve",
    "WebSocketServer",
    "WebSocketServerProtocol",
    "broadcast",
    "serve",
    "unix_serve",
]

HeadersLikeOrCallable: TypeAlias = HeadersLike | Callable[[str, Headers], HeadersLike]
HTTPResponse: TypeAlias = tuple[StatusLike, HeadersLike, bytes]
Handler: TypeAlias = (
    "Callable[[WebSocketServerProtocol], Awaitable[Any]] | "
    "Callable[[WebSocketServerProtocol, str], Awaitable[Any]]"
)


class _Engine(ServerProtocol):
    """Answers a request as a failure of ``process_request`` says, if there was one."""

    failure: InvalidHandshake | None = None

    def process_request(self, request: Request) -> tuple[str, str | None, str | None]:
        if self.failure is not None:
            raise self.failure
        return super().process_request(request)


def _select(connection: WebSocketServerProtocol, offered: object) -> Subprotocol | None:
    """Ask the connection, whose interface has a method of it."""
    assert connection.request is not None
    return connection.process_subprotocol(
        connection.request.headers, connection.available_subprotocols
    )


class WebSocketServerProtocol(WebSocketCommonProtocol, AcceptedConnection):
    """A connection accepted by a server.

    Args:
        ws_handler: Coroutine function that is called with the open connection.
        ws_server: Server, or an object with its ``register``, ``unregister``, and ``is_serving``.
        logger: Logger.
        origins: Acceptable values of the Origin header; None for a missing one.
        extensions: Extension factories, in order of preference.
        subprotocols: Subprotocols, in order of preference.
        extra_headers: Headers to add to the response, or a callable that returns them for a path
            and the headers of the request.
        server_header: Value of the Server header; None for none.
        process_request: Coroutine function in place of the method of this name.
        select_subprotocol: Function in place of the method of this name.
        open_timeout: Seconds that the opening handshake may last; None for no limit.
        **kwargs: As for ``WebSocketCommonProtocol``.
    """

    is_client = False
    side = Side.SERVER
    handler_task: asyncio.Task[None] | None = None

    def __init__(
        self,
        ws_handler: Handler,
        ws_server: WebSocketServer,
        *,
        logger: LoggerLike | None = None,
        origins: Sequence[Origin | None] | None = None,
        extensions: Sequence[Any] | None = None,
        subprotocols: Sequence[Subprotocol] | None = None,
        extra_headers: HeadersLikeOrCallable | None = None,
        server_header: str | None = SERVER,
        process_request: Callable[[str, Headers], Any] | None = None,
        select_subprotocol: Callable[[Sequence[Subprotocol], Sequence[Subprotocol]], Any]
        | None = None,
        open_timeout: float | None = 10,
        **kwargs: Any,
    ) -> None:
        if origins is not None and "" in origins:
            warnings.warn("use None instead of '' in origins", DeprecationWarning, stacklevel=2)
            origins = [origin or None for origin in origins]
        self.origins = origins
        self.available_extensions = extensions
        self.available_subprotocols = subprotocols
        super().__init__(logger=logger, **kwargs)
        self.ws_handler = remove_path_argument(ws_handler)
        self.ws_server = ws_server
        self.extra_headers = extra_headers
        self.server_header = server_header
        self.open_timeout = open_timeout
        self._process_request = process_request
        self._select_subprotocol = select_subprotocol

    @property
    def _statistics(self) -> Statistics[Any] | None:
        # Others have what they need of its interface.
        statistics: Statistics[Any] | None = getattr(self.ws_server, "_statistics", None)
        return statistics

    def _new_engine(self, max_size: int | None, logger: LoggerLike | None) -> ServerProtocol:
        return _Engine(
            origins=self.origins,
            extensions=self.available_extensions,
            select_subprotocol=_select,
            max_size=max_size,
            logger=logger,
        )

    @property
    def origin(self) -> Origin | None:
        """Value of the Origin header."""
        return self.protocol.origin

    # ------------------------------------------------------------------ for subclasses

    async def process_request(self, path: str, request_headers: Headers) -> HTTPResponse | None:
        """Return a response to be sent instead of accepting the connection, or None.

        Args:
            path: Target of the request: path and query.
            request_headers: Headers of the request.
        """
        if self._process_request is None:
            return None
        result: Any = self._process_request(path, request_headers)
        if inspect.isawaitable(result):
            return cast("HTTPResponse | None", await result)
        warnings.warn("declare process_request as a coroutine", DeprecationWarning, stacklevel=2)
        return cast("HTTPResponse | None", result)

    def process_subprotocol(
        self, headers: Headers, available_subprotocols: Sequence[Subprotocol] | None
    ) -> Subprotocol | None:
        """Return the subprotocol for a request; None to go without.

        Args:
            headers: Headers of the request.
            available_subprotocols: Subprotocols, in order of preference.
        """
        offered: list[Subprotocol] = []
        for value in headers.get_all("Sec-WebSocket-Protocol"):
            offered += parse_subprotocol(value)
        if offered and available_subprotocols:
            return self.select_subprotocol(offered, available_subprotocols)
        return None

    def select_subprotocol(
        self,
        client_subprotocols: Sequence[Subprotocol],
        server_subprotocols: Sequence[Subprotocol],
    ) -> Subprotocol | None:
        """Return the subprotocol that both sides like best, counted together; None without any.

        Args:
            client_subprotocols: What the client offers.
            server_subprotocols: What the server has.
        """
        if self._select_subprotocol is not None:
            return cast(
                "Subprotocol | None",
                self._select_subprotocol(client_subprotocols, server_subprotocols),
            )
        return min(
            (name for name in client_subprotocols if name in server_subprotocols),
            key=lambda name: client_subprotocols.index(name) + server_subprotocols.index(name),
            default=None,
        )

    # ------------------------------------------------------------------ from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.ws_server.register(self)
        self._set_timeouts(monotonic(), self.open_timeout)
        self._driver.update()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.handler_task is None:
            self.ws_server.unregister(self)

    def _start(self) -> None:
        self.handler_task = self.loop.create_task(self._handle())

    # ------------------------------------------------------------------ opening handshake

    async def handshake(self) -> None:
        """Answer the opening handshake."""
        await self._answer_in_time(_settings, self.open_timeout)

    def _is_late(self) -> bool:
        return not self.ws_server.is_serving() or self._leaving() is not None

    def _leaving(self) -> Refusal | None:
        # Others have what they need of its interface.
        departure = getattr(self.ws_server, "_departure", None)
        return None if departure is None else departure.refusal

    async def _early_response(self, request: Request) -> Response | None:
        try:
            result: Any = self.process_request(request.path, request.headers)
            if inspect.isawaitable(result):
                result = await result
            else:
                warnings.warn(
                    "declare process_request as a coroutine", DeprecationWarning, stacklevel=2
                )
        except AbortHandshake as exc:
            result = exc.status, exc.headers, exc.body
        except InvalidHandshake as exc:
            cast(_Engine, self.protocol).failure = exc  # it has the answer
            return None
        return None if result is None else self._response(*result)

    def _response(self, status: StatusLike, headers: HeadersLike, body: bytes = b"") -> Response:
        response = AbortHandshake(status, headers, body)
        others = {
            "Date": formatdate(usegmt=True),
            "Content-Length": str(len(body)),
            "Content-Type": "text/plain",
            "Connection": "close",
        }
        return Response(
            response.status.value, response.status.phrase, completed(headers, others), body
        )

    def _complete(self, request: Request, response: Response) -> None:
        """Add to a response what the server adds."""
        extra = self.extra_headers
        if response.status_code == 101:
            # A callable may have none for this request.
            headers = extra(request.path, request.headers) if callable(extra) else extra
            if headers is not None:
                response.headers.update(headers)
        if self.server_header is not None and "Server" not in response.headers:
            response.headers["Server"] = self.server_header

    async def _handle(self) -> None:
        """Answer the opening handshake, then run the handler."""
        # Others have what they need of its interface.
        ws_server: object = self.ws_server
        server = ws_server if isinstance(ws_server, WebSocketServer) else None
        task = asyncio.current_task()
        assert task is not None
        if server is not None:
            server._handlers.add(task)
        try:
            await self.handshake()
            if self.response is None or self.response.status_code != 101:
                await self.wait_closed()
                return
            handler: Callable[[WebSocketServerProtocol], Awaitable[Any]] = self.ws_handler
            await handler(self)
            await self.close()
        except Exception as exc:
            self._log_failure(exc)
            self.fail_connection(CloseCode.INTERNAL_ERROR)
        finally:
            if self.response is None and not self._lost:
                self._transport.abort()  # cancelled before there was an answer
            if server is not None:
                server._end_handler(task)
            self.ws_server.unregister(self)
            del task  # what ends it may hold this frame


async def _no_server(server: Server) -> asyncio.Server:
    raise RuntimeError("a WebSocketServer is started by serve()")


def _no_handler(connection: Any) -> Any:
    raise AssertionError("connections of a WebSocketServer have handlers of their own")


# How all these connections are answered: each decides by itself.
_settings = ServerSettings(
    _no_handler,
    defaults(SERVER_OPTIONS)
    | {
        "process_request": WebSocketServerProtocol._early_response,
        "process_response": WebSocketServerProtocol._complete,
        "server_header": None,
        "compression": None,
    },
)


class WebSocketServer(Server):
    """A server; what ``serve`` returns.

    Args:
        logger: Logger.
    """

    def __init__(self, logger: LoggerLike | None = None) -> None:
        super().__init__(_no_server, _no_handler, logger)
        self.websockets: set[WebSocketServerProtocol] = set()

    def register(self, protocol: WebSocketServerProtocol) -> None:
        """Count a connection among those of this server.

        Args:
            protocol: The connection.
        """
        self.websockets.add(protocol)
        self._statistics.accepted(cast(Any, protocol))

    def unregister(self, protocol: WebSocketServerProtocol) -> None:
        """Count a connection no more.

        Args:
            protocol: The connection.
        """
        self.websockets.discard(protocol)
        self._statistics.ended(cast(Any, protocol))
        self._notify()


class Serve:
    """Start a WebSocket server, by being awaited or entered as a context manager.

    Args:
        ws_handler: Coroutine function that is called with each open connection. One that takes the
            path, too, is deprecated.
        host: Addresses to listen on; None for all.
        port: TCP port.
        create_protocol: Class of connections, or factory called like it.
        logger: Logger.
        compression: "deflate" or None.
        origins: Acceptable values of the Origin header; None for a missing one.
        extensions: Extension factories, in order of preference.
        subprotocols: Subprotocols, in order of preference.
        extra_headers: Headers to add to the response, or a callable that returns them for a path
            and the headers of the request.
        server_header: Value of the Server header; None for none.
        process_request: Coroutine function that takes path and headers; may return a response as
            status, headers, and body.
        select_subprotocol: Function that takes the subprotocols of client and server.
        open_timeout: Seconds that the opening handshake may last; None for no limit.
        ping_interval: Seconds between keepalive pings; None for none.
        ping_timeout: Seconds after a keepalive ping in which something must be received.
        close_timeout: Seconds that closing may last; 10 by default.
        max_size: Limit on incoming messages in bytes; None for no limit.
        max_queue: Number of received frames in the queue above which reading pauses.
        read_limit: Without effect.
        write_limit: Size of the write buffer in bytes above which ``send`` waits.
        **kwargs: Passed on to ``loop.create_server`` or ``loop.create_unix_server``.

    Raises:
        ValueError: If ``compression`` is something else.
    """

    def __init__(
        self,
        ws_handler: Handler,
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        *,
        create_protocol: Callable[..., WebSocketServerProtocol] | None = None,
        logger: LoggerLike | None = None,
        compression: str | None = "deflate",
        origins: Sequence[Origin | None] | None = None,
        extensions: Sequence[Any] | None = None,
        subprotocols: Sequence[Subprotocol] | None = None,
        extra_headers: HeadersLikeOrCallable | None = None,
        server_header: str | None = SERVER,
        process_request: Callable[[str, Headers], Any] | None = None,
        select_subprotocol: Callable[[Sequence[Subprotocol], Sequence[Subprotocol]], Any]
        | None = None,
        open_timeout: float | None = 10,
        ping_interval: float | None = 20,
        ping_timeout: float | None = 20,
        close_timeout: float | None = None,
        max_size: int | None = 2**20,
        max_queue: int | None = 2**5,
        read_limit: int = 2**16,
        write_limit: int = 2**16,
        **kwargs: Any,
    ) -> None:
        close_timeout = renamed(kwargs, "timeout", "close_timeout", close_timeout, 10)
        create_protocol = renamed(
            kwargs, "klass", "create_protocol", create_protocol, WebSocketServerProtocol
        )
        assert create_protocol is not None
        without_loop(kwargs)
        if compression == "deflate":
            extensions = enable_server_permessage_deflate(extensions)
        elif compression is not None:
            raise ValueError(f"unsupported compression: {compression}")
        if subprotocols is not None:
            validate_subprotocols(subprotocols)
        self.ws_server = WebSocketServer(logger)
        factory = functools.partial(
            create_protocol,
            remove_path_argument(ws_handler),
            self.ws_server,
            host=host,
            port=port,
            secure=kwargs.get("ssl") is not None,
            open_timeout=open_timeout,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            close_timeout=close_timeout,
            max_size=max_size,
            max_queue=max_queue,
            read_limit=read_limit,
            write_limit=write_limit,
            origins=origins,
            extensions=extensions,
            subprotocols=subprotocols,
            extra_headers=extra_headers,
            server_header=server_header,
            process_request=process_request,
            select_subprotocol=select_subprotocol,
            logger=default_logger("server") if logger is None else logger,
        )

        def new() -> asyncio.BaseProtocol:
            return factory() if kwargs.get("ssl") is None else StandIn(factory)

        async def create_server(server: Server) -> asyncio.Server:
            loop = asyncio.get_running_loop()
            if unix:
                return await loop.create_unix_server(new, **kwargs)
            return await loop.create_server(new, host, port, **kwargs)

        unix = kwargs.pop("unix", False)
        self.ws_server._create_server = create_server

    def __await__(self) -> Generator[Any, None, WebSocketServer]:
        return self.ws_server.__await__()

    async def __aenter__(self) -> WebSocketServer:
        return await self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.ws_server.close()
        await self.ws_server.wait_closed()


serve = Serve


def unix_serve(ws_handler: Handler, path: PathLike | None = None, **kwargs: Any) -> Serve:
    """Start a WebSocket server that listens on a Unix socket.

    Args:
        ws_handler: As for ``serve``.
        path: Path of the socket.
        **kwargs: As for ``serve``.
    """
    return serve(ws_handler, path=path, unix=True, **kwargs)


def remove_path_argument(
    ws_handler: Handler,
) -> Callable[[WebSocketServerProtocol], Awaitable[Any]]:
    """Return a handler that takes a connection, of one that may take the path, too.

    Args:
        ws_handler: Coroutine function.
    """
    handler: Callable[..., Awaitable[Any]] = ws_handler
    signature = inspect.signature(handler)
    try:
        signature.bind(None)
    except TypeError:
        try:
            signature.bind(None, "")
        except TypeError:
            return handler  # calling it says what is wrong
        warnings.warn("remove second argument of ws_handler", DeprecationWarning, stacklevel=3)

        async def with_path(connection: WebSocketServerProtocol) -> Any:
            return await handler(connection, connection.path)

        return with_path
    return handler
