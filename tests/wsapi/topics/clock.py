"""Event loops whose time passes when there is nothing else to do, for tests of timers."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

from tests.wsapi.helpers import checking_errors

# Turns of the loop in a test, at most: time that is made up can't tell that something hangs.
MOST_TURNS = 1_000_000


class _Selector(selectors.DefaultSelector):
    """Doesn't wait, but has the loop's clock go on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns += 1
        assert self.turns < MOST_TURNS, "the test doesn't end"
        ready = super().select(0)
        if not ready and timeout is not None and timeout > 0:
            self.now += timeout
        # Nothing can happen any more, unless another thread or a descriptor makes it.
        assert ready or timeout is not None, "everything waits, and nothing is scheduled"
        return ready


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """An event loop on which an hour takes no time."""

    def __init__(self) -> None:
        self._fake = _Selector()
        super().__init__(self._fake)

    def time(self) -> float:
        return self._fake.now


def fake_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a coroutine test on such a loop; fail it if it leaves tasks or logs errors."""

    async def checked(*args: Any, **kwargs: Any) -> None:
        await test(*args, **kwargs)
        leaked = asyncio.all_tasks() - {asyncio.current_task()}
        if leaked:
            _, leaked = await asyncio.wait(leaked, timeout=1)
        assert not leaked, "tasks were left behind"

    @functools.wraps(test)
    def synchronous(*args: Any, **kwargs: Any) -> None:
        with checking_errors():
            with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
                runner.run(checked(*args, **kwargs))

    return synchronous
