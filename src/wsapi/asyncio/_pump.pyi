# Private: for the modules beside it.

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from types import TracebackType
from typing import Final, Literal, Self, final, overload

from wsproto_fast import Listener, PreparedMessage, Protocol
from wsproto_fast.exceptions import ConcurrencyError
from wsproto_fast.typing import Data

from .connection import Connection

NOTHING: Final[int]
DRAIN: Final[int]
SLOW_PATH: Final[int]

@final
class Pump:
    descriptor: int
    receiver: str | None
    streaming: bool
    reading_paused: bool
    writing_paused: bool
    sending_fragments: bool
    opening: bool
    timer_time: float

    def __init__(
        self,
        connection: Connection,
        protocol: Protocol,
        loop: asyncio.AbstractEventLoop,
        done: asyncio.Future[None],
    ) -> None: ...
    def connection_made(self, transport: asyncio.Transport) -> None: ...
    def connection_lost(self) -> None: ...
    def update(self) -> None: ...

    # Receiving

    def buffer_updated(self, nbytes: int) -> None: ...
    def listen(
        self,
        on_message: Callable[[Data], object] | None,
        on_frame: Callable[[int, memoryview, bool], object] | None,
        listener: Listener | None,
    ) -> None: ...
    @overload
    def take(self, decode: Literal[True]) -> str | None: ...
    @overload
    def take(self, decode: Literal[False]) -> bytes | None: ...
    @overload
    def take(self, decode: bool | None = None) -> Data | None: ...
    @overload
    def take_fragment(self, decode: Literal[True]) -> tuple[str, bool] | None: ...
    @overload
    def take_fragment(self, decode: Literal[False]) -> tuple[bytes, bool] | None: ...
    @overload
    def take_fragment(self, decode: bool | None) -> tuple[Data, bool] | None: ...
    def concurrent_receiver(self, name: str) -> ConcurrencyError: ...
    def wait(self, name: str) -> Awaitable[None]: ...
    def wake(self) -> None: ...

    # What a task needs of the thing it waits on.

    _asyncio_future_blocking: bool
    @property
    def _loop(self) -> asyncio.AbstractEventLoop: ...
    def __await__(self) -> Self: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> Self: ...
    def throw(
        self,
        typ: type[BaseException] | BaseException,
        value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None: ...
    def close(self) -> None: ...
    def add_done_callback(
        self, callback: Callable[[asyncio.Future[None]], object], *, context: Context
    ) -> None: ...
    def result(self) -> None: ...
    def cancel(self, msg: str | None = None) -> bool: ...

    # Sending

    def send(self, message: object, text: bool | None, compress: bool | None) -> int: ...
    def send_nowait(self, message: object, text: bool | None, compress: bool | None) -> bool: ...
    def flush(self) -> None: ...
    def broadcast(
        self, message: PreparedMessage, compress: bool | None, limit: int | None
    ) -> bool: ...
