"""Run a server to try clients with: an echo, or a room where everybody gets what anybody sends.

It has a page at / that is a client to play with, at /_wsapi if a directory has a page of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import errno
import hashlib
import logging
import os
import re
import signal
import ssl
import time
from collections.abc import Callable, Coroutine, Sequence
from importlib import resources
from typing import Any

from wsproto_fast.exceptions import ConnectionClosed
from wsproto_fast.http11 import Request, Response
from wsproto_fast.typing import Subprotocol

from ..asyncio.server import Server, ServerConnection, broadcast, serve
from ..limits import Door
from ._files import Answer, Files
from ._heads import mask_head
from ._options import count, load_certificate, seconds, size, token
from ._terminal import CommandError, Status, printable

__all__ = ["add_arguments", "listening_error", "quiet_server_logger", "run"]

PAGE = "/_wsapi"
MODES = ("echo", "broadcast")

MAX_UNREAD = 2**28
"""Bytes of files that are on their way to clients at a time."""

Handler = Callable[[ServerConnection], Coroutine[Any, Any, None]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``wsapi serve``."""
    parser.usage = "wsapi serve [options] [echo | broadcast] [DIRECTORY]"
    add = parser.add_argument
    add(
        "what",
        metavar="echo | broadcast | DIRECTORY",
        nargs="*",
        help="echo sends back what it gets (that is so without this), broadcast sends it to "
        "everybody; files of a directory are served over HTTP",
    )
    group = parser.add_argument_group("listening")
    add = group.add_argument
    add("--host", metavar="HOST", default="127.0.0.1", help="address or name (127.0.0.1)")
    add("-p", "--port", metavar="PORT", type=_port, default=8765, help="port (8765); 0 for any")
    add("--unix", metavar="PATH", help="listen on this Unix socket instead")
    add("--cert", metavar="FILE", help="certificate for TLS, and perhaps its key")
    add("--key", metavar="FILE", help="key of that certificate")

    group = parser.add_argument_group("connections")
    add = group.add_argument
    add(
        "--origin",
        dest="origins",
        metavar="ORIGIN",
        action="append",
        help="accept pages of this origin, and no others; again for more, '' for no page",
    )
    add(
        "--subprotocol",
        dest="subprotocols",
        metavar="NAME",
        type=token,
        action="append",
        help="subprotocol to accept; again for more",
    )
    add(
        "--max-connections",
        metavar="N",
        type=count,
        default=1000,
        help="most connections at a time (1000)",
    )
    add("--max-size", metavar="BYTES", type=size, default=2**20, help="largest message (1M)")
    add("--no-compression", action="store_true", help="don't accept permessage-deflate")
    add("--ping-interval", metavar="SECONDS", type=seconds, default=20, help="between pings (20)")
    add("--ping-timeout", metavar="SECONDS", type=seconds, default=20, help="for an answer (20)")

    group = parser.add_argument_group("others")
    add = group.add_argument
    add(
        "--drain",
        metavar="SECONDS",
        type=seconds,
        default=5,
        help="after Ctrl-C or SIGTERM, how long connections may take to close (5)",
    )
    add("-q", "--quiet", action="store_true", help="print nothing but the URI")
    add(
        "-v",
        "--verbose",
        action="count",
        default=0,
        help="show connections on stderr; twice for all frames",
    )


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:6]) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r} isn't a port")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    mode, files = _what(options.what)
    asyncio.run(_serve(options, mode, files))
    return Status.OK


def _what(words: list[str]) -> tuple[str, Files | None]:
    modes = [word for word in words if word in MODES]
    directories = [word for word in words if word not in MODES]
    if len(modes) > 1 or len(directories) > 1:
        raise CommandError(
            Status.USAGE, "serve takes echo or broadcast, and a directory", "wsapi serve --help"
        )
    files = None
    if directories:
        try:
            files = Files(directories[0])
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "strerror", None) or str(exc)
            raise CommandError(
                Status.USAGE,
                f"can't serve {directories[0]}: {reason.lower()}",
                "echo, broadcast, or a directory",
            ) from exc
    return modes[0] if modes else "echo", files


# ---------------------------------------------------------------------- handlers


async def echo(connection: ServerConnection) -> None:
    """Send back every message."""
    with contextlib.suppress(ConnectionClosed):
        async for message in connection:
            await connection.send(message)


class Room:
    """Sends every message to everybody."""

    def __init__(self) -> None:
        self.connections: set[ServerConnection] = set()

    async def __call__(self, connection: ServerConnection) -> None:
        """Handle a connection."""
        self.connections.add(connection)
        try:
            with contextlib.suppress(ConnectionClosed):
                async for message in connection:
                    broadcast(self.connections, message)
        finally:
            self.connections.discard(connection)


# ---------------------------------------------------------------------- HTTP


class Website:
    """Answers requests that don't ask for WebSocket.

    Args:
        files: Files to serve; None for the page alone.
    """

    def __init__(self, files: Files | None) -> None:
        self.files = files
        self.page = (resources.files(__package__) / "page.html").read_bytes()
        self.policy = _policy(self.page)
        self._unread = 0
        self._releasing: set[asyncio.Future[None]] = set()

    async def __call__(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a request, unless it asks for WebSocket; as ``process_request``."""
        upgrades = ",".join(request.headers.get_all("Upgrade")).lower()
        if "websocket" in upgrades and request.method == "GET":
            return None
        if request.method not in ("GET", "HEAD"):
            answer = Answer(405, b"only GET and HEAD\n")
        else:
            answer = await self._find(request.path)
        if answer.body is not self.page and not self._reserve(connection, len(answer.body)):
            answer = Answer(503, b"too much is on its way already\n")
        return self._response(connection, request, answer)

    async def _find(self, target: str) -> Answer:
        page = Answer(200, self.page, "text/html; charset=utf-8")
        path = target.partition("?")[0]
        if path == PAGE:
            return page
        if self.files is None:
            return page if path == "/" else Answer(404, b"not found\n")
        answer = await asyncio.to_thread(self.files.answer, target)
        return page if path == "/" and answer.status == 404 else answer

    def _reserve(self, connection: ServerConnection, size: int) -> bool:
        """Count what is on its way, which isn't read from the disk again while it waits."""
        if self._unread + size > MAX_UNREAD:
            return False
        self._unread += size

        async def release() -> None:
            try:
                await connection.wait_closed()
            finally:
                self._unread -= size

        task = asyncio.ensure_future(release())
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)
        return True

    def _response(self, connection: ServerConnection, request: Request, answer: Answer) -> Response:
        response = connection.respond(answer.status, "")
        headers = response.headers
        for name in ("Content-Type", "Content-Length"):
            del headers[name]
        headers["Content-Type"] = answer.content_type
        headers["Content-Length"] = str(len(answer.body))
        headers["Cache-Control"] = "no-cache"
        headers["X-Content-Type-Options"] = "nosniff"
        if answer.status == 405:
            headers["Allow"] = "GET, HEAD"
        if answer.location is not None:
            headers["Location"] = answer.location
        if answer.body is self.page:
            headers["Content-Security-Policy"] = self.policy
        if request.method != "HEAD":
            response.body = answer.body
        return response


def _policy(page: bytes) -> str:
    """Return a policy by which a page runs its own script, and none that a peer brings into it."""
    hashes = {}
    for tag in (b"script", b"style"):
        match = re.search(rb"<%b>(.*?)</%b>" % (tag, tag), page, re.DOTALL)
        assert match is not None
        digest = hashlib.sha256(match[1]).digest()
        hashes[tag.decode()] = base64.b64encode(digest).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{hashes['script']}'; "
        f"style-src 'sha256-{hashes['style']}'; img-src data:; connect-src ws: wss:; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )


# ---------------------------------------------------------------------- server


class _Formatter(logging.Formatter):
    """One line for each record; what peers bring into it can't control a terminal."""

    def __init__(self, tracebacks: bool) -> None:
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")
        self.tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        if not self.tracebacks:
            record = logging.makeLogRecord({**record.__dict__, "exc_info": None, "exc_text": None})
        return printable(super().format(record), lines=self.tracebacks)


def quiet_server_logger(verbose: int) -> logging.Logger:
    """Return a logger of servers that prints what a user asked for, and no tracebacks.

    Args:
        verbose: 0 for nothing, 1 for a line for each connection, 2 for all that passes.
    """
    logger = logging.getLogger("wsapi.cli.server")
    logger.propagate = False
    handler: logging.Handler = logging.NullHandler()
    if verbose:
        handler = logging.StreamHandler()
        handler.setFormatter(_Formatter(tracebacks=verbose > 1))
        handler.addFilter(mask_head)
        logger.setLevel(logging.DEBUG if verbose > 1 else logging.INFO)
    logger.handlers = [handler]
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    return logger


def _context(options: argparse.Namespace) -> ssl.SSLContext | None:
    if options.cert is None:
        if options.key is not None:
            raise CommandError(Status.USAGE, "--key needs --cert")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_certificate(context, options)
    return context


def _first_of(known: Sequence[str]) -> Callable[[Any, Sequence[Subprotocol]], Subprotocol | None]:
    """Return a function that chooses the first subprotocol of a client that is known, if any."""

    def choose(_: Any, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        return next((name for name in offered if name in known), None)

    return choose


async def _serve(options: argparse.Namespace, mode: str, files: Files | None) -> None:
    handler: Handler = Room() if mode == "broadcast" else echo
    context = _context(options)
    place: dict[str, Any] = {"host": options.host, "port": options.port}
    if options.unix is not None:
        place = {"path": options.unix}
    origins = options.origins
    if origins is not None:
        origins = [origin or None for origin in origins]
    began = time.monotonic()
    serving = serve(
        handler,
        ssl=context,
        process_request=Website(files),
        origins=origins,
        subprotocols=options.subprotocols,
        select_subprotocol=_first_of(options.subprotocols or ()),
        compression=None if options.no_compression else "deflate",
        max_size=options.max_size,
        ping_interval=options.ping_interval,
        ping_timeout=options.ping_timeout,
        door=Door(max_connections=options.max_connections),
        logger=quiet_server_logger(options.verbose),
        log_connections=True,
        **place,
    )
    try:
        server = await serving
    except OSError as exc:
        where = options.unix or f"{options.host}:{options.port}"
        raise listening_error(exc, where) from exc
    async with server:
        try:
            server.drain_on_signal(signal.SIGINT, signal.SIGTERM, timeout=options.drain, spread=0)
        except NotImplementedError:  # pragma: no cover: on Windows
            pass
        # Whoever waits for this line may send a signal at once.
        _announce(server, options, context is not None)
        await server.wait_closed()
    if not options.quiet:
        print(_summary(server, time.monotonic() - began), flush=True)


def listening_error(exc: OSError, where: str) -> CommandError:
    """Say why a server can't listen.

    Args:
        exc: What was raised.
        where: Address, or path of a Unix socket.
    """
    number = exc.errno
    reason = os.strerror(number) if number is not None and number > 0 else str(exc)
    hint = "port 0 takes one that is free" if number == errno.EADDRINUSE else None
    return CommandError(Status.FAILURE, f"can't listen on {where}: {reason.lower()}", hint)


def _announce(server: Server, options: argparse.Namespace, secure: bool) -> None:
    schemes = ("wss", "https") if secure else ("ws", "http")
    if options.unix is not None:
        print(f"{schemes[0]}://localhost/ on {options.unix}", flush=True)
        return
    address = server.sockets[0].getsockname()
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    if host in ("0.0.0.0", "[::]"):
        host = "localhost"
    print(f"{schemes[0]}://{host}:{address[1]}/", flush=True)
    if not options.quiet:
        print(f"A page to play with: {schemes[1]}://{host}:{address[1]}{PAGE}", flush=True)
        print("Ctrl-C ends it.", flush=True)


def _summary(server: Server, duration: float) -> str:
    stats = server.stats()
    closed = ", ".join(f"{number} with {code}" for code, number in sorted(stats.closed.items()))
    lines = [
        f"{stats.accepted} connections in {duration:.1f} s; closed: {closed or 'none'}",
        f"received {stats.messages_received} messages, {stats.message_bytes_received} bytes; "
        f"sent {stats.messages_sent} messages, {stats.message_bytes_sent} bytes",
    ]
    refused = ", ".join(f"{number} {reason}" for reason, number in sorted(stats.refused.items()))
    if refused:
        lines.append(f"answered without WebSocket: {refused}")
    return "\n".join(lines)
