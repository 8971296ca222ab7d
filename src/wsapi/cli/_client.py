"""Connect to a WebSocket server: send lines as text, show what is received.

At a terminal, lines are edited, and Ctrl-D ends the connection. Otherwise stdin is sent.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wsproto_fast import __version__, check_close
from wsproto_fast.redaction import redact_url

from . import COMMANDS, USAGE, Parser
from ._heads import masked_uri
from ._options import add_connection_arguments, add_uri_argument, connect_arguments, count, seconds
from ._terminal import CommandError, Status, is_terminal

if TYPE_CHECKING:
    from ._output import Format
    from ._session import Observer, Session

__all__ = ["add_client_arguments", "main", "run_client"]

DEFAULT_WAIT = 1.0


class _AddSource(argparse.Action):
    """Keeps messages and files in the order in which they are given."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        value: Any,
        option: str | None = None,
    ) -> None:
        sources = [
            *namespace.sources,
            ("--file" if self.dest == "file" else "--message", value),
        ]
        namespace.sources = sources


def _wait(text: str) -> float:
    if text in ("0", "0.0"):
        return 0.0
    if text.lower() in ("inf", "forever"):
        return float("inf")
    number = seconds(text)
    return float("inf") if number is None else number


def _close(text: str) -> tuple[int, str]:
    code, _, reason = text.partition(":")
    if not (code.isascii() and code.isdigit() and len(code) == 4):
        raise argparse.ArgumentTypeError(
            f"{text!r} isn't CODE or CODE:REASON with a code of four digits, such as 1001:bye"
        )
    try:
        check_close(int(code), reason)
    except Exception as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc
    return int(code), reason


def add_client_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the client can be told besides how to connect.

    Args:
        parser: Parser of a command.
    """
    parser.set_defaults(sources=[])
    group = parser.add_argument_group("what is sent")
    add = group.add_argument
    add(
        "-m",
        "--message",
        metavar="MESSAGE",
        action=_AddSource,
        help="send this, and don't read stdin; again for more",
    )
    add(
        "-f",
        "--file",
        metavar="PATH",
        action=_AddSource,
        help="send a file (- is stdin) as one message; again for more",
    )
    add("--whole", action="store_true", help="send all of stdin as one message, instead of lines")
    kinds = group.add_mutually_exclusive_group()
    kinds.add_argument("--text", action="store_true", help="send text (that is so without this)")
    kinds.add_argument("--binary", action="store_true", help="send binary messages")
    kinds.add_argument(
        "--hex", action="store_true", help="input is in hex; send what it stands for"
    )
    kinds.add_argument(
        "--base64", action="store_true", help="the same in Base64; show binary in it"
    )

    add = parser.add_argument_group("what is shown").add_argument
    add("-q", "--quiet", action="store_true", help="show nothing but payloads")
    add("--raw", action="store_true", help="show payloads as they are, with nothing in between")
    add("--json", action="store_true", help="show a line of JSON for each event")
    add(
        "-v",
        "--verbose",
        action="count",
        default=0,
        help="show requests and responses on stderr; twice for all frames",
    )

    add = parser.add_argument_group("the end").add_argument
    add(
        "-w",
        "--wait",
        metavar="SECONDS",
        type=_wait,
        help="wait for messages after the last one was sent (1; 0 at a terminal); inf for ever",
    )
    add("-n", "--count", metavar="N", type=count, help="end after N messages")
    add(
        "--close",
        metavar="CODE[:REASON]",
        type=_close,
        default=(1000, ""),
        help="close with this code (1000)",
    )


def _new_parser() -> Parser:
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
    add_client_arguments(parser)
    add_connection_arguments(parser)
    return parser


def main(arguments: list[str]) -> int:
    """Run the client.

    Args:
        arguments: Those of the command line.
    """
    options = _new_parser().parse_intermixed_args(arguments)
    if options.uri is None and options.unix is None:
        print(USAGE, end="")
        return Status.USAGE
    # With nothing else said, it is what `python -m websockets` is.
    compatible = len([text for text in arguments if text != "--insecure"]) == 1
    try:
        return run_client(options, compatible=compatible)
    except CommandError as exc:
        cause = exc.__cause__
        if not compatible or cause is None:
            raise
        shown = masked_uri(options.uri)
        text = str(cause).replace(redact_url(options.uri), shown)
        print(f"Failed to connect to {shown}: {text}.", flush=True)
        if exc.hint is not None:
            raise CommandError(Status.FAILURE, exc.message, exc.hint) from exc
        return Status.FAILURE


def run_client(
    options: argparse.Namespace,
    *,
    observer: Observer | None = None,
    compatible: bool = False,
) -> int:
    """Run the client.

    Args:
        options: What was parsed.
        observer: Told of what passes.
        compatible: Be like ``python -m websockets``.

    Raises:
        CommandError: If it fails.
    """
    # Not before they are needed: --help is quick.
    import asyncio

    from ._input import Decoder, check, messages
    from ._interactive import run_interactive
    from ._output import LineFormat, Output
    from ._session import Ending, Session, quiet_logging

    format = _format(options)
    encoding = "hex" if options.hex else "base64" if options.base64 else None
    decoder = Decoder(options.binary or encoding is not None, encoding)
    try:
        check(options.sources, decoder)
    except CommandError as exc:
        print(format.failed(exc), end="")
        raise
    arguments = connect_arguments(options)
    arguments["logger"] = quiet_logging(debug=options.verbose > 1)
    interactive = (
        is_terminal(sys.stdin)
        and is_terminal(sys.stdout)
        and isinstance(format, LineFormat)
        and not (options.sources or options.whole)
    )
    wait = options.wait
    if wait is None:
        wait = 0.0 if compatible or interactive else DEFAULT_WAIT
        if options.count is not None and not interactive:
            wait = float("inf")
    ending = Ending(options.close, wait, options.count)

    def new_session(write: Any) -> Session:
        return Session(
            options.uri,
            arguments,
            format,
            write,
            ending,
            verbose=options.verbose > 0,
            observer=observer,
            compatible=compatible,
        )

    if interactive:
        return run_interactive(new_session, decoder)
    source = messages(options.sources, options.whole, decoder)
    output = Output()
    try:
        return asyncio.run(new_session(output.write).run(source))
    finally:
        output.close()


def _format(options: argparse.Namespace) -> Format:
    from ._output import JsonFormat, LineFormat, PayloadFormat

    chosen: Sequence[bool] = (options.quiet, options.raw, options.json)
    if options.json and (options.quiet or options.raw):
        raise CommandError(Status.USAGE, "--json excludes --quiet and --raw")
    encoding = "base64" if options.base64 else None
    if options.json:
        return JsonFormat()
    if any(chosen):
        return PayloadFormat(encoding, raw=options.raw, terminal=is_terminal(sys.stdout))
    return LineFormat(encoding)
