"""A thread with an event loop for those who have none."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from time import monotonic

import pytest

from tests.wsapi.sync_helpers import PATIENCE
from tests.wsapi.topics.memory_bus import MemoryBroker
from tests.wsapi.topics.processes import Process
from wsapi.topics._thread import LoopThread
from wsapi.topics.exceptions import BusUnavailable
from wsapi.topics.positions import Position


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def test_results_and_errors() -> None:
    thread = LoopThread()

    async def fail() -> None:
        raise ZeroDivisionError

    assert thread.submit(double(2)).result(PATIENCE) == 4
    with pytest.raises(ZeroDivisionError):
        thread.submit(fail()).result(PATIENCE)
    thread.stop()
    thread.stop()


def test_stop_cancels_what_runs() -> None:
    thread = LoopThread("a name")
    started = threading.Event()

    async def run() -> None:
        started.set()
        await asyncio.sleep(3600)

    future = thread.submit(run())
    assert started.wait(PATIENCE)
    assert "a name" in [thread.name for thread in threading.enumerate()]
    late = thread.submit(run())
    thread.stop()
    for stopped in (future, late):
        with pytest.raises(concurrent.futures.CancelledError):
            stopped.result(PATIENCE)
    assert "a name" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(RuntimeError, match="stopped"):
        thread.submit(double(1))


def test_stopped_by_itself() -> None:
    thread = LoopThread()

    async def stop() -> None:
        thread.stop()

    thread.submit(stop()).result(PATIENCE)
    thread.stop()


def test_core_under_a_lock() -> None:
    """Topics of threads: calls into the core are made under a lock, wherever they come from."""
    lock = threading.RLock()

    def call(function: object, *args: object) -> None:
        assert callable(function)
        with lock:
            function(*args)

    thread = LoopThread()
    broker = MemoryBroker()
    process = Process(broker, call=call, time=monotonic)
    process.time = monotonic
    thread.submit(process.runner.open()).result(PATIENCE)
    with lock:
        reader = process.read("a")
    thread.submit(reader.known.wait()).result(PATIENCE)
    position = thread.submit(process.runner.publish("a", "1")).result(PATIENCE)
    assert position == Position("e1", 1)
    got = threading.Event()

    async def wait() -> None:
        while not reader.got:
            await asyncio.sleep(0.001)
        got.set()

    thread.submit(wait())
    assert got.wait(PATIENCE)
    assert reader.got == ["1"]
    thread.submit(process.runner.close()).result(PATIENCE)
    with lock:
        late = process.read("b")
    assert late.error is not None
    thread.stop()


def test_a_forked_process_has_no_such_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    thread = LoopThread()
    try:
        with monkeypatch.context() as patch:
            patch.setattr("wsapi.topics._thread.os.getpid", lambda: 0)
            with pytest.raises(BusUnavailable, match="fork"):
                thread.submit(asyncio.sleep(0))
    finally:
        thread.stop()


def test_calls_later() -> None:
    thread = LoopThread()
    called: concurrent.futures.Future[tuple[str, int]] = concurrent.futures.Future()
    thread.call_later(0.001, lambda: called.set_result((threading.current_thread().name, 1)))
    name, _ = called.result(PATIENCE)
    assert name != threading.current_thread().name
    never = list[int]()
    thread.call_later(3600, never.append, 1)
    thread.stop()
    thread.call_later(0, never.append, 2)  # there is no loop any more
    assert never == []
