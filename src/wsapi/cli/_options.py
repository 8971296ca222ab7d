"""Options that commands share: how to reach a server, and what to tell it.

``add_connection_arguments`` puts them on a parser; ``connect_arguments`` makes keyword arguments of
``wsapi.asyncio.client.connect`` from what was parsed.
"""

from __future__ import annotations

import argparse
import difflib
import getpass
import math
import os
import re
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsproto_fast.exceptions import InvalidProxy, InvalidURI
from wsproto_fast.headers import build_authorization_basic
from wsproto_fast.uri import parse_uri

from ._heads import masked_uri
from ._terminal import CommandError, Status, is_terminal, printable

__all__ = [
    "add_connection_arguments",
    "add_uri_argument",
    "connect_arguments",
    "count",
    "masked_uri",
    "seconds",
    "size",
    "target",
    "token",
]

DEFAULT_URI = "ws://localhost/"

_token = re.compile(r"[-!#$%&'*+.^_`|~0-9a-zA-Z]+")
_size = re.compile(r"([0-9]+)([kmg]?)(i?b)?", re.IGNORECASE)
_factors = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


# ---------------------------------------------------------------------- values


def size(text: str) -> int | None:
    """Parse a number of bytes: ``65536``, ``64k``, ``1M``, ``2G``; ``none`` for no limit."""
    if text.lower() == "none":
        return None
    match = _size.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a size like 65536, 64k, 1M, or none")
    return int(match[1]) * _factors[match[2].lower()]


def seconds(text: str) -> float | None:
    """Parse a number of seconds above 0; ``none`` for no limit."""
    if text.lower() == "none":
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number of seconds, or none")
    return number


def count(text: str) -> int:
    """Parse a number of things, at least 1."""
    if not (text.isascii() and text.isdigit() and 0 < int(text[:10]) <= 10**9 and len(text) <= 10):
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number from 1 to 1000000000")
    return int(text)


def secret(text: str, option: str) -> str:
    """Return a secret, or what stands in its place.

    Args:
        text: The secret; ``@FILE`` for the first line of a file, ``env:NAME`` for the value of an
            environment variable.
        option: Option that it is for.
    """
    if text.startswith("@"):
        try:
            content = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError, ValueError) as exc:
            reason = getattr(exc, "strerror", None) or str(exc)
            raise CommandError(Status.USAGE, f"{option}: can't read {text[1:]}: {reason}") from exc
        text = content.split("\n", 1)[0].removesuffix("\r")
    elif text.startswith("env:"):
        value = os.environ.get(text[4:])
        if value is None:
            raise CommandError(
                Status.USAGE, f"{option}: there is no environment variable {text[4:]}"
            )
        text = value
    return text


def token(text: str) -> str:
    """Parse the name of a subprotocol."""
    if not _token.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} isn't a name without spaces and separators")
    return text


def _origin(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} isn't an origin like http://localhost:3000")
    return text


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r} isn't HOST:PORT")
    return host, int(port)


# ---------------------------------------------------------------------- URIs


def target(uri: str) -> str:
    """Return a URI if it is a WebSocket URI.

    Raises:
        CommandError: Otherwise, with a hint what it may have to be.
    """
    try:
        parse_uri(uri)
    except (InvalidURI, ValueError) as exc:
        reason = exc.msg if isinstance(exc, InvalidURI) else str(exc)
        shown = masked_uri(uri)
        raise CommandError(
            Status.USAGE, f"{shown} isn't a WebSocket URI: {reason}", _hint(uri), "uri"
        ) from exc
    return uri


def _hint(uri: str) -> str:
    scheme, colons, rest = uri.partition("://")
    instead = {"http": "ws", "https": "wss"}.get(scheme.lower())
    if colons and instead is not None:
        return f"try {masked_uri(f'{instead}://{rest}')}"
    if uri.isalpha():
        from . import COMMANDS

        for name in difflib.get_close_matches(uri, COMMANDS, 1):
            return f"did you mean wsapi {name}?"
    if not colons and uri and not uri.startswith(("/", "-", "ws:", "wss:")):
        return f"try {masked_uri(f'ws://{uri}')}"
    return "such as ws://localhost:8765/ or wss://example.com/path"


# ---------------------------------------------------------------------- arguments


def add_uri_argument(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Add the URI, which is ``options.uri``.

    Args:
        parser: Parser of a command.
        optional: Whether there may be none.
    """
    parser.add_argument(
        "uri",
        metavar="URI",
        nargs="?" if optional else None,
        help="ws:// or wss:// URI of the server",
    )


def add_connection_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how to reach a server, and what to tell it.

    Args:
        parser: Parser of a command.
    """
    group = parser.add_argument_group("request")
    add = group.add_argument
    add(
        "-H",
        "--header",
        dest="headers",
        metavar="'NAME: VALUE'",
        action="append",
        default=[],
        help="header to add to the request; @FILE for a file with a header on each line",
    )
    add("--origin", metavar="ORIGIN", type=_origin, help="Origin header, as browsers send it")
    add(
        "--subprotocol",
        dest="subprotocols",
        metavar="NAME",
        type=token,
        action="append",
        default=[],
        help="subprotocol to offer; again for others, in order of preference",
    )
    add(
        "--auth",
        metavar="USER[:PASSWORD]",
        help="HTTP Basic authentication; the password is asked for if it isn't given; "
        "@FILE or env:NAME for what stands in a file or in the environment",
    )
    add(
        "--bearer",
        metavar="TOKEN",
        help="Authorization: Bearer TOKEN; @FILE or env:NAME as above",
    )

    group = parser.add_argument_group("connection")
    add = group.add_argument
    add("--connect", metavar="HOST:PORT", type=_host_and_port, help="connect there instead")
    add("--unix", metavar="PATH", help="connect to this Unix socket")
    add("--proxy", metavar="URL", help="http://, https://, socks5h://, ... proxy")
    add("--no-proxy", action="store_true", help="use no proxy, whatever the environment says")
    add("--no-compression", action="store_true", help="don't offer permessage-deflate")
    add("--max-size", metavar="BYTES", type=size, default=2**20, help="largest message (1M)")
    add("--open-timeout", metavar="SECONDS", type=seconds, default=10, help="to connect in (10)")
    add("--close-timeout", metavar="SECONDS", type=seconds, default=10, help="to close in (10)")
    add("--ping-interval", metavar="SECONDS", type=seconds, default=20, help="between pings (20)")
    add("--ping-timeout", metavar="SECONDS", type=seconds, default=20, help="for an answer (20)")

    group = parser.add_argument_group("TLS")
    add = group.add_argument
    add("--ca", metavar="PATH", help="file or directory of certificates to trust instead")
    add("--cert", metavar="FILE", help="certificate of the client, and perhaps its key")
    add("--key", metavar="FILE", help="key of that certificate")
    add("--server-name", metavar="NAME", help="name that the certificate must have")
    add("-k", "--insecure", action="store_true", help="don't check the server's certificate")


def connect_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Make keyword arguments of ``wsapi.asyncio.client.connect``.

    Args:
        options: What was parsed; ``uri`` is among it. It is ``ws://localhost/`` for a Unix socket
            if it is None.

    Raises:
        CommandError: If they don't fit together, or a file of them can't be read.
    """
    if options.uri is None and options.unix is not None:
        options.uri = DEFAULT_URI
    secure = parse_uri(target(options.uri)).secure
    arguments: dict[str, Any] = {
        "additional_headers": _headers(options),
        "origin": options.origin,
        "subprotocols": options.subprotocols or None,
        "max_size": options.max_size,
        "open_timeout": options.open_timeout,
        "close_timeout": options.close_timeout,
        "ping_interval": options.ping_interval,
        "ping_timeout": options.ping_timeout,
    }
    if options.no_compression:
        arguments["compression"] = None
    if options.no_proxy:
        if options.proxy is not None:
            raise CommandError(Status.USAGE, "--proxy and --no-proxy exclude each other")
        arguments["proxy"] = None
    elif options.proxy is not None:
        arguments["proxy"] = _proxy(options.proxy)
    if options.unix is not None:
        if options.connect is not None:
            raise CommandError(Status.USAGE, "--unix and --connect exclude each other")
        arguments["path"] = options.unix
    elif options.connect is not None:
        arguments["host"], arguments["port"] = options.connect
    context = tls_context(options)
    if secure:
        arguments["ssl"] = context
        if options.server_name is not None:
            arguments["server_hostname"] = options.server_name
    return arguments


def _proxy(url: str) -> str:
    from ..proxy import parse_proxy

    try:
        parse_proxy(url)
    except (InvalidProxy, ValueError) as exc:
        reason = exc.msg if isinstance(exc, InvalidProxy) else str(exc)
        raise CommandError(
            Status.USAGE,
            f"--proxy: {masked_uri(url)} isn't a proxy: {reason}",
            "such as http://localhost:3128 or socks5h://localhost:1080",
        ) from exc
    return url


def _headers(options: argparse.Namespace) -> list[tuple[str, str]]:
    headers: list[tuple[str, str]] = []
    for text in options.headers:
        lines = [text]
        if text.startswith("@"):
            lines = _lines(text[1:], "--header")
        headers += map(_header, lines)
    authorization = _authorization(options)
    if authorization is not None:
        if any(name.lower() == "authorization" for name, _ in headers):
            raise CommandError(
                Status.USAGE, "there is an Authorization header beside --auth or --bearer"
            )
        headers.append(("Authorization", authorization))
    return headers


def _lines(path: str, option: str) -> list[str]:
    try:
        content = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise CommandError(Status.USAGE, f"{option}: can't read {path}: {reason}") from exc
    return [line for line in content.splitlines() if line.strip()]


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not _token.fullmatch(name):
        # Not as it was given: it may be a secret.
        raise CommandError(Status.USAGE, "--header must be like 'Name: value'")
    if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
        raise CommandError(Status.USAGE, f"--header {name}: the value has control characters")
    try:
        value.encode("iso-8859-1")
    except UnicodeEncodeError:
        # As others send it: the bytes of UTF-8.
        value = value.encode("utf-8", "surrogateescape").decode("iso-8859-1")
    return name, value


def _authorization(options: argparse.Namespace) -> str | None:
    if options.auth is not None and options.bearer is not None:
        raise CommandError(Status.USAGE, "--auth and --bearer exclude each other")
    if options.bearer is not None:
        token = secret(options.bearer, "--bearer")
        if not re.fullmatch(r"[!-~]+", token):
            raise CommandError(Status.USAGE, "--bearer: a token is printable ASCII, not empty")
        return f"Bearer {token}"
    if options.auth is None:
        return None
    user, colon, password = secret(options.auth, "--auth").partition(":")
    if not colon:
        password = ask_password(user)
    try:
        return build_authorization_basic(user, password)
    except (UnicodeEncodeError, ValueError) as exc:
        raise CommandError(Status.USAGE, "--auth: not a user name and a password") from exc


def ask_password(user: str) -> str:
    """Ask for a password at the terminal."""
    if not is_terminal(sys.stdin):
        raise CommandError(
            Status.USAGE, "--auth has no password", "USER:PASSWORD, @FILE, or env:NAME"
        )
    try:
        return getpass.getpass(f"Password of {printable(user)}: ")
    except EOFError as exc:
        raise CommandError(Status.USAGE, "--auth has no password") from exc


def tls_context(options: argparse.Namespace) -> ssl.SSLContext:
    """Make the configuration of TLS."""
    if options.ca is not None and options.insecure:
        raise CommandError(Status.USAGE, "--ca and --insecure exclude each other")
    if options.key is not None and options.cert is None:
        raise CommandError(Status.USAGE, "--key needs --cert")
    if options.ca is None:
        context = ssl.create_default_context()
    else:
        place = "capath" if os.path.isdir(options.ca) else "cafile"
        context = _load(
            "--ca", options.ca, lambda: ssl.create_default_context(**{place: options.ca})
        )
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.cert is not None:
        load_certificate(context, options)
    return context


def load_certificate(context: ssl.SSLContext, options: argparse.Namespace) -> None:
    """Load the certificate of ``--cert``, with the key of ``--key`` or of the same file.

    Args:
        context: Context that takes it.
        options: Options of the command line.

    Raises:
        CommandError: If one of them can't be read, or isn't what it should be.
    """
    files = " or ".join(name for name in (options.cert, options.key) if name is not None)
    _load("--cert", files, lambda: context.load_cert_chain(options.cert, options.key))


def _load(option: str, path: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except ssl.SSLError as exc:
        raise CommandError(
            Status.USAGE, f"{option}: {path} isn't what it should be: {exc.reason or exc}"
        ) from exc
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise CommandError(Status.USAGE, f"{option}: can't read {path}: {reason}") from exc
