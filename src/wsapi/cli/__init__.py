"""Command line: a client, and commands that are loaded when they are used.

A command is a module with ``add_arguments(parser)`` and ``run(options)``, which returns an exit
status, or raises `CommandError`. It has its line in ``COMMANDS``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from ._terminal import CommandError, Status, complain, use_safe_streams

__all__ = ["main"]

COMMANDS = {
    "serve": "run a server to try clients with: echo, broadcast, files, and a page",
    "record": "be the client, and write what passes to a file",
    "replay": "play a recording as the client or as the server, and compare",
    "bench": "measure how many messages a server sends back, and how long each takes",
    "check": "check whether a server does what the standard says",
    "run": "start a program with packages of this distribution in place of others",
}
"""Commands, and what each does. The module of ``name`` is ``_name``."""

USAGE = """\
usage: wsapi [options] URI
       wsapi COMMAND [options] ...
"""

PROGRAM = "wsapi"


class Parser(argparse.ArgumentParser):
    """Parses arguments of a command; raises `CommandError` when they aren't right."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse doesn't tell when it can't be written.
        (file or sys.stderr).write(message)

    def error(self, message: str) -> Any:
        raise CommandError(Status.USAGE, message, f"see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments; by default those of the process.

    Returns:
        Exit status.
    """
    if getattr(sys, "frozen", False):
        # Processes that `wsapi bench` starts run the same program. Elsewhere, this does nothing.
        import multiprocessing

        multiprocessing.freeze_support()
    arguments = list(sys.argv[1:] if argv is None else argv)
    use_safe_streams()
    try:
        try:
            status = _main(arguments)
        finally:
            sys.stdout.flush()
    except CommandError as exc:
        complain(exc.message, exc.hint)
        status = exc.status
    except SystemExit as exc:  # argparse, after --help
        status = exc.code if isinstance(exc.code, int) else Status.FAILURE
    except KeyboardInterrupt:
        status = Status.INTERRUPTED
    except BrokenPipeError:
        status = Status.BROKEN_PIPE
    except OSError as exc:
        complain(exc.strerror or str(exc))
        status = Status.FAILURE
    except Exception as exc:
        if os.environ.get("WSAPI_TRACEBACK"):
            raise
        complain(
            f"unexpected error: {type(exc).__name__}: {exc}",
            "this is a bug; WSAPI_TRACEBACK=1 shows where",
        )
        status = Status.FAILURE
    _give_up_output()
    return int(status)


def _main(arguments: list[str]) -> int:
    name = arguments[0] if arguments else None
    if name in COMMANDS:
        module = import_module(f"._{name}", __name__)
        parser = Parser(prog=f"{PROGRAM} {name}", description=module.__doc__)
        module.add_arguments(parser)
        rest: list[str] = []
        if hasattr(module, "split"):
            arguments, rest = module.split(arguments[1:])
        else:
            arguments = arguments[1:]
        options = parser.parse_intermixed_args(arguments)
        options.rest = rest
        status: int = module.run(options)
        return status
    from . import _client

    return _client.main(arguments)


def _give_up_output() -> None:
    """Have the interpreter not complain about output that nobody takes."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (OSError, ValueError):
            pass
