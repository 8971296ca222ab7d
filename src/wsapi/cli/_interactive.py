"""The interactive client: lines are sent, what is received is shown above the one being typed.

prompt_toolkit edits lines if it is there, and else ``input()``, with readline where Python has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from wsproto_fast.exceptions import ConnectionClosed

from ._input import Decoder
from ._session import PATIENCE, Session
from ._terminal import CommandError, Status, colours, optional

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

__all__ = ["PROMPT", "LineClient", "NewSession", "run_interactive"]

PROMPT = "> "

T = TypeVar("T")

NewSession: TypeAlias = Callable[[Callable[[str | bytes], Awaitable[None]]], Session]
"""Makes a session from what writes for it."""


def run_interactive(new_session: NewSession, decoder: Decoder) -> int:
    """Run the client at a terminal.

    Args:
        new_session: Makes its session.
        decoder: Makes messages from lines.

    Returns:
        Exit status.

    Raises:
        CommandError: If connecting fails.
    """
    # What isn't in the encoding of the terminal is a line that isn't sent, and not the end.
    assert isinstance(sys.stdin, io.TextIOWrapper)  # it is a terminal
    sys.stdin.reconfigure(errors="surrogateescape")
    if os.environ.get("TERM", "") != "dumb" and optional("prompt_toolkit"):
        return asyncio.run(_converse(new_session, decoder))
    return LineClient(new_session, decoder).run()


def _message(line: str, decoder: Decoder, show: Callable[[str], None]) -> str | bytes | None:
    try:
        return decoder.decode(line.encode("utf-8", "surrogateescape"), "the line")
    except CommandError as exc:
        show(f"wsapi: {exc}\n")
        return None


def _painter() -> Callable[[str], str]:
    """Return a function that colours lines, if that is possible and welcome."""
    if not (colours(sys.stdout) and optional("rich")):
        return str
    from rich.color import ColorSystem
    from rich.style import Style

    styles = {"<": Style.parse("bold cyan"), "C": Style.parse("dim"), "w": Style.parse("red")}

    def paint(line: str) -> str:
        style = styles.get(line[:1])
        if style is None:
            return line
        text, end = (line[:1], line[1:]) if line.startswith("<") else (line.rstrip("\n"), "\n")
        return style.render(text, color_system=ColorSystem.STANDARD) + end

    return paint


# ---------------------------------------------------------------------- prompt_toolkit


async def _converse(new_session: NewSession, decoder: Decoder) -> int:
    from prompt_toolkit.patch_stdout import patch_stdout

    paint = _painter()

    def show(line: str) -> None:
        sys.stdout.write(paint(line))
        sys.stdout.flush()

    async def write(text: str | bytes) -> None:
        assert isinstance(text, str)
        show(text)

    session = new_session(write)
    await session.open()
    await session.announce()
    receiver = asyncio.ensure_future(session.receive())
    with patch_stdout(raw=True):
        try:
            await _send_lines(session, decoder, receiver, show)
        except (EOFError, ConnectionClosed):
            pass
    if not receiver.done() and session.ending.wait:
        await asyncio.wait({receiver}, timeout=session.ending.wait)
    await session.close()
    await receiver
    return await session.finish()


async def _send_lines(
    session: Session,
    decoder: Decoder,
    receiver: asyncio.Future[None],
    show: Callable[[str], None],
) -> None:
    prompt = _prompt_session()
    while not receiver.done():
        line: asyncio.Future[Any] = asyncio.ensure_future(_ask(prompt))
        await asyncio.wait({line, receiver}, return_when=asyncio.FIRST_COMPLETED)
        if not line.done():
            prompt.app.erase_when_done = True  # what was being typed is of no use any more
            line.cancel()
            with contextlib.suppress(asyncio.CancelledError, EOFError):
                await line
            return
        message = _message(line.result(), decoder, show)
        if message is not None:
            await session.send(message)


async def _ask(prompt: PromptSession[str]) -> str:
    try:
        return await prompt.prompt_async(PROMPT)
    except KeyboardInterrupt:
        raise EOFError from None  # out of a task, it would end the event loop


def _prompt_session() -> PromptSession[str]:
    # Nothing is shown below the line, so that it needn't ask the terminal where the cursor is; not
    # all answer.
    os.environ.setdefault("PROMPT_TOOLKIT_NO_CPR", "1")
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.output import ColorDepth

    path = _history_file()
    return PromptSession(
        history=FileHistory(path) if path else InMemoryHistory(),
        color_depth=None if colours(sys.stdout) else ColorDepth.MONOCHROME,
        enable_suspend=True,
    )


def _history_file() -> str | None:
    """Return the file that keeps what was typed, if there shall be one; it is the user's alone."""
    path = os.environ.get("WSAPI_HISTORY")
    if path:
        try:
            Path(path).touch(0o600)
        except OSError:
            return None
    return path


# ---------------------------------------------------------------------- input()


class LineClient:
    """Reads lines in the main thread; the connection is in another one.

    Args:
        new_session: Makes its session.
        decoder: Makes messages from lines.
    """

    def __init__(self, new_session: NewSession, decoder: Decoder) -> None:
        self.session = new_session(self.write)
        self.decoder = decoder
        self.paint = _painter()
        self.lock = threading.Lock()
        self.reading = False  # the main thread waits for a line, or is about to
        self.closed = False

    def run(self) -> int:
        """Connect, and talk until one side closes the connection; return the exit status.

        Raises:
            CommandError: If connecting fails.
        """
        _load_readline()
        # Where the shell has it ignored, too: input() couldn't be interrupted.
        handler = signal.signal(signal.SIGINT, self.interrupted)
        self.loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        thread.start()
        try:
            return self.talk()
        except KeyboardInterrupt:
            return Status.INTERRUPTED
        finally:
            signal.signal(signal.SIGINT, handler)
            self.call(self.end()).result()
            self.loop.call_soon_threadsafe(self.loop.stop)
            thread.join()
            self.loop.close()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine where the connection is."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def talk(self) -> int:
        """Connect, send lines, and close the connection; return the exit status."""
        self.call(self.session.open()).result()
        self.call(self.session.announce()).result()
        receiver = self.call(self.receive())
        with contextlib.suppress(KeyboardInterrupt, EOFError, ConnectionClosed):
            self.send_lines(lambda message: self.call(self.session.send(message)).result())
        with contextlib.suppress(TimeoutError):
            receiver.result(self.session.ending.wait)
        self.call(self.session.close()).result()
        receiver.result()
        return self.call(self.session.finish()).result()

    async def end(self) -> None:
        """End whatever still runs."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=PATIENCE)
        if self.session.connection is not None:
            self.session.connection.transport.abort()
            await self.session.connection.wait_closed()

    def send_lines(self, send: Callable[[str | bytes], object]) -> None:
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
                line = input(PROMPT)
            except (EOFError, KeyboardInterrupt):
                self._leave_prompt()
                raise
            finally:
                self.reading = False
            message = _message(line, self.decoder, self.show)
            if message is not None:
                send(message)

    def _leave_prompt(self) -> None:
        """Begin a new line, or erase what isn't of use any more."""
        sys.stdout.write("\r\x1b[K" if self.closed else "\n")
        sys.stdout.flush()

    async def receive(self) -> None:
        """Show what is received; have the main thread know when there won't be more."""
        try:
            await self.session.receive()
        finally:
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

    async def write(self, text: str | bytes) -> None:
        """Show a line for the session."""
        assert isinstance(text, str)
        self.show(text)

    def show(self, line: str) -> None:
        """Print a line above the one that is being typed."""
        line = self.paint(line)
        # The main thread prints its prompt before this line, or after it, and never into it.
        with self.lock:
            if self.reading and line:
                editor = sys.modules.get("readline")
                typed = editor.get_line_buffer() if editor is not None else ""
                line = f"\r\x1b[K{line}{PROMPT}{typed}"
            # One string: print() writes the end of a line separately.
            sys.stdout.write(line)
            sys.stdout.flush()


def _load_readline() -> None:
    """Have input() edit lines, where Python can, with the history of earlier times if asked to."""
    try:
        import readline
    except ImportError:  # on Windows
        return
    path = _history_file()
    if path:
        import atexit

        with contextlib.suppress(OSError):
            readline.read_history_file(path)
            atexit.register(_save_history, path)


def _save_history(path: str) -> None:
    import readline

    with contextlib.suppress(OSError):
        readline.write_history_file(path)


def _interrupt_main_thread() -> None:
    if os.name == "posix":  # pragma: no branch: on Windows
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)
    else:  # pragma: no cover: on Windows
        import _thread

        _thread.interrupt_main()
