"""What fuzz targets of front-ends share: connections in memory, calls that may be cancelled."""

from __future__ import annotations

import asyncio
import atexit
import gc
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from wsapi.testing import Clock, Wire, _wires

TIME = 123_456.7  # when each input begins
WINDOW = 500  # bytes under way that a writer needn't wait for
HEAD_END = b"\r\n\r\n"


class OnPurpose(Exception):
    """What a callback raises, and is logged: no complaint."""


class Recorder(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not (record.exc_info and isinstance(record.exc_info[1], OnPurpose)):
            self.lines.append(self.format(record))


COMPLAINTS = Recorder()
LOGGER = logging.Logger("fuzz", logging.ERROR)
LOGGER.addHandler(COMPLAINTS)


class Tap(Wire):
    """A wire that keeps what is written, and what arrives.

    Args:
        split: Number of bytes that arrive at once; None for no limit.
        delay: Seconds that they are under way.
    """

    def __init__(self, split: int | None = None, delay: float = 0.0) -> None:
        super().__init__(split=split, delay=delay)
        self.written = bytearray()
        self.arrived = bytearray()
        self.tampered = False
        self.harm: tuple[int, Callable[[], object]] | None = None  # what happens at which byte

    def _take(self, *most: int) -> memoryview:
        data = super()._take(*most)
        self.arrived += data
        if self.harm is not None and len(self.arrived) >= self.harm[0]:
            asyncio.get_running_loop().call_soon(self.harm[1])
            self.harm = None
        return data

    def _give_back(self, data: memoryview) -> None:
        if data:
            del self.arrived[-len(data) :]
        super()._give_back(data)

    def _write(self, data: bytes) -> None:
        self.written += data
        super()._write(data)

    def tamper(self, data: bytes) -> None:
        """Have bytes arrive that the sender hasn't written."""
        self.tampered = True
        super()._write(data)
        self._changed()

    def lose(self) -> None:
        self.drop = True


def after_head(data: bytearray) -> bytes:
    """Return what follows the head of a request or response."""
    return bytes(data).partition(HEAD_END)[2]


def frame_of(first: int, payload: bytes, *, masked: bool) -> bytes:
    """Return a frame of at most 255 bytes of payload."""
    mask = 0x80 if masked else 0
    size = bytes([mask | len(payload)])
    if len(payload) > 125:
        size = bytes([mask | 126, 0, len(payload)])
    return bytes([first]) + size + bytes(4 if masked else 0) + payload


class Operation:
    """A call that may take a while, and be cancelled."""

    def __init__(self, name: str, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.name = name
        self.function = function
        self.cancelled = False
        self.task = asyncio.get_running_loop().create_task(self.run(), name=name)

    async def run(self) -> None:
        try:
            await self.function()
        except asyncio.CancelledError:
            assert self.cancelled, f"{self.name} is cancelled by nobody"

    def cancel(self) -> None:
        self.cancelled = True
        self.task.cancel()

    def over(self) -> bool:
        """Tell whether it has ended; raise what it raised."""
        if not self.task.done():
            return False
        if not self.task.cancelled():
            self.task.result()
        return True


async def check_nothing_is_left() -> None:
    loop: Any = asyncio.get_running_loop()
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left, f"tasks are left: {left}"
    # The timer that connections share stays until it is due.
    timers = [repr(timer) for timer in loop._scheduled if not timer.cancelled()]
    timers = [timer for timer in timers if "Timers" not in timer]
    assert not timers, f"timers are left: {timers}"


loops: list[Any] = []


def event_loop() -> Any:
    """Return an event loop; its making would cost more than most inputs."""
    if not loops:
        loops.append(asyncio.SelectorEventLoop())
        atexit.register(loops[0].close)
    return loops[0]


def run(function: Callable[[Clock], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine function in fake time, on wires that are soon full; nothing may be left.

    Args:
        function: What is run, with the clock.
    """

    async def main() -> None:
        async with Clock() as clock:
            await function(clock)
            await clock.settle()
            await check_nothing_is_left()

    loop = event_loop()
    loop.time = lambda: TIME  # type: ignore[method-assign] # the same whenever it runs
    contexts: list[Any] = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))
    COMPLAINTS.lines.clear()
    window, _wires.WINDOW = _wires.WINDOW, WINDOW
    gc.freeze()  # only what is made now is looked at when garbage is collected
    try:
        loop.run_until_complete(main())
        gc.collect()
    except BaseException:
        loops.clear()
        raise
    finally:
        gc.unfreeze()
        loop.__dict__.pop("time", None)
        _wires.WINDOW = window
    assert not contexts, contexts
    assert not COMPLAINTS.lines, COMPLAINTS.lines
