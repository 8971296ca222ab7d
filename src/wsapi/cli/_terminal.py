"""What commands tell their user, and how: exit statuses, errors in one line, safe characters."""

from __future__ import annotations

import enum
import os
import re
import sys
from typing import TextIO

__all__ = [
    "CommandError",
    "Status",
    "colours",
    "complain",
    "is_terminal",
    "optional",
    "printable",
    "use_safe_streams",
]

_unsafe = re.compile(r"[^ -~]")
_unsafe_in_text = re.compile(r"[^\t\n -~]")


class Status(enum.IntEnum):
    """Exit statuses, by what happened; ``docs/guides/command-line.md`` has the table."""

    OK = 0
    FAILURE = 1
    """Something that has no status of its own: a file that can't be read, input that is wrong."""
    USAGE = 2
    """The arguments aren't right."""
    UNREACHABLE = 3
    """There is no connection: no such host, refused, a proxy that fails."""
    TLS = 4
    """There is no TLS: a certificate that isn't trusted, or a server that doesn't speak it."""
    REFUSED = 5
    """The server answered the opening handshake with another HTTP status than 101."""
    PROTOCOL = 6
    """The connection was lost without a closing handshake, or one side broke the protocol."""
    TIMEOUT = 7
    """Something didn't happen in time."""
    CLOSED = 8
    """The server closed the connection with another code than 1000, 1001, or none."""
    INTERRUPTED = 130
    """Ctrl-C."""
    BROKEN_PIPE = 141
    """Who reads the output has gone."""


class CommandError(Exception):
    """What ends a command: it becomes one line on stderr, and an exit status.

    Args:
        status: Exit status.
        message: What happened, in one line.
        hint: What one may do about it.
        kind: A word for programs that read JSON; by default the name of the status.
        **details: What else such programs may want to know.
    """

    def __init__(
        self,
        status: Status,
        message: str,
        hint: str | None = None,
        kind: str | None = None,
        **details: object,
    ) -> None:
        super().__init__(status, message, hint, kind)
        self.status = status
        self.message = message
        self.hint = hint
        self.kind = status.name.lower() if kind is None else kind
        self.details = details

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message} ({self.hint})"


def printable(text: str, *, lines: bool = False) -> str:
    """Escape what could control a terminal.

    Args:
        text: Any text, perhaps a peer's.
        lines: Keep tabs and the ends of lines.
    """
    unsafe = _unsafe_in_text if lines else _unsafe
    return unsafe.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    return character if character.isprintable() else ascii(character)[1:-1]


def complain(message: str, hint: str | None = None) -> None:
    """Print an error as one line on stderr.

    Args:
        message: What happened.
        hint: What one may do about it.
    """
    line = f"wsapi: {message}" if hint is None else f"wsapi: {message} ({hint})"
    if sys.stderr is not None:
        try:
            print(printable(line), file=sys.stderr, flush=True)
        except (OSError, ValueError):
            pass  # nobody can be told


def use_safe_streams() -> None:
    """Have stdout and stderr be there, and take every character.

    A process may be started without them. What an encoding lacks is escaped.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether somebody reads or writes ``stream`` at a terminal."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # it is closed
        return False


def colours(stream: TextIO | None) -> bool:
    """Tell whether colours are welcome on ``stream``: a terminal, neither dumb nor NO_COLOR."""
    return (
        is_terminal(stream)
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM", "") != "dumb"
    )


def optional(name: str) -> bool:
    """Tell whether a library of the extra ``cli`` is there.

    Args:
        name: ``rich`` or ``prompt_toolkit``.
    """
    try:
        __import__(name)
    except ImportError:
        return False
    return True
