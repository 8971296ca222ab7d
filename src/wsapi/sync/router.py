"""Servers that dispatch connections to handlers by URL, with werkzeug (extra ``router``)."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack

from wsproto_fast.http11 import SERVER, Request, Response
from wsproto_fast.rates import RateLike
from wsproto_fast.typing import LoggerLike, Origin, PathLike, Subprotocol

from .._shared.budget import BufferBudget
from .._shared.door import Door
from .._shared.options import Limits, OnDrop, arguments
from .._shared.routing import BaseRouter, prepare_route
from ..limits import MAX_BACKLOG, Slow
from .server import Server, ServerConnection, TransportOptions, serve

if TYPE_CHECKING:
    from ssl import SSLContext

    from werkzeug.routing import Map

__all__ = ["Router", "route", "unix_route"]


class Router(BaseRouter[ServerConnection]):
    """Dispatches connections to handlers; subclass it to change how, and see ``create_router``.

    Args:
        url_map: Map of URLs, whose endpoints are handlers.
        server_name: Name that URLs are built and hosts are matched with; None for what the
            ``Host`` header says.
        url_scheme: Scheme of URLs, "ws" or "wss".

    Raises:
        ImportError: If werkzeug isn't installed.
        TypeError: If ``url_map`` isn't a map.
    """

    def handler(self, connection: ServerConnection) -> None:
        """Call the handler of a connection.

        Args:
            connection: An open connection.
        """
        connection.handler(connection, **connection.handler_kwargs)


def route(
    url_map: Map,
    *args: Any,
    host: str | None = None,
    port: int | None = None,
    server_name: str | None = None,
    ssl: SSLContext | Literal[True] | None = None,
    create_router: Callable[..., Router] | None = None,
    sock: socket.socket | None = None,
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
    """Create a WebSocket server that dispatches connections to several handlers.

    The endpoints of ``url_map`` are handlers, as for ``serve``; parts of the URL that vary are
    passed to them as keyword arguments. All rules become rules for WebSockets. What matches no
    rule is answered with 404, a redirection with 302.

    Args:
        url_map: Map of URLs.
        *args: Host and port, as for ``serve``, as are those that aren't listed here.
        host: The same by name.
        port: The same by name.
        server_name: Name of the server, as clients see it; None for what the ``Host`` header says.
        ssl: TLS configuration; True when TLS ends elsewhere, so that URLs begin with ``wss://``.
        create_router: Class of routers, or factory called like it.
        process_request: As for ``serve``; a response that it returns prevails over the routing.
        **kwargs: As for ``serve``.

    Raises:
        ImportError: If werkzeug isn't installed.
        TypeError, ValueError: If an argument isn't acceptable.
    """
    options = arguments(locals())
    router = prepare_route(Router, options, ("host", "port"), awaitables=False)
    return serve(router.handler, **options)


def unix_route(
    url_map: Map,
    path: PathLike | None = None,
    *,
    server_name: str | None = None,
    ssl: SSLContext | Literal[True] | None = None,
    create_router: Callable[..., Router] | None = None,
    sock: socket.socket | None = None,
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
    """Create a WebSocket server on a Unix socket that dispatches connections to several handlers.

    Args:
        url_map: As for ``route``.
        path: Path of the socket.
        **kwargs: As for ``route``, as are those that aren't listed here.
    """
    return route(**arguments(locals()))
