"""Routing of connections to handlers by werkzeug's URL maps, without I/O.

Owns how a request is matched, and what is answered when it isn't. werkzeug is optional: imported
only when something is routed.
"""

from __future__ import annotations

import http
import inspect
import urllib.parse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from wsproto_fast.exceptions import InvalidHeader
from wsproto_fast.http11 import Request, Response
from wsproto_fast.typing import StatusLike

from ._checks import check_callable
from ._options import documented

if TYPE_CHECKING:
    from werkzeug.routing import Map

__all__ = ["AsyncRouter", "BaseRouter", "SyncRouter", "prepare_route"]


class Routable(Protocol):
    """What is asked of a server's connection."""

    handler: Any
    handler_kwargs: Mapping[str, Any]

    def respond(self, status: StatusLike, text: str) -> Response: ...


ConnectionT = TypeVar("ConnectionT", bound=Routable)


@documented()
class BaseRouter(Generic[ConnectionT]):
    """Finds the handler of a connection; what the routers of front-ends have in common.

    {router}
    """

    def __init__(
        self, url_map: Map, server_name: str | None = None, url_scheme: str = "ws"
    ) -> None:
        try:
            from werkzeug.routing import Map
        except ImportError as exc:
            raise ImportError(
                "routing requires werkzeug: pip install 'wsproto-fast[router]'"
            ) from exc
        if not isinstance(url_map, Map):
            raise TypeError(f"url_map must be a werkzeug.routing.Map, not {type(url_map).__name__}")
        self.url_map = url_map
        self.server_name = server_name
        self.url_scheme = url_scheme
        for rule in url_map.iter_rules():
            rule.websocket = True

    def get_server_name(self, connection: ConnectionT, request: Request) -> str:
        """Return the name of the server, as clients see it.

        Args:
            connection: Connection in its opening handshake.
            request: Its request.

        Raises:
            LookupError: If the request doesn't tell.
        """
        return request.headers["Host"] if self.server_name is None else self.server_name

    def redirect(self, connection: ConnectionT, url: str) -> Response:
        """Build the response that sends a client elsewhere.

        Args:
            connection: Connection in its opening handshake.
            url: Where to.
        """
        response = connection.respond(http.HTTPStatus.FOUND, f"Found at {url}")
        response.headers["Location"] = url
        return response

    def not_found(self, connection: ConnectionT) -> Response:
        """Build the response to a request for what isn't there.

        Args:
            connection: Connection in its opening handshake.
        """
        return connection.respond(http.HTTPStatus.NOT_FOUND, "Not Found")

    def route_request(self, connection: ConnectionT, request: Request) -> Response | None:
        """Find the handler of a connection, and set it and its arguments there.

        Args:
            connection: Connection in its opening handshake.
            request: Its request.

        Returns:
            None, or what is to be answered when there is no handler.
        """
        from werkzeug.exceptions import BadHost, MethodNotAllowed, NotFound
        from werkzeug.routing import RequestRedirect

        try:
            server_name = self.get_server_name(connection, request)
        except LookupError:
            return _bad_host(connection, request)
        path, _, query = request.path.partition("?")
        if not path.startswith("/"):
            path = urllib.parse.urlsplit(path).path  # RFC 9112 section 3.2.2: absolute form
        try:
            adapter = self.url_map.bind(server_name, url_scheme=self.url_scheme)
            # What varies reaches handlers as it is in the URL, percent-encoded.
            connection.handler, connection.handler_kwargs = adapter.match(
                path, method="GET", query_args=query
            )
        except RequestRedirect as exc:
            url, mark, query = exc.new_url.partition("?")
            if "%" in path:
                # werkzeug took the path for decoded, and encoded it once more.
                url = url.replace("%25", "%")
            return self.redirect(connection, url + mark + query)
        except (NotFound, MethodNotAllowed):
            return self.not_found(connection)
        except BadHost:
            return _bad_host(connection, request)
        return None


def _bad_host(connection: Routable, request: Request) -> Response:
    hosts = request.headers.get_all("Host")
    problem = InvalidHeader("Host", ", ".join(hosts) if hosts else None)
    return connection.respond(
        http.HTTPStatus.BAD_REQUEST, f"Failed to open a WebSocket connection: {problem}.\n"
    )


@documented()
class AsyncRouter(BaseRouter[ConnectionT]):
    """Dispatches connections to handlers; subclass it to change how, and see ``create_router``.

    {router}
    """

    async def handler(self, connection: ConnectionT) -> None:
        """Call the handler of a connection.

        Args:
            connection: An open connection.
        """
        await connection.handler(connection, **connection.handler_kwargs)


@documented()
class SyncRouter(BaseRouter[ConnectionT]):
    """Dispatches connections to handlers; subclass it to change how, and see ``create_router``.

    {router}
    """

    def handler(self, connection: ConnectionT) -> None:
        """Call the handler of a connection.

        Args:
            connection: An open connection.
        """
        connection.handler(connection, **connection.handler_kwargs)


RouterT = TypeVar("RouterT", bound=BaseRouter[Any])


def prepare_route(
    router_class: type[RouterT],
    url_map: Map,
    server_name: str | None,
    ssl: Any,
    create_router: Callable[..., RouterT] | None,
    kwargs: dict[str, Any],
    *,
    awaitables: bool = True,
) -> RouterT:
    """Make the router of ``route``.

    Args:
        router_class: Class of routers, unless ``create_router`` is given.
        url_map: As for ``route``, as are the following ones.
        server_name: See there.
        ssl: See there.
        create_router: See there.
        kwargs: Arguments of ``serve``, which are completed.
        awaitables: Whether ``process_request`` may return awaitables.

    Raises:
        ImportError: If werkzeug isn't installed.
        TypeError: If an argument isn't acceptable.
    """
    check_callable("create_router", create_router)
    factory = router_class if create_router is None else create_router
    router = factory(url_map, server_name, "ws" if ssl is None else "wss")
    if ssl is not None and ssl is not True:
        kwargs["ssl"] = ssl
    first = kwargs.pop("process_request", None)
    check_callable("process_request", first)

    # Whatever isn't a response is for the server to complain about.
    def process_request(connection: Any, request: Request) -> Any:
        response = first(connection, request)
        return router.route_request(connection, request) if response is None else response

    async def process_request_later(connection: Any, request: Request) -> Any:
        response = first(connection, request)
        if inspect.isawaitable(response):
            response = await response
        return router.route_request(connection, request) if response is None else response

    if first is None:
        kwargs["process_request"] = router.route_request
    else:
        kwargs["process_request"] = process_request_later if awaitables else process_request
    return router
