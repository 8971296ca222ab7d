"""Servers that dispatch connections to handlers by URL, with werkzeug (extra ``router``)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from wsproto_fast.http11 import Request, Response
from wsproto_fast.typing import PathLike

from .._options import check_callable
from .._routing import BaseRouter, url_scheme_of
from .server import Server, ServerConnection, serve

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

    async def handler(self, connection: ServerConnection) -> None:
        """Call the handler of a connection.

        Args:
            connection: An open connection.
        """
        await connection.handler(connection, **connection.handler_kwargs)


def route(
    url_map: Map,
    *args: Any,
    server_name: str | None = None,
    ssl: SSLContext | Literal[True] | None = None,
    create_router: Callable[..., Router] | None = None,
    **kwargs: Any,
) -> Server:
    """Create a WebSocket server that dispatches connections to several handlers.

    The endpoints of ``url_map`` are handlers, as for ``serve``; parts of the URL that vary are
    passed to them as keyword arguments. All rules become rules for WebSockets. What matches no rule
    is answered with 404, a redirection with 302.

    Args:
        url_map: Map of URLs.
        *args: Host and port, as for ``serve``.
        server_name: Name of the server, as clients see it; None for what the ``Host`` header says.
        ssl: TLS configuration; True when TLS ends elsewhere, so that URLs begin with ``wss://``.
        create_router: Class of routers, or factory called like it.
        **kwargs: As for ``serve``. A response of ``process_request`` prevails over the routing.

    Raises:
        ImportError: If werkzeug isn't installed.
        TypeError, ValueError: If an argument isn't acceptable.
    """
    check_callable("create_router", create_router)
    factory = Router if create_router is None else create_router
    router = factory(url_map, server_name, url_scheme_of(ssl))
    if ssl is not None and ssl is not True:
        kwargs["ssl"] = ssl
    first = kwargs.pop("process_request", None)
    check_callable("process_request", first)

    async def process_request(connection: ServerConnection, request: Request) -> Response | None:
        response = first(connection, request)
        if inspect.isawaitable(response):
            response = await response
        # Whatever isn't a response is for the server to complain about.
        return router.route_request(connection, request) if response is None else response

    kwargs["process_request"] = router.route_request if first is None else process_request
    return serve(router.handler, *args, **kwargs)


def unix_route(url_map: Map, path: PathLike | None = None, **kwargs: Any) -> Server:
    """Create a WebSocket server on a Unix socket that dispatches connections to several handlers.

    Args:
        url_map: As for ``route``.
        path: Path of the socket.
        **kwargs: As for ``route``, and those of ``loop.create_unix_server``.
    """
    return route(url_map, path=path, **kwargs)
