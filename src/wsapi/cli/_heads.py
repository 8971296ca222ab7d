"""Requests and responses of opening handshakes as users may see them: secrets are masked."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from wsproto_fast.redaction import LOG_SECRETS, MASK, redact_header, redact_url

if TYPE_CHECKING:
    from wsproto_fast.datastructures import Headers
    from wsproto_fast.http11 import Request, Response

__all__ = ["lines_of_heads", "mask_head", "masked_headers", "masked_uri"]

# Beside those that logs don't show either.
_secret_name = re.compile(r"(x-)?(api|auth|access)[-_]?(key|token)", re.IGNORECASE)
_secret_parameter = re.compile(
    r"(?<=[?&])((?:access_|api_?|auth_?)?(?:token|key|password|secret)=)[^&#]+", re.IGNORECASE
)


def masked_headers(headers: Headers) -> list[tuple[str, str]]:
    """Return headers with a mask in place of credentials and cookies.

    Args:
        headers: Headers of a request or a response.
    """
    return [(name, _masked(name, value)) for name, value in headers.raw_items()]


def _masked(name: str, value: str) -> str:
    if LOG_SECRETS:
        return value
    if _secret_name.fullmatch(name):
        return MASK
    # Location has a URI, or the path of one; so have others.
    return _mask_parameters(redact_header(name, value))


def masked_uri(uri: str) -> str:
    """Return a URI, or the path of a request, without passwords, tokens, and keys.

    Args:
        uri: What was given; it needn't be valid.
    """
    if LOG_SECRETS:
        return uri
    return _mask_parameters(redact_url(uri))


def _mask_parameters(text: str) -> str:
    return _secret_parameter.sub(rf"\1{MASK}", text)


def mask_head(record: logging.LogRecord) -> bool:
    """Mask what the engine shows of requests and responses; a filter of a handler.

    Args:
        record: What is logged.
    """
    args = record.args
    if isinstance(args, tuple) and args and args[0] in ("<", ">") and not LOG_SECRETS:
        direction, *parts = args
        if record.msg == "%s %s: %s":
            name, value = map(str, parts)
            record.args = direction, name, _masked(name, value)
        elif record.msg == "%s %s":
            words = str(parts[0]).split(" ")
            record.args = direction, " ".join(map(_mask_parameters, words))
    return True


def lines_of_heads(connection: Any) -> Iterator[str]:
    """Yield lines that show the request of a connection, and the response if there is one.

    Args:
        connection: Connection of a client, open or not.
    """
    request: Request | None = connection.request
    response: Response | None = connection.response
    if request is not None:
        yield f"> {request.method} {masked_uri(request.path)} {request.protocol}"
        for name, value in masked_headers(request.headers):
            yield f"> {name}: {value}"
        yield ">"
    if response is not None:
        yield f"< HTTP/1.1 {response.status_code} {response.reason_phrase}"
        for name, value in masked_headers(response.headers):
            yield f"< {name}: {value}"
        yield "<"
        if response.body:
            text = response.body[:2000].decode("utf-8", "replace")
            yield from text.splitlines()[:20]
