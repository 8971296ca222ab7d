"""Start a Python program (a command, a file, or -m module) with packages of this distribution in
place of those named, in its child processes, too:

  wsapi run --as websockets -- uvicorn app:app
"""

from __future__ import annotations

import argparse

from .._run import parse_aliases
from .._run import run as run_as
from ._terminal import CommandError, Status


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the options, and the command."""
    if "--" in arguments:
        place = arguments.index("--")
        return arguments[:place], arguments[place + 1 :]
    if arguments[:1] and arguments[0].startswith("--as="):
        return arguments[:1], arguments[1:]
    return arguments[:2], arguments[2:]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be said before the command."""
    parser.usage = "wsapi run --as websockets,wsproto -- COMMAND [ARGUMENT ...]"
    parser.add_argument(
        "--as",
        dest="aliases",
        metavar="NAMES",
        required=True,
        help="packages to replace, separated by commas: websockets, wsproto",
    )


def run(options: argparse.Namespace) -> int:
    """Run the command in place of this process."""
    command: list[str] = options.rest
    if not command or command == ["-m"]:
        raise CommandError(Status.USAGE, "run needs a command", "see wsapi run --help")
    try:
        return run_as(parse_aliases(options.aliases), command)
    except (FileNotFoundError, ValueError) as exc:
        raise CommandError(Status.USAGE, str(exc), "see wsapi run --help") from exc
