"""Servers that dispatch connections to handlers by URL, with werkzeug (extra ``router``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import trio

from wsproto_fast.typing import PathLike

from .._options import documented
from .._routing import AsyncRouter, prepare_route
from .server import Server, ServerConnection, serve, unix_serve

if TYPE_CHECKING:
    from ssl import SSLContext

    from werkzeug.routing import Map

__all__ = ["Router", "route", "unix_route"]


@documented()
class Router(AsyncRouter[ServerConnection]):
    """Dispatches connections to handlers; subclass it to change how, and see ``create_router``.

    {router}
    """


@documented()
async def route(
    url_map: Map,
    *args: Any,
    server_name: str | None = None,
    ssl: SSLContext | Literal[True] | None = None,
    create_router: Callable[..., Router] | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **kwargs: Any,
) -> None:
    """Run a WebSocket server that dispatches connections to several handlers, until it is closed.

    ``await nursery.start(route, url_map, port)`` returns the `Server` when it accepts connections.

    {route_intro}

    Args:
        {route_args}
        task_status: Is told when connections are accepted.

    Raises:
        {route_raises}
    """
    router = prepare_route(Router, url_map, server_name, ssl, create_router, kwargs)
    await serve(router.handler, *args, task_status=task_status, **kwargs)


async def unix_route(
    url_map: Map,
    path: PathLike | None = None,
    *,
    server_name: str | None = None,
    ssl: SSLContext | Literal[True] | None = None,
    create_router: Callable[..., Router] | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **kwargs: Any,
) -> None:
    """Run a WebSocket server on a Unix socket that dispatches connections to several handlers.

    Args:
        url_map: As for ``route``, as are those that aren't listed here.
        path: Path of the socket.
        task_status: Is told when connections are accepted.
        **kwargs: As for ``unix_serve``.
    """
    router = prepare_route(Router, url_map, server_name, ssl, create_router, kwargs)
    await unix_serve(router.handler, path, task_status=task_status, **kwargs)
