"""A load in this process, or in processes of its own, which are told what to do through pipes."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, Final, TypeAlias

from ._bench_load import Load, Openings, Plan, Result, new_loop
from ._options import tls_context

__all__ = ["Local", "Progress", "Remote"]

ENDING: Final = 10.0  # seconds for a process to end, after which it is killed

Progress: TypeAlias = "Callable[[float, int], object]"


class Local:
    """A load in this process.

    Args:
        uri: URI of the server.
        arguments: Other arguments of ``connect``.
        plan: What to do.
    """

    def __init__(self, uri: str, arguments: dict[str, Any], plan: Plan) -> None:
        self.load = Load(uri, arguments, plan)
        self.open = self.load.open
        self.run = self.load.run
        self.stop = self.load.stop

    async def close(self) -> None:
        """Close the connections."""
        await self.load.close()


class Remote:
    """A load in a process of its own; what it raises is raised here.

    Args:
        uri: URI of the server.
        arguments: Other arguments of ``connect``.
        plan: What to do.
        options: What was parsed: a process makes its own configuration of TLS.
    """

    def __init__(
        self, uri: str, arguments: dict[str, Any], plan: Plan, options: argparse.Namespace
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        sent = {name: value for name, value in arguments.items() if name != "ssl"}
        tls = options if "ssl" in arguments else None
        self.process = context.Process(target=_work, args=(theirs, uri, sent, plan, tls))
        self.process.daemon = True
        with _unheard():
            self.process.start()
        theirs.close()
        self._loop = asyncio.get_running_loop()
        self._asked: deque[asyncio.Future[Any]] = deque()  # each question has an answer, in order
        self._failure: BaseException | None = None
        self._progress: Progress = lambda share, count: None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                kind, value = self.pipe.recv()
            except (EOFError, OSError):
                kind, value = "failed", ConnectionError("a process of the load has ended")
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                self._loop.call_soon_threadsafe(self._take, kind, value)
            if kind == "failed":
                return

    def _take(self, kind: str, value: Any) -> None:
        if kind == "progress":
            self._progress(*value)
        elif kind == "failed":
            # The last that is heard of it: whoever asks is told, now or later.
            self._failure = value
            for answer in self._asked:
                if not answer.done():
                    answer.set_exception(value)
        else:
            answer = self._asked.popleft()
            if not answer.done():  # nobody waits for it any more
                answer.set_result(value)

    async def _ask(self, what: str) -> Any:
        if self._failure is not None:
            raise self._failure
        self._tell(what)
        answer = self._loop.create_future()
        self._asked.append(answer)
        return await answer

    def _tell(self, what: str) -> None:
        with contextlib.suppress(OSError):
            self.pipe.send(what)

    async def open(self) -> Openings:
        """Open the connections."""
        openings: Openings = await self._ask("open")
        return openings

    async def run(self, progress: Progress) -> Result:
        """Send messages, and return what came of it."""
        self._progress = progress
        result: Result = await self._ask("run")
        return result

    def stop(self) -> None:
        """End it before its time."""
        self._tell("stop")

    async def close(self) -> None:
        """Close the connections, and end the process."""
        self._tell("close")
        await asyncio.to_thread(self.process.join, ENDING)
        if self.process.is_alive():
            self.process.kill()
        await asyncio.to_thread(self.process.join, ENDING)
        self.pipe.close()


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Have processes that start know of no Ctrl-C; later they say so themselves."""
    try:
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _work(
    pipe: Connection,
    uri: str,
    arguments: dict[str, Any],
    plan: Plan,
    tls: argparse.Namespace | None,
) -> None:
    """Do in another process what it is told."""
    # Ctrl-C reaches all processes at the terminal. The first one says what to do about it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if tls is not None:
        arguments["ssl"] = tls_context(tls)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        try:
            runner.run(_obey(pipe, uri, arguments, plan))
        except Exception as exc:
            with contextlib.suppress(OSError):
                pipe.send(("failed", RuntimeError(f"{type(exc).__name__}: {exc}")))


async def _obey(pipe: Connection, uri: str, arguments: dict[str, Any], plan: Plan) -> None:
    load = Load(uri, arguments, plan)
    loop = asyncio.get_running_loop()
    orders: asyncio.Queue[str] = asyncio.Queue()

    def listen() -> None:
        order = ""
        while order != "close":
            try:
                order = pipe.recv()
            except (EOFError, OSError):
                order = "close"
            with contextlib.suppress(RuntimeError):
                if order in ("stop", "close"):
                    loop.call_soon_threadsafe(load.stop)
                loop.call_soon_threadsafe(orders.put_nowait, order)

    def progress(share: float, count: int) -> None:
        with contextlib.suppress(OSError):
            pipe.send(("progress", (share, count)))

    threading.Thread(target=listen, daemon=True).start()
    while (order := await orders.get()) != "close":
        if order == "open":
            openings = await load.open()
            openings.exception = _portable(openings.exception)
            pipe.send(("openings", openings))
        elif order == "run":
            pipe.send(("result", await load.run(progress)))
    await load.close()


def _portable(exc: Exception | None) -> Exception | None:
    """Return an exception that can be sent to another process."""
    import pickle

    try:
        pickle.loads(pickle.dumps(exc))
    except Exception:
        return OSError(str(exc))
    return exc
