"""The thread for calls that may block for ever."""

from __future__ import annotations

import asyncio
import threading

import pytest

from wsapi.cli._worker import Worker


def test_results() -> None:
    async def main() -> None:
        worker = Worker("wsapi-test")
        try:
            assert await worker.call(divmod, 7, 2) == (3, 1)
            with pytest.raises(ZeroDivisionError):
                await worker.call(divmod, 1, 0)
            thread = await worker.call(threading.current_thread)
            assert thread.daemon
            assert thread.name == "wsapi-test"
        finally:
            worker.stop()
        await asyncio.to_thread(thread.join)

    asyncio.run(main())


def test_call_that_nobody_waits_for_any_more() -> None:
    """What it returns is lost, while the event loop runs and after it."""
    worker = Worker("wsapi-test")
    events = [threading.Event(), threading.Event()]

    async def main() -> threading.Thread:
        thread = await worker.call(threading.current_thread)
        for event in events:
            call = asyncio.ensure_future(worker.call(event.wait))
            await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        events[0].set()
        return thread

    thread = asyncio.run(main())
    events[1].set()
    worker.stop()
    thread.join(20)
    assert not thread.is_alive()
