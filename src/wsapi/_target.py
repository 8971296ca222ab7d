"""What a client asks for, and with which credentials: what redirects and challenges change.

Owns the rules on redirects (RFC 9110 §15.4) and on what may go to which origin. Does no I/O; a
front-end opens what it is told, and comes back with the answer if that isn't 101.
"""

from __future__ import annotations

import dataclasses
import urllib.parse
from collections.abc import Iterable

from wsproto_fast._environment import getenv_int
from wsproto_fast.datastructures import Headers, HeadersLike
from wsproto_fast.exceptions import InvalidStatus, InvalidURI, SecurityError
from wsproto_fast.uri import WebSocketURI, parse_uri

from ._authentication import Digest

__all__ = ["MAX_REDIRECTS", "Target"]

MAX_REDIRECTS = getenv_int("MAX_REDIRECTS", 10)
"""Number of requests after which a client follows no more redirects."""

_REDIRECTS = frozenset({300, 301, 302, 303, 307, 308})
# Headers that tell secrets to whoever receives them.
_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})


def _origin(uri: WebSocketURI) -> tuple[bool, str, int]:
    return uri.secure, uri.host, uri.port


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
        TypeError, InvalidHeaderValue: If the headers aren't.
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
        if additional_headers is not None:
            if not hasattr(additional_headers, "keys"):
                # An iterator could be used once only. Mappings are kept: their owner may change
                # what is sent the next time.
                try:
                    additional_headers = [(name, value) for name, value in additional_headers]
                except (TypeError, ValueError) as exc:
                    raise TypeError(
                        "additional_headers must be Headers, a mapping, or pairs of str"
                    ) from exc
            pairs: Iterable[tuple[object, object]] = Headers(additional_headers).raw_items()
            for name, value in pairs:
                if not all(isinstance(part, str) for part in (name, value)):
                    raise TypeError(
                        "additional_headers must have names and values of type str, "
                        f"not {name!r}: {value!r}"
                    )
        self._additional_headers = additional_headers
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

    def process_response(self, exc: InvalidStatus) -> None:
        """Find out what to request after an answer other than 101.

        Args:
            exc: The answer.

        Raises:
            InvalidStatus: If this is the final answer.
            InvalidURI: If it is a redirect to something else than a WebSocket URI.
            SecurityError: If it is a redirect that isn't safe to follow, or one too many.
            ValueError: If it is a redirect that arguments forbid to follow.
        """
        response = exc.response
        if response.status_code == 401:
            return self._process_challenge(exc)
        locations = response.headers.get_all("Location")
        if response.status_code not in _REDIRECTS or len(locations) != 1:
            raise exc
        location = locations[0]
        try:
            uri = urllib.parse.urljoin(self.uri, location)
            parsed = parse_uri(uri)
        except ValueError as error:
            # The location is the server's, not the caller's, so this isn't an error of arguments.
            raise InvalidURI(location, str(error)) from exc
        except InvalidURI as error:
            raise InvalidURI(location, error.msg) from exc
        if self._socket:
            raise ValueError(
                f"cannot follow redirect to {location} with a preexisting socket"
            ) from exc
        if self.parsed.secure and not parsed.secure:
            raise SecurityError(f"cannot follow redirect to non-secure URI {location}") from exc
        same_origin = _origin(parsed) == _origin(self.parsed)
        if not same_origin and self._fixed is not None:
            raise ValueError(
                f"cannot follow cross-origin redirect to {location} with {self._fixed}"
            ) from exc
        self._requests += 1
        if self._requests >= MAX_REDIRECTS:
            raise SecurityError(f"more than {MAX_REDIRECTS} redirects") from exc

        if same_origin:
            if parsed.user_info is None:
                parsed.username, parsed.password = self.parsed.username, self.parsed.password
            if parsed.user_info != self.parsed.user_info:
                self._digest = None
        else:
            self._digest = None
            if self._additional_headers is not None:
                self._additional_headers = Headers(
                    [
                        (name, value)
                        for name, value in Headers(self._additional_headers).raw_items()
                        if name.lower() not in _CREDENTIALS
                    ]
                )
        self._challenged = False
        self.uri = uri
        self.parsed = parsed

    def _process_challenge(self, exc: InvalidStatus) -> None:
        # The credentials are those of the URI, hence for its origin. What the caller puts into
        # a header is the caller's business.
        user_info = self.parsed.user_info
        if self._challenged or self._socket or user_info is None:
            raise exc
        if self._additional_headers is not None and "Authorization" in Headers(
            self._additional_headers
        ):
            raise exc
        digest = Digest.from_headers(exc.response.headers.get_all("WWW-Authenticate"), *user_info)
        self._digest = digest
        if digest is None:
            raise exc
        self._challenged = True
