"""Servers that dispatch connections to handlers by URL, with werkzeug (extra ``router``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from wsproto_fast.typing import PathLike

from .._options import documented
from .._routing import SyncRouter, prepare_route
from .server import Server, ServerConnection, serve

if TYPE_CHECKING:
    from ssl import SSLContext

    from werkzeug.routing import Map

__all__ = ["Router", "route", "unix_route"]


@documented()
class Router(SyncRouter[ServerConnection]):
    """Dispatches connections to handlers; subclass it to change how, and see ``create_router``.

    {router}
    """


@documented()
def route(
    url_map: Map,
    *args: Any,
    server_name: str | None = None,
    ssl: SSLContext | Literal[True] | None = None,
    create_router: Callable[..., Router] | None = None,
    **kwargs: Any,
) -> Server:
    """Create a WebSocket server that dispatches connections to several handlers.

    {route}
    """
    router = prepare_route(
        Router, url_map, server_name, ssl, create_router, kwargs, awaitables=False
    )
    return serve(router.handler, *args, **kwargs)


def unix_route(url_map: Map, path: PathLike | None = None, **kwargs: Any) -> Server:
    """Create a WebSocket server on a Unix socket that dispatches connections to several handlers.

    Args:
        url_map: As for ``route``.
        path: Path of the socket.
        **kwargs: As for ``route``.
    """
    return route(url_map, path=path, **kwargs)
