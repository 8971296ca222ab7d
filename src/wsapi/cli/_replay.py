"""Play what wsapi record has written: as the client to a server, or as the server to clients.

Each message is sent when its time has come, and not before what came before it in the recording.
What comes is compared with the recording; a difference is told, and gives exit status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import Sequence
from typing import Any

from ._options import (
    add_connection_arguments,
    add_uri_argument,
    connect_arguments,
    seconds,
)
from ._terminal import CommandError, Status, printable

__all__ = ["add_arguments", "run"]

MAX_SHOWN = 200
"""Characters of a message that a difference shows."""

MAX_DIFFERENCES = 10
"""Differences of a connection that are shown; all are counted."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``wsapi replay``."""
    parser.usage = (
        "wsapi replay [options] FILE [URI]\n       wsapi replay [options] FILE --serve PORT"
    )
    parser.add_argument("file", metavar="FILE", help="recording; - is stdin")
    add_uri_argument(parser, optional=True)
    group = parser.add_argument_group("replay")
    add = group.add_argument
    add("--serve", metavar="PORT", type=_port, help="play the server on this port; 0 for any")
    add("--host", metavar="HOST", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    add("--once", action="store_true", help="end after the first connection")
    add(
        "--speed",
        metavar="FACTOR",
        type=_speed,
        default=1.0,
        help="how many times faster (1); inf doesn't wait for times",
    )
    add("--max-gap", metavar="SECONDS", type=seconds, help="longest pause between two messages")
    add(
        "-w",
        "--wait",
        metavar="SECONDS",
        type=seconds,
        default=10,
        help="how long to wait for a message that is due (10)",
    )
    add(
        "--ignore",
        metavar="REGEX",
        action="append",
        default=[],
        type=_pattern,
        help="leave what matches out of text messages before they are compared; again for more",
    )
    add("-q", "--quiet", action="store_true", help="show nothing but differences")
    add_connection_arguments(parser)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:6]) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r} isn't a port")
    return int(text)


def _speed(text: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        factor = 0
    if not factor > 0:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number above 0")
    return factor


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as exc:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a regular expression: {exc}") from exc


def run(options: argparse.Namespace) -> int:
    """Play a recording."""
    from ._recording import Recording, read_recording

    recording: Recording
    if options.file == "-":
        recording = read_recording("stdin", sys.stdin or ())
    else:
        try:
            with open(options.file, encoding="utf-8") as file:
                recording = read_recording(options.file, file)
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "strerror", None) or str(exc)
            raise CommandError(Status.FAILURE, f"can't read {options.file}: {reason}") from exc
    if options.serve is not None:
        if options.uri is not None:
            raise CommandError(Status.USAGE, "a URI and --serve exclude each other")
        return asyncio.run(_serve(options, recording))
    if options.uri is None and options.unix is None:
        if recording.uri is None:
            raise CommandError(Status.USAGE, "the recording has no URI", "give one behind FILE")
        options.uri = recording.uri
    return asyncio.run(_connect(options, recording))


class Player:
    """Plays one side of a recording on a connection.

    Args:
        recording: The recording.
        as_client: Whether it is the client's side.
        options: What was parsed.
    """

    def __init__(self, recording: Any, as_client: bool, options: argparse.Namespace) -> None:
        self.recording = recording
        self.as_client = as_client
        self.speed: float = options.speed
        self.max_gap: float | None = options.max_gap
        self.wait: float | None = options.wait
        self.ignore: Sequence[re.Pattern[str]] = options.ignore
        self.differences: list[str] = []
        self.sent = 0
        self.matched = 0

    async def play(self, connection: Any) -> None:
        """Play it, and close the connection as it was closed.

        Args:
            connection: An open connection.
        """
        from wsproto_fast.exceptions import ConnectionClosed

        before = 0.0
        try:
            for number, step in enumerate(self.recording.steps, 1):
                if step.by_client == self.as_client:
                    await self._pause(step.at - before)
                    await connection.send(step.message)
                    self.sent += 1
                else:
                    await self._expect(connection, number, step.message, step.at - before)
                before = step.at
        except ConnectionClosed as exc:
            self._differ(f"the connection ended early: {exc}")
            return
        await self._end(connection, self.recording.closed_at - before)

    def _differ(self, text: str) -> None:
        self.differences.append(text)

    async def _pause(self, gap: float) -> None:
        if self.max_gap is not None:
            gap = min(gap, self.max_gap)
        await asyncio.sleep(gap / self.speed)

    async def _expect(
        self, connection: Any, number: int, expected: str | bytes, gap: float
    ) -> None:
        # As long as it took, and then some.
        wait = None if self.wait is None else self.wait + gap / self.speed
        try:
            async with asyncio.timeout(wait):
                message = await connection.recv()
        except TimeoutError:
            self._differ(f"message {number} didn't come: {_shown(expected)}")
            return
        if self._plain(message) == self._plain(expected):
            self.matched += 1
        else:
            self._differ(f"message {number} is {_shown(message)} instead of {_shown(expected)}")

    def _plain(self, message: str | bytes) -> str | bytes:
        if isinstance(message, str):
            for pattern in self.ignore:
                message = pattern.sub("", message)
        return message

    async def _end(self, connection: Any, gap: float) -> None:
        """Close the connection, or wait until it is closed, as it was."""
        from wsproto_fast.exceptions import ConnectionClosed

        by, code, reason = (
            self.recording.closed_by,
            self.recording.code,
            self.recording.reason,
        )
        if by == "nobody" and not self.as_client:
            await self._pause(gap)
            connection.transport.abort()
            return
        if by == ("client" if self.as_client else "server"):
            await self._pause(gap)
            with contextlib.suppress(TimeoutError, ConnectionClosed):
                # What is there already wasn't in the recording.
                async with asyncio.timeout(0):
                    self._differ(f"more came: {_shown(await connection.recv())}")
            await _close(connection, code, reason)
            return
        wait = None if self.wait is None else self.wait + gap / self.speed
        try:
            async with asyncio.timeout(wait):
                while True:
                    self._differ(f"more came: {_shown(await connection.recv())}")
        except TimeoutError:
            self._differ("the connection wasn't closed")
            await connection.close()
        except ConnectionClosed as exc:
            got = 1006 if exc.rcvd is None else exc.rcvd.code
            if got != code:
                self._differ(f"the connection was closed with {got} instead of {code}")

    def report(self) -> str:
        """Return what there is to tell."""
        lines = [f"difference: {text}" for text in self.differences[:MAX_DIFFERENCES]]
        if len(self.differences) > MAX_DIFFERENCES:
            lines.append(f"... and {len(self.differences) - MAX_DIFFERENCES} more differences")
        return "\n".join(lines)

    def summary(self) -> str:
        """Return counts."""
        return (
            f"sent {self.sent}, received {self.matched} as expected, "
            f"{len(self.differences)} differences"
        )


async def _close(connection: Any, code: int, reason: str) -> None:
    from wsproto_fast import check_close

    try:
        check_close(code, reason)
    except Exception:  # 1005, or one that can't be sent
        code, reason = 1000, ""
    closing = asyncio.ensure_future(connection.close(code, reason))
    with contextlib.suppress(Exception):
        while True:
            await connection.recv()  # a Close frame may wait behind what wasn't read
    await closing


def _shown(message: str | bytes) -> str:
    text = repr(message) if isinstance(message, str) else f"(binary) {message[:MAX_SHOWN].hex()}"
    text = printable(text)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _tell(player: Player, quiet: bool, prefix: str = "") -> None:
    report = player.report()
    if report:
        print(report, flush=True)
    if not quiet:
        print(f"{prefix}{player.summary()}", flush=True)


async def _connect(options: argparse.Namespace, recording: Any) -> int:
    from ._session import quiet_logging, reach

    if recording.subprotocol is not None and not options.subprotocols:
        options.subprotocols = [recording.subprotocol]
    arguments = connect_arguments(options)
    player = Player(recording, True, options)
    connection = await reach(options.uri, arguments, logger=quiet_logging())
    try:
        if connection.subprotocol != recording.subprotocol:
            player.differences.append(
                f"the subprotocol is {connection.subprotocol} instead of {recording.subprotocol}"
            )
        await player.play(connection)
    finally:
        await _close(connection, 1000, "")
    _tell(player, options.quiet)
    return Status.FAILURE if player.differences else Status.OK


async def _serve(options: argparse.Namespace, recording: Any) -> int:
    from ..asyncio.server import ServerConnection, serve
    from ._serve import listening_error, quiet_server_logger

    ended = asyncio.Event()
    failed = False
    number = 0

    async def handle(connection: ServerConnection) -> None:
        nonlocal failed, number
        number += 1
        prefix = f"connection {number}: "
        player = Player(recording, False, options)
        try:
            await player.play(connection)
        finally:
            failed = failed or bool(player.differences)
            _tell(player, options.quiet, prefix)
            if options.once:
                ended.set()

    serving = serve(
        handle,
        options.host,
        options.serve,
        subprotocols=None if recording.subprotocol is None else [recording.subprotocol],
        select_subprotocol=lambda _, offered: (
            recording.subprotocol if recording.subprotocol in offered else None
        ),
        max_size=options.max_size,
        compression=None if options.no_compression else "deflate",
        logger=quiet_server_logger(0),
    )
    try:
        server = await serving
    except OSError as exc:
        raise listening_error(exc, f"{options.host}:{options.serve}") from exc
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        print(f"ws://{f'[{host}]' if ':' in host else host}:{port}/", flush=True)
        for name in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):
                asyncio.get_running_loop().add_signal_handler(name, ended.set)
        await ended.wait()
        await server.drain(timeout=2, spread=0)
    return Status.FAILURE if failed else Status.OK
