"""Routing of connections to handlers by werkzeug's URL maps, without I/O.

Owns how a request is matched and what is answered when it isn't. Front-ends own how handlers are
called. werkzeug is optional: imported only when something is routed.
"""

from __future__ import annotations

import http
import urllib.parse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from wsproto_fast.exceptions import InvalidHeader
from wsproto_fast.http11 import Request, Response
from wsproto_fast.typing import StatusLike

if TYPE_CHECKING:
    from werkzeug.routing import Map

__all__ = ["BaseRouter", "url_scheme_of"]


class Routable(Protocol):
    """What is asked of a server's connection."""

    handler: Any
    handler_kwargs: Mapping[str, Any]

    def respond(self, status: StatusLike, text: str) -> Response: ...


ConnectionT = TypeVar("ConnectionT", bound=Routable)


def url_scheme_of(ssl: object) -> str:
    """Return the scheme of URLs for an ``ssl`` argument of ``route``."""
    return "ws" if ssl is None else "wss"


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
