"""Exceptions that only this interface raises."""

from __future__ import annotations

import http

from wsproto_fast.datastructures import Headers, HeadersLike
from wsproto_fast.exceptions import InvalidHandshake
from wsproto_fast.exceptions import ProtocolError as WebSocketProtocolError
from wsproto_fast.redaction import redact_url
from wsproto_fast.typing import StatusLike

__all__ = ["AbortHandshake", "InvalidStatusCode", "RedirectHandshake", "WebSocketProtocolError"]


class InvalidStatusCode(InvalidHandshake):
    """Raised when a server refuses a connection.

    Args:
        status_code: Status code of the response.
        headers: Headers of the response.
    """

    def __init__(self, status_code: int, headers: Headers) -> None:
        super().__init__(status_code, headers)
        self.status_code = status_code
        self.headers = headers

    def __str__(self) -> str:
        return f"server rejected WebSocket connection: HTTP {self.status_code}"


class AbortHandshake(InvalidHandshake):
    """Raised by ``process_request`` to answer with a response of its own.

    Args:
        status: Status code.
        headers: Headers.
        body: Body.
    """

    def __init__(self, status: StatusLike, headers: HeadersLike, body: bytes = b"") -> None:
        super().__init__(status, headers, body)
        self.status = http.HTTPStatus(status)
        self.headers = Headers(headers)
        self.body = body

    def __str__(self) -> str:
        return f"HTTP {self.status:d}, {len(self.headers)} headers, {len(self.body)} bytes"


class RedirectHandshake(InvalidHandshake):
    """For ``except`` clauses: redirects are followed, or are an ``InvalidStatusCode``.

    Args:
        uri: Where the redirect leads.
    """

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.uri = uri

    def __str__(self) -> str:
        return f"redirect to {redact_url(self.uri)}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({redact_url(self.uri)!r})"
