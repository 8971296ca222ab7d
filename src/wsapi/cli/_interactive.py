"""The interactive client: lines are sent as text, what is received is shown above the next one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wsproto_fast.exceptions import ConnectionClosed

from ._terminal import printable

if TYPE_CHECKING:
    from ..asyncio.client import ClientConnection

with contextlib.suppress(ImportError):  # not on Windows
    import readline  # noqa: F401 - input() edits lines then

__all__ = ["Client"]

PROMPT = "> "


class Client:
    """The interactive client: lines are read in the main thread, the connection is in another one.

    Args:
        uri: WebSocket URI.
        arguments: Keyword arguments of ``connect``.
    """

    def __init__(self, uri: str, arguments: Mapping[str, Any]) -> None:
        self.uri = uri
        self.arguments = arguments
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
        from ..asyncio.client import connect

        return await connect(self.uri, **self.arguments)

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
                    self.show(f"< {printable(message)}")
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


def _interrupt_main_thread() -> None:
    if os.name == "posix":  # pragma: no branch: on Windows
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)
    else:  # pragma: no cover: on Windows
        import _thread

        _thread.interrupt_main()
