"""Be the client, and write down what passes, for wsapi replay or other programs.

The file has a line of JSON for each event, with the seconds since the connection was opened.
"""

from __future__ import annotations

import argparse
import contextlib
import os

from ._client import add_client_arguments, run_client
from ._options import add_connection_arguments, add_uri_argument, target
from ._terminal import CommandError, Status

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``wsapi record``."""
    parser.usage = "wsapi record [options] URI -o FILE"
    add_uri_argument(parser)
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True, help="file to write; what it has is lost"
    )
    add_client_arguments(parser)
    add_connection_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Run the client, and record what passes."""
    from ._recording import Recorder

    target(options.uri)
    with contextlib.ExitStack() as stack:
        try:
            # Messages may hold secrets: a new file is the user's alone.
            file = stack.enter_context(
                open(options.output, "a", encoding="utf-8", opener=_open_private)
            )
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "strerror", None) or str(exc)
            raise CommandError(Status.FAILURE, f"can't write {options.output}: {reason}") from exc
        return run_client(options, observer=Recorder(file, options.uri))


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_APPEND, 0o600)
