"""Connect to a WebSocket server: send lines as text, show what is received."""

from __future__ import annotations

import argparse

from wsproto_fast import __version__
from wsproto_fast.exceptions import InvalidURI

from . import COMMANDS, USAGE, Parser
from ._interactive import Client
from ._options import add_connection_arguments, add_uri_argument, connect_arguments
from ._terminal import CommandError


def new_parser() -> Parser:
    """Return the parser of the client's arguments."""
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {does}" for name, does in COMMANDS.items())
    parser = Parser(
        prog="wsapi",
        usage=USAGE.removeprefix("usage: "),
        description=__doc__,
        epilog=f"commands (wsapi COMMAND --help tells more):\n{commands}",
    )
    add_uri_argument(parser, optional=True)
    parser.add_argument("--version", action="version", version=f"wsapi {__version__}")
    add_connection_arguments(parser)
    return parser


def main(arguments: list[str]) -> int:
    """Run the client.

    Args:
        arguments: Those of the command line.
    """
    options: argparse.Namespace = new_parser().parse_args(arguments)
    if options.uri is None and options.unix is None:
        print(USAGE, end="")
        return 2
    try:
        arguments_of_connect = connect_arguments(options)
    except CommandError as exc:
        if isinstance(exc.__cause__, (InvalidURI, ValueError)):
            print(f"Failed to connect to {options.uri}: {exc.__cause__}.", flush=True)
            return 1
        raise
    return Client(options.uri, arguments_of_connect).run()
