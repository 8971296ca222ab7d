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
from wsproto_fast.headers import is_valid_host
from wsproto_fast.http11 import Request, Response
from wsproto_fast.typing import StatusLike

from .checks import check_callable

if TYPE_CHECKING:
    from werkzeug.routing import Map

__all__ = ["BaseRouter", "prepare_route"]


class Routable(Protocol):
    """What is asked of a server's connection."""

    handler: Any
    handler_kwargs: Mapping[str, Any]

    def respond(self, status: StatusLike, text: str) -> Response: ...


ConnectionT = TypeVar("ConnectionT", bound=Routable)


class BaseRouter(Generic[ConnectionT]):
    """Finds the handler of a connection; what the routers of front-ends have in common.

    Args:
        url_map: Map of URLs, whose endpoints are handlers.
        server_name: Name that URLs are built and hosts are matched with; None for what the
            ``Host`` header says.
        url_scheme: Scheme of URLs, "ws" or "wss".

    Raises:
        ImportError: If werkzeug isn't installed.
        TypeError: If ``url_map`` isn't a map.
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
            LookupError: If the request doesn't tell; it is answered with 400 then.
        """
        if self.server_name is not None:
            return self.server_name
        host = request.headers["Host"]
        # It goes on into URLs, and so into redirects.
        if not is_valid_host(host):
            raise LookupError(host)
        return host

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


RouterT = TypeVar("RouterT", bound=BaseRouter[Any])


def prepare_route(
    router_class: type[RouterT],
    options: dict[str, Any],
    positional: tuple[str, ...],
    *,
    awaitables: bool = True,
) -> RouterT:
    """Make the router of ``route``.

    Args:
        router_class: Class of routers, unless ``create_router`` is given.
        options: Arguments of ``route``; what is left are arguments of ``serve``.
        positional: Names of those that may be given by position.
        awaitables: Whether ``process_request`` may return awaitables.

    Raises:
        ImportError: If werkzeug isn't installed.
        TypeError: If an argument isn't acceptable.
    """
    args = options.pop("args", ())
    if len(args) > len(positional):
        raise TypeError(f"route() takes a map, and at most {' and '.join(positional)} by position")
    for name, value in zip(positional, args, strict=False):
        if options[name] is not None:
            raise TypeError(f"route() got multiple values for argument {name!r}")
        options[name] = value
    create_router = options.pop("create_router")
    check_callable("create_router", create_router)
    factory: Callable[..., RouterT] = router_class if create_router is None else create_router
    scheme = "ws" if options["ssl"] is None else "wss"
    router = factory(options.pop("url_map"), options.pop("server_name"), scheme)
    if options["ssl"] is True:
        del options["ssl"]
    first = options.pop("process_request")
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
        options["process_request"] = router.route_request
    else:
        options["process_request"] = process_request_later if awaitables else process_request
    return router
