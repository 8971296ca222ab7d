"""What is to be sent: from arguments, from files, from stdin."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import select
import stat
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import BinaryIO, NamedTuple

from ._terminal import CommandError, Status
from ._worker import Worker

__all__ = ["Decoder", "check", "messages", "read_file"]

CHUNK = 2**16


class Decoder(NamedTuple):
    """Makes messages from bytes as a user gives them.

    Args:
        binary: Whether messages are binary.
        encoding: ``hex`` or ``base64`` if that is what is given; None for the payload itself.
    """

    binary: bool
    encoding: str | None

    def decode(self, data: bytes, where: str) -> str | bytes:
        """Return a message.

        Args:
            data: What was given.
            where: Where it was, for errors.

        Raises:
            CommandError: If it isn't what it should be.
        """
        if self.encoding is not None:
            try:
                if self.encoding == "hex":
                    # fromhex() takes ASCII white space between bytes.
                    data = bytes.fromhex(data.decode("ascii"))
                else:
                    data = base64.b64decode(b"".join(data.split()), validate=True)
            except (ValueError, binascii.Error) as exc:
                raise CommandError(
                    Status.FAILURE, f"{where} isn't {self.encoding}", None, "input"
                ) from exc
        if self.binary:
            return data
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise CommandError(
                Status.FAILURE, f"{where} isn't UTF-8", "--binary sends any bytes", "input"
            ) from exc


def read_file(path: str) -> bytes:
    """Read a file.

    Raises:
        CommandError: If it can't be read.
    """
    with _opened(path) as file:
        return file.read()


@contextlib.contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as file:
            yield file
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise CommandError(Status.FAILURE, f"can't read {path}: {reason}", None, "input") from exc


def check(sources: Sequence[tuple[str, str]], decoder: Decoder) -> None:
    """Find out, before there is a connection, what couldn't be sent on it.

    Args:
        sources: Messages among the arguments, each an option and its value.
        decoder: Makes messages from bytes.

    Raises:
        CommandError: If a message isn't what it should be, or a file can't be read.
    """
    for option, value in sources:
        if option == "--message":
            decoder.decode(os.fsencode(value), "--message")
        elif value != "-" and not _is_pipe(value):
            with _opened(value):
                pass


def _is_pipe(path: str) -> bool:
    """Tell whether opening a file may wait, and be for whoever reads it alone."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


async def messages(
    sources: Sequence[tuple[str, str]], whole: bool, decoder: Decoder
) -> AsyncIterator[str | bytes]:
    """Yield what is to be sent.

    Args:
        sources: Messages among the arguments, each an option and its value; without any, stdin is
            read.
        whole: Whether all of stdin is one message instead of each line.
        decoder: Makes messages from bytes.

    Raises:
        CommandError: If something can't be read, or isn't what it should be.
    """
    worker = Worker("wsapi-input")
    try:
        for option, value in sources:
            if option == "--message":
                yield decoder.decode(os.fsencode(value), "--message")
            elif value == "-":
                yield decoder.decode(await _read_all(worker), "stdin")
            else:
                yield decoder.decode(await worker.call(read_file, value), value)
        if sources:
            return
        if whole:
            yield decoder.decode(await _read_all(worker), "stdin")
            return
        number = 0
        async for line in _lines(worker):
            number += 1
            yield decoder.decode(line, f"line {number} of stdin")
    finally:
        worker.stop()


def _read(descriptor: int) -> bytes:
    while True:
        try:
            return os.read(descriptor, CHUNK)
        except BlockingIOError:  # another process of this terminal or pipe wants it so
            select.select([descriptor], [], [])


async def _chunks(worker: Worker) -> AsyncIterator[bytes]:
    if sys.stdin is None:  # closed when the process began
        return
    descriptor = sys.stdin.fileno()
    while True:
        try:
            # Not through sys.stdin, whose lock would be held when the interpreter ends.
            chunk = await worker.call(_read, descriptor)
        except OSError as exc:
            raise CommandError(
                Status.FAILURE, f"can't read stdin: {exc.strerror}", None, "input"
            ) from exc
        if not chunk:
            return
        yield chunk


async def _read_all(worker: Worker) -> bytes:
    return b"".join([chunk async for chunk in _chunks(worker)])


async def _lines(worker: Worker) -> AsyncIterator[bytes]:
    begun: list[bytes] = []  # a line whose end isn't there yet
    async for chunk in _chunks(worker):
        first, *others = chunk.split(b"\n")
        begun.append(first)
        for part in others:
            yield _line(begun)
            begun = [part]
    if any(begun):
        yield _line(begun)


def _line(parts: list[bytes]) -> bytes:
    return b"".join(parts).removesuffix(b"\r")
