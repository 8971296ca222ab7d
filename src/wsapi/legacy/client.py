"""Clients with the interface of `websockets` before its version 14."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, cast

from wsproto_fast import ClientProtocol
from wsproto_fast.datastructures import HeadersLike
from wsproto_fast.exceptions import InvalidStatus
from wsproto_fast.frames import Side
from wsproto_fast.http11 import USER_AGENT
from wsproto_fast.typing import LoggerLike, Origin, PathLike, Subprotocol
from wsproto_fast.uri import parse_uri

from ..asyncio import client as present
from .exceptions import InvalidStatusCode
from .protocol import WebSocketCommonProtocol, renamed, without_loop

__all__ = ["Connect", "WebSocketClientProtocol", "connect", "unix_connect"]


class WebSocketClientProtocol(WebSocketCommonProtocol, present.ClientConnection):
    """A connection made by ``connect``.

    Args:
        logger: Logger.
        origin: Value of the Origin header.
        extensions: Extension factories, in order of preference.
        subprotocols: Subprotocols, in order of preference.
        extra_headers: Headers to add to the opening handshake.
        user_agent_header: Value of the User-Agent header; None for none.
        **kwargs: As for ``WebSocketCommonProtocol``.
    """

    is_client = True
    side = Side.CLIENT

    def __init__(
        self,
        *,
        logger: LoggerLike | None = None,
        origin: Origin | None = None,
        extensions: Sequence[Any] | None = None,
        subprotocols: Sequence[Subprotocol] | None = None,
        extra_headers: HeadersLike | None = None,
        user_agent_header: str | None = USER_AGENT,
        **kwargs: Any,
    ) -> None:
        self.origin = origin
        self.available_extensions = extensions
        self.available_subprotocols = subprotocols
        self.extra_headers = extra_headers
        self.user_agent_header = user_agent_header
        super().__init__(logger=logger, **kwargs)

    def _new_engine(self, max_size: int | None, logger: LoggerLike | None) -> ClientProtocol:
        # The URI is set by connect().
        return ClientProtocol(
            parse_uri("ws://localhost/"),
            origin=self.origin,
            extensions=self.available_extensions,
            subprotocols=self.available_subprotocols,
            max_size=max_size,
            logger=logger,
        )


class Connect(present.connect):
    """Connect to a WebSocket server: what ``wsapi.asyncio.client.connect`` does, without proxy.

    Args:
        uri: WebSocket URI.
        create_protocol: Class of connections, or factory called like it.
        logger: Logger.
        compression: "deflate" or None.
        origin: Value of the Origin header.
        extensions: Extension factories, in order of preference.
        subprotocols: Subprotocols, in order of preference.
        extra_headers: Headers to add to the opening handshake.
        user_agent_header: Value of the User-Agent header; None for none.
        open_timeout: Seconds that opening the connection may last in all; None for no limit.
        ping_interval: Seconds between keepalive pings; None for none.
        ping_timeout: Seconds after a keepalive ping in which something must be received.
        close_timeout: Seconds that closing may last; 10 by default.
        max_size: Limit on incoming messages in bytes; None for no limit.
        max_queue: Number of received frames in the queue above which reading pauses.
        read_limit: Without effect.
        write_limit: Size of the write buffer in bytes above which ``send`` waits.
        **kwargs: Where to connect to and how, as for ``wsapi.asyncio.client.connect``.

    Raises:
        InvalidStatusCode: If the server refuses the connection.
        Exception: Others as ``wsapi.asyncio.client.connect`` does.
    """

    def __init__(
        self,
        uri: str,
        *,
        create_protocol: Callable[..., WebSocketClientProtocol] | None = None,
        logger: LoggerLike | None = None,
        compression: str | None = "deflate",
        origin: Origin | None = None,
        extensions: Sequence[Any] | None = None,
        subprotocols: Sequence[Subprotocol] | None = None,
        extra_headers: HeadersLike | None = None,
        user_agent_header: str | None = USER_AGENT,
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
            kwargs, "klass", "create_protocol", create_protocol, WebSocketClientProtocol
        )
        without_loop(kwargs)
        kwargs.pop("unix", None)
        create = create_protocol

        def new(engine: ClientProtocol, **options: Any) -> WebSocketClientProtocol:
            assert create is not None
            connection = create(
                logger=logger,
                origin=origin,
                extensions=engine.available_extensions,
                subprotocols=subprotocols,
                extra_headers=extra_headers,
                user_agent_header=user_agent_header,
                max_size=max_size,
                read_limit=read_limit,
                host=engine.uri.host,
                port=engine.uri.port,
                secure=engine.uri.secure,
                **options,
            )
            cast(ClientProtocol, connection.protocol).uri = engine.uri
            return connection

        super().__init__(
            uri,
            create_connection=new,
            logger=logger,
            compression=compression,
            origin=origin,
            extensions=extensions,
            subprotocols=subprotocols,
            additional_headers=extra_headers,
            user_agent_header=user_agent_header,
            proxy=None,
            process_exception=_try_again,
            open_timeout=open_timeout,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            close_timeout=close_timeout,
            max_size=max_size,
            max_queue=max_queue,
            write_limit=write_limit,
            **kwargs,
        )

    def __await__(self) -> Generator[Any, None, WebSocketClientProtocol]:
        try:
            return (yield from super().__await__())  # type: ignore[return-value] # see above
        except InvalidStatus as exc:
            response = exc.response
            raise InvalidStatusCode(response.status_code, response.headers) from exc


def _try_again(exc: Exception) -> None:
    """Let the reconnecting iterator try again, whatever the reason of the failure."""


connect = Connect


def unix_connect(
    path: PathLike | None = None, uri: str = "ws://localhost/", **kwargs: Any
) -> Connect:
    """Connect to a WebSocket server that listens on a Unix socket.

    Args:
        path: Path of the socket.
        uri: WebSocket URI for the handshake.
        **kwargs: As for ``connect``.
    """
    return connect(uri, path=path, **kwargs)
