"""HTTP Basic Authentication of clients by a server (RFC 7617), without I/O.

Owns what is read from a request, how credentials are compared, and what is answered.
"""

from __future__ import annotations

import hashlib
import hmac
import http
import inspect
import secrets
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, TypeAlias

from wsproto_fast import ServerProtocol
from wsproto_fast.datastructures import MultipleValuesError
from wsproto_fast.exceptions import InvalidHeader
from wsproto_fast.headers import build_www_authenticate_basic, parse_authorization_basic
from wsproto_fast.http11 import Request, Response

__all__ = ["BasicAuth", "basic_auth", "basic_auth_sync"]

Credentials: TypeAlias = tuple[str, str]
CheckCredentials: TypeAlias = Callable[[str, str], Awaitable[bool] | bool]


class Authenticated(Protocol):
    """What is asked of a server's connection."""

    username: str

    @property
    def protocol(self) -> ServerProtocol: ...


class Unauthorized(Exception):
    """The request doesn't come from a known user; says what is answered."""


class BasicAuth:
    """HTTP Basic Authentication on a server: call it with a protocol and a request.

    Exactly one of ``credentials`` and ``check_credentials`` must be given.

    Args:
        realm: Name of the protection space, shown by some clients.
        credentials: Pair of user name and password, or iterable of such pairs.
        check_credentials: Callable that is given a user name and a password, and tells whether
            they are right.

    Raises:
        TypeError: If an argument isn't of these types.
        ValueError: If both or none are given, a user name has a colon, or the realm has characters
            that a header can't have.
    """

    def __init__(
        self,
        realm: str = "",
        credentials: Credentials | Iterable[Credentials] | None = None,
        check_credentials: CheckCredentials | None = None,
    ) -> None:
        if not isinstance(realm, str):
            raise TypeError(f"realm must be a str, not {type(realm).__name__}")
        if (credentials is None) == (check_credentials is None):
            raise ValueError("exactly one of credentials and check_credentials must be given")
        if check_credentials is None:
            check_credentials = _checker_of(credentials)
        elif not callable(check_credentials):
            raise TypeError(
                f"check_credentials must be a callable, not {type(check_credentials).__name__}"
            )
        self.check_credentials = check_credentials
        try:
            self.challenge = build_www_authenticate_basic(realm)
        except ValueError as exc:
            raise ValueError(
                "realm must have no control characters and none outside ISO-8859-1"
            ) from exc

    def __call__(self, protocol: ServerProtocol, request: Request) -> Response | None:
        """Check a request.

        Args:
            protocol: Protocol that received it.
            request: The request.

        Returns:
            The response that refuses it, None if it is fine.

        Raises:
            TypeError: If ``check_credentials`` is a coroutine function.
        """
        answer = self._check(protocol, request)
        return answer if isinstance(answer, Response) else None

    def _check(self, protocol: ServerProtocol, request: Request) -> Response | str:
        """Return the name of the user, or the response to whoever isn't one."""
        try:
            username, password = self.read(request)
            valid = self.check_credentials(username, password)
            if inspect.isawaitable(valid):
                if inspect.iscoroutine(valid):
                    valid.close()
                raise TypeError("check_credentials must return a bool here, not an awaitable")
            self.require(valid)
        except Unauthorized as exc:
            return self.refuse(protocol, exc)
        return username

    async def _check_later(self, protocol: ServerProtocol, request: Request) -> Response | str:
        try:
            username, password = self.read(request)
            valid = self.check_credentials(username, password)
            self.require(await valid if inspect.isawaitable(valid) else valid)
        except Unauthorized as exc:
            return self.refuse(protocol, exc)
        return username

    def read(self, request: Request) -> Credentials:
        """Return the user name and the password of a request.

        Bytes that aren't UTF-8 become surrogate escapes.

        Args:
            request: The request.

        Raises:
            Unauthorized: If there are none, or in another form.
        """
        try:
            return parse_authorization_basic(request.headers["Authorization"])
        except KeyError:
            raise Unauthorized("Missing credentials\n") from None
        except (InvalidHeader, MultipleValuesError):
            raise Unauthorized("Unsupported credentials\n") from None

    def require(self, valid: object) -> None:
        """Act on what ``check_credentials`` said.

        Args:
            valid: What it said.

        Raises:
            Unauthorized: If the credentials are wrong.
        """
        if not valid:
            raise Unauthorized("Invalid credentials\n")

    def refuse(self, protocol: ServerProtocol, exc: Unauthorized) -> Response:
        """Build the response to a request that was found wanting (RFC 9110 section 11.6.1).

        Args:
            protocol: Protocol that received it.
            exc: What is wrong with it.
        """
        response = protocol.reject(http.HTTPStatus.UNAUTHORIZED, str(exc))
        response.headers["WWW-Authenticate"] = self.challenge
        return response


def _is_pair(value: object) -> bool:
    return isinstance(value, (tuple, list)) and [type(part) for part in value] == [str, str]


def _checker_of(credentials: Any) -> CheckCredentials:
    """Return a function that looks credentials up, in a time that tells nothing about others.

    It looks for a keyed hash: nobody who doesn't know the key can approach one step by step.
    """
    try:
        pairs = [credentials] if _is_pair(credentials) else list(credentials)
    except TypeError:
        pairs = [credentials]
    if not all(map(_is_pair, pairs)):
        # Texts never show what may be a password.
        raise TypeError(
            "credentials must be a pair (username, password) of str, or an iterable of such pairs"
        )
    if any(":" in username for username, _ in pairs):
        raise ValueError("credentials must have no username with a colon")
    key = secrets.token_bytes(32)

    def digest(username: str, password: str) -> bytes:
        text = f"{username}:{password}".encode("utf-8", "surrogatepass")
        return hmac.digest(key, text, hashlib.sha256)

    known = frozenset(digest(*pair) for pair in pairs)

    def check(username: str, password: str) -> bool:
        return digest(username, password) in known

    return check


def basic_auth(
    realm: str = "",
    credentials: Credentials | Iterable[Credentials] | None = None,
    check_credentials: CheckCredentials | None = None,
) -> Callable[[Authenticated, Request], Awaitable[Response | None]]:
    """Return a ``process_request`` that demands HTTP Basic Authentication (RFC 7617).

    ``check_credentials`` may be a coroutine function.

    It sets the attribute ``username`` of connections. Exactly one of ``credentials`` and
    ``check_credentials`` must be given.

    Args:
        realm: Name of the protection space, shown by some clients.
        credentials: Pair of user name and password, or iterable of such pairs. They are
            compared in a time that tells nothing about them.
        check_credentials: Called with a user name and a password; tells whether they are right.

    Raises:
        TypeError: If an argument isn't of these types.
        ValueError: If both or none are given, a user name has a colon, or the realm has
            characters that a header can't have.
    """
    auth = BasicAuth(realm, credentials, check_credentials)

    async def process_request(connection: Authenticated, request: Request) -> Response | None:
        return _admit(connection, await auth._check_later(connection.protocol, request))

    return process_request


def basic_auth_sync(
    realm: str = "",
    credentials: Credentials | Iterable[Credentials] | None = None,
    check_credentials: Callable[[str, str], bool] | None = None,
) -> Callable[[Authenticated, Request], Response | None]:
    """Return a ``process_request`` that demands HTTP Basic Authentication (RFC 7617).

    It sets the attribute ``username`` of connections. Exactly one of ``credentials`` and
    ``check_credentials`` must be given.

    Args:
        realm: Name of the protection space, shown by some clients.
        credentials: Pair of user name and password, or iterable of such pairs. They are
            compared in a time that tells nothing about them.
        check_credentials: Called with a user name and a password; tells whether they are right.

    Raises:
        TypeError: If an argument isn't of these types.
        ValueError: If both or none are given, a user name has a colon, or the realm has
            characters that a header can't have.
    """
    auth = BasicAuth(realm, credentials, check_credentials)

    def process_request(connection: Authenticated, request: Request) -> Response | None:
        return _admit(connection, auth._check(connection.protocol, request))

    return process_request


def _admit(connection: Authenticated, answer: Response | str) -> Response | None:
    if isinstance(answer, Response):
        return answer
    connection.username = answer
    return None
