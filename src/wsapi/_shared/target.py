"""What a client asks for, and with which credentials: what redirects and challenges change.

Owns the rules on redirects (RFC 9110 §15.4) and on what may go to which origin. Does no I/O; a
front-end opens what it is told, and comes back with the answer if that isn't 101.
"""

from __future__ import annotations

import dataclasses
import urllib.parse
from typing import TYPE_CHECKING

from wsproto_fast.datastructures import Headers, HeadersLike
from wsproto_fast.environment import getenv_int
from wsproto_fast.exceptions import InvalidStatus, InvalidURI, SecurityError
from wsproto_fast.redaction import redact_url
from wsproto_fast.uri import WebSocketURI, parse_uri

if TYPE_CHECKING:
    from .authentication import Digest


__all__ = ["MAX_REDIRECTS", "Target"]

MAX_REDIRECTS = getenv_int("MAX_REDIRECTS", 10)
"""Number of requests after which a client follows no more redirects."""

_REDIRECTS = frozenset({300, 301, 302, 303, 307, 308})
# Headers that tell secrets to whoever receives them.
_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})


def _origin(uri: WebSocketURI) -> tuple[bool, str, int]:
    return uri.secure, uri.host, uri.port


def _checked(headers: HeadersLike | None) -> HeadersLike | None:
    """Check additional headers, and make them last for several requests."""
    if headers is None:
        return None
    if not hasattr(headers, "keys"):
        # An iterator could be used once only. Mappings are kept: their owner may change what is
        # sent the next time.
        try:
            headers = [(name, value) for name, value in headers]
        except (TypeError, ValueError) as exc:
            raise TypeError(
                "additional_headers must be Headers, a mapping, or pairs of str"
            ) from exc
    Headers(headers)  # checks names and values
    return headers


class Target:
    """Target of a client, which redirects move.

    Args:
        uri: WebSocket URI.
        additional_headers: Headers to add to requests.
        socket: Whether there is a connected socket, good for one request only.
        fixed: What ties the client to one place whatever the URI says: "a Unix socket", "an
            explicit host or port"; None for nothing.

    Raises:
        InvalidURI: If the URI isn't valid.
        TypeError, InvalidHeader: If the headers aren't.
    """

    def __init__(
        self,
        uri: str,
        additional_headers: HeadersLike | None = None,
        *,
        socket: bool = False,
        fixed: str | None = None,
    ) -> None:
        self.uri = uri
        self.parsed = parse_uri(uri)
        self._additional_headers = _checked(additional_headers)
        self._withheld: HeadersLike | None = None  # headers before some were removed
        self._socket = socket
        self._fixed = fixed
        self._digest: Digest | None = None
        self._requests = 0
        self._challenged = False

    def begin(self) -> None:
        """Begin another attempt, with its own count of redirects."""
        self._requests = 0
        self._challenged = False

    def request(self) -> tuple[WebSocketURI, HeadersLike | None]:
        """Return the URI to give to ``ClientProtocol`` and the headers to add to its request."""
        if self._digest is None:
            return self.parsed, self._additional_headers
        headers = Headers()
        headers["Authorization"] = self._digest.authorization("GET", self.parsed.resource_name)
        if self._additional_headers is not None:
            headers.update(self._additional_headers)
        return dataclasses.replace(self.parsed, username=None, password=None), headers

    @property
    def additional_headers(self) -> HeadersLike | None:
        """Headers to add to requests."""
        return self._additional_headers

    @additional_headers.setter
    def additional_headers(self, headers: HeadersLike | None) -> None:
        self._additional_headers = _checked(headers)
        self._withheld = None

    def redirect(self, exc: Exception) -> Exception | str:
        """Return the URI that an answer redirects to, or why it isn't followed.

        What mustn't be told to another origin is removed from the headers.

        Args:
            exc: What ended an attempt; `InvalidStatus` for an answer.

        Returns:
            ``exc`` itself if it isn't a redirect; `InvalidURI` if it is one to something else than
            a WebSocket URI, `SecurityError` if it isn't safe to follow, `ValueError` if arguments
            forbid it.
        """
        if not isinstance(exc, InvalidStatus) or exc.response.status_code not in _REDIRECTS:
            return exc
        locations = exc.response.headers.get_all("Location")
        if len(locations) != 1:
            return exc
        location = locations[0]
        try:
            uri = urllib.parse.urljoin(self.uri, location)
            parsed = parse_uri(uri)
        except ValueError as error:
            # The location is the server's, not the caller's, so this isn't an error of arguments.
            # The text of the error may have a part of its password.
            hidden = redact_url(location) != location
            return InvalidURI(location, "invalid host or port" if hidden else str(error))
        except InvalidURI as error:
            return InvalidURI(location, error.msg)
        shown = redact_url(location)
        if self._socket:
            return ValueError(f"cannot follow redirect to {shown} with a preexisting socket")
        if self.parsed.secure and not parsed.secure:
            return SecurityError(f"cannot follow redirect to non-secure URI {shown}")
        if _origin(parsed) != _origin(self.parsed):
            if self._fixed is not None:
                return ValueError(
                    f"cannot follow cross-origin redirect to {shown} with {self._fixed}"
                )
            if self._additional_headers is not None:
                self._withheld = self._additional_headers
                self._additional_headers = Headers(
                    [
                        (name, value)
                        for name, value in Headers(self._additional_headers).raw_items()
                        if name.lower() not in _CREDENTIALS
                    ]
                )
        return uri

    def stay(self) -> None:
        """Don't follow what ``redirect`` has returned."""
        if self._withheld is not None:
            self._additional_headers, self._withheld = self._withheld, None

    def follow(self, uri: str, limit: int) -> None:
        """Request another URI next.

        Args:
            uri: The URI.
            limit: Number of requests of one attempt after which none is followed any more.

        Raises:
            InvalidURI: If the URI isn't valid.
            SecurityError: If it is one too many.
        """
        parsed = parse_uri(uri)
        self._requests += 1
        if self._requests >= limit:
            raise SecurityError(f"more than {limit} redirects")
        self._withheld = None
        if _origin(parsed) == _origin(self.parsed) and parsed.user_info is None:
            parsed.username, parsed.password = self.parsed.username, self.parsed.password
        self._challenged = False
        self.uri = uri
        self.move(parsed)

    def move(self, parsed: WebSocketURI) -> None:
        """Request another URI next, whoever has chosen it.

        Args:
            parsed: The URI.
        """
        # The answer to a challenge is for the origin that asked, and for these credentials.
        if (_origin(parsed), parsed.user_info) != (_origin(self.parsed), self.parsed.user_info):
            self._digest = None
        self.parsed = parsed

    def answer_challenge(self, exc: Exception) -> bool:
        """Tell whether the next request answers a challenge, which needs credentials."""
        if not isinstance(exc, InvalidStatus) or exc.response.status_code != 401:
            return False
        # The credentials are those of the URI, hence for its origin. What the caller puts into
        # a header is the caller's business.
        user_info = self.parsed.user_info
        if self._challenged or self._socket or user_info is None:
            return False
        if self._additional_headers is not None and "Authorization" in Headers(
            self._additional_headers
        ):
            return False
        challenges = exc.response.headers.get_all("WWW-Authenticate")
        from .authentication import Digest  # only where a server asks for it

        self._digest = Digest.from_headers(challenges, *user_info)
        self._challenged = self._digest is not None
        return self._challenged
