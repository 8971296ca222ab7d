"""WebSocket clients on an asyncio event loop."""

from __future__ import annotations

import asyncio
import logging
import ssl as ssl_module
from collections.abc import Callable, Generator, Sequence
from types import TracebackType
from typing import Any

from wsproto_fast import ClientProtocol
from wsproto_fast.datastructures import HeadersLike
from wsproto_fast.frames import CloseCode, State
from wsproto_fast.headers import validate_subprotocols
from wsproto_fast.http11 import USER_AGENT, Response
from wsproto_fast.typing import LoggerLike, Origin, PathLike, Subprotocol
from wsproto_fast.uri import parse_uri

from .connection import Connection

__all__ = ["ClientConnection", "connect", "unix_connect"]


class ClientConnection(Connection):
    """A connection made by ``connect``; parameters are those of ``Connection``."""

    _opening = True
    _response_waiter: asyncio.Future[None] | None = None

    def __init__(
        self,
        protocol: ClientProtocol,
        *,
        ping_interval: float | None = 20,
        ping_timeout: float | None = 20,
        close_timeout: float | None = 10,
        max_queue: int | tuple[int | None, int | None] | None = 16,
        write_limit: int | tuple[int, int | None] = 2**15,
    ) -> None:
        super().__init__(
            protocol,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            close_timeout=close_timeout,
            max_queue=max_queue,
            write_limit=write_limit,
        )
        self.protocol: ClientProtocol

    async def handshake(
        self,
        additional_headers: HeadersLike | None = None,
        user_agent_header: str | None = USER_AGENT,
    ) -> None:
        """Perform the opening handshake.

        Args:
            additional_headers: Headers to add to the request.
            user_agent_header: Value of the User-Agent header, unless it is among the additional ones; None for
                none.

        Raises:
            InvalidHandshake: If the server doesn't accept it.
        """
        request = self.protocol.connect()
        if additional_headers is not None:
            request.headers.update(additional_headers)
        if user_agent_header and "User-Agent" not in request.headers:
            request.headers["User-Agent"] = user_agent_header
        self.request = request
        self._set_timeouts()
        self.protocol.send_request(request)
        self._response_waiter = self.loop.create_future()
        self._update()
        await self._response_waiter
        if self.protocol.handshake_exc is not None:
            raise self.protocol.handshake_exc

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._update_opening()

    def _update_opening(self) -> None:
        for event in self.protocol.events_received():
            if isinstance(event, Response):
                self.response = event
        if self.protocol.state is not State.CONNECTING or self.protocol.handshake_exc is not None:
            self._opening = False
            if self._response_waiter is not None and not self._response_waiter.done():
                self._response_waiter.set_result(None)


class connect:
    """Connect to a WebSocket server: ``await connect(...)`` or ``async with connect(...)``.

    Args:
        uri: WebSocket URI.
        origin: Value of the Origin header.
        extensions: Extension factories, in order of preference.
        subprotocols: Subprotocols, in order of preference.
        compression: "deflate" or None.
        additional_headers: Headers to add to the opening handshake.
        user_agent_header: Value of the User-Agent header; None for none.
        open_timeout: Seconds that opening the connection may last in all; None for no limit.
        ping_interval: Seconds between keepalive pings; None for none.
        ping_timeout: Seconds after a keepalive ping in which something must be received; None for no limit.
        close_timeout: Seconds that closing may last; None for no limit.
        max_size: Limit on incoming messages in bytes, or a pair of limits on messages and on fragments;
            None for no limit.
        max_queue: Number of received frames in the queue above which reading pauses, or a pair of this
            and of the number at which it resumes; None for no limit.
        write_limit: Size of the write buffer in bytes above which ``send`` waits, or a pair of this and of
            the size at which it goes on.
        logger: Logger; ``wsapi.client`` by default.
        create_connection: Class of connections, or factory called like it.
        **kwargs: Passed on to ``loop.create_connection``; a ``path`` to ``loop.create_unix_connection``.
            ``host`` and ``port`` or ``sock`` change where to connect, not what the handshake says.

    Raises:
        InvalidURI: If the URI isn't valid.
        OSError: If the TCP connection fails.
        InvalidHandshake: If the opening handshake fails.
        TimeoutError: If opening takes longer than ``open_timeout``.
    """

    def __init__(
        self,
        uri: str,
        *,
        origin: Origin | None = None,
        extensions: Sequence[Any] | None = None,
        subprotocols: Sequence[Subprotocol] | None = None,
        compression: str | None = "deflate",
        additional_headers: HeadersLike | None = None,
        user_agent_header: str | None = USER_AGENT,
        open_timeout: float | None = 10,
        ping_interval: float | None = 20,
        ping_timeout: float | None = 20,
        close_timeout: float | None = 10,
        max_size: int | tuple[int | None, int | None] | None = 2**20,
        max_queue: int | tuple[int | None, int | None] | None = 16,
        write_limit: int | tuple[int, int | None] = 2**15,
        logger: LoggerLike | None = None,
        create_connection: Callable[..., ClientConnection] | None = None,
        **kwargs: Any,
    ) -> None:
        self.uri = parse_uri(uri)
        if not self.uri.secure and kwargs.get("ssl") is not None:
            raise ValueError("ssl argument is incompatible with a ws:// URI")
        if subprotocols is not None:
            validate_subprotocols(subprotocols)
        if compression not in (None, "deflate"):
            raise ValueError(f"unsupported compression: {compression}")
        self.open_timeout = open_timeout
        self.additional_headers = additional_headers
        self.user_agent_header = user_agent_header
        self._transport_options = kwargs
        connection_class = ClientConnection if create_connection is None else create_connection
        logger = logging.getLogger("wsapi.client") if logger is None else logger

        def factory() -> ClientConnection:
            return connection_class(
                ClientProtocol(
                    self.uri,
                    origin=origin,
                    extensions=extensions,
                    subprotocols=subprotocols,
                    max_size=max_size,
                    logger=logger,
                ),
                ping_interval=ping_interval,
                ping_timeout=ping_timeout,
                close_timeout=close_timeout,
                max_queue=max_queue,
                write_limit=write_limit,
            )

        self._factory = factory
        self._connection: ClientConnection | None = None

    def __await__(self) -> Generator[Any, None, ClientConnection]:
        return self._connect().__await__()

    async def __aenter__(self) -> ClientConnection:
        if self._connection is not None:
            raise RuntimeError("connect() isn't reentrant")
        self._connection = await self
        return self._connection

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None
        await connection.close(
            CloseCode.NORMAL_CLOSURE if exc_type is None else CloseCode.INTERNAL_ERROR
        )

    async def _connect(self) -> ClientConnection:
        try:
            async with asyncio.timeout(self.open_timeout):
                connection = await self._open_transport()
                try:
                    await connection.handshake(self.additional_headers, self.user_agent_header)
                except BaseException:
                    connection.transport.abort()
                    raise
                return connection
        except TimeoutError as exc:
            raise TimeoutError("timed out during opening handshake") from exc

    async def _open_transport(self) -> ClientConnection:
        loop = asyncio.get_running_loop()
        uri = self.uri
        options = dict(self._transport_options)
        if uri.secure:
            ssl = options.setdefault("ssl", True)
            if ssl is None:
                raise ValueError("ssl=None is incompatible with a wss:// URI")
            if ssl is True:
                options["ssl"] = ssl_module.create_default_context()
            options.setdefault("server_hostname", uri.host)
        if "path" in options:
            _, connection = await loop.create_unix_connection(self._factory, **options)
        else:
            if options.get("sock") is None:
                options.setdefault("host", uri.host)
                options.setdefault("port", uri.port)
            _, connection = await loop.create_connection(self._factory, **options)
        return connection


def unix_connect(path: PathLike | None = None, uri: str | None = None, **kwargs: Any) -> connect:
    """Connect to a WebSocket server that listens on a Unix socket.

    Args:
        path: Path of the socket.
        uri: WebSocket URI for the handshake; ``ws://localhost/`` by default, ``wss://localhost/`` with ``ssl``.
        **kwargs: As for ``connect``, and those of ``loop.create_unix_connection``.
    """
    if uri is None:
        uri = "ws://localhost/" if kwargs.get("ssl") is None else "wss://localhost/"
    return connect(uri=uri, path=path, **kwargs)
