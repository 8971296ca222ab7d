"""What load balancers and orchestrators ask a server over HTTP, before they send it clients."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from wsproto_fast.http11 import Request

from ._shared.checks import check_callable

__all__ = ["readiness"]


def readiness(
    path: str = "/healthz", process_request: Callable[[Any, Request], Any] | None = None
) -> Callable[[Any, Request], Any]:
    """Return a ``process_request`` that tells at a path whether the server accepts connections.

    It answers 200 (OK) there, or 503 (Service Unavailable) when the server drains or closes; also
    to requests without ``Upgrade``.

    Args:
        path: Path, without query.
        process_request: Called with requests for other paths, as by ``serve``.

    Raises:
        TypeError, ValueError: If an argument isn't acceptable.
    """
    if not isinstance(path, str):
        raise TypeError(f"path must be a str, not {type(path).__name__}")
    if not path.startswith("/"):
        raise ValueError(f"path must begin with a slash; got {path!r}")
    check_callable("process_request", process_request)

    def answer(connection: Any, request: Request) -> Any:
        if request.path.partition("?")[0] != path:
            return None if process_request is None else process_request(connection, request)
        if connection.server.draining.is_set():
            response = connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "draining\n")
        else:
            response = connection.respond(HTTPStatus.OK, "ready\n")
        response.headers["Cache-Control"] = "no-store"
        return response

    return answer
