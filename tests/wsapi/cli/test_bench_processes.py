"""wsapi bench in several processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

import pytest

from tests.wsapi.cli.bench_helpers import TIMEOUT, parse
from wsapi.cli import _bench
from wsapi.cli._bench_load import Plan, Result
from wsapi.cli._bench_processes import Remote, _work


def in_a_process(plan: Plan, use: Callable[[Remote], Awaitable[None]]) -> int | None:
    """Have a load in a process of its own; return its exit status."""
    uri = "ws://127.0.0.1:9/"

    async def run() -> int | None:
        load = Remote(uri, {}, plan, parse(uri))
        try:
            await use(load)
        finally:
            await load.close()
        return load.process.exitcode

    return asyncio.run(run())


def test_process_that_is_killed() -> None:
    """Whoever asks it is told, whether that was before or after."""

    async def use(load: Remote) -> None:
        await load.open()
        os.kill(load.process.pid or 0, signal.SIGTERM)
        for _ in range(2):
            with pytest.raises(ConnectionError, match="a process of the load has ended"):
                await load.run(lambda share, count: None)

    assert in_a_process(Plan(connections=1), use) == -signal.SIGTERM


def test_process_that_ends_right_after_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are heard of before whoever asked goes on: the next question has an answer, too."""

    class Ended:
        pid = exitcode = 0

        def __init__(self, target: object, args: tuple[Any, ...]) -> None:
            self.pipe = args[0]

        def start(self) -> None:
            pipe = Connection(os.dup(self.pipe.fileno()))  # the caller closes that one
            threading.Thread(target=self.work, args=(pipe,)).start()

        def work(self, pipe: Connection) -> None:
            with pipe:
                assert pipe.recv() == "open"
                pipe.send(("openings", _bench.Openings(opened=1)))

        def join(self, timeout: float) -> None:
            pass

        def is_alive(self) -> bool:
            return False

    async def use(load: Remote) -> None:
        asked = asyncio.ensure_future(load.open())
        await asyncio.sleep(0)
        load._reader.join()
        assert (await asked).opened == 1
        async with asyncio.timeout(TIMEOUT):
            for _ in range(2):
                with pytest.raises(ConnectionError, match="a process of the load has ended"):
                    await load.run(lambda share, count: None)

    context = SimpleNamespace(Pipe=multiprocessing.Pipe, Process=Ended)
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: context)
    assert in_a_process(Plan(connections=1), use) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_while_a_process_starts() -> None:
    """It reaches all processes at the terminal; this one hasn't even begun with its program."""

    async def use(load: Remote) -> None:
        os.kill(load.process.pid or 0, signal.SIGINT)
        assert (await load.open()).opened == 0

    handler = signal.getsignal(signal.SIGINT)
    assert in_a_process(Plan(connections=1), use) == 0
    assert signal.getsignal(signal.SIGINT) is handler


def test_process_that_another_thread_starts() -> None:
    async def use(load: Remote) -> None:
        assert (await load.open()).opened == 0

    with ThreadPoolExecutor() as executor:
        assert executor.submit(in_a_process, Plan(connections=1), use).result() == 0


def test_question_that_is_given_up() -> None:
    """The next one doesn't get its answer."""

    async def use(load: Remote) -> None:
        asked = asyncio.ensure_future(load.open())
        await asyncio.sleep(0)
        asked.cancel()
        result = await load.run(lambda share, count: None)
        assert isinstance(result, Result)

    assert in_a_process(Plan(connections=1), use) == 0


def test_process_that_is_killed_when_nobody_waits() -> None:
    async def use(load: Remote) -> None:
        asked = asyncio.ensure_future(load.open())
        await asyncio.sleep(0)
        asked.cancel()
        os.kill(load.process.pid or 0, signal.SIGTERM)
        with pytest.raises(ConnectionError, match="a process of the load has ended"):
            await load.run(lambda share, count: None)

    assert in_a_process(Plan(connections=1), use) == -signal.SIGTERM


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_process_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsapi.cli._bench_processes.ENDING", 0.1)

    async def use(load: Remote) -> None:
        os.kill(load.process.pid or 0, signal.SIGSTOP)

    assert in_a_process(Plan(connections=1), use) == -signal.SIGKILL


def test_process_that_fails() -> None:
    async def use(load: Remote) -> None:
        await load.open()
        with pytest.raises(RuntimeError, match=r"^ProcessLookupError: "):
            await load.run(lambda share, count: None)

    assert in_a_process(Plan(connections=1, pids=(999_999_999,)), use) == 0


def test_process_without_its_parent() -> None:
    """It ends, too, when nobody is there any more to tell it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (theirs, "ws://127.0.0.1:9/", {}, Plan(connections=1), None)
    process = context.Process(target=_work, args=arguments, daemon=True)
    process.start()
    theirs.close()
    ours.send("open")
    assert ours.recv()[0] == "openings"
    ours.close()
    process.join(TIMEOUT)
    assert process.exitcode == 0


def test_errors_of_other_processes() -> None:
    from wsapi.cli._bench_processes import _portable

    class Odd(Exception):
        pass

    assert _portable(None) is None
    assert type(_portable(ConnectionRefusedError(111, "refused"))) is ConnectionRefusedError
    assert isinstance(_portable(Odd("local")), OSError)
