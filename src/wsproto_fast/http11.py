"""HTTP/1.1 messages of the opening handshake (RFC 9112).

Owns ``Request`` and ``Response``, how they are sent, and the limits that apply when parsing them.
Knows nothing of the meaning of headers, but of those that delimit a body. Parsing is the business
of compiled code, which needs these classes; their ``parse`` is a face of it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeAlias

from . import environment
from ._version import __version__
from .datastructures import Headers
from .exceptions import SecurityError

__all__ = [
    "MAX_BODY_SIZE",
    "MAX_INTERIM_RESPONSES",
    "MAX_INTERIM_SIZE",
    "MAX_LINE_LENGTH",
    "MAX_NUM_HEADERS",
    "SERVER",
    "USER_AGENT",
    "Request",
    "Response",
]

ReadLine: TypeAlias = Callable[[int], Generator[None, None, bytes | bytearray]]
ReadBytes: TypeAlias = Callable[[int], Generator[None, None, bytes | bytearray]]


USER_AGENT: str | None
"""Default ``User-Agent`` header of clients; None (from an empty variable) leaves it out."""

SERVER: str | None
"""Default ``Server`` header of servers; None (from an empty variable) leaves it out."""

MAX_LINE_LENGTH: int
"""Limit for the request line, the status line and each header line, in bytes with the line end."""

MAX_NUM_HEADERS: int
"""Limit for the number of header lines of a message."""

MAX_BODY_SIZE: int
"""Limit for the body of a response, in bytes."""

MAX_INTERIM_RESPONSES: int
"""Limit for the number of interim responses, 1xx other than 101, before a response."""

MAX_INTERIM_SIZE: int
"""Limit for all interim responses before a response, in bytes."""

BODY_TIMEOUT = 10.0
"""How long a client waits for the whole body of a response other than 101, in seconds."""

BODY_PART_TIMEOUT = 1.0
"""How long it waits for more of that body, in seconds. After that it does without the rest."""

MAX_QUOTED = 200
"""How much of a malformed line an exception quotes, in bytes."""

MAX_LENGTH_DIGITS = 18
"""Limit for the digits of a ``Content-Length``."""

MAX_CHUNK_DIGITS = 15
"""Limit for the hexadecimal digits of the size of a chunk."""


def _getenv_product(setting: str) -> str | None:
    value = environment.getenv(setting)
    if value is None:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        return f"Python/{version} {environment.name}/{__version__}"
    return value or None


def _read_settings() -> None:
    global USER_AGENT, SERVER, MAX_LINE_LENGTH, MAX_NUM_HEADERS, MAX_BODY_SIZE
    global MAX_INTERIM_RESPONSES, MAX_INTERIM_SIZE
    USER_AGENT = _getenv_product("USER_AGENT")
    SERVER = _getenv_product("SERVER")
    MAX_LINE_LENGTH = environment.getenv_int("MAX_LINE_LENGTH", 8192)
    MAX_NUM_HEADERS = environment.getenv_int("MAX_NUM_HEADERS", 128)
    MAX_BODY_SIZE = environment.getenv_int("MAX_BODY_SIZE", 1_048_576)
    MAX_INTERIM_RESPONSES = environment.getenv_int("MAX_INTERIM_RESPONSES", 16)
    MAX_INTERIM_SIZE = environment.getenv_int("MAX_INTERIM_SIZE", 65_536)


environment.follow(_read_settings)

_request_line = re.compile(rb"([-!#$%&'*+.^_`|~0-9a-zA-Z]+) ([\x21-\x7e]+) (HTTP/1\.[01])")
_control = re.compile(r"[\x00-\x1f\x7f]")


@dataclass
class Request:
    """Request of an opening handshake.

    Args:
        path: Target of the request: path and query.
        headers: Headers.
        method: Method.
        protocol: HTTP version, for instance ``HTTP/1.1``.
    """

    path: str
    headers: Headers
    method: str = "GET"
    protocol: str = "HTTP/1.1"

    def serialize(self) -> bytes:
        """Return the request as sent.

        Raises:
            ValueError: If its parts don't make a request line (RFC 9112 section 3): a method that
                isn't a token; a space, a control character or one outside ASCII in the path.
        """
        line = f"{self.method} {self.path} {self.protocol}".encode("ascii")
        if _request_line.fullmatch(line) is None:
            raise ValueError(f"invalid HTTP request line: {line!r}")
        return line + b"\r\n" + self.headers.serialize()

    @classmethod
    def parse(cls, read_line: ReadLine) -> Generator[None, None, Request]:
        """Parse a request that arrives piecemeal.

        Args:
            read_line: Generator function that takes a limit and returns a line with its line end.
                It yields whenever it needs more data and raises RuntimeError beyond the limit.

        Raises:
            EOFError: If the data ends too early.
            SecurityError: If a limit is exceeded.
            ValueError: If it isn't a request of HTTP/1.x.
            NotImplementedError: If the request has a body.
        """
        from ._http11 import RequestParser

        return cls(**vars((yield from RequestParser().read(read_line))))


@dataclass
class Response:
    """Response of an opening handshake.

    Args:
        status_code: Status code.
        reason_phrase: Reason phrase.
        headers: Headers.
        body: Content.
    """

    status_code: int
    reason_phrase: str
    headers: Headers
    body: bytes = b""

    def serialize(self) -> bytes:
        """Return the response as sent.

        Raises:
            ValueError: If the status code doesn't have three digits, or if the reason phrase has
                control characters, or characters outside ISO-8859-1 (RFC 9112 section 4).
        """
        if not 100 <= self.status_code <= 999:
            raise ValueError(f"invalid HTTP status code: {self.status_code}")
        if _control.search(self.reason_phrase):
            raise ValueError(f"invalid HTTP reason phrase: {self.reason_phrase!r}")
        line = f"HTTP/1.1 {self.status_code:d} {self.reason_phrase}\r\n"
        return line.encode("iso-8859-1") + self.headers.serialize() + self.body

    @classmethod
    def parse(
        cls,
        read_line: ReadLine,
        read_exact: ReadBytes,
        read_to_eof: ReadBytes,
        proxy: bool = False,
    ) -> Generator[None, None, Response]:
        """Parse a response that arrives piecemeal; skip interim ones, which 101 isn't.

        Args:
            read_line: As in :meth:`Request.parse`.
            read_exact: Generator function that returns as many bytes as it is told.
            read_to_eof: Generator function that returns all the rest, and raises RuntimeError when
                it is more than the limit it is given.
            proxy: Parse the answer of a proxy to CONNECT: HTTP/1.0 is fine, and there is no body.

        Raises:
            EOFError: If the data ends too early.
            SecurityError: If a limit is exceeded.
            ValueError: If it isn't a response of HTTP/1.1.
            NotImplementedError: If the transfer coding isn't supported.
        """
        from ._http11_response import ResponseParser

        parser = ResponseParser(allow_http10=proxy, read_body=not proxy)
        return cls(**vars((yield from parser.read(read_line, read_exact, read_to_eof))))


def parse_content_length(headers: Headers) -> int | None:
    """Return the value of ``Content-Length``, None without one.

    Args:
        headers: Headers of the message.

    Raises:
        ValueError: If it isn't a number, or if there are different values.
        SecurityError: If it has too many digits.
    """
    values = [value for name, value in headers.raw_items() if name.lower() == "content-length"]
    if not values:
        return None
    # RFC 9110 §8.6: identical repeated values count as one.
    value = values[0]
    if any(other != value for other in values):
        raise ValueError("multiple Content-Length headers with different values")
    if not (value.isascii() and value.isdigit()):
        raise ValueError(f"invalid Content-Length header: {value}")
    if len(value) > MAX_LENGTH_DIGITS:
        raise SecurityError(f"Content-Length too long: {len(value)} digits")
    return int(value)


def check_no_body(headers: Headers) -> None:
    """Refuse requests with a body: a GET request for an upgrade has none.

    Args:
        headers: Headers of the request.

    Raises:
        NotImplementedError: If there is a transfer coding.
        ValueError: If there is a length other than 0.
    """
    names = {name.lower() for name, _ in headers.raw_items()}
    if "transfer-encoding" in names:
        raise NotImplementedError("transfer codings aren't supported")
    if "content-length" in names and parse_content_length(headers) != 0:
        raise ValueError("unsupported request body")


def body_framing(status_code: int, headers: Headers) -> int:
    """Tell how the end of a response's body is found (RFC 9112 §6.3).

    Args:
        status_code: Status code of the response.
        headers: Headers of the response.

    Returns:
        The length in bytes, 0 without a body; -1 for chunks; -2 for all up to the end of the
        connection.

    Raises:
        NotImplementedError: If the transfer coding isn't supported.
        ValueError: If the length is invalid.
        SecurityError: If the length is over the limit.
    """
    if status_code < 200 or status_code in (204, 304):
        return 0
    codings = [value for name, value in headers.raw_items() if name.lower() == "transfer-encoding"]
    if codings:
        if len(codings) != 1 or codings[0].lower() != "chunked":
            raise NotImplementedError(f"transfer coding {', '.join(codings)} isn't supported")
        return -1
    length = parse_content_length(headers)
    if length is None:
        return -2
    if length > MAX_BODY_SIZE:
        raise SecurityError(f"body too large: over {MAX_BODY_SIZE} bytes")
    return length
