"""Basic authentication (RFC 7617) for servers of this interface."""

from __future__ import annotations

import functools
import hmac
import http
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias, cast

from wsproto_fast.datastructures import Headers
from wsproto_fast.exceptions import InvalidHeader
from wsproto_fast.headers import build_www_authenticate_basic, parse_authorization_basic

from .server import HTTPResponse, WebSocketServerProtocol

__all__ = ["BasicAuthWebSocketServerProtocol", "basic_auth_protocol_factory"]

Credentials: TypeAlias = tuple[str, str]


class BasicAuthWebSocketServerProtocol(WebSocketServerProtocol):
    """A connection that is accepted from those who know a password.

    Args:
        *args: As for ``WebSocketServerProtocol``.
        realm: What the password is for; the realm of the class by default.
        check_credentials: Coroutine function in place of the method of this name.
        **kwargs: As for ``WebSocketServerProtocol``.
    """

    realm = ""
    username: str

    def __init__(
        self,
        *args: Any,
        realm: str | None = None,
        check_credentials: Callable[[str, str], Awaitable[bool]] | None = None,
        **kwargs: Any,
    ) -> None:
        if realm is not None:
            self.realm = realm
        self._check_credentials = check_credentials
        super().__init__(*args, **kwargs)

    async def check_credentials(self, username: str, password: str) -> bool:
        """Tell whether someone may connect; nobody may unless there is a function that says so.

        Args:
            username: User name.
            password: Password.
        """
        if self._check_credentials is None:
            return False
        return await self._check_credentials(username, password)

    async def process_request(self, path: str, request_headers: Headers) -> HTTPResponse | None:
        """Refuse a request without valid credentials with 401.

        Args:
            path: Target of the request.
            request_headers: Headers of the request.
        """
        try:
            username, password = parse_authorization_basic(request_headers["Authorization"])
        except KeyError:
            return self._unauthorized("Missing credentials\n")
        except InvalidHeader:
            return self._unauthorized("Unsupported credentials\n")
        if not await self.check_credentials(username, password):
            return self._unauthorized("Invalid credentials\n")
        self.username = username
        return await super().process_request(path, request_headers)

    def _unauthorized(self, text: str) -> HTTPResponse:
        challenge = build_www_authenticate_basic(self.realm)
        return http.HTTPStatus.UNAUTHORIZED, [("WWW-Authenticate", challenge)], text.encode()


def basic_auth_protocol_factory(
    realm: str | None = None,
    credentials: Credentials | Iterable[Credentials] | None = None,
    check_credentials: Callable[[str, str], Awaitable[bool]] | None = None,
    create_protocol: Callable[..., BasicAuthWebSocketServerProtocol] | None = None,
) -> Callable[..., BasicAuthWebSocketServerProtocol]:
    """Return a ``create_protocol`` for ``serve`` that asks for a password.

    Args:
        realm: What the password is for.
        credentials: Pair of user name and password, or several.
        check_credentials: Coroutine function that takes both and tells whether they are right.
        create_protocol: Class of connections, or factory called like it.

    Raises:
        TypeError: Unless there is either of ``credentials`` and ``check_credentials``.
    """
    if (credentials is None) == (check_credentials is None):
        raise TypeError("provide either credentials or check_credentials")
    if credentials is not None:
        pairs = [credentials] if _is_pair(credentials) else list(cast(Any, credentials))
        if not all(map(_is_pair, pairs)):
            raise TypeError(f"invalid credentials argument: {credentials}")
        known = {name: password.encode() for name, password in cast(Any, pairs)}

        async def check_credentials(username: str, password: str) -> bool:
            # As long for unknown names.
            wanted = known.get(username, b"")
            return hmac.compare_digest(wanted, password.encode()) and username in known

    return functools.partial(
        create_protocol or BasicAuthWebSocketServerProtocol,
        realm=realm,
        check_credentials=check_credentials,
    )


def _is_pair(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and all(isinstance(item, str) for item in value)
    )
