"""Command line: an interactive client, and ``run`` for programs that can't be edited."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import ssl
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wsproto_fast import __version__
from wsproto_fast.exceptions import ConnectionClosed

if TYPE_CHECKING:
    from .asyncio.client import ClientConnection

with contextlib.suppress(ImportError):  # not on Windows
    import readline  # noqa: F401 - input() edits lines then

__all__ = ["main"]

PROMPT = "> "

USAGE = """\
usage: wsapi [--help] [--insecure] [--version] [<uri>]
       wsapi run --as websockets,wsproto -- <command> [<argument> ...]
"""

HELP = f"""{USAGE}
Connect to a WebSocket server: send lines as text, show what is received.
--insecure doesn't check the server's certificate.

run starts a Python program (a command, a file, or -m module) with packages of this distribution
in place of those named, in its child processes, too:
wsapi run --as websockets -- uvicorn app:app
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments; by default those of the process.

    Returns:
        Exit status.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["run"]:
            return _run(arguments[1:])
        parser = _Parser(add_help=False)
        parser.add_argument("uri", nargs="?")
        parser.add_argument("--help", action="store_true")
        parser.add_argument("--insecure", action="store_true")
        parser.add_argument("--version", action="store_true")
        options = parser.parse_args(arguments)
    except _WrongArguments as exc:
        print(f"{USAGE}wsapi: {exc}", file=sys.stderr)
        return 2
    if options.help:
        print(HELP, end="")
        return 0
    if options.version:
        print(f"wsapi {__version__}")
        return 0
    if options.uri is None:
        print(USAGE, end="")
        return 2
    return _Client(options.uri, options.insecure).run()


class _WrongArguments(Exception):
    """Raised when the arguments aren't right."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise _WrongArguments(message)


def _run(arguments: list[str]) -> int:
    from ._run import parse_aliases, run

    options: list[str]
    if "--" in arguments:
        split = arguments.index("--")
        options, command = arguments[:split], arguments[split + 1 :]
    else:
        options, command = arguments[:2], arguments[2:]
    parser = _Parser(add_help=False)
    parser.add_argument("--as", dest="aliases", required=True)
    names = parser.parse_args(options).aliases
    if not command or command == ["-m"]:
        raise _WrongArguments("run needs a command")
    try:
        return run(parse_aliases(names), command)
    except (FileNotFoundError, ValueError) as exc:
        raise _WrongArguments(str(exc)) from exc


class _Client:
    """The interactive client: lines are read in the main thread, the connection is in another one.

    Args:
        uri: WebSocket URI.
        insecure: Don't check the server's certificate.
    """

    def __init__(self, uri: str, insecure: bool) -> None:
        self.uri = uri
        self.insecure = insecure
        self.interactive = sys.stdin.isatty() and sys.stdout.isatty()
        self.lock = threading.Lock()
        self.reading = False  # the main thread waits for a line, or is about to
        self.closed = False

    def run(self) -> int:
        """Connect, and talk until one side closes the connection; return the exit status."""
        # Where the shell has it ignored, too: input() couldn't be interrupted.
        handler = signal.signal(signal.SIGINT, self.interrupted)
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()

        def wait(coroutine: Any) -> Any:
            return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

        try:
            try:
                connection = wait(self.connect())
            except Exception as exc:
                print(f"Failed to connect to {self.uri}: {exc}.")
                return 1
            print(f"Connected to {self.uri}.", flush=True)
            receiver = asyncio.run_coroutine_threadsafe(self.receive(connection), loop)
            try:
                self.send_lines(lambda line: wait(connection.send(line)))
            except (KeyboardInterrupt, EOFError, ConnectionClosed):
                pass
            wait(connection.close())
            receiver.result()
            close = connection.protocol.close_exc.rcvd or connection.protocol.close_exc.sent
            print(f"Connection closed: {close or '1006 (abnormal closure [internal])'}.")
            return 0
        finally:
            signal.signal(signal.SIGINT, handler)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def connect(self) -> ClientConnection:
        from .asyncio.client import connect

        options: dict[str, Any] = {}
        if self.insecure and self.uri.lower().startswith("wss:"):
            options["ssl"] = ssl.create_default_context()
            options["ssl"].check_hostname = False
            options["ssl"].verify_mode = ssl.CERT_NONE
        return await connect(self.uri, **options)

    def send_lines(self, send: Any) -> None:
        """Send each line that is typed.

        Raises:
            EOFError, KeyboardInterrupt: When there won't be more.
            ConnectionClosed: When the connection is closed.
        """
        while True:
            with self.lock:
                if self.closed:
                    return
                self.reading = True
            try:
                line = input(PROMPT if self.interactive else "")
            finally:
                self.reading = False
            send(line)

    async def receive(self, connection: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                if isinstance(message, str):
                    self.show(f"< {_printable(message)}")
                else:
                    self.show(f"< (binary) {message.hex()}")
        # Have input() return, or not begin.
        with self.lock:
            self.closed = True
        while self.reading:
            _interrupt_main_thread()
            # It is lost on an input() that has begun and doesn't wait yet.
            await asyncio.sleep(0.05)

    def interrupted(self, _number: int, _frame: object) -> None:
        """Raise KeyboardInterrupt, unless the main thread has left input() already."""
        if self.closed and not self.reading:
            return
        self.reading = False
        raise KeyboardInterrupt

    def show(self, line: str) -> None:
        """Print a line above the one that is being typed."""
        # The main thread prints its prompt before this line, or after it, and never into it.
        with self.lock:
            if self.interactive and self.reading:
                editor = sys.modules.get("readline")
                typed = editor.get_line_buffer() if editor is not None else ""
                line = f"\r\x1b[K{line}\n{PROMPT}{typed}"
            else:
                line += "\n"
            # One string: print() writes the end of a line separately.
            sys.stdout.write(line)
            sys.stdout.flush()


def _printable(text: str) -> str:
    """Escape what could control a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _interrupt_main_thread() -> None:
    if os.name == "posix":  # pragma: no branch: on Windows
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)
    else:  # pragma: no cover: on Windows
        import _thread

        _thread.interrupt_main()
